//! One connection: its state, and when something is to happen of itself.

use super::segment::{Ends, Say};
use super::seq::before;
use crate::user::core::Core;
use crate::user::timers::Timer;
use crate::user::token::Token;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// The first wait for an acknowledgement (RFC 6298), which doubles up to the longest.
const RTO: Duration = Duration::from_secs(1);
const LONGEST_RTO: Duration = Duration::from_secs(60);
/// Unanswered segments after which the guest is gone.
const RETRIES: u32 = 12;
/// The same for those that begin a connection.
const SYN_RETRIES: u32 = 6;
/// Without a word from the guest for so long, it is asked whether it is still there (RFC 9293 §3.8.4).
const IDLE: Duration = Duration::from_secs(7200);
/// Between two such questions, and how many.
const PROBE: Duration = Duration::from_secs(75);
const PROBES: u32 = 9;
/// How long an end is remembered, should the guest not have heard of it. Nothing is under way for long here.
const TIME_WAIT: Duration = Duration::from_secs(10);
/// The window's shift that the guest is told: windows of 16 MiB.
pub const SHIFT: u8 = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The guest's SYN came; the host connects.
    Connecting,
    /// The host is connected; the guest is to be told.
    SynReceived,
    /// A client of the host's came; the guest is asked.
    SynSent,
    /// Data goes both ways, or what of them is not shut down.
    Open,
    /// Both ways are shut down.
    TimeWait,
}

/// What happens of itself next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alarm {
    /// Something was not acknowledged.
    Retransmit,
    /// The guest has had no room.
    Persist,
    /// The guest has been quiet.
    KeepAlive,
    /// The end is forgotten.
    Forget,
}

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Lives,
    /// It is over.
    Ends,
    /// The host's end is reset.
    ResetHost,
    /// Both are.
    ResetBoth,
}

/// Names are those of RFC 9293 §3.3.1, where SND is what goes to the guest.
pub struct Conn {
    pub token: Token,
    pub ends: Ends,
    pub state: State,
    /// None when all is over.
    pub socket: Option<OwnedFd>,
    /// Others to connect to if that fails.
    pub others: Vec<SocketAddr>,
    pub rcv_nxt: u32,
    /// The first number that the guest must not send.
    pub rcv_edge: u32,
    /// Its window is shifted, and so is ours.
    pub shift: Option<u8>,
    /// The guest will send no more, and neither will the socket.
    pub guest_fin: bool,
    pub snd_una: u32,
    pub snd_nxt: u32,
    /// As far as was ever sent.
    pub snd_max: u32,
    pub snd_wnd: u32,
    pub mss: u16,
    /// The number of the FIN, when the socket has come to its end.
    pub fin: Option<u32>,
    /// The guest's FIN came after ours was sent.
    pub closed_first: bool,
    pub duplicates: u8,
    /// Losses below have been seen to.
    pub recover: u32,
    /// The socket may have something behind what was sent.
    pub readable: bool,
    /// The other end sends no more.
    pub hung_up: bool,
    /// Where the kernel peeks next, from the first byte that is not acknowledged, if it was told.
    pub peek: Option<u32>,
    /// The guest was told of so little room that it must be told when there is more.
    pub narrow: bool,
    pub ack_now: bool,
    pub syn_now: bool,
    pub probe_now: bool,
    /// In the outbox.
    pub ready: bool,
    pub timer: Timer,
    /// What is waited for began then.
    pub since: Instant,
    pub heard: Instant,
    pub retries: u32,
    pub probes: u32,
}

impl Conn {
    pub fn new(core: &Core, token: Token, ends: Ends, state: State, socket: OwnedFd, iss: u32) -> Self {
        Self {
            token,
            ends,
            state,
            socket: Some(socket),
            others: vec![],
            rcv_nxt: 0,
            rcv_edge: 0,
            shift: None,
            guest_fin: false,
            snd_una: iss,
            snd_nxt: iss,
            snd_max: iss,
            snd_wnd: 0,
            mss: 536,
            fin: None,
            closed_first: false,
            duplicates: 0,
            recover: iss,
            readable: false,
            hung_up: false,
            peek: None,
            narrow: false,
            ack_now: false,
            syn_now: false,
            probe_now: false,
            ready: false,
            timer: Timer::default(),
            since: core.now,
            heard: core.now,
            retries: 0,
            probes: 0,
        }
    }

    /// Puts it in line for the guest, if there is anything to send.
    pub fn get_ready(&mut self, core: &mut Core) {
        if !self.ready && self.has_output() {
            self.ready = true;
            core.outbox.ready(self.token);
        }
    }

    /// Whether there may be something to send.
    pub fn has_output(&self) -> bool {
        self.ack_now || self.syn_now || self.probe_now || self.sends_data() || self.owes_fin()
    }

    /// Bytes that were sent and not acknowledged, FIN included.
    pub fn in_flight(&self) -> u32 {
        self.snd_nxt.wrapping_sub(self.snd_una)
    }

    /// Whether there may be data, and room for it.
    pub fn sends_data(&self) -> bool {
        self.state == State::Open
            && self.readable
            && self.fin.is_none_or(|fin| before(self.snd_nxt, fin))
            && {
                let (window, flight) = (self.snd_wnd, self.in_flight());
                // Small windows are not filled by small segments (RFC 9293 §3.8.6.2.1).
                window > flight && (window - flight >= u32::from(self.mss) || flight == 0)
            }
    }

    /// Whether the FIN is to be sent, all data being.
    pub fn owes_fin(&self) -> bool {
        self.state == State::Open && self.fin == Some(self.snd_nxt)
    }

    /// What is waited for, and until when.
    fn alarm(&self) -> (Instant, Alarm) {
        let backoff = || (RTO * 2u32.pow(self.retries.min(6))).min(LONGEST_RTO);
        match self.state {
            State::TimeWait => (self.since + TIME_WAIT, Alarm::Forget),
            State::SynReceived | State::SynSent => (self.since + backoff(), Alarm::Retransmit),
            State::Open if self.snd_max != self.snd_una => (self.since + backoff(), Alarm::Retransmit),
            State::Open if self.readable && self.snd_wnd == 0 => (self.since + backoff(), Alarm::Persist),
            // The host's kernel gives up by itself.
            State::Connecting | State::Open => (self.heard + IDLE + PROBE * self.probes, Alarm::KeepAlive),
        }
    }

    /// Sets its timer.
    pub fn arm(&mut self, core: &mut Core) {
        let (due, _) = self.alarm();
        let wait = due.saturating_duration_since(core.now);
        core.set_timer(&mut self.timer, self.token, wait);
    }

    /// Its timer has come up.
    pub fn expired(&mut self, core: &mut Core) -> Fate {
        if !core.timers.is_due(&mut self.timer, self.token, core.now) {
            return Fate::Lives;
        }
        let (due, alarm) = self.alarm();
        if due > core.now {
            self.arm(core);
            return Fate::Lives;
        }
        match alarm {
            Alarm::Forget => return Fate::Ends,
            // The guest does not fetch what there is: it may be paused.
            _ if self.ready => self.since = core.now,
            Alarm::Retransmit => {
                let most = if self.state == State::Open {
                    RETRIES
                } else {
                    SYN_RETRIES
                };
                if self.retries >= most {
                    return Fate::ResetBoth;
                }
                self.retries += 1;
                self.since = core.now;
                match self.state {
                    State::Open => {
                        self.rewind();
                        self.probe_now = self.snd_wnd == 0;
                    }
                    _ => self.syn_now = true,
                }
            }
            Alarm::Persist => {
                if self.retries >= RETRIES {
                    return Fate::ResetBoth;
                }
                self.retries += 1;
                self.since = core.now;
                self.probe_now = true;
            }
            Alarm::KeepAlive => {
                if self.probes >= PROBES || self.state == State::Connecting {
                    return Fate::ResetBoth;
                }
                self.probes += 1;
                self.probe_now = true;
            }
        }
        // While it waits in line nothing else is due.
        if alarm == Alarm::KeepAlive && self.ready {
            self.heard = core.now;
        }
        self.get_ready(core);
        self.arm(core);
        Fate::Lives
    }

    /// Sends again what was not acknowledged.
    pub fn rewind(&mut self) {
        self.snd_nxt = self.snd_una;
        self.readable = true;
    }

    /// What a segment without anything says.
    pub fn say(&self, flags: u8) -> Say {
        let window = self.rcv_edge.wrapping_sub(self.rcv_nxt);
        let shift = if self.shift.is_some() { SHIFT } else { 0 };
        Say {
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            flags,
            window: (window >> shift).min(0xffff) as u16,
            ..Say::default()
        }
    }
}
