//! FNSTENV, FLDENV, FNSAVE and FRSTOR in their four formats (Intel SDM vol. 1 figures 8-9 to 8-12).

use super::area::{check_alignment, probe, probe_last};
use super::control::reset;
use super::stack::{self, status};
use crate::cpu::{Cpu, Kind, R};
use crate::decode::Op;
use crate::float::x87::F80;
use donjon_x86::Fpu;
use donjon_x86::bits::rflags;

/// Bytes of the environment in the 16-bit and 32-bit format.
const SHORT: usize = 14;
const LONG: usize = 28;
/// Bytes of the eight registers behind it.
const REGISTERS: usize = 80;
/// Reserved bits of the control word: 6 reads as one, the others as zero.
const CONTROL: u16 = 0x1f3f;
const CONTROL_ONE: u16 = 0x40;
const OPCODE: u16 = 0x7ff;

/// Takes a control word; ES and B are up to the caller.
pub fn load_control(f: &mut Fpu, v: u16) {
    f.control = v & CONTROL | CONTROL_ONE;
}

/// Whether addresses are stored as linear ones, without selectors.
fn real(cpu: &Cpu) -> bool {
    !cpu.protected() || cpu.rflags & rflags::VM != 0
}

fn linear(selector: u16, offset: u64) -> u32 {
    ((selector as u32) << 4).wrapping_add(offset as u32)
}

/// The image FNSTENV stores.
pub fn image(f: &Fpu, real: bool, long: bool) -> ([u8; LONG], usize) {
    // A state from outside may have tags that do not fit the contents; the processor's always do.
    let mut f = *f;
    let tags = f.tag;
    stack::retag(&mut f, tags);
    let mut out = [0; LONG];
    let code = linear(f.instruction_selector, f.instruction);
    let data = linear(f.data_selector, f.data);
    if long {
        // The upper halves of word-sized fields are reserved and stored as ones.
        let word = |v: u16| 0xffff_0000 | v as u32;
        let opcode = f.opcode & OPCODE;
        let pointers = if real {
            [
                word(code as u16),
                (code >> 16) << 12 | opcode as u32,
                word(data as u16),
                (data >> 16) << 12,
            ]
        } else {
            let selector = (opcode as u32) << 16 | f.instruction_selector as u32;
            [
                f.instruction as u32,
                selector,
                f.data as u32,
                word(f.data_selector),
            ]
        };
        let head = [word(f.control), word(f.status), word(f.tag)];
        for (field, v) in out
            .as_chunks_mut::<4>()
            .0
            .iter_mut()
            .zip(head.into_iter().chain(pointers))
        {
            *field = v.to_le_bytes();
        }
        return (out, LONG);
    }
    let pointers = if real {
        let high = |linear: u32| (linear >> 4) as u16 & 0xf000;
        [
            code as u16,
            high(code) | f.opcode & OPCODE,
            data as u16,
            high(data),
        ]
    } else {
        [
            f.instruction as u16,
            f.instruction_selector,
            f.data as u16,
            f.data_selector,
        ]
    };
    let head = [f.control, f.status, f.tag];
    for (field, v) in out
        .as_chunks_mut::<2>()
        .0
        .iter_mut()
        .zip(head.into_iter().chain(pointers))
    {
        *field = v.to_le_bytes();
    }
    (out, SHORT)
}

/// Takes the image FLDENV loads. Of its tags only "empty" counts: the others follow from the contents of
/// the registers.
pub fn load_image(f: &mut Fpu, image: &[u8], real: bool, long: bool) {
    let step = if long { 4 } else { 2 };
    let word = |n: usize| u16::from_le_bytes([image[n * step], image[n * step + 1]]);
    let wide = |n: usize| {
        let high = if long {
            u16::from_le_bytes([image[n * step + 2], image[n * step + 3]])
        } else {
            0
        };
        (high as u32) << 16 | word(n) as u32
    };
    load_control(f, word(0));
    f.status = word(1);
    stack::retag(f, word(2));
    stack::summarise(f);
    if real {
        // 16 low bits, then 4 or 16 high ones from bit 12.
        let address = |low: usize| (word(low) as u32 | wide(low + 1) >> 12 << 16) as u64;
        (f.instruction, f.instruction_selector, f.opcode) = (address(3), 0, word(4) & OPCODE);
        (f.data, f.data_selector) = (address(5), 0);
        return;
    }
    (f.instruction, f.instruction_selector) = (wide(3) as u64, word(4));
    (f.data, f.data_selector) = (wide(5) as u64, word(6));
    // The 16-bit protected format has no room for an opcode.
    f.opcode = if long { (wide(4) >> 16) as u16 & OPCODE } else { 0 };
}

/// Checks segment, alignment (that of a field) and paging of an image of `size` bytes; the effective
/// address.
fn check(cpu: &mut Cpu, op: &Op, size: usize, long: bool, kind: Kind) -> R<u64> {
    let ea = cpu.ea(op);
    let linear = cpu.linear(op.seg, ea, size, kind)?;
    let field = if long { 4 } else { 2 };
    check_alignment(cpu, linear, field as u64)?;
    // The first field comes first, then the far end.
    probe(cpu, op.seg, linear, field, kind)?;
    probe_last(cpu, op, ea, size, kind)?;
    Ok(ea)
}

/// FNSTENV: all exceptions are masked afterwards.
pub fn store<const LONG_FORMAT: bool>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87_no_wait()?;
    let (image, n) = image(&cpu.fpu, real(cpu), LONG_FORMAT);
    let ea = check(cpu, op, n, LONG_FORMAT, Kind::Write)?;
    cpu.write_bytes(op.seg, ea, &image[..n])?;
    cpu.fpu.control |= status::FLAGS;
    stack::summarise(&mut cpu.fpu);
    Ok(())
}

/// FLDENV.
pub fn load<const LONG_FORMAT: bool>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    let mut image = [0; LONG];
    let n = if LONG_FORMAT { LONG } else { SHORT };
    let ea = check(cpu, op, n, LONG_FORMAT, Kind::Read)?;
    cpu.read_bytes(op.seg, ea, &mut image[..n])?;
    let real = real(cpu);
    load_image(&mut cpu.fpu, &image, real, LONG_FORMAT);
    Ok(())
}

/// FNSAVE: environment and registers in stack order, then FNINIT.
pub fn save<const LONG_FORMAT: bool>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87_no_wait()?;
    let (environment, n) = image(&cpu.fpu, real(cpu), LONG_FORMAT);
    let mut all = [0; LONG + REGISTERS];
    all[..n].copy_from_slice(&environment[..n]);
    for i in 0..8 {
        let at = n + i as usize * 10;
        all[at..at + 10].copy_from_slice(&stack::get(&cpu.fpu, i).to_bytes());
    }
    let ea = check(cpu, op, n + REGISTERS, LONG_FORMAT, Kind::Write)?;
    cpu.write_bytes(op.seg, ea, &all[..n + REGISTERS])?;
    reset(&mut cpu.fpu);
    Ok(())
}

/// FRSTOR.
pub fn restore<const LONG_FORMAT: bool>(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    let mut all = [0; LONG + REGISTERS];
    let n = if LONG_FORMAT { LONG } else { SHORT };
    let ea = check(cpu, op, n + REGISTERS, LONG_FORMAT, Kind::Read)?;
    cpu.read_bytes(op.seg, ea, &mut all[..n + REGISTERS])?;
    let real = real(cpu);
    let f = &mut cpu.fpu;
    load_image(f, &all, real, LONG_FORMAT);
    let tags = f.tag;
    for (i, bytes) in all[n..n + REGISTERS].as_chunks::<10>().0.iter().enumerate() {
        stack::set(f, i as u8, F80::from_bytes(*bytes));
    }
    stack::retag(f, tags);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Fpu {
        let mut f = Fpu {
            control: 0x27f,
            status: 0x3800,
            tag: 0x3fff,
            opcode: 0x5a5,
            instruction: 0x1234_5678,
            instruction_selector: 0x33,
            data: 0x9abc_def0,
            data_selector: 0x2b,
            ..Fpu::default()
        };
        f.significand[7] = 1 << 63;
        f.sign_exponent[7] = 0x3fff;
        f
    }

    #[test]
    fn protected_images_come_back() {
        let f = sample();
        let (bytes, n) = image(&f, false, true);
        assert_eq!(n, 28);
        let mut g = Fpu {
            significand: f.significand,
            sign_exponent: f.sign_exponent,
            ..Fpu::default()
        };
        load_image(&mut g, &bytes, false, true);
        assert_eq!(f, g);
        let (bytes, n) = image(&f, false, false);
        assert_eq!(n, 14);
        load_image(&mut g, &bytes, false, false);
        let short = Fpu {
            opcode: 0,
            instruction: 0x5678,
            data: 0xdef0,
            ..f
        };
        assert_eq!(g, short);
    }

    #[test]
    fn real_images_hold_linear_addresses() {
        let f = Fpu {
            instruction: 0x10,
            instruction_selector: 0xf123,
            data: 0x4,
            data_selector: 0x9000,
            ..sample()
        };
        for long in [false, true] {
            let (bytes, _) = image(&f, true, long);
            let mut g = sample();
            load_image(&mut g, &bytes, true, long);
            assert_eq!((g.instruction, g.data, g.opcode), (0xf1240, 0x90004, 0x5a5));
        }
    }
}
