//! The host's nameservers (resolv.conf(5)).

use rustix::fs::{Mode, OFlags, fstat, open};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Bytes of the file that are read.
const MOST: usize = 64 << 10;
/// Nameservers that are used (MAXNS of the C library).
const SERVERS: usize = 3;
/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
const PORT: u16 = 53;

/// What the file says, read again when it has changed.
pub struct Resolver {
    path: PathBuf,
    looked: Option<Instant>,
    /// Which file it was: device, inode, size and time of the last change.
    seen: Option<[i64; 5]>,
    servers: Vec<SocketAddr>,
    domain: Option<String>,
}

impl Resolver {
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            looked: None,
            seen: None,
            servers: vec![local()],
            domain: None,
        }
    }

    /// Whom to ask.
    pub fn servers(&mut self, now: Instant) -> &[SocketAddr] {
        self.look(now);
        &self.servers
    }

    /// What names without a dot are in.
    pub fn domain(&mut self, now: Instant) -> Option<String> {
        self.look(now);
        self.domain.clone()
    }

    fn look(&mut self, now: Instant) {
        if self.looked.is_some_and(|at| now < at + INTERVAL) {
            return;
        }
        self.looked = Some(now);
        // A file that is being replaced is not there for a moment: what was known stays.
        if let Some((seen, text)) = self.read() {
            self.seen = Some(seen);
            (self.servers, self.domain) = parse(&text);
        }
    }

    /// The file, unless it is as it was.
    fn read(&self) -> Option<([i64; 5], String)> {
        // It may be anything, also what one would wait for.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = open(&self.path, flags, Mode::empty()).ok()?;
        let stat = fstat(&file).ok()?;
        let seen = [
            stat.st_dev as i64,
            stat.st_ino as i64,
            stat.st_size,
            stat.st_mtime,
            stat.st_mtime_nsec as i64,
        ];
        if self.seen == Some(seen) {
            return None;
        }
        let mut bytes = vec![0; MOST];
        let len = rustix::io::read(&file, &mut bytes[..]).ok()?;
        Some((seen, String::from_utf8_lossy(&bytes[..len]).into_owned()))
    }
}

fn local() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, PORT).into()
}

fn parse(text: &str) -> (Vec<SocketAddr>, Option<String>) {
    let (mut servers, mut domain) = (vec![], None);
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("nameserver"), Some(address)) if servers.len() < SERVERS => servers.extend(server(address)),
            // The last one of either counts.
            (Some("domain" | "search"), Some(name)) => domain = Some(name.trim_end_matches('.').to_owned()),
            _ => {}
        }
    }
    if servers.is_empty() {
        servers.push(local());
    }
    (servers, domain.filter(|d| !d.is_empty()))
}

/// An address, over IPv6 perhaps with the link it is on.
fn server(text: &str) -> Option<SocketAddr> {
    if let Some((address, link)) = text.split_once('%') {
        let scope = match link.parse() {
            Ok(scope) => scope,
            Err(_) if link.contains('/') => return None,
            Err(_) => {
                let index = std::fs::read_to_string(format!("/sys/class/net/{link}/ifindex"));
                index.ok()?.trim().parse().ok()?
            }
        };
        return Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into());
    }
    let address: IpAddr = text.parse().ok()?;
    // Nobody's address means this host.
    Some(match address.is_unspecified() {
        true => local(),
        false => (address, PORT).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_the_c_library_does() {
        let text = "# nameserver 9.9.9.9\nnameserver 127.0.0.53\n nameserver  ::1\nnameserver fe80::1%1\n\
            nameserver 4.4.4.4\nsearch example.org. other\noptions edns0\nnameserver x\n";
        let (servers, domain) = parse(text);
        let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.53:53", "[::1]:53", "[fe80::1%1]:53"]);
        assert_eq!(domain.unwrap(), "example.org");
        assert_eq!(parse(""), (vec![local()], None));
        assert_eq!(parse("nameserver 0.0.0.0\ndomain ."), (vec![local()], None));
        assert_eq!(server("fe80::1%lo"), server("fe80::1%1"));
        assert_eq!(server("fe80::1%no-such"), None);
        assert_eq!(server("fe80::1%../../x"), None);
    }

    #[test]
    fn a_file_that_changes_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let start = Instant::now();
        let mut resolver = Resolver::new(path.clone());
        assert_eq!(resolver.servers(start), [local()]);
        std::fs::write(&path, "nameserver 1.2.3.4\n").unwrap();
        assert_eq!(
            resolver.servers(start + INTERVAL),
            ["1.2.3.4:53".parse().unwrap()]
        );
        std::fs::write(&path, "nameserver 1.2.3.45\nsearch a.b\n").unwrap();
        assert_eq!(
            resolver.servers(start + INTERVAL * 3 / 2),
            ["1.2.3.4:53".parse().unwrap()]
        );
        assert_eq!(resolver.domain(start + INTERVAL * 2), Some("a.b".into()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(
            resolver.servers(start + INTERVAL * 4),
            ["1.2.3.45:53".parse().unwrap()]
        );
    }
}
