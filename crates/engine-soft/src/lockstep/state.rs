//! Comparing two processors.

use super::listing::Code;
use super::memory::undefined_flags;
use crate::cpu::Cpu;
use donjon_x86::bits::rflags;
use std::fmt::{Debug, Write};

/// Whether what translated code changes by itself is the same.
#[inline]
pub(super) fn same_fast(a: &Cpu, b: &Cpu) -> bool {
    a.regs[..18] == b.regs[..18]
        && a.flags.bits() == b.flags.bits()
        && a.rflags == b.rflags
        && a.mxcsr == b.mxcsr
        && a.ymm == b.ymm
        && a.seg_base == b.seg_base
        && a.msrs.kernel_gs_base == b.msrs.kernel_gs_base
        && a.cpl == b.cpl
        && a.shadow == b.shadow
        && a.fpu == b.fpu
}

/// Whether everything is.
pub(super) fn same(a: &Cpu, b: &Cpu) -> bool {
    same_fast(a, b)
        && a.seg == b.seg
        && a.ldtr == b.ldtr
        && a.tr == b.tr
        && a.gdtr == b.gdtr
        && a.idtr == b.idtr
        && (a.cr0, a.cr2, a.cr3, a.cr4, a.xcr0) == (b.cr0, b.cr2, b.cr3, b.cr4, b.xcr0)
        && (a.dr, a.dr6, a.dr7) == (b.dr, b.dr6, b.dr7)
        && a.msrs == b.msrs
        && a.pdpte == b.pdpte
        && (a.activity, a.nmi_blocked, a.pending) == (b.activity, b.nmi_blocked, b.pending)
        && (a.code, a.stack_mask, a.debug_hits) == (b.code, b.stack_mask, b.debug_hits)
        // Only a shadow gives it a meaning.
        && (a.shadow && a.skip_step) == (b.shadow && b.skip_step)
}

/// Takes over the leader's status flags if only such differ that the code left undefined.
pub(super) fn forgive_undefined_flags(leader: &Cpu, follower: &mut Cpu, undefined: u64) -> bool {
    let differ = leader.flags.bits() ^ follower.flags.bits();
    if differ & rflags::STATUS & !undefined != 0 {
        return false;
    }
    let was = follower.flags;
    follower.flags = leader.flags;
    let forgiven = same(leader, follower);
    if !forgiven {
        follower.flags = was;
    }
    forgiven
}

/// Takes over general registers of the leader's that hold flags, some of which were undefined when they
/// were pushed.
pub(super) fn forgive_pushed_flags(leader: &Cpu, follower: &mut Cpu) {
    for (a, b) in leader.regs[..16].iter().zip(&mut follower.regs) {
        if undefined_flags(*a, *b) {
            *b = *a;
        }
    }
}

/// The fields that differ, a line each.
pub(super) fn differences(leader: &Cpu, follower: &Cpu) -> String {
    let (a, b) = (leader.save(), follower.save());
    let mut text = String::new();
    let mut field = |name: &str, a: &dyn Debug, b: &dyn Debug| {
        let (a, b) = (format!("{a:x?}"), format!("{b:x?}"));
        if a != b {
            let _ = writeln!(text, "  {name}: leader {a}, follower {b}");
        }
    };
    const GPR: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
        "r14", "r15",
    ];
    for (n, name) in GPR.iter().enumerate() {
        field(name, &a.gpr[n], &b.gpr[n]);
    }
    field("rip", &a.rip, &b.rip);
    field("rflags", &a.rflags, &b.rflags);
    for (n, name) in ["es", "cs", "ss", "ds", "fs", "gs"].iter().enumerate() {
        field(name, &a.segments[n], &b.segments[n]);
    }
    field("segment bases in use", &leader.seg_base, &follower.seg_base);
    field("ldtr", &a.ldtr, &b.ldtr);
    field("tr", &a.tr, &b.tr);
    field("gdtr", &a.gdtr, &b.gdtr);
    field("idtr", &a.idtr, &b.idtr);
    field("cr0", &a.cr0, &b.cr0);
    field("cr2", &a.cr2, &b.cr2);
    field("cr3", &a.cr3, &b.cr3);
    field("cr4", &a.cr4, &b.cr4);
    field("dr0-3", &a.dr, &b.dr);
    field("dr6", &a.dr6, &b.dr6);
    field("dr7", &a.dr7, &b.dr7);
    field("xcr0", &a.xcr0, &b.xcr0);
    field("mxcsr", &a.mxcsr, &b.mxcsr);
    field("x87", &a.fpu, &b.fpu);
    for n in 0..16 {
        field(&format!("ymm{n}"), &a.ymm[n], &b.ymm[n]);
    }
    field("msrs", &a.msrs, &b.msrs);
    field("pdpte", &a.pdpte, &b.pdpte);
    field("activity", &a.activity, &b.activity);
    field("interrupt shadow", &a.interrupt_shadow, &b.interrupt_shadow);
    field("NMI blocked", &a.nmi_blocked, &b.nmi_blocked);
    field("pending", &a.pending, &b.pending);
    field("cpl", &leader.cpl, &follower.cpl);
    field("code size", &leader.code, &follower.code);
    field("stack mask", &leader.stack_mask, &follower.stack_mask);
    field("breakpoints met", &leader.debug_hits, &follower.debug_hits);
    field("no step trap", &leader.skip_step, &follower.skip_step);
    text
}

/// What a round changes most, as it was before.
pub(super) struct Before {
    regs: [u64; 18],
    rflags: u64,
    flags: crate::cpu::Flags,
    mxcsr: u32,
    ymm: [donjon_x86::Xmm; 16],
    fpu: donjon_x86::Fpu,
}

impl Before {
    #[inline]
    pub fn of(cpu: &Cpu) -> Self {
        Self {
            regs: std::array::from_fn(|n| cpu.regs[n]),
            rflags: cpu.rflags,
            flags: cpu.flags,
            mxcsr: cpu.mxcsr,
            ymm: cpu.ymm,
            fpu: cpu.fpu,
        }
    }

    pub fn rip(&self) -> u64 {
        self.regs[17]
    }

    /// As text; vector registers and x87 only if the code has to do with them.
    pub fn text(&self, code: &Code) -> String {
        let mut text = String::new();
        for (n, v) in self.regs[..16].iter().enumerate() {
            let _ = write!(text, "  r{n:<2} {v:016x}{}", if n % 4 == 3 { "\n" } else { "" });
        }
        let rflags = self.rflags | self.flags.bits();
        let _ = writeln!(
            text,
            "  rip {:x} rflags {rflags:x} mxcsr {:x}",
            self.rip(),
            self.mxcsr
        );
        if code.has_vectors() {
            for (n, v) in self.ymm.iter().enumerate() {
                let [a, b, c, d] = v;
                let _ = writeln!(text, "  ymm{n:<2} {d:016x} {c:016x} {b:016x} {a:016x}");
            }
        }
        if code.has_x87() {
            let _ = writeln!(text, "  {:x?}", self.fpu);
        }
        text
    }
}
