//! Reading a tar stream of unknown origin: POSIX ustar and pax, and GNU's long names. Nothing is kept but one entry's
//! names, which are bounded.

use super::CopyError;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use tar::{Archive, Entry, EntryType, Header};

/// The longest name: PATH_MAX and a zero.
const LONGEST_NAME: u64 = 4097;
/// The longest extended header.
const LONGEST_EXTENSION: u64 = 64 << 10;

/// An entry.
pub struct Item<'a, 'b, R: Read> {
    pub path: PathBuf,
    /// What a link leads to.
    pub link: PathBuf,
    pub kind: EntryType,
    pub mode: u32,
    pub owner: (u32, u32),
    /// Seconds since 1970.
    pub mtime: u64,
    pub size: u64,
    pub content: &'b mut Entry<'a, R>,
}

/// What extensions say of the entry behind them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// Visits each entry, in order.
pub fn each<R: Read>(
    input: R,
    mut visit: impl FnMut(Item<'_, '_, R>) -> Result<(), CopyError>,
) -> Result<(), CopyError> {
    let mut archive = Archive::new(input);
    let mut extended = Extended::default();
    for entry in archive.entries().map_err(CopyError::Stream)?.raw(true) {
        let mut entry = entry.map_err(CopyError::Stream)?;
        match entry.header().entry_type() {
            EntryType::GNULongName => extended.path = Some(name(&mut entry)?),
            EntryType::GNULongLink => extended.link = Some(name(&mut entry)?),
            EntryType::XHeader => extended.pax(&mut entry)?,
            // Of all entries: nothing that matters here.
            EntryType::XGlobalHeader => {}
            _ => visit(std::mem::take(&mut extended).item(&mut entry)?)?,
        }
    }
    Ok(())
}

/// The content of an extension, if it is not longer than it may be.
fn bounded(entry: &mut Entry<'_, impl Read>, limit: u64) -> Result<Vec<u8>, CopyError> {
    if entry.size() > limit {
        return Err(CopyError::Unsupported(
            PathBuf::new(),
            "whose name is longer than a path can be",
        ));
    }
    let mut content = vec![];
    let read = entry.take(limit).read_to_end(&mut content);
    read.map_err(CopyError::Stream)?;
    Ok(content)
}

fn name(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, CopyError> {
    let mut name = bounded(entry, LONGEST_NAME)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

impl Extended {
    fn pax(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<(), CopyError> {
        let content = bounded(entry, LONGEST_EXTENSION)?;
        let mut rest = &content[..];
        while !rest.is_empty() {
            let damaged = || CopyError::Unsupported(PathBuf::new(), "with a damaged pax header");
            let (key, value, behind) = record(rest).ok_or_else(damaged)?;
            rest = behind;
            match key {
                b"path" => self.path = Some(value.into()),
                b"linkpath" => self.link = Some(value.into()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                    self.size = Some(size.ok_or_else(damaged)?);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(CopyError::Unsupported(PathBuf::new(), "a sparse file of pax"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn item<'a, 'b, R: Read>(self, content: &'b mut Entry<'a, R>) -> Result<Item<'a, 'b, R>, CopyError> {
        let header: &Header = content.header();
        let path = self.path.unwrap_or_else(|| content.path_bytes().into_owned());
        let path = PathBuf::from(OsString::from_vec(path));
        let link = self
            .link
            .or_else(|| content.link_name_bytes().map(|l| l.into_owned()));
        let size = content.size();
        // The reader goes by the header's own, which has room for any size in GNU's notation.
        if self.size.is_some_and(|s| s != size) {
            return Err(CopyError::Unsupported(path, "with a size in a pax header"));
        }
        let bad = |_| CopyError::Unsupported(path.clone(), "with a damaged header");
        let id = |id: u64| u32::try_from(id).unwrap_or(u32::MAX - 1);
        Ok(Item {
            link: OsString::from_vec(link.unwrap_or_default()).into(),
            kind: header.entry_type(),
            mode: header.mode().map_err(bad)?,
            owner: (id(header.uid().map_err(bad)?), id(header.gid().map_err(bad)?)),
            mtime: header.mtime().map_err(bad)?,
            size,
            path,
            content,
        })
    }
}

/// Splits `LENGTH KEY=VALUE` and a newline off extended headers (pax(1) of POSIX). A value may have newlines in it.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|b| *b == b' ')?;
    let length: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

#[cfg(test)]
mod tests {
    use super::record;

    #[test]
    fn pax_records() {
        let (key, value, rest) = record(b"12 path=a\nb\n6 a=b\n").unwrap();
        assert_eq!((key, value, rest), (&b"path"[..], &b"a\nb"[..], &b"6 a=b\n"[..]));
        for bad in [
            "",
            "6",
            "6 ",
            "x a=b\n",
            "7 a=b\n",
            "5 a=b\n",
            "0 a=b\n",
            "1 a=b\n",
            "6 acb\n",
            "99999999999999999999 a=b\n",
        ] {
            assert_eq!(record(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
