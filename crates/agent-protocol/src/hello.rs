//! How a session begins: both sides say which versions of the protocol they speak. These records never change.

use crate::frame::{FrameError, FrameReader, FrameWriter};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};

/// The versions spoken here, first and last.
pub const VERSIONS: (u16, u16) = (1, 1);
/// What every first message begins with.
const MAGIC: [u8; 4] = *b"djag";

/// The first message of both sides; the host sends its own first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    magic: [u8; 4],
    first: u16,
    last: u16,
}

/// Why there can be no session.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The connection failed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It ended.
    #[error("the connection was closed")]
    Closed,
    /// Something else talks there.
    #[error("what answers is not donjon's agent")]
    Stranger,
    /// There is no common version.
    #[error(
        "the other side speaks versions {0} to {1} of the protocol, this one {first} to {last}",
        first = VERSIONS.0, last = VERSIONS.1
    )]
    Version(u16, u16),
}

impl Hello {
    /// What this version says.
    pub fn ours() -> Self {
        Self {
            magic: MAGIC,
            first: VERSIONS.0,
            last: VERSIONS.1,
        }
    }

    /// The highest version that both sides speak.
    fn common(&self) -> Result<u16, HelloError> {
        if self.magic != MAGIC {
            return Err(HelloError::Stranger);
        }
        let version = self.last.min(VERSIONS.1);
        if version < self.first.max(VERSIONS.0) {
            return Err(HelloError::Version(self.first, self.last));
        }
        Ok(version)
    }
}

/// Reads the other side's.
fn hear(reader: &mut FrameReader<impl Read>) -> Result<u16, HelloError> {
    match reader.next::<Hello>() {
        Ok(Some(hello)) => hello.common(),
        Ok(None) => Err(HelloError::Closed),
        Err(FrameError::Malformed | FrameError::Length(_)) => Err(HelloError::Stranger),
        Err(e) => Err(e.into()),
    }
}

/// The host's part. Returns the version.
pub fn greet(
    reader: &mut FrameReader<impl Read>,
    writer: &mut FrameWriter<impl Write>,
) -> Result<u16, HelloError> {
    writer.send(&Hello::ours())?;
    hear(reader)
}

/// The agent's part. Returns the version. Where there is no common one the host is told ours all the same.
pub fn answer(
    reader: &mut FrameReader<impl Read>,
    writer: &mut FrameWriter<impl Write>,
) -> Result<u16, HelloError> {
    let version = hear(reader);
    if !matches!(
        version,
        Err(HelloError::Stranger | HelloError::Closed | HelloError::Frame(_))
    ) {
        writer.send(&Hello::ours())?;
    }
    version
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(magic: &[u8; 4], first: u16, last: u16) -> Vec<u8> {
        let mut out = vec![];
        let magic = *magic;
        let hello = Hello { magic, first, last };
        FrameWriter::new(&mut out).send(&hello).unwrap();
        out
    }

    fn answered(bytes: &[u8]) -> (Result<u16, HelloError>, usize) {
        let mut out = vec![];
        let result = answer(&mut FrameReader::new(bytes), &mut FrameWriter::new(&mut out));
        (result, out.len())
    }

    #[test]
    fn the_highest_common_version_is_taken() {
        assert!(matches!(answered(&hello(&MAGIC, 1, 1)).0, Ok(1)));
        assert!(matches!(answered(&hello(&MAGIC, 0, u16::MAX)).0, Ok(1)));
        let (result, said) = answered(&hello(&MAGIC, 2, 9));
        assert!(matches!(result, Err(HelloError::Version(2, 9))));
        assert!(said > 0);
        // First behind last.
        assert!(matches!(
            answered(&hello(&MAGIC, 9, 0)).0,
            Err(HelloError::Version(9, 0))
        ));
    }

    #[test]
    fn strangers_are_told_nothing() {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x01\0\0\0\0", b""] {
            let (result, said) = answered(bytes);
            assert!(matches!(result, Err(HelloError::Stranger | HelloError::Closed)));
            assert_eq!(said, 0);
        }
        assert!(matches!(
            answered(&hello(b"nope", 1, 1)).0,
            Err(HelloError::Stranger)
        ));
    }
}
