//! General, segment, control and debug registers.

use donjon_x86::{CpuState, DescriptorTable, Seg, Segment, SegmentAttributes};
use kvm_bindings::{kvm_debugregs, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs2};

/// KVM_SREGS2_FLAGS_PDPTRS_VALID.
const PDPTRS_VALID: u64 = 1;

/// General registers for the kernel.
pub fn regs(s: &CpuState) -> kvm_regs {
    let g = &s.gpr;
    kvm_regs {
        rax: g[0],
        rcx: g[1],
        rdx: g[2],
        rbx: g[3],
        rsp: g[4],
        rbp: g[5],
        rsi: g[6],
        rdi: g[7],
        r8: g[8],
        r9: g[9],
        r10: g[10],
        r11: g[11],
        r12: g[12],
        r13: g[13],
        r14: g[14],
        r15: g[15],
        rip: s.rip,
        rflags: s.rflags,
    }
}

/// General registers from the kernel.
pub fn take_regs(r: &kvm_regs, s: &mut CpuState) {
    s.gpr = [
        r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
        r.r14, r.r15,
    ];
    s.rip = r.rip;
    s.rflags = r.rflags;
}

fn segment(s: &Segment) -> kvm_segment {
    let a = s.attributes;
    let bit = |n: u32| (a.0 >> n & 1) as u8;
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: a.kind(),
        present: bit(7),
        dpl: a.dpl(),
        db: bit(14),
        s: bit(4),
        l: bit(13),
        g: bit(15),
        avl: bit(12),
        unusable: bit(16),
        padding: 0,
    }
}

fn take_segment(k: &kvm_segment) -> Segment {
    let bit = |v: u8, n: u32| ((v != 0) as u32) << n;
    let attributes = (k.type_ & 15) as u32
        | bit(k.s, 4)
        | ((k.dpl & 3) as u32) << 5
        | bit(k.present, 7)
        | bit(k.avl, 12)
        | bit(k.l, 13)
        | bit(k.db, 14)
        | bit(k.g, 15)
        | bit(k.unusable, 16);
    Segment {
        selector: k.selector,
        base: k.base,
        limit: k.limit,
        attributes: SegmentAttributes(attributes),
    }
}

fn table(t: &DescriptorTable) -> kvm_dtable {
    kvm_dtable {
        base: t.base,
        limit: t.limit,
        padding: [0; 3],
    }
}

fn take_table(t: &kvm_dtable) -> DescriptorTable {
    DescriptorTable {
        base: t.base,
        limit: t.limit,
    }
}

/// Segment and control registers for the kernel, with IA32_APIC_BASE.
pub fn sregs(s: &CpuState, apic_base: u64) -> kvm_sregs2 {
    let seg = |n: Seg| segment(&s.segments[n as usize]);
    kvm_sregs2 {
        cs: seg(Seg::Cs),
        ds: seg(Seg::Ds),
        es: seg(Seg::Es),
        fs: seg(Seg::Fs),
        gs: seg(Seg::Gs),
        ss: seg(Seg::Ss),
        tr: segment(&s.tr),
        ldt: segment(&s.ldtr),
        gdt: table(&s.gdtr),
        idt: table(&s.idtr),
        cr0: s.cr0,
        cr2: s.cr2,
        cr3: s.cr3,
        cr4: s.cr4,
        cr8: s.cr8,
        efer: s.msrs.efer,
        apic_base,
        // The kernel takes them only where they mean something.
        flags: if is_pae(s) { PDPTRS_VALID } else { 0 },
        pdptrs: if is_pae(s) { s.pdpte } else { [0; 4] },
    }
}

/// PAE paging outside long mode (Intel SDM vol. 3A §4.4).
fn is_pae(s: &CpuState) -> bool {
    use donjon_x86::bits::{cr0, cr4, efer};
    s.cr0 & cr0::PG != 0 && s.cr4 & cr4::PAE != 0 && s.msrs.efer & efer::LMA == 0
}

/// Segment and control registers from the kernel.
pub fn take_sregs(k: &kvm_sregs2, s: &mut CpuState) {
    for (n, segment) in [
        (Seg::Es, &k.es),
        (Seg::Cs, &k.cs),
        (Seg::Ss, &k.ss),
        (Seg::Ds, &k.ds),
        (Seg::Fs, &k.fs),
        (Seg::Gs, &k.gs),
    ] {
        s.segments[n as usize] = take_segment(segment);
    }
    s.tr = take_segment(&k.tr);
    s.ldtr = take_segment(&k.ldt);
    s.gdtr = take_table(&k.gdt);
    s.idtr = take_table(&k.idt);
    (s.cr0, s.cr2, s.cr3, s.cr4, s.cr8) = (k.cr0, k.cr2, k.cr3, k.cr4, k.cr8);
    s.msrs.efer = k.efer;
    s.pdpte = if k.flags & PDPTRS_VALID != 0 {
        k.pdptrs
    } else {
        [0; 4]
    };
}

/// Debug registers for the kernel.
pub fn debug(s: &CpuState) -> kvm_debugregs {
    kvm_debugregs {
        db: s.dr,
        dr6: s.dr6,
        dr7: s.dr7,
        ..kvm_debugregs::default()
    }
}

/// Debug registers from the kernel.
pub fn take_debug(k: &kvm_debugregs, s: &mut CpuState) {
    (s.dr, s.dr6, s.dr7) = (k.db, k.dr6, k.dr7);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_come_back_as_they_went() {
        let mut s = CpuState::reset();
        for (n, r) in s.gpr.iter_mut().enumerate() {
            *r = 0x1111_0000 + n as u64;
        }
        (s.rip, s.rflags) = (0xffff_8000_0000_1000, 0x246);
        s.segments[1].attributes = SegmentAttributes(0xa09b);
        s.segments[2].attributes = SegmentAttributes(0xc0f3);
        s.segments[4] = Segment::null(3, 0);
        s.segments[4].base = 0x7f00_0000_1234;
        (s.cr0, s.cr2, s.cr3, s.cr4, s.cr8) = (0x8000_0011, 5, 0x1000, 0x20, 7);
        s.pdpte = [1, 0x2001, 0, 0x3001];
        s.dr = [1, 2, 3, 4];
        let mut back = CpuState {
            msrs: s.msrs,
            xcr0: s.xcr0,
            fpu: s.fpu,
            ..CpuState::reset()
        };
        take_regs(&regs(&s), &mut back);
        take_sregs(&sregs(&s, 0xfee0_0900), &mut back);
        take_debug(&debug(&s), &mut back);
        assert_eq!(back, s);
    }
}
