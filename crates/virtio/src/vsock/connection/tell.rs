//! What a connection tells the guest.

use super::super::packet::{HEADER, HOST, Header, STREAM, op, shutdown};
use super::{BUFFER, Connection, PACKET, Phase};
use donjon_memory::Scatter;
use std::io;
use std::os::fd::AsFd;

impl Connection {
    /// Bytes that the guest has room for.
    fn credit(&self) -> u32 {
        let under_way = self.sent.wrapping_sub(self.peer_forwarded);
        self.peer_alloc.saturating_sub(under_way)
    }

    fn may_read(&self) -> bool {
        self.phase == Phase::Established
            && self.readable
            && self.host_done & shutdown::SEND == 0
            && self.guest_done & shutdown::RECEIVE == 0
    }

    /// Whether there may be something to tell the guest.
    pub fn has_packet(&self) -> bool {
        let s = &self.say;
        let control = s.request || s.response || s.credit_update || s.credit_request || s.shutdown != 0;
        let data = self.may_read() && (self.credit() > 0 || !self.asked_for_credit);
        self.phase != Phase::Lingering && (control || data)
    }

    /// Fills a buffer, which has room for a header, with the next packet; its length.
    pub fn fill(&mut self, cid: u64, buffer: &Scatter) -> Result<Option<usize>, io::Error> {
        let (mut len, mut flags) = (0, 0);
        let s = &mut self.say;
        let op = if std::mem::take(&mut s.request) {
            op::REQUEST
        } else if std::mem::take(&mut s.response) {
            op::RESPONSE
        } else {
            if self.may_read() {
                len = self.read(buffer)?;
            }
            let s = &mut self.say;
            if len > 0 {
                op::RW
            } else if s.shutdown != 0 {
                flags = std::mem::take(&mut s.shutdown);
                op::SHUTDOWN
            } else if std::mem::take(&mut s.credit_request) {
                op::CREDIT_REQUEST
            } else if std::mem::take(&mut s.credit_update) {
                op::CREDIT_UPDATE
            } else {
                return Ok(None);
            }
        };
        let header = self.header(cid, op, len as u32, flags);
        buffer.store(0, &header.bytes());
        Ok(Some(HEADER + len))
    }

    /// A header to the guest, which brings it up to date.
    pub fn header(&mut self, cid: u64, op: u16, len: u32, flags: u32) -> Header {
        self.told = self.forwarded;
        self.say.credit_update = false;
        Header {
            src_cid: HOST,
            dst_cid: cid,
            src_port: self.ports.1,
            dst_port: self.ports.0,
            len,
            kind: STREAM,
            op,
            flags,
            buf_alloc: BUFFER,
            fwd_cnt: self.forwarded,
        }
    }

    /// Reads as much as the guest and the buffer have room for, behind the header.
    fn read(&mut self, buffer: &Scatter) -> io::Result<usize> {
        let credit = self.credit() as usize;
        if credit == 0 {
            self.say.credit_request = !std::mem::replace(&mut self.asked_for_credit, true);
            return Ok(0);
        }
        let most = (buffer.len() - HEADER).min(credit).min(PACKET);
        if most == 0 {
            return Ok(0);
        }
        match buffer.read_from(HEADER..HEADER + most, self.stream.as_fd(), None) {
            Ok(0) => {
                let all = self.hung_up && self.buffer.is_empty();
                self.end(if all { shutdown::BOTH } else { shutdown::SEND });
                Ok(0)
            }
            Ok(n) => {
                self.sent = self.sent.wrapping_add(n as u32);
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(0)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(e) => Err(e),
        }
    }
}
