//! Two RAMs that must hold the same.

use donjon_memory::{CHUNK_SIZE, PAGE_SIZE, Ram, Stored};
use donjon_x86::bits::rflags;
use rustix::fs::{SeekFrom, seek};
use std::fmt::Write;

/// Accessed and dirty in a page-table entry. How long a translation is kept, and so when its entry is walked
/// again, is a processor's own business.
const WALKED: u64 = 0x60;
const PRESENT: u64 = 1;
/// Bytes that are copied and compared at a time.
const PIECE: usize = 64 << 10;
/// Differences that are told at most.
const TOLD: usize = 16;

/// Calls `f` for every piece that holds data in one of them.
fn pieces(rams: [&Ram; 2], mut f: impl FnMut(usize, usize)) {
    let (mut at, size) = (0, rams[0].size());
    let data = |ram: &Ram| seek(ram.fd(), SeekFrom::Data(at)).unwrap_or(u64::MAX);
    let mut next = rams.map(data).into_iter().min();
    while let Some(start) = next.filter(|s| *s < size) {
        at = start / PAGE_SIZE as u64 * PAGE_SIZE as u64;
        let len = (PIECE as u64).min(size - at);
        f(at as usize, len as usize);
        at += len;
        let data = |ram: &Ram| seek(ram.fd(), SeekFrom::Data(at)).unwrap_or(u64::MAX);
        next = rams.map(data).into_iter().min();
    }
}

/// Makes `to` what `from` is.
pub(crate) fn copy(from: &Ram, to: &Ram) {
    let mut buffer = vec![0; PIECE];
    pieces([from, to], |at, len| {
        from.read_at(at, &mut buffer[..len]);
        to.write_at(at, &buffer[..len]);
    });
}

/// Whether two values are RFLAGS that differ only in status flags, which many instructions leave undefined.
pub(super) fn undefined_flags(a: u64, b: u64) -> bool {
    (a ^ b) & !rflags::STATUS == 0 && a != b && a & rflags::ONE != 0 && a >> 22 == 0
}

/// Compares a quadword, and brings both up to date where only the page walks differ, or flags that were
/// `pushed`. `Some`: the values.
#[inline]
fn quadword(leader: &Ram, follower: &Ram, at: usize, pushed: bool) -> Option<(u64, u64)> {
    let (a, b) = (leader.load::<u64>(at), follower.load::<u64>(at));
    if a == b {
        return None;
    }
    if (a ^ b) & !WALKED == 0 && a & PRESENT != 0 {
        leader.store(at, a | b);
        follower.store(at, a | b);
        return None;
    }
    if pushed && undefined_flags(a, b) {
        follower.store(at, a);
        return None;
    }
    Some((a, b))
}

fn tell(text: &mut String, at: usize, values: (u64, u64)) {
    let (a, b) = values;
    let _ = writeln!(text, "  RAM {at:#x}: leader {a:#018x}, follower {b:#018x}");
}

/// Compares what was stored; what differs.
pub(crate) fn compare_stores(
    leader: &Ram,
    follower: &Ram,
    stores: &[Stored],
    pushed: bool,
) -> Option<String> {
    let (mut text, mut told) = (String::new(), 0);
    for s in stores {
        let mut chunks = s.chunks;
        while chunks != 0 {
            let first = s.page + chunks.trailing_zeros() as usize * CHUNK_SIZE;
            chunks &= chunks - 1;
            if first >= leader.size() as usize {
                continue;
            }
            for at in (first..first + CHUNK_SIZE).step_by(8) {
                if let Some(values) = quadword(leader, follower, at, pushed)
                    && told < TOLD
                {
                    tell(&mut text, at, values);
                    told += 1;
                }
            }
        }
    }
    (told > 0).then_some(text)
}

/// Compares everything; what differs.
pub(crate) fn compare_all(leader: &Ram, follower: &Ram) -> Option<String> {
    let (mut a, mut b) = (vec![0; PIECE], vec![0; PIECE]);
    let (mut text, mut told) = (String::new(), 0);
    pieces([leader, follower], |start, len| {
        leader.read_at(start, &mut a[..len]);
        follower.read_at(start, &mut b[..len]);
        if a[..len] == b[..len] {
            return;
        }
        for at in (start..start + len).step_by(8) {
            if let Some(values) = quadword(leader, follower, at, false) {
                if told < TOLD {
                    tell(&mut text, at, values);
                }
                told += 1;
            }
        }
    });
    (told > 0).then(|| text + &format!("  {told} quadwords of RAM in all\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> (Ram, Ram) {
        (Ram::new(0x10_0000).unwrap(), Ram::new(0x10_0000).unwrap())
    }

    #[test]
    fn a_copy_is_the_same_and_a_byte_more_is_not() {
        let (a, b) = two();
        a.write_at(0x7_fff0, &[7; 32]);
        b.write_at(0x9_0000, &[1]);
        copy(&a, &b);
        assert_eq!(compare_all(&a, &b), None);
        a.store(0xf_ffff, 1u8);
        assert!(compare_all(&a, &b).unwrap().contains("RAM 0xffff8"));
    }

    #[test]
    fn walks_may_differ_and_are_brought_together() {
        let (a, b) = two();
        for ram in [&a, &b] {
            ram.code().keep_journal();
        }
        a.store(0x1008, 0x8000_0000_1234_5023u64);
        b.store(0x1008, 0x8000_0000_1234_5043u64);
        let mut stores = vec![];
        a.code().take_stores(&mut stores);
        assert_eq!(compare_stores(&a, &b, &stores, false), None);
        assert_eq!(a.load::<u64>(0x1008), 0x8000_0000_1234_5063);
        assert_eq!(b.load::<u64>(0x1008), 0x8000_0000_1234_5063);
        b.store(0x1008, 0x63u64);
        assert!(compare_stores(&a, &b, &stores, false).unwrap().contains("0x1008"));
    }
}
