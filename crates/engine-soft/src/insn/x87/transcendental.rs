//! Transcendental instructions (Intel SDM vol. 1 §8.3.7).

use super::arithmetic::unary;
use super::stack::{self, status};
use crate::cpu::{Cpu, R};
use crate::decode::Op;
use crate::float::Env;
use crate::float::x87::{self, F80, Trig};

/// F2XM1.
pub fn two_to_x_minus_1(cpu: &mut Cpu, op: &Op) -> R {
    unary(cpu, op, x87::two_to_x_minus_1)
}

/// A function of ST(1) and ST(0), which are replaced by the result.
#[inline(always)]
fn binary(cpu: &mut Cpu, op: &Op, f: impl Fn(&mut Env, F80, F80) -> F80) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    let written = if stack::empty(&cpu.fpu, 0) || stack::empty(&cpu.fpu, 1) {
        cpu.x87_underflow(1)
    } else {
        let mut env = cpu.x87_env();
        let v = f(&mut env, stack::get(&cpu.fpu, 1), stack::get(&cpu.fpu, 0));
        cpu.x87_result(&env, 1, v)
    };
    if written {
        stack::pop(&mut cpu.fpu);
    }
    Ok(())
}

/// FYL2X.
pub fn y_log2_x(cpu: &mut Cpu, op: &Op) -> R {
    binary(cpu, op, x87::y_log2_x)
}

/// FYL2XP1.
pub fn y_log2_x_plus_1(cpu: &mut Cpu, op: &Op) -> R {
    binary(cpu, op, x87::y_log2_x_plus_1)
}

/// FPATAN.
pub fn angle(cpu: &mut Cpu, op: &Op) -> R {
    binary(cpu, op, x87::angle)
}

/// FSIN and FCOS. C2 says that the argument was out of range and nothing has happened.
#[inline(always)]
fn trigonometric(cpu: &mut Cpu, op: &Op, f: impl Fn(&mut Env, F80) -> Trig<F80>) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    cpu.fpu.status &= !status::C2;
    if stack::empty(&cpu.fpu, 0) {
        cpu.x87_underflow(0);
        return Ok(());
    }
    let mut env = cpu.x87_env();
    match f(&mut env, stack::get(&cpu.fpu, 0)) {
        Trig::Done(v) => {
            cpu.x87_result(&env, 0, v);
        }
        Trig::OutOfRange => cpu.fpu.status = cpu.fpu.status & !status::C1 | status::C2,
    }
    Ok(())
}

/// FSIN.
pub fn sine(cpu: &mut Cpu, op: &Op) -> R {
    trigonometric(cpu, op, x87::sin)
}

/// FCOS.
pub fn cosine(cpu: &mut Cpu, op: &Op) -> R {
    trigonometric(cpu, op, x87::cos)
}

/// A function of ST(0) with two results: the first replaces it, the second is pushed. Without results
/// (an argument out of range) C2 is set. `clear` are condition codes to clear first. An empty ST(0) is
/// looked at before the room for the second result; either fault gives two indefinite values.
#[inline(always)]
pub(super) fn replace_and_push(
    cpu: &mut Cpu,
    op: &Op,
    clear: u16,
    f: impl Fn(&mut Env, F80) -> Option<(F80, F80)>,
) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    cpu.fpu.status &= !clear;
    let underflow = stack::empty(&cpu.fpu, 0);
    if underflow || !stack::empty(&cpu.fpu, 7) {
        if cpu.x87_stack_fault(!underflow) {
            stack::set(&mut cpu.fpu, 0, F80::INDEFINITE);
            stack::push(&mut cpu.fpu, F80::INDEFINITE);
        }
        return Ok(());
    }
    let mut env = cpu.x87_env();
    let Some((first, second)) = f(&mut env, stack::get(&cpu.fpu, 0)) else {
        cpu.fpu.status = cpu.fpu.status & !status::C1 | status::C2;
        return Ok(());
    };
    if cpu.x87_result(&env, 0, first) {
        stack::push(&mut cpu.fpu, second);
    }
    Ok(())
}

fn done<T>(t: Trig<T>) -> Option<T> {
    match t {
        Trig::Done(v) => Some(v),
        Trig::OutOfRange => None,
    }
}

/// FSINCOS.
pub fn sine_and_cosine(cpu: &mut Cpu, op: &Op) -> R {
    replace_and_push(cpu, op, status::C2, |env, v| done(x87::sin_cos(env, v)))
}

/// FPTAN.
pub fn tangent(cpu: &mut Cpu, op: &Op) -> R {
    replace_and_push(cpu, op, status::C2, |env, v| done(x87::tan(env, v)))
}
