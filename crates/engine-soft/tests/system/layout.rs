//! What lies where in the guest, and the states that programs start from.

use crate::machine::Machine;
use donjon_x86::bits::{cr0, cr4, efer, rflags};
use donjon_x86::{CpuState, DescriptorTable, Gpr, Seg, Segment, SegmentAttributes};

pub const GDT: u64 = 0x1000;
pub const IDT: u64 = 0x2000;
pub const TSS: u64 = 0x3000;
/// One stub every 16 bytes: HLT, and back to it.
pub const HANDLERS: u64 = 0x6000;
pub const LDT: u64 = 0x8000;
/// A second task-state segment.
pub const TSS2: u64 = 0x9000;
pub const CODE: u64 = 0x1_0000;
pub const USER_CODE: u64 = 0x2_0000;
pub const DATA: u64 = 0x3_0000;
/// Top of the stack that ring 0 starts with.
pub const STACK: u64 = 0x4_8000;
/// Top of the stack for ring 0 in the TSS.
pub const STACK0: u64 = 0x5_8000;
pub const USER_STACK: u64 = 0x6_8000;
/// Top of IST n is at IST + n * 0x1000.
pub const IST: u64 = 0x7_0000;
/// Page tables grow from here.
pub const TABLES: u64 = 0x10_0000;
/// Pages that no layout uses, up to the end of RAM.
pub const FREE: u64 = 0x20_0000;

pub const KERNEL32: u16 = 0x08;
pub const KERNEL64: u16 = 0x10;
pub const KERNEL_DATA: u16 = 0x18;
pub const USER32: u16 = 0x23;
pub const USER_DATA: u16 = 0x2b;
pub const USER64: u16 = 0x33;
pub const KERNEL16: u16 = 0x38;
pub const DATA16: u16 = 0x40;
pub const TASK: u16 = 0x48;
pub const LOCAL: u16 = 0x58;
/// First selector that tests may fill.
pub const SPARE: u16 = 0x68;
pub const GDT_LIMIT: u16 = 0x1ff;
pub const TSS_LIMIT: u32 = 0x20ff;

/// Page-table entry bits.
pub const P: u64 = 1;
pub const RW: u64 = 2;
pub const US: u64 = 4;
pub const A: u64 = 1 << 5;
pub const D: u64 = 1 << 6;
pub const PS: u64 = 1 << 7;
pub const G: u64 = 1 << 8;
pub const XD: u64 = 1 << 63;

/// A code, data or system descriptor: access byte, and the G D/B L AVL nibble.
pub fn descriptor(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let (base, limit) = (base as u64, limit as u64);
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (access as u64) << 40
        | (limit >> 16 & 15) << 48
        | (flags as u64) << 52
        | (base >> 24) << 56
}

/// The first eight bytes of a gate.
pub fn gate(selector: u16, offset: u64, access: u8, count: u8) -> u64 {
    offset & 0xffff
        | (selector as u64) << 16
        | (count as u64) << 32
        | (access as u64) << 40
        | (offset >> 16 & 0xffff) << 48
}

impl Machine {
    fn tables(&mut self) {
        let flat = |access, flags| descriptor(0, 0xf_ffff, access, flags);
        for (selector, d) in [
            (KERNEL32, flat(0x9b, 0xc)),
            (KERNEL64, flat(0x9b, 0xa)),
            (KERNEL_DATA, flat(0x93, 0xc)),
            (USER32, flat(0xfb, 0xc)),
            (USER_DATA, flat(0xf3, 0xc)),
            (USER64, flat(0xfb, 0xa)),
            (KERNEL16, descriptor(0, 0xffff, 0x9b, 0)),
            (DATA16, descriptor(0, 0xffff, 0x93, 0)),
            (TASK, descriptor(TSS as u32, TSS_LIMIT, 0x8b, 0)),
            (LOCAL, descriptor(LDT as u32, 0xff, 0x82, 0)),
        ] {
            self.set_descriptor(selector, d);
        }
        for n in 0..256 {
            self.write(HANDLERS + n * 16, &[0xf4, 0xeb, 0xfd]);
        }
        let s = &mut self.state;
        s.gdtr = DescriptorTable {
            base: GDT,
            limit: GDT_LIMIT,
        };
        s.gpr[Gpr::Rsp as usize] = STACK;
        s.rip = CODE;
        s.rflags = rflags::ONE;
        s.tr = Segment {
            selector: TASK,
            base: TSS,
            limit: TSS_LIMIT,
            attributes: SegmentAttributes(0x8b),
        };
        s.ldtr = Segment {
            selector: LOCAL,
            base: LDT,
            limit: 0xff,
            attributes: SegmentAttributes(0x82),
        };
    }

    fn segments(&mut self, code: u16, data: u16) {
        self.load(Seg::Cs, code);
        for n in [Seg::Ss, Seg::Ds, Seg::Es, Seg::Fs, Seg::Gs] {
            self.load(n, data);
        }
    }

    /// 64-bit mode at CPL 0, the first 16 MiB mapped one to one for everybody with 4 KiB pages.
    pub fn long() -> Self {
        Self::long_with(1)
    }

    pub fn long_with(vcpus: usize) -> Self {
        Self::new(vcpus).in_long_mode()
    }

    /// A machine in its reset state, in 64-bit mode.
    pub fn in_long_mode(self) -> Self {
        let mut m = self;
        m.tables();
        m.bits = 64;
        for n in 0..256 {
            m.set_gate64(n as u8, KERNEL64, HANDLERS + n * 16, 0x8e, 0);
        }
        m.write64(TSS + 4, STACK0);
        for n in 1..8 {
            m.write64(TSS + 28 + n * 8, IST + n * 0x1000);
        }
        m.write16(TSS + 102, 0x68);
        m.state.idtr = DescriptorTable {
            base: IDT,
            limit: 0xfff,
        };
        m.state.cr3 = m.table();
        for page in (0..16 << 20).step_by(0x1000) {
            m.map(page, page | P | RW | US);
        }
        m.state.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::NE | cr0::ET | cr0::MP;
        m.state.cr4 = cr4::PAE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
        m.state.xcr0 = 7;
        m.state.msrs.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        m.segments(KERNEL64, KERNEL_DATA);
        m
    }

    /// 32-bit protected mode at CPL 0, flat, without paging.
    pub fn protected() -> Self {
        let mut m = Self::new(1);
        m.tables();
        m.bits = 32;
        for n in 0..256 {
            m.set_gate(n as u8, gate(KERNEL32, HANDLERS + n * 16, 0x8e, 0));
        }
        m.write32(TSS + 4, STACK0 as u32);
        m.write16(TSS + 8, KERNEL_DATA);
        m.write16(TSS + 102, 0x68);
        m.state.idtr = DescriptorTable {
            base: IDT,
            limit: 0x7ff,
        };
        m.state.cr0 = cr0::PE | cr0::NE | cr0::ET | cr0::MP;
        m.state.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT;
        m.segments(KERNEL32, KERNEL_DATA);
        m
    }

    /// Real mode, every segment at zero.
    pub fn real() -> Self {
        let mut m = Self::new(1);
        m.tables();
        m.bits = 16;
        for n in 0..256 {
            m.write32(n * 4, (HANDLERS + n * 16) as u32);
        }
        let state = CpuState {
            rip: 0x7c00,
            ..CpuState::reset()
        };
        m.state = state;
        m.state.segments[Seg::Cs as usize].base = 0;
        m.state.segments[Seg::Cs as usize].selector = 0;
        m.state.gpr[Gpr::Rsp as usize] = 0xfff0;
        m
    }

    /// Goes to CPL 3: [`USER_CODE`], 64-bit in long mode, else 32-bit.
    pub fn user(&mut self) {
        let long = self.state.msrs.efer & efer::LMA != 0;
        self.segments(if long { USER64 } else { USER32 }, USER_DATA);
        self.state.rip = USER_CODE;
        self.state.gpr[Gpr::Rsp as usize] = USER_STACK;
    }

    /// Goes to 32-bit compatibility mode, at CPL 0 or 3.
    pub fn compatibility(&mut self, cpl: u16) {
        if cpl == 3 {
            self.user();
            self.load(Seg::Cs, USER32);
        } else {
            self.load(Seg::Cs, KERNEL32);
        }
        self.bits = 32;
    }

    /// An 8-byte interrupt descriptor.
    pub fn set_gate(&self, vector: u8, gate: u64) {
        self.write64(IDT + vector as u64 * 8, gate);
    }

    /// A 16-byte interrupt descriptor.
    pub fn set_gate64(&self, vector: u8, selector: u16, offset: u64, access: u8, ist: u8) {
        self.write64(IDT + vector as u64 * 16, gate(selector, offset, access, ist));
        self.write64(IDT + vector as u64 * 16 + 8, offset >> 32);
    }

    // Four-level page tables.

    /// A new, empty page for a table.
    pub fn table(&mut self) -> u64 {
        let at = self.next_table;
        self.next_table += 0x1000;
        assert!(self.next_table <= FREE);
        self.write(at, &[0; 4096]);
        at
    }

    /// Address of the entry of `linear` at the level that decodes from bit `shift` (12, 21, 30, 39); upper
    /// levels are made as needed.
    pub fn entry(&mut self, linear: u64, shift: u32) -> u64 {
        let mut table = self.state.cr3 & 0x000f_ffff_ffff_f000;
        let mut level = 39;
        loop {
            let at = table + (linear >> level & 511) * 8;
            if level == shift {
                return at;
            }
            if self.read64(at) & P == 0 {
                let new = self.table();
                self.write64(at, new | P | RW | US);
            }
            table = self.read64(at) & 0x000f_ffff_ffff_f000;
            level -= 9;
        }
    }

    /// Maps a 4 KiB page.
    pub fn map(&mut self, linear: u64, entry: u64) {
        let at = self.entry(linear, 12);
        self.write64(at, entry);
    }
}
