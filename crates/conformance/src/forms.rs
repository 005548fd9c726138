//! Which instruction forms there are, and which of them a case can compare.
//!
//! A form is one row of an instruction's opcode table (an iced-x86 `Code`): `ADD r/m32, r32` and
//! `ADD r32, r/m32` are two. A form of the guest model is *covered* when random cases compare it in full,
//! or *named*: [`named()`] gives the reason why it is not, or not in full. There is no third kind.

mod named;

pub use named::{Named, named};

use crate::case::Mode;
use crate::encode;
use iced_x86::{Code, CpuidFeature, EncodingKind, OpCodeInfo};

/// One instruction form in one mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Form {
    /// The form.
    pub code: Code,
    /// Where it runs.
    pub mode: Mode,
    /// Why it is not compared in full, if so.
    pub named: Option<Named>,
}

impl Form {
    /// Its row of the opcode table.
    pub fn info(&self) -> &'static OpCodeInfo {
        self.code.op_code()
    }

    /// Whether cases are made for it.
    pub fn runs(&self) -> bool {
        !matches!(self.named, Some(Named::NotRun(_)))
    }

    /// What a pattern on the command line is matched against, such as `add_rm32_r32@64`.
    pub fn label(&self) -> String {
        format!("{:?}@{}", self.code, self.mode.bits()).to_lowercase()
    }
}

/// The features of guest model x86-64-v3 that bring instructions; [`donjon_x86::cpuid::CpuModel`] has the
/// same list as CPUID bits.
const FEATURES: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::ADX,
    CpuidFeature::AES,
    CpuidFeature::AVX,
    CpuidFeature::AVX2,
    CpuidFeature::BMI1,
    CpuidFeature::BMI2,
    CpuidFeature::CLFLUSHOPT,
    CpuidFeature::CLFSH,
    CpuidFeature::CMOV,
    CpuidFeature::CMPXCHG16B,
    CpuidFeature::CPUID,
    CpuidFeature::CX8,
    CpuidFeature::F16C,
    CpuidFeature::FMA,
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::FSGSBASE,
    CpuidFeature::FXSR,
    CpuidFeature::INVPCID,
    CpuidFeature::LZCNT,
    CpuidFeature::MMX,
    CpuidFeature::MOVBE,
    CpuidFeature::MSR,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::PCLMULQDQ,
    CpuidFeature::POPCNT,
    CpuidFeature::PREFETCHW,
    CpuidFeature::RDPID,
    CpuidFeature::RDPMC,
    CpuidFeature::RDRAND,
    CpuidFeature::RDSEED,
    CpuidFeature::RDTSCP,
    CpuidFeature::SEP,
    CpuidFeature::SMAP,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::SSE3,
    CpuidFeature::SSE4_1,
    CpuidFeature::SSE4_2,
    CpuidFeature::SSSE3,
    CpuidFeature::SYSCALL,
    CpuidFeature::TSC,
    CpuidFeature::XSAVE,
    CpuidFeature::XSAVEC,
    CpuidFeature::XSAVEOPT,
];

/// Whether every feature the form needs is in the guest model.
pub(crate) fn is_model_feature(code: Code) -> bool {
    code.cpuid_features().iter().all(|f| FEATURES.contains(f))
}

/// Whether the guest model has this form in this mode. A form whose own plain encoding decodes as another
/// form (an older name of the same bytes, or an encoding only other vendors' early processors had) is not
/// a form of its own.
fn in_model(code: Code, mode: Mode) -> bool {
    let op = code.op_code();
    let available = match mode {
        Mode::Long => op.mode64(),
        Mode::Compat32 => op.mode32(),
        Mode::Compat16 => op.mode16(),
    };
    op.is_instruction()
        && available
        && matches!(op.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
        // FINIT and its like are FWAIT followed by FNINIT.
        && !op.fwait()
        && op.decoder_option() == 0
        && is_model_feature(code)
        && encode::decodes_as_itself(code, mode)
}

/// Every form of the guest model in `mode`, in opcode-table order. A form that several modes have is one in
/// each: its addresses, its stack and what its prefixes mean differ.
pub fn all(mode: Mode) -> Vec<Form> {
    Code::values()
        .filter(|&code| in_model(code, mode))
        .map(|code| Form {
            code,
            mode,
            named: named(code, mode),
        })
        .collect()
}

/// How many forms there are, and how many cases compare in full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Coverage {
    /// Forms of the guest model.
    pub implemented: usize,
    /// Of them, those compared in full.
    pub covered: usize,
}

/// Counts `forms`, of which `ran(form)` says whether at least one case ran.
pub fn coverage(forms: &[Form], ran: impl Fn(&Form) -> bool) -> (Coverage, Vec<Form>) {
    let full = |f: &&Form| f.named.is_none();
    let gaps: Vec<Form> = forms.iter().filter(|f| f.runs() && !ran(f)).copied().collect();
    let covered = forms.iter().filter(full).filter(|f| ran(f)).count();
    (
        Coverage {
            implemented: forms.len(),
            covered,
        },
        gaps,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_of_the_expected_size() {
        let n = all(Mode::Long).len();
        assert!(n > 1500, "{n} forms");
        let has = |c: Code| all(Mode::Long).iter().any(|f| f.code == c);
        for code in [
            Code::Add_rm32_r32,
            Code::VEX_Vfmadd132ps_ymm_ymm_ymmm256,
            Code::Fsin,
            Code::Cmpxchg16b_m128,
        ] {
            assert!(has(code), "{code:?}");
        }
        for code in [
            Code::Aaa,
            Code::Sha1msg1_xmm_xmmm128,
            Code::EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er,
        ] {
            assert!(!has(code), "{code:?}");
        }
    }

    #[test]
    fn a_form_without_cases_is_a_gap() {
        let forms = all(Mode::Long);
        let (coverage, gaps) = coverage(&forms, |f| f.code != Code::Add_rm32_r32);
        assert_eq!(
            gaps.iter().map(|f| f.code).collect::<Vec<_>>(),
            [Code::Add_rm32_r32]
        );
        assert!(coverage.covered < coverage.implemented);
    }

    #[test]
    fn every_name_has_a_reason() {
        for mode in Mode::ALL {
            for form in all(mode) {
                if let Some(n) = form.named {
                    assert!(n.reason().len() > 10, "{form:?}");
                }
            }
        }
    }
}
