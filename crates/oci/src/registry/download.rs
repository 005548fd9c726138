//! Blobs, with what broke off resumed.

use super::{ATTEMPTS, Failure, Registry, describe, pause};
use crate::manifest::Blob;
use crate::progress::{Event, Progress, tell};
use crate::store::{Claim, Partial};
use crate::{Error, Store};
use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;
use std::cell::RefCell;
use std::time::Duration;

/// How often it is looked whether another process is done.
const POLL: Duration = Duration::from_millis(100);
/// Attempts in all, for registries that send a little each time.
const MAX_ATTEMPTS: u32 = 64;

impl Registry<'_> {
    /// Sees to it that a blob is in the store.
    pub(crate) async fn fetch(
        &self,
        store: &Store,
        blob: Blob,
        progress: &RefCell<&mut Progress<'_>>,
    ) -> Result<(), Error> {
        let digest = blob.digest;
        let mut told = false;
        loop {
            match store.claim(digest)? {
                Claim::Present => return tell(&mut **progress.borrow_mut(), Event::Cached(digest)),
                Claim::Mine(partial) => return self.download(partial, blob, progress).await,
                Claim::Busy => {
                    if !std::mem::replace(&mut told, true) {
                        tell(&mut **progress.borrow_mut(), Event::Waiting(digest))?;
                    }
                    tokio::time::sleep(POLL).await;
                }
            }
        }
    }

    async fn download(
        &self,
        mut partial: Partial,
        blob: Blob,
        progress: &RefCell<&mut Progress<'_>>,
    ) -> Result<(), Error> {
        let path = format!("blobs/{}", blob.digest);
        let (mut attempt, mut fruitless) = (0, 0);
        if partial.done() > blob.size {
            partial.restart()?;
        }
        while partial.done() < blob.size {
            let before = partial.done();
            let why = match self.download_once(&path, &mut partial, blob, progress).await {
                Ok(()) => continue,
                Err(Failure::Transient(why)) => why,
                Err(Failure::Final(error)) => {
                    // Anything else can be gone on with.
                    if partial.done() == 0 || matches!(error, Error::Tampered { .. }) {
                        partial.discard();
                    }
                    return Err(error);
                }
            };
            attempt += 1;
            fruitless = match partial.done() > before {
                true => 1,
                false => fruitless + 1,
            };
            if fruitless == ATTEMPTS || attempt == MAX_ATTEMPTS {
                let what = format!("{why}, after {} of {} bytes", partial.done(), blob.size);
                return Err(self.unreachable(&path, what));
            }
            let event = Event::Retrying {
                digest: blob.digest,
                why: &why,
            };
            tell(&mut **progress.borrow_mut(), event)?;
            pause(fruitless - 1).await;
        }
        match partial.finish()? {
            true => Ok(()),
            false => Err(self.tampered(blob.digest, "content with another digest")),
        }
    }

    /// One request, to the end of what it brings.
    async fn download_once(
        &self,
        path: &str,
        partial: &mut Partial,
        blob: Blob,
        progress: &RefCell<&mut Progress<'_>>,
    ) -> Result<(), Failure> {
        let from = Some(partial.done()).filter(|from| *from > 0);
        let mut response = self.get(path, from).await?;
        match (response.status(), from) {
            (StatusCode::PARTIAL_CONTENT, Some(from)) => {
                let range = response
                    .headers()
                    .get(CONTENT_RANGE)
                    .and_then(|r| r.to_str().ok());
                if !range.is_some_and(|r| r.starts_with(&format!("bytes {from}-"))) {
                    partial.restart()?;
                    return Err(Failure::Transient(
                        "it sent another part than was asked for".into(),
                    ));
                }
            }
            // It knows no ranges.
            (StatusCode::OK, Some(_)) => partial.restart()?,
            (StatusCode::OK, None) => {}
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => {
                partial.restart()?;
                return Err(Failure::Transient("it has no such part".into()));
            }
            (StatusCode::NOT_FOUND, _) => return Err(self.missing(blob.digest).into()),
            _ => return Err(self.failure(path, response).await),
        }
        let announced = response.content_length().is_some();
        loop {
            let chunk = response
                .chunk()
                .await
                .map_err(|e| Failure::Transient(describe(&e)))?;
            let Some(chunk) = chunk else { break };
            if chunk.len() as u64 > blob.size - partial.done() {
                let what = format!("more than the {} bytes in the manifest", blob.size);
                return Err(self.tampered(blob.digest, what).into());
            }
            partial.write(&chunk)?;
            let event = Event::Fetched {
                digest: blob.digest,
                done: partial.done(),
                size: blob.size,
            };
            tell(&mut **progress.borrow_mut(), event)?;
        }
        match partial.done() < blob.size {
            true if announced => {
                let what = format!("{} bytes instead of {}", partial.done(), blob.size);
                Err(self.tampered(blob.digest, what).into())
            }
            true => Err(Failure::Transient("the connection ended early".into())),
            false => Ok(()),
        }
    }
}
