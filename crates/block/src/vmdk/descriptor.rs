//! The descriptor ("Virtual Disk Format 5.0", "The Descriptor File"): text that says what extents a disk has.

use super::header::unsupported;
use crate::error::{Corrupt, OpenError};
use std::path::Path;

/// Bytes of a descriptor, at most.
pub(super) const MAX: u64 = 1 << 20;
/// Extents, at most: 2 TiB in pieces of 2 GiB.
const EXTENTS: usize = 1024;
/// Bytes of a file's name, at most.
const NAME: usize = 255;

/// A descriptor.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub create_type: String,
    pub extents: Vec<ExtentLine>,
}

/// An extent, as it is described.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExtentLine {
    pub sectors: u64,
    pub kind: ExtentKind,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum ExtentKind {
    /// A file with grains.
    Sparse(String),
    /// A file from that sector on.
    Flat(String, u64),
    /// Zeroes.
    Zero,
}

impl Descriptor {
    /// Reads the text, up to a zero byte. `file` is where it is.
    pub(super) fn parse(text: &[u8], file: &Path) -> Result<Self, OpenError> {
        let wrong = |what: &str| OpenError::from(Corrupt::vmdk(file, format!("its descriptor {what}"), 0));
        let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
        let text = String::from_utf8_lossy(&text[..end]);
        let mut create_type = None;
        let mut parent = None;
        let mut extents = vec![];
        for line in text.lines().map(str::trim).filter(|l| !l.starts_with('#')) {
            if let Some(rest) = extent_line(line) {
                if extents.len() == EXTENTS {
                    return Err(unsupported(
                        file,
                        format!("a disk with more than {EXTENTS} extents"),
                    ));
                }
                extents.push(ExtentLine::parse(rest, line, file)?);
            } else if let Some((key, value)) = line.split_once('=') {
                let value = value.trim().trim_matches('"');
                match key.trim().to_ascii_lowercase().as_str() {
                    "createtype" => create_type = Some(shown(value)),
                    "parentcid" => parent = Some(value.to_owned()),
                    "parentfilenamehint" if !value.is_empty() => {
                        return Err(unsupported(file, format!("a snapshot of {:?}", shown(value))));
                    }
                    _ => {}
                }
            }
        }
        match parent.map(|p| u32::from_str_radix(&p, 16)) {
            None => return Err(wrong("has no parentCID")),
            Some(Err(_)) => return Err(wrong("has a parentCID that is no number")),
            Some(Ok(u32::MAX)) => {}
            Some(Ok(cid)) => return Err(unsupported(file, format!("a snapshot (parentCID {cid:08x})"))),
        }
        Ok(Self {
            create_type: create_type.ok_or_else(|| wrong("has no createType"))?,
            extents,
        })
    }
}

/// What is behind the access mode of an extent's line, if it is one.
fn extent_line(line: &str) -> Option<&str> {
    let (access, rest) = line.split_once(char::is_whitespace)?;
    // Everything is only read.
    matches!(access, "RW" | "RDONLY" | "NOACCESS").then(|| rest.trim_start())
}

impl ExtentLine {
    /// `4192256 SPARSE "disk-s001.vmdk"`, or FLAT, with the sector to start at behind it. VMFS is what ESX calls
    /// flat files, where 0 need not be said.
    fn parse(rest: &str, line: &str, file: &Path) -> Result<Self, OpenError> {
        let wrong = || Corrupt::vmdk(file, format!("its descriptor has the line {:?}", shown(line)), 0);
        let (sectors, rest) = word(rest);
        let sectors = sectors.parse().map_err(|_| wrong())?;
        let (kind, rest) = word(rest);
        let kind = match kind {
            "SPARSE" => match name(rest) {
                Some((name, "")) => ExtentKind::Sparse(plain(name, file)?),
                _ => return Err(wrong().into()),
            },
            "FLAT" | "VMFS" => {
                let (name, at) = name(rest).ok_or_else(wrong)?;
                let at = if at.is_empty() && kind == "VMFS" { "0" } else { at };
                ExtentKind::Flat(plain(name, file)?, at.parse().map_err(|_| wrong())?)
            }
            "ZERO" => ExtentKind::Zero,
            "" => return Err(wrong().into()),
            other => return Err(unsupported(file, format!("an extent of type {:?}", shown(other)))),
        };
        Ok(Self { sectors, kind })
    }
}

fn word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim_start())
}

/// A name in quotes, and what follows it.
fn name(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.strip_prefix('"')?.split_once('"')?;
    Some((name, rest.trim()))
}

/// A name of a file beside the descriptor, and no other: an image from elsewhere must not show its guest files of
/// the host's.
fn plain(name: &str, file: &Path) -> Result<String, OpenError> {
    match name {
        "" | "." | ".." => {}
        _ if name.contains('/') || name.len() > NAME => {}
        _ => return Ok(name.to_owned()),
    }
    Err(OpenError::ExtentElsewhere {
        file: file.to_owned(),
        extent: shown(name),
    })
}

/// As much of it as is of use in an error.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Descriptor, String> {
        Descriptor::parse(text.as_bytes(), Path::new("d.vmdk")).map_err(|e| e.to_string())
    }

    const HEAD: &str =
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"x\"\n";

    #[test]
    fn descriptors_are_read_as_tools_write_them() {
        let text = "# Disk Descriptor File\r\nversion = 1\r\nparentCID = FFFFFFFF\r\ncreateType=streamOptimized\r\n\
                    # Extent description\r\nRDONLY 100 SPARSE \"a b.vmdk\"\r\nRW\t7 FLAT \"b\"  12\r\n RW 8 VMFS \"c\"\r\n\
                    NOACCESS 9 ZERO\r\n#DDB\r\nddb.adapterType = \"ide\"\r\n\0RW x";
        let line = |sectors, kind| ExtentLine { sectors, kind };
        assert_eq!(
            parse(text).unwrap(),
            Descriptor {
                create_type: "streamOptimized".into(),
                extents: vec![
                    line(100, ExtentKind::Sparse("a b.vmdk".into())),
                    line(7, ExtentKind::Flat("b".into(), 12)),
                    line(8, ExtentKind::Flat("c".into(), 0)),
                    line(9, ExtentKind::Zero),
                ],
            }
        );
    }

    #[test]
    fn what_lies_elsewhere_or_is_another_format_is_refused() {
        for name in ["/etc/shadow", "../x", "a/b", "..", ".", "", &"x".repeat(256)] {
            for line in [format!("SPARSE \"{name}\""), format!("FLAT \"{name}\" 0")] {
                let error = parse(&format!("{HEAD}RW 1 {line}\n")).unwrap_err();
                assert!(error.contains("not beside it"), "{error}");
            }
        }
        for (line, part) in [
            ("RW 1 VMFSSPARSE \"a\"", "\"VMFSSPARSE\" is not supported"),
            ("RW 1 SESPARSE \"a\"", "\"SESPARSE\" is not supported"),
            ("parentFileNameHint=\"base.vmdk\"", "a snapshot of \"base.vmdk\""),
            ("parentCID=0000000a", "a snapshot (parentCID 0000000a)"),
            ("parentCID=x", "no number"),
            ("RW 1 FLAT \"a\"", "has the line"),
            ("RW 1 FLAT \"a\" -1", "has the line"),
            ("RW -1 ZERO", "has the line"),
            ("RW 1 SPARSE a", "has the line"),
            ("RW 1 SPARSE \"a\" 1", "has the line"),
            ("RW 1", "has the line"),
        ] {
            let error = parse(&format!("{HEAD}{line}\n")).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
        assert!(parse("createType=\"x\"").unwrap_err().contains("parentCID"));
        assert!(parse("parentCID=ffffffff").unwrap_err().contains("createType"));
        let many = HEAD.to_owned() + &"RW 1 ZERO\n".repeat(EXTENTS + 1);
        assert!(parse(&many).unwrap_err().contains("more than 1024 extents"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_with_few_words(
            lines in prop::collection::vec(
                "(RW|RDONLY|parentCID)[ =\t]{1,2}[0-9a-f]{0,20}[ ]?(SPARSE|FLAT|ZERO|VMFS|)[ ]?\"?[/.a-zé]{0,300}\"?[ ]?[0-9-]{0,25}",
                0..5,
            ),
            more: Vec<u8>,
        ) {
            let text = [HEAD.as_bytes(), lines.join("\n").as_bytes(), &more].concat();
            match Descriptor::parse(&text, Path::new("d.vmdk")) {
                Ok(found) => for extent in found.extents {
                    if let ExtentKind::Sparse(name) | ExtentKind::Flat(name, _) = extent.kind {
                        prop_assert!(!name.contains('/') && name != ".." && !name.is_empty());
                    }
                },
                Err(e) => prop_assert!(e.to_string().len() < 1200),
            }
        }
    }
}
