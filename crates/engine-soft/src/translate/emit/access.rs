//! Memory operands: addresses, and the check that a page may be accessed.

use super::{Emitter, Stub, frame};
use crate::translate::asm::{Map, Mem, NARROW, Rm, WIDE, alu, cc, host};
use crate::translate::frame::{TLB_ENTRIES, offset};
use crate::translate::registers::{HOST, T, W, slot};
use crate::translate::unit::{Access, Base, Segment};

impl Emitter<'_> {
    /// Puts the linear address of an access plus `more` into [`W`]. Destroys [`T`], and flags if the access
    /// has a segment base.
    pub(super) fn address(&mut self, access: &Access, more: i64) {
        let key = &access.key;
        let disp = (access.disp + more) as i32;
        let base = match key.base {
            Base::None => None,
            Base::Page => {
                self.a.load(W, frame(offset::PAGE));
                Some(W)
            }
            Base::Register(r, _) => Some(HOST[r as usize].unwrap_or_else(|| {
                self.a.load(W, Mem { ..slot(r) });
                W
            })),
        };
        let index = key.index.map(|(r, _, _)| {
            HOST[r as usize].unwrap_or_else(|| {
                self.a.load(T, slot(r));
                T
            })
        });
        let mem = Mem {
            base,
            index,
            scale: key.index.map_or(0, |(_, _, s)| s),
            disp,
        };
        match (base, index, disp) {
            (Some(b), None, 0) if !key.narrow => {
                if b != W {
                    self.a.mov(W, b);
                }
            }
            _ => {
                let p = if key.narrow { NARROW } else { WIDE };
                self.a.legacy(p, Map::One, 0x8d, W, Rm::Mem(mem));
            }
        }
        let segment = match key.segment {
            Segment::Flat => return,
            Segment::Fs => offset::FS_BASE,
            Segment::Gs => offset::GS_BASE,
        };
        self.a.alu(WIDE, alu::ADD, W, Rm::Mem(frame(segment)));
    }

    /// The operand of the current instruction's access `n`, in a page that was checked. Destroys [`T`] and
    /// flags if it has to be checked now.
    pub(super) fn operand(&mut self, n: usize) -> Mem {
        let access = self.current().accesses[n];
        let group = self.unit.groups[access.group];
        if self.window != Some(access.group) {
            self.check(n);
            self.window = Some(access.group);
        }
        debug_assert!(access.offset >= group.lo && access.offset + access.size <= group.hi);
        Mem::at(W, (access.offset - group.lo) as i32)
    }

    /// Makes [`W`] the host address of the group's start, or leaves.
    fn check(&mut self, n: usize) {
        self.checks += 1;
        self.clobber();
        let access = self.current().accesses[n];
        let group = self.unit.groups[access.group];
        let table = offset::tlb(self.mode, group.write);
        let (at, again) = (self.a.label(), self.a.bound());
        self.address(&access, group.lo - access.offset);
        // The table is indexed by page number, sixteen bytes an entry.
        self.a.rorx(T, W, 8);
        self.a
            .alu_imm(NARROW, alu::AND, Rm::Reg(T), ((TLB_ENTRIES - 1) << 4) as i32);
        let entry = |disp| Rm::Mem(Mem::indexed(host::RSP, T, disp));
        // What is left is the offset in the page, if it is the same page and the span ends in it.
        self.a.alu(WIDE, alu::XOR, W, entry(table));
        self.a
            .alu_imm(WIDE, alu::CMP, Rm::Reg(W), 0x1000 - (group.hi - group.lo) as i32);
        self.a.jcc(cc::A, at);
        self.a.alu(WIDE, alu::ADD, W, entry(table + 8));
        self.stubs.push(Stub::Fill {
            at,
            again,
            insn: self.n,
            access: n,
        });
    }

    /// [`W`] is about to be used for something else.
    pub(super) fn drop_window(&mut self) {
        self.window = None;
    }
}
