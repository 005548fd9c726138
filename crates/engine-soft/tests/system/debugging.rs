//! Debug exceptions (Intel SDM vol. 3B ch. 18).

use crate::layout::*;
use crate::machine::*;
use donjon_x86::Gpr::*;
use donjon_x86::bits::{cr4 as cr4_bits, rflags};
use donjon_x86::exception::*;
use iced_x86::code_asm::*;

/// DR6 with nothing noted.
const CLEAR: u64 = 0xffff_0ff0;
const BS: u64 = 1 << 14;
const BD: u64 = 1 << 13;

/// DR7 with breakpoint `n` globally enabled: `rw` 0 execute, 1 write, 2 I/O, 3 access; length code `len`.
fn enable(n: u32, rw: u64, len: u64) -> u64 {
    0x400 | 2 << (2 * n) | rw << (16 + 4 * n) | len << (18 + 4 * n)
}

fn watched(n: u32, at: u64, rw: u64, len: u64, code: &[u8]) -> Machine {
    let mut m = Machine::long();
    m.state.dr[n as usize] = at;
    m.state.dr7 = enable(n, rw, len);
    m.state.dr6 = CLEAR;
    m.write(CODE, code);
    m
}

/// Where the debug handler is entered, over and over, while a program is single-stepped to its HLT.
fn steps(m: &mut Machine) -> Vec<u64> {
    // The handler keeps a list of return addresses at DATA; R15 points at its end.
    m.code(HANDLERS + 0x800, |a| {
        a.mov(r14, qword_ptr(rsp))?;
        a.mov(qword_ptr(r15), r14)?;
        a.add(r15, 8)?;
        a.iretq()
    });
    m.set_gate64(DB, KERNEL64, HANDLERS + 0x800, 0x8e, 1);
    m.set(R15, DATA);
    m.halts();
    (DATA..m.reg(R15)).step_by(8).map(|at| m.read64(at)).collect()
}

/// §18.3.1.4: a trap after every instruction; the handler runs with TF clear.
#[test]
fn single_step() {
    let mut m = Machine::long();
    m.state.rflags |= rflags::TF;
    let c = m.code(CODE, |a| {
        a.nop()?;
        a.inc(eax)
    });
    let t = m.faults(DB, 0);
    assert_eq!((t.rip, m.state.dr6), (c.at[1], CLEAR | BS));
    assert!(t.flags & rflags::TF != 0 && t.flags & rflags::RF == 0);
    assert_eq!(m.state.rflags & rflags::TF, 0);
    // POPF that sets TF is not itself followed by a trap; POPF that clears it is.
    let mut m = Machine::long();
    let c = m.code(CODE, |a| {
        a.push(0x102)?;
        a.popfq()?;
        a.nop()?;
        a.inc(eax)?;
        a.push(2)?;
        a.popfq()?;
        a.nop()?;
        a.hlt()
    });
    assert_eq!(steps(&mut m), c.at[3..7]);
    // IRET that sets it likewise, and each iteration of a repeated instruction traps.
    let mut m = Machine::long();
    let c = m.code(CODE, |a| {
        a.mov(ecx, 3)?;
        a.mov(rsi, DATA + 0x800)?;
        a.push(0x102)?;
        a.popfq()?;
        a.rep().lodsb()?;
        a.push(2)?;
        a.popfq()?;
        a.hlt()
    });
    let rep = c.at[4];
    assert_eq!(steps(&mut m), [rep, rep, c.at[5], c.at[6], c.at[7]]);
    // Between iterations RF is set in the image (§18.3.1.1).
    let mut m = Machine::long();
    m.set(Rcx, 2);
    m.set(Rsi, DATA);
    m.state.rflags |= rflags::TF;
    m.write(CODE, &[0xf3, 0xac]);
    let t = m.faults(DB, 0);
    assert_eq!((t.rip, t.flags & rflags::RF), (CODE, rflags::RF));
    m.set(Rcx, 1);
    m.state.rip = CODE;
    m.state.rflags |= rflags::TF;
    let t = m.faults(DB, 0);
    assert_eq!((t.rip, t.flags & rflags::RF), (CODE + 2, 0));
}

/// §18.3.1.4: INT clears TF without a trap of its own; a fault is delivered instead of the trap.
#[test]
fn single_step_into_handlers() {
    let mut m = Machine::long();
    m.state.rflags |= rflags::TF;
    let c = m.code(CODE, |a| a.int(0x40));
    let t = m.faults(0x40, 0);
    assert_eq!((t.rip, t.flags & rflags::TF), (c.end, rflags::TF));
    assert_eq!(m.state.dr6 & BS, 0);
    let mut m = Machine::long();
    m.state.rflags |= rflags::TF;
    m.code(CODE, |a| a.ud2());
    m.faults(UD, 0);
    assert_eq!(m.state.dr6 & BS, 0);
    // HLT traps rather than sleeps.
    let mut m = Machine::long();
    m.state.rflags |= rflags::TF;
    m.code(CODE, |a| a.hlt());
    assert_eq!(m.faults(DB, 0).rip, CODE + 1);
}

/// §6.8.3: no trap, no instruction breakpoint right after MOV or POP to SS; after LSS there is one.
#[test]
fn loads_of_ss_hold_traps_off() {
    let mut m = Machine::long();
    let c = m.code(CODE, |a| {
        a.mov(eax, ss)?;
        a.push(0x102)?;
        a.popfq()?;
        a.mov(ss, ax)?;
        a.nop()?;
        a.push(2)?;
        a.popfq()?;
        a.hlt()
    });
    assert_eq!(steps(&mut m), c.at[5..8]);
    let mut m = Machine::long();
    m.state.rflags |= rflags::TF;
    m.write32(DATA, 0x1234);
    m.write16(DATA + 4, KERNEL_DATA);
    m.write(CODE, &[0x0f, 0xb2, 0x03]); // lss eax, [rbx]
    m.set(Rbx, DATA);
    assert_eq!(m.faults(DB, 0).rip, CODE + 3);
    // A data breakpoint met by MOV SS is reported after the next instruction.
    let mut m = watched(0, DATA, 3, 1, &[0x8e, 0x13, 0x90, 0x90]); // mov ss, [rbx]; nop
    m.write16(DATA, KERNEL_DATA);
    m.set(Rbx, DATA);
    let t = m.faults(DB, 0);
    assert_eq!((t.rip, m.state.dr6), (CODE + 3, CLEAR | 1));
    // An instruction breakpoint right behind is passed over.
    let mut m = watched(1, CODE + 2, 0, 0, &[0x8e, 0xd0, 0x90, 0xf4]);
    m.set(Rax, KERNEL_DATA as u64);
    m.halts();
}

/// Vol. 2B, SYSCALL and SYSRET: the trap goes by the new flags.
#[test]
fn single_step_over_system_calls() {
    let arm = || {
        let mut m = Machine::long();
        m.state.msrs.star = (KERNEL64 as u64) << 32 | (USER32 as u64) << 48;
        m.state.msrs.lstar = CODE;
        m
    };
    let mut m = arm();
    m.user();
    m.state.msrs.fmask = rflags::TF;
    m.state.rflags |= rflags::TF;
    m.code(USER_CODE, |a| a.syscall());
    m.code(CODE, |a| {
        a.nop()?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.reg(R11) & rflags::TF, rflags::TF);
    // Not masked: a trap at the entry point.
    m.user();
    m.state.msrs.fmask = 0;
    m.state.rflags |= rflags::TF;
    assert_eq!(m.faults(DB, 0).rip, CODE);
    // SYSRET that sets TF: a trap before the first instruction of the program.
    let mut m = arm();
    m.set(Rcx, USER_CODE);
    m.set(R11, 2 | rflags::TF);
    m.code(CODE, |a| a.sysretq());
    let t = m.faults(DB, 0);
    assert_eq!((t.rip, t.cs), (USER_CODE, USER64));
    // SYSENTER does not touch TF.
    let mut m = Machine::long();
    m.user();
    m.state.msrs.sysenter_cs = KERNEL64 as u64;
    m.state.msrs.sysenter_eip = CODE;
    m.state.msrs.sysenter_esp = STACK;
    m.state.rflags |= rflags::TF;
    m.code(USER_CODE, |a| a.sysenter());
    let t = m.faults(DB, 0);
    assert_eq!((t.rip, t.cs), (CODE, KERNEL64));
}

/// §18.3.1.1: an instruction breakpoint is a fault before the instruction; RF in the image lets it pass.
#[test]
fn instruction_breakpoints() {
    for n in 0..4 {
        let mut m = watched(n, CODE + 1, 0, 0, &[0x90, 0x90, 0xf4]);
        let t = m.faults(DB, 0);
        assert_eq!((t.rip, t.flags & rflags::RF), (CODE + 1, 0));
        assert_eq!(m.state.dr6, CLEAR | 1 << n);
        // The local enable bit does as well; none at all does not.
        let mut m = watched(n, CODE + 1, 0, 0, &[0x90, 0x90, 0xf4]);
        m.state.dr7 = 0x400 | 1 << (2 * n);
        m.faults(DB, 0);
        let mut m = watched(n, CODE + 1, 0, 0, &[0x90, 0x90, 0xf4]);
        m.state.dr7 = 0x400;
        m.halts();
    }
    // The handler returns with RF set: the instruction runs, and RF is clear after it.
    let mut m = watched(0, CODE, 0, 0, &[0xff, 0xc0, 0x9c, 0x5b, 0xf4]); // inc eax; pushfq; pop rbx; hlt
    m.state.rflags |= rflags::RF;
    m.halts();
    assert_eq!(
        (m.reg(Rax), m.reg(Rbx) & rflags::RF, m.state.rflags & rflags::RF),
        (1, 0, 0)
    );
    // Not in the middle of an instruction.
    let mut m = watched(0, CODE + 1, 0, 0, &[0x66, 0x90, 0xf4]);
    m.halts();
    // Once for a repeated instruction that is resumed.
    let mut m = watched(0, CODE, 0, 0, &[0xf3, 0xaa, 0xf4]);
    m.set(Rcx, 2000);
    m.set(Rdi, DATA);
    m.state.rflags |= rflags::RF;
    m.halts();
    assert_eq!(m.reg(Rcx), 0);
    // Before the page fault of its own fetch.
    let mut m = watched(0, 0x7000_0000_0000, 0, 0, &[]);
    m.state.rip = 0x7000_0000_0000;
    assert_eq!(m.faults(DB, 0).rip, 0x7000_0000_0000);
    // By linear address: CS has a base here.
    let mut m = Machine::protected();
    m.set_descriptor(SPARE, descriptor(0x1000, 0xf_ffff, 0x9b, 0xc));
    m.load(donjon_x86::Seg::Cs, SPARE);
    m.state.dr[2] = CODE;
    m.state.dr7 = enable(2, 0, 0);
    m.state.rip = CODE - 0x1000;
    assert_eq!(m.faults(DB, 0).rip, CODE - 0x1000);
}

/// §18.2.4, §18.2.5: data breakpoints by kind and length: any byte in common counts.
#[test]
fn data_breakpoints() {
    let sizes = [(0u64, 1u64), (1, 2), (3, 4), (2, 8)]; // length codes
    for (len, bytes) in sizes {
        let at = DATA + 0x40;
        for (code, size, write) in [
            (&[0x88u8, 0x03][..], 1u64, true), // mov [rbx], al
            (&[0x66, 0x89, 0x03], 2, true),
            (&[0x48, 0x89, 0x03], 8, true),
            (&[0x8a, 0x03], 1, false),
            (&[0x48, 0x8b, 0x03], 8, false),
            (&[0x0f, 0x10, 0x03], 16, false), // movups xmm0, [rbx]
            (&[0xff, 0x03], 4, true),         // inc dword [rbx]
        ] {
            for offset in -16i64..17 {
                for rw in [1, 3] {
                    let address = at.wrapping_add_signed(offset);
                    let mut m = watched(3, at, rw, len, &[code, &[0x90, 0xf4]].concat());
                    m.set(Rbx, address);
                    let hit = address < at + bytes && at < address + size && (write || rw == 3);
                    if hit {
                        let t = m.faults(DB, 0);
                        assert_eq!((t.rip, m.state.dr6), (CODE + code.len() as u64, CLEAR | 8));
                        assert_eq!(t.flags & rflags::RF, 0);
                    } else {
                        m.halts();
                    }
                }
            }
        }
    }
    // Two at once, and with the single-step trap; the access is done.
    let mut m = watched(0, DATA, 1, 3, &[0x89, 0x03, 0x90]);
    m.state.dr[2] = DATA;
    m.state.dr7 |= enable(2, 3, 0);
    m.state.rflags |= rflags::TF;
    m.set(Rbx, DATA);
    m.set(Rax, 0x77);
    m.faults(DB, 0);
    assert_eq!((m.state.dr6, m.read32(DATA)), (CLEAR | 5 | BS, 0x77));
    // A push, CMPXCHG16B, and an access over two pages.
    let mut m = watched(0, STACK - 8, 1, 2, &[0x50, 0x90]);
    m.faults(DB, 0);
    let mut m = watched(0, DATA + 8, 1, 2, &[0x48, 0x0f, 0xc7, 0x0b, 0x90]);
    m.set(Rbx, DATA);
    m.faults(DB, 0);
    let mut m = watched(0, DATA + 0x1000, 1, 0, &[0x48, 0x89, 0x03, 0x90]);
    m.set(Rbx, DATA + 0xffc);
    m.faults(DB, 0);
    // Each iteration of a repeated store.
    let mut m = watched(0, DATA + 2, 1, 0, &[0xf3, 0xaa, 0x90]);
    m.set(Rcx, 10);
    m.set(Rdi, DATA);
    let t = m.faults(DB, 0);
    assert_eq!((t.rip, m.reg(Rcx), t.flags & rflags::RF), (CODE, 7, rflags::RF));
}

/// §18.2.4: I/O breakpoints, with CR4.DE.
#[test]
fn port_breakpoints() {
    for (code, port, hit) in [
        (&[0xe4u8, 0x21][..], 0x21, true), // in al, 21
        (&[0xe7, 0x20], 0x22, true),       // out 20, eax
        (&[0xe4, 0x20], 0x21, false),
        (&[0x6c], 0x20, true), // insb
        (&[0x6f], 0x23, true), // outsd
    ] {
        for de in [false, true] {
            let mut m = watched(1, port, 2, 0, &[code, &[0x90, 0xf4]].concat());
            m.state.cr4 |= if de { cr4_bits::DE } else { 0 };
            m.set(Rdx, 0x20);
            m.set(Rdi, DATA);
            m.set(Rsi, DATA);
            if hit && de {
                assert_eq!(m.faults(DB, 0).rip, CODE + code.len() as u64);
                assert_eq!(m.state.dr6, CLEAR | 2);
            } else {
                m.halts();
            }
        }
    }
}

/// §18.2.3, §18.2.4: what the registers hold after a write; DR4 and DR5; general detect.
#[test]
fn debug_registers() {
    let mut m = Machine::long();
    m.code(CODE, |a| {
        a.mov(rax, 0xffff_ffffu64)?;
        a.mov(dr6, rax)?;
        a.mov(rbx, dr6)?;
        a.xor(eax, eax)?;
        a.mov(dr6, rax)?;
        a.mov(rcx, dr6)?;
        a.mov(rax, 0xffff_0055u64 | 0xd800)?;
        a.mov(dr7, rax)?;
        a.mov(rdx, dr7)?;
        a.mov(rax, 0x1234_5678_9abc_def0u64)?;
        a.mov(dr3, rax)?;
        a.mov(rsi, dr3)?;
        a.db(&[0x0f, 0x21, 0xef])?; // mov rdi, dr5
        a.hlt()
    });
    m.halts();
    assert_eq!((m.reg(Rbx), m.reg(Rcx)), (0xffff_eff0 | 0xe00f, CLEAR));
    assert_eq!(m.reg(Rdx), 0xffff_0455);
    assert_eq!((m.reg(Rsi), m.reg(Rdi)), (0x1234_5678_9abc_def0, 0xffff_0455));
    for (n, v, vector) in [(6u8, 1u64 << 32, GP), (7, 1 << 32, GP)] {
        let mut m = Machine::long();
        m.set(Rax, v);
        m.write(CODE, &[0x0f, 0x23, 0xc0 | n << 3]);
        m.faults(vector, 0);
    }
    let mut m = Machine::long();
    m.state.cr4 |= cr4_bits::DE;
    m.write(CODE, &[0x0f, 0x21, 0xe0]); // mov rax, dr4
    m.faults(UD, 0);
    // General detect: a fault before any access; the handler may use the registers.
    let mut m = Machine::long();
    m.state.dr6 = CLEAR;
    m.state.dr7 = 0x400 | 1 << 13;
    let c = m.code(CODE, |a| {
        a.nop()?;
        a.mov(rax, dr0)
    });
    let t = m.faults(DB, 0);
    assert_eq!((t.rip, m.state.dr6, m.state.dr7), (c.at[1], CLEAR | BD, 0x400));
    assert_eq!(t.flags & rflags::RF, rflags::RF);
}

/// Vol. 2A, INT1 and INT3: neither notes anything in DR6.
#[test]
fn breakpoint_instructions() {
    for (code, vector) in [([0xf1u8, 0xf4], DB), ([0xcc, 0xf4], BP)] {
        let mut m = Machine::long();
        m.state.dr6 = CLEAR;
        m.write(CODE, &code);
        assert_eq!(m.faults(vector, 0).rip, CODE + 1);
        assert_eq!(m.state.dr6, CLEAR);
    }
}

/// §18.2.3: the processor never clears DR6.BS; B0-B3 are of the latest exception.
#[test]
fn debug_status_accumulates() {
    let mut m = watched(1, CODE, 0, 0, &[0x90]);
    m.state.dr6 = CLEAR | BS | 4;
    m.faults(DB, 0);
    assert_eq!(m.state.dr6, CLEAR | BS | 2);
}
