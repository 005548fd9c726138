//! A registry, as far as pulling goes (OCI distribution specification v1.1, "Pulling manifests", "Pulling blobs").

mod auth;
mod download;

use crate::credentials::Credentials;
use crate::error::quote;
use crate::manifest::{ACCEPT, MAX_DOCUMENT};
use crate::{Digest, Error, Reference};
use reqwest::header::{ACCEPT as ACCEPT_HEADER, AUTHORIZATION, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode};
use std::cell::RefCell;
use std::time::Duration;

/// Until a connection is there, and between bytes of an answer.
const CONNECT: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_secs(60);
/// Attempts that bring nothing.
const ATTEMPTS: u32 = 4;
/// Bytes of an error's text that are read.
const MAX_ERROR: u64 = 64 << 10;

/// Why a request failed.
pub(crate) enum Failure {
    /// It may work the next time.
    Transient(String),
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// One repository of a registry.
pub(crate) struct Registry<'a> {
    http: Client,
    reference: &'a Reference,
    /// `https`, or where nobody listens `http`.
    scheme: &'static str,
    credentials: Option<Credentials>,
    /// What the registry was content with.
    authorization: RefCell<Option<HeaderValue>>,
}

impl<'a> Registry<'a> {
    pub(crate) fn new(
        reference: &'a Reference,
        insecure: bool,
        credentials: Option<Credentials>,
    ) -> Result<Self, Error> {
        // Fails if a provider is there already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let plain = insecure || reference.is_loopback();
        let mut builder = Client::builder()
            .user_agent(concat!("donjon/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            // What begins encrypted is not redirected to what is not.
            .https_only(!plain);
        if reference.is_loopback() {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|e| Error::Unreachable {
            registry: reference.registry().into(),
            url: format!("https://{}/v2/", reference.host()),
            what: describe(&e),
        })?;
        Ok(Self {
            http,
            reference,
            scheme: if plain { "http" } else { "https" },
            credentials,
            authorization: RefCell::new(None),
        })
    }

    /// The manifest or index of that name: a tag or a digest. Returns it with its digest, which was checked if it was
    /// asked for.
    pub(crate) async fn manifest(
        &self,
        name: &str,
        wanted: Option<Digest>,
    ) -> Result<(Vec<u8>, Digest), Error> {
        let path = format!("manifests/{name}");
        let mut attempt = 1;
        let body = loop {
            match self.manifest_once(&path, wanted).await {
                Ok(body) => break body,
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Transient(what)) if attempt == ATTEMPTS => {
                    return Err(self.unreachable(&path, what));
                }
                Err(Failure::Transient(_)) => pause(attempt - 1).await,
            }
            attempt += 1;
        };
        let digest = Digest::of(&body);
        match wanted {
            Some(wanted) if wanted != digest => Err(self.tampered(wanted, "a manifest with another digest")),
            _ => Ok((body, digest)),
        }
    }

    async fn manifest_once(&self, path: &str, wanted: Option<Digest>) -> Result<Vec<u8>, Failure> {
        let response = self.get(path, None).await?;
        match (response.status(), wanted) {
            (StatusCode::OK, _) => {}
            // The tag led to an index that names it.
            (StatusCode::NOT_FOUND, Some(digest)) if self.reference.digest() != Some(digest) => {
                return Err(self.missing(digest).into());
            }
            (StatusCode::NOT_FOUND, _) => {
                let repository = format!("{}/{}", self.reference.registry(), self.reference.repository());
                return Err(Error::NoImage(self.reference.to_string(), repository).into());
            }
            _ => return Err(self.failure(path, response).await),
        }
        match body(response, MAX_DOCUMENT).await? {
            Some(body) => Ok(body),
            None => Err(Failure::Final(Error::Limit {
                what: format!("a manifest of more than {MAX_DOCUMENT} bytes"),
                limit: MAX_DOCUMENT,
            })),
        }
    }

    /// Asks for something, perhaps from an offset on; twice if the registry wants to know who asks.
    async fn get(&self, path: &str, from: Option<u64>) -> Result<Response, Failure> {
        let sent = self.authorization.borrow().clone();
        let response = self.send(path, from, sent.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<String> = challenges
            .filter_map(|c| Some(c.to_str().ok()?.to_owned()))
            .collect();
        let Some(value) = self.authorize(&challenges, sent.as_ref()).await? else {
            // There is nothing to say: the answer stands.
            return Ok(response);
        };
        *self.authorization.borrow_mut() = Some(value.clone());
        self.send(path, from, Some(&value)).await
    }

    async fn send(
        &self,
        path: &str,
        from: Option<u64>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, Failure> {
        let mut request = self.http.get(self.url(path)).header(ACCEPT_HEADER, ACCEPT);
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(from) = from {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        request.send().await.map_err(|e| Failure::Transient(describe(&e)))
    }

    /// What an answer other than the wanted one means.
    async fn failure(&self, path: &str, response: Response) -> Failure {
        let status = response.status();
        let text = match body(response, MAX_ERROR).await {
            Ok(Some(text)) => said(&text),
            _ => String::new(),
        };
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.unauthorized(text).into(),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Failure::Transient(format!("it answered {status}: {text}"))
            }
            _ if status.is_server_error() => Failure::Transient(format!("it answered {status}: {text}")),
            _ => Failure::Final(Error::Status {
                registry: self.reference.registry().into(),
                status: status.as_u16(),
                url: self.url(path),
                what: text,
            }),
        }
    }

    fn unauthorized(&self, what: String) -> Error {
        let user = self
            .credentials
            .as_ref()
            .map(|c| format!("the user {}", quote(&c.user)));
        Error::Unauthorized {
            registry: self.reference.registry().into(),
            repository: self.reference.repository().into(),
            who: user.unwrap_or_else(|| "anybody without a login".into()),
            what,
        }
    }

    fn unreachable(&self, path: &str, what: String) -> Error {
        Error::Unreachable {
            registry: self.reference.registry().into(),
            url: self.url(path),
            what,
        }
    }

    fn tampered(&self, digest: Digest, what: impl Into<String>) -> Error {
        Error::Tampered {
            registry: self.reference.registry().into(),
            digest,
            what: what.into(),
        }
    }

    fn missing(&self, digest: Digest) -> Error {
        Error::NoBlob {
            registry: self.reference.registry().into(),
            digest,
        }
    }

    fn url(&self, path: &str) -> String {
        let (host, repository) = (self.reference.host(), self.reference.repository());
        format!("{}://{host}/v2/{repository}/{path}", self.scheme)
    }
}

/// Longer after each attempt.
async fn pause(attempt: u32) {
    tokio::time::sleep(Duration::from_millis(100) * 3u32.pow(attempt)).await;
}

/// An answer's body; `None` if it has more than `limit` bytes.
async fn body(mut response: Response, limit: u64) -> Result<Option<Vec<u8>>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|e| Failure::Transient(describe(&e)))?
    {
        if (body.len() + chunk.len()) as u64 > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// What a registry says about an error (OCI distribution specification, "Error Codes").
fn said(body: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let first = &value["errors"][0];
    match (first["code"].as_str(), first["message"].as_str()) {
        (Some(code), Some(message)) => quote(&format!("{code}: {message}")),
        (Some(code), None) => quote(code),
        _ => quote(&String::from_utf8_lossy(body)),
    }
}

/// An error with its causes. The address is said elsewhere.
fn describe(error: &reqwest::Error) -> String {
    let mut texts = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    match texts.is_empty() {
        true => error.to_string(),
        false => texts.join(": "),
    }
}
