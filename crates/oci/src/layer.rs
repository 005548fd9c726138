//! A layer's archive, decompressed, counted and digested.

use crate::digest::Hasher;
use crate::progress::{Event, Progress};
use crate::{Digest, Error};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};

/// The largest window of a zstd stream: 128 MiB, what the zstd program takes without being asked to.
const MAX_WINDOW_LOG: u32 = 27;
/// Up to this many bytes nobody asks how much came of how little.
const RATIO_FROM: u64 = 256 << 20;
/// Bytes between two calls of the callback.
const STEP: u64 = 4 << 20;

/// What bounds the layers of an image.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Uncompressed bytes that may still come.
    pub(crate) left: u64,
    /// What is said about that.
    pub(crate) limit: u64,
    /// Uncompressed bytes for each compressed one.
    pub(crate) ratio: u64,
}

/// Reads the uncompressed archive.
pub(crate) struct Archive<'a> {
    reader: Box<dyn Read>,
    compressed: u64,
    bounds: Bounds,
    hasher: Hasher,
    done: u64,
    told: u64,
    progress: &'a mut dyn FnMut(u64) -> Result<(), Error>,
    /// Why reading ended, if it was not the archive.
    stopped: Option<Error>,
}

impl<'a> Archive<'a> {
    /// How it is compressed shows at its beginning (RFC 1952, RFC 8878), whatever its media type says.
    pub(crate) fn new(
        mut file: File,
        bounds: Bounds,
        progress: &'a mut dyn FnMut(u64) -> Result<(), Error>,
    ) -> io::Result<Self> {
        let mut magic = [0; 4];
        let compressed = file.metadata()?.len();
        let known = match file.read_exact(&mut magic) {
            Ok(()) => magic,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => [0; 4],
            Err(e) => return Err(e),
        };
        file.rewind()?;
        let file = BufReader::with_capacity(256 << 10, file);
        let reader: Box<dyn Read> = match known {
            [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            [0x28, 0xb5, 0x2f, 0xfd] => {
                let mut decoder = zstd::Decoder::with_buffer(file)?;
                decoder.window_log_max(MAX_WINDOW_LOG)?;
                Box::new(decoder)
            }
            _ => Box::new(file),
        };
        Ok(Self {
            reader,
            compressed,
            bounds,
            hasher: Hasher::default(),
            done: 0,
            told: 0,
            progress,
            stopped: None,
        })
    }

    /// Reads what is left. Returns the digest of everything, and how many bytes that was.
    pub(crate) fn finish(&mut self) -> io::Result<(Digest, u64)> {
        io::copy(self, &mut io::sink())?;
        Ok((std::mem::take(&mut self.hasher).finish(), self.done))
    }

    /// Why reading ended, if it was not the archive.
    pub(crate) fn stopped(&mut self) -> Option<Error> {
        self.stopped.take()
    }

    fn check(&mut self) -> Result<(), Error> {
        let Bounds { left, limit, ratio } = self.bounds;
        if self.done > left {
            return Err(Error::Limit {
                what: format!("more than {limit} bytes unpacked"),
                limit,
            });
        }
        if self.done > RATIO_FROM && self.done / ratio > self.compressed {
            return Err(Error::Limit {
                what: format!(
                    "a layer of {} bytes that unpacks to {} and more (more than {ratio} for each one)",
                    self.compressed, self.done
                ),
                limit: ratio,
            });
        }
        if self.done - self.told >= STEP {
            self.told = self.done;
            (self.progress)(self.done)?;
        }
        Ok(())
    }
}

impl Read for Archive<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.reader.read(out)?;
        self.hasher.add(&out[..got]);
        self.done += got as u64;
        match self.check() {
            Ok(()) => Ok(got),
            Err(error) => {
                let text = error.to_string();
                self.stopped = Some(error);
                Err(io::Error::other(text))
            }
        }
    }
}

/// Tells how far unpacking is.
pub(crate) fn tell_unpacking<'a>(
    progress: &'a mut Progress<'_>,
    layer: usize,
    layers: usize,
    before: u64,
) -> impl FnMut(u64) -> Result<(), Error> + 'a {
    move |bytes| {
        let bytes = before + bytes;
        crate::progress::tell(progress, Event::Unpacking { layer, layers, bytes })
    }
}
