//! The user's terminal.

use donjon_agent_protocol::WindowSize;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

/// A terminal in raw mode: keys reach the guest as they are typed, `^C` too. Dropping it puts the terminal back as
/// it was.
pub struct RawTerminal {
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

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// The size of the terminal behind `fd`; `None` if it is none, or does not know.
pub fn terminal_size(fd: impl AsFd) -> Option<WindowSize> {
    let size = tcgetwinsize(fd).ok()?;
    let known = size.ws_row > 0 && size.ws_col > 0;
    known.then_some(WindowSize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}
