//! Where the content of a tree's files is.

use super::Error;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// Runs of zeroes that are not stored have at least this many bytes.
const PIECE: usize = 64 << 10;

/// A file with the content of other files, one after another.
#[derive(Debug)]
pub struct Spool {
    file: File,
    end: u64,
}

/// A file's content: parts of a spool, and zeroes between them.
#[derive(Clone, Debug, Default)]
pub struct Content {
    size: u64,
    /// In ascending order, without overlap.
    segments: Vec<Segment>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// Where in the content.
    pub(crate) at: u64,
    pub(crate) len: u64,
    /// Where in the spool.
    offset: u64,
}

impl Content {
    /// Its bytes, zeroes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub(super) fn weight(&self) -> usize {
        self.segments.len() * size_of::<Segment>()
    }
}

impl Spool {
    /// Writes to `file`, which nobody else changes. Best one without a name, that goes with the process.
    pub fn new(file: File) -> Self {
        Self { file, end: 0 }
    }

    /// Reads content from `at` on; what is behind its end is left alone.
    pub fn read_at(&self, content: &Content, at: u64, out: &mut [u8]) -> io::Result<()> {
        let end = content.size.min(at.saturating_add(out.len() as u64));
        let Some(len) = end.checked_sub(at) else {
            return Ok(());
        };
        out[..len as usize].fill(0);
        let first = content.segments.partition_point(|s| s.at + s.len <= at);
        for segment in content.segments[first..].iter().take_while(|s| s.at < end) {
            let (from, to) = (segment.at.max(at), (segment.at + segment.len).min(end));
            let part = &mut out[(from - at) as usize..(to - at) as usize];
            self.file
                .read_exact_at(part, segment.offset + (from - segment.at))?;
        }
        Ok(())
    }

    /// Takes in content of `size` bytes, or if that is not known as many as there are. `runs` says where the bytes of
    /// `reader` belong (offset and length, ascending); what is between them are zeroes. There may be at most `left`
    /// bytes; `limit` is what the error says.
    pub(super) fn append(
        &mut self,
        reader: &mut dyn Read,
        size: Option<u64>,
        runs: &[(u64, u64)],
        left: u64,
        limit: u64,
    ) -> Result<Content, Error> {
        if size.is_some_and(|size| size > left) {
            return Err(Error::Content(limit));
        }
        let mut content = Content::default();
        for &(at, len) in runs {
            let end = self.append_run(reader, at, len, left, &mut content)?;
            if end > left {
                return Err(Error::Content(limit));
            }
            if size.is_some() && end < at + len {
                return Err(Error::Read(io::ErrorKind::UnexpectedEof.into()));
            }
            content.size = end;
        }
        content.size = size.unwrap_or(content.size);
        Ok(content)
    }

    /// Takes in `len` bytes, or what there is, to `at`; stops behind `left`. Returns where they end.
    fn append_run(
        &mut self,
        reader: &mut dyn Read,
        mut at: u64,
        mut len: u64,
        left: u64,
        content: &mut Content,
    ) -> Result<u64, Error> {
        let mut buffer = vec![0; usize::try_from(len).map_or(PIECE, |len| len.min(PIECE))];
        while len > 0 && at <= left {
            let want = usize::try_from(len).map_or(PIECE, |len| len.min(PIECE));
            let got = read_full(reader, &mut buffer[..want]).map_err(Error::Read)?;
            let piece = &buffer[..got];
            if piece.iter().any(|b| *b != 0) {
                self.file.write_all_at(piece, self.end).map_err(Error::Spool)?;
                content.push(at, self.end, got as u64);
                self.end += got as u64;
            }
            at += got as u64;
            len -= got as u64;
            if got < want {
                break;
            }
        }
        Ok(at)
    }
}

impl Content {
    fn push(&mut self, at: u64, offset: u64, len: u64) {
        match self.segments.last_mut() {
            Some(last) if last.at + last.len == at && last.offset + last.len == offset => last.len += len,
            _ => self.segments.push(Segment { at, len, offset }),
        }
    }
}

/// Reads until the buffer is full or there is no more.
fn read_full(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match reader.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}
