//! Accesses the processor makes of its own accord: descriptor tables, task state, stacks of handlers.

use super::tlb::perm;
use super::{Cpu, Place, R};
use donjon_memory::Word;
use donjon_x86::Seg;
use donjon_x86::bits::rflags;
use donjon_x86::paging::Access;

impl Cpu {
    /// Loads for the processor itself (descriptor tables, task state): supervisor whatever the CPL, by
    /// linear address.
    pub fn read_system<T: Word>(&mut self, linear: u64) -> R<T> {
        let linear = if self.long_mode() {
            linear
        } else {
            linear & 0xffff_ffff
        };
        let mut bytes = [0; 8];
        for i in 0..T::SIZE {
            // Descriptors seldom cross a page, and this path is not hot enough to care.
            let at = linear.wrapping_add(i as u64);
            if i == 0 || at & 0xfff == 0 {
                let n = (T::SIZE - i).min(0x1000 - (at & 0xfff) as usize);
                let access = Access {
                    write: false,
                    fetch: false,
                    user: false,
                    ac: false,
                };
                match self.place_as(Seg::Ds, at, access)? {
                    Place::Ram(o) => self.board.ram.read_at(o, &mut bytes[i..i + n]),
                    Place::Device(p) => self.device_read_bytes(p, &mut bytes[i..i + n]),
                }
            }
        }
        Ok(T::from_u64(u64::from_le_bytes(bytes)))
    }

    /// Stores for the processor itself.
    pub fn write_system<T: Word>(&mut self, linear: u64, v: T) -> R {
        self.write_as(
            Seg::Ds,
            linear,
            v,
            Access {
                write: true,
                fetch: false,
                user: false,
                ac: false,
            },
        )
    }

    /// Pushes on a stack that privilege level `cpl` is about to use. Unlike accesses to the processor's own
    /// tables these are made at that level (Intel SDM vol. 3A §4.6).
    pub fn write_stack<T: Word>(&mut self, linear: u64, v: T, cpl: u8) -> R {
        let ac = self.rflags & rflags::AC != 0;
        self.write_as(
            Seg::Ss,
            linear,
            v,
            Access {
                write: true,
                fetch: false,
                user: cpl == 3,
                ac,
            },
        )
    }

    pub(super) fn write_as<T: Word>(&mut self, seg: Seg, linear: u64, v: T, access: Access) -> R {
        let linear = if self.long_mode() {
            linear
        } else {
            linear & 0xffff_ffff
        };
        let bytes = v.to_u64().to_le_bytes();
        let here = T::SIZE.min(0x1000 - (linear & 0xfff) as usize);
        let a = self.place_as(seg, linear, access)?;
        let b = if here < T::SIZE {
            self.place_as(seg, linear.wrapping_add(here as u64), access)?
        } else {
            a
        };
        for (place, part) in [(a, &bytes[..here]), (b, &bytes[here..T::SIZE])] {
            match place {
                _ if part.is_empty() => {}
                Place::Ram(at) => self.board.ram.write_at(at, part),
                Place::Device(p) => self.device_write_bytes(p, part),
            }
        }
        Ok(())
    }

    pub(super) fn place_as(&mut self, seg: Seg, linear: u64, access: Access) -> R<Place> {
        let need = match (access.write, access.user, access.ac) {
            (false, ..) => perm::SUPER_READ,
            (true, true, _) => perm::USER_WRITE,
            (true, false, true) => perm::AC_WRITE,
            (true, false, false) => perm::SUPER_WRITE,
        };
        if let Some(at) = self.tlb.lookup(linear, need) {
            return Ok(Place::Ram(at));
        }
        self.fill(seg as u8, linear, access)
    }
}
