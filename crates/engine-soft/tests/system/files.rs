//! Files as guest memory: stores to a read-only one are ignored, by the interpreter and by translated code; code runs
//! in them; page tables may lie in them.

use crate::layout::*;
use crate::machine::*;
use donjon_memory::{MemoryFile, Ram};
use donjon_x86::Gpr::*;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Guest-physical addresses.
const READ_ONLY: u64 = 0xc0_0000_0000;
const WRITABLE: u64 = 0xc0_4000_0000;
/// Where they are mapped.
const L: u64 = 0x1234_5678_9000;
const LEN: u64 = 0x4000;
const OLD: u64 = 0x1122_3344_5566_7788;
/// More than it takes until code is translated.
const ROUNDS: u32 = 200;

struct Files {
    m: Machine,
    read_only: Arc<File>,
    writable: Arc<File>,
}

impl Files {
    /// A machine of one processor, or of more, which has another mapping for translated code.
    fn new(vcpus: usize) -> Self {
        let file = |read_only| {
            let file = Arc::new(tempfile::tempfile().unwrap());
            for n in 0..LEN / 8 {
                file.write_all_at(&OLD.to_le_bytes(), n * 8).unwrap();
            }
            MemoryFile {
                file,
                len: LEN,
                read_only,
            }
        };
        let (read_only, writable) = (file(true), file(false));
        let files = [(READ_ONLY, read_only.clone()), (WRITABLE, writable.clone())];
        let ram = Ram::with_files(RAM_SIZE, &files).unwrap();
        let mut m = Machine::with_ram(vcpus, "x86-64-v3", ram).in_long_mode();
        for page in (0..LEN).step_by(0x1000) {
            m.map(L + page, (READ_ONLY + page) | P | RW);
            m.map(L + LEN + page, (WRITABLE + page) | P | RW);
        }
        Self {
            m,
            read_only: read_only.file,
            writable: writable.file,
        }
    }

    /// Runs `body` often.
    fn run(&mut self, body: &[u8]) {
        // mov r15d, ROUNDS; again: body; dec r15d; jnz again; hlt
        let mut code = vec![0x41, 0xbf];
        code.extend(ROUNDS.to_le_bytes());
        code.extend(body);
        code.extend([0x41, 0xff, 0xcf, 0x0f, 0x85]);
        code.extend((-(body.len() as i32) - 9).to_le_bytes());
        code.push(0xf4);
        self.m.write(CODE, &code);
        self.m.halts();
    }
}

fn content(file: &File) -> Vec<u8> {
    let mut all = vec![0; LEN as usize];
    file.read_exact_at(&mut all, 0).unwrap();
    all
}

#[test]
fn stores_to_a_read_only_file_are_ignored() {
    let bodies: [&[u8]; 12] = [
        &[0x48, 0x89, 0x13],                                     // mov [rbx], rdx
        &[0xc6, 0x03, 0x01],                                     // mov byte [rbx], 1
        &[0x48, 0xff, 0x03],                                     // inc qword [rbx]
        &[0xf0, 0x48, 0xff, 0x03],                               // lock inc qword [rbx]
        &[0x48, 0x87, 0x13, 0x48, 0x87, 0x13],                   // xchg [rbx], rdx, twice
        &[0xf0, 0x48, 0x0f, 0xc1, 0x13],                         // lock xadd [rbx], rdx
        &[0x0f, 0x11, 0x03],                                     // movups [rbx], xmm0
        &[0xc5, 0xfc, 0x11, 0x03],                               // vmovups [rbx], ymm0
        &[0x48, 0x0f, 0xc3, 0x13],                               // movnti [rbx], rdx
        &[0xb9, 9, 0, 0, 0, 0x48, 0x89, 0xdf, 0xf3, 0x48, 0xab], // mov ecx, 9; mov rdi, rbx; rep stosq
        // mov ecx, 9; mov rdi, rbx; lea rsi, [rsp]; rep movsq
        &[
            0xb9, 9, 0, 0, 0, 0x48, 0x89, 0xdf, 0x48, 0x8d, 0x34, 0x24, 0xf3, 0x48, 0xa5,
        ],
        &[0x0f, 0xae, 0x03], // fxsave [rbx]
    ];
    for vcpus in [1, 2] {
        for (n, body) in bodies.into_iter().enumerate() {
            // The last: over two pages of it, where that is allowed.
            for at in [L, L + 0x1010, L + 0x1ffc] {
                if body == bodies[11] && at & 15 != 0 {
                    continue;
                }
                let mut f = Files::new(vcpus);
                let before = content(&f.read_only);
                f.m.set(Rbx, at);
                f.m.set(Rdx, 5);
                f.run(body);
                assert!(content(&f.read_only) == before, "{n} at {at:x}");
                assert!(f.m.ram.ignored_stores(READ_ONLY), "{n} at {at:x}");
                // The same to the other is not.
                let mut f = Files::new(vcpus);
                f.m.set(Rbx, at + LEN);
                f.m.set(Rdx, 5);
                f.run(body);
                let same = content(&f.writable) == before;
                // Exchanging twice leaves what was there.
                assert_eq!(same, n == 4, "{n} at {at:x}");
            }
        }
    }
}

/// CMPXCHG compares, and says what it would have done.
#[test]
fn locked_comparisons_in_a_read_only_file() {
    for vcpus in [1, 2] {
        for wide in [false, true] {
            let mut f = Files::new(vcpus);
            let before = content(&f.read_only);
            f.m.set(Rbx, L);
            f.m.set(R8, OLD);
            // mov rax, r8; mov rdx, r8; xor ecx, ecx; lock cmpxchg [rbx], rcx or cmpxchg16b [rbx]; setz r9b;
            // add r10, r9
            let mut body = vec![0x4c, 0x89, 0xc0, 0x4c, 0x89, 0xc2, 0x31, 0xc9];
            body.extend(match wide {
                true => [0xf0, 0x48, 0x0f, 0xc7, 0x0b],
                false => [0xf0, 0x48, 0x0f, 0xb1, 0x0b],
            });
            body.extend([0x41, 0x0f, 0x94, 0xc1, 0x4d, 0x01, 0xca]);
            f.run(&body);
            assert_eq!(
                (f.m.reg(Rax), f.m.reg(R10)),
                (OLD, u64::from(ROUNDS)),
                "equal each time"
            );
            assert!(content(&f.read_only) == before);
        }
    }
}

#[test]
fn code_runs_in_files() {
    for vcpus in [1, 2] {
        let mut f = Files::new(vcpus);
        // call rsi; add r14, rax
        let call = [0xff, 0xd6, 0x49, 0x01, 0xc6];
        let seven = [0xb8, 7, 0, 0, 0, 0xc3]; // mov eax, 7; ret
        f.read_only.write_all_at(&seven, 0x1100).unwrap();
        f.m.set(Rsi, L + 0x1100);
        f.run(&call);
        assert_eq!(f.m.reg(R14), 7 * u64::from(ROUNDS));
        // In the writable file, where the guest changes it each time: inc byte [rsi + 1] before the call.
        f.m.write(WRITABLE + 0x2ff0, &seven);
        let mut f2 = vec![0xfe, 0x46, 0x01];
        f2.extend(call);
        f.m.state.rip = CODE;
        f.m.set(Rsi, L + LEN + 0x2ff0);
        f.m.set(R14, 0);
        f.run(&f2);
        let expected: u64 = (1..=u64::from(ROUNDS)).map(|n| (7 + n) & 0xff).sum();
        assert_eq!(f.m.reg(R14), expected);
        assert_eq!(content(&f.writable)[0x2ff1], (7 + ROUNDS) as u8);
    }
}

/// Accessed and dirty bits are stores like others.
#[test]
fn page_tables_in_a_read_only_file() {
    let mut f = Files::new(1);
    let entry = f.m.entry(L, 21);
    f.m.write64(entry, READ_ONLY | P | RW);
    let page = (FREE + 0x7000) | P | RW;
    for n in 0..512 {
        f.read_only.write_all_at(&page.to_le_bytes(), n * 8).unwrap();
    }
    let before = content(&f.read_only);
    f.m.set(Rbx, L);
    f.run(&[0x48, 0xff, 0x03]); // inc qword [rbx]
    assert_eq!(f.m.read64(FREE + 0x7000), u64::from(ROUNDS));
    assert!(content(&f.read_only) == before);
}
