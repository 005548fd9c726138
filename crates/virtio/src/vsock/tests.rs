use super::connection::BUFFER;
use super::packet::{HEADER, HOST, Header, op, shutdown};
use super::*;
use crate::mock::{Driver, Told, running};
use donjon_memory::Ram;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const CID: u64 = 52;
const SOON: Duration = Duration::from_secs(20);
/// Where packets to and from the device lie.
const OUT: u64 = 0x20_0000;
const IN: u64 = 0x30_0000;
/// What the guest can hold.
const ROOM: u32 = 100_000;

struct Guest {
    vsock: Arc<Vsock>,
    d: Vec<Driver>,
    told: Arc<Told>,
    forwarded: u32,
    _directory: TempDir,
}

fn guest() -> Guest {
    let directory = tempfile::tempdir().unwrap();
    let vsock = Vsock::new(CID, directory.path().join("v")).unwrap();
    let ram = Arc::new(Ram::new(8 << 20).unwrap());
    let (d, told) = running(&*vsock, &ram, STREAM);
    Guest {
        vsock,
        d,
        told,
        forwarded: 0,
        _directory: directory,
    }
}

impl Guest {
    fn header(&self, ports: (u32, u32), op: u16) -> Header {
        Header {
            src_cid: CID,
            dst_cid: HOST,
            src_port: ports.0,
            dst_port: ports.1,
            kind: packet::STREAM,
            op,
            buf_alloc: ROOM,
            fwd_cnt: self.forwarded,
            ..Header::default()
        }
    }

    #[track_caller]
    fn say(&mut self, header: Header, payload: &[u8]) {
        let bytes = [&header.bytes()[..], payload].concat();
        self.d[1].write(OUT, &bytes);
        self.d[1].add(&[(OUT, bytes.len() as u32, false)]);
        self.vsock.notify(1);
        self.d[1].wait(&self.told);
    }

    #[track_caller]
    fn send(&mut self, ports: (u32, u32), data: &[u8]) {
        let header = Header {
            len: data.len() as u32,
            ..self.header(ports, op::RW)
        };
        self.say(header, data);
    }

    #[track_caller]
    fn shut(&mut self, ports: (u32, u32), flags: u32) {
        let header = Header {
            flags,
            ..self.header(ports, op::SHUTDOWN)
        };
        self.say(header, &[]);
    }

    /// Offers a buffer with room for `room` bytes of payload.
    fn listen(&mut self, room: usize) {
        self.d[0].add(&[(IN, HEADER as u32, true), (IN + 0x1_0000, room as u32, true)]);
        self.vsock.notify(0);
    }

    /// Waits for what comes.
    #[track_caller]
    fn heard(&mut self) -> (Header, Vec<u8>) {
        let (_, len) = self.d[0].wait(&self.told);
        let ram = self.d[0].ram.clone();
        let mut list = donjon_memory::Scatter::new(&ram);
        list.push(IN, HEADER).unwrap();
        let header = Header::load(&list).unwrap();
        assert_eq!(len as usize, HEADER + header.len as usize);
        assert_eq!((header.src_cid, header.dst_cid), (HOST, CID));
        let payload = self.d[0].read(IN + 0x1_0000, header.len as usize);
        (header, payload)
    }

    #[track_caller]
    fn hear(&mut self) -> (Header, Vec<u8>) {
        self.listen(0x1_0000);
        self.heard()
    }

    #[track_caller]
    fn hear_op(&mut self, op: u16) -> (Header, Vec<u8>) {
        let (header, payload) = self.hear();
        assert_eq!(header.op, op, "{header:?}");
        (header, payload)
    }

    /// A listener at a port of the host's.
    fn host(&self, port: u32) -> UnixListener {
        let mut path = self.vsock.path().as_os_str().to_owned();
        path.push(format!("_{port}"));
        UnixListener::bind(path).unwrap()
    }

    /// Connects to a listener.
    #[track_caller]
    fn connect(&mut self, ports: (u32, u32), host: &UnixListener) -> UnixStream {
        self.say(self.header(ports, op::REQUEST), &[]);
        let (h, _) = self.hear_op(op::RESPONSE);
        assert_eq!((h.dst_port, h.src_port, h.buf_alloc), (ports.0, ports.1, BUFFER));
        let stream = host.accept().unwrap().0;
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }
}

#[track_caller]
fn read(stream: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut got = vec![0; len];
    stream.read_exact(&mut got).unwrap();
    got
}

#[test]
fn the_guest_connects_to_the_host() {
    let mut g = guest();
    let mut cid = [0; 16];
    g.vsock.read_config(0, &mut cid);
    assert_eq!(cid, [52, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let host = g.host(5000);
    let mut stream = g.connect((1024, 5000), &host);
    g.send((1024, 5000), b"hello, host");
    assert_eq!(read(&mut stream, 11), b"hello, host");
    stream.write_all(b"hello, guest").unwrap();
    let (h, data) = g.hear_op(op::RW);
    assert_eq!(data, b"hello, guest");
    assert_eq!((h.fwd_cnt, h.len), (11, 12));
    // The guest closes: what it sent arrives, then the end.
    g.send((1024, 5000), b"bye");
    g.shut((1024, 5000), shutdown::BOTH);
    g.hear_op(op::RST);
    let mut rest = vec![];
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"bye");
    // Nobody is at the next port.
    g.say(g.header((1024, 5001), op::REQUEST), &[]);
    let (h, _) = g.hear_op(op::RST);
    assert_eq!((h.src_port, h.dst_port), (5001, 1024));
    // The ports are free again.
    g.connect((1024, 5000), &host);
}

#[test]
fn a_program_of_the_host_connects_to_the_guest() {
    let mut g = guest();
    let mut stream = UnixStream::connect(g.vsock.path()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(b"CONN").unwrap();
    stream.write_all(b"ECT 22\nSSH-").unwrap();
    let (h, _) = g.hear_op(op::REQUEST);
    assert_eq!(h.dst_port, 22);
    let ports = (22, h.src_port);
    g.say(g.header(ports, op::RESPONSE), &[]);
    let ok = format!("OK {}\n", ports.1);
    assert_eq!(read(&mut stream, ok.len()), ok.as_bytes());
    assert_eq!(g.hear_op(op::RW).1, b"SSH-");
    g.send(ports, b"2.0");
    assert_eq!(read(&mut stream, 3), b"2.0");
    // Half closed, then closed.
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(g.hear_op(op::SHUTDOWN).0.flags, shutdown::SEND);
    g.send(ports, b"still here");
    assert_eq!(read(&mut stream, 10), b"still here");
    drop(stream);
    assert_eq!(g.hear_op(op::SHUTDOWN).0.flags, shutdown::RECEIVE);
    g.say(g.header(ports, op::RST), &[]);
    // A guest that refuses, and programs that speak another language.
    let mut stream = UnixStream::connect(g.vsock.path()).unwrap();
    stream.write_all(b"CONNECT 23\n").unwrap();
    let (h, _) = g.hear_op(op::REQUEST);
    assert_ne!(h.src_port, ports.1);
    g.say(g.header((23, h.src_port), op::RST), &[]);
    assert_eq!(stream.read(&mut [0; 9]).unwrap(), 0);
    let mut stream = UnixStream::connect(g.vsock.path()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert!(matches!(stream.read(&mut [0; 9]), Ok(0) | Err(_)));
}

#[test]
fn a_program_that_closes_altogether_ends_the_connection() {
    let mut g = guest();
    let host = g.host(1);
    let mut stream = g.connect((9, 1), &host);
    stream.write_all(b"last words").unwrap();
    drop(stream);
    assert_eq!(g.hear_op(op::RW).1, b"last words");
    assert_eq!(g.hear_op(op::SHUTDOWN).0.flags, shutdown::BOTH);
    g.say(g.header((9, 1), op::RST), &[]);
    g.connect((9, 1), &host);
}

#[test]
fn credit_holds_both_ends_back_and_loses_nothing() {
    let mut g = guest();
    let host = g.host(1);
    let ports = (9, 1);
    let mut stream = g.connect(ports, &host);
    let data: Vec<u8> = (0..3_000_000).map(|i| (i / 8 * 31) as u8).collect();
    // The guest sends as its credit allows.
    let reader = {
        let (mut stream, len) = (stream.try_clone().unwrap(), data.len());
        std::thread::spawn(move || read(&mut stream, len))
    };
    let (mut sent, mut forwarded) = (0, 0);
    while sent < data.len() {
        let credit = BUFFER as usize - (sent - forwarded);
        let n = credit.min(data.len() - sent).min(20_000);
        if n == 0 {
            forwarded = g.hear_op(op::CREDIT_UPDATE).0.fwd_cnt as usize;
            continue;
        }
        g.send(ports, &data[sent..sent + n]);
        sent += n;
    }
    assert!(reader.join().unwrap() == data);
    g.say(g.header(ports, op::CREDIT_REQUEST), &[]);
    while g.hear_op(op::CREDIT_UPDATE).0.fwd_cnt as usize != data.len() {
        g.say(g.header(ports, op::CREDIT_REQUEST), &[]);
    }
    // And the host as the guest's credit allows.
    let writer = {
        let data = data.clone();
        std::thread::spawn(move || {
            stream.write_all(&data).unwrap();
            stream
        })
    };
    let mut got = vec![];
    let mut asked = 0;
    while got.len() < data.len() {
        let (h, payload) = g.hear();
        match h.op {
            op::RW => got.extend(payload),
            op::CREDIT_REQUEST => {
                asked += 1;
                assert_eq!(got.len() as u32 - g.forwarded, ROOM, "no sooner than it must");
                g.forwarded = got.len() as u32;
                g.say(g.header(ports, op::CREDIT_UPDATE), &[]);
            }
            _ => panic!("{h:?}"),
        }
    }
    assert!(got == data);
    assert_eq!(asked, (data.len() - 1) / ROOM as usize);
    drop(writer.join().unwrap());
}

#[test]
fn what_a_guest_sent_before_it_closed_reaches_a_slow_program() {
    let mut g = guest();
    let host = g.host(1);
    let ports = (9, 1);
    let mut stream = g.connect(ports, &host);
    let mut sent = 0;
    // More than the socket between them holds.
    let mut forwarded = 0;
    loop {
        g.say(g.header(ports, op::CREDIT_REQUEST), &[]);
        let now = g.hear_op(op::CREDIT_UPDATE).0.fwd_cnt;
        if sent - forwarded == BUFFER && now == forwarded {
            break;
        }
        forwarded = now;
        let n = BUFFER - (sent - forwarded);
        g.send(ports, &vec![7; n as usize]);
        sent += n;
    }
    g.shut(ports, shutdown::BOTH);
    g.say(g.header(ports, op::RST), &[]);
    // The guest may use the ports again at once.
    let mut other = g.connect(ports, &host);
    g.send(ports, b"other");
    assert_eq!(read(&mut other, 5), b"other");
    let mut all = vec![];
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all.len() as u32, sent);
}

#[test]
fn many_connections_take_turns() {
    let mut g = guest();
    let host = g.host(1);
    let mut streams: Vec<_> = (0..20).map(|n| g.connect((100 + n, 1), &host)).collect();
    for stream in &mut streams {
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[1; 10_000]).is_ok() {}
    }
    let mut turns = [0; 20];
    for _ in 0..200 {
        g.listen(100);
        let (h, _) = g.heard();
        assert_eq!(h.op, op::RW);
        turns[h.dst_port as usize - 100] += 1;
    }
    assert_eq!(turns, [10; 20]);
}

#[test]
fn there_is_an_end_to_connections() {
    let mut g = guest();
    let host = g.host(1);
    let take = move || {
        host.incoming()
            .take(sockets::MOST)
            .map(Result::unwrap)
            .collect::<Vec<_>>()
    };
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit {
            current: Some(4096),
            ..rustix::process::getrlimit(rustix::process::Resource::Nofile)
        },
    )
    .unwrap();
    let accepted = std::thread::spawn(take);
    // Some may be refused because the listener's backlog is full for a moment.
    let mut n = 0;
    while !accepted.is_finished() {
        g.say(g.header((n, 1), op::REQUEST), &[]);
        g.hear();
        n += 1;
        assert!(n < 1_000_000);
    }
    let streams = accepted.join().unwrap();
    assert_eq!(streams.len(), sockets::MOST);
    g.say(g.header((n, 1), op::REQUEST), &[]);
    g.hear_op(op::RST);
    drop(streams);
}

#[test]
fn nonsense_is_answered_or_ignored() {
    let mut g = guest();
    let host = g.host(1);
    let ports = (9, 1);
    // Of no connection.
    for code in [
        op::RESPONSE,
        op::SHUTDOWN,
        op::RW,
        op::CREDIT_UPDATE,
        op::CREDIT_REQUEST,
        0,
        8,
        0xffff,
    ] {
        g.say(g.header(ports, code), &[]);
        let (h, _) = g.hear_op(op::RST);
        assert_eq!((h.src_port, h.dst_port), (1, 9));
    }
    let odd = Header {
        kind: 7,
        ..g.header(ports, op::REQUEST)
    };
    g.say(odd, &[]);
    assert_eq!(g.hear_op(op::RST).0.kind, 7);
    // Ignored: from or to others, too short, and a reset of nothing.
    for (src_cid, dst_cid) in [(CID, 1), (CID, 53), (1, HOST), (HOST, CID), (u64::MAX, u64::MAX)] {
        let h = Header {
            src_cid,
            dst_cid,
            ..g.header(ports, op::REQUEST)
        };
        g.say(h, &[]);
    }
    g.say(g.header(ports, op::RST), &[]);
    g.d[1].add(&[(OUT, 43, false)]);
    g.d[1].add(&[(OUT, 100, true)]);
    g.vsock.notify(1);
    g.d[1].wait(&g.told);
    g.d[1].wait(&g.told);
    // What breaks a connection.
    for (n, what) in ["length", "credit", "twice", "after shutdown", "unknown"]
        .into_iter()
        .enumerate()
    {
        let ports = (20 + n as u32, 1);
        let _stream = g.connect(ports, &host);
        let header = g.header(ports, op::RW);
        match what {
            "length" => g.say(Header { len: 11, ..header }, &[0; 10]),
            "credit" => g.send(ports, &vec![0; BUFFER as usize + 1]),
            "twice" => g.say(g.header(ports, op::REQUEST), &[]),
            "after shutdown" => {
                g.shut(ports, shutdown::SEND);
                g.send(ports, b"x");
            }
            _ => g.say(g.header(ports, 99), &[]),
        }
        let (h, _) = g.hear_op(op::RST);
        assert_eq!(h.dst_port, ports.0, "{what}");
    }
    // Credit of any value.
    let mut stream = g.connect(ports, &host);
    stream.write_all(&[5; 10]).unwrap();
    for (buf_alloc, fwd_cnt) in [(0, 0), (u32::MAX, 1), (1, u32::MAX), (5, 0)] {
        let h = Header {
            buf_alloc,
            fwd_cnt,
            ..g.header(ports, op::CREDIT_UPDATE)
        };
        g.say(h, &[]);
    }
    let mut got = vec![];
    while got.len() < 10 {
        got.extend(g.hear().1);
        g.forwarded = got.len() as u32;
        g.say(g.header(ports, op::CREDIT_UPDATE), &[]);
    }
    assert_eq!(got, [5; 10]);
}

#[test]
fn a_guest_that_asks_and_never_listens_is_not_heard_any_more() {
    let mut g = guest();
    for n in 0..2000u32 {
        let header = g.header((n, 77), op::RW).bytes();
        g.d[1].write(OUT + u64::from(n % 128) * 64, &header);
    }
    let mut taken = 0;
    let start = Instant::now();
    let mut offered = 0;
    while offered < 2000 && start.elapsed() < SOON {
        if offered - taken < 128 {
            g.d[1].add(&[(OUT + (offered % 128) * 64, HEADER as u32, false)]);
            offered += 1;
            g.vsock.notify(1);
        } else if taken >= 256 {
            break;
        }
        while g.d[1].used().is_some() {
            taken += 1;
        }
    }
    assert!((256..400).contains(&taken), "{taken}");
    // As soon as it listens, it is.
    for _ in 0..offered {
        g.hear_op(op::RST);
    }
    while taken < offered {
        g.d[1].wait(&g.told);
        taken += 1;
    }
}

#[test]
fn a_buffer_without_room_for_a_header_breaks_the_device() {
    let mut g = guest();
    g.d[0].add(&[(IN, HEADER as u32 - 1, true)]);
    g.say(g.header((1, 2), op::REQUEST), &[]);
    let start = Instant::now();
    while g.told.resets.load(SeqCst) == 0 {
        assert!(start.elapsed() < SOON);
        std::thread::yield_now();
    }
    g.vsock.reset();
}

#[test]
fn connections_end_with_the_driver_and_with_a_restore() {
    let mut g = guest();
    let host = g.host(1);
    let mut stream = g.connect((9, 1), &host);
    let Migrate::State(record) = g.vsock.migrate() else {
        panic!()
    };
    g.send((9, 1), b"x");
    assert_eq!(read(&mut stream, 1), b"x", "saving changes nothing");
    g.vsock.reset();
    assert_eq!(stream.read(&mut [0; 9]).unwrap(), 0);
    g.vsock.restore(&record).unwrap();
    let ram = g.d[0].ram.clone();
    (g.d, g.told) = running(&*g.vsock, &ram, STREAM);
    g.d[2].write(IN, &[9; 8]);
    g.d[2].add(&[(IN, 8, true)]);
    g.vsock.notify(2);
    assert_eq!(g.d[2].wait(&g.told).1, 4);
    assert_eq!(g.d[2].read(IN, 8), [0, 0, 0, 0, 9, 9, 9, 9]);
    g.d[2].add(&[(IN, 8, true)]);
    g.vsock.notify(2);
    g.connect((9, 1), &host);
    assert_eq!(g.d[2].used(), None, "told once");
    for len in 0..record.bytes.len() {
        let bytes = record.bytes[..len].to_vec();
        assert!(
            g.vsock
                .restore(&Record {
                    bytes,
                    ..record.clone()
                })
                .is_err()
        );
    }
    let Migrate::State(odd) = (SavedVsock { cid: 1 }).save() else {
        panic!()
    };
    assert!(g.vsock.restore(&odd).is_err());
}

#[test]
fn the_socket_is_the_owners_and_replaced_only_when_stale() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("v");
    let first = Vsock::new(3, &path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let Err(e) = Vsock::new(4, &path) else { panic!() };
    assert!(
        matches!(e, VsockError::InUse(_)) && e.to_string().contains("/v\""),
        "{e}"
    );
    drop(first);
    assert!(!path.exists());
    // A killed process leaves its socket.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let second = Vsock::new(4, &path).unwrap();
    // Somebody else's is left alone.
    std::fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(second);
    assert!(path.exists());
    drop(other);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "important").unwrap();
    assert!(matches!(Vsock::new(4, &path), Err(VsockError::Occupied(_))));
    let long = directory.path().join("x".repeat(100));
    assert!(matches!(Vsock::new(4, long), Err(VsockError::Long { .. })));
    let nowhere = directory.path().join("none/v");
    assert!(matches!(Vsock::new(4, nowhere), Err(VsockError::Socket { .. })));
    for cid in [0, 1, 2, 0xffff_ffff, u64::MAX] {
        assert!(matches!(Vsock::new(cid, &path), Err(VsockError::Cid(_))));
    }
}

#[test]
fn reset_while_everything_runs() {
    let mut g = guest();
    let host = g.host(1);
    let path = g.vsock.path().to_owned();
    let ram = g.d[0].ram.clone();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while let Ok((mut stream, _)) = host.accept() {
                if stop.load(SeqCst) {
                    return;
                }
                let _ = stream.write_all(&[0; 1000]);
            }
        });
        s.spawn(|| {
            while !stop.load(SeqCst) {
                let again = UnixStream::connect(&path).and_then(|mut s| s.write_all(b"CONNECT 5\n"));
                drop::<io::Result<()>>(again);
            }
        });
        for round in 0..30 {
            for n in 0..20 {
                g.say(g.header((n, 1), op::REQUEST), &[]);
                g.listen(100);
                g.send((n, 1), &[3; 500]);
            }
            if round % 2 == 0 {
                for queue in 0..3 {
                    assert!(g.vsock.stop_queue(queue).is_some());
                }
            }
            g.vsock.reset();
            (g.d, g.told) = running(&*g.vsock, &ram, STREAM);
        }
        stop.store(true, SeqCst);
        let mut last = g.vsock.path().as_os_str().to_owned();
        last.push("_1");
        drop(UnixStream::connect(last).unwrap());
    });
}
