//! Interrupt messages: what travels between I/O APICs, MSI devices and local APICs.

use donjon_engine::Msi;

/// MSI data: level-triggered.
const LEVEL: u32 = 1 << 15;
/// MSI data: a level is asserted.
const ASSERT: u32 = 1 << 14;

/// Delivery mode (Intel SDM vol. 3A §11.6.1, 11.11.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeliveryMode {
    /// To every destination.
    Fixed,
    /// To the one destination that runs at the lowest priority.
    LowestPriority,
    /// System management; this board has none.
    Smi,
    /// Reserved.
    Reserved,
    /// Non-maskable.
    Nmi,
    /// Resets the processor.
    Init,
    /// Starts an application processor.
    StartUp,
    /// As if from an 8259: the vector comes from there.
    ExtInt,
}

impl DeliveryMode {
    /// From the 3-bit field of an ICR, LVT or redirection entry.
    pub fn from_bits(bits: u32) -> Self {
        use DeliveryMode::*;
        [Fixed, LowestPriority, Smi, Reserved, Nmi, Init, StartUp, ExtInt][bits as usize & 7]
    }
}

/// Who an interrupt goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Destination {
    /// APIC ID, or logical address.
    pub id: u32,
    /// Logical destination mode.
    pub logical: bool,
}

/// One interrupt message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// To whom.
    pub destination: Destination,
    /// How.
    pub mode: DeliveryMode,
    /// Vector; of a start-up message, the page to start in.
    pub vector: u8,
    /// Level-triggered: its EOI is broadcast to the I/O APICs.
    pub level: bool,
    /// Deliver to one destination only, as in lowest-priority mode.
    pub redirect: bool,
}

impl Message {
    /// The destination that means everybody.
    pub const BROADCAST: u32 = u32::MAX;
    const MSI_WINDOW: u64 = 0xfee0_0000;

    /// The write that means this message, with a destination of up to 32 bits.
    pub fn to_msi(&self) -> Msi {
        let id = self.destination.id;
        let flags = (self.destination.logical as u64) << 2 | (self.redirect as u64) << 3;
        let level = if self.level { LEVEL } else { 0 };
        Msi {
            address: Self::MSI_WINDOW | (id as u64 & 0xff) << 12 | (id as u64 & !0xff) << 32 | flags,
            data: self.vector as u32 | (self.mode as u32) << 8 | ASSERT | level,
        }
    }

    /// Decodes a write of `data` to `address` (Intel SDM vol. 3A §11.11). Address bits 5-11 extend the
    /// destination to 15 bits, the scheme of KVM_FEATURE_MSI_EXT_DEST_ID. `None` for other addresses.
    pub fn from_msi(address: u64, data: u32) -> Option<Self> {
        if address & 0xffff_ffff_fff0_0000 != Self::MSI_WINDOW {
            return None;
        }
        if data & (LEVEL | ASSERT) == LEVEL {
            // The end of a level, which needs no message.
            return None;
        }
        let a = address as u32;
        let id = a >> 12 & 0xff | (a >> 5 & 0x7f) << 8;
        Some(Self {
            destination: Destination::from_device(id, a & 4 != 0),
            mode: DeliveryMode::from_bits(data >> 8),
            vector: data as u8,
            level: data & LEVEL != 0,
            redirect: a & 8 != 0,
        })
    }
}

impl Destination {
    /// A destination field of a device, where 0xff is the broadcast whatever mode the processors are in.
    pub fn from_device(id: u32, logical: bool) -> Self {
        Self {
            id: if id == 0xff && !logical {
                Message::BROADCAST
            } else {
                id
            },
            logical,
        }
    }
}
