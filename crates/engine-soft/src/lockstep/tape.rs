//! What comes from outside a processor, recorded from the leader and played to the follower: answers of
//! devices and the local APIC, the time, random numbers. What goes out is compared instead of performed
//! twice.

use donjon_engine::{CpuIo, Gp, LocalApic};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// What was accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    PortIn,
    PortOut,
    MmioRead,
    MmioWrite,
    PageRead,
    PageWrite,
    MsrRead,
    MsrWrite,
    Cr8,
    SetCr8,
    Acknowledge,
    Init,
    Time,
    Random,
}

/// One access: where, how wide, and the value that went out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Access {
    what: What,
    place: u64,
    size: u8,
    value: u64,
}

fn access(what: What, place: u64, size: u8, value: u64) -> Access {
    Access {
        what,
        place,
        size,
        value,
    }
}

#[derive(Default)]
struct Inner {
    /// Accesses and what came back.
    events: VecDeque<(Access, Option<u64>)>,
    /// Outside of rounds the processors are only looked at.
    running: bool,
    wrong: Option<String>,
}

/// What the leader did that the follower has yet to do.
#[derive(Default)]
pub(crate) struct Tape(Mutex<Inner>);

impl Tape {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Begins a round.
    pub fn begin(&self) {
        let mut inner = self.lock();
        inner.events.clear();
        inner.running = true;
        inner.wrong = None;
    }

    /// Ends a round; what the follower did differently.
    pub fn end(&self) -> Option<String> {
        let mut inner = self.lock();
        inner.running = false;
        let missed = inner.events.front().map(|(a, _)| *a);
        let missed = missed.map(|a| format!("the leader's {a:x?} was not made by the follower"));
        inner.wrong.take().or(missed)
    }
}

/// A processor's place at the tape.
#[derive(Clone)]
pub(crate) struct Deck {
    tape: Arc<Tape>,
    records: bool,
}

impl Deck {
    /// The leader's.
    pub fn recorder(tape: &Arc<Tape>) -> Self {
        let tape = tape.clone();
        Self { tape, records: true }
    }

    /// The follower's.
    pub fn player(tape: &Arc<Tape>) -> Self {
        let tape = tape.clone();
        Self { tape, records: false }
    }

    fn pass(&self, access: Access, perform: impl FnOnce() -> Option<u64>) -> Option<u64> {
        if self.records {
            let answer = perform();
            let mut inner = self.tape.lock();
            if inner.running {
                inner.events.push_back((access, answer));
            }
            return answer;
        }
        let mut inner = self.tape.lock();
        if !inner.running {
            return None;
        }
        let expected = inner.events.pop_front();
        if expected.is_none_or(|(a, _)| a != access) && inner.wrong.is_none() {
            let leader = expected.map_or("nothing".into(), |(a, _)| format!("{a:x?}"));
            inner.wrong = Some(format!("the leader made {leader}, the follower {access:x?}"));
        }
        expected.and_then(|(_, answer)| answer)
    }

    /// Nanoseconds since power-on.
    pub fn time(&self, now: impl FnOnce() -> u64) -> u64 {
        self.pass(access(What::Time, 0, 0, 0), || Some(now()))
            .unwrap_or(0)
    }

    /// A random number.
    pub fn random(&self, draw: impl FnOnce() -> Option<u64>) -> Option<u64> {
        self.pass(access(What::Random, 0, 0, 0), draw)
    }
}

/// The board behind a deck.
pub(crate) struct Io {
    pub deck: Deck,
    pub board: Arc<dyn CpuIo>,
}

impl CpuIo for Io {
    fn port_in(&self, port: u16, size: u8) -> u32 {
        let a = access(What::PortIn, port as u64, size, 0);
        let v = self.deck.pass(a, || Some(self.board.port_in(port, size) as u64));
        v.map_or(u32::MAX, |v| v as u32)
    }

    fn port_out(&self, port: u16, size: u8, value: u32) {
        let a = access(What::PortOut, port as u64, size, value as u64);
        self.deck.pass(a, || {
            self.board.port_out(port, size, value);
            None
        });
    }

    fn mmio_read(&self, address: u64, size: u8) -> u64 {
        let a = access(What::MmioRead, address, size, 0);
        let v = self.deck.pass(a, || Some(self.board.mmio_read(address, size)));
        v.unwrap_or(u64::MAX)
    }

    fn mmio_write(&self, address: u64, size: u8, value: u64) {
        let a = access(What::MmioWrite, address, size, value);
        self.deck.pass(a, || {
            self.board.mmio_write(address, size, value);
            None
        });
    }
}

/// The local APIC behind a deck.
pub(crate) struct Apic {
    pub deck: Deck,
    pub apic: Arc<dyn LocalApic>,
}

impl LocalApic for Apic {
    fn pending(&self) -> bool {
        self.apic.pending()
    }

    fn acknowledge(&self) -> Option<u8> {
        let a = access(What::Acknowledge, 0, 0, 0);
        let v = self.deck.pass(a, || self.apic.acknowledge().map(u64::from));
        v.map(|v| v as u8)
    }

    fn cr8(&self) -> u8 {
        if !self.deck.records && !self.deck.tape.lock().running {
            return self.apic.cr8();
        }
        let v = self
            .deck
            .pass(access(What::Cr8, 0, 0, 0), || Some(self.apic.cr8() as u64));
        v.unwrap_or(0) as u8
    }

    fn set_cr8(&self, value: u8) {
        let a = access(What::SetCr8, 0, 0, value as u64);
        self.deck.pass(a, || {
            self.apic.set_cr8(value);
            None
        });
    }

    fn read_msr(&self, msr: u32) -> Result<u64, Gp> {
        let a = access(What::MsrRead, msr as u64, 0, 0);
        self.deck.pass(a, || self.apic.read_msr(msr).ok()).ok_or(Gp)
    }

    fn write_msr(&self, msr: u32, value: u64) -> Result<(), Gp> {
        let a = access(What::MsrWrite, msr as u64, 0, value);
        let done = self
            .deck
            .pass(a, || self.apic.write_msr(msr, value).ok().map(|_| 0));
        done.map(drop).ok_or(Gp)
    }

    /// How often the page tables are walked is a processor's own business: this is not on the tape. The
    /// page only moves by an instruction that ends a round.
    fn page(&self) -> Option<u64> {
        self.apic.page()
    }

    fn page_read(&self, offset: u16) -> u32 {
        let a = access(What::PageRead, offset as u64, 4, 0);
        let v = self.deck.pass(a, || Some(self.apic.page_read(offset) as u64));
        v.map_or(u32::MAX, |v| v as u32)
    }

    fn page_write(&self, offset: u16, value: u32) {
        let a = access(What::PageWrite, offset as u64, 4, value as u64);
        self.deck.pass(a, || {
            self.apic.page_write(offset, value);
            None
        });
    }

    fn init(&self) {
        self.deck.pass(access(What::Init, 0, 0, 0), || {
            self.apic.init();
            None
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use donjon_engine::Detached;

    fn pair() -> (Arc<Tape>, Io, Io) {
        let tape = Arc::new(Tape::default());
        let io = |deck| Io {
            deck,
            board: Arc::new(Detached),
        };
        let (leader, follower) = (io(Deck::recorder(&tape)), io(Deck::player(&tape)));
        (tape, leader, follower)
    }

    #[test]
    fn the_follower_gets_the_leaders_answers() {
        let (tape, leader, follower) = pair();
        tape.begin();
        assert_eq!(leader.deck.time(|| 7), 7);
        leader.port_out(0x80, 1, 3);
        assert_eq!(leader.deck.random(|| None), None);
        assert_eq!(follower.deck.time(|| 8), 7);
        follower.port_out(0x80, 1, 3);
        assert_eq!(follower.deck.random(|| Some(1)), None);
        assert_eq!(tape.end(), None);
    }

    #[test]
    fn another_value_or_none_is_wrong() {
        let (tape, leader, follower) = pair();
        tape.begin();
        leader.mmio_write(0xfec0_0000, 4, 1);
        follower.mmio_write(0xfec0_0000, 4, 2);
        assert!(tape.end().unwrap().contains("value: 2"));
        tape.begin();
        leader.port_in(0x60, 1);
        assert!(tape.end().unwrap().contains("not made"));
        tape.begin();
        follower.port_in(0x60, 1);
        assert!(tape.end().unwrap().contains("nothing"));
    }
}
