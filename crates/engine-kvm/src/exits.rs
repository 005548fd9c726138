//! Accesses that the kernel leaves to us, and its errors.

use crate::error::failed;
use crate::partition::Shared;
use donjon_engine::{CpuIo, EngineError};

/// KVM_INTERNAL_ERROR_EMULATION (Linux, include/uapi/linux/kvm.h).
const EMULATION: u32 = 1;

/// A little-endian number of up to eight bytes.
pub fn number(data: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..data.len()].copy_from_slice(data);
    u64::from_le_bytes(bytes)
}

/// OUT, as many times as there is data for.
pub fn port_out(io: &dyn CpuIo, port: u16, size: u8, data: &[u8]) {
    for value in data.chunks_exact(size.into()) {
        io.port_out(port, size, number(value) as u32);
    }
}

/// IN, as many times as there is room for.
pub fn port_in(io: &dyn CpuIo, port: u16, size: u8, data: &mut [u8]) {
    for value in data.chunks_exact_mut(size.into()) {
        value.copy_from_slice(&io.port_in(port, size).to_le_bytes()[..size.into()]);
    }
}

/// A store to what the kernel knows no memory at, or only memory to read.
pub fn mmio_write(shared: &Shared, address: u64, data: &[u8]) {
    let ram = shared.vm.ram();
    if ram.offset(address).is_some() {
        // A read-only file, whose device wants to know.
        for (at, byte) in (address..).zip(data) {
            if let Some(offset) = ram.offset(at) {
                ram.store::<u8>(offset, *byte);
            }
        }
    } else {
        shared.io.mmio_write(address, data.len() as u8, number(data));
    }
}

/// KVM_EXIT_INTERNAL_ERROR.
pub fn internal(kind: u32, data: &[u64]) -> EngineError {
    failed(match kind {
        EMULATION => {
            // Flags, of which bit 0 says that a length and so many bytes follow, in newer kernels.
            let bytes: Vec<u8> = match data {
                [flags, rest @ ..] if flags & 1 != 0 => rest.iter().flat_map(|w| w.to_le_bytes()).collect(),
                _ => vec![],
            };
            let length = bytes.first().map_or(0, |n| *n as usize).min(15);
            let code = bytes.iter().skip(1).take(length);
            let code: Vec<String> = code.map(|b| format!("{b:02x}")).collect();
            format!(
                "the kernel cannot emulate an instruction of the guest{}; run this guest with `--engine soft`",
                if code.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", code.join(" "))
                }
            )
        }
        kind => format!(
            "internal error {kind} of the kernel's KVM, with {data:x?}; `sudo dmesg | grep -i kvm` may say more"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Ports(Mutex<Vec<(u16, u8, u32)>>);

    impl CpuIo for Ports {
        fn port_in(&self, port: u16, size: u8) -> u32 {
            self.0.lock().unwrap().push((port, size, 0));
            0x0403_0201
        }
        fn port_out(&self, port: u16, size: u8, value: u32) {
            self.0.lock().unwrap().push((port, size, value));
        }
        fn mmio_read(&self, _: u64, _: u8) -> u64 {
            0
        }
        fn mmio_write(&self, _: u64, _: u8, _: u64) {}
    }

    #[test]
    fn strings_are_as_many_accesses() {
        let io = Ports::default();
        port_out(&io, 0x60, 2, &[1, 2, 3, 4]);
        let mut data = [0; 6];
        port_in(&io, 0x61, 2, &mut data);
        assert_eq!(data, [1, 2, 1, 2, 1, 2]);
        let all = io.0.into_inner().unwrap();
        assert_eq!(all[..2], [(0x60, 2, 0x201), (0x60, 2, 0x403)]);
        assert_eq!(all[2..], [(0x61, 2, 0); 3]);
    }

    #[test]
    fn errors_say_what_and_what_to_do() {
        let text = internal(EMULATION, &[1, 0xae_0f_02]).to_string();
        assert!(
            text.contains("guest (0f ae)") && text.contains("--engine soft"),
            "{text}"
        );
        assert!(internal(3, &[0x1f]).to_string().contains("internal error 3"));
    }
}
