//! The local APICs in the kernel, as the board's devices reach them.

use crate::raw::Vm;
use donjon_engine::{Msi, RemoteApics};
use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_msi};
use std::sync::Arc;

/// Pins of the I/O APIC: KVM_CAP_SPLIT_IRQCHIP keeps as many routes for it.
pub const PINS: u64 = 24;

/// Sends messages to the kernel.
pub struct Remote(pub Arc<Vm>);

impl RemoteApics for Remote {
    fn deliver(&self, message: Msi) -> bool {
        let msi = kvm_msi {
            address_lo: message.address as u32,
            address_hi: (message.address >> 32) as u32,
            data: message.data,
            ..kvm_msi::default()
        };
        // Refused: to nobody, or to a destination that does not exist.
        self.0.fd().signal_msi(msi).is_ok_and(|accepted| accepted > 0)
    }

    fn set_levels(&self, pins: &[Option<Msi>]) {
        let entries: Vec<_> = (0u32..)
            .zip(pins)
            .filter_map(|(gsi, m)| m.map(|m| route(gsi, m)))
            .collect();
        let routing = KvmIrqRouting::from_entries(&entries);
        let done = routing
            .map_err(|e| format!("{e:?}"))
            .and_then(|r| self.0.fd().set_gsi_routing(&r).map_err(|e| e.to_string()));
        if let Err(e) = done {
            tracing::error!(
                "the ends of level-triggered interrupts will not be heard of: KVM_SET_GSI_ROUTING: {e}"
            );
        }
    }
}

/// A route by which the kernel knows that an interrupt of this pin is level-triggered, and tells its end.
fn route(gsi: u32, m: Msi) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..kvm_irq_routing_entry::default()
    };
    entry.u.msi.address_lo = m.address as u32;
    entry.u.msi.address_hi = (m.address >> 32) as u32;
    entry.u.msi.data = m.data;
    entry
}
