//! Status codes (NVM Express Base 1.4 §4.6.1).

/// The status field of a completion, without the phase tag: status code in bits 7:0, status code type in bits
/// 10:8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(pub u16);

/// Do Not Retry: the same command will fail again.
const DNR: u16 = 1 << 14;

/// A generic command status.
const fn generic(code: u16) -> Status {
    Status(code | DNR)
}

/// A status of one command.
const fn specific(code: u16) -> Status {
    Status(0x100 | code | DNR)
}

impl Status {
    pub const SUCCESS: Self = Self(0);
    pub const INVALID_OPCODE: Self = generic(0x01);
    pub const INVALID_FIELD: Self = generic(0x02);
    pub const DATA_TRANSFER_ERROR: Self = generic(0x04);
    pub const INTERNAL_ERROR: Self = generic(0x06);
    pub const ABORT_REQUESTED: Self = Self(0x07);
    pub const INVALID_NAMESPACE: Self = generic(0x0b);
    pub const SEQUENCE_ERROR: Self = generic(0x0c);
    pub const PRP_OFFSET_INVALID: Self = generic(0x13);
    pub const WRITE_PROTECTED: Self = generic(0x20);
    pub const LBA_OUT_OF_RANGE: Self = generic(0x80);
    pub const CAPACITY_EXCEEDED: Self = Self(0x81);

    pub const CQ_INVALID: Self = specific(0x00);
    pub const INVALID_QUEUE_ID: Self = specific(0x01);
    pub const INVALID_QUEUE_SIZE: Self = specific(0x02);
    pub const EVENT_LIMIT_EXCEEDED: Self = specific(0x05);
    pub const INVALID_VECTOR: Self = specific(0x08);
    pub const INVALID_LOG_PAGE: Self = specific(0x09);
    pub const INVALID_QUEUE_DELETION: Self = specific(0x0c);
    pub const NOT_SAVEABLE: Self = specific(0x0d);

    pub const WRITE_FAULT: Self = Self(0x280);
    pub const UNRECOVERED_READ_ERROR: Self = Self(0x281);

    pub fn is_error(self) -> bool {
        self.0 != 0
    }
}
