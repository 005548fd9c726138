//! XSAVE, XSAVEOPT, XSAVEC and XRSTOR (Intel SDM vol. 1 chapter 13).

use super::area::{probe_last, store_part};
use super::fxsave::{
    LEGACY, MXCSR_BYTES, X87_HEAD, X87_REGISTERS, XMM, checked_mxcsr, put_mxcsr, put_vectors, put_x87,
    take_vectors, take_x87, vectors, xmm_bytes,
};
use crate::cpu::{Cpu, Kind, R};
use crate::decode::Op;
use donjon_x86::bits::{cr0, cr4, xcr0};
use donjon_x86::{Fpu, Gpr, exception};

/// Bytes of the header behind the legacy region.
const HEADER: usize = 64;
/// XSTATE_BV and XCOMP_BV.
const XSTATE_BV: u64 = LEGACY as u64;
const XCOMP_BV: u64 = LEGACY as u64 + 8;
/// AVX state. Being the only component behind the header it is there in the compacted format as well.
const AVX: usize = LEGACY + HEADER;
const SIZE: usize = AVX + 256;
/// XCOMP_BV bit 63: compacted format.
const COMPACTED: u64 = 1 << 63;
const MXCSR_INITIAL: u32 = 0x1f80;

/// The three ways of saving.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Optimised,
    Compacted,
}

/// #UD, #NM, segment, alignment and paging of the first byte (Intel SDM vol. 1 §13.7 and §13.8); the
/// effective address, RFBM and the size of the area. CR0.EM does not matter to these instructions.
fn check(cpu: &mut Cpu, op: &Op, kind: Kind) -> R<(u64, u64, usize)> {
    if cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(cpu.ud());
    }
    if cpu.cr0 & cr0::TS != 0 {
        return Err(cpu.raise(exception::NM));
    }
    let ea = cpu.ea(op);
    let mask = cpu.reg(Gpr::Rdx as u8) << 32 | cpu.reg(Gpr::Rax as u8) as u32 as u64;
    let rfbm = mask & cpu.xcr0;
    let size = if rfbm & xcr0::AVX != 0 { SIZE } else { AVX };
    // How much is loaded depends on the header: XRSTOR checks the rest once it has read that.
    let least = if kind == Kind::Read { AVX } else { size };
    let linear = cpu.linear(op.seg, ea, least, kind)?;
    if linear & 63 != 0 {
        return Err(cpu.gp(0));
    }
    cpu.place(op.seg, linear, kind)?;
    Ok((ea, rfbm, size))
}

/// XINUSE: the components that are not in their initial configuration (Intel SDM vol. 1 §13.6).
pub fn in_use(cpu: &Cpu) -> u64 {
    let half = |h: usize| cpu.ymm.iter().any(|r| r[h] | r[h + 1] != 0);
    let mut used = 0;
    if cpu.fpu != Fpu::default() {
        used |= xcr0::X87;
    }
    if half(0) {
        used |= xcr0::SSE;
    }
    if half(2) {
        used |= xcr0::AVX;
    }
    used
}

fn quad(area: &[u8], at: usize) -> u64 {
    area[at..at + 8].iter().rev().fold(0, |v, b| v << 8 | *b as u64)
}

fn save_as(cpu: &mut Cpu, op: &Op, form: Form, wide: bool) -> R {
    let (ea, rfbm, size) = check(cpu, op, Kind::Write)?;
    probe_last(cpu, op, ea, size, Kind::Write)?;
    let used = in_use(cpu);
    let mut saved = if form == Form::Plain { rfbm } else { rfbm & used };
    if form == Form::Compacted && rfbm & xcr0::SSE != 0 && cpu.mxcsr != MXCSR_INITIAL {
        saved |= xcr0::SSE;
    }
    let before = cpu.read::<u64>(op.seg, ea.wrapping_add(XSTATE_BV))?;
    let mut area = [0; SIZE];
    if saved & xcr0::X87 != 0 {
        put_x87(&cpu.fpu, &mut area, wide);
        store_part(cpu, op, ea, &area, X87_HEAD)?;
        store_part(cpu, op, ea, &area, X87_REGISTERS)?;
    }
    // MXCSR belongs to AVX state as well, but not in the compacted format.
    let mxcsr = if form == Form::Compacted {
        saved & xcr0::SSE
    } else {
        rfbm & (xcr0::SSE | xcr0::AVX)
    };
    if mxcsr != 0 {
        put_mxcsr(cpu, &mut area);
        store_part(cpu, op, ea, &area, MXCSR_BYTES)?;
    }
    if saved & xcr0::SSE != 0 {
        put_vectors(cpu, &mut area, XMM, 0);
        store_part(cpu, op, ea, &area, xmm_bytes(cpu))?;
    }
    if saved & xcr0::AVX != 0 {
        put_vectors(cpu, &mut area, AVX, 2);
        store_part(cpu, op, ea, &area, AVX..AVX + 16 * vectors(cpu))?;
    }
    // Of the header only these fields are written.
    if form == Form::Compacted {
        cpu.write(op.seg, ea.wrapping_add(XSTATE_BV), saved)?;
        return cpu.write(op.seg, ea.wrapping_add(XCOMP_BV), rfbm | COMPACTED);
    }
    cpu.write(op.seg, ea.wrapping_add(XSTATE_BV), before & !rfbm | rfbm & used)
}

/// XSAVE, XSAVE64.
pub fn save<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> R {
    save_as(cpu, op, Form::Plain, WIDE)
}

/// XSAVEOPT, XSAVEOPT64: with the init optimisation. The modified optimisation is never applied, as a
/// processor may choose.
pub fn save_optimised<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> R {
    save_as(cpu, op, Form::Optimised, WIDE)
}

/// XSAVEC, XSAVEC64.
pub fn save_compacted<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> R {
    save_as(cpu, op, Form::Compacted, WIDE)
}

/// Whether a header may be restored from (Intel SDM vol. 1 §13.8.1 and §13.8.2).
fn header_ok(header: &[u8], xcr0: u64) -> bool {
    let (state, components) = (quad(header, 0), quad(header, 8));
    if components & COMPACTED == 0 {
        return components == 0 && quad(header, 16) == 0 && state & !xcr0 == 0;
    }
    let components = components & !COMPACTED;
    components & !xcr0 == 0 && state & !components == 0 && header[16..].iter().all(|b| *b == 0)
}

/// XRSTOR, XRSTOR64.
pub fn restore<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> R {
    let (ea, rfbm, mut size) = check(cpu, op, Kind::Read)?;
    let mut area = [0; SIZE];
    cpu.read_bytes(op.seg, ea.wrapping_add(XSTATE_BV), &mut area[LEGACY..AVX])?;
    if !header_ok(&area[LEGACY..AVX], cpu.xcr0) {
        return Err(cpu.gp(0));
    }
    let (state, components) = (quad(&area, LEGACY), quad(&area, LEGACY + 8));
    let compacted = components & COMPACTED != 0;
    let loaded = rfbm & state;
    // The standard form wants all of the area to be there, whatever XSTATE_BV says is in it.
    if compacted && loaded & xcr0::AVX == 0 {
        size = AVX;
    }
    probe_last(cpu, op, ea, size, Kind::Read)?;
    cpu.read_bytes(op.seg, ea, &mut area[..LEGACY])?;
    if size > AVX {
        cpu.read_bytes(op.seg, ea.wrapping_add(AVX as u64), &mut area[AVX..size])?;
    }
    // The standard form loads MXCSR for AVX as well, and whatever XSTATE_BV says.
    let mxcsr = if compacted {
        loaded & xcr0::SSE
    } else {
        rfbm & (xcr0::SSE | xcr0::AVX)
    };
    if mxcsr != 0 {
        cpu.mxcsr = checked_mxcsr(cpu, &area)?;
    } else if compacted && rfbm & xcr0::SSE != 0 {
        cpu.mxcsr = MXCSR_INITIAL;
    }
    let source = |component: u64| (state & component != 0).then_some(&area[..]);
    if rfbm & xcr0::X87 != 0 {
        match source(xcr0::X87) {
            Some(area) => take_x87(&mut cpu.fpu, area, WIDE),
            None => cpu.fpu = Fpu::default(),
        }
    }
    if rfbm & xcr0::SSE != 0 {
        take_vectors(cpu, source(xcr0::SSE), XMM, 0);
    }
    if rfbm & xcr0::AVX != 0 {
        take_vectors(cpu, source(xcr0::AVX), AVX, 2);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(state: u64, components: u64) -> [u8; HEADER] {
        let mut h = [0; HEADER];
        h[..8].copy_from_slice(&state.to_le_bytes());
        h[8..16].copy_from_slice(&components.to_le_bytes());
        h
    }

    #[test]
    fn standard_headers() {
        assert!(header_ok(&header(7, 0), 7));
        assert!(!header_ok(&header(7, 0), 3));
        assert!(!header_ok(&header(0, 1), 7));
        let mut h = header(0, 0);
        h[23] = 1;
        assert!(!header_ok(&h, 7));
        (h[23], h[24]) = (0, 1);
        assert!(header_ok(&h, 7), "the standard form does not look behind byte 23");
    }

    #[test]
    fn compacted_headers() {
        assert!(header_ok(&header(3, COMPACTED | 7), 7));
        assert!(!header_ok(&header(4, COMPACTED | 3), 7));
        assert!(!header_ok(&header(0, COMPACTED | 8), 7));
        assert!(!header_ok(&header(COMPACTED, COMPACTED | 7), 7));
        let mut h = header(0, COMPACTED);
        h[63] = 1;
        assert!(!header_ok(&h, 7));
    }
}
