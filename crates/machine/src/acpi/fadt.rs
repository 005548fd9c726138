//! Fixed ACPI description table (ACPI 6.5 §5.2.9): the power-management registers.

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::layout::{PM_BASE, RESET_PORT, RESET_VALUE, SCI_IRQ, pm};
use acpi_tables::fadt::{FADT, FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use donjon_devices::pm::GPE0_LEN;

/// IA-PC boot architecture flags (ACPI 6.5 table 5.11).
const LEGACY_DEVICES: u16 = 1 << 0;
const VGA_NOT_PRESENT: u16 = 1 << 2;

/// CMOS register of the century.
const CENTURY: u8 = 0x32;
/// "Not supported" for the C2 and C3 latencies.
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

/// The table. SMI_CMD is zero: the board is always in ACPI mode. There is no keyboard controller to find.
pub fn table(facs: u64, dsdt: u64) -> FADT {
    let mut t = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .firmware_ctrl_64(facs)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // A fixed power button, and no sleep button.
        .flag(Flags::SlpButton)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    let port = |offset: u16| PM_BASE + offset;
    t.sci_int = u16::from(SCI_IRQ).into();
    // Both the 32-bit and the 64-bit fields: old systems read only the former.
    t.dsdt = (dsdt as u32).into();
    t.firmware_ctrl = (facs as u32).into();
    t.pm1a_evt_blk = u32::from(port(pm::EVENT)).into();
    t.pm1a_cnt_blk = u32::from(port(pm::CONTROL)).into();
    t.pm_tmr_blk = u32::from(port(pm::TIMER)).into();
    (t.pm1_evt_len, t.pm1_cnt_len, t.pm_tmr_len) = (4, 2, 4);
    t.gpe0_blk = u32::from(port(pm::GPE0)).into();
    t.gpe0_blk_len = GPE0_LEN as u8;
    t.x_gpe0_blk = io(port(pm::GPE0), 32, AccessSize::ByteAccess);
    t.x_pm1a_evt_blk = io(port(pm::EVENT), 32, AccessSize::WordAccess);
    t.x_pm1a_cnt_blk = io(port(pm::CONTROL), 16, AccessSize::WordAccess);
    t.x_pm_tmr_blk = io(port(pm::TIMER), 32, AccessSize::DwordAccess);
    t.reset_reg = io(RESET_PORT, 8, AccessSize::ByteAccess);
    t.reset_value = RESET_VALUE;
    t.p_lvl2_lat = NO_C2.into();
    t.p_lvl3_lat = NO_C3.into();
    t.century = CENTURY;
    t.iapc_boot_arch = (LEGACY_DEVICES | VGA_NOT_PRESENT).into();
    t.finalize()
}

fn io(port: u16, bits: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, port.into())
}
