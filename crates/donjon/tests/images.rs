//! Images that a domain does not get: those that somebody uses, and those that are no images.

mod common;

use common::Running;
use common::guest::Guest;
use common::place::Place;

#[test]
fn an_image_in_use_is_refused_to_others() {
    let place = Place::new();
    place.image("base.qcow2", "qcow2", "8M");
    place
        .ask(&["disk", "overlay", "base.qcow2", "top.qcow2"])
        .exits(0);
    place.image("ro.raw", "raw", "8M");
    let guest = Guest::boot(
        &place,
        &[
            "--name",
            "holder",
            "--disk",
            "top.qcow2",
            "--disk",
            "ro.raw,format=raw,ro",
        ],
    );
    let holder = format!("donjon ({})", guest.running.child.id());
    // One error on one line, that says who.
    place
        .ask(&["run", "--disk", "top.qcow2"])
        .exits(1)
        .says(&["in use by", &holder]);
    place
        .ask(&["run", "--disk", "base.qcow2"])
        .exits(1)
        .says(&["in use by", &holder]);
    place
        .ask(&["disk", "resize", "top.qcow2", "16M"])
        .exits(1)
        .says(&[&holder]);
    place
        .ask(&["disk", "check", "--repair", "top.qcow2"])
        .exits(1)
        .says(&[&holder]);
    place
        .ask(&["device", "add", "holder", "--disk", "top.qcow2"])
        .exits(1)
        .says(&["in use by"]);
    for args in [&["info", "top.qcow2"][..], &["resize", "base.qcow2", "16M"]] {
        let refused = place.try_host("qemu-img", args);
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(
            !refused.status.success() && text.contains("lock"),
            "{args:?}: {text}"
        );
    }
    let refused = place.try_host("qemu-io", &["-c", "write 0 4k", "top.qcow2"]);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("lock"), "{text}");
    // Those who only read may share.
    place.host("qemu-img", &["info", "ro.raw"]);
    place
        .ask(&["run", "--disk", "ro.raw,format=raw"])
        .exits(1)
        .says(&[&holder]);
    guest.off();
    place.host("qemu-io", &["-c", "write 0 4k", "top.qcow2"]);

    // The other way round.
    let mut other = Running::start(&mut place.command("qemu-io", &["top.qcow2"]));
    other.send("read 0 512\n");
    other.expect("read 512/512", 1);
    let holder = format!("qemu-io ({})", other.child.id());
    place
        .ask(&["run", "--disk", "top.qcow2"])
        .exits(1)
        .says(&["in use by", &holder]);
}

#[test]
fn bad_images_are_refused_with_the_way_out() {
    let place = Place::new();
    place.image("good.qcow2", "qcow2", "8M");
    place.image("good.raw", "raw", "8M");
    let good = std::fs::read(place.path("good.qcow2")).unwrap();
    common::file(place.as_ref(), "short.qcow2", &good[..60]);
    common::file(place.as_ref(), "cut.qcow2", &good[..100_000]);
    place
        .ask(&["disk", "overlay", "good.qcow2", "orphan.qcow2"])
        .exits(0);
    place.image("base.qcow2", "qcow2", "8M");
    place
        .ask(&["disk", "overlay", "base.qcow2", "loop.qcow2"])
        .exits(0);
    place.host(
        "qemu-img",
        &["rebase", "-u", "-F", "qcow2", "-b", "loop.qcow2", "base.qcow2"],
    );
    place.host(
        "qemu-img",
        &["rebase", "-u", "-F", "qcow2", "-b", "gone.qcow2", "orphan.qcow2"],
    );
    for format in ["vmdk", "vhdx"] {
        let name = format!("other.{format}");
        place.host("qemu-img", &["create", "-q", "-f", format, &name, "8M"]);
    }
    std::fs::create_dir(place.path("directory")).unwrap();
    for (disk, parts) in [
        ("missing.qcow2", &["does not exist", "donjon disk create"][..]),
        (
            "good.raw,format=qcow2",
            &["is not a qcow2 image", "name the right format"],
        ),
        ("short.qcow2", &["short.qcow2"]),
        ("cut.qcow2", &["cut.qcow2", "damaged", "donjon disk check"]),
        ("orphan.qcow2", &["backing file", "gone.qcow2", "does not exist"]),
        ("loop.qcow2", &["chain", "recreate the overlay"]),
        (
            "other.vmdk",
            &["only read", "donjon disk convert other.vmdk NEW.qcow2"],
        ),
        ("other.vhdx", &["not supported", "qemu-img convert"]),
        ("directory", &["directory", "name a file"]),
    ] {
        let done = place.ask(&["run", "--disk", disk]).exits(1).says(parts);
        assert_eq!(done.stderr.lines().count(), 1, "{disk}: {}", done.stderr);
        assert!(
            done.stderr.starts_with("error: ") && done.stdout.is_empty(),
            "{disk}: {}",
            done.stderr
        );
    }
    for (disk, part) in [
        ("", "say which image"),
        ("a,size=3", "there is no option \"size\""),
        ("a,format=vhd", "raw, qcow2, vmdk"),
        ("a,queues=0", "1 to 64 queues"),
        ("a,name=x/y", "name"),
        ("a,bps=fast", "bps"),
        ("a,ro,ro", "twice"),
    ] {
        place.ask(&["run", "--disk", disk]).exits(2).says(&[part]);
    }
}
