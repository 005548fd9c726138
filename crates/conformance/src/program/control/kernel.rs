//! What kernels do: rings, page tables, control registers, code that changes, single steps.

use super::Writer;
use crate::encode::Bytes;
use crate::layout::*;
use crate::program::emit::*;
use crate::program::{Item, Label};
use crate::system::map::{self, page, vector};
use crate::system::{kernel, map::selector};
use donjon_x86::bits::rflags;
use donjon_x86::msr;

/// MOV of a constant into memory at an address, 32 bits.
fn store32(at: u64, v: u32) -> Vec<u8> {
    let mut b = vec![0xc7, 0x04, 0x25];
    b.extend((at as u32).to_le_bytes());
    b.extend(v.to_le_bytes());
    b
}

/// Pages whose entries the program looks at and changes.
const OBSERVED: [u64; 7] = [
    CODE,
    CODE + PAGE,
    READ_ONLY,
    SCRATCH,
    SCRATCH + PAGE,
    map::REMAPPED,
    map::GUARDED,
];

impl Writer<'_> {
    /// Something after which, or after whose fault, the program goes on behind it.
    pub(super) fn statement(&mut self, f: impl FnOnce(&mut Self)) {
        if !self.resumes {
            return f(self);
        }
        let after = self.e.label();
        let mut b = Bytes::default();
        b.push(0x48);
        b.extend(&store32(map::RESUME, 0));
        self.e.push(Item::Address {
            bytes: b,
            at: 8,
            label: after,
            plus: 0,
        });
        f(self);
        self.e.here(after);
    }

    /// One of them.
    pub(super) fn kernel(&mut self) {
        if !self.e.may_write(1 << RCX) {
            return self.e.something();
        }
        match self.e.rng.below(27) {
            0..=1 => self.e.bytes(&[0xcd, vector::UP]),
            2 => self.e.bytes(&[0xcd, vector::DOWN]),
            3 => self.e.bytes(&[0xcd, vector::CALL]),
            4 => self.interrupt_return(),
            5..=6 => self.system_call(),
            7 => self.segment_bases(),
            8 => self.flags(),
            9..=10 => self.steps(),
            11 => self.flush(),
            12 => self.control(),
            13..=14 => self.remap(),
            15..=16 => self.call_remapped(),
            17 => self.change_remapped(),
            18 => self.guard(),
            19..=20 => self.guarded(),
            21 => self.observe(),
            22..=23 => self.opcode(),
            24 => self.breakpoint(),
            25 => self.far_return(),
            _ => self.odds(),
        }
    }

    fn push_label(&mut self, label: Label) {
        let mut b = Bytes::default();
        b.extend(&[0x68, 0, 0, 0, 0]);
        self.e.push(Item::Address {
            bytes: b,
            at: 1,
            label,
            plus: 0,
        });
    }

    fn push_constant(&mut self, v: u32) {
        let mut b = vec![0x68];
        b.extend(v.to_le_bytes());
        self.e.bytes(&b);
    }

    fn random_flags(&mut self) -> u32 {
        let r = &mut self.e.rng;
        let mut f = r.draw() & (rflags::STATUS | rflags::ID) | rflags::ONE;
        for (bit, n) in [(rflags::IF, 3), (rflags::AC, 3), (rflags::DF, 0), (rflags::NT, 0)] {
            if r.chance(n, 4) {
                f |= bit;
            }
        }
        f as u32
    }

    /// IRET to either ring.
    fn interrupt_return(&mut self) {
        let next = self.e.label();
        let (cs, ss) = if self.e.rng.chance(2, 3) {
            (selector::USER, selector::USER_DATA)
        } else {
            (selector::KERNEL, selector::KERNEL_DATA)
        };
        let flags = self.random_flags();
        self.push_constant(ss as u32);
        self.push_constant((SCRATCH + STACK) as u32);
        self.push_constant(flags);
        self.push_constant(cs as u32);
        self.push_label(next);
        self.e.bytes(&[0x48, 0xcf]);
        self.e.here(next);
    }

    fn write_msr(&mut self, number: u32, value: u64) {
        self.e.load(RCX, number as u64);
        self.e.load(RAX, value & 0xffff_ffff);
        self.e.load(RDX, value >> 32);
        self.e.bytes(&[0x0f, 0x30]);
    }

    fn system_call(&mut self) {
        if self.e.rng.chance(1, 5) {
            let to = self
                .e
                .rng
                .pick(&[kernel::SYSCALL, kernel::SYSCALL, kernel::SYSCALL_STAY]);
            self.write_msr(msr::IA32_LSTAR, to);
        }
        self.e.bytes(&[0x0f, 0x05]);
    }

    /// The bases of FS and GS by MSR, and SWAPGS.
    fn segment_bases(&mut self) {
        let number = self.e.rng.pick(&[
            msr::IA32_FS_BASE,
            msr::IA32_GS_BASE,
            msr::IA32_KERNEL_GS_BASE,
            msr::IA32_KERNEL_GS_BASE,
        ]);
        let fs = number == msr::IA32_FS_BASE;
        let v = SCRATCH + self.e.rng.below(PAGE);
        self.write_msr(number, v);
        if number == msr::IA32_KERNEL_GS_BASE {
            self.e.bytes(&[0x0f, 0x01, 0xf8]);
        }
        // MOV RAX, seg:[8]; MOV seg:[0], ECX.
        let prefix = if fs { 0x64 } else { 0x65 };
        self.e.bytes(&[prefix, 0x48, 0x8b, 0x04, 0x25, 8, 0, 0, 0]);
        self.e.bytes(&[prefix, 0x89, 0x0c, 0x25, 0, 0, 0, 0]);
        if number == msr::IA32_KERNEL_GS_BASE {
            return self.e.bytes(&[0x0f, 0x01, 0xf8]);
        }
        let before = if fs {
            self.e.before.fs_base
        } else {
            self.e.before.gs_base
        };
        self.write_msr(number, before);
    }

    /// STI, CLI, STAC, CLAC, POPF.
    fn flags(&mut self) {
        match self.e.rng.below(8) {
            0..=1 => self.e.bytes(&[0xfb]),
            2 => self.e.bytes(&[0xfa]),
            3 => self.e.bytes(&[0x0f, 0x01, 0xca]),
            4..=5 => self.e.bytes(&[0x0f, 0x01, 0xcb]),
            _ => {
                let f = self.random_flags();
                self.push_constant(f);
                self.e.bytes(&[0x9d]);
            }
        }
    }

    /// TF for a few instructions.
    fn steps(&mut self) {
        let n = self.e.rng.below(40) as u32;
        self.e.bytes(&store32(map::STEPS, n));
        let f = self.random_flags() | rflags::TF as u32;
        self.push_constant(f);
        self.e.bytes(&[0x9d]);
        for _ in 0..self.e.rng.below(4) {
            self.e.something();
        }
    }

    /// INVLPG, or MOV to CR3.
    fn flush(&mut self) {
        if self.e.rng.chance(1, 2) {
            let at = self.e.rng.pick(&OBSERVED);
            self.invalidate(at);
        } else {
            self.e.bytes(&[0x0f, 0x20, 0xd8]);
            self.e.bytes(&[0x0f, 0x22, 0xd8]);
        }
    }

    fn invalidate(&mut self, at: u64) {
        let mut b = vec![0x0f, 0x01, 0x3c, 0x25];
        b.extend((at as u32).to_le_bytes());
        self.e.bytes(&b);
    }

    /// A bit of CR0 or CR4 changes.
    fn control(&mut self) {
        match self.e.rng.below(6) {
            0..=2 => {
                // WP or TS of CR0: MOV RAX, CR0; BTC RAX, bit; MOV CR0, RAX.
                let bit = self.e.rng.pick(&[16, 16, 3]);
                self.e.bytes(&[0x0f, 0x20, 0xc0]);
                self.e.bytes(&[0x48, 0x0f, 0xba, 0xf8, bit]);
                self.e.bytes(&[0x0f, 0x22, 0xc0]);
            }
            3 => {
                // PGE or SMAP of CR4.
                let bit = self.e.rng.pick(&[7, 21]);
                self.e.bytes(&[0x0f, 0x20, 0xe0]);
                self.e.bytes(&[0x48, 0x0f, 0xba, 0xf8, bit]);
                self.e.bytes(&[0x0f, 0x22, 0xe0]);
            }
            _ => self.e.bytes(&[0x0f, 0x06]),
        }
    }

    fn set_entry(&mut self, at: u64, v: u64) {
        let entry = map::entry(at);
        self.e.bytes(&store32(entry, v as u32));
        self.e.bytes(&store32(entry + 4, (v >> 32) as u32));
        if self.e.rng.chance(5, 6) {
            self.invalidate(at);
        } else {
            self.e.bytes(&[0x0f, 0x20, 0xd8]);
            self.e.bytes(&[0x0f, 0x22, 0xd8]);
        }
    }

    /// Rights that are mostly all of them.
    fn rights(&mut self) -> u64 {
        let mut v = page::P | page::W | page::U;
        match self.e.rng.below(10) {
            0 => v &= !page::P,
            1 => v &= !page::W,
            2 => v &= !page::U,
            3 => v |= page::NX,
            _ => {}
        }
        if self.e.rng.chance(1, 2) {
            v |= page::AD;
        }
        v
    }

    /// Another frame or other rights for the remapped page.
    fn remap(&mut self) {
        let frame = self.e.rng.pick(&map::FRAMES);
        let v = map::physical(frame) | self.rights();
        self.set_entry(map::REMAPPED, v);
        if self.e.rng.chance(2, 3) {
            self.call_remapped();
        }
    }

    fn call_remapped(&mut self) {
        let r = self.e.rng.pick(&[RCX, RDX, RSI]);
        self.e.load(r, map::REMAPPED);
        self.e.bytes(&[0xff, 0xd0 | r]);
    }

    /// A store into the remapped page's code, at any of its addresses.
    fn change_remapped(&mut self) {
        let at = self.e.rng.pick(&[map::REMAPPED, map::FRAMES[0], map::FRAMES[1]]);
        // Behind the opcode of its first instruction.
        let at = at + 1 + self.e.rng.below(4);
        let v = self.e.rng.draw() as u8;
        let mut b = vec![0xc6, 0x04, 0x25];
        b.extend((at as u32).to_le_bytes());
        b.push(v);
        self.e.bytes(&b);
        if self.e.rng.chance(1, 2) {
            self.call_remapped();
        }
    }

    /// Other rights for the guarded page.
    fn guard(&mut self) {
        let v = map::physical(map::GUARDED) | self.rights();
        self.set_entry(map::GUARDED, v);
    }

    /// Accesses to the guarded page.
    fn guarded(&mut self) {
        let at = (map::GUARDED + self.e.rng.below(PAGE - 8)) as u32;
        let r = self.e.rng.pick(&[RAX, RDX, RSI]) << 3 | 4;
        match self.e.rng.below(4) {
            0 => {
                // Over its end: REP STOSB or MOVSB.
                let to = map::GUARDED + PAGE - 0x20 - self.e.rng.below(0x40);
                self.e.load(RDI, to);
                self.e.load(RSI, SCRATCH);
                self.e.load(RCX, 0x60);
                let opcode = self.e.rng.pick(&[0xaa, 0xa4]);
                self.e.bytes(&[0xf3, opcode]);
            }
            n => {
                let opcode = [0x8b, 0x89, 0x01][n as usize - 1];
                let mut b = vec![opcode, r, 0x25];
                b.extend(at.to_le_bytes());
                self.e.bytes(&b);
            }
        }
    }

    /// A page-table entry is read, or its accessed and dirty bits are cleared.
    fn observe(&mut self) {
        let at = self.e.rng.pick(&OBSERVED);
        let entry = map::entry(at) as u32;
        let clear = self.e.rng.chance(1, 2);
        // AND dword [entry], ~AD, or MOV RDX, [entry] and a store of it.
        let mut b = if clear {
            vec![0x83, 0x24, 0x25]
        } else {
            vec![0x48, 0x8b, 0x14, 0x25]
        };
        b.extend(entry.to_le_bytes());
        if clear {
            b.push(!page::AD as u8);
        }
        self.e.bytes(&b);
        if clear {
            self.invalidate(at);
        } else {
            let mut b = vec![0x48, 0x89, 0x14, 0x25];
            let to = SCRATCH + self.e.rng.below(DATA_END / 8) * 8;
            b.extend((to as u32).to_le_bytes());
            self.e.bytes(&b);
        }
    }

    /// INC becomes DEC, or ROL ROR: an opcode changes shortly before it runs, or another time.
    fn opcode(&mut self) {
        let label = self.e.label();
        let alias = if self.e.rng.chance(1, 3) {
            (map::ALIAS - CODE) as u32
        } else {
            0
        };
        let r = self.e.free() & 7;
        let r = if r == RSP { RAX } else { r };
        if !self.e.may_write(1 << r) {
            return;
        }
        let store = |w: &mut Self, v: u8| {
            let mut b = Bytes::default();
            b.extend(&[0xc6, 0x04, 0x25, 0, 0, 0, 0, v]);
            w.e.push(Item::Address {
                bytes: b,
                at: 3,
                label,
                plus: 1 + alias,
            });
        };
        let other = 0xc0 | r | (self.e.rng.below(2) as u8) << 3;
        let after = self.e.rng.chance(1, 3);
        if !after {
            store(self, other);
        }
        for _ in 0..self.e.rng.below(3) {
            self.e.something();
        }
        self.e.items.push(Item::Label(label));
        let opcode = self.e.rng.pick(&[0xff, 0xd1]);
        self.e.bytes(&[opcode, 0xc0 | r]);
        if after {
            // Found by the next iteration of a loop around.
            store(self, other);
        }
    }

    /// A breakpoint on an instruction or on data, and later none.
    fn breakpoint(&mut self) {
        let register = self.e.rng.below(4) as u8;
        let label = self.e.label();
        let on_code = self.e.rng.chance(1, 2);
        if on_code {
            self.load_address(RAX, label);
        } else {
            let at = self.e.rng.pick(&self.e.focus.clone()) & !7;
            self.e.load(RAX, at);
        }
        self.e.bytes(&[0x0f, 0x23, 0xc0 | register << 3]);
        // Local enable; writes or accesses of 4 bytes.
        let kind = if on_code { 0 } else { self.e.rng.pick(&[0xd, 0xf]) };
        let control = 0x400 | 1u64 << (2 * register) | kind << (16 + 4 * register);
        self.e.load(RAX, control);
        self.e.bytes(&[0x0f, 0x23, 0xf8]);
        for _ in 0..self.e.rng.below(4) {
            self.e.something();
        }
        self.e.here(label);
        for _ in 0..self.e.rng.below(3) {
            self.e.something();
        }
        if self.e.rng.chance(4, 5) {
            self.e.load(RAX, 0x400);
            self.e.bytes(&[0x0f, 0x23, 0xf8]);
        }
    }

    /// RETF within the ring.
    fn far_return(&mut self) {
        let next = self.e.label();
        self.e.bytes(&[0x8c, 0xc8]);
        self.e.bytes(&[0x50]);
        self.push_label(next);
        self.e.bytes(&[0x48, 0xcb]);
        self.e.here(next);
    }

    fn odds(&mut self) {
        match self.e.rng.below(6) {
            // MOV EAX, SS; MOV SS, EAX.
            0 => {
                self.e.bytes(&[0x8c, 0xd0]);
                self.e.bytes(&[0x8e, 0xd0]);
            }
            // IN AL, DX; OUT DX, AL.
            1 => self.e.bytes(&[0xec]),
            2 => self.e.bytes(&[0xee]),
            // An interrupt from outside, at a known place.
            3..=4 => self.write_msr(map::INTERRUPT_MSR, 0),
            // SGDT.
            _ => {
                let mut b = vec![0x0f, 0x01, 0x04, 0x25];
                b.extend((SCRATCH as u32 + 0x100).to_le_bytes());
                self.e.bytes(&b);
            }
        }
    }
}
