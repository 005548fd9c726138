//! The CNCF's registry, which Debian has as docker-registry.

use super::http::request;
use super::{MANIFEST, Made};
use donjon_oci::Digest;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A registry that ends with the value.
pub struct Registry {
    child: Child,
    directory: tempfile::TempDir,
    /// Its name and port.
    pub host: String,
}

impl Registry {
    /// With `auth`, configuration for who may use it.
    pub fn start(auth: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        // The port is free a moment later, too, or else the registry ends and this fails.
        let port = TcpListener::bind("127.0.0.1:0")
            .expect("a port")
            .local_addr()
            .expect("a port")
            .port();
        let host = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{host}\"}}\n{auth}",
            directory.path().display()
        );
        let file = directory.path().join("config.yml");
        std::fs::write(&file, config).expect("written");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is there: sudo apt-get install docker-registry");
        let mut registry = Self {
            child,
            directory,
            host,
        };
        let end = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(&registry.host).is_err() {
            let ended = registry.child.try_wait().expect("a child");
            assert!(
                ended.is_none() && Instant::now() < end,
                "the registry does not start: {ended:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    pub fn push(&self, name: &str, tag: &str, made: &Made) -> String {
        for blob in &made.blobs {
            self.push_blob(name, blob);
        }
        self.push_manifest(name, tag, MANIFEST, &made.manifest);
        format!("{}/{name}:{tag}", self.host)
    }

    pub fn push_manifest(&self, name: &str, tag: &str, kind: &str, manifest: &[u8]) {
        let path = format!("/v2/{name}/manifests/{tag}");
        let answer = request(&self.host, "PUT", &path, &[("Content-Type", kind)], manifest);
        assert_eq!(answer.status, 201);
    }

    fn push_blob(&self, name: &str, blob: &[u8]) {
        let answer = request(
            &self.host,
            "POST",
            &format!("/v2/{name}/blobs/uploads/"),
            &[],
            b"",
        );
        let location = answer.header("location").expect("where to send it").to_owned();
        let path = location.split_once(&self.host).expect("this registry").1;
        let path = format!("{path}&digest={}", Digest::of(blob));
        let kind = [("Content-Type", "application/octet-stream")];
        assert_eq!(request(&self.host, "PUT", &path, &kind, blob).status, 201);
    }

    /// Where it keeps a blob.
    pub fn file(&self, digest: Digest) -> PathBuf {
        let hex = digest.to_string().split_off("sha256:".len());
        let blobs = self.directory.path().join("docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
