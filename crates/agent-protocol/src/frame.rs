//! Frames: a length of four bytes, little-endian, and so many bytes of a postcard record
//! (postcard.jamesmunns.com/wire-format).

use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind, Read, Write};

/// The longest frame, in bytes, without its length.
pub const MAX_FRAME: usize = 64 << 10;
/// The most data that one message carries: with what is around it, it fits a frame.
pub const MAX_DATA: usize = MAX_FRAME - 64;
/// Bytes of the length.
const HEADER: usize = 4;

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed, or ended in the middle of a frame.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// No frame has this length. What follows cannot be made sense of.
    #[error("a frame of {0} bytes came, where 1 to {MAX_FRAME} are possible")]
    Length(u32),
    /// Not a message of this version. The next frame may be one.
    #[error("a message came that this version does not know")]
    Malformed,
    /// What is to be sent is too long. Nothing was sent.
    #[error("a message of more than {MAX_FRAME} bytes cannot be sent")]
    TooLong,
}

impl FrameError {
    /// The connection's error, for callers that know no other.
    pub fn into_io(self) -> io::Error {
        match self {
            Self::Io(e) => e,
            other => io::Error::new(ErrorKind::InvalidData, other.to_string()),
        }
    }
}

/// Reads frames.
pub struct FrameReader<R> {
    inner: R,
    buffer: Vec<u8>,
}

impl<R: Read> FrameReader<R> {
    /// Reads them off `inner`, never more than the frame it was asked for.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            buffer: vec![],
        }
    }

    /// What the frames are read off.
    pub fn get_ref(&self) -> &R {
        &self.inner
    }

    /// What the frames are read off.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.inner
    }

    /// The next message; `None` if the connection has ended before it.
    pub fn next<'a, M: Deserialize<'a>>(&'a mut self) -> Result<Option<M>, FrameError> {
        let mut header = [0; HEADER];
        if !self.begin(&mut header)? {
            return Ok(None);
        }
        let length = u32::from_le_bytes(header);
        if length == 0 || length as usize > MAX_FRAME {
            return Err(FrameError::Length(length));
        }
        self.buffer.resize(length as usize, 0);
        self.inner.read_exact(&mut self.buffer)?;
        self.last().map(Some)
    }

    /// The last message once more.
    pub fn last<'a, M: Deserialize<'a>>(&'a self) -> Result<M, FrameError> {
        match postcard::take_from_bytes(&self.buffer) {
            Ok((message, [])) => Ok(message),
            _ => Err(FrameError::Malformed),
        }
    }

    /// Reads a length; false at the end of the connection.
    fn begin(&mut self, header: &mut [u8; HEADER]) -> io::Result<bool> {
        let mut have = 0;
        while have < HEADER {
            match self.inner.read(&mut header[have..]) {
                Ok(0) if have == 0 => return Ok(false),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => have += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}

/// Writes frames.
pub struct FrameWriter<W> {
    inner: W,
    buffer: Vec<u8>,
}

impl<W: Write> FrameWriter<W> {
    /// Writes them to `inner`, each in one piece.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            buffer: vec![],
        }
    }

    /// What the frames are written to.
    pub fn get_ref(&self) -> &W {
        &self.inner
    }

    /// What the frames are written to.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.inner
    }

    /// Sends a message.
    pub fn send<M: Serialize>(&mut self, message: &M) -> Result<(), FrameError> {
        self.buffer.resize(HEADER + MAX_FRAME, 0);
        let length = match postcard::to_slice(message, &mut self.buffer[HEADER..]) {
            Ok(record) => record.len(),
            Err(_) => return Err(FrameError::TooLong),
        };
        self.buffer[..HEADER].copy_from_slice(&(length as u32).to_le_bytes());
        Ok(self.inner.write_all(&self.buffer[..HEADER + length])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reply, Request};
    use proptest::prelude::*;

    fn framed(payload: &[u8]) -> Vec<u8> {
        [&(payload.len() as u32).to_le_bytes(), payload].concat()
    }

    fn next<'a>(reader: &'a mut FrameReader<&[u8]>) -> Result<Option<Request<'a>>, FrameError> {
        reader.next()
    }

    #[test]
    fn lengths_are_checked_before_anything_is_kept() {
        for length in [0, MAX_FRAME as u32 + 1, u32::MAX] {
            let bytes = length.to_le_bytes();
            let mut reader = FrameReader::new(&bytes[..]);
            assert!(matches!(next(&mut reader), Err(FrameError::Length(n)) if n == length));
            assert_eq!(reader.buffer.capacity(), 0);
        }
    }

    #[test]
    fn an_unknown_message_does_not_spoil_the_next() {
        let mut bytes = framed(&[0xff; 9]);
        // A message with something behind it.
        bytes.extend(framed(&[0, 0]));
        bytes.extend(framed(&[0]));
        let mut reader = FrameReader::new(&bytes[..]);
        for _ in 0..2 {
            assert!(matches!(next(&mut reader), Err(FrameError::Malformed)));
        }
        assert!(matches!(next(&mut reader), Ok(Some(Request::Ping))));
        assert!(matches!(next(&mut reader), Ok(None)));
    }

    #[test]
    fn an_end_in_the_middle_is_an_error() {
        for cut in 1..5 {
            let bytes = framed(&[0]);
            let mut reader = FrameReader::new(&bytes[..cut]);
            match next(&mut reader) {
                Err(FrameError::Io(e)) => assert_eq!(e.kind(), ErrorKind::UnexpectedEof),
                Ok(Some(_)) => assert_eq!(cut, 5),
                other => panic!("{cut}: {other:?}"),
            }
            if cut == 4 {
                break;
            }
        }
    }

    #[test]
    fn the_most_data_fits_and_more_is_refused() {
        let mut out = FrameWriter::new(vec![]);
        out.send(&Reply::Stdout(&vec![7; MAX_DATA])).unwrap();
        let length = out.inner.len();
        let error = out.send(&Reply::Stdout(&vec![7; MAX_FRAME])).unwrap_err();
        assert!(matches!(error, FrameError::TooLong));
        assert_eq!(out.inner.len(), length);
        let mut reader = FrameReader::new(&out.inner[..]);
        assert!(matches!(reader.next(), Ok(Some(Reply::Stdout(d))) if d.len() == MAX_DATA));
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_or_understood(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let bytes = framed(&bytes);
            let _ = FrameReader::new(&bytes[..]).next::<Request>();
            let _ = FrameReader::new(&bytes[..]).next::<Reply>();
            let _ = FrameReader::new(&bytes[..]).next::<crate::exit::Report>();
        }
    }
}
