//! Registries and images that are broken, slow or malicious.

mod common;

use common::fake::{Fake, Manners};
use common::{GZIP, Made, Member, ZSTD, files, get, gzip, layer, noise, options, quiet};
use donjon_ext4::Limits;
use donjon_oci::{Error, Event, Image, Reference, Store, Unpack, flatten, pull, unpack};
use std::ops::ControlFlow;
use std::process::{Command, Stdio};
use std::time::Duration;

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::at(directory.path()).expect("a store");
    (directory, store)
}

fn error<T>(result: Result<T, Error>) -> String {
    result.err().expect("refused").to_string()
}

/// An image with one layer of 300 kB.
fn large() -> Made {
    Made::of(&layer(&[("a", Member::File(&noise(300_000)))]))
}

/// How often a layer was asked for, and with what ranges.
fn asked(fake: &Fake, made: &Made) -> Vec<String> {
    let path = format!("/v2/image/blobs/{}", made.layer_digest(0));
    let log = fake.log();
    let of_layer = log.iter().filter_map(|l| l.strip_prefix(&path));
    of_layer.map(|rest| rest.trim().to_owned()).collect()
}

#[test]
fn what_breaks_off_is_resumed() {
    let made = large();
    let manners = Manners {
        breaks: Some((100_000, 2)),
        ..Manners::default()
    };
    let fake = Fake::start(&made, manners.clone());
    let (_directory, resumed) = store();
    get(&resumed, &fake.name()).expect("pulled");
    assert_eq!(asked(&fake, &made), ["", "bytes=100000-", "bytes=200000-"]);

    let fake = Fake::start(
        &made,
        Manners {
            no_ranges: true,
            ..manners
        },
    );
    let (_directory, restarted) = store();
    get(&restarted, &fake.name()).expect("pulled");
    assert_eq!(asked(&fake, &made), ["", "bytes=100000-", "bytes=100000-"]);
}

#[test]
fn a_later_pull_goes_on_where_an_earlier_one_was_ended() {
    let made = large();
    let fake = Fake::start(
        &made,
        Manners {
            breaks: Some((100_000, 1)),
            ..Manners::default()
        },
    );
    let (directory, store) = store();
    let name: Reference = fake.name().parse().expect("a name");
    let mut until_it_breaks = |event: Event<'_>| match event {
        Event::Retrying { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let text = error(pull(&name, &store, &options(), &mut until_it_breaks));
    assert_eq!(text, "cancelled");
    assert!(files(directory.path()).iter().any(|f| f.starts_with("partial/")));
    get(&store, &fake.name()).expect("pulled");
    assert_eq!(asked(&fake, &made), ["", "bytes=100000-"]);
    assert!(files(directory.path()).iter().all(|f| f.starts_with("blobs/")));
}

#[test]
fn a_registry_that_always_breaks_off_is_given_up() {
    let made = large();
    let fake = Fake::start(
        &made,
        Manners {
            breaks: Some((0, 99)),
            ..Manners::default()
        },
    );
    let (directory, store) = store();
    let text = error(get(&store, &fake.name()));
    assert!(text.contains("cannot reach the registry 127.0.0.1:"), "{text}");
    assert!(text.contains("`curl -v http://127.0.0.1:"), "{text}");
    assert!(
        files(directory.path()).iter().all(|f| f.starts_with("blobs/")),
        "nothing half done"
    );
}

#[test]
fn two_pulls_at_once_fetch_each_part_once() {
    let made = large();
    let fake = Fake::start(
        &made,
        Manners {
            delay: Duration::from_millis(300),
            ..Manners::default()
        },
    );
    let (_directory, store) = store();
    let name = fake.name();
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| get(&store, &name).expect("pulled")))
            .collect();
        let images: Vec<Image> = pulls.into_iter().map(|p| p.join().expect("no panic")).collect();
        assert!(images.windows(2).all(|w| w[0] == w[1]));
    });
    assert_eq!(asked(&fake, &made), [""]);
    assert_eq!(fake.log().iter().filter(|l| l.contains("/blobs/")).count(), 2);
}

#[test]
fn tokens_are_fetched_and_refusals_told() {
    let made = large();
    let fake = Fake::start(
        &made,
        Manners {
            token: Some(None),
            ..Manners::default()
        },
    );
    let (_directory, open) = store();
    get(&open, &fake.name()).expect("pulled");
    let token = fake
        .log()
        .into_iter()
        .find(|l| l.starts_with("/token"))
        .expect("asked for");
    assert_eq!(token, "/token?service=s&scope=repository%3Aimage%3Apull");

    let fake = Fake::start(
        &made,
        Manners {
            token: Some(Some("Basic x")),
            ..Manners::default()
        },
    );
    let (directory, closed) = store();
    let text = error(get(&closed, &fake.name()));
    assert!(
        text.contains("anybody without a login") && text.contains("DENIED: no"),
        "{text}"
    );
    assert!(files(directory.path()).is_empty());
}

#[test]
fn documents_are_bounded() {
    let fake = Fake::start(
        &large(),
        Manners {
            endless_manifest: true,
            ..Manners::default()
        },
    );
    let (directory, store) = store();
    let text = error(get(&store, &fake.name()));
    assert!(text.contains("a manifest of more than 4194304 bytes"), "{text}");
    assert!(files(directory.path()).is_empty());

    let config = format!("{{\"os\": \"{}\"}}", " ".repeat(5 << 20)).into_bytes();
    let fake = Fake::start(&Made::with_config(&[], config), Manners::default());
    let text = error(get(&store, &fake.name()));
    assert!(text.contains("a configuration of"), "{text}");

    let tar = layer(&[]);
    let many = vec![(gzip(&tar), GZIP, &tar[..]); 501];
    let fake = Fake::start(&Made::new(&many), Manners::default());
    let text = error(get(&store, &fake.name()));
    assert!(text.contains("501 layers: more than the limit of 500"), "{text}");
    assert!(files(directory.path()).is_empty());
}

#[test]
fn other_architectures_are_refused() {
    let tar = layer(&[]);
    let config = br#"{"architecture":"arm64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let made = Made::with_config(&[(gzip(&tar), GZIP, &tar)], config.to_vec());
    let fake = Fake::start(&made, Manners::default());
    let (_directory, store) = store();
    let text = error(get(&store, &fake.name()));
    assert_eq!(text, "the image is not for linux/amd64; it is for linux/arm64");
    assert!(asked(&fake, &made).is_empty(), "its layers are not fetched");
}

/// Pulls an image and unpacks it.
fn unpacked(made: &Made, options: &Unpack) -> Result<donjon_ext4::Tree, Error> {
    let fake = Fake::start(made, Manners::default());
    let (_directory, store) = store();
    let image = get(&store, &fake.name()).expect("pulled");
    unpack(&image, &store, options, &mut quiet)
}

#[test]
fn layers_that_climb_out_or_lie_are_refused() {
    let made = Made::of(&layer(&[("a/../../b", Member::File(b"x"))]));
    let text = error(unpacked(&made, &Unpack::default()));
    let expected = format!(
        "layer 1 of the image ({}) cannot be unpacked: the path \"a/../../b\" climbs out of the root directory",
        made.layer_digest(0)
    );
    assert_eq!(text, expected);

    let made = Made::of(&layer(&[("a", Member::Link("../etc/passwd"))]));
    let text = error(unpacked(&made, &Unpack::default()));
    assert!(text.contains("climbs out"), "{text}");

    let (told, sent) = (layer(&[("a", Member::Dir)]), layer(&[("b", Member::Dir)]));
    let made = Made::new(&[(gzip(&sent), GZIP, &told)]);
    let text = error(unpacked(&made, &Unpack::default()));
    assert!(text.contains("but the configuration says"), "{text}");

    let mut cut = layer(&[("a", Member::File(&noise(5000)))]);
    cut.truncate(3000);
    let text = error(unpacked(&Made::of(&cut), &Unpack::default()));
    assert!(text.contains("ends in the middle"), "{text}");
}

#[test]
fn bombs_do_not_go_off() {
    let zeroes = vec![0; 300 << 20];
    let bomb = layer(&[("zeroes", Member::File(&zeroes))]);
    drop(zeroes);
    let zstd = Made::new(&[(zstd::encode_all(&bomb[..], 1).expect("compressed"), ZSTD, &bomb)]);
    let text = error(unpacked(&zstd, &Unpack::default()));
    assert!(text.contains("more than 2000 for each one"), "{text}");

    let few = Unpack {
        limits: Limits {
            content: 1 << 20,
            entries: 3,
        },
        ..Unpack::default()
    };
    let text = error(unpacked(&Made::of(&bomb), &few));
    assert!(text.contains("more than the limit of 1048576"), "{text}");
    let many = layer(&[
        ("a", Member::Dir),
        ("b", Member::Dir),
        ("c", Member::Dir),
        ("d", Member::Dir),
    ]);
    let text = error(unpacked(&Made::of(&many), &few));
    assert!(text.contains("more files: more than the limit of 3"), "{text}");
    // What is behind an archive's end counts as well.
    let mut tail = layer(&[]);
    tail.resize(40 << 20, 7);
    let text = error(unpacked(&Made::of(&tail), &few));
    assert!(text.contains("bytes unpacked: more than the limit"), "{text}");
}

/// Runs itself in a mount namespace with a file system of one mebibyte.
#[test]
fn a_full_disk_leaves_a_valid_store() {
    const PLACE: &str = "DONJON_TEST_FULL";
    let Some(place) = std::env::var_os(PLACE) else {
        let directory = tempfile::tempdir().expect("a directory");
        let script = "mount -t tmpfs -o size=1m none \"$DONJON_TEST_FULL\" && ip link set lo up && exec \"$0\" \
                      --exact a_full_disk_leaves_a_valid_store --nocapture";
        let run = Command::new("unshare")
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "--net",
                "sh",
                "-c",
                script,
            ])
            .arg(std::env::current_exe().expect("a path"))
            .env(PLACE, directory.path())
            .output()
            .expect("unshare runs");
        let text = String::from_utf8_lossy(&run.stdout);
        assert!(
            run.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&run.stderr)
        );
        assert!(text.contains("1 passed"), "{text}");
        return;
    };
    let store = Store::at(&place).expect("a store");
    let made = Made::of(&layer(&[("a", Member::File(&noise(2 << 20)))]));
    let fake = Fake::start(&made, Manners::default());
    let text = error(get(&store, &fake.name()));
    assert!(
        text.contains("no space left for") && text.contains("`df -h"),
        "{text}"
    );
    assert_eq!(files(store.root()).len(), 1, "the configuration");

    // What fits still works; its disk does not fit.
    let small = Made::of(&layer(&[("a", Member::File(&noise(400 << 10)))]));
    let fake = Fake::start(&small, Manners::default());
    let image = get(&store, &fake.name()).expect("pulled");
    let path = store.root().join("disk");
    let out = std::fs::File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&path)
        .expect("a file");
    let disk = image.disk(64 << 20);
    let text = error(flatten(
        &image,
        &store,
        &out,
        &Unpack::default(),
        &disk,
        &mut quiet,
    ));
    assert!(text.contains("no space left for"), "{text}");
    assert_eq!(out.metadata().expect("metadata").len(), 0);
    store.verify(image.layers[0].digest).expect("still good");
}

/// Runs itself, to be killed.
#[test]
fn a_killed_pull_leaves_a_valid_store() {
    const STORE: &str = "DONJON_TEST_STORE";
    const NAME: &str = "DONJON_TEST_NAME";
    if let (Some(store), Ok(name)) = (std::env::var_os(STORE), std::env::var(NAME)) {
        let _ = get(&Store::at(store).expect("a store"), &name);
        panic!("it is to be killed");
    }
    let made = large();
    let (directory, store) = store();
    let partial = directory
        .path()
        .join(format!("partial/{}", &made.layer_digest(0).to_string()[7..]));
    for (round, bytes) in [1u64, 100_000, 150_000].into_iter().enumerate() {
        let from = [0, 1, 100_001][round];
        let manners = Manners {
            breaks: Some((usize::try_from(bytes).expect("small"), 1)),
            stalls: true,
            from: 2000,
            ..Manners::default()
        };
        let fake = Fake::start(&made, manners);
        let mut child = Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", "a_killed_pull_leaves_a_valid_store"])
            .env(STORE, directory.path())
            .env(NAME, fake.name())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("runs");
        let arrived = || partial.metadata().map_or(0, |m| m.len());
        while arrived() < from + bytes {
            assert!(child.try_wait().expect("a child").is_none(), "it waits for more");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().expect("killed");
        child.wait().expect("killed");
        assert!(!store.has(made.layer_digest(0)));
        let range = if from == 0 {
            String::new()
        } else {
            format!("bytes={from}-")
        };
        assert_eq!(asked(&fake, &made), [range]);
    }
    let fake = Fake::start(&made, Manners::default());
    let image = get(&store, &fake.name()).expect("pulled");
    assert_eq!(asked(&fake, &made), ["bytes=250001-"]);
    image.blobs().for_each(|b| store.verify(b).expect("complete"));
    assert_eq!(files(directory.path()).len(), 3);
}

#[test]
fn stores_are_swept() {
    let made = large();
    let fake = Fake::start(&made, Manners::default());
    let (directory, store) = store();
    let image = get(&store, &fake.name()).expect("pulled");
    std::fs::write(directory.path().join("partial/abc"), b"left").expect("written");
    assert_eq!(store.retain(&image.blobs().collect()).expect("swept"), 4);
    assert_eq!(Image::open(&store, image.digest).expect("there"), image);
    store.retain(&Default::default()).expect("swept");
    assert!(files(directory.path()).is_empty());
    let text = error(Image::open(&store, image.digest));
    assert!(
        text.contains("is not in the store; pull the image again"),
        "{text}"
    );
}
