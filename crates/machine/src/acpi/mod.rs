//! The ACPI tables (ACPI specification 6.5): what the board has, and how to reset it and turn it off.
//!
//! They lie in the firmware area below 1 MiB: the root pointer first, where operating systems look for it,
//! then the tables it leads to.

mod dsdt;
mod fadt;
mod madt;
mod pci;

use crate::layout::{ECAM_ADDRESS, ECAM_BUSES, EXTENDED_START, FIRMWARE_START};
use acpi_tables::{Aml, facs::FACS, mcfg::MCFG, rsdp::Rsdp, xsdt::XSDT};
use donjon_memory::{MemoryError, Ram};

/// The maker and the machine, as every table names them.
const OEM_ID: [u8; 6] = *b"DONJON";
const OEM_TABLE_ID: [u8; 8] = *b"DONJON-1";
const OEM_REVISION: u32 = 1;
/// SLP_TYP of the S5 state (off), as the DSDT says and the power-management block understands.
pub const S5_TYPE: u8 = 5;

/// Writes the tables for a board with processors 0 to `cpus` - 1; returns the root pointer's address.
pub fn write(ram: &Ram, cpus: u32) -> Result<u64, MemoryError> {
    let mut place = Placer {
        ram,
        next: FIRMWARE_START + 64,
    };
    let facs = place.put(&FACS::new(), 64)?;
    let dsdt = place.put_bytes(&dsdt::table(cpus), 16)?;
    let fadt = place.put(&fadt::table(facs, dsdt), 16)?;
    let madt = place.put_bytes(&madt::table(cpus), 16)?;
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(ECAM_ADDRESS, 0, 0, (ECAM_BUSES - 1) as u8);
    let mcfg = place.put(&mcfg, 16)?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    xsdt.add_entry(mcfg);
    let xsdt = place.put(&xsdt, 16)?;
    let mut root = vec![];
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut root);
    ram.write(FIRMWARE_START, &root)?;
    Ok(FIRMWARE_START)
}

/// Puts tables one after the other.
struct Placer<'a> {
    ram: &'a Ram,
    next: u64,
}

impl Placer<'_> {
    fn put(&mut self, table: &dyn Aml, align: u64) -> Result<u64, MemoryError> {
        let mut bytes = vec![];
        table.to_aml_bytes(&mut bytes);
        self.put_bytes(&bytes, align)
    }

    fn put_bytes(&mut self, bytes: &[u8], align: u64) -> Result<u64, MemoryError> {
        let address = self.next.next_multiple_of(align);
        self.next = address + bytes.len() as u64;
        if self.next > EXTENDED_START {
            return Err(MemoryError::OutOfRange {
                address,
                len: bytes.len(),
            });
        }
        self.ram.write(address, bytes)?;
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::MAX_CPUS;

    fn bytes(ram: &Ram, address: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        ram.read(address, &mut out).unwrap();
        out
    }

    fn table(ram: &Ram, address: u64) -> Vec<u8> {
        let len = ram.load::<u32>(address as usize + 4);
        bytes(ram, address, len as usize)
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |a, b| a.wrapping_add(*b))
    }

    #[test]
    fn every_table_is_reachable_and_sums_to_zero() {
        for cpus in [1, 2, MAX_CPUS] {
            let ram = Ram::new(16 << 20).unwrap();
            let root = write(&ram, cpus).unwrap();
            let rsdp = bytes(&ram, root, 36);
            assert_eq!(&rsdp[..8], b"RSD PTR ");
            assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));
            let xsdt = table(&ram, u64::from_le_bytes(rsdp[24..32].try_into().unwrap()));
            assert_eq!((&xsdt[..4], sum(&xsdt)), (&b"XSDT"[..], 0));
            let tables: Vec<_> = xsdt[36..]
                .chunks(8)
                .map(|e| table(&ram, u64::from_le_bytes(e.try_into().unwrap())))
                .collect();
            assert_eq!(
                tables.iter().map(|t| &t[..4]).collect::<Vec<_>>(),
                [b"FACP", b"APIC", b"MCFG"]
            );
            assert!(tables.iter().all(|t| sum(t) == 0));
            let fadt = &tables[0];
            assert_eq!(fadt.len(), 276);
            let dsdt = table(&ram, u64::from_le_bytes(fadt[140..148].try_into().unwrap()));
            assert_eq!((&dsdt[..4], sum(&dsdt)), (&b"DSDT"[..], 0));
            let facs = u64::from_le_bytes(fadt[132..140].try_into().unwrap());
            assert!(facs.is_multiple_of(64));
            assert_eq!(bytes(&ram, facs, 4), b"FACS");
        }
    }
}
