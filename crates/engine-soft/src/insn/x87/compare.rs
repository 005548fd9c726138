//! Comparisons (Intel SDM vol. 1 §8.3.6).
//!
//! The result is written even if an unmasked exception comes with it; only the pops are left out then.

use super::operand::Operand;
use super::stack::{self, status};
use crate::cpu::{Cpu, Flags, R};
use crate::decode::Op;
use crate::float::Env;
use crate::float::soft::compare::Relation;
use crate::float::soft::env::PRE;
use crate::float::x87::{self, F80};

/// Compares ST(0) by `f`, unless one of the operands is an empty register, and reports exceptions. Returns
/// the relation and whether the instruction goes on to pop.
#[inline(always)]
fn compare(cpu: &mut Cpu, empty: bool, f: impl Fn(&mut Env, F80) -> Relation) -> (Relation, bool) {
    if empty || stack::empty(&cpu.fpu, 0) {
        return (Relation::Unordered, cpu.x87_stack_fault(false));
    }
    let mut env = cpu.x87_env();
    let relation = f(&mut env, stack::get(&cpu.fpu, 0));
    let c1 = cpu.fpu.status & status::C1 != 0;
    cpu.x87_flags(env.flags as u16, c1);
    (relation, !env.unmasked(PRE))
}

fn set_codes(cpu: &mut Cpu, relation: Relation) {
    cpu.fpu.status = cpu.fpu.status & !status::CODES | x87::condition_codes(relation);
}

/// Compares ST(0) with ST(`i`).
#[inline(always)]
fn compare_register(cpu: &mut Cpu, i: u8, quiet: bool) -> (Relation, bool) {
    let (b, empty) = (stack::get(&cpu.fpu, i), stack::empty(&cpu.fpu, i));
    if quiet {
        compare(cpu, empty, |env, a| x87::compare_unordered(env, a, b))
    } else {
        compare(cpu, empty, |env, a| x87::compare(env, a, b))
    }
}

/// FCOM, FCOMP, FICOM, FICOMP with a memory operand.
pub fn memory<T: Operand, const POP: bool>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    let raw = T::read(cpu, op)?;
    cpu.x87_at_data(op);
    let (relation, pops) = compare(cpu, false, |env, a| x87::compare(env, a, T::operand(raw)));
    set_codes(cpu, relation);
    if POP && pops {
        stack::pop(&mut cpu.fpu);
    }
    Ok(())
}

fn with(cpu: &mut Cpu, op: &Op, i: u8, quiet: bool, pop: usize) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    let (relation, pops) = compare_register(cpu, i, quiet);
    set_codes(cpu, relation);
    for _ in 0..if pops { pop } else { 0 } {
        stack::pop(&mut cpu.fpu);
    }
    Ok(())
}

/// FCOM and FCOMP with a register; `QUIET` for FUCOM and FUCOMP.
pub fn register<const QUIET: bool, const POP: usize>(cpu: &mut Cpu, op: &Op) -> R {
    with(cpu, op, op.b, QUIET, POP)
}

/// FCOMPP; `QUIET` for FUCOMPP.
pub fn register_pop_both<const QUIET: bool>(cpu: &mut Cpu, op: &Op) -> R {
    with(cpu, op, 1, QUIET, 2)
}

/// FCOMI and FCOMIP; `QUIET` for FUCOMI and FUCOMIP. Only a stack fault touches a condition code: C1.
pub fn flags<const QUIET: bool, const POP: bool>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    let (relation, pops) = compare_register(cpu, op.b, QUIET);
    cpu.flags = Flags::from_bits(x87::rflags(relation) as u64);
    if POP && pops {
        stack::pop(&mut cpu.fpu);
    }
    Ok(())
}

/// FTST.
pub fn test(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    let (relation, _) = compare(cpu, false, x87::test);
    set_codes(cpu, relation);
    Ok(())
}

/// FXAM: raises nothing, not even for an empty register.
pub fn examine(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    let v = stack::get(&cpu.fpu, 0);
    let codes = if stack::empty(&cpu.fpu, 0) {
        status::C3 | status::C0 | if v.sign() { status::C1 } else { 0 }
    } else {
        x87::examine(v)
    };
    cpu.fpu.status = cpu.fpu.status & !status::CODES | codes;
    Ok(())
}
