//! Pax extended headers (POSIX.1-2017, pax, "pax Extended Header").

use crate::Timestamp;
use std::collections::BTreeMap;

/// What the headers before a member's own say about it.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
    /// GNU's sparse files: version 1 has its map in front of the content, 0.1 in one record, 0.0 in many.
    pub(super) sparse_major: Option<u64>,
    pub(super) sparse_name: Option<Vec<u8>>,
    pub(super) sparse_size: Option<u64>,
    pub(super) sparse_map: Vec<u64>,
}

const BAD: &str = "a pax record is no record";

impl Extensions {
    /// Takes records: a length, a space, a keyword, `=`, a value, a newline.
    pub(super) fn parse(&mut self, mut records: &[u8]) -> Result<(), &'static str> {
        while !records.is_empty() {
            let space = records.iter().take(20).position(|b| *b == b' ').ok_or(BAD)?;
            let length = usize::try_from(decimal(&records[..space])?).map_err(|_| BAD)?;
            if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
                return Err(BAD);
            }
            let (record, rest) = records.split_at(length);
            let record = &record[space + 1..length - 1];
            let equals = record.iter().position(|b| *b == b'=').ok_or(BAD)?;
            self.set(&record[..equals], &record[equals + 1..])?;
            records = rest;
        }
        Ok(())
    }

    fn set(&mut self, keyword: &[u8], value: &[u8]) -> Result<(), &'static str> {
        // An empty value takes back what an earlier header said.
        let given = !value.is_empty();
        let number = || given.then(|| decimal(value)).transpose();
        match keyword {
            b"path" => self.path = given.then(|| value.to_vec()),
            b"linkpath" => self.link = given.then(|| value.to_vec()),
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" => self.mtime = given.then(|| time(value)).transpose()?,
            b"GNU.sparse.major" => self.sparse_major = number()?,
            b"GNU.sparse.name" => self.sparse_name = given.then(|| value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_size = number()?,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse_map.push(decimal(value)?),
            b"GNU.sparse.map" => {
                let numbers = value.split(|b| *b == b',').map(decimal);
                self.sparse_map = numbers.collect::<Result<_, _>>()?;
            }
            _ => {
                if let Some(name) = keyword.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(name.into(), value.into());
                }
            }
        }
        Ok(())
    }
}

pub(super) fn decimal(digits: &[u8]) -> Result<u64, &'static str> {
    let text = std::str::from_utf8(digits).map_err(|_| BAD)?;
    match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse().map_err(|_| BAD),
        false => Err(BAD),
    }
}

/// Seconds, perhaps negative and with a fraction.
fn time(value: &[u8]) -> Result<Timestamp, &'static str> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let point = value.iter().position(|b| *b == b'.').unwrap_or(value.len());
    let (whole, fraction) = value.split_at(point);
    let seconds = i64::try_from(decimal(whole)?).map_err(|_| BAD)?;
    let mut nanoseconds = 0;
    let digits = fraction.get(1..).unwrap_or_default();
    for at in 0..9 {
        let digit = digits.get(at).unwrap_or(&b'0');
        if !digit.is_ascii_digit() {
            return Err(BAD);
        }
        nanoseconds = nanoseconds * 10 + u32::from(digit - b'0');
    }
    Ok(match (negative, nanoseconds) {
        (false, _) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp::seconds(-seconds),
        (true, _) => Timestamp {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}
