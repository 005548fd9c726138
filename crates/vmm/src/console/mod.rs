//! The domain's serial console and whoever is at its other end.
//!
//! At a terminal the console is interactive: raw mode, and `^]` leaves it. Otherwise the input is read to its
//! end and given to the guest as fast as it takes it, and the guest's output goes out unchanged, so that
//! scripts can drive a domain.

mod input;
mod output;
mod terminal;

use crate::event::Event;
pub(crate) use input::Port;
use input::{Input, Link};
use output::Writer;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use terminal::RawTerminal;

/// The other end of a domain's console.
pub struct ConsoleConfig {
    /// Where input comes from; nothing if there is none.
    pub input: Option<File>,
    /// Where output goes.
    pub output: Box<dyn Write + Send>,
}

impl ConsoleConfig {
    /// This process's standard input and output.
    pub fn stdio() -> io::Result<Self> {
        Ok(Self {
            input: Some(File::from(io::stdin().as_fd().try_clone_to_owned()?)),
            // Not through `Stdout`, which would hold back what follows the last newline.
            output: Box::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
        })
    }
}

/// A running console. Dropping it puts the terminal back as it was.
pub(crate) struct Console {
    source: Option<File>,
    writer: Writer,
    link: Arc<Link>,
    events: Sender<Event>,
    // In this order: nobody reads keys any more when the terminal leaves raw mode.
    input: Option<Input>,
    terminal: Option<RawTerminal>,
}

impl Console {
    pub fn new(config: ConsoleConfig, events: Sender<Event>) -> Self {
        let writer = Writer::new(config.output, events.clone());
        Self {
            source: config.input,
            writer,
            link: Arc::default(),
            events,
            input: None,
            terminal: None,
        }
    }

    /// Takes over the terminal, if there is one, tells the user how to leave, and begins to read.
    pub fn attach_user(&mut self) -> io::Result<()> {
        let Some(source) = self.source.take() else {
            return Ok(());
        };
        self.terminal = RawTerminal::enter(&source)?;
        let terminal = self.terminal.is_some();
        if terminal {
            // A closed standard error is no reason to stop.
            let line = "Connected to the domain's console. ^] leaves it, which also ends the domain.\r\n";
            let _ = io::stderr().write_all(line.as_bytes());
        }
        self.input = Some(Input::start(
            source,
            terminal,
            self.link.clone(),
            self.events.clone(),
        )?);
        Ok(())
    }

    /// An end for a serial port's output.
    pub fn writer(&self) -> Box<dyn Write + Send> {
        Box::new(self.writer.clone())
    }

    /// Input goes to `port` from now on.
    pub fn connect(&self, port: Arc<dyn Port>) {
        self.link.connect(port);
    }

    /// Columns and rows of the terminal, if there is one.
    pub fn size(&self) -> Option<(u16, u16)> {
        self.terminal.as_ref()?.size()
    }

    /// Input waits.
    pub fn disconnect(&self) {
        self.link.disconnect();
    }
}
