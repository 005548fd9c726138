//! Decompression of input that nobody vouches for: bounded in output and in memory.

use std::io::{self, Read};

/// Memory an xz stream may ask for, bytes. dpkg's strongest setting needs 65 MiB.
const XZ_MEMORY: u64 = 256 << 20;
/// Logarithm of the largest zstd window: 128 MiB, what its command line tool accepts by default.
const ZSTD_WINDOW_LOG: u32 = 27;

/// How something is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Not at all.
    None,
    /// XZ, concatenated streams allowed.
    Xz,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// What a file name's ending says: the name without it, and the compression. An unknown ending is part
    /// of the name.
    pub fn of_name(name: &str) -> (&str, Self) {
        for (ending, kind) in [(".xz", Self::Xz), (".zst", Self::Zstd)] {
            if let Some(rest) = name.strip_suffix(ending) {
                return (rest, kind);
            }
        }
        (name, Self::None)
    }

    /// A reader of at most `limit` bytes of what `input` holds; there it fails, it does not stop.
    pub fn reader<'a>(self, input: impl Read + 'a, limit: u64) -> io::Result<Box<dyn Read + 'a>> {
        let inner: Box<dyn Read + 'a> = match self {
            Self::None => Box::new(input),
            Self::Xz => {
                let stream =
                    liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED);
                Box::new(liblzma::read::XzDecoder::new_stream(
                    input,
                    stream.map_err(io::Error::other)?,
                ))
            }
            Self::Zstd => {
                let mut decoder = zstd::Decoder::new(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        };
        Ok(Box::new(Limited {
            inner,
            left: limit,
            limit,
        }))
    }
}

struct Limited<R> {
    inner: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // One byte more than allowed is asked for, to tell an end from an excess.
        let ask = buffer
            .len()
            .min(usize::try_from(self.left.saturating_add(1)).unwrap_or(usize::MAX));
        let n = self.inner.read(&mut buffer[..ask])?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("unpacks to more than {} bytes", self.limit),
            )
        })?;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(kind: Compression, data: &[u8], limit: u64) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        kind.reader(data, limit)?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn packed(kind: Compression, data: &[u8]) -> Vec<u8> {
        match kind {
            Compression::None => data.to_vec(),
            Compression::Xz => liblzma::encode_all(data, 6).unwrap(),
            Compression::Zstd => zstd::encode_all(data, 3).unwrap(),
        }
    }

    const ALL: [Compression; 3] = [Compression::None, Compression::Xz, Compression::Zstd];

    #[test]
    fn every_kind_comes_back() {
        let data: Vec<u8> = (0..100_000u32).map(|i| (i / 7) as u8).collect();
        for kind in ALL {
            let all = unpacked(kind, &packed(kind, &data), data.len() as u64);
            assert_eq!(all.unwrap(), data, "{kind:?}");
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let data = vec![0; 1 << 20];
        for kind in ALL {
            let error = unpacked(kind, &packed(kind, &data), (1 << 20) - 1)
                .unwrap_err()
                .to_string();
            assert!(error.contains("more than 1048575 bytes"), "{kind:?}: {error}");
        }
    }

    #[test]
    fn a_cut_or_changed_stream_is_an_error() {
        let data: Vec<u8> = (0..50_000u32).map(|i| ((i * i) >> 3) as u8).collect();
        for kind in [Compression::Xz, Compression::Zstd] {
            let whole = packed(kind, &data);
            assert!(
                unpacked(kind, &whole[..whole.len() / 2], 1 << 20).is_err(),
                "{kind:?} cut"
            );
            assert!(
                unpacked(kind, b"not compressed at all", 1 << 20).is_err(),
                "{kind:?} wrong kind"
            );
        }
    }

    #[test]
    fn endings_tell_the_kind() {
        assert_eq!(Compression::of_name("data.tar.xz"), ("data.tar", Compression::Xz));
        assert_eq!(Compression::of_name("a.ko.zst"), ("a.ko", Compression::Zstd));
        assert_eq!(Compression::of_name("a.tar.gz"), ("a.tar.gz", Compression::None));
    }
}
