//! The local APICs of a board, as an engine that has local APICs of its own takes over from them and gives back.

use donjon_x86::ApicState;
use std::sync::Arc;

/// An interrupt message as devices send it: a write of `data` to `address` (Intel SDM vol. 3A §11.11), with bits
/// 8-31 of the destination in the upper half of the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msi {
    /// Address.
    pub address: u64,
    /// Data.
    pub data: u32,
}

/// Local APICs in another place than the board.
pub trait RemoteApics: Send + Sync {
    /// Delivers a message; whether any local APIC accepted it.
    fn deliver(&self, message: Msi) -> bool;

    /// The level-triggered interrupts of the I/O APIC's pins as they are now: whoever has the local APICs tells
    /// the end of these ([`LocalApics::end_of_interrupt`]).
    fn set_levels(&self, pins: &[Option<Msi>]);
}

/// The local APICs of a board together. An engine with its own takes their state, has messages sent there, and
/// brings the state back when it leaves.
pub trait LocalApics: Send + Sync {
    /// Keeps messages back from now on, so that none is lost while state is taken from one place to another.
    fn hold(&self);

    /// Sends messages, those that were kept back first, to `to`, or to the board's local APICs.
    fn release(&self, to: Option<Arc<dyn RemoteApics>>);

    /// The state of a vCPU's local APIC.
    fn save(&self, vcpu: usize) -> ApicState;

    /// Replaces it.
    fn load(&self, vcpu: usize, state: &ApicState) -> Result<(), String>;

    /// A vCPU has ended a level-triggered interrupt.
    fn end_of_interrupt(&self, vector: u8);

    /// Whether the 8259 asserts the pin LINT0 of this vCPU. When that becomes true [`crate::Attention::INTERRUPT`]
    /// is raised.
    fn extint(&self, vcpu: usize) -> bool;

    /// Acknowledges the 8259's interrupt; its vector.
    fn acknowledge_extint(&self, vcpu: usize) -> Option<u8>;
}
