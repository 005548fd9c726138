//! The instruction forms programs are made of, by what they are used for.

use crate::case::Mode;
use crate::encode;
use crate::forms::{self, Form};
use iced_x86::{Code, CpuidFeature, EncodingKind, FlowControl, Mnemonic, OpCodeOperandKind as Kind};

/// What forms are used for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// Addition, subtraction, logic, comparison.
    Alu,
    /// Copies and extensions.
    Move,
    /// Push and pop.
    Stack,
    /// Shifts and rotates.
    Shift,
    /// Multiplication and division.
    Multiply,
    /// Bit tests, scans, counts, BMI.
    Bits,
    /// Those whose result depends on flags.
    Conditional,
    /// Exchanges and LOCK.
    Exchange,
    /// Legacy SSE.
    Sse,
    /// AVX.
    Avx,
    /// MMX.
    Mmx,
    /// x87.
    X87,
    /// Whatever is left.
    Other,
}

impl Class {
    const ALL: [Self; 13] = [
        Self::Alu,
        Self::Move,
        Self::Stack,
        Self::Shift,
        Self::Multiply,
        Self::Bits,
        Self::Conditional,
        Self::Exchange,
        Self::Sse,
        Self::Avx,
        Self::Mmx,
        Self::X87,
        Self::Other,
    ];
}

/// The forms of one mode.
pub struct Pool {
    classes: Vec<Vec<Form>>,
}

impl Pool {
    /// Sorts the forms of a mode.
    pub fn new(mode: Mode) -> Self {
        let all: Vec<(Form, Class)> = forms::all(mode)
            .into_iter()
            .filter(|f| f.named.is_none())
            .filter_map(|f| Some((f, class(f.code)?)))
            .collect();
        Self {
            classes: (Class::ALL.iter())
                .map(|c| all.iter().filter(|(_, k)| k == c).map(|(f, _)| *f).collect())
                .collect(),
        }
    }

    /// The forms of a class.
    pub fn of(&self, class: Class) -> &[Form] {
        &self.classes[class as usize]
    }
}

/// What a form is used for; `None` if no random use of it makes sense.
fn class(code: Code) -> Option<Class> {
    use Mnemonic::*;
    let op = code.op_code();
    let kinds = op.op_kinds();
    if code.flow_control() != FlowControl::Next || op.is_privileged() || op.must_be_cpl0() || !op.cpl3() {
        return None;
    }
    // Selectors, strings and the like come with idioms of their own.
    let awkward = |k: &Kind| {
        matches!(
            k,
            Kind::cr_reg
                | Kind::dr_reg
                | Kind::tr_reg
                | Kind::es
                | Kind::ss
                | Kind::ds
                | Kind::fs
                | Kind::gs
                | Kind::cs
                | Kind::seg_rSI
                | Kind::es_rDI
                | Kind::seg_rDI
                | Kind::seg_rBX_al
                | Kind::mem_offs
        )
    };
    if kinds.iter().any(awkward)
        || kinds.iter().any(|&k| encode::is_vsib(k))
        || op.op0_kind() == Kind::seg_reg
    {
        return None;
    }
    // AMD reads a far pointer's offset as 32 bits.
    if op.is_save_restore() {
        return None;
    }
    Some(match code.mnemonic() {
        // Approximations, images that hold undefined fields, results that may be undefined, and state loaded
        // from memory.
        Rcpps | Rcpss | Rsqrtps | Rsqrtss | Vrcpps | Vrcpss | Vrsqrtps | Vrsqrtss | F2xm1 | Fpatan
        | Fptan | Fsin | Fcos | Fsincos | Fyl2x | Fyl2xp1 | Fnstenv | Fnsave | Fldenv | Frstor | Fldcw
        | Ldmxcsr | Vldmxcsr | Fxsave | Fxsave64 | Fxrstor | Fxrstor64 | Popf | Popfd | Popfq | Lar | Lsl
        | Verr | Verw | Arpl | Lds | Les | Lfs | Lgs | Lss | Wrfsbase | Wrgsbase | Enter | Leave | Xgetbv
        | Bound | Emms => {
            return match code.mnemonic() {
                Emms => Some(Class::Mmx),
                _ => None,
            };
        }
        Bswap if op.operand_size() == 16 => return None,
        Shld | Shrd if op.operand_size() == 16 => return None,
        _ if code == Code::Movsxd_r16_rm16 => return None,
        Add | Or | Adc | Sbb | And | Sub | Xor | Cmp | Test | Inc | Dec | Neg | Not => Class::Alu,
        Movsxd | Movzx | Movsx | Lea | Xchg | Bswap | Cbw | Cwde | Cdqe | Cwd | Cdq | Cqo | Movbe => {
            Class::Move
        }
        Mov => Class::Move,
        Push | Pop | Pushf | Pushfq | Pushfd => Class::Stack,
        Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd => Class::Shift,
        Mul | Imul | Div | Idiv | Mulx => Class::Multiply,
        Cmpxchg | Cmpxchg8b | Cmpxchg16b | Xadd => Class::Exchange,
        Lahf | Sahf | Cmc | Clc | Stc | Adcx | Adox => Class::Conditional,
        m if is_conditional(m) => Class::Conditional,
        Bt | Btc | Btr | Bts | Bsf | Bsr | Popcnt | Lzcnt | Tzcnt | Andn | Bextr | Blsi | Blsmsk | Blsr
        | Bzhi | Pdep | Pext | Rorx | Sarx | Shlx | Shrx => Class::Bits,
        _ if op.encoding() == EncodingKind::VEX => Class::Avx,
        _ if kinds
            .iter()
            .any(|k| matches!(k, Kind::mm_reg | Kind::mm_rm | Kind::mm_or_mem)) =>
        {
            Class::Mmx
        }
        _ if kinds
            .iter()
            .any(|k| matches!(k, Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_or_mem)) =>
        {
            Class::Sse
        }
        _ if code.cpuid_features().iter().any(|f| {
            use CpuidFeature::*;
            matches!(*f, FPU | FPU287 | FPU387)
        }) =>
        {
            Class::X87
        }
        _ => Class::Other,
    })
}

fn is_conditional(m: Mnemonic) -> bool {
    let name = format!("{m:?}");
    name.starts_with("Cmov") || name.starts_with("Set")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_forms() {
        for mode in [Mode::Long, Mode::Compat32] {
            let pool = Pool::new(mode);
            for class in Class::ALL {
                assert!(!pool.of(class).is_empty(), "{class:?} in {mode:?}");
            }
        }
    }
}
