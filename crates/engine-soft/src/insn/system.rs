//! Identification, time, random numbers, cache control and other odds and ends.

use super::sized;
use crate::cpu::{Cpu, Flags, R, Stop};
use crate::decode::{Handler, Op};
use donjon_memory::Word;
use donjon_x86::bits::{cr4, rflags};
use donjon_x86::cpuid::CpuidContext;
use donjon_x86::{Seg, exception};
use iced_x86::{Instruction, Mnemonic};

fn nop(_: &mut Cpu, _: &Op) -> R {
    Ok(())
}

/// PAUSE: a spinning guest lets others run, which with fewer host cores than vCPUs is what it waits for.
fn pause(_: &mut Cpu, _: &Op) -> R {
    std::thread::yield_now();
    Err(Stop::EndBlock)
}

/// Fences and serialising instructions order the vCPU's accesses as seen by the others.
fn fence(_: &mut Cpu, _: &Op) -> R {
    super::control::serialize();
    Ok(())
}

fn hlt(cpu: &mut Cpu, _: &Op) -> R {
    cpu.privileged()?;
    Err(Stop::Halt)
}

fn cpuid(cpu: &mut Cpu, _: &Op) -> R {
    let cx = CpuidContext {
        apic_id: cpu.board.apic_id,
        vcpus: cpu.board.vcpus,
        osxsave: cpu.cr4 & cr4::OSXSAVE != 0,
        xcr0: cpu.xcr0,
        tsc_hz: cpu.board.clock.hz(),
    };
    super::control::serialize();
    let [a, b, c, d] = cpu.board.model.cpuid(cpu.get::<u32>(0), cpu.get::<u32>(1), &cx);
    cpu.set(0, a);
    cpu.set(3, b);
    cpu.set(1, c);
    cpu.set(2, d);
    Ok(())
}

impl Cpu {
    /// The time-stamp counter as the guest reads it.
    pub fn tsc(&self) -> u64 {
        self.board.tsc().wrapping_add(self.msrs.tsc_adjust)
    }
}

fn rdtsc(cpu: &mut Cpu, op: &Op) -> R {
    if cpu.cr4 & cr4::TSD != 0 && cpu.cpl != 0 {
        return Err(cpu.gp(0));
    }
    let tsc = cpu.tsc();
    cpu.set(0, tsc as u32);
    cpu.set(2, (tsc >> 32) as u32);
    if op.x != 0 {
        cpu.set(1, cpu.msrs.tsc_aux as u32);
    }
    Ok(())
}

fn rdpid(cpu: &mut Cpu, op: &Op) -> R {
    cpu.set(op.a, cpu.msrs.tsc_aux & 0xffff_ffff);
    Ok(())
}

/// No performance counters: every index is out of range.
fn rdpmc(cpu: &mut Cpu, _: &Op) -> R {
    Err(cpu.gp(0))
}

/// RDRAND and RDSEED, from the host kernel. CF clear says that none was to be had.
fn random<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    let v = cpu.board.random();
    cpu.set(op.a, T::from_u64(v.unwrap_or(0)));
    cpu.flags = Flags::from_bits(if v.is_some() { rflags::CF } else { 0 });
    Ok(())
}

/// CLFLUSH, CLFLUSHOPT: nothing is cached, but the address must be readable.
fn clflush(cpu: &mut Cpu, op: &Op) -> R {
    cpu.read::<u8>(op.seg, cpu.ea(op))?;
    Ok(())
}

fn wbinvd(cpu: &mut Cpu, _: &Op) -> R {
    cpu.privileged()?;
    super::control::serialize();
    Ok(())
}

fn ac(cpu: &mut Cpu, op: &Op) -> R {
    if cpu.cpl != 0 {
        return Err(cpu.ud());
    }
    cpu.rflags = cpu.rflags & !rflags::AC | if op.x != 0 { rflags::AC } else { 0 };
    cpu.access_mode_changed();
    Ok(())
}

/// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
fn segment_base<T: Word>(cpu: &mut Cpu, op: &Op) -> R {
    if cpu.cr4 & cr4::FSGSBASE == 0 {
        return Err(cpu.raise(exception::UD));
    }
    let n = if op.x & 1 == 0 { Seg::Fs } else { Seg::Gs };
    if op.x & 2 == 0 {
        cpu.set(op.a, T::from_u64(cpu.seg[n as usize].base));
        return Ok(());
    }
    let v = cpu.get::<T>(op.a).to_u64();
    if !donjon_x86::paging::canonical(v) {
        return Err(cpu.gp(0));
    }
    let s = donjon_x86::Segment {
        base: v,
        ..cpu.seg[n as usize]
    };
    cpu.set_segment(n, s);
    Ok(())
}

/// The handler of an instruction of this family.
pub(crate) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    use Mnemonic::*;
    let (x, handler): (u8, Handler) = match i.mnemonic() {
        Nop | Reservednop | Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2 | Prefetchw | Prefetch => {
            (0, nop)
        }
        Endbr32 | Endbr64 => (0, nop),
        Pause => (0, pause),
        Lfence | Mfence | Sfence => (0, fence),
        Hlt => (0, hlt),
        Cpuid => (0, cpuid),
        Rdtsc => (0, rdtsc),
        Rdtscp => (1, rdtsc),
        Rdpid => (0, rdpid),
        Rdpmc => (0, rdpmc),
        Rdrand | Rdseed => (0, sized!(op.size, random)),
        Clflush | Clflushopt => (0, clflush),
        Invd | Wbinvd => (0, wbinvd),
        Clac => (0, ac),
        Stac => (1, ac),
        Rdfsbase => (0, sized!(op.size, segment_base)),
        Rdgsbase => (1, sized!(op.size, segment_base)),
        Wrfsbase => (2, sized!(op.size, segment_base)),
        Wrgsbase => (3, sized!(op.size, segment_base)),
        _ => return None,
    };
    op.x = x;
    if matches!(i.mnemonic(), Hlt | Pause) {
        op.bits |= Op::ENDS_BLOCK;
    }
    Some(handler)
}
