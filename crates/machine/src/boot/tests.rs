use super::entry::{COMMAND_LINE, START_INFO, ZERO_PAGE};
use super::sample::{LOAD_ADDRESS, bzimage, pvh_elf};
use super::*;
use donjon_x86::bits::{cr0, efer};
use donjon_x86::{Gpr, Seg};
use proptest::prelude::*;

mod packed;

const CODE: &[u8] = b"\xf4\xeb\xfd";
const RSDP: u64 = 0xe_0000;

fn source(kernel: Vec<u8>) -> BootSource {
    BootSource {
        kernel: Image::from_bytes(Role::Kernel, "vmlinuz", kernel).unwrap(),
        initrd: Some(Image::from_bytes(Role::Initrd, "initrd", b"070701 and so on".to_vec()).unwrap()),
        command_line: "console=ttyS0".into(),
    }
}

fn ram() -> Ram {
    Ram::new(16 << 20).unwrap()
}

fn bytes(ram: &Ram, address: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    ram.read(address, &mut out).unwrap();
    out
}

fn error(kernel: Vec<u8>) -> BootError {
    load(&source(kernel), &ram(), RSDP).unwrap_err()
}

#[test]
fn a_bzimage_is_entered_in_long_mode_with_its_boot_parameters() {
    let (ram, source) = (ram(), source(bzimage(CODE)));
    let state = load(&source, &ram, RSDP).unwrap();
    assert_eq!(state.rip, LOAD_ADDRESS + 0x200);
    assert_eq!(bytes(&ram, state.rip, CODE.len()), CODE);
    assert_eq!(state.gpr[Gpr::Rsi as usize], ZERO_PAGE);
    assert!(state.cr0 & cr0::PG != 0 && state.msrs.efer & efer::LMA != 0);
    let cs = state.segments[Seg::Cs as usize];
    assert!(cs.selector == 0x10 && cs.attributes.long() && !cs.attributes.big());

    let page = bytes(&ram, ZERO_PAGE, 4096);
    assert_eq!(&page[0x202..0x206], b"HdrS");
    assert_eq!(page[0x210], 0xff);
    assert_eq!(bytes::u64_at(&page, 0x70), RSDP);
    assert_eq!(bytes::u32_at(&page, 0x228), COMMAND_LINE as u32);
    assert_eq!(bytes(&ram, COMMAND_LINE, 14), b"console=ttyS0\0");
    let initrd = u64::from(bytes::u32_at(&page, 0x218));
    assert_eq!(initrd, (16 << 20) - 4096);
    assert_eq!(bytes::u32_at(&page, 0x21c), 16);
    assert_eq!(bytes(&ram, initrd, 6), b"070701");
    assert_eq!(page[0x1e8], 5);
    let last = 0x2d0 + 3 * 20;
    assert_eq!(bytes::u64_at(&page, last), 1 << 20);
    assert_eq!(bytes::u64_at(&page, last + 8), 15 << 20);
    assert_eq!(bytes::u32_at(&page, last + 16), 1);
}

#[test]
fn an_elf_is_entered_in_protected_mode_with_its_start_information() {
    let (ram, source) = (ram(), source(pvh_elf(CODE)));
    let state = load(&source, &ram, RSDP).unwrap();
    assert_eq!(state.rip, LOAD_ADDRESS);
    assert_eq!(bytes(&ram, state.rip, CODE.len()), CODE);
    assert_eq!(state.cr0 & (cr0::PE | cr0::PG), cr0::PE);
    let cs = state.segments[Seg::Cs as usize];
    assert!(cs.attributes.big() && !cs.attributes.long());

    let info = bytes(&ram, state.gpr[Gpr::Rbx as usize], 56);
    assert_eq!(bytes::u32_at(&info, 0), 0x336e_c578);
    assert_eq!(bytes::u32_at(&info, 12), 1, "modules");
    let module = bytes(&ram, bytes::u64_at(&info, 16), 16);
    assert_eq!(bytes(&ram, bytes::u64_at(&module, 0), 6), b"070701");
    assert_eq!(bytes::u64_at(&module, 8), 16);
    assert_eq!(bytes(&ram, bytes::u64_at(&info, 24), 14), b"console=ttyS0\0");
    assert_eq!(bytes::u64_at(&info, 32), RSDP);
    let map = bytes::u64_at(&info, 40);
    assert_eq!(bytes::u32_at(&info, 48), 5);
    assert!(map > START_INFO && map + 5 * 24 < ZERO_PAGE);
}

#[test]
fn every_cut_is_noticed() {
    for whole in [bzimage(&[0x90; 600]), pvh_elf(&[0x90; 600])] {
        for len in 1..whole.len() {
            let e = error(whole[..len].to_vec());
            assert!(
                matches!(e, BootError::Truncated { .. } | BootError::WrongKind { .. }),
                "{len}: {e}"
            );
        }
    }
}

#[test]
fn a_flipped_bit_in_the_code_is_noticed() {
    let whole = bzimage(&[0x90; 600]);
    for bit in [0x600 * 8, 0x700 * 8 + 3, whole.len() * 8 - 1] {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let e = error(flipped);
        assert!(e.to_string().contains("checksum"), "{e}");
    }
}

#[test]
fn signing_for_secure_boot_does_not_break_the_checksum() {
    let mut file = bzimage(CODE);
    // A PE32+ header as kernels have it, in place before the checksum is made.
    file[..2].copy_from_slice(b"MZ");
    file[0x3c] = 0x40;
    file[0x40..0x44].copy_from_slice(b"PE\0\0");
    file[0x58..0x5a].copy_from_slice(&0x20bu16.to_le_bytes());
    let end = file.len() - 4;
    let sum = checksum::of(&file[..end]);
    file[end..].copy_from_slice(&sum.to_le_bytes());
    file[0x58 + 64] = 0x4c;
    file[0x58 + 112 + 32] = 0x72;
    load(&source(file), &ram(), RSDP).unwrap();
}

#[test]
fn old_or_impossible_headers_are_refused() {
    let with = |at: usize, value: &[u8]| {
        let mut file = bzimage(CODE);
        file[at..at + value.len()].copy_from_slice(value);
        error(file)
    };
    assert!(with(0x206, &[0x0b, 2]).to_string().contains("boot protocol 2.11"));
    assert!(with(0x236, &[0]).to_string().contains("without a 64-bit entry"));
    assert!(with(0x1fe, &[0]).to_string().contains("boot flag"));
    assert!(with(0x1f4, &[0; 4]).to_string().contains("only 0 bytes"));
    assert!(with(0x258, &[0xff; 8]).to_string().contains("asks for"));
    let e = with(0x260, &[0, 0, 0, 0x10]);
    assert!(
        matches!(e, BootError::Memory { needed, .. } if needed > 256 << 20),
        "{e}"
    );
    assert_eq!(e.fix(), "give the domain more: --memory 512M");
}

#[test]
fn elf_files_without_a_way_in_are_refused() {
    let with = |at: usize, value: &[u8]| {
        let mut file = pvh_elf(CODE);
        file[at..at + value.len()].copy_from_slice(value);
        error(file)
    };
    let note = 64 + 2 * 56;
    let e = with(note + 8, &[1]);
    assert!(
        e.to_string().contains("a 64-bit ELF file without a PVH note"),
        "{e}"
    );
    assert!(e.fix().contains("bzImage"));
    assert!(
        with(note + 16, &[0, 0, 0, 9])
            .to_string()
            .contains("in none of its segments")
    );
    assert!(with(18, &[0xb7]).to_string().contains("arm64"));
    assert!(with(16, &[1]).to_string().contains("object file"));
    assert!(
        with(56, &[0xff, 0xff])
            .to_string()
            .contains("65535 program headers")
    );
    // The code segment's address, and its size in memory.
    assert!(with(64 + 24, &[0; 8]).to_string().contains("where no memory is"));
    assert!(with(64 + 24, &[0xff; 8]).to_string().contains("damaged"));
    let e = with(64 + 40, &[0, 0, 0, 0x10]);
    assert!(
        matches!(e, BootError::Memory { needed, .. } if needed > 256 << 20),
        "{e}"
    );
}

#[test]
fn a_32_bit_elf_boots_by_its_note_and_not_without() {
    let elf32 = |kind: u8| {
        let mut file = vec![0; 0x100];
        file[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
        let mut put16 = |at: usize, v: u16| file[at..at + 2].copy_from_slice(&v.to_le_bytes());
        for (at, value) in [(16, 2), (18, 3), (28, 52), (42, 32), (44, 2)] {
            put16(at, value);
        }
        let mut words = |at: usize, values: &[u32]| {
            for (i, v) in values.iter().enumerate() {
                file[at + i * 4..at + i * 4 + 4].copy_from_slice(&v.to_le_bytes());
            }
        };
        words(52, &[1, 0xf0, 0, LOAD_ADDRESS as u32, 16, 32, 5, 4]);
        words(84, &[4, 0xa0, 0, 0, 20, 20, 4, 4]);
        words(
            0xa0,
            &[
                4,
                4,
                kind.into(),
                u32::from_le_bytes(*b"Xen\0"),
                LOAD_ADDRESS as u32,
            ],
        );
        file
    };
    assert_eq!(load(&source(elf32(18)), &ram(), RSDP).unwrap().rip, LOAD_ADDRESS);
    assert!(
        error(elf32(17))
            .to_string()
            .contains("a 32-bit ELF file without a PVH note")
    );
}

#[test]
fn command_lines_that_do_not_fit_are_refused() {
    let mut s = source(bzimage(CODE));
    s.command_line = "x".repeat(2048);
    let e = load(&s, &ram(), RSDP).unwrap_err();
    assert_eq!(
        e.to_string(),
        "the kernel command line has 2048 bytes; this kernel takes 2047"
    );
    s.command_line = "a\0b".into();
    assert!(load(&s, &ram(), RSDP).unwrap_err().to_string().contains("NUL"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn changed_files_are_loaded_or_refused(
        elf: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut file = if elf { pvh_elf(CODE) } else { bzimage(CODE) };
        // Headers only; the rest is code.
        let headers = if elf { 0x100 } else { 0x300 };
        for (at, value) in changes {
            file[at.index(headers)] = value;
        }
        let _ = load(&source(file), &ram(), RSDP);
    }
}
