//! Files from the web, into the cache. A download that was interrupted goes on where it stopped.

use crate::cache::{Cache, CacheError};
use crate::progress::Progress;
use crate::record::hex;
use reqwest::header::{ETAG, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{Client, StatusCode, Url};
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_secs(60);
/// Attempts that bring nothing.
const ATTEMPTS: u32 = 4;

/// Why a file did not come.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// Not an address.
    #[error("{0} is no address of a file; write it as https://HOST/FILE")]
    Url(String),
    /// Anybody on the way could change it.
    #[error(
        "{0} comes without encryption, so that anybody on the way could change it: say what it has to be, with --digest sha256:…"
    )]
    Plain(String),
    /// The server does not have it, or is not there.
    #[error("cannot fetch {url}: {what}; try again, or fetch it with another program and import the file")]
    Fetch {
        /// The address.
        url: String,
        /// Why.
        what: String,
    },
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// Whether this is an address, not a file's name.
pub fn is_url(text: &str) -> bool {
    text.starts_with("https://") || text.starts_with("http://")
}

/// A file that was fetched. It goes with this.
#[derive(Debug)]
pub struct Download {
    path: PathBuf,
    /// Held, so that nobody else writes to it.
    _lock: File,
}

impl Download {
    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(self.path.with_extension("tag"));
    }
}

/// Fetches a file. Without a digest that will be looked at, it must come encrypted.
pub fn fetch(
    cache: &Cache,
    url: &str,
    digest: bool,
    progress: &dyn Progress,
) -> Result<Download, DownloadError> {
    let address = Url::parse(url)
        .ok()
        .filter(|u| is_url(url) && u.host_str().is_some());
    let address = address.ok_or_else(|| DownloadError::Url(url.into()))?;
    if address.scheme() == "http" && !digest {
        return Err(DownloadError::Plain(url.into()));
    }
    let directory = cache.path("downloads");
    fs::create_dir_all(&directory).map_err(CacheError::io("create", &directory))?;
    let path = directory.join(format!("{}.part", &hex(&Sha256::digest(url.as_bytes()))[..32]));
    let lock = path.with_extension("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock);
    let file = file.map_err(CacheError::io("open", &lock))?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        progress.step("waiting for another donjon that fetches the same");
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
            .map_err(|e| CacheError::io("lock", &lock)(e.into()))?;
    }
    progress.step(&format!("fetching {url}"));
    // Fails if a provider is there already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(CacheError::io("start a runtime for", &path))?;
    runtime.block_on(async {
        let failed = |what: String| DownloadError::Fetch {
            url: url.into(),
            what,
        };
        let client = Client::builder()
            .user_agent(concat!("donjon/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            // What begins encrypted is not redirected to what is not.
            .https_only(address.scheme() == "https")
            .build()
            .map_err(|e| failed(e.to_string()))?;
        let mut vain = 0;
        loop {
            let before = fs::metadata(&path).map_or(0, |m| m.len());
            match once(&client, &address, &path, progress).await {
                Ok(()) => break Ok(()),
                Err(Failure::Final(e)) => break Err(e),
                Err(Failure::Transient(what)) => {
                    vain = if fs::metadata(&path).map_or(0, |m| m.len()) > before {
                        0
                    } else {
                        vain + 1
                    };
                    if vain == ATTEMPTS {
                        break Err(failed(what));
                    }
                    tokio::time::sleep(Duration::from_secs(1) * vain).await;
                }
            }
        }
    })?;
    Ok(Download { path, _lock: file })
}

enum Failure {
    /// The next attempt may succeed.
    Transient(String),
    Final(DownloadError),
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Self {
        Self::Final(error.into())
    }
}

/// One attempt, behind what is there of the same version of the file.
async fn once(
    client: &Client,
    url: &Url,
    path: &std::path::Path,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let transient = |e: reqwest::Error| Failure::Transient(e.to_string());
    let tag_file = path.with_extension("tag");
    let (have, tag) = (
        fs::metadata(path).map_or(0, |m| m.len()),
        fs::read_to_string(&tag_file).ok(),
    );
    let mut request = client.get(url.clone());
    if let Some(tag) = tag.filter(|t| have > 0 && !t.is_empty()) {
        request = request
            .header(RANGE, format!("bytes={have}-"))
            .header(IF_RANGE, tag);
    }
    let mut response = request.send().await.map_err(transient)?;
    let resumed = response.status() == StatusCode::PARTIAL_CONTENT;
    match response.status() {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => {}
        // It is as long as what is there.
        StatusCode::RANGE_NOT_SATISFIABLE => {
            fs::remove_file(path).map_err(CacheError::io("remove", path))?;
            return Err(Failure::Transient("the file has changed".into()));
        }
        status if status.is_server_error() => return Err(Failure::Transient(status.to_string())),
        status => {
            return Err(Failure::Final(DownloadError::Fetch {
                url: url.to_string(),
                what: format!("the server says {status}"),
            }));
        }
    }
    // A weak tag does not say that the bytes are the same (RFC 9110 §13.1.5).
    let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
    let tag = header(ETAG)
        .filter(|t| !t.starts_with("W/"))
        .or_else(|| header(LAST_MODIFIED));
    fs::write(&tag_file, tag.unwrap_or_default()).map_err(CacheError::io("write", &tag_file))?;
    let file = File::options()
        .create(true)
        .append(resumed)
        .write(true)
        .truncate(!resumed)
        .open(path);
    let mut file = file.map_err(CacheError::io("write", path))?;
    let mut done = if resumed { have } else { 0 };
    let size = response.content_length().map(|l| l + done);
    while let Some(bytes) = response.chunk().await.map_err(transient)? {
        file.write_all(&bytes).map_err(CacheError::io("write", path))?;
        done += bytes.len() as u64;
        if let Some(size) = size.filter(|s| *s > 0) {
            progress.percent((done as f64 / size as f64 * 100.0) as f32);
        }
    }
    match size {
        Some(size) if done < size => Err(Failure::Transient("the connection ended too early".into())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::thread;

    /// A server that breaks off its first answer in the middle.
    fn server(content: Vec<u8>) -> (String, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/disk.img", listener.local_addr().unwrap());
        let serve = thread::spawn(move || {
            let mut ranges = vec![];
            for attempt in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap())
                    .lines()
                    .map_while(Result::ok);
                let head: Vec<_> = lines.take_while(|l| !l.is_empty()).collect();
                let range = head.iter().find_map(|l| l.strip_prefix("range: bytes="));
                let from: usize = range.map_or(0, |r| r.trim_end_matches('-').parse().unwrap());
                ranges.push(from.to_string());
                let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
                let rest = &content[from..];
                let head = format!(
                    "HTTP/1.1 {status}\r\nETag: \"1\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    rest.len()
                );
                stream.write_all(head.as_bytes()).unwrap();
                let part = if attempt == 0 {
                    &rest[..rest.len() / 2]
                } else {
                    rest
                };
                stream.write_all(part).unwrap();
            }
            ranges
        });
        (url, serve)
    }

    #[test]
    fn what_breaks_off_goes_on_where_it_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        let content: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let (url, serve) = server(content.clone());
        let got = fetch(&cache, &url, true, &Silent).unwrap();
        assert_eq!(fs::read(got.path()).unwrap(), content);
        assert_eq!(serve.join().unwrap(), ["0", "50000"]);
        let path = got.path().to_owned();
        drop(got);
        assert!(!path.exists());
    }

    #[test]
    fn what_anybody_could_change_needs_a_digest() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        let error = |url: &str| fetch(&cache, url, false, &Silent).unwrap_err().to_string();
        assert!(error("http://localhost/x").contains("--digest sha256:"));
        assert!(error("https://").contains("https://HOST/FILE"));
    }
}
