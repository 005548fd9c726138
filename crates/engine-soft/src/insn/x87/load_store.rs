//! Moves between the register stack and memory, and within the stack.

use super::operand::{Source, Target};
use super::stack::{self, status};
use crate::cpu::{Cpu, R};
use crate::decode::Op;
use crate::float::x87::{self, Constant, F80};

impl Cpu {
    /// Pushes onto a stack known to have room; C1 says there was no overflow.
    #[inline(always)]
    fn x87_push(&mut self, v: F80) {
        self.fpu.status &= !status::C1;
        stack::push(&mut self.fpu, v);
    }

    /// Stack overflow of a load: the indefinite value is pushed over the full register.
    #[cold]
    fn x87_overflow(&mut self) {
        if self.x87_stack_fault(true) {
            stack::push(&mut self.fpu, F80::INDEFINITE);
        }
    }

    /// Stack underflow: the indefinite value as result in ST(`to`). Returns whether it got there.
    #[cold]
    pub(super) fn x87_underflow(&mut self, to: u8) -> bool {
        let masked = self.x87_stack_fault(false);
        if masked {
            stack::set(&mut self.fpu, to, F80::INDEFINITE);
        }
        masked
    }
}

/// FLD, FILD and FBLD from memory.
pub fn load<T: Source>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    let raw = T::read(cpu, op)?;
    cpu.x87_at_data(op);
    if !stack::empty(&cpu.fpu, 7) {
        cpu.x87_overflow();
        return Ok(());
    }
    let mut env = cpu.x87_env();
    let v = T::load(&mut env, raw);
    cpu.x87_settle(&env);
    if env.x87_writes_load() {
        stack::push(&mut cpu.fpu, v);
    }
    Ok(())
}

/// FLD ST(i). An empty source is looked at before the room for the result.
pub fn load_register(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    if stack::empty(&cpu.fpu, op.a) {
        if cpu.x87_stack_fault(false) {
            stack::push(&mut cpu.fpu, F80::INDEFINITE);
        }
    } else if stack::empty(&cpu.fpu, 7) {
        cpu.x87_push(stack::get(&cpu.fpu, op.a));
    } else {
        cpu.x87_overflow();
    }
    Ok(())
}

fn load_constant(cpu: &mut Cpu, op: &Op, which: Constant) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    if stack::empty(&cpu.fpu, 7) {
        cpu.x87_push(x87::constant(&cpu.x87_env(), which));
    } else {
        cpu.x87_overflow();
    }
    Ok(())
}

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident = $which:ident;)*) => {
        $($(#[$doc])*
        pub fn $name(cpu: &mut Cpu, op: &Op) -> R {
            load_constant(cpu, op, Constant::$which)
        })*
    };
}
constants! {
    /// FLDZ.
    load_zero = Zero;
    /// FLD1.
    load_one = One;
    /// FLDL2T.
    load_log2_10 = Log2Of10;
    /// FLDL2E.
    load_log2_e = Log2OfE;
    /// FLDPI.
    load_pi = Pi;
    /// FLDLG2.
    load_log10_2 = Log10Of2;
    /// FLDLN2.
    load_ln_2 = LnOf2;
}

/// FST, FSTP, FIST, FISTP, FISTTP and FBSTP to memory. The store comes first: if it faults nothing has
/// changed.
pub fn store<T: Target, const POP: bool>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    if stack::empty(&cpu.fpu, 0) {
        return store_empty::<T, POP>(cpu, op);
    }
    let mut env = cpu.x87_env();
    let raw = T::convert(&mut env, stack::get(&cpu.fpu, 0));
    let writes = env.x87_writes_memory();
    if writes {
        T::write(cpu, op, raw)?;
    } else {
        T::check(cpu, op)?;
    }
    cpu.x87_at_data(op);
    cpu.x87_settle(&env);
    if POP && writes {
        stack::pop(&mut cpu.fpu);
    }
    Ok(())
}

#[cold]
fn store_empty<T: Target, const POP: bool>(cpu: &mut Cpu, op: &Op) -> R {
    if cpu.fpu.control & stack::IM != 0 {
        T::write(cpu, op, T::indefinite())?;
    } else {
        T::check(cpu, op)?;
    }
    cpu.x87_at_data(op);
    if cpu.x87_stack_fault(false) && POP {
        stack::pop(&mut cpu.fpu);
    }
    Ok(())
}

/// FST ST(i) and FSTP ST(i).
pub fn store_register<const POP: bool>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    let written = if stack::empty(&cpu.fpu, 0) {
        cpu.x87_underflow(op.a)
    } else {
        cpu.fpu.status &= !status::C1;
        let v = stack::get(&cpu.fpu, 0);
        stack::set(&mut cpu.fpu, op.a, v);
        true
    };
    if POP && written {
        stack::pop(&mut cpu.fpu);
    }
    Ok(())
}

/// FSTPNCE, D9 D8+i: an undocumented FSTP that reports no stack fault; with nothing to store it only pops.
pub fn store_register_quietly(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    cpu.fpu.status &= !status::C1;
    if !stack::empty(&cpu.fpu, 0) {
        let v = stack::get(&cpu.fpu, 0);
        stack::set(&mut cpu.fpu, op.a, v);
    }
    stack::pop(&mut cpu.fpu);
    Ok(())
}

/// FXCH. The masked response to an empty register is to exchange the indefinite value.
pub fn exchange(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    let f = &mut cpu.fpu;
    let (empty0, empty1) = (stack::empty(f, 0), stack::empty(f, op.b));
    if (empty0 || empty1) && !cpu.x87_stack_fault(false) {
        return Ok(());
    }
    let f = &mut cpu.fpu;
    f.status &= !status::C1;
    let value = |i, empty| if empty { F80::INDEFINITE } else { stack::get(f, i) };
    let (v0, v1) = (value(0, empty0), value(op.b, empty1));
    stack::set(f, 0, v1);
    stack::set(f, op.b, v0);
    Ok(())
}

/// FCMOVcc; `op.x` is the condition code. Both registers must be there whether it holds or not.
pub fn move_if(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    if stack::empty(&cpu.fpu, 0) || stack::empty(&cpu.fpu, op.b) {
        cpu.x87_underflow(0);
    } else if cpu.flags.condition(op.x) {
        let v = stack::get(&cpu.fpu, op.b);
        stack::set(&mut cpu.fpu, 0, v);
    }
    Ok(())
}
