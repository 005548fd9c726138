//! Interrupts, HLT, NMI, INIT and start-up (Intel SDM vol. 3A §6.3-6.8, §8.4, ch. 11).

use crate::layout::*;
use crate::machine::*;
use donjon_engine::{Attention, Exit};
use donjon_x86::Gpr::*;
use donjon_x86::bits::{cr0 as cr0_bits, rflags};
use donjon_x86::exception::*;
use donjon_x86::{Activity, CpuState, PendingEvent, Seg};
use iced_x86::code_asm::*;
use std::sync::atomic::Ordering::SeqCst;

/// A machine with an interrupt waiting and IF as given.
fn waiting(enabled: bool) -> Machine {
    let mut m = Machine::long();
    m.state.rflags |= if enabled { rflags::IF } else { 0 };
    m.apics[0].inject(0x40);
    m
}

/// §6.8.1: IF decides; the interrupt comes before the next instruction, and IF is clear in its handler.
#[test]
fn the_interrupt_flag() {
    let mut m = waiting(true);
    m.code(CODE, |a| a.nop());
    let t = m.faults(0x40, 0);
    assert_eq!((t.rip, t.flags, m.state.rflags), (CODE, 2 | rflags::IF, 2));
    let mut m = waiting(false);
    m.code(CODE, |a| {
        a.nop()?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.apics[0].queue.lock().unwrap().len(), 1, "still waiting");
    // POPF and IRET open at once.
    let mut m = waiting(false);
    let c = m.code(CODE, |a| {
        a.push(0x202)?;
        a.popfq()?;
        a.nop()
    });
    assert_eq!(m.faults(0x40, 0).rip, c.at[2]);
    let mut m = waiting(false);
    m.code(CODE, |a| {
        a.push(KERNEL_DATA as i32)?;
        a.push(STACK as i32)?;
        a.push(0x202)?;
        a.push(KERNEL64 as i32)?;
        a.push(USER_CODE as i32)?;
        a.iretq()
    });
    m.code(USER_CODE, |a| a.hlt());
    assert_eq!(m.faults(0x40, 0).rip, USER_CODE);
}

/// Vol. 2B, STI: one more instruction runs first, unless IF was set already.
#[test]
fn the_shadow_of_sti() {
    let mut m = waiting(false);
    let c = m.code(CODE, |a| {
        a.sti()?;
        a.nop()?;
        a.nop()
    });
    assert_eq!(m.faults(0x40, 0).rip, c.at[2]);
    let mut m = waiting(false);
    m.code(CODE, |a| {
        a.sti()?;
        a.cli()?;
        a.nop()?;
        a.hlt()
    });
    m.halts();
    // STI; HLT: no wake-up is lost.
    let mut m = waiting(false);
    let c = m.code(CODE, |a| {
        a.sti()?;
        a.hlt()?;
        a.nop()
    });
    assert_eq!(m.faults(0x40, 0).rip, c.at[2]);
    // A fault in the shadow ends it.
    let mut m = waiting(false);
    m.set_gate64(UD, KERNEL64, HANDLERS + 6 * 16, 0x8f, 0); // a trap gate: IF stays
    let c = m.code(CODE, |a| {
        a.sti()?;
        a.ud2()
    });
    let t = m.faults(0x40, 0);
    assert_eq!(t.rip, HANDLERS + 6 * 16);
    assert_eq!(m.read64(t.rsp), c.at[1]);
}

/// §6.8.3: MOV and POP to SS hold interrupts off for one instruction.
#[test]
fn the_shadow_of_loading_ss() {
    for pop in [false, true] {
        let mut m = waiting(false);
        if pop {
            m.compatibility(0);
        }
        let c = m.code(CODE, |a| {
            a.mov(eax, KERNEL_DATA as u32)?;
            if pop {
                a.push(eax)?
            } else {
                a.nop()?
            }
            a.sti()?;
            if pop {
                a.pop(ss)?
            } else {
                a.mov(ss, ax)?
            }
            a.nop()?;
            a.nop()
        });
        assert_eq!(m.faults(0x40, 0).rip, c.at[5], "{pop}");
    }
}

/// Vol. 2A, HLT: an interrupt resumes behind it; with IF clear only NMI and INIT do.
#[test]
fn halting() {
    let mut m = Machine::long();
    m.state.rflags |= rflags::IF;
    let c = m.code(CODE, |a| {
        a.hlt()?;
        a.nop()
    });
    m.halts();
    assert_eq!(m.state.activity, Activity::Halted);
    m.apics[0].inject(0x40);
    let stopped = m.resume();
    assert_eq!(m.trapped(stopped).rip, c.at[1]);
    let mut m = Machine::long();
    m.code(CODE, |a| {
        a.hlt()?;
        a.nop()
    });
    m.halts();
    m.apics[0].inject(0x40);
    match m.vcpus[0].run() {
        Exit::Halt { wake } => {
            assert_eq!(
                wake & (Attention::INTERRUPT | Attention::NMI | Attention::INIT),
                Attention::NMI | Attention::INIT
            );
        }
        other => panic!("{other:?}"),
    }
    m.attention[0].raise(Attention::NMI);
    let stopped = m.resume();
    let t = m.trapped(stopped);
    assert_eq!((t.vector, t.rip), (NMI, CODE + 1));
    // KICK ends the run without waking the guest.
    let mut m = Machine::long();
    m.code(CODE, |a| a.hlt());
    m.halts();
    m.attention[0].raise(Attention::KICK);
    assert!(matches!(m.vcpus[0].run(), Exit::Kicked));
    assert!(matches!(m.vcpus[0].run(), Exit::Halt { .. }));
}

/// §11.8.3.1, vol. 2B MOV CR8: the task priority holds back classes up to its own.
#[test]
fn task_priority() {
    let mut m = waiting(true);
    m.apics[0].cr8.store(4, SeqCst);
    let c = m.code(CODE, |a| {
        a.mov(rax, cr8)?;
        a.nop()?;
        a.mov(ebx, 3)?;
        a.mov(cr8, rbx)?;
        a.nop()
    });
    m.state.cr8 = 4;
    assert_eq!(m.faults(0x40, 0).rip, c.at[4]);
    assert_eq!((m.reg(Rax), m.state.cr8), (4, 3));
}

/// §11.9: an acknowledge that comes up empty is no interrupt.
#[test]
fn nothing_to_acknowledge() {
    let mut m = waiting(true);
    m.apics[0].silent.store(true, SeqCst);
    m.code(CODE, |a| {
        a.nop()?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.state.rip, CODE + 2);
}

/// §6.13: an external interrupt pushes no error code whatever its vector.
#[test]
fn external_vectors_push_no_error_code() {
    let mut m = Machine::long();
    m.state.rflags |= rflags::IF;
    m.set_gate64(0x1e, KERNEL64, HANDLERS + 0x1e * 16, 0x8e, 0);
    m.apics[0].inject(0x1e);
    m.code(CODE, |a| a.nop());
    let t = m.traps();
    assert_eq!((t.vector, t.rip, t.at), (0x1e, CODE, STACK - 40));
}

/// §6.7.1: an NMI blocks further ones until the next IRET.
#[test]
fn nmis_do_not_nest() {
    let mut m = Machine::long();
    m.state.msrs.kernel_gs_base = 0;
    // The handler sends its own processor another NMI (the board's MSR 840) the first time around.
    m.code(HANDLERS + 0x900, |a| {
        let mut again = a.create_label();
        a.inc(qword_ptr(DATA))?;
        a.cmp(qword_ptr(DATA), 2)?;
        a.je(again)?;
        a.mov(ecx, 0x840)?;
        a.wrmsr()?;
        a.nop()?;
        a.nop()?;
        a.mov(qword_ptr(DATA + 8), 1)?;
        a.iretq()?;
        a.set_label(&mut again)?;
        a.mov(rax, qword_ptr(DATA + 8))?;
        a.mov(rbx, qword_ptr(rsp))?;
        a.hlt()
    });
    m.set_gate64(NMI, KERNEL64, HANDLERS + 0x900, 0x8e, 0);
    m.code(CODE, |a| {
        a.nop()?;
        a.hlt()
    });
    m.attention[0].raise(Attention::NMI);
    m.halts();
    assert_eq!((m.read64(DATA), m.reg(Rax), m.reg(Rbx)), (2, 1, CODE));
    assert!(m.state.nmi_blocked);
    // IF does not matter to an NMI, nor is it a reason to deliver a blocked one.
    m.attention[0].raise(Attention::NMI);
    assert_eq!(m.resume(), Stopped::Halted);
    assert_eq!(m.read64(DATA), 2);
}

/// Vol. 2B, REP; §18.3.1.1: an interrupt between iterations saves RF, and the instruction goes on later.
#[test]
fn interrupts_between_iterations() {
    for (code, down) in [
        (&[0xf3u8, 0xac][..], false),
        (&[0xf3, 0xaa], true),
        (&[0xf3, 0xa4], false),
    ] {
        let mut m = waiting(false);
        m.write(CODE, &[&[0xfb], code, &[0xf4]].concat()); // sti; rep …; hlt
        m.set(Rcx, 0x20_0000);
        m.set(Rsi, 0x40_0000);
        m.set(Rdi, if down { 0x60_0000 } else { 0x90_0000 });
        m.state.rflags |= if down { rflags::DF } else { 0 };
        m.write(HANDLERS + 0x40 * 16, &[0x49, 0xff, 0xc7, 0x4c, 0x8b, 0x34, 0x24]); // inc r15; mov r14, [rsp]
        m.write(
            HANDLERS + 0x40 * 16 + 7,
            &[0x4c, 0x8b, 0x6c, 0x24, 0x10, 0x49, 0x89, 0xcc, 0x48, 0xcf],
        );
        m.halts();
        assert_eq!((m.reg(R15), m.reg(Rcx)), (1, 0));
        assert_eq!(m.reg(R14), CODE + 1, "{code:x?}");
        assert!(m.reg(R12) > 0 && m.reg(R12) < 0x20_0000, "between two iterations");
        assert_eq!(m.reg(R13) & rflags::RF, rflags::RF);
    }
}

/// Table 9-1, §8.4.3: INIT, and the start-up message that an application processor waits for.
#[test]
fn init_and_start_up() {
    let mut m = Machine::long_with(2);
    m.vcpus[1].load(&CpuState::wait_for_sipi()).unwrap();
    assert!(matches!(m.vcpus[1].run(), Exit::Halt { wake } if wake & Attention::SIPI != 0));
    // It sleeps through anything else.
    m.attention[1].raise(Attention::NMI | Attention::INTERRUPT);
    assert!(matches!(m.vcpus[1].run(), Exit::Halt { .. }));
    m.attention[1].take(Attention::NMI | Attention::INTERRUPT);
    m.write(0x1_2000, &[0x8c, 0xc8, 0x40, 0xf4]); // mov ax, cs; inc ax; hlt
    m.attention[1].raise_sipi(0x12);
    assert!(matches!(m.vcpus[1].run(), Exit::Halt { .. }));
    let s = m.vcpus[1].save().unwrap();
    assert_eq!(
        (s.segments[1].selector, s.segments[1].base, s.rip),
        (0x1200, 0x1_2000, 4)
    );
    assert_eq!((s.gpr[0], s.cr0 & cr0_bits::PE), (0x1201, 0));
    // A second one is dropped by a processor that runs.
    m.attention[1].raise_sipi(0x34);
    assert!(matches!(m.vcpus[1].run(), Exit::Halt { .. }));
    assert_eq!(m.vcpus[1].save().unwrap().segments[1].selector, 0x1200);
    // INIT: back to waiting; registers as in the table.
    let mut s = m.state.clone();
    s.ymm[3] = [7; 4];
    s.msrs.lstar = 0x1234;
    s.activity = Activity::Halted;
    m.vcpus[1].load(&s).unwrap();
    m.attention[1].raise(Attention::INIT);
    assert!(matches!(m.vcpus[1].run(), Exit::Halt { .. }));
    let s = m.vcpus[1].save().unwrap();
    assert_eq!(s.activity, Activity::WaitForSipi);
    assert_eq!((s.ymm[3], s.msrs.lstar, s.msrs.efer), ([7; 4], 0x1234, 0));
    assert_eq!((s.cr0, s.cr3, s.cr4, s.rflags), (cr0_bits::ET, 0, 0, 2));
    assert_eq!(m.apics[1].inits.load(SeqCst), 1);
    // The boot processor starts over at the reset vector instead, where there is no RAM.
    m.code(CODE, |a| {
        a.hlt()?;
        a.nop()
    });
    m.halts();
    m.attention[0].raise(Attention::INIT | Attention::KICK);
    assert!(matches!(m.vcpus[0].run(), Exit::Kicked));
    m.attention[0].raise(Attention::KICK);
    let s = m.vcpus[0].save().unwrap();
    assert_eq!(s.activity, Activity::Halted, "KICK comes first");
    // FFFFFFF0 reads as ones: #UD, and no vector table to speak of.
    m.attention[0].take(Attention::KICK);
    m.write(0, &[0; 0x400]);
    m.write32(6 * 4, HANDLERS as u32 + 6 * 16);
    let stopped = m.resume();
    let t = m.trapped(stopped);
    assert_eq!((t.vector, t.cs, t.rip), (UD, 0xf000, 0xfff0));
    assert_eq!(m.seg(Seg::Ss).base, 0);
}

/// §6.15, interrupt 8: INIT revives a processor that shut down.
#[test]
fn init_after_shutdown() {
    let mut m = Machine::long();
    m.state.idtr.limit = 0;
    m.code(CODE, |a| a.ud2());
    assert_eq!(m.run(), Stopped::Shutdown);
    m.attention[0].raise(Attention::NMI | Attention::INTERRUPT);
    assert_eq!(m.resume(), Stopped::Shutdown);
    m.attention[0].take(Attention::NMI | Attention::INTERRUPT);
    m.write(0, &[0; 0x400]);
    m.write32(6 * 4, HANDLERS as u32 + 6 * 16);
    m.attention[0].raise(Attention::INIT);
    let stopped = m.resume();
    assert_eq!(m.trapped(stopped).vector, UD);
}

/// A state may carry an event whose delivery was cut short; it comes first.
#[test]
fn pending_events() {
    for (vector, error_code, rf) in [
        (PF, Some(6), true),
        (GP, Some(0), true),
        (UD, None, true),
        (0x40, None, false),
    ] {
        let mut m = Machine::long();
        m.code(CODE, |a| a.nop());
        m.state.pending = Some(PendingEvent { vector, error_code });
        let t = m.faults(vector, error_code.unwrap_or(0) as u64);
        assert_eq!((t.rip, t.flags & rflags::RF != 0), (CODE, rf));
        assert_eq!(m.state.pending, None);
    }
}

/// A state may carry a shadow: nothing is delivered before its next instruction.
#[test]
fn a_saved_shadow() {
    let mut m = waiting(true);
    m.state.interrupt_shadow = true;
    let c = m.code(CODE, |a| {
        a.nop()?;
        a.nop()
    });
    assert_eq!(m.faults(0x40, 0).rip, c.at[1]);
    let mut m = Machine::long();
    m.state.nmi_blocked = true;
    m.attention[0].raise(Attention::NMI);
    m.code(CODE, |a| a.hlt());
    m.halts();
    assert_eq!(m.state.rip, CODE + 1);
}

/// §6.9: KICK is heard even in an endless run of instructions that hold interrupts off.
#[test]
fn a_kick_is_heard_in_a_shadow() {
    let mut m = Machine::long();
    // Every page of a gigabyte is the same: MOV SS, AX over and over, then a jump back.
    let at = 0x1000_0000_0000;
    for page in 0..0x1_0000 {
        m.map(at + page * 0x1000, FREE | P);
    }
    m.write(FREE, &[0x8e, 0xd0].repeat(0x800));
    m.set(Rax, KERNEL_DATA as u64);
    m.state.rip = at;
    m.vcpus[0].load(&m.state).unwrap();
    m.attention[0].raise(Attention::KICK);
    assert!(matches!(m.vcpus[0].run(), Exit::Kicked));
    let (vcpu, attention) = (&mut m.vcpus[0], &m.attention[0]);
    std::thread::scope(|s| {
        s.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            attention.raise(Attention::KICK);
        });
        assert!(matches!(vcpu.run(), Exit::Kicked));
    });
}
