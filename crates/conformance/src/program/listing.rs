//! A program to read.

use super::{Layout, Program, taint};
use crate::compare::{Difference, GPR, end_name, flag_names};
use crate::outcome::Outcome;
use iced_x86::{Formatter, IntelFormatter};
use std::fmt::Write;

/// The instructions, and the registers they start with.
pub fn listing(program: &Program) -> String {
    let layout = Layout::of(program);
    let mut out = String::new();
    let mut formatter = IntelFormatter::new();
    formatter.options_mut().set_branch_leading_zeros(false);
    for (n, i) in taint::decode(program, &layout).iter().enumerate() {
        let mut text = String::new();
        formatter.format(i, &mut text);
        let bytes: Vec<String> = layout.instruction(n).iter().map(|b| format!("{b:02x}")).collect();
        let _ = writeln!(
            out,
            "  {:x}  {:<30}  {text}",
            layout.places[n].address,
            bytes.concat()
        );
    }
    let r = &program.before;
    let _ = writeln!(out, "    rflags {:#x} {}", r.rflags, flag_names(r.rflags));
    for (name, v) in GPR.iter().zip(r.gpr) {
        let _ = writeln!(out, "    {name} {v:#x}");
    }
    let _ = writeln!(out, "    fs base {:#x}  gs base {:#x}", r.fs_base, r.gs_base);
    let _ = writeln!(
        out,
        "    mxcsr {:#x}  x87 control {:#x} status {:#x}",
        r.mxcsr, r.fpu.control, r.fpu.status
    );
    out
}

/// A mismatch: the reduced program and what differs at its end.
pub fn report(seed: u64, program: &Program, from: usize, expected: &Outcome, d: &[Difference]) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "  --replay {seed}:{}  {:?}, {} of {from} instructions",
        program.index,
        program.mode,
        program.len()
    );
    out += &listing(program);
    let _ = writeln!(
        out,
        "    expected: {} at {:#x}",
        end_name(&expected.end),
        expected.after.rip
    );
    for d in d {
        let _ = writeln!(out, "    {}: expected {}, got {}", d.what, d.expected, d.got);
    }
    out
}
