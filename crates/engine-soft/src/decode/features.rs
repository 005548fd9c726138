//! Which instructions exist for a CPU model: anything else is #UD, whatever the host could do.

use donjon_x86::cpuid::CpuModel;
use iced_x86::{CpuidFeature as F, DecoderOptions, Instruction};

/// Features of every model.
const BASE: &[F] = &[
    F::INTEL8086,
    F::INTEL186,
    F::INTEL286,
    F::INTEL386,
    F::INTEL486,
    F::FPU,
    F::FPU287,
    F::FPU387,
    F::X64,
    F::MULTIBYTENOP,
    F::CPUID,
    F::CX8,
    F::CMOV,
    F::CMPXCHG16B,
    F::MMX,
    F::FXSR,
    F::SSE,
    F::SSE2,
    F::SSE3,
    F::SSSE3,
    F::SSE4_1,
    F::SSE4_2,
    F::POPCNT,
    F::AES,
    F::PCLMULQDQ,
    F::MSR,
    F::TSC,
    F::RDPMC,
    F::RDTSCP,
    F::RDPID,
    F::SEP,
    F::SYSCALL,
    F::PAUSE,
    F::CLFSH,
    F::CLFLUSHOPT,
    F::PREFETCHW,
    F::XSAVE,
    F::XSAVEOPT,
    F::XSAVEC,
    F::INVPCID,
    F::FSGSBASE,
    F::RDRAND,
    F::RDSEED,
    F::ADX,
    F::SMAP,
];

/// What level v3 adds.
const V3: &[F] = &[
    F::AVX,
    F::AVX2,
    F::FMA,
    F::F16C,
    F::BMI1,
    F::BMI2,
    F::LZCNT,
    F::MOVBE,
];

/// How the model's decoder reads encodings whose meaning depends on a feature.
pub fn options(model: &CpuModel) -> u32 {
    // Hints that are not implemented (ENDBR, CLDEMOTE, MPX …) are the reserved NOPs they are made of.
    let mut o = DecoderOptions::FORCE_RESERVED_NOP | DecoderOptions::NO_WBNOINVD;
    if !model.v3() {
        // Without BMI1 and LZCNT the F3 prefix of TZCNT and LZCNT means nothing: BSF, BSR.
        o |= DecoderOptions::NO_MPFX_0FBC | DecoderOptions::NO_MPFX_0FBD;
    }
    o
}

/// Whether the model has every feature the instruction needs.
pub fn implemented(i: &Instruction, model: &CpuModel) -> bool {
    i.cpuid_features()
        .iter()
        .all(|f| BASE.contains(f) || model.v3() && V3.contains(f))
}
