//! From the guest's serial port to the outside.
//!
//! The port has a thread of its own for this, which gathers bytes and may block; what is added here is that
//! the domain hears when nobody reads any more.

use crate::event::{ConsoleEvent, Event};
use std::io::{self, Write};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How long to wait before a descriptor that somebody made non-blocking is tried again.
const RETRY: Duration = Duration::from_millis(2);

/// Where output goes; `None` once that has failed.
type Target = Option<Box<dyn Write + Send>>;

/// One end for each machine's serial port; all lead to the same target.
#[derive(Clone)]
pub(super) struct Writer {
    target: Arc<Mutex<Target>>,
    events: Sender<Event>,
}

impl Writer {
    pub fn new(target: Box<dyn Write + Send>, events: Sender<Event>) -> Self {
        Self {
            target: Arc::new(Mutex::new(Some(target))),
            events,
        }
    }
}

impl Write for Writer {
    /// Never fails: an error is reported once, and what follows goes nowhere.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut target = self.target.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(open) = &mut *target
            && let Err(e) = write_all(&mut **open, bytes)
        {
            *target = None;
            let _ = self.events.send(Event::Console(ConsoleEvent::OutputClosed(e)));
        }
        Ok(bytes.len())
    }

    /// Every write is flushed.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(target: &mut dyn Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match target.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(e) => return Err(e),
        }
    }
    target.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    /// Takes three bytes, blocks every other time, and breaks after ten.
    #[derive(Clone, Default)]
    struct Fickle(Arc<Mutex<(u32, Vec<u8>)>>);

    impl Write for Fickle {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = self.0.lock().unwrap();
            state.0 += 1;
            if state.1.len() >= 10 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if state.0.is_multiple_of(2) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let n = bytes.len().min(3);
            state.1.extend_from_slice(&bytes[..n]);
            Ok(n)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_arrives_until_the_target_breaks_which_is_told_once() {
        let (events, heard) = channel();
        let target = Fickle::default();
        let mut first = Writer::new(Box::new(target.clone()), events);
        let mut second = first.clone();
        first.write_all(b"01234").unwrap();
        second.write_all(b"56789").unwrap();
        assert!(heard.try_recv().is_err());
        first.write_all(b"more").unwrap();
        second.write_all(b"and more").unwrap();
        assert_eq!(target.0.lock().unwrap().1, b"0123456789");
        assert!(matches!(
            heard.try_recv(),
            Ok(Event::Console(ConsoleEvent::OutputClosed(_)))
        ));
        assert!(heard.try_recv().is_err());
    }
}
