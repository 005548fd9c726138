//! Asynchronous events (NVM Express Base 1.4 §5.2).

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The most Asynchronous Event Requests that may be outstanding (AERL + 1).
pub const LIMIT: usize = 4;

/// What the host may be told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A write to the doorbell of a queue that there is not.
    DoorbellRegister,
    /// A doorbell written with an entry that its queue does not have.
    DoorbellValue,
    /// The temperature has reached a threshold.
    Temperature,
    /// The namespace has changed, such as its size.
    NamespaceChanged,
}

/// Each with its type, its information and the log page that tells more (§5.2.1).
const EVENTS: [(Event, u32, u32, u8); 4] = [
    (Event::DoorbellRegister, 0, 0x00, 0x01),
    (Event::DoorbellValue, 0, 0x01, 0x01),
    (Event::Temperature, 1, 0x01, 0x02),
    (Event::NamespaceChanged, 2, 0x00, 0x04),
];

/// Events and requests for them.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Events {
    /// Command identifiers of outstanding requests.
    outstanding: VecDeque<u16>,
    /// One that was aborted and is to be answered.
    aborted: Option<u16>,
    /// Events to be told, as bits in the order of [`EVENTS`].
    pending: u8,
    /// Event types that are not told of until their log page has been read.
    masked: u8,
}

impl Events {
    /// An event has happened.
    pub fn raise(&mut self, event: Event) {
        for (n, e) in EVENTS.iter().enumerate() {
            if e.0 == event {
                self.pending |= 1 << n;
            }
        }
    }

    /// Adds a request; `false` if there are as many as there may be.
    pub fn request(&mut self, cid: u16) -> bool {
        let room = self.outstanding.len() < LIMIT;
        if room {
            self.outstanding.push_back(cid);
        }
        room
    }

    /// Takes a request back; `false` if there is none of this command identifier.
    pub fn abort(&mut self, cid: u16) -> bool {
        let at = self.outstanding.iter().position(|c| *c == cid);
        let aborted = at.and_then(|at| self.outstanding.remove(at));
        self.aborted = aborted.or(self.aborted);
        aborted.is_some()
    }

    /// A request that was aborted, to answer before the next command is executed.
    pub fn take_aborted(&mut self) -> Option<u16> {
        self.aborted.take()
    }

    /// A request to answer, and what with.
    pub fn deliver(&mut self) -> Option<(u16, u32)> {
        let ready = |(n, e): &(usize, &(Event, u32, u32, u8))| {
            self.pending & 1 << *n != 0 && self.masked & 1 << e.1 == 0
        };
        let (n, (_, kind, information, log)) = EVENTS.iter().enumerate().find(ready)?;
        let cid = self.outstanding.pop_front()?;
        self.pending &= !(1 << n);
        self.masked |= 1 << kind;
        Some((cid, kind | information << 8 | u32::from(*log) << 16))
    }

    /// The host has read a log page and wants to be told of its events again.
    pub fn read(&mut self, log: u8) {
        for (_, kind, _, page) in EVENTS {
            if page == log {
                self.masked &= !(1 << kind);
            }
        }
    }

    /// Whether it can have come from here.
    pub fn is_sound(&self) -> bool {
        self.outstanding.len() <= LIMIT && self.pending < 1 << EVENTS.len()
    }
}
