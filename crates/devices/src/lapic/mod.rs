//! The local APIC of each processor and the messages between them (Intel SDM vol. 3A ch. 11).
//!
//! [`LocalApic`] implements [`donjon_engine::LocalApic`] for one processor, in xAPIC and x2APIC mode, with all
//! three timer modes. Vectors (IRR, ISR, TMR), task priority and addresses are atomics, so that a message is
//! accepted without a lock; the other registers are behind one.
//!
//! Only the processor's own thread takes vectors out of IRR, changes ISR, the task priority and
//! IA32_APIC_BASE. It publishes its priority before it looks at IRR, and a message sets IRR before it looks
//! at the priority, so at least one of the two sees the other and raises [`Attention::INTERRUPT`].
//!
//! What this model leaves out, as current processors do: the APIC bus with its arbitration, focus processors,
//! remote reads, and a writable APIC ID. There is no system-management mode, so SMIs are dropped.
//!
//! IA32_TSC_DEADLINE is compared with the board's [`Clock`]: an engine whose guest has moved its time-stamp
//! counter (IA32_TSC_ADJUST) passes the deadline less that offset.

mod base;
mod cluster;
mod countdown;
mod lint;
mod message;
mod page;
mod registers;
mod remote;
mod saved;
#[cfg(test)]
mod tests;
mod vectors;

pub use cluster::{ApicBus, EoiSink};
pub use lint::ExtInt;
pub use message::{DeliveryMode, Destination, Message};

use crate::sync::Lock;
use crate::timer::{Timer, Timers};
use donjon_engine::{Attention, Clock, Gp, LocalApic as Apic};
use registers::{Lvt, Registers, SVR_NO_BROADCAST, error};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use vectors::VectorSet;

/// Frequency of the clock that the local APIC timer counts before its divisor: one tick a nanosecond of
/// [`Clock`]. Guests learn it from CPUID leaves 0x15 and 0x4000_0010.
pub const APIC_BUS_HZ: u64 = 1_000_000_000;

/// What distinguishes a local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// APIC ID (x2APIC ID).
    pub id: u32,
    /// The bootstrap processor's: IA32_APIC_BASE bit 8.
    pub bootstrap: bool,
    /// MAXPHYADDR: what IA32_APIC_BASE can hold.
    pub physical_bits: u8,
}

/// A processor's local APIC.
pub struct LocalApic {
    config: Config,
    bus: Weak<ApicBus>,
    attention: Arc<Attention>,
    clock: Arc<Clock>,
    irr: VectorSet,
    isr: VectorSet,
    /// Vectors that came from a level-triggered source.
    tmr: VectorSet,
    tpr: AtomicU8,
    /// Processor priority: follows `tpr` and `isr`.
    ppr: AtomicU8,
    /// IA32_APIC_BASE.
    base: AtomicU64,
    /// A [`Route`]: follows `base` and `registers`.
    route: AtomicU64,
    /// The 8259 asks through LINT0: follows `base` and `registers`.
    extint_line: AtomicBool,
    /// An ExtINT message has come.
    extint_message: AtomicBool,
    extint: OnceLock<Weak<dyn ExtInt>>,
    registers: Lock<Registers>,
    timer: Timer,
}

/// What a sender needs to know of a destination, in one word: LDR, and from bit 32 the four flags.
#[derive(Clone, Copy)]
struct Route(u64);

impl Route {
    fn new(ldr: u32, enabled: bool, x2apic: bool, flat: bool, software_enabled: bool) -> Self {
        let flags = [enabled, x2apic, flat, software_enabled];
        let bits = flags
            .into_iter()
            .enumerate()
            .fold(0, |n, (i, f)| n | (f as u64) << (32 + i));
        Self(bits | ldr as u64)
    }
    fn ldr(self) -> u32 {
        self.0 as u32
    }
    fn enabled(self) -> bool {
        self.0 & 1 << 32 != 0
    }
    fn x2apic(self) -> bool {
        self.0 & 1 << 33 != 0
    }
    fn flat(self) -> bool {
        self.0 & 1 << 34 != 0
    }
    fn software_enabled(self) -> bool {
        self.0 & 1 << 35 != 0
    }
}

impl LocalApic {
    /// A local APIC in its power-on state, connected to `bus`, which owns it.
    pub fn new(config: Config, bus: &Arc<ApicBus>, attention: Arc<Attention>, timers: &Timers) -> Arc<Self> {
        let apic = Arc::new_cyclic(|weak: &Weak<Self>| Self {
            config,
            bus: Arc::downgrade(bus),
            attention,
            clock: timers.clock().clone(),
            irr: VectorSet::default(),
            isr: VectorSet::default(),
            tmr: VectorSet::default(),
            tpr: AtomicU8::new(0),
            ppr: AtomicU8::new(0),
            base: AtomicU64::new(base::reset(config.bootstrap)),
            route: AtomicU64::new(0),
            extint_line: AtomicBool::new(false),
            extint_message: AtomicBool::new(false),
            extint: OnceLock::new(),
            registers: Lock::new(Registers::reset()),
            timer: timers.timer_of(weak, |me: &Self| me.timer_expired()),
        });
        apic.publish(&apic.registers.lock());
        bus.add(apic.clone());
        apic
    }

    /// APIC ID.
    pub fn id(&self) -> u32 {
        self.config.id
    }

    /// How to get the processor's attention.
    pub fn attention(&self) -> &Arc<Attention> {
        &self.attention
    }

    /// Does what firmware does on the bootstrap processor before it starts a kernel: enables the APIC in
    /// virtual-wire mode (MultiProcessor Specification 1.4 §3.6.2.2), LINT0 from the 8259, LINT1 from NMI.
    pub fn virtual_wire(&self) {
        let mut r = self.registers.lock();
        r.svr = 0xff | registers::SVR_ENABLE;
        r.lvt[Lvt::Lint0 as usize] = 7 << 8;
        r.lvt[Lvt::Lint1 as usize] = 4 << 8;
        self.publish(&r);
    }

    fn route(&self) -> Route {
        Route(self.route.load(SeqCst))
    }

    /// Brings what follows from the registers up to date.
    fn publish(&self, r: &Registers) {
        let (enabled, x2apic) = (self.hardware_enabled(), self.x2apic());
        let ldr = if x2apic { self.x2apic_ldr() } else { r.ldr };
        let flat = r.dfr >> 28 == 15;
        self.route.store(
            Route::new(ldr, enabled, x2apic, flat, r.software_enabled()).0,
            SeqCst,
        );
        let through = !enabled || r.active(Lvt::Lint0).is_some_and(|v| v >> 8 & 7 == 7);
        self.extint_line.store(r.lint[0] && through, SeqCst);
        self.raise_if_pending();
    }

    /// x2APIC logical address: cluster and bit, both from the ID (Intel SDM vol. 3A §11.12.10.2).
    fn x2apic_ldr(&self) -> u32 {
        let id = self.config.id;
        (id >> 4) << 16 | 1 << (id & 15)
    }

    /// What lowest-priority delivery compares: the processor priority.
    fn priority(&self) -> u8 {
        self.ppr.load(SeqCst)
    }

    /// Recomputes the processor priority (Intel SDM vol. 3A §11.8.3.1).
    fn update_priority(&self) {
        let tpr = self.tpr.load(SeqCst);
        let service = self.isr.highest().unwrap_or(0);
        self.ppr.store(
            if tpr >> 4 >= service >> 4 {
                tpr
            } else {
                service & 0xf0
            },
            SeqCst,
        );
    }

    fn raise_if_pending(&self) {
        if self.pending() {
            self.attention.raise(Attention::INTERRUPT);
        }
    }

    /// The vector that would be delivered now.
    fn deliverable(&self) -> Option<u8> {
        let v = self.irr.highest()?;
        (v >> 4 > self.ppr.load(SeqCst) >> 4).then_some(v)
    }

    /// Takes a fixed interrupt into IRR. `vector` is legal.
    fn request(&self, vector: u8, level: bool) {
        // Before IRR, so that whoever takes the vector knows how to end it.
        self.tmr.put(vector, level);
        self.irr.insert(vector);
        if vector >> 4 > self.ppr.load(SeqCst) >> 4 {
            self.attention.raise(Attention::INTERRUPT);
        }
    }

    /// Accepts a message addressed to this APIC; whether it did.
    fn accept(&self, m: &Message) -> bool {
        match m.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                if !self.route().software_enabled() {
                    return false;
                }
                if m.vector < 16 {
                    self.report(&mut self.registers.lock(), error::RECEIVE_ILLEGAL_VECTOR);
                    return false;
                }
                self.request(m.vector, m.level);
            }
            DeliveryMode::Nmi => self.attention.raise(Attention::NMI),
            DeliveryMode::Init => self.attention.raise(Attention::INIT),
            DeliveryMode::StartUp => self.attention.raise_sipi(m.vector),
            // Without an 8259 nobody could give the vector.
            DeliveryMode::ExtInt if self.extint.get().is_none() => return false,
            DeliveryMode::ExtInt => {
                self.extint_message.store(true, SeqCst);
                self.attention.raise(Attention::INTERRUPT);
            }
            DeliveryMode::Smi | DeliveryMode::Reserved => return false,
        }
        true
    }

    /// Notes an error and raises the error interrupt, once until ESR is written (Intel SDM vol. 3A §11.5.3).
    fn report(&self, r: &mut Registers, bit: u8) {
        let armed = r.errors == 0;
        r.errors |= bit;
        if armed
            && let Some(entry) = r.active(Lvt::Error)
            && entry as u8 >= 16
        {
            self.request(entry as u8, false);
        } else if r.active(Lvt::Error).is_some_and(|e| (e as u8) < 16) {
            r.errors |= error::RECEIVE_ILLEGAL_VECTOR;
        }
    }

    /// Delivers an interrupt of the local vector table, which is unmasked.
    fn deliver_local(&self, r: &mut Registers, entry: u32) {
        match DeliveryMode::from_bits(entry >> 8) {
            DeliveryMode::Fixed if (entry as u8) < 16 => self.report(r, error::RECEIVE_ILLEGAL_VECTOR),
            DeliveryMode::Fixed => self.request(entry as u8, false),
            DeliveryMode::Nmi => self.attention.raise(Attention::NMI),
            DeliveryMode::Init => self.attention.raise(Attention::INIT),
            _ => {}
        }
    }

    /// Lets the timer expire if it is due. Before every look at it, so that a timer thread that comes late
    /// is not noticed.
    fn settle_timer(&self, r: &mut Registers) -> u64 {
        let now = self.clock.nanoseconds();
        if r.settle(now)
            && let Some(entry) = r.active(Lvt::Timer)
        {
            self.deliver_local(r, entry & 0xff);
        }
        now
    }

    /// Changes the timer: `f` gets the registers, settled, and the time.
    fn change_timer(&self, r: &mut Registers, f: impl FnOnce(&mut Registers, u64)) {
        let now = self.settle_timer(r);
        f(r, now);
        // A new deadline may be past already: no need to go by way of the timer thread.
        let now = self.settle_timer(r);
        self.timer.set(r.wake_at(now));
    }

    /// The timer thread's call.
    fn timer_expired(&self) {
        self.change_timer(&mut self.registers.lock(), |_, _| ());
    }

    fn end_of_interrupt(&self) {
        let Some(vector) = self.isr.highest() else { return };
        self.isr.remove(vector);
        self.update_priority();
        if self.tmr.contains(vector) {
            self.broadcast_eoi(vector);
        }
        self.raise_if_pending();
    }

    /// Tells the I/O APICs, which may answer with the next message: no lock is held.
    fn broadcast_eoi(&self, vector: u8) {
        let suppressed = self.registers.lock().svr & SVR_NO_BROADCAST != 0;
        if let Some(bus) = self.bus.upgrade().filter(|_| !suppressed) {
            bus.end_of_interrupt(vector);
        }
    }

    fn set_tpr(&self, value: u8) {
        self.tpr.store(value, SeqCst);
        self.update_priority();
        self.raise_if_pending();
    }

    /// Power-on or INIT reset of everything but IA32_APIC_BASE and the levels at the pins.
    fn reset_registers(&self) {
        let mut r = self.registers.lock();
        let lint = r.lint;
        *r = Registers {
            lint,
            ..Registers::reset()
        };
        for set in [&self.irr, &self.isr, &self.tmr] {
            set.set([0; 4]);
        }
        self.tpr.store(0, SeqCst);
        self.update_priority();
        self.extint_message.store(false, SeqCst);
        self.timer.cancel();
        self.publish(&r);
    }
}

impl Apic for LocalApic {
    #[inline]
    fn pending(&self) -> bool {
        self.extint_line.load(SeqCst)
            || self.hardware_enabled() && (self.deliverable().is_some() || self.extint_message.load(SeqCst))
    }

    fn acknowledge(&self) -> Option<u8> {
        let vector = self.acknowledge_extint().or_else(|| {
            if !self.hardware_enabled() {
                return None;
            }
            let v = self.deliverable()?;
            self.isr.insert(v);
            self.update_priority();
            self.irr.remove(v);
            Some(v)
        });
        self.raise_if_pending();
        vector
    }

    fn cr8(&self) -> u8 {
        self.tpr.load(SeqCst) >> 4
    }

    fn set_cr8(&self, value: u8) {
        self.set_tpr(value << 4);
    }

    fn read_msr(&self, msr: u32) -> Result<u64, Gp> {
        self.msr_read(msr)
    }

    fn write_msr(&self, msr: u32, value: u64) -> Result<(), Gp> {
        self.msr_write(msr, value)
    }

    #[inline]
    fn page(&self) -> Option<u64> {
        let base = self.base.load(SeqCst);
        (base & (base::ENABLE | base::X2APIC) == base::ENABLE).then_some(base & !0xfff)
    }

    fn page_read(&self, offset: u16) -> u32 {
        self.register_page_read(offset)
    }

    fn page_write(&self, offset: u16, value: u32) {
        self.register_page_write(offset, value);
    }

    fn init(&self) {
        self.reset_registers();
    }
}
