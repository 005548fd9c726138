//! Hardware task switching, 16 and 32 bits (Intel SDM vol. 3A §7.3).

use super::descriptor::{Loaded, is_null};
use super::{Cpu, Fault, R, Stop};
use donjon_memory::Word;
use donjon_x86::bits::{cr0, rflags};
use donjon_x86::descriptor::kind;
use donjon_x86::{Seg, Segment, exception};

/// How a task switch came about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Jump,
    /// CALL, or an interrupt: the new task links back to the old one.
    Nest,
    Iret,
}

/// Byte offsets in a task-state segment.
struct Layout {
    size: usize,
    cr3: Option<u64>,
    eip: u64,
    eflags: u64,
    registers: u64,
    segments: u64,
    ldt: u64,
    /// Limit below which the TSS is invalid.
    limit: u32,
}

const WIDE: Layout = Layout {
    size: 4,
    cr3: Some(28),
    eip: 32,
    eflags: 36,
    registers: 40,
    segments: 72,
    ldt: 96,
    limit: 0x67,
};
const NARROW: Layout = Layout {
    size: 2,
    cr3: None,
    eip: 14,
    eflags: 16,
    registers: 18,
    segments: 34,
    ldt: 42,
    limit: 0x2b,
};

impl Layout {
    fn of(s: &Segment) -> &'static Layout {
        if s.attributes.kind() & 8 != 0 {
            &WIDE
        } else {
            &NARROW
        }
    }

    /// Segments stored: a 16-bit TSS has no FS and GS.
    fn count(&self) -> u64 {
        if self.size == 4 { 6 } else { 4 }
    }
}

impl Cpu {
    /// A task gate in the interrupt descriptor table.
    pub fn switch_task_for_interrupt(&mut self, selector: u16, f: &Fault, rip: u64) -> R {
        self.next_rip = rip;
        let trap = self.switch_task(selector, Cause::Nest, exception::GP)?;
        if let Some(code) = f.code {
            let size = Layout::of(&self.tr).size;
            if size == 4 {
                self.push(code)?
            } else {
                self.push(code as u16)?
            }
        }
        self.task_trap(trap)
    }

    /// A far JMP or CALL to a TSS or task gate.
    pub fn switch_task_by_jump(&mut self, selector: u16, call: bool) -> R {
        let trap = self.switch_task(
            selector,
            if call { Cause::Nest } else { Cause::Jump },
            exception::GP,
        )?;
        self.task_trap(trap)
    }

    /// The debug trap of a task whose state asks for it (Intel SDM vol. 3B §18.3.1.5).
    fn task_trap(&mut self, trap: bool) -> R {
        if !trap {
            return Ok(());
        }
        self.dr6 |= 1 << 15;
        self.fault = Fault {
            vector: exception::DB,
            trap: true,
            ..Fault::default()
        };
        Err(Stop::Fault)
    }

    /// IRET with NT set: back to the task the current one links to.
    pub fn switch_task_by_iret(&mut self) -> R {
        let back: u16 = self.read_system(self.tr.base)?;
        let trap = self.switch_task(back, Cause::Iret, exception::TS)?;
        self.task_trap(trap)
    }

    fn field(&mut self, base: u64, at: u64, size: usize) -> R<u64> {
        Ok(if size == 4 {
            self.read_system::<u32>(base + at)? as u64
        } else {
            self.read_system::<u16>(base + at)? as u64
        })
    }

    fn set_field<T: Word>(&mut self, base: u64, at: u64, v: u64) -> R {
        self.write_system(base + at, T::from_u64(v))
    }

    fn set_busy(&mut self, l: &Loaded, busy: bool) -> R {
        let kind = (l.descriptor.0 >> 40) as u8;
        self.write_system(l.address.wrapping_add(5), if busy { kind | 2 } else { kind & !2 })
    }

    /// Switches; returns whether the new task wants a debug trap.
    fn switch_task(&mut self, selector: u16, cause: Cause, vector: u8) -> R<bool> {
        if is_null(selector) || selector & 4 != 0 {
            return Err(self.selector_fault(vector, selector));
        }
        let l = self.read_descriptor(selector, vector)?;
        let a = l.descriptor.attributes();
        let expected = if cause == Cause::Iret {
            [kind::TSS_BUSY, kind::TSS16_BUSY]
        } else {
            [kind::TSS_AVAILABLE, kind::TSS16_AVAILABLE]
        };
        if a.is_code_or_data() || !expected.contains(&a.kind()) {
            return Err(self.selector_fault(vector, selector));
        }
        if !a.present() {
            return Err(self.selector_fault(exception::NP, selector));
        }
        let mut new_tr = l.descriptor.segment(selector);
        new_tr.attributes.0 |= 2;
        let layout = Layout::of(&new_tr);
        if new_tr.limit < layout.limit {
            return Err(self.selector_fault(exception::TS, selector));
        }
        self.save_task(cause)?;
        // The new state, all of it read before anything changes.
        let base = new_tr.base;
        let cr3 = match layout.cr3 {
            Some(at) if self.cr0 & cr0::PG != 0 => Some(self.field(base, at, 4)?),
            _ => None,
        };
        let eip = self.field(base, layout.eip, layout.size)?;
        let mut eflags = self.field(base, layout.eflags, layout.size)?;
        let mut registers = [0; 8];
        for (n, r) in registers.iter_mut().enumerate() {
            *r = self.field(base, layout.registers + (n * layout.size) as u64, layout.size)?;
        }
        let mut selectors = [0; 6];
        for n in 0..layout.count() {
            selectors[n as usize] =
                self.read_system::<u16>(base + layout.segments + n * layout.size as u64)?;
        }
        let ldt: u16 = self.read_system(base + layout.ldt)?;
        let trap = layout.size == 4 && self.read_system::<u16>(base + 100)? & 1 != 0;

        let old = self.tr.selector;
        if cause != Cause::Nest {
            let previous = self.read_descriptor(old, exception::TS)?;
            self.set_busy(&previous, false)?;
        } else {
            self.set_field::<u16>(base, 0, old as u64)?;
            eflags |= rflags::NT;
        }
        if cause != Cause::Iret {
            self.set_busy(&l, true)?;
        }
        self.tr = new_tr;
        self.cr0 |= cr0::TS;
        if let Some(cr3) = cr3 {
            if self.cr4 & donjon_x86::bits::cr4::PAE != 0 {
                self.load_pdptes(cr3)?;
            }
            self.switch_cr3(cr3, false);
        }
        for (n, r) in registers.into_iter().enumerate() {
            if layout.size == 4 {
                self.set(n as u8, r as u32)
            } else {
                self.set(n as u8, r as u16)
            }
        }
        // Breakpoints local to the old task are gone (Intel SDM vol. 3B §18.2.4).
        self.dr7 &= !0x155;
        self.set_rflags(eflags & !rflags::VM);
        self.next_rip = eip;
        // From here on faults belong to the new task.
        self.set_rip(eip);
        self.load_task_segments(ldt, selectors)?;
        Ok(trap)
    }

    /// Writes the outgoing task's state to its TSS.
    fn save_task(&mut self, cause: Cause) -> R {
        let layout = Layout::of(&self.tr);
        let base = self.tr.base;
        let mut flags = self.rflags();
        if cause == Cause::Iret {
            flags &= !rflags::NT;
        }
        let eip = self.next_rip;
        let mut fields = vec![(layout.eip, eip), (layout.eflags, flags)];
        fields.extend((0..8).map(|n| (layout.registers + n * layout.size as u64, self.regs[n as usize])));
        for (at, v) in fields {
            if layout.size == 4 {
                self.set_field::<u32>(base, at, v)?
            } else {
                self.set_field::<u16>(base, at, v)?
            }
        }
        for n in 0..layout.count() {
            let v = self.seg[n as usize].selector as u64;
            self.set_field::<u16>(base, layout.segments + n * layout.size as u64, v)?;
        }
        Ok(())
    }

    fn load_task_segments(&mut self, ldt: u16, selectors: [u16; 6]) -> R {
        let as_ts = |cpu: &mut Self, r: R| match r {
            Err(Stop::Fault) if cpu.fault.vector == exception::GP => {
                cpu.fault.vector = exception::TS;
                Err(Stop::Fault)
            }
            r => r,
        };
        // Until their descriptors are loaded the registers hold just selectors.
        for n in [Seg::Es, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs] {
            self.set_segment(n, Segment::null(selectors[n as usize], 0));
        }
        self.seg[Seg::Cs as usize].selector = selectors[Seg::Cs as usize];
        let r = self.load_ldt(ldt).inspect_err(|_| {
            self.ldtr = Segment::null(ldt, kind::LDT as u32);
            if self.fault.vector == exception::NP {
                self.fault.vector = exception::TS;
            }
        });
        as_ts(self, r)?;
        let cs = selectors[Seg::Cs as usize];
        let cpl = cs as u8 & 3;
        if is_null(cs) {
            return Err(self.selector_fault(exception::TS, cs));
        }
        let l = self.read_descriptor(cs, exception::TS)?;
        let a = l.descriptor.attributes();
        if !a.is_code()
            || if a.conforming() {
                a.dpl() > cpl
            } else {
                a.dpl() != cpl
            }
        {
            return Err(self.selector_fault(exception::TS, cs));
        }
        if !a.present() {
            return Err(self.selector_fault(exception::NP, cs));
        }
        self.set_code_segment(&l, cs, cpl)?;
        let ss = self.check_stack_segment(selectors[Seg::Ss as usize], cpl, exception::TS)?;
        self.set_segment(Seg::Ss, ss);
        for n in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            let r = self.load_segment(n, selectors[n as usize]);
            as_ts(self, r)?;
        }
        if self.next_rip > self.seg[Seg::Cs as usize].limit as u64 {
            return Err(self.gp(0));
        }
        Ok(())
    }
}
