//! x87, MMX, and the FXSAVE and XSAVE families.

mod area;
mod arithmetic;
mod compare;
mod control;
mod environment;
mod fxsave;
mod lanes64;
mod load_store;
mod mmx;
mod opcode;
mod operand;
mod stack;
#[cfg(test)]
mod tests;
mod transcendental;
pub(crate) mod xsave;

use crate::decode::{Handler, Op};
use iced_x86::{Code, Instruction};

/// The handler of an x87, MMX or state-saving instruction.
pub(crate) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    state(i.code())
        .or_else(|| mmx::lower(i))
        .or_else(|| control(i.code()))
        .or_else(|| numeric(i, op))
}

/// Instructions that move whole states.
fn state(code: Code) -> Option<Handler> {
    use Code::*;
    Some(match code {
        Fxsave_m512byte => fxsave::save::<false>,
        Fxsave64_m512byte => fxsave::save::<true>,
        Fxrstor_m512byte => fxsave::restore::<false>,
        Fxrstor64_m512byte => fxsave::restore::<true>,
        Xsave_mem => xsave::save::<false>,
        Xsave64_mem => xsave::save::<true>,
        Xsaveopt_mem => xsave::save_optimised::<false>,
        Xsaveopt64_mem => xsave::save_optimised::<true>,
        Xsavec_mem => xsave::save_compacted::<false>,
        Xsavec64_mem => xsave::save_compacted::<true>,
        Xrstor_mem => xsave::restore::<false>,
        Xrstor64_mem => xsave::restore::<true>,
        Fnstenv_m14byte => environment::store::<false>,
        Fnstenv_m28byte => environment::store::<true>,
        Fldenv_m14byte => environment::load::<false>,
        Fldenv_m28byte => environment::load::<true>,
        Fnsave_m94byte => environment::save::<false>,
        Fnsave_m108byte => environment::save::<true>,
        Frstor_m94byte => environment::restore::<false>,
        Frstor_m108byte => environment::restore::<true>,
        _ => return None,
    })
}

/// x87 control instructions: they do not become the "last instruction".
fn control(code: Code) -> Option<Handler> {
    use Code::*;
    Some(match code {
        Wait => control::wait,
        Fninit => control::init,
        Fnclex => control::clear_exceptions,
        Fnstcw_m2byte => control::store_control,
        Fldcw_m2byte => control::load_control_word,
        Fnstsw_m2byte => control::store_status,
        Fnstsw_AX => control::store_status_ax,
        Fneni | Fndisi | Fnsetpm => control::no_operation_no_wait,
        _ => return None,
    })
}

/// All other x87 instructions. Their opcode bits go to [`Op::imm`].
fn numeric(i: &Instruction, op: &mut Op) -> Option<Handler> {
    use Code::*;
    use arithmetic::{Add, Divide, DivideReversed, Multiply, Subtract, SubtractReversed};
    use arithmetic::{memory, register};
    use load_store::{load, store, store_register};
    use operand::{Decimal, Double, Extended, Int, Long, Short, Single, Truncated};
    // The handler, and the opcode with the register and memory bits of its ModRM byte clear.
    let (run, bits): (Handler, u16) = match i.code() {
        Fadd_m32fp => (memory::<Add, Single>, 0x000),
        Fmul_m32fp => (memory::<Multiply, Single>, 0x008),
        Fcom_m32fp => (compare::memory::<Single, false>, 0x010),
        Fcomp_m32fp => (compare::memory::<Single, true>, 0x018),
        Fsub_m32fp => (memory::<Subtract, Single>, 0x020),
        Fsubr_m32fp => (memory::<SubtractReversed, Single>, 0x028),
        Fdiv_m32fp => (memory::<Divide, Single>, 0x030),
        Fdivr_m32fp => (memory::<DivideReversed, Single>, 0x038),
        Fadd_st0_sti => (register::<Add, false>, 0x0c0),
        Fmul_st0_sti => (register::<Multiply, false>, 0x0c8),
        Fcom_st0_sti => (compare::register::<false, 0>, 0x0d0),
        Fcomp_st0_sti => (compare::register::<false, 1>, 0x0d8),
        Fsub_st0_sti => (register::<Subtract, false>, 0x0e0),
        Fsubr_st0_sti => (register::<SubtractReversed, false>, 0x0e8),
        Fdiv_st0_sti => (register::<Divide, false>, 0x0f0),
        Fdivr_st0_sti => (register::<DivideReversed, false>, 0x0f8),

        Fld_m32fp => (load::<Single>, 0x100),
        Fst_m32fp => (store::<Single, false>, 0x110),
        Fstp_m32fp => (store::<Single, true>, 0x118),
        Fld_sti => (load_store::load_register, 0x1c0),
        Fxch_st0_sti => (load_store::exchange, 0x1c8),
        Fnop => (control::no_operation, 0x1d0),
        Fstpnce_sti => (load_store::store_register_quietly, 0x1d8),
        Fchs => (arithmetic::change_sign, 0x1e0),
        Fabs => (arithmetic::absolute, 0x1e1),
        Ftst => (compare::test, 0x1e4),
        Fxam => (compare::examine, 0x1e5),
        Fld1 => (load_store::load_one, 0x1e8),
        Fldl2t => (load_store::load_log2_10, 0x1e9),
        Fldl2e => (load_store::load_log2_e, 0x1ea),
        Fldpi => (load_store::load_pi, 0x1eb),
        Fldlg2 => (load_store::load_log10_2, 0x1ec),
        Fldln2 => (load_store::load_ln_2, 0x1ed),
        Fldz => (load_store::load_zero, 0x1ee),
        F2xm1 => (transcendental::two_to_x_minus_1, 0x1f0),
        Fyl2x => (transcendental::y_log2_x, 0x1f1),
        Fptan => (transcendental::tangent, 0x1f2),
        Fpatan => (transcendental::angle, 0x1f3),
        Fxtract => (arithmetic::extract, 0x1f4),
        Fprem1 => (arithmetic::remainder_nearest, 0x1f5),
        Fdecstp => (control::decrement_top, 0x1f6),
        Fincstp => (control::increment_top, 0x1f7),
        Fprem => (arithmetic::remainder_truncate, 0x1f8),
        Fyl2xp1 => (transcendental::y_log2_x_plus_1, 0x1f9),
        Fsqrt => (arithmetic::square_root, 0x1fa),
        Fsincos => (transcendental::sine_and_cosine, 0x1fb),
        Frndint => (arithmetic::round_to_integer, 0x1fc),
        Fscale => (arithmetic::scale, 0x1fd),
        Fsin => (transcendental::sine, 0x1fe),
        Fcos => (transcendental::cosine, 0x1ff),

        Fiadd_m32int => (memory::<Add, Int>, 0x200),
        Fimul_m32int => (memory::<Multiply, Int>, 0x208),
        Ficom_m32int => (compare::memory::<Int, false>, 0x210),
        Ficomp_m32int => (compare::memory::<Int, true>, 0x218),
        Fisub_m32int => (memory::<Subtract, Int>, 0x220),
        Fisubr_m32int => (memory::<SubtractReversed, Int>, 0x228),
        Fidiv_m32int => (memory::<Divide, Int>, 0x230),
        Fidivr_m32int => (memory::<DivideReversed, Int>, 0x238),
        Fcmovb_st0_sti => (condition(op, 2), 0x2c0),
        Fcmove_st0_sti => (condition(op, 4), 0x2c8),
        Fcmovbe_st0_sti => (condition(op, 6), 0x2d0),
        Fcmovu_st0_sti => (condition(op, 10), 0x2d8),
        Fucompp => (compare::register_pop_both::<true>, 0x2e9),

        Fild_m32int => (load::<Int>, 0x300),
        Fisttp_m32int => (store::<Truncated<Int>, true>, 0x308),
        Fist_m32int => (store::<Int, false>, 0x310),
        Fistp_m32int => (store::<Int, true>, 0x318),
        Fld_m80fp => (load::<Extended>, 0x328),
        Fstp_m80fp => (store::<Extended, true>, 0x338),
        Fcmovnb_st0_sti => (condition(op, 3), 0x3c0),
        Fcmovne_st0_sti => (condition(op, 5), 0x3c8),
        Fcmovnbe_st0_sti => (condition(op, 7), 0x3d0),
        Fcmovnu_st0_sti => (condition(op, 11), 0x3d8),
        Fucomi_st0_sti => (compare::flags::<true, false>, 0x3e8),
        Fcomi_st0_sti => (compare::flags::<false, false>, 0x3f0),

        Fadd_m64fp => (memory::<Add, Double>, 0x400),
        Fmul_m64fp => (memory::<Multiply, Double>, 0x408),
        Fcom_m64fp => (compare::memory::<Double, false>, 0x410),
        Fcomp_m64fp => (compare::memory::<Double, true>, 0x418),
        Fsub_m64fp => (memory::<Subtract, Double>, 0x420),
        Fsubr_m64fp => (memory::<SubtractReversed, Double>, 0x428),
        Fdiv_m64fp => (memory::<Divide, Double>, 0x430),
        Fdivr_m64fp => (memory::<DivideReversed, Double>, 0x438),
        Fadd_sti_st0 => (register::<Add, false>, 0x4c0),
        Fmul_sti_st0 => (register::<Multiply, false>, 0x4c8),
        Fcom_st0_sti_DCD0 => (compare::register::<false, 0>, 0x4d0),
        Fcomp_st0_sti_DCD8 => (compare::register::<false, 1>, 0x4d8),
        Fsubr_sti_st0 => (register::<SubtractReversed, false>, 0x4e0),
        Fsub_sti_st0 => (register::<Subtract, false>, 0x4e8),
        Fdivr_sti_st0 => (register::<DivideReversed, false>, 0x4f0),
        Fdiv_sti_st0 => (register::<Divide, false>, 0x4f8),

        Fld_m64fp => (load::<Double>, 0x500),
        Fisttp_m64int => (store::<Truncated<Long>, true>, 0x508),
        Fst_m64fp => (store::<Double, false>, 0x510),
        Fstp_m64fp => (store::<Double, true>, 0x518),
        Ffree_sti => (control::free, 0x5c0),
        Fxch_st0_sti_DDC8 => (load_store::exchange, 0x5c8),
        Fst_sti => (store_register::<false>, 0x5d0),
        Fstp_sti => (store_register::<true>, 0x5d8),
        Fucom_st0_sti => (compare::register::<true, 0>, 0x5e0),
        Fucomp_st0_sti => (compare::register::<true, 1>, 0x5e8),

        Fiadd_m16int => (memory::<Add, Short>, 0x600),
        Fimul_m16int => (memory::<Multiply, Short>, 0x608),
        Ficom_m16int => (compare::memory::<Short, false>, 0x610),
        Ficomp_m16int => (compare::memory::<Short, true>, 0x618),
        Fisub_m16int => (memory::<Subtract, Short>, 0x620),
        Fisubr_m16int => (memory::<SubtractReversed, Short>, 0x628),
        Fidiv_m16int => (memory::<Divide, Short>, 0x630),
        Fidivr_m16int => (memory::<DivideReversed, Short>, 0x638),
        Faddp_sti_st0 => (register::<Add, true>, 0x6c0),
        Fmulp_sti_st0 => (register::<Multiply, true>, 0x6c8),
        Fcomp_st0_sti_DED0 => (compare::register::<false, 1>, 0x6d0),
        Fcompp => (compare::register_pop_both::<false>, 0x6d9),
        Fsubrp_sti_st0 => (register::<SubtractReversed, true>, 0x6e0),
        Fsubp_sti_st0 => (register::<Subtract, true>, 0x6e8),
        Fdivrp_sti_st0 => (register::<DivideReversed, true>, 0x6f0),
        Fdivp_sti_st0 => (register::<Divide, true>, 0x6f8),

        Fild_m16int => (load::<Short>, 0x700),
        Fisttp_m16int => (store::<Truncated<Short>, true>, 0x708),
        Fist_m16int => (store::<Short, false>, 0x710),
        Fistp_m16int => (store::<Short, true>, 0x718),
        Fbld_m80bcd => (load::<Decimal>, 0x720),
        Fild_m64int => (load::<Long>, 0x728),
        Fbstp_m80bcd => (store::<Decimal, true>, 0x730),
        Fistp_m64int => (store::<Long, true>, 0x738),
        Ffreep_sti => (control::free_pop, 0x7c0),
        Fxch_st0_sti_DFC8 => (load_store::exchange, 0x7c8),
        Fstp_sti_DFD0 => (store_register::<true>, 0x7d0),
        Fstp_sti_DFD8 => (store_register::<true>, 0x7d8),
        Fucomip_st0_sti => (compare::flags::<true, true>, 0x7e8),
        Fcomip_st0_sti => (compare::flags::<false, true>, 0x7f0),
        _ => return None,
    };
    op.imm = (bits | opcode::operand_bits(i, op)) as u64;
    Some(run)
}

/// FCMOVcc with its condition code as in Jcc.
fn condition(op: &mut Op, code: u8) -> Handler {
    op.x = code;
    load_store::move_if
}
