//! How a device's state is saved, restored and reset.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// One device's saved state: which kind of device, in which version of its encoding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The kind of device, such as `"rtc"`.
    pub kind: String,
    /// Version of the encoding of `bytes`.
    pub version: u16,
    /// The state.
    pub bytes: Vec<u8>,
}

/// What a device answers when its domain is saved, forked or moved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Migrate {
    /// It has no state.
    Stateless,
    /// This is all of it.
    State(Record),
    /// It cannot be moved, and why.
    Refuse(String),
}

/// Why a record was not accepted. The device keeps the state it had.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RestoreError {
    /// A record of another device.
    #[error("saved state of kind {found:?} given to a device of kind {expected:?}")]
    Kind {
        /// The device's.
        expected: &'static str,
        /// The record's.
        found: String,
    },
    /// A version this build cannot read.
    #[error("saved state of {kind} has version {found}, this build reads up to {known}; use a newer donjon")]
    Version {
        /// The device.
        kind: &'static str,
        /// The record's version.
        found: u16,
        /// The newest version known.
        known: u16,
    },
    /// Not an encoding of any state.
    #[error("saved state of {kind} is damaged: {what}")]
    Damaged {
        /// The device.
        kind: &'static str,
        /// What is wrong.
        what: String,
    },
}

/// What every part of the board does over the life of its domain.
///
/// Order: the vCPUs are stopped and [`crate::timer::Timers::pause`] has returned before any of these is
/// called. Interrupt sinks (local APICs, PIC, I/O APIC) are restored before the devices that drive them: a
/// restored device sets its line again, and a sink that already has that level ignores it.
pub trait Lifecycle: Send + Sync {
    /// Power-on reset.
    fn reset(&self);

    /// The whole state, for saving, forking and migration. There is no default: a device that forgets its
    /// state must not compile.
    fn migrate(&self) -> Migrate;

    /// Replaces the whole state.
    fn restore(&self, record: &Record) -> Result<(), RestoreError>;
}

/// A saved form: plain data, apart from the type the device runs on.
pub trait Saved: Serialize + DeserializeOwned {
    /// The kind of device, [`Record::kind`].
    const KIND: &'static str;
    /// The version of this encoding.
    const VERSION: u16;

    /// This state as a record.
    fn save(&self) -> Migrate {
        match postcard::to_stdvec(self) {
            Ok(bytes) => Migrate::State(Record {
                kind: Self::KIND.to_owned(),
                version: Self::VERSION,
                bytes,
            }),
            Err(e) => Migrate::Refuse(format!("{} cannot be encoded: {e}", Self::KIND)),
        }
    }

    /// The state in a record of this kind and version. Whether its values can be is the device's to check.
    fn open(record: &Record) -> Result<Self, RestoreError> {
        if record.kind != Self::KIND {
            return Err(RestoreError::Kind {
                expected: Self::KIND,
                found: record.kind.clone(),
            });
        }
        if record.version != Self::VERSION {
            let (found, known) = (record.version, Self::VERSION);
            return Err(RestoreError::Version {
                kind: Self::KIND,
                found,
                known,
            });
        }
        match postcard::take_from_bytes(&record.bytes) {
            Ok((state, [])) => Ok(state),
            Ok((_, rest)) => Err(Self::damaged(format!("{} bytes too many", rest.len()))),
            Err(e) => Err(Self::damaged(e.to_string())),
        }
    }

    /// That a record holds a state no device can be in.
    fn damaged(what: impl Into<String>) -> RestoreError {
        RestoreError::Damaged {
            kind: Self::KIND,
            what: what.into(),
        }
    }
}
