//! What a compressed payload unpacks to, as a stream that holds a bounded part of it at a time.

use super::lz4::Lz4Legacy;
use super::payload::Format;
use liblzma::stream::Stream;
use std::io::{self, BufRead, BufReader, Read};

/// Small enough for the second-level cache, from where the next reader takes it.
const PIECE: usize = 1 << 18;
/// Linux is compressed with dictionaries of up to 128 MiB (scripts/xz_wrap.sh); the decoder itself needs little.
const XZ_MEMORY: u64 = 160 << 20;

/// Unpacks what `input` reads. Damage shows as an error at the latest instead of the end.
pub fn unpack<'a>(format: Format, input: impl Read + 'a) -> io::Result<Box<dyn BufRead + 'a>> {
    let input = BufReader::with_capacity(PIECE, input);
    Ok(match format {
        Format::Lz4 => Box::new(Lz4Legacy::new(input)?),
        Format::Gzip => pieces(flate2::bufread::GzDecoder::new(input)),
        Format::Zstd => pieces(zstd::Decoder::with_buffer(input)?.single_frame()),
        Format::Xz => pieces(xz(input, Stream::new_stream_decoder(XZ_MEMORY, 0)?)),
        Format::Lzma => pieces(xz(input, Stream::new_lzma_decoder(XZ_MEMORY)?)),
    })
}

fn xz<R: BufRead>(input: R, decoder: Stream) -> liblzma::bufread::XzDecoder<R> {
    liblzma::bufread::XzDecoder::new_stream(input, decoder)
}

fn pieces<'a>(decoder: impl Read + 'a) -> Box<dyn BufRead + 'a> {
    Box::new(BufReader::with_capacity(PIECE, decoder))
}
