//! The messages. New ones are added at the end of their enumeration: a record is named by its place in it.

use crate::copy;
use crate::exit::Exit;
use crate::info::Info;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the host says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Request<'a> {
    /// Nothing is wanted; the reply is [`Reply::Done`].
    Ping,
    /// The reply is [`Reply::Info`].
    Info,
    /// Runs a program. The replies are [`Reply::Started`], output, and [`Reply::Exited`]. If the connection ends
    /// before the last, every process of the program's session gets SIGHUP, and SIGKILL if it does not end.
    Exec(Exec),
    /// Input for the program. No more than there is credit for.
    Stdin(#[serde(with = "serde_bytes")] &'a [u8]),
    /// There is no more input.
    StdinEof,
    /// The terminal has another size.
    Resize(WindowSize),
    /// Sends the signal of this number (1 to 31) to the program's process group, or to the one in the foreground
    /// of its terminal.
    Signal(u8),
    /// Copies into the guest. The replies are [`Reply::Ready`] and, after [`Self::End`], [`Reply::Copied`]; or an
    /// error at any time.
    CopyIn {
        /// Where to, absolute.
        path: String,
        /// What is copied.
        source: copy::Source,
        /// How it is written.
        options: copy::Options,
    },
    /// Copies out of the guest. The replies are [`Reply::Source`], [`Reply::Data`] and [`Reply::Copied`].
    CopyOut {
        /// From where, absolute.
        path: String,
        /// If it is a symbolic link, what it leads to is copied.
        follow: bool,
    },
    /// A piece of a tar stream.
    Data(#[serde(with = "serde_bytes")] &'a [u8]),
    /// The end of a tar stream.
    End,
    /// Shuts the machine down, in an orderly way. The reply is [`Reply::Done`], when that has begun.
    Shutdown(Shutdown),
    /// Sets the clock to so much time since 1970-01-01 00:00 UTC.
    SetTime(Duration),
    /// Mounts a virtiofs share; the mount point is made if it is missing.
    Mount {
        /// The share's tag.
        tag: String,
        /// Where, absolute.
        path: String,
        /// Nothing can be written.
        read_only: bool,
    },
    /// Writes everything to the disks and holds back what is written from now on (FIFREEZE), until
    /// [`Self::Thaw`], the end of the connection or the end of this time, at most [`MAX_FREEZE`](Self::MAX_FREEZE).
    Freeze(Duration),
    /// Ends what [`Self::Freeze`] began. An error if it has ended already: what was saved since is not to be
    /// trusted.
    Thaw,
    /// Gives a new machine its name and its user.
    FirstBoot(FirstBoot),
}

impl Request<'_> {
    /// The longest time for [`Self::Freeze`].
    pub const MAX_FREEZE: Duration = Duration::from_secs(120);
}

/// What the agent says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Reply<'a> {
    /// It was done.
    Done,
    /// It was not done.
    Error(Error),
    /// The machine as it is now.
    Info(Info),
    /// The program runs, as this process.
    Started(u32),
    /// So many more bytes of input may be sent.
    StdinCredit(u32),
    /// Output. All of it, if the program has a terminal.
    Stdout(#[serde(with = "serde_bytes")] &'a [u8]),
    /// What it wrote to standard error.
    Stderr(#[serde(with = "serde_bytes")] &'a [u8]),
    /// The program has ended, and this is the end of the session. What it wrote before has been sent.
    Exited(Exit),
    /// The tar stream may come.
    Ready,
    /// What is copied out.
    Source(copy::Kind),
    /// A piece of a tar stream.
    Data(#[serde(with = "serde_bytes")] &'a [u8]),
    /// It was copied, and this is the end of the session.
    Copied(copy::Report),
}

/// Why something was not done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Which kind of reason.
    pub kind: ErrorKind,
    /// What a person is told.
    pub message: String,
}

impl Error {
    /// Bytes that a message has at most.
    const LONGEST: usize = 4096;

    /// An error whose message is cut off where it is too long.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(Self::LONGEST));
        Self { kind, message }
    }
}

/// Kinds of errors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The message is none that the agent knows, or it is not its turn.
    Malformed,
    /// What the request says cannot be.
    Invalid,
    /// There is no such file, program or user.
    NotFound,
    /// It is done already, or by somebody else.
    Busy,
    /// This machine cannot do it.
    Unsupported,
    /// The system refused.
    Failed,
}

/// A program to run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Exec {
    /// The program, looked up in PATH if it has no slash, and its arguments.
    pub argv: Vec<String>,
    /// Environment, beside HOME, LOGNAME, PATH, SHELL, USER and, with a terminal, TERM, which are set if they
    /// are not here.
    pub env: Vec<(String, String)>,
    /// The working directory; the user's home, if not given.
    pub cwd: Option<String>,
    /// `NAME`, `UID`, `NAME:GROUP` or `UID:GID`; root, or a container's user, if not given.
    pub user: Option<String>,
    /// A terminal of its own instead of three pipes.
    pub terminal: Option<Terminal>,
    /// There will be input. Without it standard input is empty.
    pub stdin: bool,
}

/// A terminal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Terminal {
    /// Its size.
    pub size: WindowSize,
    /// Its kind: TERM.
    pub term: String,
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// Ways to shut down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Shutdown {
    /// The machine is off afterwards.
    PowerOff,
    /// It starts anew.
    Reboot,
}

/// What a new machine is told.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FirstBoot {
    /// Its name (RFC 1123).
    pub hostname: Option<String>,
    /// Its user; one that there is keeps its shell and gets the keys and the right to use sudo.
    pub user: Option<User>,
    /// Its time zone, such as `Europe/Berlin`.
    pub timezone: Option<String>,
}

/// A user.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct User {
    /// The name.
    pub name: String,
    /// Lines of authorized_keys(5) that may log in, beside those that are there.
    pub ssh_keys: Vec<String>,
    /// The shell; /bin/bash or else /bin/sh, if not given.
    pub shell: Option<String>,
    /// May do everything with sudo, without a password.
    pub sudo: bool,
}
