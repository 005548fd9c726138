//! The keyboard controller of a PC, with no keyboard and no mouse (IBM PS/2 Hardware Interface Technical
//! Reference, "Keyboard and Auxiliary Device Controller").
//!
//! It is here because guests reset the machine through it, and because one that answers its commands is probed
//! faster than one that is silent. A board whose ACPI tables say there is none is not probed at all.

use crate::bus::PortDevice;
use crate::line::LineSink;
use crate::pm::PowerSink;
use crate::state::{Lifecycle, Migrate, Record, RestoreError, Saved};
use crate::sync::Lock;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

mod status {
    pub const OUTPUT_FULL: u8 = 0x01;
    /// Self-test passed.
    pub const SYSTEM: u8 = 0x04;
    /// The last write was a command.
    pub const COMMAND: u8 = 0x08;
    /// The keyboard is not locked.
    pub const UNLOCKED: u8 = 0x10;
    pub const AUXILIARY: u8 = 0x20;
    /// A device did not answer.
    pub const TIMEOUT: u8 = 0x40;
}

/// Command byte: interrupt when the output buffer is full.
const INTERRUPT: u8 = 0x01;
/// What the controller says for a device that does not answer.
const RESEND: u8 = 0xfe;
/// Output port: reset is active low, A20 is on.
const OUTPUT_PORT: u8 = 0xcf;
const NOT_RESET: u8 = 0x01;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct State {
    /// The command byte, RAM 0.
    mode: u8,
    /// RAM 1-31.
    ram: [u8; 32],
    output_port: u8,
    /// The byte for the guest and the status bits that go with it.
    output: Option<(u8, u8)>,
    /// The command that waits for its data byte.
    command: Option<u8>,
    last_was_command: bool,
}

impl Saved for State {
    const KIND: &'static str = "i8042";
    const VERSION: u16 = 1;
}

impl State {
    fn reset() -> Self {
        let (command, output) = (None, None);
        Self {
            mode: 0,
            ram: [0; 32],
            output_port: OUTPUT_PORT,
            output,
            command,
            last_was_command: false,
        }
    }

    fn status(&self) -> u8 {
        let output = self.output.map_or(0, |(_, bits)| bits | status::OUTPUT_FULL);
        let command = if self.last_was_command { status::COMMAND } else { 0 };
        output | command | status::SYSTEM | status::UNLOCKED
    }

    fn answer(&mut self, byte: u8) {
        self.output = Some((byte, 0));
    }

    /// A command. Whether it resets the machine.
    fn command(&mut self, command: u8) -> bool {
        self.last_was_command = true;
        self.command = None;
        match command {
            0x20 => self.answer(self.mode),
            0x21..=0x3f => self.answer(self.ram[command as usize & 31]),
            0x60..=0x7f | 0xd1..=0xd4 => self.command = Some(command),
            // Interface tests: clock line stuck, nothing is connected.
            0xa9 | 0xab => self.answer(1),
            0xaa => self.answer(0x55),
            // Disable and enable the interfaces: bits of the command byte.
            0xa7 => self.mode |= 0x20,
            0xa8 => self.mode &= !0x20,
            0xad => self.mode |= 0x10,
            0xae => self.mode &= !0x10,
            0xc0 => self.answer(0x80),
            0xd0 => self.answer(self.output_port),
            // Pulses the output port bits that are 0 in the command; bit 0 is reset.
            0xf0..=0xff => return command & NOT_RESET == 0,
            _ => {}
        }
        false
    }

    /// A data byte: for the command before it, or for the keyboard. Whether it resets the machine.
    fn data(&mut self, byte: u8) -> bool {
        self.last_was_command = false;
        match self.command.take() {
            Some(0x60) => self.mode = byte,
            Some(c @ 0x61..=0x7f) => self.ram[c as usize & 31] = byte,
            Some(0xd1) => {
                self.output_port = byte | NOT_RESET;
                return byte & NOT_RESET == 0;
            }
            Some(0xd2) => self.answer(byte),
            // As if the mouse had sent it: how the presence of its interface is found out.
            Some(0xd3) => self.output = Some((byte, status::AUXILIARY)),
            Some(0xd4) => self.output = Some((RESEND, status::AUXILIARY | status::TIMEOUT)),
            _ => self.output = Some((RESEND, status::TIMEOUT)),
        }
        false
    }

    /// The keyboard interrupt.
    fn interrupting(&self) -> bool {
        self.mode & INTERRUPT != 0 && self.output.is_some_and(|(_, bits)| bits & status::AUXILIARY == 0)
    }
}

/// A keyboard controller without devices.
pub struct I8042 {
    interrupt: Arc<dyn LineSink>,
    power: Arc<dyn PowerSink>,
    state: Lock<State>,
}

impl I8042 {
    /// A controller whose keyboard interrupt goes to `interrupt` (IRQ 1) and whose reset to `power`.
    pub fn new(interrupt: Arc<dyn LineSink>, power: Arc<dyn PowerSink>) -> Arc<Self> {
        Arc::new(Self {
            interrupt,
            power,
            state: Lock::new(State::reset()),
        })
    }

    /// The data port: one, at 0x60.
    pub fn data(self: &Arc<Self>) -> Arc<dyn PortDevice> {
        Arc::new(Data(self.clone()))
    }

    /// The command and status port: one, at 0x64.
    pub fn command(self: &Arc<Self>) -> Arc<dyn PortDevice> {
        Arc::new(Command(self.clone()))
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let mut s = self.state.lock();
        let value = f(&mut s);
        self.interrupt.set(s.interrupting());
        value
    }

    fn reset_if(&self, reset: bool) {
        // With nothing locked: resetting the board comes back to this device.
        if reset {
            self.power.reset();
        }
    }
}

struct Data(Arc<I8042>);

impl PortDevice for Data {
    fn widest(&self) -> u8 {
        1
    }
    fn read(&self, _: u16, _: u8) -> u32 {
        self.0.with(|s| s.output.take().map_or(0, |(byte, _)| byte)) as u32
    }
    fn write(&self, _: u16, _: u8, value: u32) {
        let reset = self.0.with(|s| s.data(value as u8));
        self.0.reset_if(reset);
    }
}

struct Command(Arc<I8042>);

impl PortDevice for Command {
    fn widest(&self) -> u8 {
        1
    }
    fn read(&self, _: u16, _: u8) -> u32 {
        self.0.state.lock().status() as u32
    }
    fn write(&self, _: u16, _: u8, value: u32) {
        let reset = self.0.with(|s| s.command(value as u8));
        self.0.reset_if(reset);
    }
}

impl Lifecycle for I8042 {
    fn reset(&self) {
        self.with(|s| *s = State::reset());
    }

    fn migrate(&self) -> Migrate {
        self.state.lock().save()
    }

    fn restore(&self, record: &Record) -> Result<(), RestoreError> {
        let state = State::open(record)?;
        self.with(|s| *s = state);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::probe::Probe;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    #[derive(Default)]
    struct Resets(AtomicUsize);

    impl PowerSink for Resets {
        fn power_off(&self) {}
        fn reset(&self) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn controller() -> (Arc<I8042>, Arc<Probe>, Arc<Resets>) {
        let (irq, power) = (Arc::new(Probe::default()), Arc::new(Resets::default()));
        (I8042::new(irq.clone(), power.clone()), irq, power)
    }

    #[test]
    fn every_way_to_reset_resets() {
        let (c, _, power) = controller();
        let (data, command) = (c.data(), c.command());
        command.write(0, 1, 0xfe);
        command.write(0, 1, 0xd1);
        data.write(0, 1, 0xfe);
        assert_eq!(power.0.load(SeqCst), 2);
        command.write(0, 1, 0xff);
        command.write(0, 1, 0xd1);
        data.write(0, 1, 0xdf);
        assert_eq!(power.0.load(SeqCst), 2);
    }

    #[test]
    fn linux_probes_find_a_controller_without_devices() {
        let (c, irq, _) = controller();
        let (data, command) = (c.data(), c.command());
        assert_eq!(command.read(0, 1) & 1, 0);
        command.write(0, 1, 0xaa);
        assert_eq!(
            (command.read(0, 1) & 1, data.read(0, 1), command.read(0, 1) & 1),
            (1, 0x55, 0)
        );
        command.write(0, 1, 0x60);
        data.write(0, 1, 0x65);
        command.write(0, 1, 0x20);
        assert_eq!(data.read(0, 1), 0x65);
        // A command to the keyboard fails at once, with an interrupt.
        data.write(0, 1, 0xf2);
        assert!(irq.level());
        assert_eq!(command.read(0, 1) & 0x41, 0x41);
        assert_eq!(data.read(0, 1), 0xfe);
        assert!(!irq.level());
    }

    proptest! {
        #[test]
        fn any_accesses_keep_the_state_legal(ops in prop::collection::vec((0u8..4, any::<u8>()), 0..200)) {
            let (c, irq, _) = controller();
            let (data, command) = (c.data(), c.command());
            for (op, value) in ops {
                match op {
                    0 => data.write(0, 1, value as u32),
                    1 => command.write(0, 1, value as u32),
                    2 => drop(data.read(0, 1)),
                    _ => drop(command.read(0, 1)),
                }
                prop_assert_eq!(irq.level(), c.state.lock().interrupting());
            }
            let Migrate::State(record) = c.migrate() else { panic!() };
            let (other, ..) = controller();
            other.restore(&record).unwrap();
            prop_assert_eq!(&*c.state.lock(), &*other.state.lock());
        }
    }
}
