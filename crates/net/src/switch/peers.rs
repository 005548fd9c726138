//! The other ports.

use super::MAX_PORTS;
use super::directory::{Joined, widen};
use super::table::Table;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What epoll says of the listener; peers are counted from 1.
const LISTENER: u64 = 0;
/// Peers with something to receive that are asked for at once.
const EVENTS: usize = 32;

/// All there are, the listener, and what is readable of them.
pub struct Peers {
    epoll: OwnedFd,
    listener: OwnedFd,
    state: Mutex<State>,
}

struct State {
    connections: BTreeMap<u64, Arc<OwnedFd>>,
    table: Table,
    next: u64,
    /// Whether the listener is waited for. Not while the process has no more descriptors, as it would be
    /// readable all the time.
    listening: bool,
}

/// One of them.
#[derive(Clone)]
pub struct Peer {
    number: u64,
    connection: Arc<OwnedFd>,
}

impl Peer {
    /// Its connection.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl Peers {
    /// Those that were there, and a way for those to come.
    pub fn new(joined: Joined) -> io::Result<Self> {
        let peers = Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            listener: joined.listener,
            state: Mutex::new(State {
                connections: BTreeMap::new(),
                table: Table::default(),
                next: LISTENER + 1,
                listening: true,
            }),
        };
        let listener = EventData::new_u64(LISTENER);
        epoll::add(&peers.epoll, &peers.listener, listener, EventFlags::IN)?;
        let mut state = peers.state();
        for connection in joined.peers {
            peers.add(&mut state, connection)?;
        }
        drop(state);
        Ok(peers)
    }

    /// Readable when a peer has sent something, is gone, or has come.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Every one of them.
    pub fn all(&self) -> Vec<Peer> {
        let state = self.state();
        let all = state.connections.iter();
        all.map(|(&number, connection)| Peer {
            number,
            connection: connection.clone(),
        })
        .collect()
    }

    /// Who has an address.
    pub fn find(&self, address: [u8; 6]) -> Option<Peer> {
        let state = self.state();
        let number = state.table.find(address, Instant::now())?;
        state.peer(number)
    }

    /// A packet from this address has come from a peer.
    pub fn learn(&self, address: [u8; 6], peer: &Peer) {
        let mut state = self.state();
        // It may have been removed by another thread.
        if state.connections.contains_key(&peer.number) {
            state.table.learn(address, peer.number, Instant::now());
        }
    }

    /// Some of those that may have something, or are gone. Takes in those that have come.
    pub fn ready(&self) -> io::Result<Vec<Peer>> {
        let ready = self.wait()?;
        match ready.contains(&LISTENER) {
            true => self.accept(),
            false if ready.is_empty() => return Ok(vec![]),
            false => {}
        }
        // Those that have just come may have something, too.
        let more = if ready == [LISTENER] { self.wait()? } else { vec![] };
        let state = self.state();
        let all = ready.into_iter().chain(more);
        Ok(all.filter_map(|number| state.peer(number)).collect())
    }

    fn wait(&self) -> io::Result<Vec<u64>> {
        let mut buffer = [MaybeUninit::<Event>::uninit(); EVENTS];
        let now = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match epoll::wait(&self.epoll, &mut buffer, Some(&now)) {
            Ok((events, _)) => Ok(events.iter().map(|e| e.data.u64()).collect()),
            Err(Errno::INTR) => Ok(vec![]),
            Err(e) => Err(e.into()),
        }
    }

    /// Takes in those that have come.
    pub fn accept(&self) {
        let mut state = self.state();
        for _ in 0..MAX_PORTS {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let accepted = accept_with(&self.listener, flags);
            let listening = !matches!(
                accepted,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)
            );
            if listening != state.listening {
                state.listening = listening;
                let flags = if listening {
                    EventFlags::IN
                } else {
                    EventFlags::empty()
                };
                let listener = EventData::new_u64(LISTENER);
                let _ = epoll::modify(&self.epoll, &self.listener, listener, flags);
                if !listening {
                    tracing::warn!(
                        "no descriptors left to connect to a new port of the switch: raise ulimit -n"
                    );
                }
            }
            match accepted {
                // It is closed again. Whoever sweeps wants no more than that, too.
                Ok(_) if state.connections.len() + 1 >= MAX_PORTS => {}
                Ok(connection) => {
                    if let Err(e) = self.add(&mut state, connection) {
                        tracing::warn!("a new port of the switch cannot be reached: {e}");
                    }
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => return,
            }
        }
    }

    /// Forgets one that is gone.
    pub fn remove(&self, peer: &Peer) {
        let mut state = self.state();
        if let Some(connection) = state.connections.remove(&peer.number) {
            // Others may hold it for a moment more, and it would be reported all the time.
            let _ = epoll::delete(&self.epoll, &connection);
            state.table.forget(peer.number);
        }
    }

    fn add(&self, state: &mut State, connection: OwnedFd) -> io::Result<()> {
        widen(&connection)?;
        let number = state.next;
        epoll::add(
            &self.epoll,
            &connection,
            EventData::new_u64(number),
            EventFlags::IN,
        )?;
        state.next += 1;
        state.connections.insert(number, Arc::new(connection));
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn peer(&self, number: u64) -> Option<Peer> {
        let connection = self.connections.get(&number)?.clone();
        Some(Peer { number, connection })
    }
}
