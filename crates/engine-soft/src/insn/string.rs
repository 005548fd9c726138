//! String instructions. Repeated MOVS and STOS move whole runs at a time.

use super::moves::address_mask;
use super::sized;
use crate::cpu::{Cpu, Flags, Kind, Place, R, Stop};
use crate::decode::{Handler, Op};
use donjon_memory::Word;
use donjon_x86::Seg;
use donjon_x86::bits::rflags;
use iced_x86::{Instruction, Mnemonic};

const RAX: u8 = 0;
const RCX: u8 = 1;
const RSI: u8 = 6;
const RDI: u8 = 7;
const ES: u8 = Seg::Es as u8;
/// Repetitions between two looks at attention.
const ROUNDS: u64 = 512;
/// Runs, each within a page, between two looks at attention.
const PAGES: u32 = 32;

impl Cpu {
    fn set_masked(&mut self, n: u8, v: u64, address_size: u8) {
        match address_size {
            0 => self.set(n, v as u16),
            1 => self.set(n, v as u32),
            _ => self.set(n, v),
        }
    }

    /// Moves an index register by one element in the direction DF says.
    #[inline(always)]
    fn step<T: Word>(&mut self, n: u8, address_size: u8) {
        let by = if self.rflags & rflags::DF == 0 {
            T::SIZE as u64
        } else {
            (T::SIZE as u64).wrapping_neg()
        };
        let v = self.reg(n).wrapping_add(by);
        self.set_masked(n, v, address_size);
    }

    /// Repeats `element` as the prefix says. It returns whether a REPE/REPNE may go on.
    #[inline(always)]
    fn repeat(&mut self, op: &Op, mut element: impl FnMut(&mut Self) -> R<bool>) -> R {
        if op.bits & (Op::REP | Op::REPNE) == 0 {
            element(self)?;
            return Ok(());
        }
        let mask = address_mask(op.address_size);
        let mut left = if self.debugging() { 1 } else { ROUNDS };
        loop {
            let count = self.reg(RCX) & mask;
            if count == 0 {
                return Ok(());
            }
            let more = element(self)?;
            self.set_masked(RCX, count - 1, op.address_size);
            if !more || count == 1 {
                return Ok(());
            }
            left -= 1;
            if left == 0 {
                return Err(Stop::Again);
            }
        }
    }

    /// How many elements from index register `n` lie in one page and do not wrap the address size, upwards.
    fn run<T: Word>(&self, linear: u64, index: u64, mask: u64) -> u64 {
        let in_page = (0x1000 - (linear & 0xfff)) / T::SIZE as u64;
        let to_wrap = (mask - index) / T::SIZE as u64;
        in_page.min(to_wrap)
    }

    /// Whether runs may be handled as a whole: upwards, nothing watched.
    fn runs(&self, op: &Op) -> bool {
        op.bits & (Op::REP | Op::REPNE) != 0
            && self.rflags & rflags::DF == 0
            && !self.debugging()
            && !self.checks_data()
    }
}

fn movs<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let size = op.address_size;
    if cpu.runs(op) && cpu.is64() {
        let mask = address_mask(size);
        for page in 0..=PAGES {
            let count = cpu.reg(RCX) & mask;
            if count == 0 {
                return Ok(());
            }
            if page == PAGES {
                return Err(Stop::Again);
            }
            let (si, di) = (cpu.reg(RSI) & mask, cpu.reg(RDI) & mask);
            let from = cpu.linear(op.seg, si, T::SIZE, Kind::Read)?;
            let to = cpu.linear(ES, di, T::SIZE, Kind::Write)?;
            let n = count
                .min(cpu.run::<T>(from, si, mask))
                .min(cpu.run::<T>(to, di, mask));
            if n == 0 {
                break;
            }
            let (Place::Ram(a), Place::Ram(b)) = (
                cpu.place(op.seg, from, Kind::Read)?,
                cpu.place(ES, to, Kind::Write)?,
            ) else {
                break;
            };
            let len = n as usize * T::SIZE;
            if b > a && b < a + len {
                // The source runs into what has just been stored: one element after the other.
                for k in 0..n as usize {
                    let v: T = cpu.board.ram.load(a + k * T::SIZE);
                    cpu.board.ram.store(b + k * T::SIZE, v);
                }
            } else {
                cpu.board.ram.copy(a, b, len);
            }
            cpu.set_masked(RSI, si + len as u64, size);
            cpu.set_masked(RDI, di + len as u64, size);
            cpu.set_masked(RCX, count - n, size);
            if count == n {
                return Ok(());
            }
        }
    }
    cpu.repeat(op, |cpu| {
        let mask = address_mask(size);
        let v = cpu.read::<T>(op.seg, cpu.reg(RSI) & mask)?;
        cpu.write::<T>(ES, cpu.reg(RDI) & mask, v)?;
        cpu.step::<T>(RSI, size);
        cpu.step::<T>(RDI, size);
        Ok(true)
    })
}

fn stos<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let size = op.address_size;
    let v = cpu.get::<T>(RAX);
    if cpu.runs(op) && cpu.is64() {
        let mask = address_mask(size);
        for page in 0..=PAGES {
            let count = cpu.reg(RCX) & mask;
            if count == 0 {
                return Ok(());
            }
            if page == PAGES {
                return Err(Stop::Again);
            }
            let di = cpu.reg(RDI) & mask;
            let to = cpu.linear(ES, di, T::SIZE, Kind::Write)?;
            let n = count.min(cpu.run::<T>(to, di, mask));
            if n == 0 {
                break;
            }
            let Place::Ram(b) = cpu.place(ES, to, Kind::Write)? else {
                break;
            };
            cpu.board.ram.fill(b, v, n as usize);
            cpu.set_masked(RDI, di + n * T::SIZE as u64, size);
            cpu.set_masked(RCX, count - n, size);
            if count == n {
                return Ok(());
            }
        }
    }
    cpu.repeat(op, |cpu| {
        cpu.write::<T>(ES, cpu.reg(RDI) & address_mask(size), v)?;
        cpu.step::<T>(RDI, size);
        Ok(true)
    })
}

fn lods<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let size = op.address_size;
    cpu.repeat(op, |cpu| {
        let v = cpu.read::<T>(op.seg, cpu.reg(RSI) & address_mask(size))?;
        cpu.set(RAX, v);
        cpu.step::<T>(RSI, size);
        Ok(true)
    })
}

fn difference<T: Word>(cpu: &mut Cpu, op: &Op, a: T, b: T) -> bool {
    cpu.flags = Flags::sub(a, b, T::from_u64(a.to_u64().wrapping_sub(b.to_u64())));
    cpu.flags.zf() == (op.bits & Op::REPNE == 0)
}

fn cmps<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let size = op.address_size;
    cpu.repeat(op, |cpu| {
        let mask = address_mask(size);
        let a = cpu.read::<T>(op.seg, cpu.reg(RSI) & mask)?;
        let b = cpu.read::<T>(ES, cpu.reg(RDI) & mask)?;
        cpu.step::<T>(RSI, size);
        cpu.step::<T>(RDI, size);
        Ok(difference(cpu, op, a, b))
    })
}

fn scas<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let size = op.address_size;
    cpu.repeat(op, |cpu| {
        let b = cpu.read::<T>(ES, cpu.reg(RDI) & address_mask(size))?;
        let a = cpu.get::<T>(RAX);
        cpu.step::<T>(RDI, size);
        Ok(difference(cpu, op, a, b))
    })
}

fn ins<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let size = op.address_size;
    let port = cpu.get::<u16>(2);
    // Permission is needed even for a count of zero.
    cpu.check_port(port, T::SIZE as u16)?;
    cpu.repeat(op, |cpu| {
        let di = cpu.reg(RDI) & address_mask(size);
        // The destination is checked before the port is read: reading may have effects.
        cpu.probe_write(ES, di, T::SIZE, T::SIZE)?;
        cpu.note_port(port, T::SIZE as u16);
        let v = cpu.board.io.port_in(port, T::SIZE as u8);
        cpu.write(ES, di, T::from_u64(v as u64))?;
        cpu.step::<T>(RDI, size);
        Ok(true)
    })
}

fn outs<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let size = op.address_size;
    let port = cpu.get::<u16>(2);
    // Permission is needed even for a count of zero.
    cpu.check_port(port, T::SIZE as u16)?;
    cpu.repeat(op, |cpu| {
        let v = cpu.read::<T>(op.seg, cpu.reg(RSI) & address_mask(size))?;
        cpu.note_port(port, T::SIZE as u16);
        cpu.board.io.port_out(port, T::SIZE as u8, v.to_u64() as u32);
        cpu.step::<T>(RSI, size);
        Ok(true)
    })
}

/// The handler of an instruction of this family.
pub(crate) fn lower(i: &Instruction, _: &mut Op) -> Option<Handler> {
    use Mnemonic::*;
    if !i.is_string_instruction() {
        return None;
    }
    let s = match i.mnemonic() {
        Movsb | Stosb | Lodsb | Cmpsb | Scasb | Insb | Outsb => 0,
        Movsw | Stosw | Lodsw | Cmpsw | Scasw | Insw | Outsw => 1,
        Movsd | Stosd | Lodsd | Cmpsd | Scasd | Insd | Outsd => 2,
        _ => 3,
    };
    Some(match i.mnemonic() {
        Movsb | Movsw | Movsd | Movsq => sized!(s, movs),
        Stosb | Stosw | Stosd | Stosq => sized!(s, stos),
        Lodsb | Lodsw | Lodsd | Lodsq => sized!(s, lods),
        Cmpsb | Cmpsw | Cmpsd | Cmpsq => sized!(s, cmps),
        Scasb | Scasw | Scasd | Scasq => sized!(s, scas),
        Insb | Insw | Insd => sized!(s, ins),
        Outsb | Outsw | Outsd => sized!(s, outs),
        _ => return None,
    })
}
