//! Control words, initialisation and housekeeping of the stack.

use super::environment::load_control;
use super::stack::{self, status};
use crate::cpu::{Cpu, R};
use crate::decode::Op;
use donjon_x86::bits::cr0;
use donjon_x86::{Fpu, exception};

impl Cpu {
    /// Check of an instruction that does not wait for pending exceptions: #NM alone.
    #[inline(always)]
    pub(super) fn x87_no_wait(&mut self) -> R {
        if self.cr0 & (cr0::EM | cr0::TS) != 0 {
            return Err(self.raise(exception::NM));
        }
        Ok(())
    }
}

/// FNINIT: the state of Intel SDM vol. 1 §8.1.5; register contents stay.
pub fn init(cpu: &mut Cpu, _: &Op) -> R {
    cpu.x87_no_wait()?;
    reset(&mut cpu.fpu);
    Ok(())
}

/// The effect of FNINIT.
pub fn reset(f: &mut Fpu) {
    *f = Fpu {
        significand: f.significand,
        sign_exponent: f.sign_exponent,
        ..Fpu::default()
    };
}

/// FNCLEX.
pub fn clear_exceptions(cpu: &mut Cpu, _: &Op) -> R {
    cpu.x87_no_wait()?;
    cpu.fpu.status &= status::TOP | status::CODES;
    Ok(())
}

/// FNENI, FNDISI, FNSETPM: they meant something to the 8087 and 80287 (Intel SDM vol. 1 §8.3.13).
pub fn no_operation_no_wait(cpu: &mut Cpu, _: &Op) -> R {
    cpu.x87_no_wait()
}

/// FNOP.
pub fn no_operation(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    Ok(())
}

/// FWAIT: of the two #NM conditions it honours only CR0.TS, and that with CR0.MP set
/// (Intel SDM vol. 3A §2.5).
pub fn wait(cpu: &mut Cpu, _: &Op) -> R {
    if cpu.cr0 & (cr0::MP | cr0::TS) == cr0::MP | cr0::TS {
        return Err(cpu.raise(exception::NM));
    }
    if cpu.fpu.status & status::ES != 0 {
        return Err(cpu.raise(exception::MF));
    }
    Ok(())
}

/// FNSTCW.
pub fn store_control(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87_no_wait()?;
    cpu.write::<u16>(op.seg, cpu.ea(op), cpu.fpu.control)
}

/// FLDCW.
pub fn load_control_word(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    let v = cpu.read::<u16>(op.seg, cpu.ea(op))?;
    load_control(&mut cpu.fpu, v);
    stack::summarise(&mut cpu.fpu);
    Ok(())
}

/// FNSTSW m16.
pub fn store_status(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87_no_wait()?;
    cpu.write::<u16>(op.seg, cpu.ea(op), cpu.fpu.status)
}

/// FNSTSW AX.
pub fn store_status_ax(cpu: &mut Cpu, _: &Op) -> R {
    cpu.x87_no_wait()?;
    cpu.set::<u16>(0, cpu.fpu.status);
    Ok(())
}

/// FINCSTP: neither tags nor contents change.
pub fn increment_top(cpu: &mut Cpu, op: &Op) -> R {
    rotate(cpu, op, 1)
}

/// FDECSTP.
pub fn decrement_top(cpu: &mut Cpu, op: &Op) -> R {
    rotate(cpu, op, 7)
}

fn rotate(cpu: &mut Cpu, op: &Op, by: u16) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    cpu.fpu.status &= !status::C1;
    stack::rotate(&mut cpu.fpu, by);
    Ok(())
}

/// FFREE. The SDM leaves the condition codes undefined; processors clear C1.
pub fn free(cpu: &mut Cpu, op: &Op) -> R {
    cpu.x87()?;
    cpu.x87_at(op);
    cpu.fpu.status &= !status::C1;
    stack::free(&mut cpu.fpu, op.a);
    Ok(())
}

/// FFREEP: FFREE, then a pop.
pub fn free_pop(cpu: &mut Cpu, op: &Op) -> R {
    free(cpu, op)?;
    stack::pop(&mut cpu.fpu);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_keeps_register_contents() {
        let mut f = Fpu {
            control: 0,
            status: 0xffff,
            tag: 0,
            significand: [7; 8],
            ..Fpu::default()
        };
        reset(&mut f);
        assert_eq!(
            f,
            Fpu {
                significand: [7; 8],
                ..Fpu::default()
            }
        );
    }
}
