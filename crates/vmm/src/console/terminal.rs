//! The user's terminal in raw mode, for as long as a domain has it.

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

/// A terminal in raw mode: keys reach the guest as they are typed, `^C` too. Dropping it puts the terminal
/// back as it was, however the domain ends.
pub(crate) struct RawTerminal {
    terminal: File,
    before: Termios,
}

impl RawTerminal {
    /// Takes over the terminal behind `fd`; `None` if it is none.
    pub fn enter(fd: impl AsFd) -> io::Result<Option<Self>> {
        if !isatty(&fd) {
            return Ok(None);
        }
        let terminal = File::from(fd.as_fd().try_clone_to_owned()?);
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        Ok(Some(Self { terminal, before }))
    }
}

impl RawTerminal {
    /// Columns and rows, if it knows.
    pub fn size(&self) -> Option<(u16, u16)> {
        let size = tcgetwinsize(&self.terminal).ok()?;
        (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}
