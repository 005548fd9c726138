//! What happens to sockets, and what is due.

use super::Stack;
use crate::user::token::{Kind, Token};
use rustix::event::epoll::EventFlags;

impl Stack {
    /// Something has happened to a socket.
    pub fn event(&mut self, token: Token, flags: EventFlags) {
        let core = &mut self.core;
        let readable = flags.intersects(EventFlags::IN | EventFlags::ERR);
        match token.kind() {
            Kind::Tcp => self.tcp.event(core, token, flags),
            Kind::Udp => {
                if flags.contains(EventFlags::ERR) {
                    self.udp.failed(core, token);
                }
                self.udp.readable(core, token);
            }
            Kind::Ping if readable => self.pings.readable(core, token),
            Kind::Dns if readable => self.dns.readable(core, token, &mut self.scratch),
            Kind::Listener if readable => self.accept(token),
            _ => {}
        }
    }

    fn accept(&mut self, token: Token) {
        for (client, from, guest) in self.listeners.readable(&mut self.core, token) {
            self.tcp.accept(&mut self.core, client, from, guest);
        }
    }

    /// Does what is due.
    pub fn run_timers(&mut self) {
        while let Some(token) = self.core.timers.pop(self.core.now) {
            let core = &mut self.core;
            match token.kind() {
                Kind::Tcp => self.tcp.expired(core, token),
                Kind::Udp => self.udp.expired(core, token),
                Kind::Ping => self.pings.expired(core, token),
                Kind::Dns => self.dns.expired(core, token),
                Kind::Client => self.listeners.client_expired(core, token),
                Kind::Router => self.router.iter_mut().for_each(|r| r.expired(core)),
                Kind::Listener => {
                    if self.listeners.expired(core, token) {
                        self.accept(token);
                    }
                }
                Kind::Wake => {}
            }
        }
    }
}
