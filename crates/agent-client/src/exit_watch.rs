//! Hearing how a guest's main program ended.

use crate::printable;
use donjon_agent_protocol::EXIT_PORT;
use donjon_agent_protocol::exit::Report;
use donjon_agent_protocol::frame::FrameReader;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a guest that has connected may take for its one frame.
const PATIENCE: Duration = Duration::from_secs(5);

/// Listens where a guest that runs one program tells how that ended. Dropping it removes the socket.
pub struct ExitWatch {
    listener: UnixListener,
    path: PathBuf,
}

impl ExitWatch {
    /// Listens beside the vsock device's socket at `vsock`. What an earlier one left there is replaced.
    pub fn new(vsock: &Path) -> io::Result<Self> {
        let mut path = vsock.as_os_str().to_owned();
        path.push(format!("_{EXIT_PORT}"));
        let path = PathBuf::from(path);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Waits for the report; `None` if there is none within `time`.
    pub fn wait(&self, time: Duration) -> io::Result<Option<Report>> {
        let until = Instant::now().checked_add(time);
        loop {
            let left = until.map(|u| u.saturating_duration_since(Instant::now()));
            let left = left.map(|l| Timespec {
                tv_sec: i64::try_from(l.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: l.subsec_nanos().into(),
            });
            let mut fds = [PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN)];
            match poll(&mut fds, left.as_ref()) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            }
            let (stream, _) = self.listener.accept()?;
            stream.set_read_timeout(Some(PATIENCE))?;
            // Other programs of the guest can reach this port, too, and say what they like: this is the guest's
            // word, whoever's in it.
            match FrameReader::new(stream).next::<Report>() {
                Ok(Some(Report::Failed(why))) => return Ok(Some(Report::Failed(printable::text(why)))),
                Ok(Some(exited)) => return Ok(Some(exited)),
                _ => {}
            }
        }
    }
}

impl Drop for ExitWatch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use donjon_agent_protocol::exit::Exit;
    use donjon_agent_protocol::frame::FrameWriter;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_report_is_heard_and_nonsense_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let vsock = directory.path().join("vsock");
        let watch = ExitWatch::new(&vsock).unwrap();
        // As a guest that was killed leaves it.
        std::mem::forget(watch);
        let watch = ExitWatch::new(&vsock).unwrap();
        assert_eq!(watch.wait(Duration::ZERO).unwrap(), None);
        let path = directory.path().join(format!("vsock_{EXIT_PORT}"));
        UnixStream::connect(&path)
            .unwrap()
            .write_all(b"\xff\xff\xff\xffnonsense")
            .unwrap();
        let report = Report::Exited(Exit::Signal(9));
        FrameWriter::new(UnixStream::connect(&path).unwrap())
            .send(&report)
            .unwrap();
        assert_eq!(watch.wait(Duration::from_secs(10)).unwrap(), Some(report));
        drop(watch);
        assert!(!path.exists());
    }
}
