//! The driver: rings, commands, and what completes them.

use super::*;

/// A command under construction.
#[derive(Clone, Copy)]
pub struct Sqe(pub [u32; 16]);

pub fn sqe(opcode: u8, nsid: u32) -> Sqe {
    let mut words = [0; 16];
    words[0] = opcode.into();
    words[1] = nsid;
    Sqe(words)
}

impl Sqe {
    pub fn dw(mut self, n: usize, value: u32) -> Self {
        self.0[n] = value;
        self
    }
    pub fn prp(self, prp1: u64, prp2: u64) -> Self {
        self.dw(6, prp1 as u32)
            .dw(7, (prp1 >> 32) as u32)
            .dw(8, prp2 as u32)
            .dw(9, (prp2 >> 32) as u32)
    }
    pub fn lba(self, lba: u64) -> Self {
        self.dw(10, lba as u32).dw(11, (lba >> 32) as u32)
    }
}

/// A completion queue entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cqe {
    pub result: u32,
    pub head: u16,
    pub sq: u16,
    pub cid: u16,
    /// Status code and type, without Do Not Retry.
    pub status: u16,
}

/// The driver's side of a submission queue and its completion queue.
#[derive(Clone)]
pub struct Pair {
    pub id: u16,
    pub cq: u16,
    pub sq_at: u64,
    pub cq_at: u64,
    pub size: u16,
    pub tail: u16,
    pub head: u16,
    pub phase: bool,
}

impl Rig {
    pub fn enable(&mut self) {
        self.put(at::AQA, 31 | 31 << 16);
        self.nvme.write(0, at::ASQ, 8, 0x1000);
        self.nvme.write(0, at::ACQ, 8, 0x2000);
        self.ram.write(0x2000, &[0; 4096]).unwrap();
        self.put(at::CC, 1 | 6 << 16 | 4 << 20);
        assert_eq!(self.get(at::CSTS), 1);
        self.pairs = vec![Pair {
            id: 0,
            cq: 0,
            sq_at: 0x1000,
            cq_at: 0x2000,
            size: 32,
            tail: 0,
            head: 0,
            phase: true,
        }];
    }

    /// Where the rings of pair `id` are.
    pub fn place(id: u16, size: u16) -> Pair {
        let sq_at = (1 << 20) + u64::from(id) * 0x20000;
        Pair {
            id,
            cq: id,
            sq_at,
            cq_at: sq_at + 0x10000,
            size,
            tail: 0,
            head: 0,
            phase: true,
        }
    }

    pub fn create_cq(&mut self, pair: &Pair) -> u16 {
        self.ram
            .write(pair.cq_at, &vec![0; usize::from(pair.size) * 16])
            .unwrap();
        let size = u32::from(pair.size - 1) << 16;
        let c = sqe(5, 0).prp(pair.cq_at, 0).dw(10, u32::from(pair.cq) | size);
        self.admin(c.dw(11, 3 | u32::from(pair.cq) << 16)).status
    }

    pub fn create_sq(&mut self, pair: &Pair) -> u16 {
        let size = u32::from(pair.size - 1) << 16;
        let c = sqe(1, 0).prp(pair.sq_at, 0).dw(10, u32::from(pair.id) | size);
        self.admin(c.dw(11, 1 | u32::from(pair.cq) << 16)).status
    }

    /// Creates a pair of I/O queues; its index in `pairs`.
    pub fn add_pair(&mut self, id: u16, size: u16) -> usize {
        let pair = Self::place(id, size);
        assert_eq!(self.create_cq(&pair), 0);
        assert_eq!(self.create_sq(&pair), 0);
        self.pairs.push(pair);
        self.pairs.len() - 1
    }

    /// Puts a command into a ring without ringing; its identifier.
    pub fn queue(&mut self, n: usize, c: Sqe) -> u16 {
        let cid = self.next_cid;
        self.next_cid = (cid + 1) % 0x8000;
        let p = &mut self.pairs[n];
        let bytes: Vec<u8> = c
            .dw(0, c.0[0] | u32::from(cid) << 16)
            .0
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect();
        self.ram.write(p.sq_at + u64::from(p.tail) * 64, &bytes).unwrap();
        p.tail = (p.tail + 1) % p.size;
        cid
    }

    pub fn ring(&self, n: usize) {
        let p = &self.pairs[n];
        self.put(at::DOORBELLS + u64::from(p.id) * 8, p.tail.into());
    }

    pub fn send(&mut self, n: usize, c: Sqe) -> u16 {
        let cid = self.queue(n, c);
        self.ring(n);
        cid
    }

    /// The next completion, if there is one, without telling the controller.
    pub fn look(&mut self, n: usize) -> Option<Cqe> {
        let p = &mut self.pairs[n];
        let entry = (p.cq_at + u64::from(p.head) * 16) as usize;
        let high = self.ram.load::<u64>(entry + 8);
        if (high >> 48 & 1 != 0) != p.phase {
            return None;
        }
        p.head = (p.head + 1) % p.size;
        p.phase ^= p.head == 0;
        Some(Cqe {
            result: self.ram.load(entry),
            head: high as u16,
            sq: (high >> 16) as u16,
            cid: (high >> 32) as u16,
            status: (high >> 49) as u16 & 0x7ff,
        })
    }

    pub fn ring_head(&self, n: usize) {
        let p = &self.pairs[n];
        self.put(at::DOORBELLS + u64::from(p.cq) * 8 + 4, p.head.into());
    }

    #[track_caller]
    pub fn wait(&mut self, n: usize) -> Cqe {
        let start = Instant::now();
        loop {
            if let Some(cqe) = self.look(n) {
                self.ring_head(n);
                return cqe;
            }
            assert!(start.elapsed() < PATIENCE, "no completion");
            std::thread::yield_now();
        }
    }

    #[track_caller]
    pub fn run(&mut self, n: usize, c: Sqe) -> Cqe {
        let cid = self.send(n, c);
        let cqe = self.wait(n);
        assert_eq!((cqe.cid, cqe.sq), (cid, self.pairs[n].id));
        cqe
    }

    #[track_caller]
    pub fn admin(&mut self, c: Sqe) -> Cqe {
        self.run(0, c)
    }

    pub fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.ram.read(at, &mut out).unwrap();
        out
    }

    /// Identify: the page.
    pub fn identify(&mut self, cns: u32, nsid: u32) -> Result<Vec<u8>, u16> {
        let c = self.admin(sqe(6, nsid).prp(DATA, 0).dw(10, cns));
        if c.status == 0 {
            Ok(self.bytes(DATA, 4096))
        } else {
            Err(c.status)
        }
    }

    /// Get Log Page, at most a page of it.
    pub fn log(&mut self, id: u32, len: u32) -> Result<Vec<u8>, u16> {
        let c = sqe(2, 1).prp(DATA, 0).dw(10, id | (len / 4 - 1) << 16);
        let c = self.admin(c);
        if c.status == 0 {
            Ok(self.bytes(DATA, len as usize))
        } else {
            Err(c.status)
        }
    }

    /// Writes or reads `count` sectors at `DATA` in whole pages.
    #[track_caller]
    pub fn transfer(&mut self, n: usize, opcode: u8, lba: u64, count: u32) -> u16 {
        let c = transfer(&self.ram, opcode, lba, count, DATA);
        self.run(n, c).status
    }
}

/// A read or write with its pages from `at` on, and its PRP list before them.
pub fn transfer(ram: &Ram, opcode: u8, lba: u64, count: u32, at: u64) -> Sqe {
    let pages = u64::from(count).div_ceil(8);
    let mut prp2 = at + 4096;
    if pages > 2 {
        prp2 = at - 4096;
        for n in 1..pages {
            ram.store((prp2 + (n - 1) * 8) as usize, at + n * 4096);
        }
    }
    sqe(opcode, 1).prp(at, prp2).lba(lba).dw(12, count - 1)
}

/// Bytes that differ from place to place.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|n| ((n ^ seed) * 7 % 251 + seed) as u8)
        .collect()
}

/// Numbers that a test runs through, the same each time.
pub struct Numbers(pub AtomicU64);

impl Numbers {
    pub fn next(&self) -> u64 {
        // xorshift64.
        let mut x = self.0.load(SeqCst);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.store(x, SeqCst);
        x
    }
}
