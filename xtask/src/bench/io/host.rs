//! The host side of the rows on the network; xtask/bench/io/net.c is the other.
//!
//! A TCP connection's first byte says what it is for:
//!
//! | byte | for |
//! |---|---|
//! | `s` | takes everything to the end, then answers with the number of bytes |
//! | `r` | sends until the other side closes |
//! | `e` | sends each byte back |
//! | `c` | at each byte, answers with the number of datagrams that came in since |
//! | `u` | answers with a UDP port that sends datagrams to whoever writes to it |
//!
//! Numbers have eight bytes, a port two, both in the byte order of the machine.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// The port of both protocols.
pub const PORT: u16 = 7777;
/// Bytes of one write or read.
const PIECE: usize = 64 << 10;
/// Bytes of a datagram.
const DATAGRAM: usize = 64;
/// Datagrams that each acknowledgement stands for.
const BATCH: u32 = 32;
/// The most datagrams without one: fewer than any queue on the way holds, so that none is lost.
const WINDOW: u32 = 128;
/// Without an acknowledgement for so long, what is on the way is lost.
const LOST: Duration = Duration::from_millis(50);

/// Serves on `port` of every address, to the end of this process; 0 is any. The port it is.
pub fn start(port: u16) -> Result<u16> {
    let context = || format!("cannot listen on port {port}");
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).with_context(context)?;
    let port = listener.local_addr()?.port();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).with_context(context)?;
    let arrived = Arc::new(AtomicU64::new(0));
    let count = arrived.clone();
    thread::spawn(move || {
        let mut datagram = [0; 2 * DATAGRAM];
        loop {
            if let Ok(DATAGRAM) = socket.recv(&mut datagram) {
                count.fetch_add(1, Relaxed);
            }
        }
    });
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let arrived = arrived.clone();
            // A connection that ends early fails the row on the other side.
            thread::spawn(move || serve(stream, &arrived));
        }
    });
    Ok(port)
}

fn serve(mut stream: TcpStream, arrived: &AtomicU64) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut purpose = [0];
    stream.read_exact(&mut purpose)?;
    let mut piece = vec![0; PIECE];
    match purpose[0] {
        b's' => {
            let mut taken = 0u64;
            loop {
                match stream.read(&mut piece)? {
                    0 => return stream.write_all(&taken.to_ne_bytes()),
                    n => taken += n as u64,
                }
            }
        }
        b'r' => loop {
            stream.write_all(&piece)?;
        },
        b'e' => loop {
            stream.read_exact(&mut purpose)?;
            stream.write_all(&purpose)?;
        },
        b'c' => {
            let before = arrived.load(Relaxed);
            loop {
                stream.read_exact(&mut purpose)?;
                stream.write_all(&(arrived.load(Relaxed) - before).to_ne_bytes())?;
            }
        }
        b'u' => send_datagrams(stream),
        _ => Ok(()),
    }
}

/// As many as are acknowledged, until the connection ends.
fn send_datagrams(mut control: TcpStream) -> std::io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    control.write_all(&socket.local_addr()?.port().to_ne_bytes())?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (_, peer) = socket.recv_from(&mut [0])?;
    socket.connect(peer)?;
    socket.set_read_timeout(Some(LOST))?;
    control.set_nonblocking(true)?;
    let mut under_way = 0;
    loop {
        while under_way < WINDOW {
            socket.send(&[0; DATAGRAM])?;
            under_way += 1;
        }
        match socket.recv(&mut [0]) {
            Ok(_) => under_way -= BATCH.min(under_way),
            Err(_) => match control.read(&mut [0]) {
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => under_way = 0,
                _ => return Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(port: u16, purpose: u8) -> TcpStream {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(&[purpose]).unwrap();
        stream
    }

    fn number(stream: &mut TcpStream) -> u64 {
        let mut number = [0; 8];
        stream.read_exact(&mut number).unwrap();
        u64::from_ne_bytes(number)
    }

    #[test]
    fn streams_are_taken_given_and_sent_back() {
        let port = start(0).unwrap();
        let mut sink = connect(port, b's');
        sink.write_all(&[1; 100_000]).unwrap();
        sink.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(number(&mut sink), 100_000);
        connect(port, b'r').read_exact(&mut vec![0; 3 * PIECE]).unwrap();
        let mut echo = connect(port, b'e');
        for sent in [7, 9] {
            echo.write_all(&[sent]).unwrap();
            let mut got = [0];
            echo.read_exact(&mut got).unwrap();
            assert_eq!(got, [sent]);
        }
    }

    #[test]
    fn datagrams_are_counted() {
        let port = start(0).unwrap();
        let mut control = connect(port, b'c');
        let mut asked = || {
            control.write_all(b"?").unwrap();
            number(&mut control)
        };
        assert_eq!(asked(), 0);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for _ in 0..3 {
            socket
                .send_to(&[0; DATAGRAM], (Ipv4Addr::LOCALHOST, port))
                .unwrap();
        }
        while asked() < 3 {}
        assert_eq!(asked(), 3);
    }

    #[test]
    fn no_more_datagrams_come_than_are_acknowledged() {
        let mut control = connect(start(0).unwrap(), b'u');
        let mut port = [0; 2];
        control.read_exact(&mut port).unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
            .connect((Ipv4Addr::LOCALHOST, u16::from_ne_bytes(port)))
            .unwrap();
        socket.send(&[0]).unwrap();
        for n in 1..=4 * WINDOW {
            assert_eq!(socket.recv(&mut [0; 2 * DATAGRAM]).unwrap(), DATAGRAM);
            if n % BATCH == 0 {
                socket.send(&[0]).unwrap();
            }
        }
    }
}
