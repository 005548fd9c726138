use super::*;

fn tree() -> Tree {
    Tree::new(
        Spool::new(tempfile::tempfile().expect("a spool")),
        Limits::default(),
    )
}

fn put(tree: &mut Tree, path: &str, text: &str) {
    let content = tree.store(&mut text.as_bytes()).expect("stored");
    tree.insert(path, Kind::File(content), Metadata::new(0o644))
        .expect("inserted");
}

fn symlink(tree: &mut Tree, path: &str, target: &str) {
    let kind = Kind::Symlink(target.as_bytes().into());
    tree.insert(path, kind, Metadata::new(0o777)).expect("inserted");
}

fn text(tree: &Tree, path: &str) -> Option<String> {
    let bytes = tree.read(path, 1000).expect("looked up");
    bytes.map(|b| String::from_utf8(b).expect("text"))
}

#[test]
fn paths_stay_inside() {
    let mut tree = tree();
    put(&mut tree, "/a//./b/../c", "1");
    assert_eq!(text(&tree, "a/c").as_deref(), Some("1"));
    for path in ["..", "a/../../b", "/../b"] {
        let error = tree
            .insert(path, Kind::Fifo, Metadata::new(0))
            .expect_err("refused");
        assert!(matches!(error, Error::Climbs(_)), "{error}");
    }
    // Links may say so; a process inside would end up at its root.
    symlink(&mut tree, "up", "../../../up2");
    symlink(&mut tree, "absolute", "/a");
    put(&mut tree, "up/x", "2");
    put(&mut tree, "absolute/y", "3");
    assert_eq!(text(&tree, "up2/x").as_deref(), Some("2"));
    assert_eq!(text(&tree, "a/y").as_deref(), Some("3"));
    symlink(&mut tree, "loop", "loop/x");
    let error = tree
        .insert("loop/y", Kind::Fifo, Metadata::new(0))
        .expect_err("refused");
    assert_eq!(
        error.to_string(),
        "the path \"loop/y\" leads through too many symbolic links"
    );
    let error = tree
        .insert("a/c/d", Kind::Fifo, Metadata::new(0))
        .expect_err("refused");
    assert!(matches!(error, Error::NotADirectory(_)), "{error}");
    let error = tree
        .insert(vec![b'x'; 256], Kind::Fifo, Metadata::new(0))
        .expect_err("refused");
    assert!(matches!(error, Error::Path(_)), "{error}");
}

#[test]
fn links_share_a_node_until_it_has_no_name() {
    let mut tree = tree();
    put(&mut tree, "a", "1");
    tree.link("b", "a").expect("linked");
    tree.link("b", "a").expect("linked again");
    put(&mut tree, "a", "2");
    assert_eq!(text(&tree, "b").as_deref(), Some("1"));
    tree.link("a", "b").expect("linked");
    // In place of itself.
    tree.link("a", "a").expect("linked");
    assert_eq!(text(&tree, "a").as_deref(), Some("1"));
    assert!(tree.link("c", "none").is_err());
    tree.insert("d", Kind::directory(), Metadata::new(0o755))
        .expect("inserted");
    assert!(tree.link("c", "d").is_err());
    // The last name is not followed.
    symlink(&mut tree, "s", "a");
    tree.link("t", "s").expect("linked");
    assert!(matches!(
        tree.node(tree.find(b"t", false).unwrap().unwrap()).kind(),
        Kind::Symlink(_)
    ));
}

#[test]
fn directories_merge_and_others_are_replaced() {
    let mut tree = tree();
    put(&mut tree, "d/x", "1");
    tree.insert("d", Kind::directory(), Metadata::new(0o700))
        .expect("inserted");
    assert_eq!(tree.get("d").unwrap().unwrap().metadata.mode, 0o700);
    assert_eq!(text(&tree, "d/x").as_deref(), Some("1"));
    put(&mut tree, "d", "file");
    assert_eq!(text(&tree, "d").as_deref(), Some("file"));
    tree.insert("d", Kind::directory(), Metadata::new(0o755))
        .expect("inserted");
    assert_eq!(text(&tree, "d/x"), None);
    assert!(tree.insert("/", Kind::Fifo, Metadata::new(0)).is_err());
}

/// Applies a layer of empty files; what ends with a slash is a directory.
fn apply(tree: &mut Tree, paths: &[&str]) {
    let mut builder = tar_of(paths);
    tree.add_tar(&mut &std::mem::take(&mut builder)[..])
        .expect("applied");
}

fn tar_of(paths: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for path in paths {
        let mut block = [0; 512];
        block[..path.len()].copy_from_slice(path.as_bytes());
        block[156] = if path.ends_with('/') { b'5' } else { b'0' };
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        bytes.extend(block);
    }
    bytes
}

fn names(tree: &Tree, path: &str) -> Vec<String> {
    let node = tree.get(path).expect("looked up").expect("there");
    tree.children(node)
        .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
        .collect()
}

#[test]
fn whiteouts_take_what_lower_layers_have() {
    let mut tree = tree();
    apply(&mut tree, &["d/a", "d/b", "d/e/x", "d/e/y", "f"]);
    // Before or after what the layer itself has there.
    apply(
        &mut tree,
        &[
            "d/.wh.a",
            "d/e/z",
            "d/.wh.e",
            "d/.wh.none",
            "none/.wh.x",
            "f2",
            ".wh.f2",
        ],
    );
    assert_eq!(names(&tree, "d"), ["b", "e"]);
    assert_eq!(names(&tree, "d/e"), ["z"]);
    assert_eq!(names(&tree, ""), ["d", "f", "f2"]);
    apply(&mut tree, &["d/new", "d/e/", "d/.wh..wh..opq", ".wh..wh.aufs"]);
    assert_eq!(names(&tree, "d"), ["e", "new"]);
    assert!(names(&tree, "d/e").is_empty());
    apply(&mut tree, &[".wh.d", ".wh.f"]);
    assert_eq!(names(&tree, ""), ["f2"]);
    let error = tree.add_tar(&mut &tar_of(&["x/.wh."])[..]).expect_err("refused");
    assert!(matches!(error, Error::Whiteout(_)), "{error}");
}

#[test]
fn limits_hold() {
    let limits = Limits {
        content: 1000,
        entries: 20,
    };
    let mut tree = Tree::new(Spool::new(tempfile::tempfile().expect("a spool")), limits);
    let content = tree.store(&mut &[1; 600][..]).expect("stored");
    assert!(matches!(
        tree.store(&mut &[1; 401][..]),
        Err(Error::Content(1000))
    ));
    tree.insert("a", Kind::File(content), Metadata::new(0))
        .expect("inserted");
    // A path of 4096 bytes counts for seventeen, and its parents for themselves.
    let error = tree
        .insert("d/".repeat(2000), Kind::directory(), Metadata::new(0))
        .expect_err("refused");
    assert!(matches!(error, Error::Entries(20)), "{error}");
    let mut metadata = Metadata::new(0);
    metadata.xattrs.insert(b"user.x"[..].into(), vec![0; 5000].into());
    assert!(matches!(
        tree.insert("b", Kind::Fifo, metadata),
        Err(Error::Xattrs { .. })
    ));
}

#[test]
fn content_is_read_with_its_holes() {
    let mut spool = Spool::new(tempfile::tempfile().expect("a spool"));
    let runs = [(10, 5), (20, 3), (100, 0)];
    let content = spool
        .append(&mut &b"helloabc"[..], Some(100), &runs, 1000, 1000)
        .expect("stored");
    let mut out = [9; 30];
    spool.read_at(&content, 8, &mut out).expect("read");
    assert_eq!(&out[..], b"\0\0hello\0\0\0\0\0abc\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let error = spool.append(&mut &b"hell"[..], Some(100), &runs, 1000, 1000);
    assert!(matches!(error, Err(Error::Read(_))));
}
