//! One session of a guest with a share.

use crate::abi::{self, IN_HEADER, OUT_HEADER, WRITE_IN, op};
use crate::attr::Attr;
use crate::handles::Handles;
use crate::limits::Limits;
use crate::nodes::Nodes;
use crate::share::Share;
use crate::wire::{DONE, Header, Input, Output, Reply, store_header};
use crate::{Result, host};
use donjon_memory::Scatter;
use rustix::fs::Statx;
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// The most bytes of arguments: an extended attribute's (XATTR_SIZE_MAX) with its name. More is E2BIG.
const MOST_ARGUMENTS: usize = (64 << 10) + 512;

/// What is not a FUSE request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a file system request is shorter than its header, or has no room for an answer")]
pub struct Malformed;

/// Answers a guest's requests, from any number of threads at once.
pub struct Server {
    pub(crate) share: Arc<Share>,
    pub(crate) nodes: Nodes,
    pub(crate) handles: Handles,
    /// INIT has been, and no DESTROY since.
    pub(crate) begun: AtomicBool,
}

/// A request without its data.
pub(crate) struct Call<'a> {
    pub header: &'a Header,
    /// Its arguments.
    pub input: Input<'a>,
    /// All of it.
    pub request: &'a Scatter,
    /// Where the answer goes.
    pub reply: &'a Scatter,
}

impl Call<'_> {
    /// Bytes that an answer can have behind its header.
    pub fn room(&self) -> usize {
        self.reply.len().saturating_sub(OUT_HEADER)
    }
}

impl Server {
    /// A session that has not begun.
    pub fn new(share: &Arc<Share>, limits: &Limits) -> Self {
        Self {
            nodes: Nodes::new(&share.root, share.identity, limits),
            handles: Handles::new(limits.handles),
            share: share.clone(),
            begun: AtomicBool::new(false),
        }
    }

    /// Does what `request` says and writes what comes of it to `reply`; how many bytes that has. None for requests that
    /// have no answer.
    pub fn handle(&self, request: &Scatter, reply: &Scatter) -> std::result::Result<usize, Malformed> {
        let header = Header::load(request).ok_or(Malformed)?;
        let silent = matches!(header.op, op::FORGET | op::BATCH_FORGET | op::INTERRUPT);
        if !silent && reply.len() < OUT_HEADER {
            return Err(Malformed);
        }
        let result = self.answer(&header, request, reply);
        if silent {
            return Ok(0);
        }
        let result = result.and_then(|answer| match answer {
            Reply::None => Ok(0),
            Reply::Data(len) => Ok(len),
            Reply::Output(Output(bytes)) if bytes.len() <= reply.len() - OUT_HEADER => {
                reply.store(OUT_HEADER, &bytes);
                Ok(bytes.len())
            }
            Reply::Output(_) => Err(Errno::OVERFLOW),
        });
        let (error, len) = match result {
            Ok(len) => (None, len),
            // The limit of one process is nothing to the guest's processes.
            Err(Errno::MFILE) => (Some(Errno::NFILE), 0),
            Err(e) => (Some(e), 0),
        };
        tracing::trace!(op = header.op, node = header.node, ?error, len, "request");
        Ok(store_header(reply, header.unique, error, len))
    }

    fn answer(&self, header: &Header, request: &Scatter, reply: &Scatter) -> Result<Reply> {
        if header.len < IN_HEADER || header.len > request.len() {
            return Err(Errno::INVAL);
        }
        let arguments = header.len - IN_HEADER;
        let len = match header.op {
            op::WRITE => arguments.min(WRITE_IN),
            _ if arguments > MOST_ARGUMENTS => return Err(Errno::TOOBIG),
            _ => arguments,
        };
        let mut bytes = vec![0; len];
        request.load(IN_HEADER, &mut bytes);
        let call = Call {
            header,
            input: Input(&bytes),
            request,
            reply,
        };
        if header.op == op::INIT {
            return self.init(call);
        }
        if !self.begun.load(SeqCst) {
            return Err(Errno::IO);
        }
        if self.share.read_only && op::changes(header.op) {
            return Err(Errno::ROFS);
        }
        self.dispatch(call)
    }

    fn dispatch(&self, call: Call<'_>) -> Result<Reply> {
        match call.header.op {
            op::LOOKUP => self.lookup(call),
            op::FORGET => self.forget(call),
            op::BATCH_FORGET => self.batch_forget(call),
            op::GETATTR => self.getattr(call),
            op::SETATTR => self.setattr(call),
            op::READLINK => self.readlink(call),
            op::SYMLINK => self.symlink(call),
            op::MKNOD => self.mknod(call),
            op::MKDIR => self.mkdir(call),
            op::UNLINK | op::RMDIR => self.unlink(call),
            op::RENAME | op::RENAME2 => self.rename(call),
            op::LINK => self.link(call),
            op::OPEN => self.open(call),
            op::CREATE => self.create(call),
            op::READ => self.read(call),
            op::WRITE => self.write(call),
            op::STATFS => self.statfs(call),
            op::RELEASE | op::RELEASEDIR => self.release(call),
            op::FSYNC | op::FSYNCDIR => self.fsync(call),
            op::SETXATTR => self.setxattr(call),
            op::GETXATTR => self.getxattr(call),
            op::LISTXATTR => self.listxattr(call),
            op::REMOVEXATTR => self.removexattr(call),
            op::OPENDIR => self.opendir(call),
            op::READDIR | op::READDIRPLUS => self.readdir(call),
            op::FALLOCATE => self.fallocate(call),
            op::LSEEK => self.lseek(call),
            op::COPY_FILE_RANGE => self.copy_file_range(call),
            op::SYNCFS => self.syncfs(call),
            op::DESTROY => {
                self.reset();
                Ok(DONE)
            }
            // Nothing here waits for anything that does not come by itself.
            op::INTERRUPT => Ok(Reply::None),
            // Among them, on purpose: FLUSH, as written data is the host's already; ACCESS, as virtio-fs guests check
            // permissions themselves; GETLK and SETLK, as they keep their locks; POLL, as regular files are ready.
            _ => Err(Errno::NOSYS),
        }
    }

    fn init(&self, mut call: Call<'_>) -> Result<Reply> {
        let (major, minor) = (call.input.u32()?, call.input.u32()?);
        let mut out = Output::default();
        if major > abi::MAJOR {
            // The guest is to say it again in a version that is known here.
            out.u32(abi::MAJOR).u32(abi::NEWEST_MINOR).zeroes(56);
            return Ok(out.into());
        }
        if major < abi::MAJOR || minor < abi::OLDEST_MINOR {
            return Err(Errno::PROTO);
        }
        let (readahead, flags) = (call.input.u32()?, call.input.u32()?);
        self.reset();
        self.begun.store(true, SeqCst);
        out.u32(abi::MAJOR).u32(minor.min(abi::NEWEST_MINOR));
        out.u32(readahead.min(abi::MAX_WRITE))
            .u32(flags & abi::init::OFFERED);
        // Requests in the background, such as those of read-ahead, and when there are too many of them.
        out.u16(64).u16(48);
        // Times are in nanoseconds.
        out.u32(abi::MAX_WRITE).u32(1).u16(abi::MAX_PAGES);
        out.zeroes(34);
        Ok(out.into())
    }

    /// Forgets all that the guest knew and had open.
    pub fn reset(&self) {
        self.begun.store(false, SeqCst);
        self.handles.clear();
        self.nodes.clear();
    }

    /// A file's attributes as the guest is to see them.
    pub(crate) fn attr(&self, fd: impl AsFd) -> Result<Attr> {
        let stat = host::stat(&fd)?;
        Ok(self.attr_of(fd, stat))
    }

    pub(crate) fn attr_of(&self, fd: impl AsFd, stat: Statx) -> Attr {
        Attr {
            ino: self.nodes.number(&stat),
            owner: self.share.owners.of(fd, &stat),
            stat,
        }
    }
}
