//! What the vCPUs of a domain do, for whoever wants to know, while it runs and afterwards.
//!
//! A vCPU tells whenever its engine returns, which costs the guest nothing. Who reads makes the engines return
//! first, by the same kick that stops them, so that what it reads is not old even if a guest never halts.

use donjon_engine::{Attention, Statistics};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long a vCPU may take to tell; what it told before is shown after that.
const PATIENCE: Duration = Duration::from_millis(100);

/// What a vCPU did.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct VcpuStats {
    /// What its engine counted.
    pub engine: Statistics,
    /// Time it was running, as opposed to halted.
    pub busy: Duration,
}

impl VcpuStats {
    /// What several did.
    pub fn sum(all: &[Self]) -> Self {
        let sum = |a: Self, b: &Self| Self {
            engine: a.engine.and(&b.engine),
            busy: a.busy + b.busy,
        };
        match all.split_first() {
            Some((first, rest)) => rest.iter().fold(*first, sum),
            None => Self::default(),
        }
    }
}

/// The figures of one domain.
pub struct Meter {
    vcpus: Vec<Mutex<Slot>>,
    attentions: Mutex<Vec<Arc<Attention>>>,
    start: Instant,
}

#[derive(Default)]
struct Slot {
    /// Before the machine was last reset, and since.
    earlier: Option<VcpuStats>,
    now: Option<VcpuStats>,
    /// Times it told.
    told: u64,
}

impl Slot {
    fn total(&self) -> VcpuStats {
        match (&self.earlier, &self.now) {
            (Some(earlier), Some(now)) => VcpuStats {
                engine: now.engine.after(&earlier.engine),
                busy: now.busy + earlier.busy,
            },
            (one, other) => one.or(*other).unwrap_or_default(),
        }
    }
}

impl Meter {
    /// For a domain of so many vCPUs, which starts now.
    pub fn new(cpus: u32) -> Self {
        Self {
            vcpus: (0..cpus).map(|_| Mutex::default()).collect(),
            attentions: Mutex::default(),
            start: Instant::now(),
        }
    }

    /// Time since the domain started.
    pub fn uptime(&self) -> Duration {
        self.start.elapsed()
    }

    /// What each vCPU did up to now, over all resets of the machine.
    pub fn read(&self) -> Vec<VcpuStats> {
        let attentions = lock(&self.attentions).clone();
        let told = |(n, _): (usize, &Arc<Attention>)| lock(&self.vcpus[n]).told;
        let before: Vec<_> = attentions.iter().enumerate().map(told).collect();
        attentions.iter().for_each(|a| a.raise(Attention::KICK));
        let end = Instant::now() + PATIENCE;
        let silent = |(n, b): (usize, &u64)| lock(&self.vcpus[n]).told == *b;
        while before.iter().enumerate().any(silent) && Instant::now() < end {
            std::thread::sleep(Duration::from_micros(200));
        }
        self.totals()
    }

    /// As [`Meter::read`], as of when each vCPU last told.
    pub(crate) fn totals(&self) -> Vec<VcpuStats> {
        self.vcpus.iter().map(|slot| lock(slot).total()).collect()
    }

    /// The vCPUs of a new machine, with these attention words, begin to run.
    pub(crate) fn begin(&self, attentions: &[Arc<Attention>]) {
        for slot in &self.vcpus {
            let mut slot = lock(slot);
            if slot.now.is_some() {
                slot.earlier = Some(slot.total());
                slot.now = None;
            }
        }
        *lock(&self.attentions) = attentions.to_vec();
    }

    /// What vCPU `index` of the present machine did.
    pub(crate) fn tell(&self, index: usize, stats: VcpuStats) {
        let mut slot = lock(&self.vcpus[index]);
        slot.now = Some(stats);
        slot.told += 1;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(instructions: u64, busy: u64) -> VcpuStats {
        VcpuStats {
            engine: Statistics {
                interpreted: instructions,
                translated: Some(0),
                ..Statistics::default()
            },
            busy: Duration::from_secs(busy),
        }
    }

    #[test]
    fn a_reset_machine_begins_at_nothing_and_the_sum_goes_on() {
        let meter = Meter::new(1);
        meter.tell(0, stats(5, 1));
        meter.begin(&[]);
        assert_eq!(meter.read(), [stats(5, 1)]);
        meter.tell(0, stats(2, 1));
        assert_eq!(meter.read(), [stats(7, 2)]);
    }

    #[test]
    fn a_reader_asks_and_waits() {
        let meter = Meter::new(2);
        let attentions = [Arc::<Attention>::default(), Arc::default()];
        meter.begin(&attentions);
        std::thread::scope(|s| {
            for (n, attention) in attentions.iter().enumerate() {
                let meter = &meter;
                s.spawn(move || {
                    attention.wait(Attention::KICK, None);
                    meter.tell(n, stats(n as u64 + 1, 1));
                });
            }
            let read = meter.read();
            assert_eq!(read, [stats(1, 1), stats(2, 1)]);
            let sum = VcpuStats::sum(&read);
            assert_eq!((sum.engine.instructions(), sum.busy.as_secs()), (Some(3), 2));
        });
    }

    #[test]
    fn one_that_does_not_answer_is_not_waited_for_long() {
        let meter = Meter::new(1);
        meter.begin(&[Arc::default()]);
        let start = Instant::now();
        assert_eq!(meter.read(), [VcpuStats::default()]);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
