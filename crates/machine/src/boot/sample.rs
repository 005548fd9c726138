//! The smallest kernels that load, around given machine code: for tests and as seeds for fuzzing.

use super::bytes::put;
use super::bzimage::field;
use super::checksum;

/// Where [`pvh_elf`] and [`bzimage`] load their code.
pub const LOAD_ADDRESS: u64 = 0x10_0000;

/// An ELF64 file whose PVH note names the first byte of `code` (32-bit protected mode).
pub fn pvh_elf(code: &[u8]) -> Vec<u8> {
    const HEADERS: usize = 64 + 2 * 56;
    const NOTE: usize = 20;
    const CODE: usize = 0x100;
    let mut file = vec![0; CODE + code.len()];
    file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // ET_EXEC, EM_X86_64, EV_CURRENT; the program headers follow the file header.
    put(&mut file, 16, 2u16.to_le_bytes());
    put(&mut file, 18, 62u16.to_le_bytes());
    put(&mut file, 20, 1u32.to_le_bytes());
    put(&mut file, 32, 64u64.to_le_bytes());
    put(&mut file, 52, 64u16.to_le_bytes());
    put(&mut file, 54, 56u16.to_le_bytes());
    put(&mut file, 56, 2u16.to_le_bytes());
    let mut header = |at: usize, kind: u32, offset: u64, address: u64, len: u64| {
        put(&mut file, at, kind.to_le_bytes());
        put(&mut file, at + 8, offset.to_le_bytes());
        put(&mut file, at + 24, address.to_le_bytes());
        put(&mut file, at + 32, len.to_le_bytes());
        put(&mut file, at + 40, len.to_le_bytes());
        put(&mut file, at + 48, 4u64.to_le_bytes());
    };
    header(64, 1, CODE as u64, LOAD_ADDRESS, code.len() as u64);
    header(64 + 56, 4, HEADERS as u64, 0, NOTE as u64);
    put(&mut file, HEADERS, 4u32.to_le_bytes());
    put(&mut file, HEADERS + 4, 4u32.to_le_bytes());
    put(&mut file, HEADERS + 8, 18u32.to_le_bytes());
    put(&mut file, HEADERS + 12, *b"Xen\0");
    put(&mut file, HEADERS + 16, (LOAD_ADDRESS as u32).to_le_bytes());
    file[CODE..].copy_from_slice(code);
    file
}

/// A bzImage whose 64-bit entry point is the first byte of `code`, with a correct checksum.
pub fn bzimage(code: &[u8]) -> Vec<u8> {
    bzimage_with_payload(code, b"")
}

/// As [`bzimage`], with a compressed kernel behind the code, which that would unpack. A payload has its unpacked
/// size as the last four bytes.
pub fn bzimage_with_payload(code: &[u8], payload: &[u8]) -> Vec<u8> {
    const SETUP: usize = 2 * 512;
    const ENTRY: usize = 0x200;
    let body = (ENTRY + code.len() + payload.len() + 4).next_multiple_of(16);
    let mut file = vec![0; SETUP + body];
    file[field::SETUP_SECTS] = 1;
    put(&mut file, field::SYSSIZE, (body as u32 / 16).to_le_bytes());
    put(&mut file, field::BOOT_FLAG, 0xaa55u16.to_le_bytes());
    put(&mut file, field::JUMP, [0xeb, 0x6a]);
    put(&mut file, field::HEADER, *b"HdrS");
    put(&mut file, field::VERSION, 0x020fu16.to_le_bytes());
    file[field::LOADFLAGS] = 1;
    put(&mut file, field::INITRD_ADDR_MAX, 0x7fff_ffffu32.to_le_bytes());
    put(&mut file, field::XLOADFLAGS, 1u16.to_le_bytes());
    put(&mut file, field::CMDLINE_SIZE, 2047u32.to_le_bytes());
    put(&mut file, field::PREF_ADDRESS, LOAD_ADDRESS.to_le_bytes());
    put(&mut file, field::INIT_SIZE, (body as u32).to_le_bytes());
    put(&mut file, field::KERNEL_VERSION, 0x100u16.to_le_bytes());
    file[0x300..0x305].copy_from_slice(b"6.1.0");
    let at = SETUP + ENTRY;
    file[at..at + code.len()].copy_from_slice(code);
    if !payload.is_empty() {
        let at = ENTRY + code.len();
        put(&mut file, field::PAYLOAD_OFFSET, (at as u32).to_le_bytes());
        put(
            &mut file,
            field::PAYLOAD_LENGTH,
            (payload.len() as u32).to_le_bytes(),
        );
        file[SETUP + at..SETUP + at + payload.len()].copy_from_slice(payload);
    }
    let end = file.len() - 4;
    let sum = checksum::of(&file[..end]);
    put(&mut file, end, sum.to_le_bytes());
    file
}
