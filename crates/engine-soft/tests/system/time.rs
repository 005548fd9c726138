//! Time-stamp counter and identification (Intel SDM vol. 3B §18.17, vol. 2A CPUID).

use crate::layout::*;
use crate::machine::*;
use donjon_x86::Gpr::*;
use donjon_x86::bits::cr4 as cr4_bits;
use donjon_x86::exception::*;
use donjon_x86::msr;
use iced_x86::code_asm::*;
use std::sync::atomic::Ordering::SeqCst;

/// RDTSC never goes back, and RDTSCP brings IA32_TSC_AUX.
#[test]
fn the_counter_is_monotonic() {
    let mut m = Machine::long();
    m.state.msrs.tsc_aux = 0x1234_5678;
    m.code(CODE, |a| {
        let (mut top, mut good) = (a.create_label(), a.create_label());
        a.mov(edi, 10_000)?;
        a.xor(esi, esi)?;
        a.xor(r8d, r8d)?;
        a.set_label(&mut top)?;
        a.rdtsc()?;
        a.shl(rdx, 32)?;
        a.or(rax, rdx)?;
        a.cmp(rax, rsi)?;
        a.jae(good)?;
        a.inc(r8)?;
        a.set_label(&mut good)?;
        a.mov(rsi, rax)?;
        a.dec(edi)?;
        a.jnz(top)?;
        a.rdtscp()?;
        a.mov(r9, rcx)?;
        a.rdpid(r10)?;
        a.hlt()
    });
    m.halts();
    assert_eq!((m.reg(R8), m.reg(R9), m.reg(R10)), (0, 0x1234_5678, 0x1234_5678));
}

/// §18.17.3: a write to the counter moves IA32_TSC_ADJUST by as much, and the other way round.
#[test]
fn adjusting_the_counter() {
    let mut m = Machine::long();
    m.code(CODE, |a| {
        a.mov(ecx, msr::IA32_TSC_ADJUST)?;
        a.mov(edx, 0x100)?;
        a.xor(eax, eax)?;
        a.wrmsr()?;
        a.rdtsc()?;
        a.mov(r8, rdx)?;
        a.mov(ecx, msr::IA32_TSC)?;
        a.mov(edx, 0x5000)?;
        a.wrmsr()?;
        a.rdtsc()?;
        a.mov(r9, rdx)?;
        a.mov(ecx, msr::IA32_TSC_ADJUST)?;
        a.rdmsr()?;
        a.hlt()
    });
    m.halts();
    assert_eq!((m.reg(R8), m.reg(R9)), (0x100, 0x5000));
    assert!((0x4f00..=0x5000).contains(&m.reg(Rdx)), "{:x}", m.reg(Rdx));
}

/// §11.5.4.1: the deadline goes to the local APIC, less the adjustment it does not know of.
#[test]
fn the_deadline_reaches_the_apic() {
    let mut m = Machine::long();
    m.state.msrs.tsc_adjust = 0x1000;
    m.code(CODE, |a| {
        a.mov(ecx, msr::IA32_TSC_DEADLINE)?;
        a.mov(eax, 0x5000)?;
        a.mov(edx, 7)?;
        a.wrmsr()?;
        a.rdmsr()?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.apics[0].deadline.load(SeqCst), 0x7_0000_4000);
    assert_eq!((m.reg(Rax), m.reg(Rdx)), (0x5000, 7));
    m.state.rip = CODE;
    m.code(CODE, |a| {
        a.mov(ecx, msr::IA32_TSC_DEADLINE)?;
        a.xor(eax, eax)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.hlt()
    });
    m.halts();
    assert_eq!(m.apics[0].deadline.load(SeqCst), 0, "zero disarms");
}

/// Vol. 2B, RDTSC and RDPMC: CR4.TSD and PCE bind user code.
#[test]
fn time_stamp_disable() {
    for (code, tsd, user, ok) in [
        (&[0x0fu8, 0x31][..], true, true, false),
        (&[0x0f, 0x31], true, false, true),
        (&[0x0f, 0x31], false, true, true),
        (&[0x0f, 0x01, 0xf9], true, true, false),
        (&[0x0f, 0x33], false, true, false),
    ] {
        let mut m = Machine::long();
        m.set_gate64(0x80, KERNEL64, HANDLERS + 0x80 * 16, 0xee, 0);
        if user {
            m.user();
        }
        m.state.rip = USER_CODE;
        m.state.cr4 |= if tsd { cr4_bits::TSD } else { 0 };
        m.write(USER_CODE, &[code, &[0xcd, 0x80]].concat());
        if ok {
            assert_eq!(m.traps().vector, 0x80)
        } else {
            assert_eq!(m.faults(GP, 0).rip, USER_CODE)
        }
    }
}

fn cpuid(m: &mut Machine, leaf: u32, subleaf: u32) -> [u32; 4] {
    m.code(CODE, |a| {
        a.mov(eax, leaf)?;
        a.mov(ecx, subleaf)?;
        a.cpuid()?;
        a.hlt()
    });
    m.state.rip = CODE;
    m.halts();
    [Rax, Rbx, Rcx, Rdx].map(|r| m.reg(r) as u32)
}

/// Vol. 2A, CPUID: answers follow the processor's state, and clear the upper halves.
#[test]
fn cpuid_follows_the_state() {
    let mut m = Machine::long();
    m.set(Rbx, u64::MAX);
    let [_, _, ecx_on, _] = cpuid(&mut m, 1, 0);
    assert_eq!(m.reg(Rbx) >> 32, 0);
    m.state.cr4 &= !cr4_bits::OSXSAVE;
    let [_, _, ecx_off, _] = cpuid(&mut m, 1, 0);
    assert_eq!(ecx_on ^ ecx_off, 1 << 27, "OSXSAVE");
    let [max, b, c, d] = cpuid(&mut m, 0, 0);
    assert!(max >= 0xd);
    assert_eq!([b, d, c].map(u32::to_le_bytes).concat(), b"GenuineIntel");
    // Beyond the highest basic leaf: as the highest one.
    assert_eq!(cpuid(&mut m, 0x7000_0000, 0), cpuid(&mut m, max, 0));
    m.state.xcr0 = 3;
    assert_eq!(cpuid(&mut m, 0xd, 0)[1], 576);
    m.state.xcr0 = 7;
    assert_eq!(cpuid(&mut m, 0xd, 0)[1], 832);
    // What CPUID lists is what there is: 1 GiB pages, NX, PCID, INVPCID, SMEP, SMAP, UMIP, FSGSBASE.
    assert_eq!(
        cpuid(&mut m, 0x8000_0001, 0)[3] & (1 << 26 | 1 << 20),
        1 << 26 | 1 << 20
    );
    assert_eq!(
        cpuid(&mut m, 7, 0)[1] & (1 << 7 | 1 << 10 | 1 << 20 | 1),
        1 << 7 | 1 << 10 | 1 << 20 | 1
    );
}

/// A model without AVX has no VEX instructions, and F3 0F BC is BSF there.
#[test]
fn the_lesser_model() {
    let template = Machine::long();
    let mut m = Machine::with_model(1, "x86-64-v2");
    let mut all = vec![0; FREE as usize];
    template.ram.read(0, &mut all).unwrap();
    m.write(0, &all);
    m.state = template.state.clone();
    m.state.xcr0 = 3;
    m.bits = 64;
    m.write(CODE, &[0xc5, 0xf8, 0x57, 0xc0]);
    m.faults(UD, 0);
    m.state = template.state.clone();
    m.state.xcr0 = 3;
    m.set(Rbx, 0);
    m.set(Rax, 77);
    m.write(CODE, &[0xf3, 0x0f, 0xbc, 0xc3, 0xf4]); // tzcnt eax, ebx would give 32
    m.halts();
    assert_eq!(m.reg(Rax), 77);
}
