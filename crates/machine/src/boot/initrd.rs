//! Where the initial RAM disk goes: as high as the kernel allows, away from everything the kernel unpacks.

use super::error::BootError;
use super::image::Image;
use crate::layout::low_ram_end;
use donjon_memory::{HOLE_START, PAGE_SIZE, Ram};

/// A stretch of guest memory that holds the initrd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// First byte.
    pub address: u64,
    /// Bytes.
    pub len: u64,
}

/// Copies `initrd` to the highest page below `limit` that leaves room for all of it above `kernel_end`.
pub fn place(ram: &Ram, initrd: &Image, kernel_end: u64, limit: u64) -> Result<Placed, BootError> {
    let page = PAGE_SIZE as u64;
    let room = initrd.len().checked_next_multiple_of(page).unwrap_or(u64::MAX);
    let lowest = kernel_end.checked_next_multiple_of(page).unwrap_or(u64::MAX);
    let top = low_ram_end(ram).min(limit) / page * page;
    let address = top.saturating_sub(room);
    if address < lowest || room > top {
        let needed = lowest.saturating_add(room);
        if needed > limit.min(HOLE_START) {
            let (path, len) = (initrd.path().into(), initrd.len());
            return Err(BootError::InitrdSize {
                path,
                len,
                limit: limit.min(HOLE_START),
            });
        }
        let what = format!("the kernel with initrd {}", initrd.path().display());
        return Err(BootError::Memory {
            what,
            needed,
            have: ram.size(),
        });
    }
    initrd.copy_to(ram, 0, initrd.len(), address, "initrd")?;
    Ok(Placed {
        address,
        len: initrd.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::image::Role;
    use super::*;

    fn initrd(len: usize) -> Image {
        Image::from_bytes(Role::Initrd, "disk", vec![7; len]).unwrap()
    }

    #[test]
    fn it_ends_below_the_limit_and_starts_above_the_kernel() {
        let ram = Ram::new(16 << 20).unwrap();
        let placed = place(&ram, &initrd(5000), 1 << 20, u64::MAX).unwrap();
        assert_eq!(
            placed,
            Placed {
                address: (16 << 20) - 8192,
                len: 5000
            }
        );
        let low = place(&ram, &initrd(5000), 1 << 20, (4 << 20) - 1).unwrap();
        assert_eq!(low.address, (4 << 20) - 3 * 4096);
        assert_eq!(ram.load::<u8>(low.address as usize + 4999), 7);
    }

    #[test]
    fn too_little_memory_says_how_much_is_needed() {
        let ram = Ram::new(16 << 20).unwrap();
        let e = place(&ram, &initrd(2 << 20), 15 << 20, u64::MAX).unwrap_err();
        assert!(
            matches!(e, BootError::Memory { needed, .. } if needed == 17 << 20),
            "{e}"
        );
        let e = place(&ram, &initrd(2 << 20), 15 << 20, 16 << 20).unwrap_err();
        assert!(matches!(e, BootError::InitrdSize { .. }), "{e}");
        let e = place(&ram, &initrd(1), u64::MAX, u64::MAX).unwrap_err();
        assert!(matches!(e, BootError::InitrdSize { .. }), "{e}");
    }
}
