//! How fast a switch is between two processes: one sends, the other counts what arrives.
//!
//! `cargo run --release -p donjon-net --example switch-speed`

use donjon_net::{Backend, HEADER, Offloads, Switch};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{BufRead, BufReader, Error, ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(2);
const TO: [u8; 6] = [2, 0, 0, 0, 0, 2];
const FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(directory) = std::env::args().nth(1) {
        return Ok(count(Path::new(&directory))?);
    }
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("lan");
    let switch = Switch::join(&path, &"sender".parse()?)?;
    let port = switch.queue(0)?;
    for (what, len) in [("1514-byte frames", 1514), ("64 KiB frames", 65549)] {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(&path)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let mut line = || {
            lines
                .next()
                .unwrap_or_else(|| Err(Error::from(ErrorKind::UnexpectedEof)))
        };
        line()?;
        while port.receive(&mut &mut vec![0; 70_000][..]).is_ok() {}
        let before = switch.drops().sent;
        let mut lost = before;
        let packet = [&[0; HEADER][..], &TO, &FROM, &vec![0; len - 12]].concat();
        let (start, mut sent) = (Instant::now(), 0u64);
        while start.elapsed() < TIME {
            for _ in 0..64 {
                port.send(&&packet[..])?;
            }
            sent += 64;
            // As TCP would, give way when packets are lost.
            if switch.drops().sent > lost {
                std::thread::sleep(Duration::from_micros(50));
                lost = switch.drops().sent;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        // To its death, the last one.
        loop {
            port.send(&&[&[0; HEADER][..], &TO, &FROM, &[0xff; 9]].concat()[..])?;
            if child.try_wait()?.is_some() {
                break;
            }
        }
        let received: f64 = line()?.parse()?;
        println!(
            "{what}: {:.0} packets/s received ({:.2} Gbit/s), {:.0} packets/s offered, {} dropped",
            received / seconds,
            received / seconds * len as f64 * 8e-9,
            sent as f64 / seconds,
            switch.drops().sent - before,
        );
    }
    Ok(())
}

fn count(path: &Path) -> std::io::Result<()> {
    let name = "receiver".parse().map_err(Error::other)?;
    let switch = Switch::join(path, &name).map_err(Error::other)?;
    switch.set_offloads(Offloads::ALL)?;
    let port = switch.queue(0)?;
    port.send(&&[&[0; HEADER][..], &FROM, &TO, &[0; 48]].concat()[..])?;
    println!("joined");
    std::io::stdout().flush()?;
    let (mut buffer, mut received) = (vec![0; 70_000], 0u64);
    loop {
        match port.receive(&mut &mut buffer[..]) {
            Ok(len) if len == HEADER + 21 => break,
            Ok(_) => received += 1,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                poll(&mut [PollFd::from_borrowed_fd(port.fd(), PollFlags::IN)], None)?;
            }
            Err(e) => return Err(e),
        }
    }
    println!("{received}");
    Ok(())
}
