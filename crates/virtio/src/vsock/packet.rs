//! Packet headers (virtio 1.2 §5.10.6).

use donjon_memory::Scatter;

/// The host's CID.
pub const HOST: u64 = 2;
/// Stream sockets, the only type here.
pub const STREAM: u16 = 1;
/// Bytes of `virtio_vsock_hdr`.
pub const HEADER: usize = 44;

/// Operations.
pub mod op {
    pub const REQUEST: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const RST: u16 = 3;
    pub const SHUTDOWN: u16 = 4;
    pub const RW: u16 = 5;
    pub const CREDIT_UPDATE: u16 = 6;
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flags of [`op::SHUTDOWN`].
pub mod shutdown {
    /// The sender receives no more.
    pub const RECEIVE: u32 = 1;
    /// It sends no more.
    pub const SEND: u32 = 2;
    /// Neither.
    pub const BOTH: u32 = 3;
}

/// A header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    /// Bytes of payload.
    pub len: u32,
    pub kind: u16,
    pub op: u16,
    pub flags: u32,
    /// Bytes that the sender can hold.
    pub buf_alloc: u32,
    /// Bytes that it has passed on, modulo 2³².
    pub fwd_cnt: u32,
}

impl Header {
    /// The header at the start of a buffer, if there is room for one.
    pub fn load(buffer: &Scatter) -> Option<Self> {
        if buffer.len() < HEADER {
            return None;
        }
        let mut h = [0; HEADER];
        buffer.load(0, &mut h);
        let half = |at: usize| u16::from_le_bytes([h[at], h[at + 1]]);
        let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Some(Self {
            src_cid: long(0),
            dst_cid: long(8),
            src_port: word(16),
            dst_port: word(20),
            len: word(24),
            kind: half(28),
            op: half(30),
            flags: word(32),
            buf_alloc: word(36),
            fwd_cnt: word(40),
        })
    }

    /// Its bytes.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut h = [0; HEADER];
        let mut put = |at: usize, bytes: &[u8]| h[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.src_cid.to_le_bytes());
        put(8, &self.dst_cid.to_le_bytes());
        put(16, &self.src_port.to_le_bytes());
        put(20, &self.dst_port.to_le_bytes());
        put(24, &self.len.to_le_bytes());
        put(28, &self.kind.to_le_bytes());
        put(30, &self.op.to_le_bytes());
        put(32, &self.flags.to_le_bytes());
        put(36, &self.buf_alloc.to_le_bytes());
        put(40, &self.fwd_cnt.to_le_bytes());
        h
    }

    /// The reset that answers a packet of no connection.
    pub fn refusal(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: op::RST,
            ..Self::default()
        }
    }
}
