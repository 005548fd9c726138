//! The segments of [`crate::layout::selector`] that lie in the LDT.

use crate::layout::{CODE, selector};

/// Linux's `struct user_desc` (asm/ldt.h).
#[repr(C)]
struct UserDescriptor {
    entry: u32,
    base: u32,
    limit: u32,
    /// seg_32bit 0, contents 1-2, read_exec_only 3, limit_in_pages 4, seg_not_present 5, useable 6.
    flags: u32,
}

const CONTENTS_CODE: u32 = 2 << 1;
const BIG: u32 = 1;
const USABLE: u32 = 1 << 6;

/// Makes them. False if the host's kernel has no LDTs.
pub fn install() -> bool {
    [
        UserDescriptor {
            entry: 0,
            base: CODE as u32,
            limit: 0xffff,
            flags: CONTENTS_CODE | USABLE,
        },
        UserDescriptor {
            entry: 1,
            base: selector::WINDOW_BASE as u32,
            limit: 0xffff,
            flags: USABLE,
        },
        UserDescriptor {
            entry: 2,
            base: selector::WINDOW_BASE as u32,
            limit: selector::SHORT_LIMIT,
            flags: BIG | USABLE,
        },
    ]
    .iter()
    .all(|d| {
        // SAFETY: function 0x11 of modify_ldt reads one descriptor of this layout and adds it to this
        // process's LDT, which nothing used before.
        let r = unsafe { libc::syscall(libc::SYS_modify_ldt, 0x11, d, size_of::<UserDescriptor>()) };
        r as i32 == 0
    })
}
