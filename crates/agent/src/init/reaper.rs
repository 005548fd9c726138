//! What process 1 is for: taking leave of every process that has lost its parent.

use crate::serve::dial_host;
use donjon_agent_protocol::EXIT_PORT;
use donjon_agent_protocol::exit::{Exit, Report};
use donjon_agent_protocol::frame::FrameWriter;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use std::io;
use std::time::Duration;

/// How long the host may take to listen.
const PATIENCE: Duration = Duration::from_secs(5);

/// Those that have ended.
pub fn ended() -> impl Iterator<Item = (Pid, Exit)> {
    std::iter::from_fn(|| {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => match exit(status) {
                    Some(exit) => return Some((pid, exit)),
                    None => continue,
                },
                Err(rustix::io::Errno::INTR) => continue,
                _ => return None,
            }
        }
    })
}

fn exit(status: WaitStatus) -> Option<Exit> {
    let number = |n: i32| u8::try_from(n & 0xff).unwrap_or(u8::MAX);
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(Exit::Code(number(code))),
        (None, Some(signal)) => Some(Exit::Signal(number(signal))),
        _ => None,
    }
}

/// Tells the host how it ended.
pub fn tell_host(report: &Report) -> io::Result<()> {
    let stream = dial_host(EXIT_PORT)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut writer = FrameWriter::new(&stream);
    writer.send(report).map_err(|e| e.into_io())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    // The host closes it when it has read that. A machine that is gone before could take it along.
    let _ = io::copy(&mut &stream, &mut io::sink());
    Ok(())
}
