//! Multiple APIC description table (ACPI 6.5 §5.2.12): processors and interrupt controllers.

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::layout::{APIC_ADDRESS, IOAPIC_ADDRESS, SCI_IRQ};
use acpi_tables::sdt::Sdt;

/// There are 8259s too (ACPI 6.5 table 5.20).
const PCAT_COMPAT: u32 = 1;
const ENABLED: u32 = 1;
/// MPS INTI flags (ACPI 6.5 table 5.26): as the bus has it; active high, level-triggered.
const CONFORMS: u16 = 0;
const HIGH_LEVEL: u16 = 0b11 << 2 | 0b01;
/// All processors, in a non-maskable-interrupt entry.
const ALL_PROCESSORS: u8 = 0xff;
/// Local APIC IDs from here on need the x2APIC forms.
const FIRST_X2APIC_ONLY: u32 = 255;

/// The table for processors with APIC IDs 0 to `cpus` - 1.
pub fn table(cpus: u32) -> Vec<u8> {
    let mut t = Sdt::new(*b"APIC", 36, 5, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    t.append_slice(&(APIC_ADDRESS as u32).to_le_bytes());
    t.append_slice(&PCAT_COMPAT.to_le_bytes());
    for id in 0..cpus {
        t.append_slice(&processor(id));
    }
    t.append_slice(&ioapic());
    // The timer's ISA interrupt 0 arrives at pin 2; the system control interrupt is a level.
    t.append_slice(&source_override(0, 2, CONFORMS));
    t.append_slice(&source_override(SCI_IRQ, SCI_IRQ.into(), HIGH_LEVEL));
    let [low, high] = CONFORMS.to_le_bytes();
    t.append_slice(&[4, 6, ALL_PROCESSORS, low, high, 1]);
    t.as_slice().to_vec()
}

fn processor(id: u32) -> Vec<u8> {
    if id < FIRST_X2APIC_ONLY {
        let mut entry = vec![0, 8, id as u8, id as u8];
        entry.extend_from_slice(&ENABLED.to_le_bytes());
        return entry;
    }
    let mut entry = vec![9, 16, 0, 0];
    for field in [id, ENABLED, id] {
        entry.extend_from_slice(&field.to_le_bytes());
    }
    entry
}

fn ioapic() -> Vec<u8> {
    const ID: u8 = 0;
    const FIRST_INTERRUPT: u32 = 0;
    let mut entry = vec![1, 12, ID, 0];
    for field in [IOAPIC_ADDRESS as u32, FIRST_INTERRUPT] {
        entry.extend_from_slice(&field.to_le_bytes());
    }
    entry
}

/// ISA interrupt `irq` is global interrupt `gsi`.
fn source_override(irq: u8, gsi: u32, flags: u16) -> Vec<u8> {
    let mut entry = vec![2, 10, 0, irq];
    entry.extend_from_slice(&gsi.to_le_bytes());
    entry.extend_from_slice(&flags.to_le_bytes());
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_fill_the_table_and_name_every_processor() {
        let t = table(300);
        let (mut at, mut ids) = (44, vec![]);
        while at < t.len() {
            match t[at] {
                0 => ids.push(u32::from(t[at + 3])),
                9 => ids.push(u32::from_le_bytes(t[at + 4..at + 8].try_into().unwrap())),
                _ => {}
            }
            at += usize::from(t[at + 1]);
        }
        assert_eq!(at, t.len());
        assert_eq!(ids, (0..300).collect::<Vec<_>>());
    }
}
