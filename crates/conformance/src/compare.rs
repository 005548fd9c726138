//! Compares what an engine did with what the processor did.

use crate::case::{Case, Mode};
use crate::layout::{PAGE, SCRATCH, STATE, STUB};
use crate::outcome::{End, Outcome};
use crate::undefined::{Tolerance, Undefined, decode, memory_address, undefined};
use donjon_x86::exception;

/// One thing that differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// What.
    pub what: String,
    /// What the processor has.
    pub expected: String,
    /// What the engine has.
    pub got: String,
}

/// Names of the general-purpose registers.
pub const GPR: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
const SELECTORS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

/// Names of the flags in a value of RFLAGS.
pub fn flag_names(flags: u64) -> String {
    const NAMES: [(u32, &str); 13] = [
        (0, "CF"),
        (2, "PF"),
        (4, "AF"),
        (6, "ZF"),
        (7, "SF"),
        (8, "TF"),
        (9, "IF"),
        (10, "DF"),
        (11, "OF"),
        (14, "NT"),
        (16, "RF"),
        (18, "AC"),
        (21, "ID"),
    ];
    let set: Vec<&str> = NAMES
        .iter()
        .filter(|(b, _)| flags >> b & 1 != 0)
        .map(|(_, n)| *n)
        .collect();
    set.join(" ")
}

/// An end in words.
pub fn end_name(end: &End) -> String {
    match end {
        End::Completed => "completed".into(),
        End::Exception {
            vector,
            error_code,
            cr2,
        } => {
            let cr2 = cr2.map_or(String::new(), |a| format!(", cr2 {a:#x}"));
            format!(
                "{} (vector {vector}), error code {error_code:#x}{cr2}",
                exception::name(*vector)
            )
        }
        End::Hung => "hung".into(),
        End::Failed(why) => format!("failed: {why}"),
    }
}

/// Everything that differs and is defined.
/// `background` is what the scratch area holds without the case's patches.
pub fn compare(case: &Case, background: &[u64], expected: &Outcome, got: &Outcome) -> Vec<Difference> {
    if reads_the_harness(case) || loads_what_only_the_host_has(case, background, got) {
        return Vec::new();
    }
    compare_but(case, background, expected, got, &undefined(case, expected))
}

/// Everything that differs and is not among `u`.
pub fn compare_but(
    case: &Case,
    background: &[u64],
    expected: &Outcome,
    got: &Outcome,
    u: &Undefined,
) -> Vec<Difference> {
    let mut d = Vec::new();
    if !same_end(&expected.end, &got.end, u) {
        d.push(Difference {
            what: "end".into(),
            expected: end_name(&expected.end),
            got: end_name(&got.end),
        });
        if matches!(got.end, End::Hung | End::Failed(_)) {
            return d;
        }
    }
    registers(case, expected, got, u, &mut d);
    fpu(expected, got, u, &mut d);
    vectors(expected, got, u, &mut d);
    memory(case, background, expected, got, u, &mut d);
    d
}

/// Whether the memory operand, by chance, lies where the worker and the guest keep different things of their
/// own: the way out of a case, and the worker's register block.
fn reads_the_harness(case: &Case) -> bool {
    // The widest operand is an XSAVE area.
    const REACH: u64 = 0x400;
    memory_address(case, &decode(case)).is_some_and(|at| {
        [STUB, STATE]
            .iter()
            .any(|page| at.wrapping_add(REACH).wrapping_sub(*page) < PAGE + REACH)
    })
}

/// Whether the engine refuses state that the host's processor has and the guest model lacks: MXCSR.MM of AMD
/// processors (AMD APM vol. 1 §4.2.2), or state components beyond AVX (Intel SDM vol. 1 §13.1).
fn loads_what_only_the_host_has(case: &Case, background: &[u64], got: &Outcome) -> bool {
    use iced_x86::Mnemonic::*;
    const MM: u32 = 1 << 17;
    const MODEL_COMPONENTS: u64 = 7 | 1 << 63;
    let refused = matches!(
        got.end,
        End::Exception {
            vector: exception::GP,
            ..
        }
    );
    let i = decode(case);
    let Some(at) = memory_address(case, &i).filter(|_| refused) else {
        return false;
    };
    let scratch = case.scratch_before(background);
    let byte = |at: u64| {
        let at = at.wrapping_sub(SCRATCH);
        scratch
            .get(at as usize / 8)
            .map_or(0, |w| w.to_le_bytes()[at as usize % 8])
    };
    let word = |at: u64| u64::from_le_bytes(std::array::from_fn(|n| byte(at.wrapping_add(n as u64))));
    let mxcsr = |at: u64| word(at) as u32 & MM != 0;
    match i.mnemonic() {
        Ldmxcsr | Vldmxcsr => mxcsr(at),
        Fxrstor | Fxrstor64 => mxcsr(at.wrapping_add(24)),
        Xrstor | Xrstor64 => {
            let header = word(at.wrapping_add(512)) | word(at.wrapping_add(520));
            mxcsr(at.wrapping_add(24)) || header & !MODEL_COMPONENTS != 0
        }
        _ => false,
    }
}

/// Whether two ends are the same, or as good as.
fn same_end(expected: &End, got: &End, u: &Undefined) -> bool {
    match (expected, got) {
        (
            End::Exception {
                vector: a,
                error_code: p,
                cr2: Some(_),
            },
            End::Exception {
                vector: b,
                error_code: q,
                cr2: Some(_),
            },
        ) if u.cr2 => a == b && p == q,
        (End::Exception { vector: a, .. }, End::Exception { vector: b, .. }) if a != b => {
            u.faults.contains(a) && u.faults.contains(b)
        }
        _ => expected == got,
    }
}

fn differ(d: &mut Vec<Difference>, what: &str, expected: u64, got: u64, undefined: u64) {
    if (expected ^ got) & !undefined != 0 {
        d.push(Difference {
            what: what.into(),
            expected: format!("{expected:#x}"),
            got: format!("{got:#x}"),
        });
    }
}

fn registers(case: &Case, expected: &Outcome, got: &Outcome, u: &Undefined, d: &mut Vec<Difference>) {
    let (e, g) = (&expected.after, &got.after);
    for (r, name) in GPR.iter().enumerate() {
        differ(d, name, e.gpr[r], g.gpr[r], u.gpr[r]);
    }
    differ(d, "rip", e.rip, g.rip, if u.rip { u64::MAX } else { 0 });
    if (e.rflags ^ g.rflags) & !u.rflags != 0 {
        d.push(Difference {
            what: format!("rflags ({})", flag_names((e.rflags ^ g.rflags) & !u.rflags)),
            expected: format!("{:#x} {}", e.rflags, flag_names(e.rflags)),
            got: format!("{:#x} {}", g.rflags, flag_names(g.rflags)),
        });
    }
    for (s, name) in SELECTORS.iter().enumerate() {
        let (a, b) = (e.selectors[s], g.selectors[s]);
        // The host's kernel reloads null selectors as zero when it switches tasks (Linux, load_gs_index).
        if !(a <= 3 && b <= 3) {
            differ(d, name, a as u64, b as u64, 0);
        }
    }
    if case.mode == Mode::Long {
        differ(d, "fs base", e.fs_base, g.fs_base, 0);
        differ(d, "gs base", e.gs_base, g.gs_base, 0);
    }
}

fn fpu(expected: &Outcome, got: &Outcome, u: &Undefined, d: &mut Vec<Difference>) {
    let (e, g) = (&expected.after.fpu, &got.after.fpu);
    differ(d, "x87 control", e.control as u64, g.control as u64, 0);
    differ(d, "x87 status", e.status as u64, g.status as u64, u.status as u64);
    // The tags of non-empty registers follow from their contents.
    let empty = crate::regs::abridged_tag;
    differ(d, "x87 not empty", empty(e.tag) as u64, empty(g.tag) as u64, 0);
    let top = e.status as usize >> 11 & 7;
    for r in 0..8 {
        let (a, b) = (
            (e.sign_exponent[r], e.significand[r]),
            (g.sign_exponent[r], g.significand[r]),
        );
        if a == b || matches!(u.tolerance, Tolerance::X87 { units } if units_apart(a, b) <= units) {
            continue;
        }
        d.push(Difference {
            what: format!("st({})", r.wrapping_sub(top) & 7),
            expected: format!("{:04x}:{:016x}", a.0, a.1),
            got: format!("{:04x}:{:016x}", b.0, b.1),
        });
    }
    // FOP, FIP and FDP: see `undefined::fpu`.
}

/// The distance of two finite extended values in units in the last place.
fn units_apart(a: (u16, u64), b: (u16, u64)) -> u64 {
    if a.0 >> 15 != b.0 >> 15 || a.0 & 0x7fff == 0x7fff || b.0 & 0x7fff == 0x7fff {
        return u64::MAX;
    }
    // Biased exponent and fraction as one number: neighbours differ by one, across binades too.
    let line = |v: (u16, u64)| ((v.0 & 0x7fff) as u128) << 63 | (v.1 & (u64::MAX >> 1)) as u128;
    line(a).abs_diff(line(b)).min(u64::MAX as u128) as u64
}

fn vectors(expected: &Outcome, got: &Outcome, u: &Undefined, d: &mut Vec<Difference>) {
    let (e, g) = (&expected.after, &got.after);
    differ(d, "mxcsr", e.mxcsr as u64, g.mxcsr as u64, u.mxcsr as u64);
    for r in 0..16 {
        if e.ymm[r] == g.ymm[r] || u.ymm >> r & 1 != 0 {
            continue;
        }
        if matches!(u.tolerance, Tolerance::Vector { register, relative } if register == r
            && close(&e.ymm[r], &g.ymm[r], relative))
        {
            continue;
        }
        let hex = |v: &[u64; 4]| format!("{:016x}_{:016x}_{:016x}_{:016x}", v[3], v[2], v[1], v[0]);
        d.push(Difference {
            what: format!("ymm{r}"),
            expected: hex(&e.ymm[r]),
            got: hex(&g.ymm[r]),
        });
    }
}

/// Whether all binary32 lanes are within the relative error; special values must be equal.
fn close(a: &[u64; 4], b: &[u64; 4], relative: f64) -> bool {
    (0..8).all(|i| {
        let lane = |v: &[u64; 4]| (v[i / 2] >> (32 * (i % 2))) as u32;
        let (x, y) = (lane(a), lane(b));
        let (p, q) = (f32::from_bits(x) as f64, f32::from_bits(y) as f64);
        // Around the smallest normal number one of the two may have been flushed to zero.
        let tiny = |v: f64| v.abs() <= f32::MIN_POSITIVE as f64 * 1.01;
        let sign = x >> 31 == y >> 31;
        x == y
            || (sign && p.is_finite() && q.is_finite() && (p - q).abs() <= relative * p.abs())
            || (sign && tiny(p) && tiny(q))
    })
}

fn memory(
    case: &Case,
    background: &[u64],
    expected: &Outcome,
    got: &Outcome,
    u: &Undefined,
    d: &mut Vec<Difference>,
) {
    if expected.memory == got.memory || u.all_memory {
        return;
    }
    let mask = |offset: usize| {
        let mut m = 0u64;
        for byte in 0..8 {
            let at = SCRATCH + (offset + byte) as u64;
            if u.memory
                .iter()
                .any(|&(start, len)| at.wrapping_sub(start) < len as u64)
            {
                m |= 0xff << (byte * 8);
            }
        }
        m
    };
    let mut words: Vec<usize> = expected.memory.iter().chain(&got.memory).map(|w| w.0).collect();
    words.sort_unstable();
    words.dedup();
    let find = |o: &Outcome, at: usize| o.memory.iter().find(|w| w.0 == at).map(|w| w.1);
    let before = case.scratch_before(background);
    let mut listed = 0;
    for at in words {
        let (e, g) = (find(expected, at), find(got, at));
        if e == g {
            continue;
        }
        let m = mask(at);
        // A side that is not listed left the word as it was before the case.
        let now = |v: Option<u64>| v.unwrap_or(before[at / 8]);
        if (now(e) ^ now(g)) & !m == 0 {
            continue;
        }
        listed += 1;
        if listed <= 4 {
            let show = |v: Option<u64>| v.map_or("unchanged".into(), |v| format!("{v:016x}"));
            d.push(Difference {
                what: format!("[{:#x}]", SCRATCH + at as u64),
                expected: show(e),
                got: show(g),
            });
        }
    }
    if listed > 4 {
        d.push(Difference {
            what: "more memory".into(),
            expected: format!("{} words", listed - 4),
            got: String::new(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_cross_binades() {
        assert_eq!(units_apart((0x3fff, 1 << 63), (0x3ffe, u64::MAX)), 1);
        assert_eq!(units_apart((0x3fff, 1 << 63), (0x3fff, 1 << 63 | 3)), 3);
        assert_eq!(units_apart((0x3fff, 1 << 63), (0xbfff, 1 << 63)), u64::MAX);
    }

    #[test]
    fn approximations_are_close_or_not() {
        let lanes = |x: f32| [x.to_bits() as u64, 0, 0, 0];
        assert!(close(&lanes(1.0), &lanes(1.0003), 3.0 / 4096.0));
        assert!(!close(&lanes(1.0), &lanes(1.001), 3.0 / 4096.0));
        assert!(!close(&lanes(1.0), &lanes(-1.0), 3.0 / 4096.0));
        assert!(!close(&lanes(f32::INFINITY), &lanes(f32::MAX), 3.0 / 4096.0));
    }
}
