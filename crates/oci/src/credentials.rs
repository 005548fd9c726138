//! Credentials as `docker login` keeps them.

use crate::Error;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A user's name and password.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// Docker's config.json, as far as it is about credentials.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: HashMap<String, Auth>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    /// User, colon, password, in base64.
    auth: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

/// What Docker calls its own registry there.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Where Docker has its configuration: `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
pub(crate) fn default_path() -> Option<PathBuf> {
    let directory = match std::env::var_os("DOCKER_CONFIG") {
        Some(directory) => directory.into(),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    Some(directory.join("config.json"))
}

/// The credentials for a registry, if there are any.
pub(crate) fn find(path: &Path, registry: &str) -> Result<Option<Credentials>, Error> {
    let bad = |what: String| Error::Credentials {
        path: path.to_owned(),
        what,
    };
    let config: Config = match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(bad(e.to_string())),
    };
    let key = match registry {
        "docker.io" => DOCKER_HUB,
        _ => registry,
    };
    if let Some(helper) = config.cred_helpers.get(registry).or(config.creds_store.as_ref()) {
        return ask(helper, key).map_err(|what| bad(format!("docker-credential-{helper}: {what}")));
    }
    let entry = config
        .auths
        .iter()
        .find(|(name, auth)| is_for(name, key) && !auth.auth.is_empty());
    let Some((_, auth)) = entry else {
        return Ok(None);
    };
    let decoded = BASE64_STANDARD.decode(&auth.auth).ok();
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.ok_or_else(|| bad(format!("the entry for {registry} is not base64 of a text")))?;
    let (user, password) = text
        .split_once(':')
        .ok_or_else(|| bad(format!("the entry for {registry} has no password")))?;
    Ok(Some(Credentials {
        user: user.into(),
        password: password.trim_end_matches('\0').into(),
    }))
}

/// Whether an entry is a registry's; some programs write its address instead of its name.
fn is_for(entry: &str, key: &str) -> bool {
    let name = entry.trim_start_matches("https://").trim_start_matches("http://");
    entry == key || name.split('/').next() == Some(key)
}

/// Asks a helper (docker/docker-credential-helpers: "get").
fn ask(helper: &str, key: &str) -> Result<Option<Credentials>, String> {
    if helper.contains('/') {
        return Err("a helper's name is not a path".into());
    }
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| e.to_string())?;
    // A helper that does not read has ended, which its answer tells.
    let _ = child.stdin.take().expect("a pipe").write_all(key.as_bytes());
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    // It has none for this registry.
    if !output.status.success() {
        return Ok(None);
    }
    let helped: Helped = serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())?;
    Ok(Some(Credentials {
        user: helped.username,
        password: helped.secret,
    }))
}
