//! Get Log Page (NVM Express Base 1.4 §5.14).

use super::{OPCODES, transfer};
use crate::command::{ALL_NAMESPACES, Command, NAMESPACE};
use crate::controller::Controller;
use crate::features::TEMPERATURE;
use crate::identity::{FIRMWARE, put_text};
use crate::io::{MAX_TRANSFER, OPCODES as IO_OPCODES};
use crate::status::Status;

/// Log page identifiers.
mod id {
    pub const ERRORS: u8 = 0x01;
    pub const HEALTH: u8 = 0x02;
    pub const FIRMWARE: u8 = 0x03;
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    pub const EFFECTS: u8 = 0x05;
}

/// Retain Asynchronous Event.
const RETAIN: u32 = 1 << 15;
/// Sectors of 512 bytes in a data unit of the health log.
const DATA_UNIT: u64 = 1000;

pub fn get(controller: &mut Controller, c: &Command) -> Result<u32, Status> {
    let log = c.dword(10) as u8;
    let page = match log {
        id::ERRORS => controller.shared.errors.page(),
        id::HEALTH => match c.nsid {
            0 | NAMESPACE | ALL_NAMESPACES => health(controller),
            _ => return Err(Status::INVALID_NAMESPACE),
        },
        id::FIRMWARE => firmware(),
        id::CHANGED_NAMESPACES => changed(controller),
        id::EFFECTS => effects(),
        _ => return Err(Status::INVALID_LOG_PAGE),
    };
    let words = u64::from(c.dword(10) >> 16) | u64::from(c.dword(11) & 0xffff) << 16;
    let len = (words + 1) * 4;
    let offset = u64::from(c.dword(12)) | u64::from(c.dword(13)) << 32;
    let fits = offset <= page.len() as u64 && offset.is_multiple_of(4);
    if !fits || len > MAX_TRANSFER as u64 {
        return Err(Status::INVALID_FIELD);
    }
    // What the host asks for beyond the page is left as it was (§5.14: undefined).
    let part = &page[offset as usize..];
    transfer(controller, c, &part[..part.len().min(len as usize)])?;
    if c.dword(10) & RETAIN == 0 {
        controller.events.read(log);
        if log == id::CHANGED_NAMESPACES {
            controller.namespace_changed = false;
        }
    }
    Ok(0)
}

/// SMART / Health Information (§5.14.1.2).
fn health(controller: &Controller) -> Vec<u8> {
    let shared = &controller.shared;
    let counts = shared.counters.get();
    let mut page = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[u8::from(controller.features.temperature_warning()) << 1]);
    put(1, &TEMPERATURE.to_le_bytes());
    // Available spare and its threshold, in per cent; nothing has been used.
    put(3, &[100, 10]);
    let hours = controller.since.elapsed().as_secs() / 3600;
    let numbers = [
        (32, counts.read_sectors.div_ceil(DATA_UNIT)),
        (48, counts.written_sectors.div_ceil(DATA_UNIT)),
        (64, counts.reads),
        (80, counts.writes),
        // Power cycles, power-on hours.
        (112, 1),
        (128, hours),
        (160, counts.media_errors),
        (176, shared.errors.count()),
    ];
    for (at, number) in numbers {
        put(at, &number.to_le_bytes());
    }
    page
}

/// Firmware Slot Information (§5.14.1.3): slot 1 is active.
fn firmware() -> Vec<u8> {
    let mut page = vec![0; 512];
    page[0] = 1;
    put_text(&mut page[8..16], FIRMWARE);
    page
}

/// Changed Namespace List (§5.14.1.4).
fn changed(controller: &Controller) -> Vec<u8> {
    let mut page = vec![0; 4096];
    if controller.namespace_changed {
        page[..4].copy_from_slice(&NAMESPACE.to_le_bytes());
    }
    page
}

/// Commands Supported and Effects (§5.14.1.5).
fn effects() -> Vec<u8> {
    const SUPPORTED: u32 = 1 << 0;
    /// Logical block content change.
    const CHANGES: u32 = 1 << 1;
    let mut page = vec![0; 4096];
    let mut put = |at: usize, value: u32| page[at..at + 4].copy_from_slice(&value.to_le_bytes());
    for code in OPCODES {
        put(usize::from(code) * 4, SUPPORTED);
    }
    for (code, changes) in IO_OPCODES {
        put(
            1024 + usize::from(code) * 4,
            SUPPORTED | if changes { CHANGES } else { 0 },
        );
    }
    page
}
