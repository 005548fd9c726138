//! The guest's side.

use crate::abi::{self, IN_HEADER, OUT_HEADER, ROOT, fattr, op};
use crate::wire::Output;
use crate::{Limits, Server, Share, ShareOptions};
use donjon_memory::{Ram, Scatter};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

pub type Answer<T> = Result<T, Errno>;

/// Where requests and answers lie.
const REQUEST: u64 = 0x1_0000;
const REPLY: u64 = 0x40_0000;
const RAM: u64 = 8 << 20;

/// Bounds that no test but those of bounds meets.
pub const LIMITS: Limits = Limits {
    nodes: 10_000,
    descriptors: 100,
    handles: 100,
};

/// A guest with a shared directory.
pub struct Client {
    pub place: Arc<TempDir>,
    pub server: Arc<Server>,
    pub ram: Arc<Ram>,
    pub uid: u32,
    pub gid: u32,
}

/// What a name leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub node: u64,
    pub attr: Attr,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    pub ino: u64,
    pub size: u64,
    pub mtime: u64,
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
}

pub fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn attr(bytes: &[u8]) -> Attr {
    assert_eq!(bytes.len(), 88);
    Attr {
        ino: number(bytes, 0),
        size: number(bytes, 8),
        mtime: number(bytes, 32),
        mode: half(bytes, 60),
        nlink: half(bytes, 64),
        uid: half(bytes, 68),
        gid: half(bytes, 72),
    }
}

fn entry(bytes: &[u8]) -> Entry {
    Entry {
        node: number(bytes, 0),
        attr: attr(&bytes[40..128]),
    }
}

fn named(numbers: &[u32], names: &[&str]) -> Vec<u8> {
    let mut out = Output::default();
    for n in numbers {
        out.u32(*n);
    }
    for name in names {
        out.bytes(name.as_bytes()).bytes(&[0]);
    }
    out.0
}

impl Client {
    pub fn new() -> Self {
        Self::with(&ShareOptions::default(), &LIMITS)
    }

    pub fn with(options: &ShareOptions, limits: &Limits) -> Self {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("shared")).unwrap();
        let client = Self::again(Arc::new(place), options, limits);
        client.init();
        client
    }

    /// Another session with the same directory, which has not begun.
    pub fn again(place: Arc<TempDir>, options: &ShareOptions, limits: &Limits) -> Self {
        let share = Share::open(place.path().join("shared"), options).unwrap();
        Self {
            place,
            server: Arc::new(Server::new(&share, limits)),
            ram: Arc::new(Ram::new(RAM).unwrap()),
            uid: 0,
            gid: 0,
        }
    }

    /// Another processor of the guest.
    pub fn other(&self) -> Self {
        Self {
            place: self.place.clone(),
            server: self.server.clone(),
            ram: Arc::new(Ram::new(RAM).unwrap()),
            ..*self
        }
    }

    /// A file on the host.
    pub fn host(&self, name: impl AsRef<Path>) -> PathBuf {
        self.place.path().join("shared").join(name)
    }

    /// A list of parts that have this many bytes.
    pub fn parts(&self, at: u64, len: usize) -> Scatter {
        let mut list = Scatter::new(&self.ram);
        let (mut at, mut left) = (at, len);
        // In pieces that are no multiples of anything.
        for piece in [7, 33, 40, 4096].into_iter().cycle() {
            let piece = left.min(if list.parts().len() > 900 { left } else { piece });
            if piece == 0 {
                break;
            }
            list.push(at, piece).unwrap();
            at += piece as u64 + 5;
            left -= piece;
        }
        list
    }

    /// A request with this header, and its answer.
    pub fn raw(&self, len: u32, op: u32, node: u64, body: &[u8], room: usize) -> Answer<Vec<u8>> {
        let mut out = Output::default();
        out.u32(len).u32(op).u64(77).u64(node);
        out.u32(self.uid).u32(self.gid).u32(1).u32(0).bytes(body);
        let request = self.parts(REQUEST, out.0.len());
        request.store(0, &out.0);
        let reply = self.parts(REPLY, OUT_HEADER + room);
        let done = self.server.handle(&request, &reply).unwrap();
        let mut bytes = vec![0; done];
        reply.load(0, &mut bytes);
        if bytes.is_empty() {
            return Ok(bytes);
        }
        assert_eq!((half(&bytes, 0) as usize, number(&bytes, 8)), (done, 77));
        match half(&bytes, 4) as i32 {
            0 => Ok(bytes.split_off(OUT_HEADER)),
            error => {
                assert_eq!(done, OUT_HEADER);
                Err(Errno::from_raw_os_error(-error))
            }
        }
    }

    pub fn ask(&self, op: u32, node: u64, body: &[u8], room: usize) -> Answer<Vec<u8>> {
        self.raw((IN_HEADER + body.len()) as u32, op, node, body, room)
    }

    pub fn init(&self) -> Vec<u8> {
        let body = named(&[7, 38, 128 << 10, u32::MAX], &[]);
        let out = self.ask(op::INIT, 0, &[body, vec![0; 48]].concat(), 64).unwrap();
        assert_eq!(out.len(), 64);
        out
    }

    pub fn lookup(&self, parent: u64, name: &str) -> Answer<Entry> {
        Ok(entry(&self.ask(op::LOOKUP, parent, &named(&[], &[name]), 128)?))
    }

    /// What a path leads to.
    pub fn find(&self, path: &str) -> Answer<u64> {
        let mut node = ROOT;
        for name in path.split('/').filter(|n| !n.is_empty()) {
            node = self.lookup(node, name)?.node;
        }
        Ok(node)
    }

    pub fn forget(&self, node: u64, times: u64) {
        assert!(
            self.ask(op::FORGET, node, &times.to_le_bytes(), 0)
                .unwrap()
                .is_empty()
        );
    }

    pub fn getattr(&self, node: u64) -> Answer<Attr> {
        Ok(attr(&self.ask(op::GETATTR, node, &[0; 16], 104)?[16..]))
    }

    pub fn getattr_by(&self, handle: u64) -> Answer<Attr> {
        let body = [[1, 0, 0, 0, 0, 0, 0, 0], handle.to_le_bytes()].concat();
        Ok(attr(&self.ask(op::GETATTR, ROOT, &body, 104)?[16..]))
    }

    /// SETATTR with `valid`, a size, a time, a mode, and an owner.
    pub fn setattr(
        &self,
        node: u64,
        valid: u32,
        size: u64,
        time: u64,
        mode: u32,
        owner: (u32, u32),
    ) -> Answer<Attr> {
        let mut out = Output::default();
        out.u32(valid).u32(0).u64(0).u64(size).u64(0);
        out.u64(time).u64(time).u64(0).u32(5).u32(5).u32(0);
        out.u32(mode).u32(0).u32(owner.0).u32(owner.1).u32(0);
        assert_eq!(out.0.len(), 88);
        Ok(attr(&self.ask(op::SETATTR, node, &out.0, 104)?[16..]))
    }

    pub fn truncate(&self, node: u64, size: u64) -> Answer<Attr> {
        self.setattr(node, fattr::SIZE, size, 0, 0, (0, 0))
    }

    pub fn chmod(&self, node: u64, mode: u32) -> Answer<Attr> {
        self.setattr(node, fattr::MODE, 0, 0, mode, (0, 0))
    }

    pub fn chown(&self, node: u64, uid: u32, gid: u32) -> Answer<Attr> {
        self.setattr(node, fattr::UID | fattr::GID, 0, 0, 0, (uid, gid))
    }

    pub fn mkdir(&self, parent: u64, name: &str, mode: u32) -> Answer<Entry> {
        Ok(entry(&self.ask(
            op::MKDIR,
            parent,
            &named(&[mode, 0o22], &[name]),
            128,
        )?))
    }

    pub fn mknod(&self, parent: u64, name: &str, mode: u32, device: u32) -> Answer<Entry> {
        let body = named(&[mode, device, 0o22, 0], &[name]);
        Ok(entry(&self.ask(op::MKNOD, parent, &body, 128)?))
    }

    pub fn symlink(&self, parent: u64, name: &str, target: &str) -> Answer<Entry> {
        Ok(entry(&self.ask(
            op::SYMLINK,
            parent,
            &named(&[], &[name, target]),
            128,
        )?))
    }

    pub fn readlink(&self, node: u64) -> Answer<String> {
        Ok(String::from_utf8(self.ask(op::READLINK, node, &[], 4096)?).unwrap())
    }

    pub fn link(&self, node: u64, parent: u64, name: &str) -> Answer<Entry> {
        let body = [&node.to_le_bytes()[..], &named(&[], &[name])].concat();
        Ok(entry(&self.ask(op::LINK, parent, &body, 128)?))
    }

    pub fn unlink(&self, parent: u64, name: &str) -> Answer<()> {
        self.ask(op::UNLINK, parent, &named(&[], &[name]), 0).map(drop)
    }

    pub fn rmdir(&self, parent: u64, name: &str) -> Answer<()> {
        self.ask(op::RMDIR, parent, &named(&[], &[name]), 0).map(drop)
    }

    pub fn rename(&self, from: u64, old: &str, to: u64, new: &str, flags: u32) -> Answer<()> {
        let body = [
            &to.to_le_bytes()[..],
            &flags.to_le_bytes(),
            &[0; 4],
            &named(&[], &[old, new]),
        ]
        .concat();
        self.ask(op::RENAME2, from, &body, 0).map(drop)
    }

    /// OPEN with these flags; the handle.
    pub fn open(&self, node: u64, flags: i32) -> Answer<u64> {
        let out = self.ask(op::OPEN, node, &named(&[flags as u32, 0], &[]), 16)?;
        Ok(number(&out, 0))
    }

    pub fn opendir(&self, node: u64) -> Answer<u64> {
        Ok(number(&self.ask(op::OPENDIR, node, &[0; 8], 16)?, 0))
    }

    pub fn create(&self, parent: u64, name: &str, flags: i32, mode: u32) -> Answer<(Entry, u64)> {
        let body = named(&[flags as u32, mode, 0o22, 0], &[name]);
        let out = self.ask(op::CREATE, parent, &body, 144)?;
        Ok((entry(&out[..128]), number(&out, 128)))
    }

    pub fn read(&self, handle: u64, offset: u64, size: usize) -> Answer<Vec<u8>> {
        let mut out = Output::default();
        out.u64(handle).u64(offset).u32(size as u32).u32(0).zeroes(16);
        self.ask(op::READ, ROOT, &out.0, size)
    }

    pub fn write_with(
        &self,
        handle: u64,
        offset: u64,
        data: &[u8],
        write_flags: u32,
        flags: i32,
    ) -> Answer<usize> {
        let mut out = Output::default();
        out.u64(handle)
            .u64(offset)
            .u32(data.len() as u32)
            .u32(write_flags);
        out.u64(0).u32(flags as u32).u32(0).bytes(data);
        Ok(half(&self.ask(op::WRITE, ROOT, &out.0, 8)?, 0) as usize)
    }

    pub fn write(&self, handle: u64, offset: u64, data: &[u8]) -> Answer<usize> {
        self.write_with(handle, offset, data, 0, 0)
    }

    pub fn release(&self, handle: u64) -> Answer<()> {
        let body = [&handle.to_le_bytes()[..], &[0; 16]].concat();
        self.ask(op::RELEASE, ROOT, &body, 0).map(drop)
    }

    /// Entries of a directory from a position on, in one request: name, node, position behind it, type.
    pub fn entries(
        &self,
        handle: u64,
        offset: u64,
        size: usize,
        plus: bool,
    ) -> Answer<Vec<(String, u64, u64, u32)>> {
        let mut body = Output::default();
        body.u64(handle).u64(offset).u32(size as u32).u32(0).zeroes(16);
        let op = if plus { op::READDIRPLUS } else { op::READDIR };
        let out = self.ask(op, ROOT, &body.0, size)?;
        let mut list = vec![];
        let mut rest = &out[..];
        while !rest.is_empty() {
            let node = match plus {
                true => {
                    let e = entry(&rest[..128]);
                    rest = &rest[abi::ENTRY_OUT..];
                    e.node
                }
                false => 0,
            };
            let len = half(rest, 16) as usize;
            let name = String::from_utf8(rest[24..24 + len].into()).unwrap();
            list.push((name, node, number(rest, 8), half(rest, 20)));
            rest = &rest[(24 + len).next_multiple_of(8)..];
        }
        Ok(list)
    }

    /// All names in a directory, without dots, sorted.
    pub fn names(&self, node: u64) -> Answer<Vec<String>> {
        let handle = self.opendir(node)?;
        let (mut names, mut offset) = (vec![], 0);
        let end = loop {
            let some = match self.entries(handle, offset, 300, false) {
                Ok(some) => some,
                Err(e) => break Err(e),
            };
            let Some(last) = some.last() else { break Ok(()) };
            offset = last.2;
            names.extend(some.into_iter().map(|e| e.0).filter(|n| n != "." && n != ".."));
        };
        self.release(handle)?;
        end?;
        names.sort();
        Ok(names)
    }

    pub fn setxattr(&self, node: u64, name: &str, value: &[u8]) -> Answer<()> {
        let body = [&named(&[value.len() as u32, 0], &[name]), value].concat();
        self.ask(op::SETXATTR, node, &body, 0).map(drop)
    }

    pub fn getxattr(&self, node: u64, name: &str, size: u32) -> Answer<Vec<u8>> {
        self.ask(
            op::GETXATTR,
            node,
            &named(&[size, 0], &[name]),
            size.max(8) as usize,
        )
    }

    pub fn listxattr(&self, node: u64, size: u32) -> Answer<Vec<u8>> {
        self.ask(op::LISTXATTR, node, &named(&[size, 0], &[]), size.max(8) as usize)
    }

    pub fn removexattr(&self, node: u64, name: &str) -> Answer<()> {
        self.ask(op::REMOVEXATTR, node, &named(&[], &[name]), 0).map(drop)
    }
}
