//! What `guest/load.c` writes, made again, to tell what a disk may contain.

pub const SECTOR: usize = 512;
const REGION: u64 = 200;
/// Operations of a thread that a guest can be ahead of what it has said, at the very most: what it says waits in
/// buffers of some KiB.
const AHEAD: u64 = 20_000;

/// A load, by its arguments.
pub struct Load {
    pub seed: u64,
    pub threads: u64,
}

/// What a sector may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Value {
    /// As it was before the load.
    Before,
    Zero,
    Written {
        thread: u64,
        sequence: u64,
    },
}

#[derive(Clone, Copy)]
enum Kind {
    Write,
    Zero,
    Discard,
}

struct Operation {
    kind: Kind,
    start: u64,
    length: u64,
}

fn next(s: &mut u64) -> u64 {
    *s ^= *s >> 12;
    *s ^= *s << 25;
    *s ^= *s >> 27;
    s.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
}

impl Load {
    /// For each thread, up to where it said that everything is durable.
    pub fn durable(&self, output: &str) -> Vec<u64> {
        let mut durable = vec![0; self.threads as usize];
        let whole = output.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            if let Some((thread, sequence)) =
                line.trim_end().strip_prefix("D ").and_then(|l| l.split_once(' '))
            {
                let thread: usize = thread.parse().expect("a thread");
                durable[thread] = sequence.parse().expect("a sequence number");
            }
        }
        durable
    }

    /// A disk that nothing has been written to but every sector has something in.
    pub fn base(&self, sectors: u64) -> Vec<u8> {
        (0..sectors).flat_map(|s| self.sector(0xff, 0, s)).collect()
    }

    fn sector(&self, thread: u64, sequence: u64, sector: u64) -> [u8; SECTOR] {
        let mut s = (self.seed << 40 ^ thread << 56 ^ sequence << 20 ^ sector) | 1 << 63;
        let mut bytes = [0; SECTOR];
        for (i, word) in bytes.chunks_exact_mut(8).enumerate() {
            let value = match i {
                0 => sector,
                1 => thread << 48 | sequence,
                _ => next(&mut s),
            };
            word.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// What a thread does, without end.
    fn operations(&self, thread: u64, sectors: u64, device: bool) -> impl Iterator<Item = Operation> + use<> {
        let mut s = self.seed * 1_000_003 + thread + 1;
        let (threads, regions) = (self.threads, sectors / REGION / self.threads);
        std::iter::repeat_with(move || {
            let kind = match next(&mut s) % 24 {
                0 | 1 if device => Kind::Zero,
                2 if device => Kind::Discard,
                _ => Kind::Write,
            };
            let region = next(&mut s) % regions * threads + thread;
            let start = next(&mut s) % REGION;
            let most = match next(&mut s) % 4 {
                0 => REGION - start,
                _ => (REGION - start).min(16),
            };
            let length = 1 + next(&mut s) % most;
            // Whether it flushes then.
            next(&mut s);
            let start = region * REGION + start;
            Operation { kind, start, length }
        })
    }

    /// The disk when just that has been done, with nothing discarded.
    pub fn disk(&self, done: &[u64], before: &[u8]) -> Vec<u8> {
        let mut disk = before.to_vec();
        let sectors = (disk.len() / SECTOR) as u64;
        for (thread, done) in (0..).zip(done) {
            for (sequence, o) in (1..=*done).zip(self.operations(thread, sectors, true)) {
                for sector in o.start..o.start + o.length {
                    let content = match o.kind {
                        Kind::Write => self.sector(thread, sequence, sector),
                        Kind::Zero => [0; SECTOR],
                        Kind::Discard => continue,
                    };
                    disk[sector as usize * SECTOR..][..SECTOR].copy_from_slice(&content);
                }
            }
        }
        disk
    }

    /// Whether `now` is what may be left of `before` when everything up to `durable` was flushed.
    pub fn check(&self, device: bool, durable: &[u64], before: &[u8], now: &[u8]) -> Result<(), String> {
        let sectors = (now.len() / SECTOR) as u64;
        let mut allowed = vec![vec![Value::Before]; sectors as usize];
        for (thread, durable) in (0..).zip(durable) {
            let operations = self.operations(thread, sectors, device);
            for (sequence, o) in (1..=durable + AHEAD).zip(operations) {
                let value = match o.kind {
                    Kind::Write => Value::Written { thread, sequence },
                    Kind::Zero | Kind::Discard => Value::Zero,
                };
                for values in &mut allowed[o.start as usize..(o.start + o.length) as usize] {
                    // A discarded sector may also stay as it was (virtio 1.2 §5.2.6.2).
                    if sequence <= *durable && !matches!(o.kind, Kind::Discard) {
                        values.clear();
                    }
                    if !values.contains(&value) {
                        values.push(value);
                    }
                }
            }
        }
        for (sector, values) in (0..).zip(&allowed) {
            let range = sector as usize * SECTOR..(sector as usize + 1) * SECTOR;
            let is = &now[range.clone()];
            let fits = |v: &Value| match *v {
                Value::Before => is == &before[range.clone()],
                Value::Zero => is.iter().all(|b| *b == 0),
                Value::Written { thread, sequence } => is[..] == self.sector(thread, sequence, sector),
            };
            if !values.iter().any(fits) {
                let word = |n: usize| u64::from_le_bytes(is[8 * n..8 * n + 8].try_into().expect("eight"));
                let was = is == &before[range.clone()];
                return Err(format!(
                    "sector {sector} is none of the {} allowed, first {:?}; it says sector {}, thread {}, sequence {}, \
                     and is {}as before",
                    values.len(),
                    values.first(),
                    word(0),
                    word(1) >> 48,
                    word(1) & ((1 << 48) - 1),
                    if was { "" } else { "not " },
                ));
            }
        }
        Ok(())
    }
}
