//! Arithmetic: the four operations in all their forms, and the other functions that are exact or rounded
//! once.

use super::operand::Operand;
use super::stack::{self, status};
use crate::cpu::{Cpu, R};
use crate::decode::Op;
use crate::float::Env;
use crate::float::x87::{self, F80, Remainder, Unpacked};

/// An operation on destination and source.
pub trait Operation {
    /// Computes it.
    fn run(env: &mut Env, destination: Unpacked, source: Unpacked) -> F80;
}

macro_rules! operation {
    ($(#[$doc:meta])* $name:ident, $f:expr) => {
        $(#[$doc])*
        pub struct $name;
        impl Operation for $name {
            #[inline(always)]
            fn run(env: &mut Env, a: Unpacked, b: Unpacked) -> F80 {
                $f(env, a, b)
            }
        }
    };
}
operation!(/** FADD. */ Add, x87::add);
operation!(/** FMUL. */ Multiply, x87::mul);
operation!(/** FSUB. */ Subtract, x87::sub);
operation!(/** FSUBR: source minus destination. */ SubtractReversed, |e, a, b| x87::sub(e, b, a));
operation!(/** FDIV. */ Divide, x87::div);
operation!(/** FDIVR. */ DivideReversed, |e, a, b| x87::div(e, b, a));

impl Cpu {
    /// Reports the exceptions of an operation and writes its result to ST(`to`) if they let it. Returns
    /// whether they did.
    #[inline(always)]
    pub(super) fn x87_result(&mut self, env: &Env, to: u8, v: F80) -> bool {
        self.x87_settle(env);
        let writes = env.x87_writes_register();
        if writes {
            stack::set(&mut self.fpu, to, v);
        }
        writes
    }
}

/// ST(0) and a memory operand.
pub fn memory<O: Operation, T: Operand>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    let raw = T::read(cpu, op)?;
    cpu.x87_at_data(op);
    if stack::empty(&cpu.fpu, 0) {
        cpu.x87_underflow(0);
        return Ok(());
    }
    let mut env = cpu.x87_env();
    let v = O::run(&mut env, stack::get(&cpu.fpu, 0).unpack(), T::operand(raw));
    cpu.x87_result(&env, 0, v);
    Ok(())
}

/// Two registers; operand 0 is the destination.
pub fn register<O: Operation, const POP: bool>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    let written = if stack::empty(&cpu.fpu, op.a) || stack::empty(&cpu.fpu, op.b) {
        cpu.x87_underflow(op.a)
    } else {
        let mut env = cpu.x87_env();
        let (a, b) = (stack::get(&cpu.fpu, op.a), stack::get(&cpu.fpu, op.b));
        let v = O::run(&mut env, a.unpack(), b.unpack());
        cpu.x87_result(&env, op.a, v)
    };
    if POP && written {
        stack::pop(&mut cpu.fpu);
    }
    Ok(())
}

/// A function of ST(0).
#[inline(always)]
pub(super) fn unary(cpu: &mut Cpu, op: &Op, f: impl Fn(&mut Env, F80) -> F80) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    if stack::empty(&cpu.fpu, 0) {
        cpu.x87_underflow(0);
        return Ok(());
    }
    let mut env = cpu.x87_env();
    let v = f(&mut env, stack::get(&cpu.fpu, 0));
    cpu.x87_result(&env, 0, v);
    Ok(())
}

/// FSQRT.
pub fn square_root(cpu: &mut Cpu, op: &Op) -> R {
    unary(cpu, op, x87::sqrt)
}

/// FRNDINT.
pub fn round_to_integer(cpu: &mut Cpu, op: &Op) -> R {
    unary(cpu, op, x87::round_to_int)
}

/// FABS.
pub fn absolute(cpu: &mut Cpu, op: &Op) -> R {
    unary(cpu, op, |_, v| x87::abs(v))
}

/// FCHS.
pub fn change_sign(cpu: &mut Cpu, op: &Op) -> R {
    unary(cpu, op, |_, v| x87::change_sign(v))
}

/// FSCALE.
pub fn scale(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    if stack::empty(&cpu.fpu, 0) || stack::empty(&cpu.fpu, 1) {
        cpu.x87_underflow(0);
        return Ok(());
    }
    let mut env = cpu.x87_env();
    let v = x87::scale(&mut env, stack::get(&cpu.fpu, 0), stack::get(&cpu.fpu, 1));
    cpu.x87_result(&env, 0, v);
    Ok(())
}

/// FXTRACT.
pub fn extract(cpu: &mut Cpu, op: &Op) -> R {
    super::transcendental::replace_and_push(cpu, op, 0, |env, v| Some(x87::extract(env, v)))
}

/// FPREM and FPREM1. C0 and C3 keep their values where there is no quotient to tell of.
fn remainder(cpu: &mut Cpu, op: &Op, f: impl Fn(&mut Env, F80, F80) -> Remainder) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    cpu.fpu.status &= !status::C2;
    if stack::empty(&cpu.fpu, 0) || stack::empty(&cpu.fpu, 1) {
        cpu.x87_underflow(0);
        return Ok(());
    }
    let mut env = cpu.x87_env();
    let r = f(&mut env, stack::get(&cpu.fpu, 0), stack::get(&cpu.fpu, 1));
    if cpu.x87_result(&env, 0, r.value) && !r.value.unpack().is_nan() {
        cpu.fpu.status = cpu.fpu.status & !status::CODES | r.codes;
    }
    Ok(())
}

/// FPREM.
pub fn remainder_truncate(cpu: &mut Cpu, op: &Op) -> R {
    remainder(cpu, op, x87::remainder_truncate)
}

/// FPREM1.
pub fn remainder_nearest(cpu: &mut Cpu, op: &Op) -> R {
    remainder(cpu, op, x87::remainder_nearest)
}
