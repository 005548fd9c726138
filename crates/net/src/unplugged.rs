//! Nothing.

use crate::backend::{Backend, DropCounts, Drops, Port, check_queues, count, only};
use crate::offloads::Offloads;
use crate::packet::{Gather, Scatter};
use rustix::event::{EventfdFlags, eventfd};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// An interface with no cable in it: the link is down, what is sent is dropped, nothing is received.
pub struct Unplugged {
    port: Arc<Silence>,
}

struct Silence {
    /// Never readable.
    event: OwnedFd,
    drops: DropCounts,
}

impl Unplugged {
    /// One that is connected to nothing.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let drops = DropCounts::default();
        Ok(Self {
            port: Arc::new(Silence { event, drops }),
        })
    }
}

impl Backend for Unplugged {
    fn offloads(&self) -> Offloads {
        Offloads::ALL
    }

    fn set_offloads(&self, _: Offloads) -> io::Result<()> {
        Ok(())
    }

    fn queues(&self) -> u16 {
        1
    }

    fn set_queues(&self, count: u16) -> io::Result<()> {
        check_queues(count, 1)
    }

    fn queue(&self, index: u16) -> io::Result<Arc<dyn Port>> {
        only(index, &self.port)
    }

    fn link(&self) -> bool {
        false
    }

    fn drops(&self) -> Drops {
        self.port.drops.read()
    }
}

impl Port for Silence {
    fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn send(&self, _: &dyn Gather) -> io::Result<()> {
        count(&self.drops.sent);
        Ok(())
    }

    fn receive(&self, _: &mut dyn Scatter) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_goes_anywhere() {
        let none = Unplugged::new().unwrap();
        assert!(!none.link());
        let port = none.queue(0).unwrap();
        port.send(&&[0; 60][..]).unwrap();
        let error = port.receive(&mut &mut [0; 2000][..]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert_eq!(none.drops().sent, 1);
        assert!(none.queue(1).is_err() && none.set_queues(2).is_err() && none.set_queues(0).is_err());
    }
}
