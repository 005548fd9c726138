//! Code that changes (Intel SDM vol. 3A §9.1.3, §12.6): on one processor a store is seen by the next
//! instruction fetched; between processors once both sides serialise.

use crate::layout::*;
use crate::machine::*;
use donjon_x86::CpuState;
use donjon_x86::Gpr::*;
use iced_x86::code_asm::*;

/// A linear page for remapping.
const L: u64 = 0x1234_5678_9000;
/// MOV AL, 1 / MOV AL, 2 … is B0 nn.
const MOV_AL: u8 = 0xb0;

/// A store that changes an instruction further on in the same straight run.
#[test]
fn a_store_ahead_in_the_same_run() {
    for distance in 0..40u64 {
        let mut m = Machine::long();
        m.set(Rbx, CODE + 3 + distance + 1);
        let mut code = vec![0xc6, 0x03, 0x22]; // mov byte [rbx], 22
        code.extend(vec![0x90; distance as usize]);
        code.extend([MOV_AL, 0x11, 0xf4]);
        m.write(CODE, &code);
        m.halts();
        assert_eq!(m.reg(Rax), 0x22, "{distance}");
    }
}

/// A loop that counts its own immediate up.
#[test]
fn a_loop_that_changes_itself() {
    let mut m = Machine::long();
    m.set(Rcx, 100);
    m.set(Rbx, CODE + 2);
    m.write(
        CODE,
        &[
            0x83, 0xc0, 0x01, // add eax, 1
            0xfe, 0x03, // inc byte [rbx]: the immediate
            0xff, 0xc9, // dec ecx
            0x75, 0xf7, // jnz back
            0xf4,
        ],
    );
    m.halts();
    assert_eq!(m.reg(Rax), (1..=100).sum::<u64>());
}

/// An instruction over a page boundary whose tail is changed; and one changed by a wide store over it.
#[test]
fn code_across_pages() {
    let at = CODE + 0xffe; // b8 44 | 33 22 11: mov eax, imm32
    let mut m = Machine::long();
    m.write(
        at,
        &[
            0xb8, 0x44, 0x33, 0x22, 0x11, 0xff, 0xc9, 0x74, 0x05, 0xff, 0x03, 0xeb, 0xf3, 0x90, 0xf4,
        ],
    );
    // dec ecx; jz out; inc dword [rbx]; jmp back
    m.set(Rcx, 3);
    m.set(Rbx, at + 2);
    m.state.rip = at;
    m.halts();
    assert_eq!(m.reg(Rax), 0x1122_3544);
    // The first page's byte, through a store that covers both pages.
    let mut m = Machine::long();
    m.write(
        at,
        &[
            0xb8, 0x44, 0x33, 0x22, 0x11, 0xff, 0xc9, 0x74, 0x05, 0x89, 0x13, 0xeb, 0xf3, 0x90, 0xf4,
        ],
    );
    m.set(Rcx, 2);
    m.set(Rbx, at + 1);
    m.set(Rdx, 0x5566_7788);
    m.state.rip = at;
    m.halts();
    assert_eq!(m.reg(Rax), 0x5566_7788);
}

/// §12.6: the change may come through another linear address of the same memory.
#[test]
fn aliased_mappings() {
    let mut m = Machine::long();
    m.map(L, (CODE + 0x1000) | P | RW);
    m.write(CODE + 0x1000, &[MOV_AL, 0x11, 0xc3]);
    m.code(CODE, |a| {
        a.call(CODE + 0x1000)?;
        a.mov(r8, rax)?;
        a.mov(rbx, L)?;
        a.mov(byte_ptr(rbx + 1), 0x22)?;
        a.call(CODE + 0x1000)?;
        a.mov(r9, rax)?;
        // And the same code run at both addresses.
        a.mov(byte_ptr(CODE + 0x1001), 0x33)?;
        a.call(rbx)?;
        a.hlt()
    });
    m.halts();
    assert_eq!((m.reg(R8), m.reg(R9), m.reg(Rax)), (0x11, 0x22, 0x33));
}

/// §4.10.4: a linear page that gets other memory, with INVLPG, and with a new CR3.
#[test]
fn remapped_code() {
    for invlpg in [true, false] {
        let mut m = Machine::long();
        m.map(L, FREE | P | RW);
        m.write(FREE, &[MOV_AL, 0x11, 0xc3]);
        m.write(FREE + 0x1000, &[MOV_AL, 0x22, 0xc3]);
        let entry = m.entry(L, 12);
        m.code(CODE, |a| {
            a.mov(rbx, L)?;
            a.call(rbx)?;
            a.mov(r8, rax)?;
            a.mov(rcx, entry)?;
            a.mov(rdx, (FREE + 0x1000) | P | RW)?;
            a.mov(qword_ptr(rcx), rdx)?;
            if invlpg {
                a.invlpg(ptr(rbx))?;
            } else {
                a.mov(rax, cr3)?;
                a.mov(cr3, rax)?;
            }
            a.call(rbx)?;
            a.hlt()
        });
        m.halts();
        assert_eq!((m.reg(R8) & 0xff, m.reg(Rax) & 0xff), (0x11, 0x22));
    }
    // Only the second page of an instruction that runs over two.
    let mut m = Machine::long();
    m.map(L, FREE | P);
    m.map(L + 0x1000, (FREE + 0x1000) | P);
    m.write(FREE + 0xfff, &[MOV_AL, 0x11, 0xc3]);
    m.write(FREE + 0x2000, &[0x22, 0xc3]);
    let entry = m.entry(L + 0x1000, 12);
    m.code(CODE, |a| {
        a.mov(rbx, L + 0xfff)?;
        a.call(rbx)?;
        a.mov(r8, rax)?;
        a.mov(rcx, entry)?;
        a.mov(rdx, (FREE + 0x2000) | P)?;
        a.mov(qword_ptr(rcx), rdx)?;
        a.invlpg(ptr(rbx + 1))?;
        a.call(rbx)?;
        a.hlt()
    });
    m.halts();
    assert_eq!((m.reg(R8) & 0xff, m.reg(Rax) & 0xff), (0x11, 0x22));
}

/// The same bytes mean different things in 16-, 32- and 64-bit code; each is decoded for itself.
#[test]
fn the_same_bytes_in_other_modes() {
    let mut m = Machine::long();
    let bytes = [0x48, 0xb8, 0x01, 0x02, 0x03, 0x04, 0x90, 0x90, 0x90, 0x90, 0xf4];
    m.write(CODE, &bytes); // mov rax, imm64 — or dec eax; mov eax, imm32
    m.set(Rax, 0);
    m.halts();
    assert_eq!(m.reg(Rax), 0x9090_9090_0403_0201);
    m.compatibility(0);
    m.state.rip = CODE;
    m.halts();
    assert_eq!(m.reg(Rax), 0x0403_0201);
}

/// Repeated stores over code that has been run.
#[test]
fn string_instructions_over_code() {
    let mut m = Machine::long();
    m.write(CODE + 0x1000, &[MOV_AL, 0x11, 0xc3]);
    m.write(DATA, &[MOV_AL, 0x22, 0xc3]);
    m.code(CODE, |a| {
        a.call(CODE + 0x1000)?;
        a.mov(rsi, DATA)?;
        a.mov(rdi, CODE + 0x1000)?;
        a.mov(ecx, 3)?;
        a.rep().movsb()?;
        a.call(CODE + 0x1000)?;
        a.mov(r8, rax)?;
        a.mov(rdi, CODE + 0x1000)?;
        a.mov(ecx, 8)?;
        a.mov(eax, 0xc3c3_c3c3u32)?;
        a.rep().stosd()?;
        a.mov(eax, 5)?;
        a.call(CODE + 0x1000)?;
        a.hlt()
    });
    m.halts();
    assert_eq!((m.reg(R8) & 0xff, m.reg(Rax)), (0x22, 5));
}

/// The host (a disk, a debugger) writes over code that has been run.
#[test]
fn writes_by_the_host() {
    let mut m = Machine::long();
    for n in 0..50u8 {
        m.write(CODE, &[MOV_AL, n, 0xf4]);
        // The state is loaded anew, the decoded code is not.
        m.state.rip = CODE;
        m.halts();
        assert_eq!(m.reg(Rax), n as u64);
    }
}

/// §9.1.3: cross-modifying code: one processor changes an instruction, says so, and the other, having
/// serialised, runs the new one.
#[test]
fn another_processor_changes_code() {
    const ROUNDS: u32 = 2000;
    let mut m = Machine::long_with(2);
    let target = CODE + 0x2000;
    m.write(target, &[0xb8, 0, 0, 0, 0, 0xc3]); // mov eax, n; ret
    // vCPU 0 stores n into the instruction, then into DATA, and waits for DATA + 64 to follow.
    m.code(CODE, |a| {
        let (mut top, mut wait) = (a.create_label(), a.create_label());
        a.mov(ebx, 1)?;
        a.set_label(&mut top)?;
        a.mov(dword_ptr(target + 1), ebx)?;
        a.mov(dword_ptr(DATA), ebx)?;
        a.set_label(&mut wait)?;
        a.pause()?;
        a.cmp(dword_ptr(DATA + 64), ebx)?;
        a.jne(wait)?;
        a.inc(ebx)?;
        a.cmp(ebx, ROUNDS + 1)?;
        a.jne(top)?;
        a.hlt()
    });
    // vCPU 1 waits for n, serialises, runs the instruction and compares; R8 counts mistakes.
    m.code(USER_CODE, |a| {
        let (mut top, mut good) = (a.create_label(), a.create_label());
        a.mov(esi, 1)?;
        a.xor(r8d, r8d)?;
        a.set_label(&mut top)?;
        a.pause()?;
        a.cmp(dword_ptr(DATA), esi)?;
        a.jne(top)?;
        a.xor(eax, eax)?;
        a.cpuid()?;
        a.call(target)?;
        a.cmp(eax, esi)?;
        a.je(good)?;
        a.inc(r8)?;
        a.set_label(&mut good)?;
        a.mov(dword_ptr(DATA + 64), esi)?;
        a.inc(esi)?;
        a.cmp(esi, ROUNDS + 1)?;
        a.jne(top)?;
        a.hlt()
    });
    let second = CpuState {
        rip: USER_CODE,
        ..m.state.clone()
    };
    let first = m.state.clone();
    let end = m.run_all(&[first, second]);
    assert_eq!(
        (end[1].gpr[R8 as usize], end[1].gpr[Rsi as usize]),
        (0, ROUNDS as u64 + 1)
    );
}
