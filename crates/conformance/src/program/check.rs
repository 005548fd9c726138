//! Compares what an engine made of a program with what the processor made of it.

use super::{Layout, Program, taint};
use crate::case::{Case, CodeBytes, Mode};
use crate::compare::{Difference, compare_but};
use crate::layout::CODE;
use crate::outcome::{End, Outcome};
use crate::undefined::{Undefined, undefined};
use donjon_x86::exception;

/// Everything that differs and is defined.
pub fn compare(
    program: &Program,
    layout: &Layout,
    background: &[u64],
    expected: &Outcome,
    got: &Outcome,
) -> Vec<Difference> {
    let case = program.case(layout);
    compare_but(
        &case,
        background,
        expected,
        got,
        &unknown(program, layout, expected),
    )
}

/// What is undefined where the processor stopped.
fn unknown(program: &Program, layout: &Layout, expected: &Outcome) -> Undefined {
    let taint = taint::Taint::of(program, layout);
    let rip = match program.mode {
        Mode::Compat16 => expected.after.rip + CODE,
        _ => expected.after.rip,
    };
    let (set, mut u) = match &expected.end {
        End::Exception { vector, .. } => {
            let fault = match layout.at(rip) {
                // Traps are of the instruction before.
                Some(n) if !matches!(*vector, exception::DB | exception::BP | exception::OF) => {
                    undefined(&faulting(program, layout, n, expected), expected)
                }
                _ => Undefined::NONE,
            };
            (taint.at(layout, rip), fault)
        }
        _ => (taint.before.last().copied().unwrap_or(0), Undefined::NONE),
    };
    u.rflags |= taint::flags(set);
    u.status |= taint::status(set);
    u
}

/// The instruction that faulted as a case of its own: its state before is that at the fault.
fn faulting(program: &Program, layout: &Layout, n: usize, expected: &Outcome) -> Case {
    let bytes = layout.instruction(n);
    Case {
        length: bytes.len(),
        before: expected.after.clone(),
        program: vec![CodeBytes::new(layout.places[n].address, bytes)],
        patches: Vec::new(),
        ..program.case(layout)
    }
}
