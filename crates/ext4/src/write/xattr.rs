//! Extended attributes, in the inode or in a block of their own (`struct ext4_xattr_entry`).

use super::bytes::Fields;
use super::checksum::Checksums;
use super::geometry::INODE_SIZE;
use super::inode::XATTRS;
use super::{BLOCK, Block};
use std::collections::BTreeMap;

type Map = BTreeMap<Box<[u8]>, Box<[u8]>>;

const MAGIC: u32 = 0xea02_0000;
/// Bytes of an entry before its name.
const HEAD: usize = 16;
/// Bytes of the header in a block; the one in an inode is the magic number alone.
const BLOCK_HEADER: usize = 32;
const INODE_HEADER: usize = 4;
const BLOCK_ROOM: usize = BLOCK as usize - BLOCK_HEADER;
const INODE_ROOM: usize = INODE_SIZE as usize - XATTRS - INODE_HEADER;
/// Behind the entries.
const END: usize = 4;

/// Attribute names are kept without what they begin with: e_name_index says that.
const PREFIXES: [(&[u8], u8); 4] = [
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
    (b"system.", 7),
];
const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// Ordered as the kernel looks for them.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Attribute<'a> {
    index: u8,
    length: usize,
    name: &'a [u8],
    value: std::borrow::Cow<'a, [u8]>,
}

/// Where a node's attributes go.
pub(super) enum Encoded {
    None,
    InInode(Vec<u8>),
    /// To be sealed when the block's number is known.
    Block(Box<Block>),
}

/// Whether ext4 can hold these.
pub(crate) fn check(xattrs: &Map) -> Result<(), &'static str> {
    if xattrs.keys().any(|name| name.len() > 255 || name.contains(&0)) {
        return Err("a name is longer than 255 bytes or has a zero byte");
    }
    for (name, value) in xattrs {
        if [ACL_ACCESS, ACL_DEFAULT].contains(&&name[..]) && acl(value).is_none() {
            return Err("an access control list is damaged");
        }
    }
    match room(&attributes(xattrs)) > BLOCK_ROOM {
        true => Err("they have more than about 4000 bytes together"),
        false => Ok(()),
    }
}

/// Attributes as they are on the disk.
pub(super) fn encode(xattrs: &Map) -> Encoded {
    let attributes = attributes(xattrs);
    if attributes.is_empty() {
        return Encoded::None;
    }
    if room(&attributes) <= INODE_ROOM {
        let mut bytes = vec![0; INODE_HEADER + INODE_ROOM];
        bytes[..].put32(0, MAGIC);
        fill(&mut bytes[INODE_HEADER..], 0, &attributes);
        return Encoded::InInode(bytes);
    }
    let mut block = Box::new([0; BLOCK as usize]);
    let hash = fill(&mut block[..], BLOCK_HEADER, &attributes);
    block.put32(0, MAGIC);
    // One inode refers to it; it is one block.
    block.put32(4, 1);
    block.put32(8, 1);
    block.put32(12, hash);
    Encoded::Block(block)
}

/// Gives a block of attributes its checksum.
pub(super) fn seal(bytes: &mut Block, block: u64, checksums: &Checksums) {
    let checksum = checksums.of(&[&block.to_le_bytes(), &bytes[..]]);
    bytes[..].put32(16, checksum);
}

fn attributes(xattrs: &Map) -> Vec<Attribute<'_>> {
    let mut attributes: Vec<_> = xattrs
        .iter()
        .filter_map(|(name, value)| {
            let (index, name, value) = match &name[..] {
                ACL_ACCESS => (2, &b""[..], acl(value)?.into()),
                ACL_DEFAULT => (3, &b""[..], acl(value)?.into()),
                _ => {
                    let of = |(prefix, index): &(&[u8], u8)| name.strip_prefix(*prefix).map(|n| (*index, n));
                    let (index, name) = PREFIXES.iter().find_map(of).filter(|(_, n)| !n.is_empty())?;
                    (index, name, (&value[..]).into())
                }
            };
            Some(Attribute {
                index,
                length: name.len(),
                name,
                value,
            })
        })
        .collect();
    attributes.sort();
    attributes
}

fn room(attributes: &[Attribute<'_>]) -> usize {
    let each = attributes.iter();
    let sum: usize = each
        .map(|a| (HEAD + a.length).next_multiple_of(4) + a.value.len().next_multiple_of(4))
        .sum();
    sum + END
}

/// Writes entries from `entry` on and values from the end of `out`, whose offsets count from its beginning.
/// Returns the hash of all.
fn fill(out: &mut [u8], mut entry: usize, attributes: &[Attribute<'_>]) -> u32 {
    let mut value_end = out.len();
    let mut all = 0u32;
    for a in attributes {
        let start = value_end - a.value.len().next_multiple_of(4);
        out.put(start, &a.value);
        let hash = hash(a.name, &out[start..value_end]);
        all = all.rotate_left(16) ^ hash;
        let fields = &mut out[entry..];
        fields[0] = a.length as u8;
        fields[1] = a.index;
        // An empty value is nowhere.
        fields.put16(2, if a.value.is_empty() { 0 } else { start as u16 });
        fields.put32(8, a.value.len() as u32);
        fields.put32(12, hash);
        fields.put(HEAD, a.name);
        entry += (HEAD + a.length).next_multiple_of(4);
        value_end = start;
    }
    all
}

fn hash(name: &[u8], padded_value: &[u8]) -> u32 {
    let hash = name
        .iter()
        .fold(0u32, |hash, b| hash.rotate_left(5) ^ u32::from(*b));
    padded_value.chunks_exact(4).fold(hash, |hash, word| {
        hash.rotate_left(16) ^ u32::from_le_bytes(word.try_into().expect("four bytes"))
    })
}

/// An access control list as ext4 has it (version 1: IDs only where they mean something), from one as extended
/// attributes have it (version 2; Linux, include/uapi/linux/posix_acl_xattr.h).
fn acl(value: &[u8]) -> Option<Vec<u8>> {
    const WITH_ID: [u16; 2] = [0x02, 0x08];
    const WITHOUT_ID: [u16; 4] = [0x01, 0x04, 0x10, 0x20];
    let entries = value.strip_prefix(&2u32.to_le_bytes())?;
    let (entries, []) = entries.as_chunks::<8>() else {
        return None;
    };
    let mut out = 1u32.to_le_bytes().to_vec();
    for entry in entries {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        match tag {
            _ if WITH_ID.contains(&tag) => out.extend(entry),
            _ if WITHOUT_ID.contains(&tag) => out.extend(&entry[..4]),
            _ => return None,
        }
    }
    Some(out)
}
