//! Packets of the guest's that come in parts (RFC 791 §3.2, RFC 8200 §4.5).

use super::ip::{Fragment, Ip};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Packets that are not complete, at most: a new one takes the oldest one's place.
const MOST: usize = 16;
/// Parts of one.
const PARTS: usize = 128;
/// Longest payload.
const LONGEST: usize = 65535;
/// A packet must be complete by then.
const PATIENCE: Duration = Duration::from_secs(30);

type Key = (IpAddr, IpAddr, u8, u32);

/// What has come of them.
#[derive(Default)]
pub struct Fragments {
    packets: VecDeque<Packet>,
}

struct Packet {
    key: Key,
    since: Instant,
    /// In order, without overlaps.
    parts: Vec<(usize, Vec<u8>)>,
    /// Known when the last part has come.
    len: Option<usize>,
}

impl Fragments {
    /// Adds a part; the payload, if it is complete now.
    pub fn add(&mut self, ip: &Ip, fragment: Fragment, data: &[u8], now: Instant) -> Option<Vec<u8>> {
        self.packets.retain(|p| now.duration_since(p.since) < PATIENCE);
        let key = (ip.source, ip.destination, ip.protocol, fragment.id);
        let end = fragment.offset + data.len();
        if data.is_empty() || end > LONGEST || (fragment.more && !data.len().is_multiple_of(8)) {
            return None;
        }
        let at = match self.packets.iter().position(|p| p.key == key) {
            Some(at) => at,
            None => {
                if self.packets.len() == MOST {
                    self.packets.pop_front();
                }
                self.packets.push_back(Packet {
                    key,
                    since: now,
                    parts: vec![],
                    len: None,
                });
                self.packets.len() - 1
            }
        };
        let packet = &mut self.packets[at];
        if !packet.add(fragment, data) {
            // Parts that overlap are an attack (RFC 5722).
            self.packets.remove(at);
            return None;
        }
        if !packet.complete() {
            return None;
        }
        let packet = self.packets.remove(at)?;
        Some(packet.parts.into_iter().flat_map(|(_, part)| part).collect())
    }
}

impl Packet {
    fn add(&mut self, fragment: Fragment, data: &[u8]) -> bool {
        let (start, end) = (fragment.offset, fragment.offset + data.len());
        let at = self.parts.partition_point(|(offset, _)| *offset < start);
        let fits = self.parts.len() < PARTS
            && self.parts.get(at).is_none_or(|(offset, _)| end <= *offset)
            && at.checked_sub(1).is_none_or(|before| {
                let (offset, part) = &self.parts[before];
                offset + part.len() <= start
            })
            && self
                .len
                .is_none_or(|len| end <= len && (fragment.more || end == len));
        if !fits {
            return false;
        }
        if !fragment.more {
            if self.parts.len() > at {
                return false;
            }
            self.len = Some(end);
        }
        self.parts.insert(at, (start, data.to_vec()));
        true
    }

    fn complete(&self) -> bool {
        // Nothing overlaps.
        self.len == Some(self.parts.iter().map(|(_, part)| part.len()).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip() -> Ip {
        Ip {
            source: "10.0.2.15".parse().unwrap(),
            destination: "192.0.2.1".parse().unwrap(),
            protocol: 17,
            payload: 0..0,
            fragment: None,
            whole: false,
            hops: 64,
        }
    }

    fn part(id: u32, offset: usize, more: bool) -> Fragment {
        Fragment { id, offset, more }
    }

    #[test]
    fn what_overlaps_or_never_ends_is_dropped() {
        let (mut fragments, now) = (Fragments::default(), Instant::now());
        assert_eq!(fragments.add(&ip(), part(1, 0, true), &[1; 16], now), None);
        assert_eq!(fragments.add(&ip(), part(1, 8, true), &[2; 16], now), None);
        assert!(fragments.packets.is_empty());
        assert_eq!(
            fragments.add(&ip(), part(1, 0, true), &[1; 15], now),
            None,
            "no multiple of 8"
        );
        assert_eq!(
            fragments.add(&ip(), part(1, 65528, false), &[1; 8], now),
            None,
            "too long"
        );
        assert!(fragments.packets.is_empty());
        for id in 0..100 {
            fragments.add(&ip(), part(id, 0, true), &[1; 8], now);
        }
        assert_eq!(fragments.packets.len(), MOST);
        fragments.add(&ip(), part(100, 0, true), &[1; 8], now + PATIENCE);
        assert_eq!(fragments.packets.len(), 1);
        for n in 0..PARTS + 1 {
            fragments.add(&ip(), part(7, n * 16, true), &[1; 8], now);
        }
        assert!(fragments.packets.iter().all(|p| p.parts.len() <= PARTS));
    }

    proptest! {
        #[test]
        fn parts_in_any_order_make_the_packet(
            len in 1..5000usize,
            size in 1..40usize,
            order in prop::collection::vec(any::<u16>(), 128),
        ) {
            let (mut fragments, now) = (Fragments::default(), Instant::now());
            let data: Vec<u8> = (0..len).map(|n| (n * 7 / 3) as u8).collect();
            let size = (size * 8).max(len.div_ceil(PARTS).next_multiple_of(8));
            let mut parts: Vec<_> = data.chunks(size).enumerate().collect();
            parts.sort_by_key(|(n, _)| order[*n]);
            let count = parts.len();
            for (done, (n, bytes)) in parts.into_iter().enumerate() {
                let more = n * size + bytes.len() < len;
                let got = fragments.add(&ip(), part(9, n * size, more), bytes, now);
                prop_assert_eq!(got, (done + 1 == count).then(|| data.clone()));
            }
            prop_assert!(fragments.packets.is_empty());
        }
    }
}
