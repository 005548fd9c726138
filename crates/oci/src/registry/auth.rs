//! How a registry is told who asks (RFC 7617, and the token protocol of the CNCF's distribution: "Token
//! Authentication Specification").

use super::{Failure, Registry, body, describe};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::HeaderValue;
use reqwest::{StatusCode, Url};
use serde::Deserialize;

/// Bytes of an answer with a token.
const MAX_TOKEN: u64 = 1 << 20;

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Registry<'_> {
    /// What to send after these challenges, given what was sent before; `None` if there is nothing more to say.
    pub(super) async fn authorize(
        &self,
        challenges: &[String],
        sent: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, Failure> {
        let of = |scheme: &str| challenges.iter().find_map(|c| parameters(c, scheme));
        // Tokens expire, so another one may do what the last one did not.
        if let Some(parameters) = of("bearer") {
            return self.token(&parameters).await.map(Some);
        }
        Ok(match of("basic") {
            Some(_) if sent.is_none() => self.basic(),
            _ => None,
        })
    }

    async fn token(&self, parameters: &[(String, String)]) -> Result<HeaderValue, Failure> {
        let get = |name: &str| {
            parameters
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.as_str())
        };
        let realm = get("realm").unwrap_or_default();
        let bad = |what: &str| Failure::Final(self.unauthorized(what.into()));
        let mut url = Url::parse(realm).map_err(|_| bad("it names no place to get a token"))?;
        if url.scheme() != self.scheme && url.scheme() != "https" {
            return Err(bad("it wants the credentials sent without encryption"));
        }
        let scope = format!("repository:{}:pull", self.reference.repository());
        let mut query = url.query_pairs_mut();
        if let Some(service) = get("service") {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &scope);
        drop(query);
        let mut request = self.http.get(url);
        if let Some(value) = self.basic() {
            request = request.header(reqwest::header::AUTHORIZATION, value);
        }
        let response = request
            .send()
            .await
            .map_err(|e| Failure::Transient(describe(&e)))?;
        if response.status() != StatusCode::OK {
            return Err(self.failure("", response).await);
        }
        let body = body(response, MAX_TOKEN)
            .await?
            .ok_or_else(|| bad("its token is too large"))?;
        let token: Token = serde_json::from_slice(&body).map_err(|_| bad("it sent no token"))?;
        let token = match token.token.is_empty() {
            true => token.access_token,
            false => token.token,
        };
        secret(&format!("Bearer {token}")).ok_or_else(|| bad("its token is not one"))
    }

    fn basic(&self) -> Option<HeaderValue> {
        let credentials = self.credentials.as_ref()?;
        let pair = format!("{}:{}", credentials.user, credentials.password);
        secret(&format!("Basic {}", BASE64_STANDARD.encode(pair)))
    }
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The parameters of a challenge, `Scheme name="value",name=value`, if it is of this scheme.
fn parameters(challenge: &str, scheme: &str) -> Option<Vec<(String, String)>> {
    let (found, mut rest) = challenge.trim().split_once(' ').unwrap_or((challenge.trim(), ""));
    if !found.eq_ignore_ascii_case(scheme) {
        return None;
    }
    let mut parameters = Vec::new();
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        parameters.push((name, value.to_owned()));
        rest = after;
    }
    Some(parameters)
}
