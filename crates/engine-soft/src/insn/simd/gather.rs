//! AVX2 gathers.

use super::lanes::{Element, V, high, low, pair};
use super::moves::read_element;
use super::shape::*;
use crate::cpu::{Cpu, R, Stop};
use crate::decode::{Handler, Op};
use donjon_memory::Word;
use donjon_x86::bits::rflags;
use iced_x86::Mnemonic::*;

/// A signed index.
trait Index: Element {
    fn extend(self) -> u64;
}

impl Index for i32 {
    fn extend(self) -> u64 {
        self as i64 as u64
    }
}

impl Index for i64 {
    fn extend(self) -> u64 {
        self as u64
    }
}

/// Element `i` of a register.
#[inline(always)]
fn element<T: Element>(lanes: [V; 2], i: usize) -> T {
    T::at(lanes[i / T::N], i % T::N)
}

/// Loads the elements of type `T` whose mask element has its sign bit set, from element 0 up. The first
/// fault stops the instruction; what was loaded before it stays, with its mask elements cleared, so that
/// the instruction goes on from there (SDM vol. 2C, VPGATHERDD).
fn gather<T: Element + Word, I: Index, const K: u8>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.avx()?;
    let vector = if K == VEX256 { 2 } else { 1 };
    // The wider of element and index fills the vector.
    let count = vector * T::N.min(I::N);
    let lanes = |y| [low(&y), high(&y)];
    let index = lanes(reg(cpu, op.index));
    let mut mask = lanes(reg(cpu, op.c));
    let mut out = lanes(reg(cpu, op.a));
    let base = cpu.reg(op.base).wrapping_add(op.disp);
    let (mut outcome, mut loaded, cr2) = (Ok(()), false, cpu.cr2);
    for i in 0..count {
        let (lane, at) = (i / T::N, i % T::N);
        let top = (at as u32 + 1) * T::BITS - 1;
        if mask[lane] >> top & 1 != 0 {
            let offset = element::<I>(index, i).extend() << (op.scale & 3);
            let sum = base.wrapping_add(offset);
            let ea = if op.address_size == 2 {
                sum
            } else {
                sum as u32 as u64
            };
            match read_element::<T>(cpu, op.seg, ea) {
                Ok(v) => {
                    out[lane] = v.with(out[lane], at);
                    loaded = true;
                }
                // Traps for the elements so far go before the fault, which comes again with the next try.
                Err(_) if loaded && (cpu.rflags & rflags::TF != 0 || cpu.debug_hits != 0) => {
                    cpu.cr2 = cr2;
                    outcome = Err(Stop::Again);
                    break;
                }
                Err(stop) => {
                    outcome = Err(stop);
                    break;
                }
            }
        }
        mask[lane] = T::default().with(mask[lane], at);
    }
    if outcome.is_ok() {
        mask = [0; 2];
        // A destination of few elements, and of 128 bits, is zero above them.
        let bits = count as u32 * T::BITS;
        out = match bits {
            64 => [out[0] as u64 as V, 0],
            128 => [out[0], 0],
            _ => out,
        };
    }
    cpu.ymm[(op.a & 15) as usize] = pair(out[0], out[1]);
    cpu.ymm[(op.c & 15) as usize] = pair(mask[0], mask[1]);
    outcome
}

/// The handler of a gather.
pub(super) fn lower(l: &Low) -> Option<Handler> {
    // The index may be the only YMM operand.
    let wide = l.k == VEX256 || l.i.memory_index().is_ymm();
    macro_rules! of {
        ($t:ty, $i:ty) => {
            if wide {
                gather::<$t, $i, VEX256> as Handler
            } else {
                gather::<$t, $i, VEX128>
            }
        };
    }
    Some(match l.i.mnemonic() {
        Vpgatherdd | Vgatherdps => of!(u32, i32),
        Vpgatherdq | Vgatherdpd => of!(u64, i32),
        Vpgatherqd | Vgatherqps => of!(u32, i64),
        Vpgatherqq | Vgatherqpd => of!(u64, i64),
        _ => return None,
    })
}
