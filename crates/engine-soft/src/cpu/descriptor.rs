//! Descriptor tables in memory, and loading segment registers from them (Intel SDM vol. 3A §5).

use super::{Cpu, R, Stop};
use donjon_x86::descriptor::{Descriptor, kind};
use donjon_x86::paging::canonical;
use donjon_x86::{Seg, Segment, SegmentAttributes, exception};

/// A descriptor and where it came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loaded {
    pub descriptor: Descriptor,
    /// Bytes 8-15, of system descriptors in long mode.
    pub high: u64,
    /// Linear address of the descriptor.
    pub address: u64,
}

/// Whether a selector is null.
pub(crate) const fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

impl Cpu {
    /// A fault whose error code names a selector.
    pub fn selector_fault(&mut self, vector: u8, selector: u16) -> Stop {
        self.raise_code(vector, (selector & !3) as u32)
    }

    /// Reads the descriptor a selector names. `vector` is the fault if it lies outside its table.
    pub fn read_descriptor(&mut self, selector: u16, vector: u8) -> R<Loaded> {
        let (base, limit) = if selector & 4 != 0 {
            if self.ldtr.attributes.unusable() || !self.ldtr.attributes.present() {
                return Err(self.selector_fault(vector, selector));
            }
            (self.ldtr.base, self.ldtr.limit)
        } else {
            (self.gdtr.base, self.gdtr.limit as u32)
        };
        let index = (selector & !7) as u32;
        if index + 7 > limit {
            return Err(self.selector_fault(vector, selector));
        }
        let address = base.wrapping_add(index as u64);
        let descriptor = Descriptor(self.read_system(address)?);
        let mut high = 0;
        if self.long_mode() && !descriptor.attributes().is_code_or_data() {
            if index + 15 > limit {
                return Err(self.selector_fault(vector, selector));
            }
            high = self.read_system(address.wrapping_add(8))?;
            // The type field of the second half is zero (Intel SDM vol. 3A §5.8.3.1, §7.2.3).
            if high >> 40 & 0x1f != 0 {
                return Err(self.selector_fault(vector, selector));
            }
        }
        Ok(Loaded {
            descriptor,
            high,
            address,
        })
    }

    /// Sets the accessed bit of a code or data descriptor that is being loaded, as the processor does.
    pub fn mark_accessed(&mut self, l: &Loaded) -> R {
        if l.descriptor.0 >> 40 & 1 == 0 {
            self.write_system::<u8>(l.address.wrapping_add(5), (l.descriptor.0 >> 40) as u8 | 1)?;
        }
        Ok(())
    }

    /// The segment of a loaded code or data descriptor, accessed bit set.
    fn segment_of(l: &Loaded, selector: u16) -> Segment {
        let mut s = l.descriptor.segment(selector);
        s.attributes.0 |= 1;
        s
    }

    /// A segment register in real mode: base follows the selector, limit and size stay.
    fn real_segment(&self, n: Seg, selector: u16) -> Segment {
        let mut s = self.seg[n as usize];
        if s.attributes.unusable() {
            // A null selector left from protected mode.
            s = Segment {
                limit: 0xffff,
                attributes: SegmentAttributes::DATA,
                ..s
            };
        }
        s.selector = selector;
        s.base = (selector as u64) << 4;
        s
    }

    /// MOV, POP, LDS … to a segment register other than CS.
    pub fn load_segment(&mut self, n: Seg, selector: u16) -> R {
        if !self.protected() {
            let s = self.real_segment(n, selector);
            self.set_segment(n, s);
            return Ok(());
        }
        if n == Seg::Ss {
            return self.load_stack_segment(selector, self.cpl, exception::GP);
        }
        if is_null(selector) {
            // In 64-bit mode the bases of FS and GS are cleared too on Intel processors.
            self.set_segment(n, Segment::null(selector, 0));
            return Ok(());
        }
        let l = self.read_descriptor(selector, exception::GP)?;
        let a = l.descriptor.attributes();
        let rpl = selector as u8 & 3;
        let privileged = a.conforming() || (rpl <= a.dpl() && self.cpl <= a.dpl());
        if !a.readable() || !privileged {
            return Err(self.selector_fault(exception::GP, selector));
        }
        if !a.present() {
            return Err(self.selector_fault(exception::NP, selector));
        }
        self.mark_accessed(&l)?;
        self.set_segment(n, Self::segment_of(&l, selector));
        Ok(())
    }

    /// SS, for privilege level `cpl`; `vector` is #GP for a plain load, #TS when it comes from a TSS.
    pub fn check_stack_segment(&mut self, selector: u16, cpl: u8, vector: u8) -> R<Segment> {
        if is_null(selector) {
            // 64-bit code below CPL 3 may run with a null SS (Intel SDM vol. 3A §5.4.1.1).
            if self.is64() && cpl < 3 && selector as u8 & 3 == cpl {
                return Ok(Segment::null(selector, (cpl as u32) << 5));
            }
            return Err(self.raise_code(vector, 0));
        }
        let l = self.read_descriptor(selector, vector)?;
        let a = l.descriptor.attributes();
        if selector as u8 & 3 != cpl || a.dpl() != cpl || !a.writable() {
            return Err(self.selector_fault(vector, selector));
        }
        if !a.present() {
            return Err(self.selector_fault(exception::SS, selector));
        }
        self.mark_accessed(&l)?;
        Ok(Self::segment_of(&l, selector))
    }

    fn load_stack_segment(&mut self, selector: u16, cpl: u8, vector: u8) -> R {
        let s = self.check_stack_segment(selector, cpl, vector)?;
        self.set_segment(Seg::Ss, s);
        Ok(())
    }

    /// CS in real mode.
    pub fn set_real_cs(&mut self, selector: u16) {
        let mut s = self.real_segment(Seg::Cs, selector);
        if !self.protected() {
            s.attributes.0 &= !0x60;
        }
        self.set_segment(Seg::Cs, s);
    }

    /// Makes a checked code descriptor the code segment at privilege level `cpl`.
    pub fn set_code_segment(&mut self, l: &Loaded, selector: u16, cpl: u8) -> R {
        self.mark_accessed(l)?;
        self.cpl = cpl;
        self.set_segment(Seg::Cs, Self::segment_of(l, selector & !3 | cpl as u16));
        Ok(())
    }

    /// Whether a code descriptor has both L and D, which no 64-bit code segment may.
    pub fn is_impossible_code(&self, a: SegmentAttributes) -> bool {
        self.long_mode() && a.long() && a.big()
    }

    /// The stack for privilege level `cpl` from the 16- or 32-bit task state: SS and (E)SP.
    pub fn task_stack(&mut self, cpl: u8) -> R<(u16, u64)> {
        let wide = self.tr.attributes.kind() & 8 != 0;
        let (at, size) = if wide {
            (4 + cpl as u32 * 8, 6)
        } else {
            (2 + cpl as u32 * 4, 4)
        };
        if at + size - 1 > self.tr.limit {
            return Err(self.selector_fault(exception::TS, self.tr.selector));
        }
        let base = self.tr.base.wrapping_add(at as u64);
        Ok(if wide {
            (
                self.read_system::<u16>(base + 4)?,
                self.read_system::<u32>(base)? as u64,
            )
        } else {
            (
                self.read_system::<u16>(base + 2)?,
                self.read_system::<u16>(base)? as u64,
            )
        })
    }

    /// A stack pointer from the 64-bit task state: RSP0-2 at `index` 0-2, IST1-7 at 4-10.
    pub fn task_stack64(&mut self, index: u32) -> R<u64> {
        let at = 4 + index * 8;
        if at + 7 > self.tr.limit {
            return Err(self.selector_fault(exception::TS, self.tr.selector));
        }
        let rsp = self.read_system::<u64>(self.tr.base.wrapping_add(at as u64))?;
        if !canonical(rsp) {
            return Err(self.raise_code(exception::SS, 0));
        }
        Ok(rsp)
    }

    /// Loads TR from an available TSS descriptor and marks it busy.
    pub fn load_task_register(&mut self, selector: u16) -> R {
        if is_null(selector) {
            return Err(self.gp(0));
        }
        if selector & 4 != 0 {
            return Err(self.selector_fault(exception::GP, selector));
        }
        let l = self.read_descriptor(selector, exception::GP)?;
        let a = l.descriptor.attributes();
        let available =
            a.kind() == kind::TSS_AVAILABLE || a.kind() == kind::TSS16_AVAILABLE && !self.long_mode();
        if a.is_code_or_data() || !available {
            return Err(self.selector_fault(exception::GP, selector));
        }
        if !a.present() {
            return Err(self.selector_fault(exception::NP, selector));
        }
        let mut s = l.descriptor.segment(selector);
        s.base |= l.high << 32;
        if !canonical(s.base) {
            return Err(self.selector_fault(exception::GP, selector));
        }
        s.attributes.0 |= 2;
        self.write_system::<u8>(l.address.wrapping_add(5), (l.descriptor.0 >> 40) as u8 | 2)?;
        self.tr = s;
        Ok(())
    }

    /// Loads LDTR.
    pub fn load_ldt(&mut self, selector: u16) -> R {
        if is_null(selector) {
            self.ldtr = Segment::null(selector, kind::LDT as u32);
            return Ok(());
        }
        if selector & 4 != 0 {
            return Err(self.selector_fault(exception::GP, selector));
        }
        let l = self.read_descriptor(selector, exception::GP)?;
        let a = l.descriptor.attributes();
        if a.is_code_or_data() || a.kind() != kind::LDT {
            return Err(self.selector_fault(exception::GP, selector));
        }
        if !a.present() {
            return Err(self.selector_fault(exception::NP, selector));
        }
        let mut s = l.descriptor.segment(selector);
        s.base |= l.high << 32;
        if !canonical(s.base) {
            return Err(self.selector_fault(exception::GP, selector));
        }
        self.ldtr = s;
        Ok(())
    }

    /// Writes below a stack pointer in a stack segment that is not loaded yet, as the processor itself.
    pub fn push_system(&mut self, stack: &NewStack, sp: &mut u64, size: u64, v: u64) -> R {
        let next = sp.wrapping_sub(size) & stack.mask;
        if stack.check_limit {
            let s = &stack.segment;
            let last = next + size - 1;
            let inside = !s.attributes.unusable()
                && if s.attributes.expand_down() {
                    next > s.limit as u64 && last <= stack.mask
                } else {
                    last <= s.limit as u64
                };
            if !inside {
                return Err(self.selector_fault(exception::SS, stack.error_selector));
            }
        }
        let at = stack.base.wrapping_add(next);
        match size {
            2 => self.write_stack(at, v as u16, stack.cpl)?,
            4 => self.write_stack(at, v as u32, stack.cpl)?,
            _ => self.write_stack(at, v, stack.cpl)?,
        }
        *sp = next;
        Ok(())
    }
}

/// A stack that a privilege change is about to make current.
pub(crate) struct NewStack {
    pub segment: Segment,
    pub base: u64,
    pub mask: u64,
    pub check_limit: bool,
    /// Privilege level of the code that will use it.
    pub cpl: u8,
    /// Selector in the error code of a #SS for it.
    pub error_selector: u16,
}

impl NewStack {
    /// A stack of 16- or 32-bit code.
    pub fn legacy(segment: Segment, cpl: u8, error_selector: u16) -> Self {
        let mask = if segment.attributes.big() {
            0xffff_ffff
        } else {
            0xffff
        };
        Self {
            segment,
            base: segment.base,
            mask,
            check_limit: true,
            cpl,
            error_selector,
        }
    }

    /// A stack of 64-bit code.
    pub fn long(segment: Segment, cpl: u8) -> Self {
        Self {
            segment,
            base: 0,
            mask: u64::MAX,
            check_limit: false,
            cpl,
            error_selector: 0,
        }
    }
}
