use super::*;

fn record(id: char) -> ImageRecord {
    ImageRecord {
        id: id.to_string().repeat(64),
        kind: Kind::System,
        source: "a test".into(),
        system: None,
        size: 1,
        cloud_init: false,
        created: now(),
    }
}

fn add(store: &Store, id: char, name: &str) -> Stored {
    let draft = store.begin().unwrap();
    fs::write(draft.disk(), "disk").unwrap();
    fs::write(draft.scratch("x"), "x").unwrap();
    draft.keep(record(id), name).unwrap()
}

fn fresh() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::at(directory.path().join("data"));
    (directory, store)
}

#[test]
fn an_image_has_names_and_goes_with_the_last() {
    let (_directory, store) = fresh();
    assert!(store.images_there().unwrap().is_empty());
    let stored = add(&store, 'a', "one");
    assert_eq!(fs::read(&stored.disk).unwrap(), b"disk");
    assert_eq!(fs::read_dir(stored.disk.parent().unwrap()).unwrap().count(), 2);
    store.name("two", &stored.image.id).unwrap();
    assert_eq!(store.image("aaaa").unwrap().names, ["one", "two"]);
    store.remove("one", |_| panic!("its image stays")).unwrap();
    let error = store
        .remove("two", |_| vec!["web".into()])
        .unwrap_err()
        .to_string();
    assert!(error.contains("donjon rm web"), "{error}");
    store.remove("two", |_| vec![]).unwrap();
    assert!(!stored.disk.exists() && store.images_there().unwrap().is_empty());
}

#[test]
fn a_name_moves_to_a_newer_image() {
    let (_directory, store) = fresh();
    add(&store, 'a', "one");
    add(&store, 'b', "one");
    assert_eq!(store.image("one").unwrap().image.id, "b".repeat(64));
    assert_eq!(store.images_there().unwrap().len(), 2);
    // The same again changes nothing.
    add(&store, 'b', "one");
    assert_eq!(store.images_there().unwrap().len(), 2);
    store.remove("aaaaaa", |_| vec![]).unwrap();
    assert_eq!(store.images_there().unwrap().len(), 1);
}

#[test]
fn words_mean_one_image_or_an_error() {
    let (_directory, store) = fresh();
    add(&store, 'a', "one");
    for wanted in ["two", "aaa", "bbbb", "", "../a"] {
        let error = store.image(wanted).unwrap_err().to_string();
        assert!(error.contains("donjon image ls"), "{wanted}: {error}");
    }
}

#[test]
fn what_is_half_done_is_seen_by_nobody_and_swept() {
    let (_directory, store) = fresh();
    let alive = store.begin().unwrap();
    let dead = store.images().join(".draft-dead");
    fs::create_dir_all(&dead).unwrap();
    fs::write(dead.join("lock"), "").unwrap();
    add(&store, 'a', "one");
    assert!(!dead.exists() && alive.directory.path().exists());
    assert_eq!(store.images_there().unwrap().len(), 1);
    let path = alive.directory.path().to_owned();
    drop(alive);
    assert!(!path.exists());
}

#[test]
fn many_make_one_image_at_once() {
    let (_directory, store) = fresh();
    let made = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| {
                let _making = store.making("one", || ()).unwrap();
                if store.image("one").is_err() {
                    made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    add(&store, 'a', "one");
                }
            });
        }
    });
    assert_eq!(made.into_inner(), 1);
}
