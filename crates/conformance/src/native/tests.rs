//! Known instructions, whose results are written out by hand.

use super::*;
use crate::layout::*;
use donjon_x86::bits::rflags::*;
use donjon_x86::exception;

fn run(case: Case) -> Outcome {
    let mut runner = NativeRunner::new().unwrap();
    runner.run(&[case]).unwrap().remove(0).unwrap()
}

fn fault(o: &Outcome) -> (u8, u32, Option<u64>) {
    match o.end {
        End::Exception {
            vector,
            error_code,
            cr2,
        } => (vector, error_code, cr2),
        ref e => panic!("{e:?}"),
    }
}

#[test]
fn an_addition_overflows() {
    // ADD EAX, ECX.
    let o = run(Case::of_bytes(Mode::Long, &[0x01, 0xc8], |r| {
        r.gpr[0] = 0xffff_ffff_7fff_ffff;
        r.gpr[1] = 1;
    }));
    assert_eq!(
        (o.end, o.after.gpr[0], o.after.rip),
        (End::Completed, 0x8000_0000, STUB_FALL)
    );
    assert_eq!(o.after.rflags & STATUS, OF | SF | AF | PF);
    assert!(o.memory.is_empty());
}

#[test]
fn faults_carry_their_codes() {
    // DIV ECX by zero.
    let o = run(Case::of_bytes(Mode::Long, &[0xf7, 0xf1], |_| {}));
    assert_eq!(fault(&o), (exception::DE, 0, None));
    assert_eq!(o.after.rip, CODE + 0x400);
    // UD2, HLT.
    assert_eq!(
        fault(&run(Case::of_bytes(Mode::Long, &[0x0f, 0x0b], |_| {}))).0,
        exception::UD
    );
    assert_eq!(
        fault(&run(Case::of_bytes(Mode::Long, &[0xf4], |_| {}))),
        (exception::GP, 0, None)
    );
    // MOV [RAX], AL: beyond the scratch area, and on the read-only page.
    let store = |at| run(Case::of_bytes(Mode::Long, &[0x88, 0x00], |r| r.gpr[0] = at));
    assert_eq!(fault(&store(SCRATCH_END)), (exception::PF, 6, Some(SCRATCH_END)));
    assert_eq!(fault(&store(READ_ONLY)), (exception::PF, 7, Some(READ_ONLY)));
    // An instruction cut off by the end of code memory.
    let mut cut = Case::of_bytes(Mode::Long, &[0x0f, 0x1f], |_| {});
    cut.before.rip = CODE + CODE_SIZE - 2;
    cut.program[0].address = cut.before.rip;
    assert_eq!(fault(&run(cut)), (exception::PF, 0x14, Some(CODE + CODE_SIZE)));
}

#[test]
fn memory_is_compared_and_restored() {
    let mut runner = NativeRunner::new().unwrap();
    let words = SCRATCH_SIZE as usize / 8;
    runner.set_background(&vec![0x1111_1111_1111_1111; words], &vec![7; PAGE as usize / 8]);
    // PUSH RBX.
    let push = Case::of_bytes(Mode::Long, &[0x53], |r| r.gpr[3] = 0xabcd);
    for _ in 0..2 {
        let o = runner
            .run(std::slice::from_ref(&push))
            .unwrap()
            .remove(0)
            .unwrap();
        assert_eq!(o.memory, [(0x7f8, 0xabcd)]);
        assert_eq!(o.after.gpr[4], SCRATCH + 0x7f8);
    }
    // MOV RAX, [RCX] on the read-only page.
    let load = Case::of_bytes(Mode::Long, &[0x48, 0x8b, 0x01], |r| r.gpr[1] = READ_ONLY + 8);
    assert_eq!(runner.run(&[load]).unwrap().remove(0).unwrap().after.gpr[0], 7);
}

#[test]
fn floating_point_state_goes_in_and_out() {
    // FLD1 with TOP = 0: pushes to R7.
    let o = run(Case::of_bytes(Mode::Long, &[0xd9, 0xe8], |_| {}));
    assert_eq!(o.after.fpu.status >> 11 & 7, 7);
    assert_eq!(
        (o.after.fpu.sign_exponent[7], o.after.fpu.significand[7]),
        (0x3fff, 1 << 63)
    );
    assert_eq!(crate::regs::abridged_tag(o.after.fpu.tag), 0x80);
    // DIVSS XMM0, XMM1: one by zero, first masked, then not.
    let divide = |mxcsr| {
        run(Case::of_bytes(Mode::Long, &[0xf3, 0x0f, 0x5e, 0xc1], |r| {
            r.ymm[0][0] = 1f32.to_bits() as u64;
            r.mxcsr = mxcsr;
        }))
    };
    let masked = divide(0x1f80);
    assert_eq!(
        (masked.after.ymm[0][0], masked.after.mxcsr),
        (f32::INFINITY.to_bits() as u64, 0x1f84)
    );
    let unmasked = divide(0x1d80);
    assert_eq!(fault(&unmasked).0, exception::XM);
    assert_eq!(
        (unmasked.after.ymm[0][0], unmasked.after.mxcsr),
        (1f32.to_bits() as u64, 0x1d84)
    );
}

#[test]
fn segment_bases_and_single_steps() {
    // MOV RAX, FS:[RCX].
    let base = 0xffff_9000_0000_0000;
    let o = run(Case::of_bytes(Mode::Long, &[0x64, 0x48, 0x8b, 0x01], |r| {
        r.fs_base = base;
        r.gpr[1] = SCRATCH.wrapping_sub(base);
        r.gpr[0] = 5;
    }));
    assert_eq!(
        (o.end, o.after.gpr[0], o.after.fs_base),
        (End::Completed, 0, base)
    );
    // NOP with TF: #DB behind it.
    let o = run(Case::of_bytes(Mode::Long, &[0x90], |r| r.rflags |= TF));
    assert_eq!((fault(&o).0, o.after.rip), (exception::DB, CODE + 0x401));
}

#[test]
fn compatibility_mode_too() {
    // AAA: 0x0f + 6 carries into AH.
    let o = run(Case::of_bytes(Mode::Compat32, &[0x37], |r| r.gpr[0] = 0x0f));
    assert_eq!(
        (o.end, o.after.gpr[0], o.after.rflags & (CF | AF)),
        (End::Completed, 0x0105, CF | AF)
    );
    // INC EAX, a REX prefix in 64-bit mode; then INC AX in 16-bit code.
    let o = run(Case::of_bytes(Mode::Compat32, &[0x40], |r| r.gpr[0] = 0xffff));
    assert_eq!(o.after.gpr[0], 0x1_0000);
    let o = run(Case::of_bytes(Mode::Compat16, &[0x40], |r| r.gpr[0] = 0xffff));
    assert_eq!((o.end, o.after.gpr[0]), (End::Completed, 0));
    // BOUND EAX, [ECX] out of range.
    let o = run(Case::of_bytes(Mode::Compat32, &[0x62, 0x01], |r| {
        (r.gpr[0], r.gpr[1]) = (9, SCRATCH);
    }));
    assert_eq!(fault(&o).0, exception::BR);
}

#[test]
fn a_lost_worker_is_replaced() {
    let mut runner = NativeRunner::new().unwrap();
    runner.set_timeout(Duration::from_millis(300));
    let nop = || Case::of_bytes(Mode::Long, &[0x90], |_| {});
    // SYSCALL exit, and a jump to itself.
    let exit = Case::of_bytes(Mode::Long, &[0x0f, 0x05], |r| r.gpr[0] = 60);
    let spin = Case::of_bytes(Mode::Long, &[0xeb, 0xfe], |_| {});
    let results = runner.run(&[nop(), exit, nop(), spin, nop()]).unwrap();
    assert!(
        matches!(results[1], Err(NativeError::Died { at: 1, .. })),
        "{:?}",
        results[1]
    );
    assert_eq!(results[3], Err(NativeError::Hung { at: 3 }));
    for i in [0, 2, 4] {
        assert_eq!(results[i].as_ref().unwrap().end, End::Completed);
    }
}
