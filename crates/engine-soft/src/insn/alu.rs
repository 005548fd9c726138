//! Two-operand arithmetic and logic, and INC, DEC, NEG, NOT.

use super::sized;
use crate::cpu::{Cpu, Flags, R};
use crate::decode::{Handler, Op};
use donjon_memory::Word;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// One operation on two values.
trait Binary {
    /// Whether the first operand is written.
    const STORES: bool = true;
    fn apply<T: Word>(f: &mut Flags, a: T, b: T) -> T;
}

macro_rules! binary {
    ($name:ident, $stores:literal, |$f:ident, $a:ident, $b:ident| $body:expr) => {
        struct $name;
        impl Binary for $name {
            const STORES: bool = $stores;
            #[inline(always)]
            fn apply<T: Word>($f: &mut Flags, $a: T, $b: T) -> T {
                $body
            }
        }
    };
}

#[inline(always)]
fn sum<T: Word>(a: T, b: T, carry: u64) -> T {
    T::from_u64(a.to_u64().wrapping_add(b.to_u64()).wrapping_add(carry))
}

#[inline(always)]
fn difference<T: Word>(a: T, b: T, borrow: u64) -> T {
    T::from_u64(a.to_u64().wrapping_sub(b.to_u64()).wrapping_sub(borrow))
}

#[inline(always)]
fn logic<T: Word>(f: &mut Flags, v: u64) -> T {
    let r = T::from_u64(v);
    *f = Flags::logic(r);
    r
}

binary!(Add, true, |f, a, b| {
    let r = sum(a, b, 0);
    *f = Flags::add(a, b, r);
    r
});
binary!(Adc, true, |f, a, b| {
    let r = sum(a, b, f.cf() as u64);
    *f = Flags::add(a, b, r);
    r
});
binary!(Sub, true, |f, a, b| {
    let r = difference(a, b, 0);
    *f = Flags::sub(a, b, r);
    r
});
binary!(Sbb, true, |f, a, b| {
    let r = difference(a, b, f.cf() as u64);
    *f = Flags::sub(a, b, r);
    r
});
binary!(Cmp, false, |f, a, b| {
    let r = difference(a, b, 0);
    *f = Flags::sub(a, b, r);
    r
});
binary!(And, true, |f, a, b| logic(f, a.to_u64() & b.to_u64()));
binary!(Test, false, |f, a, b| logic(f, a.to_u64() & b.to_u64()));
binary!(Or, true, |f, a, b| logic(f, a.to_u64() | b.to_u64()));
binary!(Xor, true, |f, a, b| logic(f, a.to_u64() ^ b.to_u64()));

fn rr<B: Binary, T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let (a, b) = (cpu.get::<T>(op.a), cpu.get::<T>(op.b));
    let r = B::apply(&mut cpu.flags, a, b);
    if B::STORES {
        cpu.set(op.a, r);
    }
    Ok(())
}

fn ri<B: Binary, T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let a = cpu.get::<T>(op.a);
    let r = B::apply(&mut cpu.flags, a, T::from_u64(op.imm));
    if B::STORES {
        cpu.set(op.a, r);
    }
    Ok(())
}

fn rm<B: Binary, T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let b = cpu.read::<T>(op.seg, cpu.ea(op))?;
    let a = cpu.get::<T>(op.a);
    let r = B::apply(&mut cpu.flags, a, b);
    if B::STORES {
        cpu.set(op.a, r);
    }
    Ok(())
}

#[inline(always)]
fn to_memory<B: Binary, T: Word>(cpu: &mut Cpu, op: &Op, b: T) -> R {
    let ea = cpu.ea(op);
    if !B::STORES {
        let a = cpu.read::<T>(op.seg, ea)?;
        B::apply(&mut cpu.flags, a, b);
        return Ok(());
    }
    let before = cpu.flags;
    let mut after = before;
    cpu.update::<T>(op.seg, ea, op.locked(), |a| {
        after = before;
        B::apply(&mut after, a, b)
    })?;
    cpu.flags = after;
    Ok(())
}

fn mr<B: Binary, T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let b = cpu.get::<T>(op.b);
    to_memory::<B, T>(cpu, op, b)
}

fn mi<B: Binary, T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    to_memory::<B, T>(cpu, op, T::from_u64(op.imm))
}

fn binary<B: Binary>(i: &Instruction, op: &Op) -> Handler {
    let s = op.size;
    match (i.op_kind(0), i.op_kind(1)) {
        (OpKind::Register, OpKind::Register) => sized!(s, rr, B),
        (OpKind::Register, OpKind::Memory) => sized!(s, rm, B),
        (OpKind::Memory, OpKind::Register) => sized!(s, mr, B),
        (OpKind::Memory, _) => sized!(s, mi, B),
        _ => sized!(s, ri, B),
    }
}

/// One operation on one value.
trait Unary {
    fn apply<T: Word>(f: &mut Flags, a: T) -> T;
}

struct Inc;
impl Unary for Inc {
    #[inline(always)]
    fn apply<T: Word>(f: &mut Flags, a: T) -> T {
        let (cf, r) = (f.cf(), sum(a, T::from_u64(1), 0));
        *f = Flags::add(a, T::from_u64(1), r);
        f.set_cf(cf);
        r
    }
}

struct Dec;
impl Unary for Dec {
    #[inline(always)]
    fn apply<T: Word>(f: &mut Flags, a: T) -> T {
        let (cf, r) = (f.cf(), difference(a, T::from_u64(1), 0));
        *f = Flags::sub(a, T::from_u64(1), r);
        f.set_cf(cf);
        r
    }
}

struct Neg;
impl Unary for Neg {
    #[inline(always)]
    fn apply<T: Word>(f: &mut Flags, a: T) -> T {
        Sub::apply(f, T::from_u64(0), a)
    }
}

struct Not;
impl Unary for Not {
    #[inline(always)]
    fn apply<T: Word>(_: &mut Flags, a: T) -> T {
        T::from_u64(!a.to_u64())
    }
}

fn unary_r<U: Unary, T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let a = cpu.get::<T>(op.a);
    let r = U::apply(&mut cpu.flags, a);
    cpu.set(op.a, r);
    Ok(())
}

fn unary_m<U: Unary, T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let before = cpu.flags;
    let mut after = before;
    cpu.update::<T>(op.seg, cpu.ea(op), op.locked(), |a| {
        after = before;
        U::apply(&mut after, a)
    })?;
    cpu.flags = after;
    Ok(())
}

fn unary<U: Unary>(op: &Op) -> Handler {
    if op.is_mem(0) {
        sized!(op.size, unary_m, U)
    } else {
        sized!(op.size, unary_r, U)
    }
}

/// ADCX and ADOX: an addition through one flag alone (Intel SDM vol. 2A).
fn add_flag<const OVERFLOW: bool, T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let b = cpu.operand::<T>(op, 1, op.b)?;
    let a = cpu.get::<T>(op.a);
    let carry = if OVERFLOW { cpu.flags.of() } else { cpu.flags.cf() };
    let r = sum(a, b, carry as u64);
    let out = Flags::add(a, b, r).cf();
    if OVERFLOW {
        cpu.flags.set_of(out);
    } else {
        cpu.flags.set_cf(out);
    }
    cpu.set(op.a, r);
    Ok(())
}

fn adcx<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    add_flag::<false, T>(cpu, op)
}

fn adox<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    add_flag::<true, T>(cpu, op)
}

/// The handler of an instruction of this family.
pub(crate) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    Some(match i.mnemonic() {
        Mnemonic::Add => binary::<Add>(i, op),
        Mnemonic::Adc => binary::<Adc>(i, op),
        Mnemonic::Sub => binary::<Sub>(i, op),
        Mnemonic::Sbb => binary::<Sbb>(i, op),
        Mnemonic::Cmp => binary::<Cmp>(i, op),
        Mnemonic::And => binary::<And>(i, op),
        Mnemonic::Test => binary::<Test>(i, op),
        Mnemonic::Or => binary::<Or>(i, op),
        Mnemonic::Xor => binary::<Xor>(i, op),
        Mnemonic::Inc => unary::<Inc>(op),
        Mnemonic::Dec => unary::<Dec>(op),
        Mnemonic::Neg => unary::<Neg>(op),
        Mnemonic::Not => unary::<Not>(op),
        Mnemonic::Adcx => sized!(op.size, adcx),
        Mnemonic::Adox => sized!(op.size, adox),
        _ => return None,
    })
}
