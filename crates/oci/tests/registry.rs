//! Against the CNCF's registry.

mod common;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::{GZIP, INDEX, Made, Member, PLAIN, ZSTD, files, get, gzip, layer, noise, quiet, real};
use donjon_oci::{Error, Image, Pull, Reference, Store, Unpack, flatten, pull, unpack, user};

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::at(directory.path()).expect("a store");
    (directory, store)
}

fn error(result: Result<Image, Error>) -> String {
    result.expect_err("refused").to_string()
}

#[test]
fn an_image_of_several_layers_becomes_a_disk() {
    let base = layer(&[
        ("bin/", Member::Dir),
        ("bin/web", Member::File(b"old")),
        ("bin/gone", Member::File(b"gone")),
        ("lib", Member::Symlink("usr/lib")),
        ("usr/lib/", Member::Dir),
        ("cache/", Member::Dir),
        ("cache/a", Member::File(b"a")),
        (
            "etc/passwd",
            Member::File(b"root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n"),
        ),
        (
            "etc/group",
            Member::File(b"root:x:0:\nstaff:x:50:root,web\naudio:x:29:web\n"),
        ),
    ]);
    let second = layer(&[
        ("bin/web", Member::File(b"new")),
        ("bin/.wh.gone", Member::File(b"")),
        ("lib/libc.so", Member::File(&noise(100_000))),
        ("lib/libc.so.6", Member::Link("lib/libc.so")),
    ]);
    let third = layer(&[
        ("cache/b", Member::File(b"b")),
        ("cache/.wh..wh..opq", Member::File(b"")),
    ]);
    let zstd = zstd::encode_all(&second[..], 3).expect("compressed");
    let made = Made::new(&[
        (gzip(&base), GZIP, &base),
        (zstd, ZSTD, &second),
        (third.clone(), PLAIN, &third),
    ]);
    let registry = real::Registry::start("");
    let name = registry.push("group/image", "v1", &made);
    let (directory, store) = store();
    let image = get(&store, &name).expect("pulled");
    assert_eq!(image.config.entrypoint, ["/bin/web"]);
    assert_eq!(image.config.cmd, ["--port", "80"]);
    assert_eq!(image.config.exposed_ports, ["443/tcp", "80/tcp"]);
    assert_eq!(image.config.volumes, ["/data"]);
    assert_eq!(image.config.stop_signal.as_deref(), Some("SIGQUIT"));
    assert_eq!(image.config.labels["maker"], "me");
    assert_eq!(
        files(directory.path()).len(),
        5,
        "manifest, configuration, three layers"
    );
    assert_eq!(Image::open(&store, image.digest).expect("found"), image);

    let tree = unpack(&image, &store, &Unpack::default(), &mut quiet).expect("unpacked");
    let web = user(&tree, &image.config.user).expect("a user");
    assert_eq!(
        (web.uid, web.gid, &web.groups[..], web.home.as_deref()),
        (33, 50, &[][..], Some("/srv"))
    );
    assert_eq!(user(&tree, "33").expect("a user").groups, [29, 50]);
    assert_eq!(user(&tree, "77:audio").expect("a user").gid, 29);
    let missing = user(&tree, "nobody").expect_err("no such user").to_string();
    assert!(missing.contains("no user \"nobody\""), "{missing}");

    let disk = directory.path().join("disk");
    let out = std::fs::File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&disk)
        .expect("a file");
    flatten(
        &image,
        &store,
        &out,
        &Unpack::default(),
        &image.disk(64 << 20),
        &mut quiet,
    )
    .expect("written");
    let check = std::process::Command::new("/sbin/e2fsck")
        .arg("-fn")
        .arg(&disk)
        .output()
        .expect("e2fsck runs");
    assert!(
        check.status.success(),
        "{}",
        String::from_utf8_lossy(&check.stdout)
    );
    let view = ext4_view::Ext4::load_from_path(&disk).expect("a file system");
    assert_eq!(view.read("/bin/web").expect("a file"), b"new");
    assert_eq!(view.read("/usr/lib/libc.so.6").expect("a file"), noise(100_000));
    assert!(!view.exists("/bin/gone").expect("looked up"));
    assert!(!view.exists("/cache/a").expect("looked up"));
    assert_eq!(view.read("/cache/b").expect("a file"), b"b");

    // By digest, nothing is asked of the registry any more.
    drop(registry);
    let by_digest = format!("{}@{}", name.rsplit_once(':').expect("a tag").0, image.digest);
    assert_eq!(get(&store, &by_digest).expect("in the store"), image);

    // What changes in the store is noticed.
    let path = directory.path().join(format!(
        "blobs/sha256/{}",
        &image.layers[1].digest.to_string()[7..]
    ));
    std::fs::write(&path, gzip(b"something else")).expect("written");
    let damaged = unpack(&image, &store, &Unpack::default(), &mut quiet).expect_err("noticed");
    assert!(damaged.to_string().contains("damaged in the store"), "{damaged}");
    assert!(!path.exists());
}

#[test]
fn what_is_wrong_in_the_registry_is_told_and_not_kept() {
    let registry = real::Registry::start("");
    let (directory, store) = store();
    let made = Made::of(&layer(&[("a", Member::File(&noise(50_000)))]));
    let name = registry.push("image", "latest", &made);

    let text = error(get(&store, &format!("{}/other:1", registry.host)));
    assert!(text.contains("other:1 does not exist"), "{text}");
    assert!(text.contains("skopeo list-tags"), "{text}");

    // As large as before, with another byte.
    let file = registry.file(made.layer_digest(0));
    let good = std::fs::read(&file).expect("a blob");
    let mut bad = good.clone();
    bad[20_000] ^= 1;
    std::fs::write(&file, &bad).expect("changed");
    let text = error(get(&store, &name));
    assert!(
        text.contains(&format!("sent something else than {}", made.layer_digest(0))),
        "{text}"
    );
    assert_eq!(files(directory.path()).len(), 1, "the configuration is good");

    std::fs::remove_file(&file).expect("removed");
    let text = error(get(&store, &name));
    assert!(text.contains("which the image needs"), "{text}");
    assert_eq!(files(directory.path()).len(), 1);

    std::fs::write(&file, &good).expect("restored");
    get(&store, &name).expect("pulled");
}

#[test]
fn indexes_lead_to_this_platform() {
    let registry = real::Registry::start("");
    let (_directory, store) = store();
    let made = Made::of(&layer(&[("a", Member::File(b"a"))]));
    registry.push("image", "amd64", &made);
    let entry = |os: &str, arch: &str| {
        serde_json::json!({
            "mediaType": common::MANIFEST, "digest": donjon_oci::Digest::of(&made.manifest).to_string(),
            "size": made.manifest.len(), "platform": {"os": os, "architecture": arch}
        })
    };
    let push = |tag: &str, entries: &[serde_json::Value]| {
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        registry.push_manifest("image", tag, INDEX, index.to_string().as_bytes());
        format!("docker://{}/image:{tag}", registry.host)
    };
    let good = push("good", &[entry("linux", "arm64"), entry("linux", "amd64")]);
    let image = get(&store, &good).expect("pulled");
    assert_eq!(image.digest, donjon_oci::Digest::of(&made.manifest));
    let others = push(
        "others",
        &[
            entry("linux", "arm64"),
            entry("windows", "amd64"),
            entry("unknown", "unknown"),
        ],
    );
    let text = error(get(&store, &others));
    assert_eq!(
        text,
        "the image is not for linux/amd64; it is for linux/arm64, windows/amd64"
    );
}

#[test]
fn credentials_are_docker_s() {
    let users = tempfile::tempdir().expect("a directory");
    let passwords = users.path().join("htpasswd");
    // "secret", as htpasswd -B has it.
    let hash = "web:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
    std::fs::write(&passwords, hash).expect("written");
    let auth = format!("auth: {{htpasswd: {{realm: r, path: {}}}}}", passwords.display());
    let registry = real::Registry::start(&auth);
    let (directory, store) = store();
    let name: Reference = format!("{}/image", registry.host).parse().expect("a name");
    let pull_as = |user: &str| {
        let config = users.path().join("config.json");
        let entry = BASE64_STANDARD.encode(user);
        let json = serde_json::json!({"auths": {&registry.host: {"auth": entry}}});
        std::fs::write(&config, json.to_string()).expect("written");
        let options = Pull {
            credentials: Some(config),
            ..Pull::default()
        };
        error(pull(&name, &store, &options, &mut quiet))
    };
    let text = error(get(&store, &name.to_string()));
    assert!(
        text.contains("does not let anybody without a login read image"),
        "{text}"
    );
    assert!(
        text.contains(&format!("`docker login {}`", registry.host)),
        "{text}"
    );
    let text = pull_as("web:wrong");
    assert!(text.contains("does not let the user web read image"), "{text}");
    // In, but there is nothing.
    let text = pull_as("web:secret");
    assert!(text.contains("image:latest does not exist"), "{text}");
    assert!(files(directory.path()).is_empty());
}
