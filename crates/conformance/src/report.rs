//! Mismatches, readable.

use crate::case::Case;
use crate::compare::{Difference, GPR, end_name, flag_names};
use crate::layout::*;
use crate::outcome::Outcome;
use crate::undefined::{decode, memory_address};
use iced_x86::{Formatter, InstructionInfoFactory, IntelFormatter, Register};
use std::fmt::Write;

/// One case that went wrong.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// The case's number.
    pub index: u64,
    /// The form's label.
    pub label: String,
    /// The text.
    pub text: String,
}

/// The instruction in Intel syntax.
pub fn disassemble(case: &Case) -> String {
    let i = decode(case);
    if i.is_invalid() {
        return "(invalid)".into();
    }
    let mut text = String::new();
    IntelFormatter::new().format(&i, &mut text);
    text
}

/// The inputs the instruction reads, one per line.
fn inputs(case: &Case, background: &[u64]) -> String {
    let i = decode(case);
    let r = &case.before;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "    rip {:#x}  rflags {:#x} {}",
        r.rip,
        r.rflags,
        flag_names(r.rflags)
    );
    let mut factory = InstructionInfoFactory::new();
    let mut seen = Vec::new();
    let (mut vector, mut x87) = (false, false);
    for used in factory.info(&i).used_registers() {
        let full = used.register().full_register();
        if seen.contains(&full) {
            continue;
        }
        seen.push(full);
        if full.is_gpr() {
            let n = full.number();
            let _ = writeln!(out, "    {} {:#x}", GPR[n], r.gpr[n]);
        } else if full.is_vector_register() {
            vector = true;
            let y = r.ymm[full.number()];
            let _ = writeln!(
                out,
                "    ymm{} {:016x}_{:016x}_{:016x}_{:016x}",
                full.number(),
                y[3],
                y[2],
                y[1],
                y[0]
            );
        } else if full.is_st() || full.is_mm() {
            x87 = true;
        } else if full == Register::FS || full == Register::GS {
            let base = if full == Register::FS {
                r.fs_base
            } else {
                r.gs_base
            };
            let _ = writeln!(out, "    {full:?} base {base:#x}");
        }
    }
    use iced_x86::CpuidFeature::*;
    x87 |= i
        .cpuid_features()
        .iter()
        .any(|f| matches!(*f, FPU | FPU287 | FPU387 | FXSR));
    if vector {
        let _ = writeln!(out, "    mxcsr {:#x}", r.mxcsr);
    }
    if x87 {
        let f = &r.fpu;
        let _ = writeln!(
            out,
            "    x87 control {:#x} status {:#x} tag {:#06x}",
            f.control, f.status, f.tag
        );
        let top = f.status as usize >> 11 & 7;
        for i in 0..8 {
            let p = (top + i) & 7;
            let empty = if f.tag >> (2 * p) & 3 == 3 { " empty" } else { "" };
            let _ = writeln!(
                out,
                "    st({i}) {:04x}:{:016x}{empty}",
                f.sign_exponent[p], f.significand[p]
            );
        }
    }
    if case.mode != crate::case::Mode::Long {
        let _ = writeln!(out, "    es cs ss ds fs gs {:x?}", r.selectors);
    }
    if let Some(at) = memory_address(case, &i) {
        let _ = writeln!(
            out,
            "    memory operand at {at:#x}: {}",
            bytes_at(case, background, at)
        );
    }
    if i.is_stack_instruction() {
        let _ = writeln!(out, "    stack: {}", bytes_at(case, background, r.gpr[4]));
    }
    out
}

/// Up to 32 bytes of scratch memory.
fn bytes_at(case: &Case, background: &[u64], at: u64) -> String {
    let Some(offset) = at.checked_sub(SCRATCH).filter(|o| *o < SCRATCH_SIZE) else {
        return "outside the scratch area".into();
    };
    let bytes: Vec<u8> = case
        .scratch_before(background)
        .iter()
        .flat_map(|w| w.to_le_bytes())
        .collect();
    bytes[offset as usize..]
        .iter()
        .take(32)
        .map(|b| format!("{b:02x}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The report of a mismatch.
pub fn report(
    seed: u64,
    label: &str,
    case: &Case,
    background: &[u64],
    expected: Option<&Outcome>,
    differences: &[Difference],
) -> Report {
    let bytes: Vec<String> = case.instruction().iter().map(|b| format!("{b:02x}")).collect();
    let mut text = String::new();
    let _ = writeln!(
        text,
        "  {}    [{}] {:?}",
        disassemble(case),
        bytes.join(" "),
        case.mode
    );
    let _ = writeln!(text, "  replay: --replay {seed}:{}", case.index);
    text += &inputs(case, background);
    if let Some(e) = expected {
        let _ = writeln!(text, "    expected: {}", end_name(&e.end));
    }
    for d in differences {
        let _ = writeln!(text, "    {}: expected {}, got {}", d.what, d.expected, d.got);
    }
    Report {
        index: case.index,
        label: label.to_string(),
        text,
    }
}
