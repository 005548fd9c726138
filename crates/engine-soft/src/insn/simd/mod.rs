//! SSE to SSE4.2, AES, PCLMULQDQ, AVX, AVX2, FMA and F16C.
//!
//! An instruction is one line of a table: its mnemonics, legacy and VEX, a shape and a function on elements
//! or lanes. [`shape`] makes the handlers of all encodings from that.

mod aes;
mod convert;
mod float;
mod fma;
mod gather;
mod integer;
mod lanes;
mod moves;
mod shape;
mod shuffle;
mod strings;
mod swar;

use crate::decode::{Handler, Op};
use iced_x86::{Instruction, Mnemonic};
use shape::Low;

/// The handler of a vector instruction.
pub(crate) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    use Mnemonic::*;
    let mut l = Low::new(i, op)?;
    match i.mnemonic() {
        Ldmxcsr | Vldmxcsr | Stmxcsr | Vstmxcsr | Vzeroall | Vzeroupper | Movq2dq | Movdq2q => {
            return moves::lower(&mut l);
        }
        Cvtpi2ps | Cvtpi2pd | Cvtps2pi | Cvttps2pi | Cvtpd2pi | Cvttpd2pi => return convert::lower_mmx(&l),
        Cvtss2si | Cvtsd2si | Cvttss2si | Cvttsd2si | Vcvtss2si | Vcvtsd2si | Vcvttss2si | Vcvttsd2si => {
            return convert::lower(&mut l);
        }
        _ => {}
    }
    // Other instructions without a vector register share at most a mnemonic with ours: string operations
    // and the MMX forms.
    if !(0..i.op_count()).any(|n| i.op_register(n).is_xmm() || i.op_register(n).is_ymm()) {
        return None;
    }
    moves::lower(&mut l)
        .or_else(|| integer::lower(&mut l))
        .or_else(|| shuffle::lower(&mut l))
        .or_else(|| float::lower(&mut l))
        .or_else(|| convert::lower(&mut l))
        .or_else(|| fma::lower(&mut l))
        .or_else(|| aes::lower(&mut l))
        .or_else(|| strings::lower(&mut l))
        .or_else(|| gather::lower(&l))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{Cpu, R};
    use iced_x86::{CpuidFeature, Decoder, DecoderOptions, OpKind};

    const OURS: [CpuidFeature; 12] = [
        CpuidFeature::SSE,
        CpuidFeature::SSE2,
        CpuidFeature::SSE3,
        CpuidFeature::SSSE3,
        CpuidFeature::SSE4_1,
        CpuidFeature::SSE4_2,
        CpuidFeature::AES,
        CpuidFeature::PCLMULQDQ,
        CpuidFeature::AVX,
        CpuidFeature::AVX2,
        CpuidFeature::FMA,
        CpuidFeature::F16C,
    ];

    fn nothing(_: &mut Cpu, _: &Op) -> R {
        Ok(())
    }

    fn lowers(i: &Instruction) -> bool {
        let memory = (0..i.op_count()).find(|n| i.op_kind(*n) == OpKind::Memory);
        let mut op = Op {
            run: nothing,
            imm: 0,
            disp: 0,
            len: i.len() as u8,
            a: 0,
            b: 0,
            c: 0,
            d: 0,
            mem: memory.map_or(Op::NO_MEMORY, |n| n as u8),
            base: Op::ZERO,
            index: Op::ZERO,
            scale: 0,
            seg: 0,
            address_size: 2,
            size: 0,
            x: 0,
            bits: 0,
        };
        lower(i, &mut op).is_some()
    }

    /// Whether another module implements it: integer instructions of the vector extensions, and those that
    /// only MMX registers take part in.
    fn elsewhere(i: &Instruction) -> bool {
        use Mnemonic::*;
        let integer = matches!(
            i.mnemonic(),
            Crc32 | Movnti | Lfence | Mfence | Sfence | Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2
        );
        let vector = |n| i.op_register(n).is_xmm() || i.op_register(n).is_ymm();
        let mmx = (0..i.op_count()).any(|n| i.op_register(n).is_mm());
        let converts = matches!(
            i.mnemonic(),
            Cvtpi2ps | Cvtpi2pd | Cvtps2pi | Cvttps2pi | Cvtpd2pi | Cvttpd2pi
        );
        integer || mmx && !converts && !(0..i.op_count()).any(vector)
    }

    /// Every opcode of the legacy and VEX maps, with all prefixes, lengths and register fields.
    #[test]
    fn no_form_is_missing() {
        let mut forms = std::collections::BTreeSet::new();
        let mut try_one = |bytes: &[u8], opcode: u8, modrm: u8, sib: u8| {
            let mut code = bytes.to_vec();
            code.extend([opcode, modrm, sib, 0, 0, 0, 0, 0]);
            let i = Decoder::with_ip(64, &code, 0, DecoderOptions::NONE).decode();
            let features = i.cpuid_features();
            // What was added to the maps later needs a feature of its own.
            let ours = !features.is_empty() && features.iter().all(|f| OURS.contains(f));
            if !i.is_invalid() && ours && !elsewhere(&i) {
                assert!(lowers(&i), "{:?} {code:02x?}", i.code());
                forms.insert((i.code() as u32, modrm < 0xc0));
            }
        };
        for (opcode, reg, map) in
            (0..=255).flat_map(|o| (0..8).flat_map(move |r| (1..4).map(move |m| (o, r, m))))
        {
            // A register, memory, and memory with a vector index.
            for (modrm, sib) in [
                (0xc2 | reg << 3, 0),
                (0x02 | reg << 3, 0),
                (0x04 | reg << 3, 0x2f),
            ] {
                for (prefix, w) in [0x3eu8, 0x66, 0xf3, 0xf2]
                    .into_iter()
                    .flat_map(|p| [(p, 0u8), (p, 1)])
                {
                    let escape: &[u8] = [&[0x0f][..], &[0x0f, 0x38], &[0x0f, 0x3a]][map - 1];
                    try_one(&[&[prefix, 0x40 | w << 3], escape].concat(), opcode, modrm, sib);
                }
                // W, vvvv (none or register 3), L and pp.
                for fields in 0..32u8 {
                    let vvvv = if fields & 8 != 0 { 0x60 } else { 0x78 };
                    try_one(
                        &[0xc4, 0xe0 | map as u8, fields >> 4 << 7 | vvvv | fields & 7],
                        opcode,
                        modrm,
                        sib,
                    );
                }
            }
        }
        assert!(forms.len() > 1700, "{}", forms.len());
    }
}
