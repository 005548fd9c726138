//! Questions to the host's nameservers (RFC 1035, RFC 5452).

use super::core::Core;
use super::flows::Flows;
use super::resolver::Resolver;
use super::sockets;
use super::token::{Kind, Token};
use super::udp::{self, Datagram};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType, connect, recv, send};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The port, over UDP and TCP.
pub const PORT: u16 = 53;
/// Questions under way at most. Further ones take the place of the oldest.
const MOST: usize = 256;
/// One nameserver has so long to answer; then the next is asked.
const PATIENCE: Duration = Duration::from_secs(3);
const HEADER: usize = 12;
/// Bytes of a question at most.
const LONGEST: usize = 4096;
/// In the third byte: it is an answer.
const ANSWER: u8 = 0x80;
const SERVER_FAILURE: u8 = 2;

/// What was asked, by who asked it under which number.
pub struct Dns {
    queries: Flows<(SocketAddr, u16), Query>,
}

struct Query {
    ask: Ask,
    /// Connected to one nameserver, from a port of the kernel's choice.
    socket: OwnedFd,
    /// Those to ask if that one does not answer.
    others: Vec<SocketAddr>,
}

struct Ask {
    guest: SocketAddr,
    mac: [u8; 6],
    /// Whom the guest asked.
    relay: SocketAddr,
    /// The number that the question has with the guest.
    number: u16,
    /// The question, with a number that nobody can guess.
    question: Vec<u8>,
}

impl Dns {
    pub fn new() -> Self {
        Self {
            queries: Flows::new(Kind::Dns, MOST),
        }
    }

    /// Passes a question on.
    pub fn input(&mut self, core: &mut Core, resolver: &mut Resolver, datagram: Datagram<'_>) {
        let data = datagram.data;
        if !(HEADER..=LONGEST).contains(&data.len()) || data[2] & ANSWER != 0 {
            return;
        }
        let number = u16::from_be_bytes([data[0], data[1]]);
        let key = (datagram.from, number);
        if let Some(token) = self.queries.find(&key) {
            match self.queries.get(token) {
                // It is being seen to.
                Some(query) if query.ask.question[2..] == data[2..] => return,
                _ => drop(self.queries.remove(core, token)),
            }
        }
        let mut random = [0; 2];
        if rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).is_err() {
            return;
        }
        let mut question = data.to_vec();
        question[..2].copy_from_slice(&random);
        let servers = resolver.servers(core.now).to_vec();
        self.queries.evict(core);
        let ask = Ask {
            guest: datagram.from,
            mac: datagram.mac,
            relay: datagram.to,
            number,
            question,
        };
        self.ask(core, ask, servers);
    }

    /// Asks the first of some nameservers that can be asked.
    fn ask(&mut self, core: &mut Core, ask: Ask, mut servers: Vec<SocketAddr>) {
        while !servers.is_empty() {
            let server = servers.remove(0);
            let token = self.queries.token(core);
            let asked = sockets::new(server.ip(), SocketType::DGRAM, None).and_then(|socket| {
                connect(&socket, &server)?;
                core.watch(&socket, token).map_err(|_| Errno::NOMEM)?;
                send(&socket, &ask.question, SendFlags::NOSIGNAL)?;
                Ok(socket)
            });
            if let Ok(socket) = asked {
                let key = (ask.guest, ask.number);
                let query = Query {
                    ask,
                    socket,
                    others: servers,
                };
                return self.queries.insert(core, token, key, query, PATIENCE);
            }
        }
        // Nobody is left to ask, and the guest need not wait to learn that.
        let mut answer = ask.question;
        answer[2] |= ANSWER;
        answer[3] = answer[3] & 0xf0 | SERVER_FAILURE;
        answer[..2].copy_from_slice(&ask.number.to_be_bytes());
        udp::send(core, ask.mac, (ask.relay, ask.guest), &answer);
    }

    /// There is an answer, or none will come from there.
    pub fn readable(&mut self, core: &mut Core, token: Token, buffer: &mut [u8]) {
        let Some(query) = self.queries.get(token) else {
            return;
        };
        // What is not the answer is passed over; more of it waits for the next event.
        for _ in 0..8 {
            match recv(&query.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((len, _)) if is_answer(&query.ask.question, &buffer[..len]) => {
                    buffer[..2].copy_from_slice(&query.ask.number.to_be_bytes());
                    let (mac, addresses) = (query.ask.mac, (query.ask.relay, query.ask.guest));
                    udp::send(core, mac, addresses, &buffer[..len]);
                    self.queries.remove(core, token);
                    return;
                }
                Ok(_) => {}
                Err(Errno::AGAIN | Errno::INTR) => return,
                Err(_) => {
                    let query = self.queries.remove(core, token);
                    return self.ask_others(core, query);
                }
            }
        }
    }

    /// A timer has come up.
    pub fn expired(&mut self, core: &mut Core, token: Token) {
        let query = self.queries.expired(core, token);
        self.ask_others(core, query);
    }

    fn ask_others(&mut self, core: &mut Core, query: Option<Query>) {
        let Some(query) = query else { return };
        self.ask(core, query.ask, query.others);
    }
}

/// Whether a message answers a question: by its number, and by what was asked where that is repeated.
fn is_answer(question: &[u8], message: &[u8]) -> bool {
    if message.len() < HEADER || message[..2] != question[..2] || message[2] & ANSWER == 0 {
        return false;
    }
    match (asked(question), asked(message)) {
        (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
        // An error need not say what it was about.
        (None, _) => true,
        (Some(_), None) => message[3] & 15 != 0,
    }
}

/// The first question of a message: a name, a type and a class.
fn asked(message: &[u8]) -> Option<&[u8]> {
    if message[4..6] == [0, 0] {
        return None;
    }
    let mut at = HEADER;
    loop {
        match *message.get(at)? {
            0 => return message.get(HEADER..at + 5),
            len @ 1..64 => at += usize::from(len) + 1,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";

    fn change(at: usize, byte: u8) -> Vec<u8> {
        let mut message = QUESTION.to_vec();
        message[2] |= ANSWER;
        message[at] = byte;
        message
    }

    #[test]
    fn only_answers_are_passed_on() {
        assert!(is_answer(QUESTION, &change(3, 0x80)));
        assert!(is_answer(QUESTION, &change(13, b'W')), "letters have no case");
        assert!(
            is_answer(QUESTION, b"\x12\x34\x80\x05\0\0\0\0\0\0\0\0"),
            "an error without a question"
        );
        for other in [
            QUESTION.to_vec(),
            change(0, 0x13),
            change(13, b'x'),
            change(26, 2),
            b"\x12\x34\x80\0\0\0\0\0\0\0\0\0".to_vec(),
            change(12, 0x80),
            change(12, 63),
            vec![0x12, 0x34],
        ] {
            assert!(!is_answer(QUESTION, &other), "{other:x?}");
        }
    }
}
