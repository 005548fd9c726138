//! Container images: from a registry on loopback to a program in a machine of its own.

mod common;
#[path = "../../oci/tests/common/mod.rs"]
mod registry;

use common::place::Place;
use common::{Finished, finish, free_port};
use donjon_host::cache::Cache;
use donjon_host::{images, progress};
use registry::real::Registry;
use registry::{GZIP, Made, Member, gzip, layer};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

/// A registry, and a place with a store of its own.
struct Shop {
    place: Place,
    registry: Registry,
}

impl Shop {
    fn open() -> Self {
        let place = Place::new();
        // What was fetched of Debian is not fetched again.
        images::tiny(&progress::Silent).expect("the image tiny");
        let cache = Cache::of_user().unwrap();
        std::fs::create_dir_all(place.path("cache/donjon")).unwrap();
        for shared in ["packages", "images"] {
            let here = place.path("cache/donjon").join(shared);
            std::os::unix::fs::symlink(cache.path(shared), here).unwrap();
        }
        Self {
            place,
            registry: Registry::start(""),
        }
    }

    fn donjon(&self, args: &[&str]) -> Command {
        let mut command = self.place.donjon(args);
        command
            .env("XDG_DATA_HOME", self.place.path("data"))
            .env("XDG_CACHE_HOME", self.place.path("cache"));
        command
    }

    fn ask(&self, args: &[&str]) -> Finished {
        finish(&mut self.donjon(args), "")
    }

    /// Pushes an image with busybox; its name for donjon.
    fn image(&self, name: &str, config: serde_json::Value) -> String {
        let base = layer(&[
            ("bin", Member::Dir),
            ("bin/busybox", Member::File(&busybox())),
            ("bin/sh", Member::Symlink("busybox")),
            ("etc", Member::Dir),
            (
                "etc/passwd",
                Member::File(b"root:x:0:0::/:/bin/sh\nweb:x:7:8::/srv:/bin/sh\n"),
            ),
            ("etc/group", Member::File(b"root:x:0:\nstaff:x:8:\n")),
            ("srv", Member::Dir),
            ("srv/old", Member::File(b"old")),
        ]);
        let upper = layer(&[
            ("srv", Member::Dir),
            ("srv/.wh.old", Member::File(b"")),
            ("srv/new", Member::File(b"from the upper layer\n")),
        ]);
        let layers = [(gzip(&base), GZIP, &base[..]), (gzip(&upper), GZIP, &upper[..])];
        let diff_ids: Vec<_> = layers
            .iter()
            .map(|(_, _, tar)| donjon_oci::Digest::of(tar).to_string())
            .collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}
        });
        let made = Made::with_config(&layers, config.to_string().into_bytes());
        format!("docker://{}", self.registry.push(name, "1", &made))
    }

    fn list(&self, args: &[&str]) -> Vec<serde_json::Value> {
        let listed = self.ask(&[args, &["--format", "json"]].concat()).exits(0);
        serde_json::from_str(&listed.stdout).unwrap()
    }

    fn images(&self) -> usize {
        self.list(&["image", "ls"]).len()
    }

    fn domains(&self, which: &[&str]) -> Vec<serde_json::Value> {
        self.list(&[&["ps"], which].concat())
    }
}

/// The one in the image `tiny`.
fn busybox() -> Vec<u8> {
    let image = images::tiny(&progress::Silent).expect("the image tiny");
    let archive = std::fs::read(image.initrd).unwrap();
    let mut at = 0;
    loop {
        let field = |n: usize| {
            let digits = &archive[at + 6 + n * 8..][..8];
            usize::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
        };
        let (size, name) = (field(6), field(11));
        let content = (at + 110 + name).next_multiple_of(4);
        if archive[at + 110..].starts_with(b"bin/busybox\0") {
            return archive[content..content + size].to_vec();
        }
        at = (content + size).next_multiple_of(4);
    }
}

#[test]
fn the_program_of_an_image_runs_as_the_image_says() {
    let shop = Shop::open();
    let name = shop.image(
        "web",
        json!({"Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo default"], "Env": ["PATH=/bin", "A=image", "B=kept"],
               "User": "web:staff", "WorkingDir": "/srv"}),
    );
    let script = "busybox id; busybox pwd; echo $A $B; busybox ls; busybox cat new; exit 7";
    let done = shop.ask(&["run", "--rm", "-e", "A=mine", &name, script]).exits(7);
    let out = done.stdout.replace('\r', "");
    for line in [
        "uid=7(web) gid=8(staff)",
        "/srv",
        "mine kept",
        "new",
        "from the upper layer",
    ] {
        assert!(out.contains(line), "no {line:?} in:\n{out}\n{}", done.stderr);
    }
    assert!(!out.contains("old"), "{out}");
    // It is there now, without its registry.
    let Shop { place, registry } = shop;
    drop(registry);
    let shop = Shop {
        place,
        registry: Registry::start(""),
    };
    let done = shop.ask(&["run", "--rm", "--user", "root", &name]).exits(0);
    assert!(done.stdout.contains("default"), "{}", done.stdout);
    let done = shop
        .ask(&["run", "--rm", "--entrypoint", "/bin/none", &name])
        .exits(127);
    assert!(done.stdout.contains("/bin/none"), "{}", done.stdout);
    // A signal is told as a shell does.
    shop.ask(&["run", "--rm", &name, "kill -9 $$"]).exits(137);
    assert!(shop.domains(&["-a"]).is_empty());
    // One whose process cannot remove it goes later.
    shop.ask(&["run", "-d", "--rm", &name, "busybox sleep 1000"])
        .exits(0);
    let pid = shop.domains(&["-a"])[0]["pid"].to_string();
    shop.place.host("kill", &["-9", &pid]);
    let until = Instant::now() + common::LIMIT;
    while !shop.domains(&[]).is_empty() {
        assert!(Instant::now() < until, "process {pid} is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(shop.domains(&["-a"]).is_empty());
    let left = std::fs::read_dir(shop.place.path("data/donjon/domains")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn a_service_in_the_background_with_a_port_and_a_directory() {
    let shop = Shop::open();
    let name = shop.image(
        "httpd",
        json!({"Entrypoint": ["/bin/busybox", "httpd", "-f", "-v", "-h", "/www", "-p", "80"], "Env": ["PATH=/bin"]}),
    );
    std::fs::create_dir(shop.place.path("www")).unwrap();
    std::fs::write(shop.place.path("www/index.html"), "from the host").unwrap();
    let port = free_port();
    let (forward, share) = (format!("{port}:80"), "./www:/www:ro");
    shop.ask(&["run", "-d", "--name", "httpd", "-p", &forward, "-v", share, &name])
        .exits(0);
    let get = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let until = Instant::now() + common::LIMIT;
    while !get().is_ok_and(|text| text.ends_with("from the host")) {
        assert!(Instant::now() < until, "{}", shop.ask(&["logs", "httpd"]).stdout);
        std::thread::sleep(Duration::from_millis(100));
    }
    // Many at once.
    let failed: usize = std::thread::scope(|s| {
        let asks: Vec<_> = (0..50).map(|_| s.spawn(get)).collect();
        let bad = asks.into_iter().map(|a| a.join().unwrap());
        bad.filter(|text| !text.as_ref().is_ok_and(|t| t.ends_with("from the host")))
            .count()
    });
    assert_eq!(failed, 0);
    let listed = shop.domains(&[]);
    assert_eq!(
        (&listed[0]["name"], &listed[0]["addresses"][0]),
        (&json!("httpd"), &json!("10.0.2.15"))
    );
    // The agent is there, too.
    let done = shop
        .ask(&["exec", "httpd", "--", "/bin/busybox", "hostname"])
        .exits(0);
    assert_eq!(done.stdout, "httpd\n");
    shop.ask(&["stop", "httpd"]).exits(0);
    let image = shop.ask(&["image", "rm", &name]).exits(1);
    assert!(image.stderr.contains("donjon rm httpd"), "{}", image.stderr);
    shop.ask(&["rm", "httpd"]).exits(0);
    shop.ask(&["image", "rm", &name]).exits(0);
    assert_eq!(shop.images(), 0);
}

#[test]
fn what_cannot_be_run_is_refused_and_leaves_nothing() {
    let shop = Shop::open();
    let host = shop.registry.host.clone();
    let done = shop
        .ask(&["run", "--rm", &format!("docker://{host}/none:1")])
        .exits(1);
    assert!(done.stderr.contains("none"), "{}", done.stderr);
    let climbing = layer(&[("../../etc/passwd", Member::File(b"x"))]);
    let name = shop.registry.push("climbs", "1", &Made::of(&climbing));
    shop.ask(&["run", "--rm", &format!("docker://{name}")]).exits(1);
    let no_program = shop.image("empty", json!({}));
    let done = shop.ask(&["run", "--rm", &no_program]).exits(1);
    assert!(done.stderr.contains("which program"), "{}", done.stderr);
    // That one is an image all the same.
    assert_eq!(shop.images(), 1);
    assert!(shop.domains(&["-a"]).is_empty());
}
