//! Identify (NVM Express Base 1.4 §5.15).

use super::transfer;
use crate::command::{ALL_NAMESPACES, Command, NAMESPACE};
use crate::controller::Controller;
use crate::errors::ENTRIES;
use crate::events::LIMIT;
use crate::features::WARNING_TEMPERATURE;
use crate::identity::{FIRMWARE, Identifiers, MODEL, OUI, VENDOR, put_text};
use crate::io::MAX_TRANSFER;
use crate::prp::PAGE;
use crate::registers::VERSION;
use crate::status::Status;
use donjon_disk::{Disk, SECTOR};

/// What is asked for (CNS).
mod cns {
    pub const NAMESPACE: u8 = 0x00;
    pub const CONTROLLER: u8 = 0x01;
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
    pub const DESCRIPTORS: u8 = 0x03;
    pub const NAMESPACE_OF_SET: u8 = 0x05;
    pub const CONTROLLER_OF_SET: u8 = 0x06;
}

/// Bytes of every answer.
const LEN: usize = 4096;

pub fn identify(controller: &Controller, c: &Command) -> Result<u32, Status> {
    let disk = &controller.shared.disk;
    let set = c.dword(11) >> 24;
    let mut data = [0; LEN];
    match c.dword(10) as u8 {
        cns::NAMESPACE if c.nsid == NAMESPACE => namespace(disk, &mut data),
        cns::NAMESPACE => return Err(Status::INVALID_NAMESPACE),
        cns::CONTROLLER => self::controller(disk, &mut data),
        cns::ACTIVE_NAMESPACES => {
            if c.nsid >= ALL_NAMESPACES - 1 {
                return Err(Status::INVALID_NAMESPACE);
            }
            // Those behind the NSID of the command.
            if c.nsid < NAMESPACE {
                put(&mut data, 0, &NAMESPACE.to_le_bytes());
            }
        }
        cns::DESCRIPTORS if c.nsid == NAMESPACE => descriptors(disk, &mut data),
        // Of the NVM command set: no limits, no formats beyond the ordinary ones.
        cns::NAMESPACE_OF_SET if set == 0 && c.nsid == NAMESPACE => {}
        cns::DESCRIPTORS | cns::NAMESPACE_OF_SET if set == 0 => return Err(Status::INVALID_NAMESPACE),
        cns::CONTROLLER_OF_SET if set == 0 => {}
        _ => return Err(Status::INVALID_FIELD),
    }
    transfer(controller, c, &data)?;
    Ok(0)
}

fn put(data: &mut [u8; LEN], at: usize, bytes: &[u8]) {
    data[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Identify Controller (§5.15.2.2).
fn controller(disk: &Disk, data: &mut [u8; LEN]) {
    put(data, 0, &VENDOR.to_le_bytes());
    put(data, 2, &VENDOR.to_le_bytes());
    put_text(&mut data[4..24], disk.serial());
    put_text(&mut data[24..64], MODEL);
    put_text(&mut data[64..72], FIRMWARE);
    put(data, 73, &OUI);
    // MDTS, as a power of two in pages.
    data[77] = (MAX_TRANSFER as u64 / PAGE).trailing_zeros() as u8;
    put(data, 80, &VERSION.to_le_bytes());
    // OAES: namespace attribute notices.
    put(data, 92, &(1u32 << 8).to_le_bytes());
    // CNTRLTYPE: an I/O controller.
    data[111] = 1;
    // OACS: Doorbell Buffer Config.
    put(data, 256, &(1u16 << 8).to_le_bytes());
    // ACL: commands are aborted one at a time. AERL, zero-based.
    data[259] = (LIMIT - 1) as u8;
    // FRMW: one slot, which is read-only.
    data[260] = 1 | 1 << 1;
    // LPA: commands supported and effects, extended data for Get Log Page.
    data[261] = 1 << 1 | 1 << 2;
    // ELPE, zero-based.
    data[262] = (ENTRIES - 1) as u8;
    // WCTEMP and CCTEMP.
    put(data, 266, &WARNING_TEMPERATURE.to_le_bytes());
    put(data, 268, &(WARNING_TEMPERATURE + 10).to_le_bytes());
    // SQES and CQES: required and maximum entry sizes.
    data[512] = 0x66;
    data[513] = 0x44;
    // NN.
    put(data, 516, &NAMESPACE.to_le_bytes());
    // ONCS: Dataset Management, Write Zeroes, Select in Get Features.
    put(data, 520, &(1u16 << 2 | 1 << 3 | 1 << 4).to_le_bytes());
    // VWC: there is one, and a flush of all namespaces is supported.
    data[525] = 1 | 3 << 1;
    let name = Identifiers::new(disk.serial()).subsystem_name();
    put(data, 768, name.as_bytes());
    // PSD0: MP, 0.01 W units.
    put(data, 2048, &100u16.to_le_bytes());
}

/// Identify Namespace (§5.15.2.1).
fn namespace(disk: &Disk, data: &mut [u8; LEN]) {
    let size = (disk.size() / SECTOR).to_le_bytes();
    // NSZE, NCAP and NUSE.
    for at in [0, 8, 16] {
        put(data, at, &size);
    }
    // NSFEAT: the preferred sizes below are valid.
    data[24] = 1 << 4;
    // NLBAF and FLBAS: format 0 is the only one.
    // DLFEAT: Write Zeroes may deallocate; what is deallocated reads as zeroes.
    data[33] = 1 << 3 | 1;
    // NPWG, NPWA, NPDG and NPDA, zero-based: the blocks of a host's file system, 4 KiB.
    for at in [64, 66, 68, 70] {
        put(data, at, &7u16.to_le_bytes());
    }
    // NSATTR: write protected.
    data[99] = disk.read_only().into();
    let identifiers = Identifiers::new(disk.serial());
    put(data, 104, &identifiers.nguid);
    put(data, 120, &identifiers.eui64);
    // LBAF0: LBADS.
    data[130] = SECTOR.trailing_zeros() as u8;
}

/// Namespace Identification Descriptor list (§5.15.2.4).
fn descriptors(disk: &Disk, data: &mut [u8; LEN]) {
    let identifiers = Identifiers::new(disk.serial());
    let mut at = 0;
    let list: [(u8, &[u8]); 3] = [
        (1, &identifiers.eui64),
        (2, &identifiers.nguid),
        (3, &identifiers.uuid),
    ];
    for (kind, identifier) in list {
        put(data, at, &[kind, identifier.len() as u8]);
        put(data, at + 4, identifier);
        at += 4 + identifier.len();
    }
}
