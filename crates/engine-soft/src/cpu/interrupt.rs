//! Delivery of interrupts and exceptions (Intel SDM vol. 3A ch. 6), INIT and start-up.

use super::descriptor::{NewStack, is_null};
use super::{Cpu, Fault, R, Software, Stop};
use donjon_x86::bits::{cr0, rflags};
use donjon_x86::descriptor::{Gate, kind};
use donjon_x86::exception::{self, Class};
use donjon_x86::{Activity, PendingEvent, Seg, Segment};

impl Cpu {
    /// Delivers an exception, and those met on the way, up to the shutdown of a triple fault.
    pub fn deliver(&mut self, first: Fault) -> R {
        let mut fault = first;
        if fault.vector == exception::DB && fault.software != Some(Software::Int) {
            // Delivery of a debug exception disables general detection and marks nothing else.
            self.dr7 &= !(1 << 13);
        }
        loop {
            match self.deliver_once(&fault) {
                Err(Stop::Fault) => {}
                other => return other,
            }
            if fault.vector == exception::DF && fault.software.is_none() && !fault.external {
                // Kept, so that whoever looks at the wreck sees what could not be delivered first.
                self.pending = Some(PendingEvent {
                    vector: first.vector,
                    error_code: first.code,
                });
                return Err(Stop::Shutdown);
            }
            let second = self.fault;
            let of = |f: &Fault| match f.software.is_some() || f.external {
                true => Class::Benign,
                false => exception::class(f.vector),
            };
            let double = matches!(
                (of(&fault), of(&second)),
                (Class::Contributory | Class::PageFault, Class::Contributory)
                    | (Class::PageFault, Class::PageFault)
            );
            fault = if double {
                Fault {
                    vector: exception::DF,
                    code: Some(0),
                    ..Fault::default()
                }
            } else {
                second
            };
        }
    }

    /// Delivers an interrupt from the interrupt controller.
    pub fn deliver_external(&mut self, vector: u8) -> R {
        self.deliver(Fault {
            vector,
            external: true,
            trap: true,
            ..Fault::default()
        })
    }

    fn deliver_once(&mut self, f: &Fault) -> R {
        // A trap and a software interrupt return behind the instruction; the caller has moved RIP for
        // traps, while a software interrupt moves it here once nothing can fail any more.
        let rip = if f.software.is_some() {
            self.next_rip
        } else {
            self.rip()
        };
        let mut pushed = self.rflags();
        let is_fault =
            !f.trap && f.software.is_none() && f.vector != exception::DB && f.vector != exception::NMI;
        if is_fault {
            pushed |= rflags::RF;
        }
        let result = if !self.protected() {
            self.deliver_real(f, rip, pushed)
        } else if self.long_mode() {
            self.deliver_long(f, rip, pushed)
        } else {
            self.deliver_protected(f, rip, pushed)
        };
        if result == Err(Stop::Fault)
            && f.software != Some(Software::Int)
            && self.fault.vector != exception::PF
        {
            // EXT: the event being delivered did not come from a software interrupt.
            if let Some(code) = &mut self.fault.code {
                *code |= 1;
            }
        }
        result
    }

    fn deliver_real(&mut self, f: &Fault, rip: u64, flags: u64) -> R {
        let at = f.vector as u64 * 4;
        if at + 3 > self.idtr.limit as u64 {
            return Err(self.gp((f.vector as u16) << 3 | 2));
        }
        let entry: u32 = self.read_system(self.idtr.base.wrapping_add(at))?;
        let ss = self.seg[Seg::Ss as usize];
        let stack = NewStack {
            mask: self.stack_mask,
            ..NewStack::legacy(ss, 0, 0)
        };
        let mut sp = self.stack_pointer();
        for v in [flags, self.seg[Seg::Cs as usize].selector as u64, rip] {
            self.push_system(&stack, &mut sp, 2, v)?;
        }
        self.set_stack_pointer(sp);
        self.rflags &= !(rflags::IF | rflags::TF | rflags::AC | rflags::RF);
        self.set_real_cs((entry >> 16) as u16);
        self.set_rip(entry as u64 & 0xffff);
        Ok(())
    }

    /// Reads and checks a gate of the interrupt descriptor table.
    fn gate(&mut self, f: &Fault, size: u64) -> R<Gate> {
        let code = (f.vector as u16) << 3 | 2;
        let at = f.vector as u64 * size;
        if at + size - 1 > self.idtr.limit as u64 {
            return Err(self.gp(code));
        }
        let address = self.idtr.base.wrapping_add(at);
        let low = self.read_system(address)?;
        let high = if size == 16 {
            self.read_system(address.wrapping_add(8))?
        } else {
            0
        };
        let gate = Gate { low, high };
        let a = gate.attributes();
        let known = match a.kind() {
            kind::INTERRUPT_GATE | kind::TRAP_GATE => true,
            kind::INTERRUPT_GATE16 | kind::TRAP_GATE16 | kind::TASK_GATE => size == 8,
            _ => false,
        };
        if a.is_code_or_data() || !known {
            return Err(self.gp(code));
        }
        if f.software == Some(Software::Int) && a.dpl() < self.cpl {
            return Err(self.gp(code));
        }
        if !a.present() {
            return Err(self.raise_code(exception::NP, code as u32));
        }
        Ok(gate)
    }

    fn deliver_protected(&mut self, f: &Fault, rip: u64, flags: u64) -> R {
        let gate = self.gate(f, 8)?;
        let a = gate.attributes();
        if a.kind() == kind::TASK_GATE {
            // The outgoing task's flags are saved as they would be pushed.
            self.rflags |= flags & rflags::RF;
            return self.switch_task_for_interrupt(gate.selector(), f, rip);
        }
        let selector = gate.selector();
        if is_null(selector) {
            return Err(self.gp(0));
        }
        let code = self.read_descriptor(selector, exception::GP)?;
        let ca = code.descriptor.attributes();
        if !ca.is_code() || ca.dpl() > self.cpl {
            return Err(self.selector_fault(exception::GP, selector));
        }
        if !ca.present() {
            return Err(self.selector_fault(exception::NP, selector));
        }
        let cpl = if ca.conforming() { self.cpl } else { ca.dpl() };
        let size = if a.kind() & 8 != 0 { 4 } else { 2 };
        let offset = if size == 4 {
            gate.offset() & 0xffff_ffff
        } else {
            gate.offset() & 0xffff
        };
        let old_ss = self.seg[Seg::Ss as usize];
        let (stack, mut sp) = if cpl < self.cpl {
            let (ss, esp) = self.task_stack(cpl)?;
            let segment = self.check_stack_segment(ss, cpl, exception::TS)?;
            (NewStack::legacy(segment, cpl, ss), esp)
        } else {
            (NewStack::legacy(old_ss, cpl, 0), self.regs[4])
        };
        let whole = sp;
        sp &= stack.mask;
        let mut frame = vec![];
        if cpl < self.cpl {
            frame.extend([old_ss.selector as u64, self.regs[4]]);
        }
        frame.extend([flags, self.seg[Seg::Cs as usize].selector as u64, rip]);
        frame.extend(f.code.map(u64::from));
        for v in frame {
            self.push_system(&stack, &mut sp, size, v)?;
        }
        if offset > code.descriptor.limit() as u64 {
            return Err(self.gp(0));
        }
        let changed = cpl < self.cpl;
        self.set_code_segment(&code, selector, cpl)?;
        if changed {
            self.set_segment(Seg::Ss, stack.segment);
            // Of a 16-bit stack the upper half of ESP comes from the task state too.
            self.regs[4] = whole;
        }
        self.set_stack_pointer(sp);
        self.enter_handler(a.kind() & 1 == 0, offset);
        Ok(())
    }

    fn deliver_long(&mut self, f: &Fault, rip: u64, flags: u64) -> R {
        let gate = self.gate(f, 16)?;
        let selector = gate.selector();
        if is_null(selector) {
            return Err(self.gp(0));
        }
        let code = self.read_descriptor(selector, exception::GP)?;
        let ca = code.descriptor.attributes();
        if !ca.is_code() || ca.dpl() > self.cpl || !ca.long() || ca.big() {
            return Err(self.selector_fault(exception::GP, selector));
        }
        if !ca.present() {
            return Err(self.selector_fault(exception::NP, selector));
        }
        let cpl = if ca.conforming() { self.cpl } else { ca.dpl() };
        let mut sp = if gate.ist() != 0 {
            self.task_stack64(gate.ist() as u32 + 3)?
        } else if cpl < self.cpl {
            self.task_stack64(cpl as u32)?
        } else {
            self.regs[4]
        };
        sp &= !15;
        let old_ss = self.seg[Seg::Ss as usize];
        let stack = NewStack::long(old_ss, cpl);
        let cs = self.seg[Seg::Cs as usize].selector as u64;
        for v in [old_ss.selector as u64, self.regs[4], flags, cs, rip] {
            self.push_system(&stack, &mut sp, 8, v)?;
        }
        if let Some(c) = f.code {
            self.push_system(&stack, &mut sp, 8, c as u64)?;
        }
        if !donjon_x86::paging::canonical(gate.offset()) {
            return Err(self.gp(0));
        }
        let changed = cpl < self.cpl;
        self.set_code_segment(&code, selector, cpl)?;
        if changed {
            self.set_segment(Seg::Ss, Segment::null(cpl as u16, (cpl as u32) << 5));
        }
        self.regs[4] = sp;
        self.enter_handler(gate.attributes().kind() & 1 == 0, gate.offset());
        Ok(())
    }

    fn enter_handler(&mut self, interrupt_gate: bool, rip: u64) {
        let mut clear = rflags::TF | rflags::NT | rflags::RF | rflags::VM;
        if interrupt_gate {
            clear |= rflags::IF;
        }
        self.rflags &= !clear;
        self.set_rip(rip);
        self.access_mode_changed();
    }

    /// INIT.
    pub fn init(&mut self) {
        self.board.apic.init();
        let mut s = self.save();
        s.init();
        if self.board.apic_id != 0 {
            s.activity = Activity::WaitForSipi;
        }
        self.load(&s).expect("INIT leaves a valid state");
    }

    /// A start-up IPI: real mode at page `vector` (Intel SDM vol. 3A §8.4.3).
    pub fn start_up(&mut self, vector: u8) {
        self.activity = Activity::Active;
        self.cr0 &= !cr0::PE;
        let cs = &mut self.seg[Seg::Cs as usize];
        cs.selector = (vector as u16) << 8;
        cs.base = (vector as u64) << 12;
        self.mode_changed();
        self.set_rip(0);
    }
}
