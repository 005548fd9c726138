//! The page-table walk: 32-bit, PAE and 4-level paging (Intel SDM vol. 3A §4.3-4.7).

use crate::bits::{cr0, cr4, efer};
use crate::cpuid::PHYSICAL_RESERVED;
use crate::exception::pf;

/// Where page tables live. A read of an address that is not RAM gives ones.
pub trait TableMemory {
    /// Loads an entry of 4 or 8 bytes.
    fn load(&self, address: u64, size: u8) -> u64;
    /// Sets bits in an entry that still holds `old`; `false` if it changed meanwhile.
    fn set_bits(&self, address: u64, size: u8, old: u64, bits: u64) -> bool;
}

/// The control state a walk depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// PDPTE registers, used by PAE paging.
    pub pdpte: [u64; 4],
}

/// What is being attempted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// A write (or a read that a write follows).
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// Made at CPL 3, and not implicitly by the processor.
    pub user: bool,
    /// Explicit supervisor access with EFLAGS.AC set: SMAP lets it through.
    pub ac: bool,
}

/// What a walk found. The permissions are what the paging structures allow, not the mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Guest-physical address of the byte.
    pub physical: u64,
    /// log2 of the page size.
    pub page_shift: u8,
    /// U/S at every level.
    pub user: bool,
    /// R/W at every level.
    pub writable: bool,
    /// No XD at any level.
    pub executable: bool,
    /// G in the last level, with CR4.PGE.
    pub global: bool,
    /// D is set in the last level.
    pub dirty: bool,
}

const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
const XD: u64 = 1 << 63;

impl Translation {
    /// Whether supervisor accesses may write, given CR0.WP.
    pub fn supervisor_writes(&self, mode: &Mode) -> bool {
        self.writable || mode.cr0 & cr0::WP == 0
    }

    /// Whether `access` is allowed (Intel SDM vol. 3A §4.6.1).
    pub fn allows(&self, mode: &Mode, access: Access) -> bool {
        if access.user {
            return self.user && (!access.write || self.writable) && (!access.fetch || self.executable);
        }
        if access.fetch {
            return self.executable && !(self.user && mode.cr4 & cr4::SMEP != 0);
        }
        if self.user && mode.cr4 & cr4::SMAP != 0 && !access.ac {
            return false;
        }
        !access.write || self.supervisor_writes(mode)
    }
}

impl Mode {
    fn nx(&self) -> bool {
        self.efer & efer::NXE != 0
    }

    /// 32-bit paging has 4-byte entries.
    fn pae(&self) -> bool {
        self.cr4 & cr4::PAE != 0
    }

    /// The error code of a fault on `access`.
    fn error_code(&self, access: Access, cause: u32) -> u32 {
        // The fetch bit exists only where instruction fetches can be told apart.
        let fetch = access.fetch && (self.pae() && self.nx() || self.cr4 & cr4::SMEP != 0);
        cause
            | if access.write { pf::WRITE } else { 0 }
            | if access.user { pf::USER } else { 0 }
            | if fetch { pf::FETCH } else { 0 }
    }

    /// Translates a linear address (canonical already checked). The error is a page-fault error code.
    /// Accessed bits are set on the way, the dirty bit if the access writes.
    pub fn translate(
        &self,
        memory: &impl TableMemory,
        linear: u64,
        access: Access,
    ) -> Result<Translation, u32> {
        if self.cr0 & cr0::PG == 0 {
            return Ok(Translation {
                physical: linear & 0xffff_ffff,
                page_shift: 12,
                user: true,
                writable: true,
                executable: true,
                global: false,
                dirty: true,
            });
        }
        // An entry that changes under the walk restarts it. Another processor that changes entries without
        // pause must not keep this one here for ever: then the access faults, and is tried again.
        (0..1000)
            .find_map(|_| self.walk(memory, linear, access))
            .unwrap_or(Err(self.error_code(access, 0)))
    }

    fn walk(
        &self,
        memory: &impl TableMemory,
        linear: u64,
        access: Access,
    ) -> Option<Result<Translation, u32>> {
        let fault = |cause| Some(Err(self.error_code(access, cause)));
        let long = self.efer & efer::LMA != 0;
        let size: u8 = if self.pae() { 8 } else { 4 };
        // Bits of table address that each level decodes, and the level's own shift.
        let (mut table, mut shift) = match (long, self.pae()) {
            (true, _) => (self.cr3 & !0xfff & !PHYSICAL_RESERVED, 39u8),
            (false, true) => {
                let pdpte = self.pdpte[(linear >> 30 & 3) as usize];
                if pdpte & P == 0 {
                    return fault(0);
                }
                (pdpte & !0xfff & !PHYSICAL_RESERVED, 21)
            }
            (false, false) => (self.cr3 & 0xffff_f000, 22),
        };
        let index_bits = if self.pae() { 9 } else { 10 };
        let (mut user, mut writable, mut executable) = (true, true, true);
        // Accessed bits are set only once the walk has come to its end without a fault.
        let mut upper = [(0u64, 0u64); 4];
        let mut levels = 0;
        loop {
            let index = linear >> shift & ((1 << index_bits) - 1);
            let address = table + index * size as u64;
            let entry = memory.load(address, size);
            if entry & P == 0 {
                return fault(0);
            }
            let leaf = shift == 12
                || entry & PS != 0 && (shift == 21 || shift == 30 || shift == 22 && self.cr4 & cr4::PSE != 0);
            if self.reserved(entry, shift, leaf, long) {
                return fault(pf::PRESENT | pf::RESERVED);
            }
            user &= entry & US != 0;
            writable &= entry & RW != 0;
            executable &= !(size == 8 && self.nx() && entry & XD != 0);
            if leaf {
                let physical = if size == 8 {
                    entry & !PHYSICAL_RESERVED & !((1 << shift) - 1)
                } else if shift == 22 {
                    // PSE-36: bits 13-20 are address bits 32-39.
                    entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
                } else {
                    entry & 0xffff_f000
                };
                let found = Translation {
                    physical: physical | linear & ((1 << shift) - 1),
                    page_shift: shift,
                    user,
                    writable,
                    executable,
                    global: entry & G != 0 && self.cr4 & cr4::PGE != 0,
                    dirty: access.write || entry & D != 0,
                };
                if !found.allows(self, access) {
                    return fault(pf::PRESENT);
                }
                for &(address, entry) in &upper[..levels] {
                    if entry & A == 0 && !memory.set_bits(address, size, entry, A) {
                        return None;
                    }
                }
                let want = A | if access.write { D } else { 0 };
                if entry & want != want && !memory.set_bits(address, size, entry, want) {
                    return None;
                }
                return Some(Ok(found));
            }
            upper[levels] = (address, entry);
            levels += 1;
            table = if size == 8 {
                entry & !0xfff & !PHYSICAL_RESERVED
            } else {
                entry & 0xffff_f000
            };
            shift -= index_bits as u8;
        }
    }

    /// Whether a reserved bit is set (Intel SDM vol. 3A tables 4-5 to 4-20).
    fn reserved(&self, entry: u64, shift: u8, leaf: bool, long: bool) -> bool {
        if !self.pae() {
            // PSE-36 with 40 physical-address bits leaves bit 21.
            return leaf && shift == 22 && entry & 1 << 21 != 0;
        }
        let software = if long { 0x7ff0_0000_0000_0000 } else { 0 };
        let mut mask = PHYSICAL_RESERVED & !XD & !software;
        if !self.nx() {
            mask |= XD;
        }
        if leaf && shift > 12 {
            mask |= ((1 << shift) - 1) & !0x1fff;
        }
        if shift == 39 {
            mask |= PS;
        }
        entry & mask != 0
    }

    /// Loads the four PDPTE registers (Intel SDM vol. 3A §4.4.1); `None` if one has a reserved bit set,
    /// which is a general-protection fault.
    pub fn load_pdptes(memory: &impl TableMemory, cr3: u64) -> Option<[u64; 4]> {
        let reserved = PHYSICAL_RESERVED | 0x1e6;
        let mut out = [0; 4];
        for (i, slot) in out.iter_mut().enumerate() {
            let e = memory.load((cr3 & 0xffff_ffe0) + i as u64 * 8, 8);
            if e & P != 0 && e & reserved != 0 {
                return None;
            }
            *slot = e;
        }
        Some(out)
    }
}

/// Whether a linear address is canonical for 48-bit addressing (Intel SDM vol. 1 §3.3.7.1).
#[inline(always)]
pub const fn canonical(linear: u64) -> bool {
    ((linear as i64) << 16 >> 16) as u64 == linear
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Tables(RefCell<HashMap<u64, u64>>);

    impl TableMemory for Tables {
        fn load(&self, address: u64, _: u8) -> u64 {
            *self.0.borrow().get(&address).unwrap_or(&0)
        }
        fn set_bits(&self, address: u64, _: u8, old: u64, bits: u64) -> bool {
            self.0.borrow_mut().insert(address, old | bits);
            true
        }
    }

    fn put(t: &Tables, entries: &[(u64, u64)]) {
        t.0.borrow_mut().extend(entries.iter().copied());
    }

    const READ: Access = Access {
        write: false,
        fetch: false,
        user: false,
        ac: false,
    };
    const LONG: Mode = Mode {
        cr0: cr0::PE | cr0::PG | cr0::WP,
        cr3: 0x1000,
        cr4: cr4::PAE | cr4::PGE,
        efer: efer::LMA | efer::LME | efer::NXE,
        pdpte: [0; 4],
    };

    #[test]
    fn four_levels_with_accessed_and_dirty() {
        let t = Tables::default();
        put(
            &t,
            &[
                (0x1000, 0x2007),
                (0x2000, 0x3007),
                (0x3000, 0x4007),
                (0x4008, 0x8000_0000_0000_5107),
            ],
        );
        let got = LONG.translate(&t, 0x1234, READ).unwrap();
        assert_eq!((got.physical, got.page_shift), (0x5234, 12));
        assert!(got.user && got.writable && got.global && !got.executable && !got.dirty);
        assert_eq!(t.load(0x1000, 8) & A, A);
        assert_eq!(t.load(0x4008, 8) & (A | D), A);
        LONG.translate(&t, 0x1234, Access { write: true, ..READ })
            .unwrap();
        assert_eq!(t.load(0x4008, 8) & (A | D), A | D);
    }

    #[test]
    fn error_codes() {
        let t = Tables::default();
        put(
            &t,
            &[
                (0x1000, 0x2007),
                (0x2000, 0x3007),
                (0x3000, 0x4005),
                (0x4008, 0x5001),
            ],
        );
        let user = Access { user: true, ..READ };
        assert_eq!(LONG.translate(&t, 0x1000, user), Err(pf::PRESENT | pf::USER));
        assert_eq!(
            LONG.translate(&t, 0x1000, Access { write: true, ..READ }),
            Err(pf::PRESENT | pf::WRITE)
        );
        assert_eq!(
            LONG.translate(&t, 0x2000, Access { fetch: true, ..user }),
            Err(pf::USER | pf::FETCH)
        );
        put(&t, &[(0x4008, 0x5001 | 1 << 45)]);
        assert_eq!(LONG.translate(&t, 0x1000, READ), Err(pf::PRESENT | pf::RESERVED));
        assert_eq!(t.load(0x1000, 8) & A, 0, "a faulting walk sets no accessed bit");
    }

    #[test]
    fn smep_smap_wp() {
        let t = Tables::default();
        put(&t, &[(0x1000, 0x2007), (0x2000, 0x3007), (0x3000, 0x20_0085)]);
        let fetch = Access { fetch: true, ..READ };
        let m = Mode {
            cr4: LONG.cr4 | cr4::SMEP | cr4::SMAP,
            ..LONG
        };
        assert!(LONG.translate(&t, 0, fetch).is_ok());
        assert_eq!(m.translate(&t, 0, fetch), Err(pf::PRESENT | pf::FETCH));
        assert_eq!(m.translate(&t, 0, READ), Err(pf::PRESENT));
        assert!(m.translate(&t, 0, Access { ac: true, ..READ }).is_ok());
        let write = Access { write: true, ..READ };
        assert!(LONG.translate(&t, 0, write).is_err());
        assert!(
            Mode {
                cr0: cr0::PE | cr0::PG,
                ..LONG
            }
            .translate(&t, 0, write)
            .is_ok()
        );
    }

    #[test]
    fn legacy_paging_with_large_pages() {
        let m = Mode {
            cr4: cr4::PSE,
            efer: 0,
            ..LONG
        };
        let t = Tables::default();
        put(&t, &[(0x1004, 0x0040_4087), (0x1008, 0x3007), (0x3004, 0x7007)]);
        let got = m.translate(&t, 0x0040_0123, READ).unwrap();
        assert_eq!((got.physical, got.page_shift), (0x2_0040_0123, 22));
        assert_eq!(m.translate(&t, 0x0080_1456, READ).unwrap().physical, 0x7456);
    }

    #[test]
    fn pae_uses_the_pdpte_registers() {
        let t = Tables::default();
        put(&t, &[(0x1000, 0x2001), (0x1008, 0x1e7), (0x2000, 0x60_0083)]);
        assert_eq!(Mode::load_pdptes(&t, 0x1000), None);
        put(&t, &[(0x1008, 0)]);
        let pdpte = Mode::load_pdptes(&t, 0x1000).unwrap();
        let m = Mode {
            efer: 0,
            pdpte,
            ..LONG
        };
        assert_eq!(m.translate(&t, 0x1abcde, READ).unwrap().physical, 0x7abcde);
        assert_eq!(m.translate(&t, 0x4000_0000, READ), Err(0));
    }

    #[test]
    fn canonical_addresses() {
        assert!(canonical(0x7fff_ffff_ffff) && canonical(0xffff_8000_0000_0000));
        assert!(!canonical(0x8000_0000_0000) && !canonical(0xffff_7fff_ffff_ffff));
    }
}
