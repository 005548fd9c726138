//! One domain from start to end.

use crate::console::{Console, ConsoleConfig};
use crate::crash::Crash;
use crate::devices::{ConsoleDevice, Devices};
use crate::event::{ConsoleEvent, Control, Event, MachineEvent};
use crate::meter::{Meter, VcpuStats};
use crate::signals::SignalWatch;
use crate::vcpu;
use donjon_engine::{Engine, EngineError, Vcpu};
use donjon_machine::boot::{BootError, BootSource};
use donjon_machine::{Machine, MachineError, MachineSpec, Outside};
use donjon_virtio::console::ConsolePort;
use donjon_x86::CpuState;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

mod moving;
#[cfg(test)]
mod tests;

pub(crate) use moving::Move;
pub use moving::{Handle, MoveError, Moved};

/// What a domain is and does.
pub struct DomainSpec {
    /// Its machine.
    pub machine: MachineSpec,
    /// What it boots.
    pub boot: BootSource,
    /// What it boots after a reset, if that may be something else by then: a kernel that the guest has installed.
    pub boot_again: Option<Box<dyn Fn() -> Option<BootSource> + Send + Sync>>,
    /// End when the guest resets the machine, instead of booting it again.
    pub no_reboot: bool,
    /// Its devices.
    pub devices: Arc<Devices>,
    /// The one of them that the console is, if it is not the serial port.
    pub console: Option<Arc<ConsoleDevice>>,
    /// How others reach it while it runs.
    pub handle: Arc<Handle>,
}

/// How a domain ended.
#[derive(Debug)]
pub enum Outcome {
    /// The guest turned the machine off.
    PoweredOff,
    /// The guest reset the machine, and [`DomainSpec::no_reboot`] was set.
    Reset,
    /// The user left the console.
    Left,
    /// Nobody read the console's output any more.
    ConsoleClosed(io::Error),
    /// A signal told this process to end.
    Signal(i32),
    /// The guest crashed its processor.
    TripleFault(Crash),
    /// The domain could not go on, through no fault of the guest's.
    Failed(Failure),
}

/// A defect in an engine or a device.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The engine cannot execute what the guest wants.
    #[error("vCPU {vcpu}{}: {error}", at(state))]
    Engine {
        /// Which one.
        vcpu: usize,
        /// Why.
        error: EngineError,
        /// Where it was, if it had started.
        state: Option<Box<CpuState>>,
    },
    /// A vCPU's thread panicked.
    #[error("vCPU {vcpu}: internal error: {message}")]
    Panic {
        /// Which one.
        vcpu: usize,
        /// What the panic said.
        message: String,
    },
}

fn at(state: &Option<Box<CpuState>>) -> String {
    state
        .as_ref()
        .map_or(String::new(), |s| format!(" at rip {:#x}", s.rip))
}

/// What is left of a domain.
#[derive(Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// What each vCPU did, over all its reboots.
    pub vcpus: Vec<VcpuStats>,
    /// Time from the first boot to the end.
    pub wall: Duration,
}

/// Why a domain did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The machine cannot be built.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The kernel cannot be loaded.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The engine cannot make the CPUs.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The console cannot be connected.
    #[error("cannot connect the console: {0}")]
    Console(io::Error),
    /// The host has no more threads.
    #[error("cannot start a vCPU's thread: {0}; end other programs, or raise the limit: ulimit -u")]
    Thread(io::Error),
}

/// Runs a domain to its end on the calling thread. `meter` must have room for its vCPUs.
pub fn run(
    spec: &DomainSpec,
    engine: Arc<dyn Engine>,
    console: ConsoleConfig,
    meter: &Arc<Meter>,
) -> Result<Report, StartError> {
    let (sender, events) = channel();
    let mut supervisor = Supervisor {
        spec,
        engine,
        meter,
        sender: sender.clone(),
        events,
    };
    let _signals = SignalWatch::start(sender.clone()).map_err(StartError::Console)?;
    let mut console = Console::new(console, sender);
    let start = Instant::now();
    // Built before the terminal is taken over, so that most errors find it as it was.
    let built = supervisor.build(0, &console)?;
    console.attach_user().map_err(StartError::Console)?;
    let mut incarnation = built.power_on(spec, &console, meter)?;
    spec.handle.connect(Some(supervisor.sender.clone()));
    let mut reboots = 0;
    let outcome = loop {
        match supervisor.supervise(incarnation, &console) {
            Outcome::Reset if !spec.no_reboot => {}
            outcome => break outcome,
        }
        reboots += 1;
        tracing::info!(reboots, "the guest reset the machine");
        incarnation = supervisor
            .build(reboots, &console)?
            .power_on(spec, &console, meter)?;
    };
    spec.handle.connect(None);
    Ok(Report {
        outcome,
        vcpus: meter.totals(),
        wall: start.elapsed(),
    })
}

/// How long output may take to leave once the user wants to be gone.
const PATIENCE: Duration = Duration::from_millis(200);

/// One machine, from power-on to power-off or reset, before its vCPUs run …
struct Built {
    machine: Arc<Machine>,
    control: Arc<Control>,
    vcpus: Vec<Box<dyn Vcpu>>,
}

/// … and when they do.
struct Incarnation {
    machine: Arc<Machine>,
    control: Arc<Control>,
    threads: Vec<VcpuThread>,
}

/// A vCPU's thread, which gives the vCPU back.
type VcpuThread = JoinHandle<Option<Box<dyn Vcpu>>>;

/// Starts the vCPUs; all, or none.
fn start_vcpus(
    control: &Arc<Control>,
    vcpus: Vec<Box<dyn Vcpu>>,
    meter: &Arc<Meter>,
) -> Result<Vec<VcpuThread>, StartError> {
    meter.begin(&control.attentions);
    let mut threads = vec![];
    for (index, vcpu) in vcpus.into_iter().enumerate() {
        match vcpu::spawn(control.clone(), vcpu, index, meter.clone()) {
            Ok(thread) => threads.push(thread),
            Err(e) => {
                control.stop();
                threads.into_iter().for_each(|t| drop(t.join()));
                return Err(StartError::Thread(e));
            }
        }
    }
    Ok(threads)
}

impl Built {
    /// Starts the vCPUs.
    fn power_on(
        self,
        spec: &DomainSpec,
        console: &Console,
        meter: &Arc<Meter>,
    ) -> Result<Incarnation, StartError> {
        let Self {
            machine,
            control,
            vcpus,
        } = self;
        match spec.console.as_ref().and_then(|c| c.port()) {
            Some(port) => {
                port.connect(console.writer()).map_err(StartError::Console)?;
                resize(&port, console);
                console.connect(port);
            }
            None => console.connect(machine.com1().clone()),
        }
        let threads = start_vcpus(&control, vcpus, meter)?;
        Ok(Incarnation {
            machine,
            control,
            threads,
        })
    }
}

struct Supervisor<'a> {
    spec: &'a DomainSpec,
    /// Of the present machine, and the next ones.
    engine: Arc<dyn Engine>,
    meter: &'a Arc<Meter>,
    sender: Sender<Event>,
    events: Receiver<Event>,
}

impl Supervisor<'_> {
    /// Builds the machine and loads the kernel.
    fn build(&self, generation: u64, console: &Console) -> Result<Built, StartError> {
        let control = Arc::new(Control::new(
            generation,
            self.spec.machine.cpus,
            self.sender.clone(),
        ));
        let attentions = control.attentions.clone();
        let ram = self.spec.machine.ram(&self.spec.devices.files())?;
        let machine = self.spec.devices.build(&ram, |devices| {
            let outside = Outside {
                attentions,
                power: control.clone(),
                console: console.writer(),
                devices,
            };
            Machine::new(&self.spec.machine, ram.clone(), outside)
        })?;
        let again = self.spec.boot_again.as_ref().filter(|_| generation > 0);
        let again = again.and_then(|boot| boot());
        let states = machine.load(again.as_ref().unwrap_or(&self.spec.boot))?;
        let vcpus = moving::settle(&*self.engine, &machine, &states)?;
        Ok(Built {
            machine,
            control,
            vcpus,
        })
    }

    /// Waits until the machine ends or is to be ended, and ends it.
    fn supervise(&mut self, mut incarnation: Incarnation, console: &Console) -> Outcome {
        let control = incarnation.control.clone();
        let (mut outcome, mut alive) = (None, incarnation.threads.len());
        // A thread that did not start says nothing, but why it did not was reported.
        while alive > 0 || outcome.is_none() {
            match self.next(None) {
                Some(Event::VcpuDone(g)) if g == control.generation => alive = alive.saturating_sub(1),
                Some(Event::Move(wish)) => {
                    self.engine = moving::carry_out(wish, &mut incarnation, self.engine.clone(), self.meter);
                    // Those that were there before have said, or will, that they are done.
                    alive += incarnation.threads.len();
                }
                Some(Event::Resized) => {
                    if let Some(port) = self.spec.console.as_ref().and_then(|c| c.port()) {
                        resize(&port, console);
                    }
                }
                Some(event) => {
                    if let Some(news) = news(event, control.generation) {
                        control.stop();
                        outcome = Some(more_telling(outcome, news));
                    }
                }
                None => {}
            }
        }
        console.disconnect();
        let Incarnation { machine, threads, .. } = incarnation;
        // What they have to say they have said.
        threads.into_iter().for_each(|t| drop(t.join()));
        let outcome = outcome.expect("a vCPU thread ends only after something was reported");
        let outcome = self.last_words(&machine, control.generation, outcome);
        self.spec.devices.powered_off();
        outcome
    }

    /// Waits until all the guest wrote is out: for as long as it takes, unless the user wants to be gone.
    fn last_words(&self, machine: &Machine, generation: u64, mut outcome: Outcome) -> Outcome {
        const STEP: Duration = Duration::from_millis(20);
        let mut give_up = user_wants_out(&outcome).then(|| Instant::now() + PATIENCE);
        let console = self.spec.console.as_ref().and_then(|c| c.port());
        let all_out = || machine.com1().flush(STEP) && console.as_ref().is_none_or(|c| c.flush(STEP));
        while !all_out() && give_up.is_none_or(|at| Instant::now() < at) {
            while let Some(event) = self.next(Some(Instant::now())) {
                if let Some(news) = news(event, generation).filter(user_wants_out) {
                    outcome = more_telling(Some(outcome), news);
                    give_up = Some(Instant::now());
                }
            }
        }
        outcome
    }

    /// The next event; `None` at the deadline.
    fn next(&self, deadline: Option<Instant>) -> Option<Event> {
        // It cannot be disconnected: `self` holds a sender.
        match deadline {
            None => self.events.recv().ok(),
            Some(at) => self
                .events
                .recv_timeout(at.saturating_duration_since(Instant::now()))
                .ok(),
        }
    }
}

/// The guest's console gets the size of the terminal.
fn resize(port: &ConsolePort, console: &Console) {
    if let Some((columns, rows)) = console.size() {
        port.resize(columns, rows);
    }
}

fn user_wants_out(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Left | Outcome::Signal(_) | Outcome::ConsoleClosed(_)
    )
}

/// The first reason to end a machine counts, except that a reset is not what somebody asked for who wants to
/// leave.
fn more_telling(first: Option<Outcome>, second: Outcome) -> Outcome {
    match first {
        None => second,
        Some(Outcome::Reset) if user_wants_out(&second) => second,
        Some(first) => first,
    }
}

/// What an event means for the machine of this generation.
fn news(event: Event, generation: u64) -> Option<Outcome> {
    Some(match event {
        Event::Machine(g, event) if g == generation => outcome_of(event),
        Event::Machine(..) | Event::VcpuDone(_) | Event::Resized | Event::Move(_) => return None,
        Event::Console(ConsoleEvent::Left) => Outcome::Left,
        Event::Console(ConsoleEvent::OutputClosed(e)) => Outcome::ConsoleClosed(e),
        Event::Signal(n) => Outcome::Signal(n),
    })
}

fn outcome_of(event: MachineEvent) -> Outcome {
    match event {
        MachineEvent::PowerOff => Outcome::PoweredOff,
        MachineEvent::Reset => Outcome::Reset,
        MachineEvent::TripleFault { vcpu, state } => Outcome::TripleFault(Crash { vcpu, state }),
        MachineEvent::Engine { vcpu, error, state } => {
            Outcome::Failed(Failure::Engine { vcpu, error, state })
        }
        MachineEvent::Panic { vcpu, message } => Outcome::Failed(Failure::Panic { vcpu, message }),
    }
}
