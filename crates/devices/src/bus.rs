//! Which device answers at which address.

use arc_swap::ArcSwap;
use donjon_engine::CpuIo;
use std::sync::{Arc, Mutex};

/// A device in I/O port space.
pub trait PortDevice: Send + Sync {
    /// The widest access in bytes (1, 2 or 4); the bus splits wider ones, low byte first, as a bridge to a
    /// narrower bus does.
    fn widest(&self) -> u8 {
        4
    }
    /// IN from `offset`, in the low `size` bytes. `offset + size` never exceeds the registered length.
    fn read(&self, offset: u16, size: u8) -> u32;
    /// OUT.
    fn write(&self, offset: u16, size: u8, value: u32);
}

/// A memory-mapped device.
pub trait MmioDevice: Send + Sync {
    /// The widest access in bytes (1, 2, 4 or 8); the bus splits wider ones.
    fn widest(&self) -> u8 {
        8
    }
    /// A load from `offset`, in the low `size` bytes. `offset + size` never exceeds the registered length.
    fn read(&self, offset: u64, size: u8) -> u64;
    /// A store.
    fn write(&self, offset: u64, size: u8, value: u64);
}

/// Two devices want the same address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{start:#x}+{len:#x} is empty, past the end of the address space or already taken")]
pub struct Overlap {
    /// First address refused.
    pub start: u64,
    /// Length refused.
    pub len: u64,
}

struct Range<D: ?Sized> {
    start: u64,
    last: u64,
    device: Arc<D>,
}

impl<D: ?Sized> Clone for Range<D> {
    fn clone(&self) -> Self {
        Self {
            device: self.device.clone(),
            ..*self
        }
    }
}

/// One address space. Lookups take no lock and see devices come and go while vCPUs run; an access under way
/// finishes on the device it found.
pub struct Bus<D: ?Sized> {
    ranges: ArcSwap<Vec<Range<D>>>,
    /// Serializes changes.
    change: Mutex<()>,
    end: u64,
}

impl<D: ?Sized + Send + Sync> Bus<D> {
    fn with_end(end: u64) -> Self {
        Self {
            ranges: ArcSwap::default(),
            change: Mutex::default(),
            end,
        }
    }

    /// Puts `device` at `start`.
    pub fn add(&self, start: u64, len: u64, device: Arc<D>) -> Result<(), Overlap> {
        let refused = Overlap { start, len };
        let last = len
            .checked_sub(1)
            .and_then(|l| start.checked_add(l))
            .ok_or(refused)?;
        let _one = self.change.lock().unwrap_or_else(|e| e.into_inner());
        let ranges = self.ranges.load();
        let at = ranges.partition_point(|r| r.last < start);
        if last > self.end || ranges.get(at).is_some_and(|r| r.start <= last) {
            return Err(refused);
        }
        let mut new = Vec::clone(&ranges);
        new.insert(at, Range { start, last, device });
        self.ranges.store(Arc::new(new));
        Ok(())
    }

    /// Takes away the device that was added at `start`.
    pub fn remove(&self, start: u64) -> Option<Arc<D>> {
        let _one = self.change.lock().unwrap_or_else(|e| e.into_inner());
        let ranges = self.ranges.load();
        let at = ranges.iter().position(|r| r.start == start)?;
        let mut new = Vec::clone(&ranges);
        let gone = new.remove(at);
        self.ranges.store(Arc::new(new));
        Some(gone.device)
    }

    /// Calls `f(device, offset, bytes)` for the device at `address`, with the number of bytes from there to
    /// its end; `None` if nobody claims it.
    #[inline]
    fn at<T>(&self, address: u64, f: impl FnOnce(&D, u64, u64) -> T) -> Option<T> {
        let ranges = self.ranges.load();
        let r = ranges.get(ranges.partition_point(|r| r.last < address))?;
        (r.start <= address).then(|| f(&r.device, address - r.start, (r.last - address).saturating_add(1)))
    }
}

/// The size of the next piece of an access with `left` bytes to go, to a device that takes `widest` and ends
/// in `room`: the whole if it fits, else the largest power of two that is aligned.
fn piece(offset: u64, left: u8, room: u64, widest: u8) -> u8 {
    if left.is_power_of_two() && left <= widest && left as u64 <= room {
        return left;
    }
    let aligned = 1u64 << offset.trailing_zeros().min(3);
    let most = (left as u64).min(room).min(widest.max(1) as u64).min(aligned);
    1 << most.ilog2()
}

fn mask(size: u8) -> u64 {
    if size >= 8 { !0 } else { (1 << (size * 8)) - 1 }
}

/// The port and memory address spaces of a domain, as its CPUs reach them.
pub struct Buses {
    /// I/O ports.
    pub ports: Bus<dyn PortDevice>,
    /// Memory-mapped devices.
    pub mmio: Bus<dyn MmioDevice>,
}

impl Default for Buses {
    fn default() -> Self {
        Self {
            ports: Bus::with_end(0xffff),
            mmio: Bus::with_end(u64::MAX),
        }
    }
}

impl CpuIo for Buses {
    fn port_in(&self, port: u16, size: u8) -> u32 {
        let (mut value, mut done, size) = (0u32, 0u8, size.min(4));
        while done < size {
            let left = size - done;
            let (v, n) = self
                .ports
                .at(port as u64 + done as u64, |d, offset, room| {
                    let n = piece(offset, left, room, d.widest());
                    (d.read(offset as u16, n) & mask(n) as u32, n)
                })
                .unwrap_or((0xff, 1));
            value |= v << (done * 8);
            done += n;
        }
        value
    }

    fn port_out(&self, port: u16, size: u8, value: u32) {
        let (mut done, size) = (0u8, size.min(4));
        while done < size {
            let left = size - done;
            let n = self.ports.at(port as u64 + done as u64, |d, offset, room| {
                let n = piece(offset, left, room, d.widest());
                d.write(offset as u16, n, value >> (done * 8) & mask(n) as u32);
                n
            });
            done += n.unwrap_or(1);
        }
    }

    fn mmio_read(&self, address: u64, size: u8) -> u64 {
        let (mut value, mut done, size) = (0u64, 0u8, size.min(8));
        while done < size {
            let left = size - done;
            let (v, n) = self
                .mmio
                .at(address.wrapping_add(done as u64), |d, offset, room| {
                    let n = piece(offset, left, room, d.widest());
                    (d.read(offset, n) & mask(n), n)
                })
                .unwrap_or((0xff, 1));
            value |= v << (done * 8);
            done += n;
        }
        value
    }

    fn mmio_write(&self, address: u64, size: u8, value: u64) {
        let (mut done, size) = (0u8, size.min(8));
        while done < size {
            let left = size - done;
            let n = self
                .mmio
                .at(address.wrapping_add(done as u64), |d, offset, room| {
                    let n = piece(offset, left, room, d.widest());
                    d.write(offset, n, value >> (done * 8) & mask(n));
                    n
                });
            done += n.unwrap_or(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Lock;

    /// Remembers its accesses; each byte reads as its offset.
    struct Bytes {
        widest: u8,
        log: Lock<Vec<(u64, u8, u64)>>,
    }

    impl Bytes {
        fn new(widest: u8) -> Arc<Self> {
            Arc::new(Self {
                widest,
                log: Lock::default(),
            })
        }
        fn value(offset: u64) -> u64 {
            u64::from_le_bytes(std::array::from_fn(|i| offset as u8 + i as u8))
        }
        fn log(&self) -> Vec<(u64, u8, u64)> {
            std::mem::take(&mut *self.log.lock())
        }
    }

    impl PortDevice for Bytes {
        fn widest(&self) -> u8 {
            self.widest
        }
        fn read(&self, offset: u16, size: u8) -> u32 {
            self.log.lock().push((offset as u64, size, 0));
            Self::value(offset as u64) as u32
        }
        fn write(&self, offset: u16, size: u8, value: u32) {
            self.log.lock().push((offset as u64, size, value as u64));
        }
    }

    impl MmioDevice for Bytes {
        fn widest(&self) -> u8 {
            self.widest
        }
        fn read(&self, offset: u64, size: u8) -> u64 {
            self.log.lock().push((offset, size, 0));
            Self::value(offset)
        }
        fn write(&self, offset: u64, size: u8, value: u64) {
            self.log.lock().push((offset, size, value));
        }
    }

    #[test]
    fn unclaimed_addresses_read_as_ones() {
        let b = Buses::default();
        assert_eq!(b.port_in(0x80, 1), 0xff);
        assert_eq!(b.port_in(0xffff, 4), 0xffff_ffff);
        assert_eq!(b.mmio_read(u64::MAX, 8), u64::MAX);
        b.port_out(0x80, 4, 1);
        b.mmio_write(u64::MAX - 2, 8, 1);
    }

    #[test]
    fn overlaps_are_refused_and_removal_makes_room() {
        let b = Buses::default();
        b.ports.add(0x10, 4, Bytes::new(4)).unwrap();
        for (start, len) in [
            (0x10, 4),
            (0xf, 2),
            (0x13, 1),
            (0, 0x100),
            (0x11, 1),
            (0x20, 0),
            (0xffff, 2),
        ] {
            assert_eq!(
                b.ports.add(start, len, Bytes::new(4)),
                Err(Overlap { start, len })
            );
        }
        b.ports.add(0x14, 1, Bytes::new(4)).unwrap();
        b.ports.add(0xf, 1, Bytes::new(4)).unwrap();
        assert!(b.ports.remove(0x11).is_none());
        assert!(b.ports.remove(0x10).is_some());
        assert_eq!(b.port_in(0x10, 1), 0xff);
        b.ports.add(0x10, 4, Bytes::new(4)).unwrap();
        b.mmio.add(u64::MAX, 1, Bytes::new(8)).unwrap();
        assert_eq!(b.mmio_read(u64::MAX, 2), 0xff00);
    }

    #[test]
    fn wide_accesses_are_split_for_narrow_devices() {
        let (b, narrow) = (Buses::default(), Bytes::new(1));
        b.ports.add(0x20, 2, narrow.clone()).unwrap();
        b.port_out(0x20, 2, 0x1234);
        assert_eq!(narrow.log(), [(0, 1, 0x34), (1, 1, 0x12)]);
        assert_eq!(b.port_in(0x20, 4), 0xffff_0100);
    }

    #[test]
    fn accesses_that_leave_a_device_are_split() {
        let (b, low, high) = (Buses::default(), Bytes::new(8), Bytes::new(8));
        b.mmio.add(0x1000, 6, low.clone()).unwrap();
        b.mmio.add(0x1006, 0x10, high.clone()).unwrap();
        b.mmio_write(0x1000, 8, 0x0807_0605_0403_0201);
        assert_eq!(low.log(), [(0, 4, 0x0403_0201), (4, 2, 0x0605)]);
        assert_eq!(high.log(), [(0, 2, 0x0807)]);
        assert_eq!(b.mmio_read(0x1005, 3), 0x01_0005);
        low.log();
        b.mmio_write(0x1001, 4, 0x0403_0201);
        assert_eq!(
            low.log(),
            [(1, 4, 0x0403_0201)],
            "an unaligned access is one transaction"
        );
    }
}
