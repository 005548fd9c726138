use crate::credentials::find;
use crate::manifest::{self, Found, check_document};
use crate::*;
use proptest::prelude::*;
use std::path::Path;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn references_are_docker_s() {
    let digest = format!("sha256:{HEX}");
    let cases = [
        ("debian", "docker.io/library/debian:latest"),
        ("docker://debian:12", "docker.io/library/debian:12"),
        ("owner/name", "docker.io/owner/name:latest"),
        (
            "index.docker.io/library/debian",
            "docker.io/library/debian:latest",
        ),
        ("localhost/name", "localhost/name:latest"),
        ("ghcr.io:443/a/b/c:1.2-x", "ghcr.io:443/a/b/c:1.2-x"),
        (&format!("quay.io/a/b@{digest}"), &format!("quay.io/a/b@{digest}")),
        (
            &format!("quay.io/a/b:1@{digest}"),
            &format!("quay.io/a/b:1@{digest}"),
        ),
    ];
    for (text, full) in cases {
        let reference: Reference = text.parse().expect(text);
        assert_eq!(reference.to_string(), full);
        let again: Reference = full.parse().expect(full);
        assert_eq!(again, reference);
    }
    for text in [
        "",
        "Debian",
        "a b",
        "http://a/b",
        "a:b:c",
        "a@sha256:12",
        "a/../b",
        "-a",
        "lolocalhostAck/web",
        "\u{1b}[2J",
    ] {
        let error = text.parse::<Reference>().expect_err(text).to_string();
        assert!(
            error.contains("is not an image's name") && !error.contains('\u{1b}'),
            "{error}"
        );
    }
    let sha512 = format!("a@sha512:{HEX}{HEX}");
    assert!(sha512.parse::<Reference>().is_err(), "not an algorithm of ours");
    assert!("a".repeat(2000).parse::<Reference>().is_err());
}

#[test]
fn only_this_machine_is_asked_in_the_clear() {
    let local = |text: &str| text.parse::<Reference>().expect(text).is_loopback();
    assert!(
        local("localhost:5000/a") && local("localhost/a") && local("127.0.0.1:80/a") && local("127.9.9.9/a")
    );
    assert!(!local("a") && !local("localhost.example.com/a") && !local("192.168.0.1:5000/a"));
}

fn blob(kind: &str) -> String {
    format!(r#"{{"mediaType":"application/vnd.{kind}","digest":"sha256:{HEX}","size":9}}"#)
}

fn entry(platform: &str, fill: char) -> String {
    let digest = fill.to_string().repeat(64);
    format!(
        r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{digest}","size":9,
        "platform":{{{platform}}}}}"#
    )
}

#[test]
fn the_index_entry_for_the_oldest_processors_is_chosen() {
    let entries = [
        entry(r#""os":"linux","architecture":"amd64","variant":"v3""#, '3'),
        entry(r#""os":"linux","architecture":"amd64""#, '1'),
        entry(r#""os":"linux","architecture":"386""#, '0'),
    ];
    let chosen = |entries: &[String]| {
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        match manifest::find(index.as_bytes()) {
            Ok(Found::Index(blob)) => Ok(blob.digest.hex()),
            Ok(Found::Image(_)) => panic!("an index"),
            Err(e) => Err(e.to_string()),
        }
    };
    assert_eq!(chosen(&entries), Ok("1".repeat(64)));
    assert_eq!(chosen(&entries[..1]), Ok("3".repeat(64)));
    let text = "the image is not for linux/amd64; it is for linux/386".to_owned();
    assert_eq!(chosen(&entries[2..]), Err(text));
    let text = "the image is not for linux/amd64; it is for no platform at all".to_owned();
    assert_eq!(chosen(&[]), Err(text));
}

#[test]
fn documents_that_are_no_use_are_refused_with_the_reason() {
    let manifest = |layer: &str| {
        format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
            blob("oci.image.config.v1+json"),
            blob(layer)
        )
    };
    for kind in [
        "oci.image.layer.v1.tar",
        "oci.image.layer.v1.tar+zstd",
        "docker.image.rootfs.diff.tar.gzip",
    ] {
        manifest::image(manifest(kind).as_bytes()).expect(kind);
    }
    let error = |document: &str| {
        manifest::find(document.as_bytes())
            .err()
            .expect("refused")
            .to_string()
    };
    let text = error(&manifest("oci.image.layer.v1.tar+gzip+encrypted"));
    assert!(
        text.contains("layer.v1.tar+gzip+encrypted; layers are tar archives"),
        "{text}"
    );
    let text = error(r#"{"schemaVersion":1,"fsLayers":[]}"#);
    assert!(text.contains("old schema 1; push the image again"), "{text}");
    assert!(error("[]").starts_with("the image's manifest is not valid"));
    assert!(error(&manifest("oci.image.layer.v1.tar").replace(HEX, "12")).contains("not valid"));
    assert!(check_document(b"{").is_err());
}

#[test]
fn credentials_are_found_by_registry() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("config.json");
    assert!(
        find(&path, "quay.io")
            .expect("no file is no credentials")
            .is_none()
    );
    // me:pass:word
    std::fs::write(
        &path,
        r#"{"auths": {"quay.io": {"auth": "bWU6cGFzczp3b3Jk"}, "https://index.docker.io/v1/": {"auth": "aHViOngK"},
        "https://old.example.com/v2/": {"auth": "b2xkOng="}, "none.example.com": {}, "bad.example.com": {"auth": "?"}},
        "credHelpers": {"helped.example.com": "donjon-test-none"}, "other": 1}"#,
    )
    .expect("written");
    let get = |registry: &str| find(&path, registry).map(|c| c.map(|c| (c.user, c.password)));
    let is = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
    assert_eq!(get("quay.io").expect("found"), is("me", "pass:word"));
    assert_eq!(get("docker.io").expect("found"), is("hub", "x\n"));
    assert_eq!(get("old.example.com").expect("found"), is("old", "x"));
    assert_eq!(get("none.example.com").expect("found"), None);
    assert_eq!(get("example.com").expect("found"), None);
    for (registry, what) in [
        ("bad.example.com", "base64"),
        ("helped.example.com", "docker-credential-donjon-test-none"),
    ] {
        let text = get(registry).expect_err("refused").to_string();
        assert!(text.contains(what) && text.contains("`docker login`"), "{text}");
    }
    assert!(find(Path::new("/"), "a").is_err());
}

#[test]
fn disks_of_two_images_differ() {
    let image = |fill: u8| Image {
        digest: Digest::of(&[fill]),
        id: Digest::of(&[]),
        config: Config::default(),
        layers: vec![],
    };
    let (one, two) = (image(1).disk(1 << 30), image(2).disk(1 << 30));
    assert!(one.uuid != two.uuid && one.hash_seed != two.hash_seed);
    assert_eq!(
        (one.uuid[6] >> 4, one.uuid[8] >> 6),
        (8, 2),
        "RFC 9562, version 8"
    );
}

proptest! {
    #[test]
    fn digests_are_what_they_say(bytes: [u8; 32], text in "\\PC{0,80}") {
        let digest = Digest::of(&bytes);
        prop_assert_eq!(digest.to_string().parse::<Digest>().expect("a digest"), digest);
        if let Ok(digest) = text.parse::<Digest>() {
            prop_assert_eq!(digest.to_string(), text);
        }
    }

    #[test]
    fn references_never_panic(text in "\\PC{0,200}") {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(reference.to_string().parse::<Reference>().expect("the same"), reference);
        }
    }
}
