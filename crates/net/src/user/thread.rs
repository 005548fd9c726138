//! The thread that waits for sockets and times.

use super::Gateway;
use super::outbox::{clear, ring};
use super::token::{Kind, Token};
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// Events that are asked for at once.
const EVENTS: usize = 64;
/// It looks around this often in any case.
const LONGEST: Duration = Duration::from_secs(3600);

/// Ends when it is dropped.
pub struct Thread {
    stop: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Thread {
    pub fn start(gateway: &Arc<Gateway>, epoll: Arc<OwnedFd>, wake: Arc<OwnedFd>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (mine, bell, gateway) = (stop.clone(), wake.clone(), gateway.clone());
        let run = move || {
            if let Err(e) = serve(&gateway, &epoll, &bell, &mine) {
                tracing::error!("a network in user mode has stopped: {e}");
            }
        };
        let thread = Builder::new().name("net-user".into()).spawn(run)?;
        Ok(Self {
            stop,
            wake,
            thread: Some(thread),
        })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        ring(self.wake.as_fd());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(gateway: &Gateway, epoll: &OwnedFd, wake: &OwnedFd, stop: &AtomicBool) -> io::Result<()> {
    let mut buffer = [MaybeUninit::<Event>::uninit(); EVENTS];
    while !stop.load(SeqCst) {
        let wait = {
            let mut stack = gateway.lock();
            stack.run_timers();
            let core = &mut stack.core;
            let until = core.timers.first().unwrap_or(core.now + LONGEST);
            core.asleep_until = Some(until);
            until.saturating_duration_since(core.now).min(LONGEST)
        };
        let timeout = Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: wait.subsec_nanos().into(),
        };
        let events = match epoll::wait(epoll, &mut buffer, Some(&timeout)) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        let mut stack = gateway.lock();
        stack.core.asleep_until = None;
        for event in events {
            let token = Token::from_data(event.data);
            match token.kind() {
                Kind::Wake => clear(wake.as_fd()),
                _ => stack.event(token, event.flags),
            }
        }
    }
    Ok(())
}
