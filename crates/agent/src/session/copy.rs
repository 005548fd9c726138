//! Copying into the guest and out of it.

use super::{Agent, Reader, Writer, malformed};
use donjon_agent_protocol::copy::{self, CopyError, Incoming, Options, Outgoing, Source};
use donjon_agent_protocol::frame::FrameError;
use donjon_agent_protocol::{Error, ErrorKind, Reply, Request};
use std::io;

fn told(error: &CopyError) -> Error {
    let kind = match error {
        CopyError::File { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorKind::NotFound,
        CopyError::File { .. } | CopyError::Stream(_) => ErrorKind::Failed,
        CopyError::NoDirectory(_) => ErrorKind::NotFound,
        _ => ErrorKind::Invalid,
    };
    Error::new(kind, error.to_string())
}

/// Answers [`Request::CopyIn`].
pub fn into_guest(
    agent: &Agent,
    path: &str,
    source: &Source,
    options: Options,
    mut reader: Reader,
    mut writer: Writer,
) -> Result<(), FrameError> {
    let target = agent
        .path(path)
        .and_then(|path| copy::target(&path, source).map_err(|e| told(&e)));
    let target = match target {
        Ok(target) => target,
        Err(error) => return writer.send(&Reply::Error(error)),
    };
    writer.send(&Reply::Ready)?;
    let mut input = Incoming::new(|piece| match reader.next() {
        Ok(Some(Request::Data(data))) => {
            piece.extend_from_slice(data);
            Ok(true)
        }
        Ok(Some(Request::End)) => Ok(false),
        Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(Some(_)) => Err(io::Error::new(io::ErrorKind::InvalidData, malformed().message)),
        Err(e) => Err(e.into_io()),
    });
    match copy::receive(&target, &mut input, options) {
        Ok(report) => writer.send(&Reply::Copied(report)),
        Err(error) => {
            writer.send(&Reply::Error(told(&error)))?;
            // The host reads that when it has stopped to send, or looks between two pieces. A connection that is
            // closed before could lose it.
            let _ = io::copy(&mut input, &mut io::sink());
            Ok(())
        }
    }
}

/// Answers [`Request::CopyOut`].
pub fn out_of_guest(agent: &Agent, path: &str, follow: bool, mut writer: Writer) -> Result<(), FrameError> {
    let found = agent.path(path).and_then(|path| {
        let kind = copy::kind(&path, follow).map_err(|e| told(&e))?;
        Ok((path, kind))
    });
    let (path, kind) = match found {
        Ok(found) => found,
        Err(error) => return writer.send(&Reply::Error(error)),
    };
    writer.send(&Reply::Source(kind))?;
    let out = Outgoing::new(|piece| writer.send(&Reply::Data(piece)).map_err(FrameError::into_io));
    match copy::send(&path, kind, out) {
        Ok(report) => writer.send(&Reply::Copied(report)),
        Err(error) => writer.send(&Reply::Error(told(&error))),
    }
}
