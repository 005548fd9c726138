//! Whole instructions on a processor in real mode: what a program at CPL 3 on a host cannot show.

use crate::cpu::{Board, Cpu, R, Stop};
use donjon_engine::{Attention, Clock, Detached};
use donjon_memory::Ram;
use donjon_x86::bits::{cr0, cr4};
use donjon_x86::cpuid::CpuModel;
use donjon_x86::{CpuState, Fpu, exception};
use std::sync::Arc;

/// Where code goes.
const CODE: usize = 0x1000;
/// Where DS:BX points.
const DATA: usize = 0x4000;

fn cpu() -> Cpu {
    let mut cpu = Cpu::new(Board {
        ram: Arc::new(Ram::new(0x10000).unwrap()),
        io: Arc::new(Detached),
        apic: Arc::new(Detached),
        attention: Arc::new(Attention::default()),
        clock: Arc::new(Clock::new(Clock::DEFAULT_HZ)),
        model: Arc::new(CpuModel::named("x86-64-v3").unwrap()),
        apic_id: 0,
        vcpus: 1,
        deck: None,
    });
    let mut s = CpuState::reset();
    (s.segments[1].base, s.segments[1].selector) = (0, 0);
    (s.segments[3].base, s.segments[3].selector) = (0x100, 0x10);
    s.gpr[3] = DATA as u64 - 0x100;
    s.cr4 = cr4::OSFXSR | cr4::OSXSAVE;
    s.xcr0 = 7;
    s.fpu = Fpu::default();
    cpu.load(&s).unwrap();
    cpu
}

/// Runs instructions until one does not finish.
fn run(cpu: &mut Cpu, code: &[u8]) -> R {
    cpu.board.ram.write_at(CODE, code);
    cpu.board.ram.write_at(CODE + code.len(), &[0xf4]);
    cpu.set_rip(CODE as u64);
    while cpu.rip() < (CODE + code.len()) as u64 {
        let block = cpu.decode_block(cpu.rip() as usize)?;
        let op = block.ops[0];
        cpu.next_rip = cpu.rip() + op.len as u64;
        (op.run)(cpu, &op)?;
        cpu.set_rip(cpu.next_rip);
    }
    Ok(())
}

fn vector(cpu: &mut Cpu, code: &[u8]) -> Option<u8> {
    match run(cpu, code) {
        Ok(()) => None,
        Err(Stop::Fault) => Some(cpu.fault.vector),
        Err(other) => panic!("{other:?}"),
    }
}

fn bytes<const N: usize>(cpu: &Cpu, at: usize) -> [u8; N] {
    let mut b = [0; N];
    cpu.board.ram.read_at(DATA + at, &mut b);
    b
}

const FLD1: [u8; 2] = [0xd9, 0xe8];
const FWAIT: [u8; 1] = [0x9b];
const EMMS: [u8; 2] = [0x0f, 0x77];
const FXSAVE: [u8; 3] = [0x0f, 0xae, 0x07];
const FXRSTOR: [u8; 3] = [0x0f, 0xae, 0x0f];
const XSAVE: [u8; 3] = [0x0f, 0xae, 0x27];
const XSAVEOPT: [u8; 3] = [0x0f, 0xae, 0x37];
const XSAVEC: [u8; 3] = [0x0f, 0xc7, 0x27];
const XRSTOR: [u8; 3] = [0x0f, 0xae, 0x2f];

#[test]
fn device_not_available() {
    let with = |bits: u64, code: &[u8]| {
        let mut cpu = cpu();
        cpu.cr0 |= bits;
        vector(&mut cpu, code)
    };
    for bits in [cr0::TS, cr0::EM] {
        assert_eq!(with(bits, &FLD1), Some(exception::NM));
        assert_eq!(with(bits, &[0xdb, 0xe3]), Some(exception::NM), "FNINIT");
        assert_eq!(with(bits, &FXSAVE), Some(exception::NM));
        assert_eq!(with(bits, &FWAIT), None);
    }
    assert_eq!(with(cr0::TS | cr0::MP, &FWAIT), Some(exception::NM));
    assert_eq!(with(cr0::EM | cr0::MP, &FWAIT), None);
    assert_eq!(with(cr0::TS, &EMMS), Some(exception::NM));
    assert_eq!(with(cr0::EM, &EMMS), Some(exception::UD));
    assert_eq!(with(cr0::TS, &XSAVE), Some(exception::NM));
    assert_eq!(with(cr0::EM, &XSAVE), None);
}

#[test]
fn xsave_needs_enabling_and_alignment() {
    let mut c = cpu();
    c.cr4 &= !cr4::OSXSAVE;
    assert_eq!(vector(&mut c, &XRSTOR), Some(exception::UD));
    let mut c = cpu();
    c.regs[3] += 16;
    assert_eq!(vector(&mut c, &XSAVE), Some(exception::GP));
    assert_eq!(vector(&mut c, &FXSAVE), None);
    c.regs[3] += 8;
    assert_eq!(vector(&mut c, &FXSAVE), Some(exception::GP));
}

#[test]
fn exceptions_wait_for_the_next_instruction() {
    let mut c = cpu();
    // Everything unmasked, then FLDZ, FLD1, FDIVRP: a division by zero.
    c.fpu.control = 0x340;
    assert_eq!(vector(&mut c, &[0xd9, 0xee, 0xd9, 0xe8, 0xde, 0xf1]), None);
    assert_eq!(c.fpu.status & 0x80bf, 0x8084);
    assert_eq!(c.fpu.opcode, 0x6f1);
    let before = c.fpu;
    for code in [&FWAIT[..], &FLD1, &EMMS] {
        assert_eq!(vector(&mut c, code), Some(exception::MF));
        assert_eq!(c.fpu, before);
    }
    assert_eq!(vector(&mut c, &FXSAVE), None);
    assert_eq!(vector(&mut c, &[0xdb, 0xe2]), None, "FNCLEX");
    assert_eq!(vector(&mut c, &FWAIT), None);
}

#[test]
fn faults_leave_everything_as_it_was() {
    let mut c = cpu();
    run(&mut c, &FLD1).unwrap();
    c.seg[3].limit = 0x10;
    let before = c.fpu;
    let memory = [
        &[0xd9, 0x07][..],   // FLD m32
        &[0xd8, 0x07],       // FADD m32
        &[0xdb, 0x3f],       // FSTP m80
        &[0xdf, 0x37],       // FBSTP
        &[0xd9, 0x2f],       // FLDCW
        &[0xd9, 0x27],       // FLDENV
        &[0xdd, 0x37],       // FNSAVE
        &[0x0f, 0x6f, 0x07], // MOVQ mm0, m64
        &FXRSTOR,
        &XRSTOR,
    ];
    for code in memory {
        assert_eq!(vector(&mut c, code), Some(exception::GP), "{code:x?}");
        assert_eq!(c.fpu, before, "{code:x?}");
    }
}

#[test]
fn the_real_mode_environment_has_linear_addresses() {
    let mut c = cpu();
    // One exception unmasked, so that somebody may want to know.
    c.fpu.control = 0x37e;
    // FILD word [bx], then FNSTENV [bx + 0x40] in both formats.
    run(&mut c, &[0xdf, 0x07, 0xd9, 0x77, 0x40]).unwrap();
    let short: [u8; 14] = bytes(&c, 0x40);
    assert_eq!(short[6..], [0x00, 0x10, 0x07, 0x07, 0x00, 0x40, 0, 0]);
    run(&mut c, &[0x66, 0xd9, 0x77, 0x40]).unwrap();
    let long: [u8; 28] = bytes(&c, 0x40);
    assert_eq!(long[12..20], [0x00, 0x10, 0xff, 0xff, 0x07, 0x07, 0, 0]);
    assert_eq!(long[20..], [0x00, 0x40, 0xff, 0xff, 0, 0, 0, 0]);
}

#[test]
fn mmx_takes_over_the_registers_and_gives_them_back() {
    let mut c = cpu();
    run(&mut c, &FLD1).unwrap();
    // MOVD mm1, ebx.
    run(&mut c, &[0x0f, 0x6e, 0xcb]).unwrap();
    assert_eq!(
        (
            c.fpu.status & 0x3800,
            c.fpu.significand[1],
            c.fpu.sign_exponent[1]
        ),
        (0, 0x3f00, 0xffff)
    );
    // R7 holds 1.0, the others zero but for mm1.
    assert_eq!(c.fpu.tag, 0x1559);
    run(&mut c, &EMMS).unwrap();
    assert_eq!(c.fpu.tag, 0xffff);
}

#[test]
fn xsave_and_xrstor_go_together() {
    for code in [&XSAVE[..], &XSAVEOPT, &XSAVEC] {
        let mut c = cpu();
        run(&mut c, &FLD1).unwrap();
        (c.regs[0], c.regs[2]) = (7, 0);
        (c.mxcsr, c.ymm[1], c.ymm[7]) = (0x1fa0, [1, 2, 0, 0], [5, 6, 0, 0]);
        run(&mut c, code).unwrap();
        let saved = (c.fpu, c.mxcsr, c.ymm);
        // AVX state was in its initial configuration: all forms say so, and restoring makes it so.
        assert_eq!(bytes::<8>(&c, 512), 3u64.to_le_bytes());
        let compacted = if code == XSAVEC { 1 << 63 | 7 } else { 0u64 };
        assert_eq!(bytes::<8>(&c, 520), compacted.to_le_bytes());
        c.fpu = Fpu::default();
        (c.mxcsr, c.ymm) = (0x1f80, [[9; 4]; 16]);
        run(&mut c, &XRSTOR).unwrap();
        assert_eq!((c.fpu, c.mxcsr), (saved.0, saved.1));
        assert_eq!(c.ymm[..8], saved.2[..8]);
        assert_eq!(c.ymm[8..], [[9; 4]; 8], "out of reach outside 64-bit mode");
    }
}

#[test]
fn xrstor_initialises_what_is_not_there() {
    let mut c = cpu();
    run(&mut c, &FLD1).unwrap();
    (c.mxcsr, c.ymm[3]) = (0x1fbf, [7; 4]);
    (c.regs[0], c.regs[2]) = (7, 0);
    // A standard image of zeros: MXCSR comes from it all the same.
    run(&mut c, &XRSTOR).unwrap();
    assert_eq!((c.fpu, c.mxcsr, c.ymm[3]), (Fpu::default(), 0, [0; 4]));
    // A compacted one: MXCSR is initialised.
    c.board.ram.write_at(DATA + 527, &[0x80]);
    run(&mut c, &XRSTOR).unwrap();
    assert_eq!(c.mxcsr, 0x1f80);
    // Reserved bits of MXCSR.
    c.board.ram.write_at(DATA + 26, &[1]);
    run(&mut c, &XRSTOR).unwrap();
    c.board.ram.write_at(DATA + 527, &[0]);
    assert_eq!(vector(&mut c, &XRSTOR), Some(exception::GP));
    assert_eq!(vector(&mut c, &FXRSTOR), Some(exception::GP));
    // A component that XCR0 does not have.
    c.board.ram.write_at(DATA + 26, &[0]);
    c.board.ram.write_at(DATA + 512, &[8]);
    assert_eq!(vector(&mut c, &XRSTOR), Some(exception::GP));
}

#[test]
fn xsave_writes_only_what_it_is_asked_for() {
    let mut c = cpu();
    c.board.ram.write_at(DATA, &[0xaa; 1024]);
    c.board.ram.write_at(DATA + 512, &[6]);
    (c.regs[0], c.regs[2]) = (1, 0);
    run(&mut c, &FLD1).unwrap();
    run(&mut c, &XSAVE).unwrap();
    let area: [u8; 1024] = bytes(&c, 0);
    assert_eq!(area[..4], [0x7f, 0x03, 0x00, 0x38]);
    assert!(
        area[24..32]
            .iter()
            .chain(&area[160..512])
            .chain(&area[520..])
            .all(|b| *b == 0xaa)
    );
    assert_eq!(area[512..520], [7, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa]);
}
