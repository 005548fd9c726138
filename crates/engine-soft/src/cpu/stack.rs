//! The stack pointer, pushes and pops.

use super::{Cpu, R};
use donjon_memory::Word;
use donjon_x86::Seg;

impl Cpu {
    /// The bits of the stack pointer in use, as an address.
    #[inline(always)]
    pub fn stack_pointer(&self) -> u64 {
        self.regs[4] & self.stack_mask
    }

    /// Sets the bits of the stack pointer in use.
    #[inline(always)]
    pub fn set_stack_pointer(&mut self, v: u64) {
        let m = self.stack_mask;
        self.regs[4] = if m == 0xffff {
            self.regs[4] & !m | v & m
        } else {
            v & m
        };
    }

    /// Pushes; RSP moves only if the store succeeds.
    #[inline(always)]
    pub fn push<T: Word>(&mut self, v: T) -> R {
        let sp = self.stack_pointer().wrapping_sub(T::SIZE as u64) & self.stack_mask;
        self.write(Seg::Ss as u8, sp, v)?;
        self.set_stack_pointer(sp);
        Ok(())
    }

    /// Pops.
    #[inline(always)]
    pub fn pop<T: Word>(&mut self) -> R<T> {
        let sp = self.stack_pointer();
        let v = self.read(Seg::Ss as u8, sp)?;
        self.set_stack_pointer(sp.wrapping_add(T::SIZE as u64));
        Ok(v)
    }
}
