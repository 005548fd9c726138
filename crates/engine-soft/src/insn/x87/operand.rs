//! Memory operands in their formats (Intel SDM vol. 1 §8.1.2 and table 8-1).

use super::area::{check_alignment, probe};
use crate::cpu::{Cpu, Kind, R};
use crate::decode::Op;
use crate::float::Env;
use crate::float::soft::convert::Integer;
use crate::float::x87::{self, F80, Unpacked};

/// A format that is loaded.
pub trait Source {
    /// What comes from memory.
    type Raw: Copy;
    /// Reads it.
    fn read(cpu: &mut Cpu, op: &Op) -> R<Self::Raw>;
    /// Converts it for the register stack.
    fn load(env: &mut Env, raw: Self::Raw) -> F80;
}

/// A format arithmetic and comparing instructions take.
pub trait Operand: Source {
    /// As an operand, exceptions still to be reported.
    fn operand(raw: Self::Raw) -> Unpacked;
}

/// The alignment of a ten-byte operand (Intel SDM vol. 3A table 6-7).
const TEN_BYTES_ALIGN: u64 = 8;

/// A format that is stored.
pub trait Target {
    /// What goes to memory.
    type Raw;
    /// Its size in bytes.
    const SIZE: usize = size_of::<Self::Raw>();
    /// The alignment that #AC asks for.
    const ALIGN: u64 = if Self::SIZE == 10 {
        TEN_BYTES_ALIGN
    } else {
        Self::SIZE as u64
    };
    /// Converts from a register.
    fn convert(env: &mut Env, v: F80) -> Self::Raw;
    /// Stores the result.
    fn write(cpu: &mut Cpu, op: &Op, raw: Self::Raw) -> R;
    /// The checks of a store that is not done because of an unmasked exception.
    #[cold]
    fn check(cpu: &mut Cpu, op: &Op) -> R {
        let ea = cpu.ea(op);
        let linear = cpu.linear(op.seg, ea, Self::SIZE, Kind::Write)?;
        check_alignment(cpu, linear, Self::ALIGN)?;
        probe(cpu, op.seg, linear, Self::SIZE, Kind::Write)
    }
    /// What the masked response to an empty register stores.
    fn indefinite() -> Self::Raw {
        // The conversions turn the indefinite value into that of their format.
        Self::convert(&mut Env::from_fcw(0x37f), F80::INDEFINITE)
    }
}

/// Single precision.
pub struct Single;
/// Double precision.
pub struct Double;
/// Double extended precision.
pub struct Extended;
/// Packed decimal.
pub struct Decimal;
/// 16-bit integer.
pub struct Short;
/// 32-bit integer.
pub struct Int;
/// 64-bit integer.
pub struct Long;
/// An integer that is stored truncated.
pub struct Truncated<T>(std::marker::PhantomData<T>);

macro_rules! float {
    ($format:ty, $bits:ty, $load:path, $operand:path, $store:path) => {
        impl Source for $format {
            type Raw = $bits;
            #[inline(always)]
            fn read(cpu: &mut Cpu, op: &Op) -> R<$bits> {
                cpu.read::<$bits>(op.seg, cpu.ea(op))
            }
            #[inline(always)]
            fn load(env: &mut Env, raw: $bits) -> F80 {
                $load(env, raw)
            }
        }
        impl Operand for $format {
            #[inline(always)]
            fn operand(raw: $bits) -> Unpacked {
                $operand(raw)
            }
        }
        impl Target for $format {
            type Raw = $bits;
            #[inline(always)]
            fn convert(env: &mut Env, v: F80) -> $bits {
                $store(env, v)
            }
            #[inline(always)]
            fn write(cpu: &mut Cpu, op: &Op, raw: $bits) -> R {
                cpu.write::<$bits>(op.seg, cpu.ea(op), raw)
            }
        }
    };
}
float!(Single, u32, x87::load_f32, x87::operand_f32, x87::store_f32);
float!(Double, u64, x87::load_f64, x87::operand_f64, x87::store_f64);

macro_rules! integer {
    ($format:ty, $bits:ty, $signed:ty, $kind:expr) => {
        impl Source for $format {
            type Raw = $bits;
            #[inline(always)]
            fn read(cpu: &mut Cpu, op: &Op) -> R<$bits> {
                cpu.read::<$bits>(op.seg, cpu.ea(op))
            }
            #[inline(always)]
            fn load(_: &mut Env, raw: $bits) -> F80 {
                x87::load_int(raw as $signed as i64)
            }
        }
        impl Operand for $format {
            #[inline(always)]
            fn operand(raw: $bits) -> Unpacked {
                x87::operand_int(raw as $signed as i64)
            }
        }
        impl Target for $format {
            type Raw = $bits;
            #[inline(always)]
            fn convert(env: &mut Env, v: F80) -> $bits {
                x87::store_int(env, v, $kind) as $bits
            }
            #[inline(always)]
            fn write(cpu: &mut Cpu, op: &Op, raw: $bits) -> R {
                cpu.write::<$bits>(op.seg, cpu.ea(op), raw)
            }
        }
        impl Target for Truncated<$format> {
            type Raw = $bits;
            #[inline(always)]
            fn convert(env: &mut Env, v: F80) -> $bits {
                x87::store_int_truncate(env, v, $kind) as $bits
            }
            #[inline(always)]
            fn write(cpu: &mut Cpu, op: &Op, raw: $bits) -> R {
                cpu.write::<$bits>(op.seg, cpu.ea(op), raw)
            }
        }
    };
}
integer!(Short, u16, i16, Integer::I16);
integer!(Int, u32, i32, Integer::I32);
integer!(Long, u64, i64, Integer::I64);

macro_rules! ten_bytes {
    ($format:ty, $load:expr, $store:expr) => {
        impl Source for $format {
            type Raw = [u8; 10];
            #[inline(always)]
            fn read(cpu: &mut Cpu, op: &Op) -> R<[u8; 10]> {
                let (ea, mut bytes) = (cpu.ea(op), [0; 10]);
                let linear = cpu.linear(op.seg, ea, bytes.len(), Kind::Read)?;
                check_alignment(cpu, linear, TEN_BYTES_ALIGN)?;
                cpu.read_bytes(op.seg, ea, &mut bytes)?;
                Ok(bytes)
            }
            #[inline(always)]
            fn load(_: &mut Env, raw: [u8; 10]) -> F80 {
                $load(raw)
            }
        }
        impl Target for $format {
            type Raw = [u8; 10];
            #[inline(always)]
            fn convert(env: &mut Env, v: F80) -> [u8; 10] {
                $store(env, v)
            }
            #[inline(always)]
            fn write(cpu: &mut Cpu, op: &Op, raw: [u8; 10]) -> R {
                let ea = cpu.ea(op);
                let linear = cpu.linear(op.seg, ea, raw.len(), Kind::Write)?;
                check_alignment(cpu, linear, TEN_BYTES_ALIGN)?;
                cpu.write_bytes(op.seg, ea, &raw)
            }
        }
    };
}
ten_bytes!(Extended, F80::from_bytes, |_: &mut Env, v: F80| v.to_bytes());
ten_bytes!(Decimal, x87::load_bcd, x87::store_bcd);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indefinite_values() {
        assert_eq!(Single::indefinite(), 0xffc0_0000);
        assert_eq!(Double::indefinite(), 0xfff8 << 48);
        assert_eq!(Extended::indefinite(), [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff]);
        assert_eq!(Decimal::indefinite(), [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff]);
        assert_eq!(Short::indefinite(), 0x8000);
        assert_eq!(Int::indefinite(), 1 << 31);
        assert_eq!(Truncated::<Long>::indefinite(), 1 << 63);
    }
}
