//! A registry that misbehaves as told.

use super::http::head_of;
use super::{MANIFEST, Made};
use donjon_oci::Digest;
use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How it misbehaves.
#[derive(Clone, Default)]
pub struct Manners {
    /// Breaks off after so many bytes of a large answer, this many times.
    pub breaks: Option<(usize, usize)>,
    /// Only answers of more bytes than this break off.
    pub from: usize,
    /// Does not close the connection then.
    pub stalls: bool,
    /// Sends everything whatever part is asked for.
    pub no_ranges: bool,
    /// Wants a token, for this user and password or, without, for nobody.
    pub token: Option<Option<&'static str>>,
    /// Waits before each blob.
    pub delay: Duration,
    /// Answers with a manifest that does not end.
    pub endless_manifest: bool,
}

struct Shared {
    content: HashMap<String, (Vec<u8>, &'static str)>,
    manners: Manners,
    breaks: Mutex<usize>,
    log: Mutex<Vec<String>>,
    host: String,
}

/// A registry on a thread. It stays until the process ends.
pub struct Fake {
    shared: Arc<Shared>,
}

impl Fake {
    /// Has one image, `image:latest`.
    pub fn start(made: &Made, manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut content = HashMap::new();
        for name in ["latest".into(), Digest::of(&made.manifest).to_string()] {
            content.insert(
                format!("/v2/image/manifests/{name}"),
                (made.manifest.clone(), MANIFEST),
            );
        }
        for blob in &made.blobs {
            let path = format!("/v2/image/blobs/{}", Digest::of(blob));
            content.insert(path, (blob.clone(), "application/octet-stream"));
        }
        let shared = Arc::new(Shared {
            content,
            breaks: Mutex::new(manners.breaks.map_or(0, |(_, times)| times)),
            manners,
            log: Mutex::default(),
            host: listener.local_addr().expect("a port").to_string(),
        });
        let of_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&of_thread);
                std::thread::spawn(move || serve(&shared, stream));
            }
        });
        Self { shared }
    }

    pub fn name(&self) -> String {
        format!("{}/image:latest", self.shared.host)
    }

    /// What was asked for: the path, and the range if there was one.
    pub fn log(&self) -> Vec<String> {
        self.shared.log.lock().expect("not poisoned").clone()
    }
}

fn serve(shared: &Shared, mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    while let Some((first, headers)) = head_of(&mut reader) {
        let path = first.split(' ').nth(1).expect("a path").to_owned();
        let get = |name: &str| {
            headers
                .iter()
                .find(|(n, _)| n.eq_ignore_ascii_case(name))
                .map(|(_, v)| v.clone())
        };
        let range = get("range");
        let entry = [Some(path.clone()), range.clone()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>();
        shared.log.lock().expect("not poisoned").push(entry.join(" "));
        if answer(shared, &mut stream, &path, range, get("authorization")).is_none() {
            return;
        }
    }
}

/// Nothing if the connection ends.
fn answer(
    shared: &Shared,
    stream: &mut TcpStream,
    path: &str,
    range: Option<String>,
    authorization: Option<String>,
) -> Option<()> {
    let mut send = |status: &str, headers: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body).ok()
    };
    let manners = &shared.manners;
    if let Some(user) = manners.token {
        if path.starts_with("/token?") {
            return match authorization.as_deref() == user {
                true => send("200 OK", "", b"{\"token\":\"sesame\"}"),
                false => send(
                    "401 Unauthorized",
                    "",
                    b"{\"errors\":[{\"code\":\"DENIED\",\"message\":\"no\"}]}",
                ),
            };
        }
        if authorization.as_deref() != Some("Bearer sesame") {
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"s\",scope=\"x\"\r\n",
                shared.host
            );
            return send("401 Unauthorized", &challenge, b"{}");
        }
    }
    if manners.endless_manifest {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
        while stream.write_all(&[b' '; 65536]).is_ok() {}
        return None;
    }
    let Some((body, kind)) = shared.content.get(path) else {
        return send(
            "404 Not Found",
            "",
            b"{\"errors\":[{\"code\":\"UNKNOWN\",\"message\":\"not here\"}]}",
        );
    };
    if path.contains("/blobs/") {
        std::thread::sleep(manners.delay);
    }
    let from: usize = match range.filter(|_| !manners.no_ranges) {
        Some(range) => range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()?,
        None => 0,
    };
    let rest = &body[from..];
    let status = match from {
        0 => "HTTP/1.1 200 OK".into(),
        _ => format!(
            "HTTP/1.1 206 Partial\r\nContent-Range: bytes {from}-{}/{}",
            body.len() - 1,
            body.len()
        ),
    };
    let head = format!(
        "{status}\r\nContent-Length: {}\r\nContent-Type: {kind}\r\n\r\n",
        rest.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut left = shared.breaks.lock().expect("not poisoned");
    if let Some((after, _)) = manners
        .breaks
        .filter(|(after, _)| rest.len() > (*after).max(manners.from) && *left > 0)
    {
        *left -= 1;
        drop(left);
        stream.write_all(&rest[..after]).ok()?;
        if manners.stalls {
            // Until the other side is gone.
            let _ = stream.read(&mut [0]);
        }
        return None;
    }
    drop(left);
    stream.write_all(rest).ok()
}
