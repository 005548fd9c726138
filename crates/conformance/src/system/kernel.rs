//! The guest's tables and handlers.
//!
//! An exception or call is logged with all general registers. Faults then go on where the program said,
//! on its first stack, in the ring they came from; traps and calls where they happened.

use super::map::{selector, *};
use crate::layout::*;
use donjon_x86::bits::{cr0, cr4, efer, rflags, xcr0};
use donjon_x86::{CpuState, DescriptorTable, Segment, SegmentAttributes, exception};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

const ROOT: u64 = 0x1000;
const TSS: u64 = TABLES + 0x400;
const TSS_LIMIT: u32 = 0x67;
/// Tops of the stacks in the TSS.
const STACK_TOP: u64 = STACK + PAGE;
const CALL_STACK_TOP: u64 = CALL_STACK + PAGE;
const OUTSIDE_TOP: u64 = OUTSIDE + PAGE;
/// The counter of interrupts from outside.
const OUTSIDE_COUNT: i32 = OUTSIDE as i32;

/// General registers that a handler pushes.
const PUSHED: i32 = 15;
/// Behind them: vector, error code, RIP, CS, RFLAGS, RSP, SS.
const VECTOR: i32 = PUSHED * 8;
const RIP: i32 = VECTOR + 16;
const CS: i32 = VECTOR + 24;
const FLAGS: i32 = VECTOR + 32;
const RSP: i32 = VECTOR + 40;
const SS: i32 = VECTOR + 48;
const WORDS: i32 = PUSHED + 7;

/// Guest memory as it is at first, apart from program and data.
pub fn image() -> Vec<u8> {
    let mut m = vec![0u8; RAM_SIZE as usize];
    let put = |m: &mut Vec<u8>, at: u64, bytes: &[u8]| {
        let at = at as usize;
        m[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let word = |m: &mut Vec<u8>, at: u64, v: u64| put(m, at, &v.to_le_bytes());
    let table = page::P | page::W | page::U | page::AD;
    word(&mut m, ROOT, 0x2000 | table);
    word(&mut m, 0x2000, 0x3000 | table);
    word(&mut m, 0x3000 + (BASE >> 21 & 0x1ff) * 8, 0x4000 | table);
    for (linear, at, pages) in PAGES {
        for n in 0..pages {
            let rights = rights(linear);
            word(
                &mut m,
                physical(entry(linear + n * PAGE)),
                (at + n * PAGE) | rights,
            );
        }
    }
    let gdt: [u64; 10] = [
        0,
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0,
        TSS_LIMIT as u64 | (TSS & 0xff_ffff) << 16 | 0x8b << 40 | (TSS >> 24 & 0xff) << 56,
        TSS >> 32,
    ];
    for (n, d) in (0u64..).zip(gdt) {
        word(&mut m, physical(TABLES) + n * 8, d);
    }
    let tss = physical(TSS);
    for (offset, stack) in [(4, CALL_STACK_TOP), (36, STACK_TOP), (44, OUTSIDE_TOP)] {
        word(&mut m, tss + offset, stack);
    }
    put(&mut m, tss + 0x66, &(TSS_LIMIT as u16 + 1).to_le_bytes());
    for v in 0..=255u8 {
        let entry = ENTRIES + v as u64 * 16;
        let stack = match v {
            vector::CALL => 0,
            vector::OUTSIDE => 2,
            _ => 1,
        };
        let open = matches!(v, exception::BP | exception::OF | 0x80..=0x84);
        let kind: u64 = if open { 0xee } else { 0x8e };
        let gate = entry & 0xffff
            | (selector::KERNEL as u64) << 16
            | stack << 32
            | kind << 40
            | (entry >> 16 & 0xffff) << 48;
        word(&mut m, physical(IDT) + v as u64 * 16, gate);
        word(&mut m, physical(IDT) + v as u64 * 16 + 8, entry >> 32);
        put(&mut m, physical(entry), &entry_code(v));
    }
    let handlers = assemble(HANDLERS, handlers);
    assert!(handlers.len() < PAGE as usize);
    put(&mut m, physical(HANDLERS), &handlers);
    let end = assemble(STUB_FALL, |a| a.int(vector::END as i32));
    put(&mut m, physical(STUB_FALL), &end);
    for (n, &frame) in (1..).zip(&FRAMES) {
        put(&mut m, physical(frame), &function(n));
    }
    m
}

/// The rights of the pages at an address at first. Those of the program's own pages are not accessed yet.
fn rights(linear: u64) -> u64 {
    use page::*;
    match linear {
        CODE | REMAPPED => P | U | W,
        ALIAS | GUARDED | SCRATCH => P | U | W | NX,
        READ_ONLY => P | U | NX,
        a if FRAMES.contains(&a) => P | U | W | NX,
        SHARED => P | U | W | NX | AD,
        STUB => P | U | AD,
        _ => P | W | AD,
    }
}

fn assemble(at: u64, f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    let mut a = CodeAssembler::new(64).expect("64 bits are supported");
    f(&mut a)
        .and_then(|()| a.assemble(at))
        .expect("known instructions")
}

/// What the remapped page holds: ADD EAX, constant; INC of a word; RET.
fn function(n: u32) -> Vec<u8> {
    assemble(REMAPPED, |a| {
        a.add(eax, 0x0101_0101 * n as i32)?;
        a.inc(dword_ptr(SCRATCH + 0x40 * n as u64))?;
        a.lea(ecx, dword_ptr(rcx + n as i32))?;
        a.ret()
    })
}

fn entry_code(v: u8) -> Vec<u8> {
    assemble(ENTRIES + v as u64 * 16, |a| {
        match v {
            vector::END => return a.hlt(),
            vector::OUTSIDE => {
                a.inc(qword_ptr(OUTSIDE_COUNT))?;
                return a.iretq();
            }
            _ if !exception::has_error_code(v) => a.push(0)?,
            _ => {}
        }
        a.push(v as i32)?;
        a.jmp(HANDLERS)
    })
}

/// All of them but the counter of interrupts.
fn handlers(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let pushed = [
        r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax,
    ];
    let (mut all, mut fault, mut debug) = (a.create_label(), a.create_label(), a.create_label());
    let (mut up, mut down, mut copy) = (a.create_label(), a.create_label(), a.create_label());
    let (mut out, mut not_page, mut stop) = (a.create_label(), a.create_label(), a.create_label());
    a.set_label(&mut all)?;
    for r in pushed.iter().rev() {
        a.push(*r)?;
    }
    a.stac()?;
    // The log.
    a.mov(rbx, qword_ptr(LOGGED))?;
    a.mov(ecx, ebx)?;
    a.and(ecx, RECORDS as i32 - 1)?;
    a.shl(ecx, RECORD.trailing_zeros())?;
    a.lea(rdi, qword_ptr(rcx + LOG as i32))?;
    a.inc(rbx)?;
    a.mov(qword_ptr(LOGGED), rbx)?;
    a.xor(esi, esi)?;
    a.set_label(&mut copy)?;
    a.mov(rdx, qword_ptr(rsp + rsi * 8))?;
    a.mov(qword_ptr(rdi + rsi * 8), rdx)?;
    a.inc(esi)?;
    a.cmp(esi, WORDS)?;
    a.jb(copy)?;
    a.mov(rax, qword_ptr(rsp + VECTOR))?;
    a.cmp(eax, exception::PF as i32)?;
    a.jne(not_page)?;
    a.mov(rdx, cr2)?;
    a.mov(qword_ptr(rdi + rsi * 8), rdx)?;
    a.set_label(&mut not_page)?;
    a.cmp(ebx, MOST_EVENTS as i32)?;
    a.ja(stop)?;
    // Which.
    a.cmp(eax, vector::UP as i32)?;
    a.je(up)?;
    a.cmp(eax, vector::DOWN as i32)?;
    a.je(down)?;
    a.cmp(eax, exception::DB as i32)?;
    a.je(debug)?;
    a.cmp(eax, exception::BP as i32)?;
    a.je(out)?;
    a.cmp(eax, 32)?;
    a.jb(fault)?;
    a.set_label(&mut out)?;
    for r in pushed {
        a.pop(r)?;
    }
    a.add(rsp, 16)?;
    a.iretq()?;

    a.set_label(&mut stop)?;
    a.hlt()?;

    a.set_label(&mut fault)?;
    a.mov(rdx, qword_ptr(RESUME))?;
    a.mov(qword_ptr(rsp + RIP), rdx)?;
    a.mov(qword_ptr(rsp + RSP), SCRATCH as i32 + FIRST_STACK)?;
    // With AC ring 0 reaches the program's pages whatever SMAP says; without TF it gets on.
    a.or(dword_ptr(rsp + FLAGS), rflags::AC as i32)?;
    a.and(dword_ptr(rsp + FLAGS), !(rflags::TF as i32))?;
    a.jmp(out)?;

    a.set_label(&mut debug)?;
    // Resume past an instruction breakpoint.
    a.or(dword_ptr(rsp + FLAGS), rflags::RF as i32)?;
    a.dec(dword_ptr(STEPS))?;
    a.jg(out)?;
    a.and(dword_ptr(rsp + FLAGS), !(rflags::TF as i32))?;
    a.jmp(out)?;

    a.set_label(&mut up)?;
    a.mov(qword_ptr(rsp + CS), selector::KERNEL as i32)?;
    a.mov(qword_ptr(rsp + SS), selector::KERNEL_DATA as i32)?;
    a.or(dword_ptr(rsp + FLAGS), rflags::AC as i32)?;
    a.jmp(out)?;

    a.set_label(&mut down)?;
    a.mov(qword_ptr(rsp + CS), selector::USER as i32)?;
    a.mov(qword_ptr(rsp + SS), selector::USER_DATA as i32)?;
    a.jmp(out)
}

/// Offset of the program's first stack pointer in the scratch area.
const FIRST_STACK: i32 = crate::program::FIRST_STACK as i32;

/// Where SYSCALL leads: counts, and returns to ring 3.
pub const SYSCALL: u64 = ENTRIES + 0x80 * 16;
/// Where it leads as an alternative: returns without a change of ring.
pub const SYSCALL_STAY: u64 = ENTRIES + 0xe0 * 16;

/// The two of them, for memory.
pub fn system_calls() -> [(u64, Vec<u8>); 2] {
    let back = assemble(SYSCALL, |a| {
        a.inc(qword_ptr(CALLS))?;
        a.sysretq()
    });
    let stay = assemble(SYSCALL_STAY, |a| {
        a.inc(qword_ptr(CALLS))?;
        a.jmp(rcx)
    });
    [(SYSCALL, back), (SYSCALL_STAY, stay)]
}

/// The state at the program's first instruction, but for what the program says itself.
pub fn state(smap: bool) -> CpuState {
    let mut s = CpuState::reset();
    s.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::PG;
    s.cr3 = ROOT;
    s.cr4 = cr4::PAE | cr4::PGE | cr4::DE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::FSGSBASE | cr4::OSXSAVE;
    if smap {
        s.cr4 |= cr4::SMAP;
    }
    s.msrs.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    s.msrs.star = (selector::KERNEL as u64) << 32 | (selector::USER as u64 - 16) << 48;
    s.msrs.lstar = SYSCALL;
    s.msrs.fmask = rflags::IF | rflags::TF | rflags::DF;
    s.xcr0 = xcr0::X87 | xcr0::SSE | xcr0::AVX;
    s.gdtr = DescriptorTable {
        base: TABLES,
        limit: 0x7f,
    };
    s.idtr = DescriptorTable {
        base: IDT,
        limit: 0xfff,
    };
    let segment = |selector, limit, kind| Segment {
        selector,
        base: 0,
        limit,
        attributes: SegmentAttributes(kind),
    };
    // A return to ring 3 clears those of ring 0, whenever an interrupt brings one about.
    s.segments = [segment(selector::USER_DATA, u32::MAX, 0xc0f3); 6];
    s.segments[2] = segment(selector::KERNEL_DATA, u32::MAX, 0xc093);
    s.segments[1] = segment(selector::KERNEL, u32::MAX, 0xa09b);
    s.tr = Segment {
        base: TSS,
        ..segment(selector::TASK, TSS_LIMIT, 0x8b)
    };
    s.ldtr = Segment::null(0, 2);
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_stretches_overlap() {
        for (n, (linear, at, pages)) in PAGES.iter().enumerate() {
            for (l, a, p) in &PAGES[n + 1..] {
                assert!(
                    linear + pages * PAGE <= *l || l + p * PAGE <= *linear,
                    "{linear:x} {l:x}"
                );
                let same = at == a;
                assert!(
                    same || at + pages * PAGE <= *a || a + p * PAGE <= *at,
                    "{at:x} {a:x}"
                );
            }
        }
    }

    #[test]
    fn handlers_fit() {
        let m = image();
        assert_eq!(m.len(), RAM_SIZE as usize);
        for v in 0..=255 {
            assert!(entry_code(v).len() <= 16);
        }
        for (_, code) in system_calls() {
            assert!(code.len() <= 16);
        }
    }
}
