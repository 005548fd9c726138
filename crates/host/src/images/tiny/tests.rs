use super::super::cpio::tests::read;
use super::super::deb::tests::{ar_of, deb_of};
use super::super::modinfo::tests::module_of;
use super::*;
use crate::progress::Silent;
use std::sync::Mutex;

const RELEASE: &str = "6.1.0-56-cloud-amd64";

/// A host with a cache and a fake apt.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        host.package(META, &meta(&format!("linux-image-{RELEASE} (= 6.1.192-2)")));
        host.package(&format!("linux-image-{RELEASE}"), &kernel("lib/modules", &[]));
        host.package(
            BUSYBOX,
            &deb_of(
                "Package: busybox-static\nVersion: 1.35\n",
                &[("./bin/busybox", b"\x7fELF b")],
            ),
        );
        host
    }

    fn package(&self, name: &str, bytes: &[u8]) {
        fs::write(self.dir.path().join(format!("{name}.deb")), bytes).unwrap();
    }

    fn tiny(&self) -> Tiny {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/images/tiny/fake-apt.sh");
        let command = vec!["/bin/sh".into(), script.into(), self.dir.path().into()];
        Tiny::new(Cache::at(self.dir.path().join("cache")), command)
    }

    fn image(&self) -> Result<BootImage, ImageError> {
        self.tiny().image(&Silent)
    }

    fn error(&self) -> String {
        self.image().unwrap_err().to_string()
    }

    /// The operations apt was asked for.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

fn meta(depends: &str) -> Vec<u8> {
    deb_of(&format!("Package: {META}\nVersion: 1\nDepends: {depends}\n"), &[])
}

fn kernel(modules: &str, more: &[(&str, &[u8])]) -> Vec<u8> {
    let virtio = module_of(&["depends=", "alias=pci:x"]);
    let net = liblzma::encode_all(&module_of(&["depends=virtio_pci,builtin"])[..], 1).unwrap();
    let other = module_of(&["depends=nowhere"]);
    let below = |path: &str| format!("./{modules}/{RELEASE}/{path}");
    let (virtio_at, net_at) = (
        below("kernel/drivers/virtio/virtio_pci.ko"),
        below("kernel/drivers/net/virtio_net.ko.xz"),
    );
    let (other_at, builtin_at) = (below("kernel/other.ko"), below("modules.builtin"));
    let mut files: Vec<(&str, &[u8])> = vec![
        ("./boot/vmlinuz-6.1.0-56-cloud-amd64", b"the kernel"),
        ("./boot/config-6.1.0-56-cloud-amd64", b"# config"),
        (&virtio_at, &virtio),
        (&net_at, &net),
        (&other_at, &other),
        (&builtin_at, b"kernel/lib/builtin.ko\n"),
    ];
    files.extend(more);
    deb_of(
        &format!("Package: linux-image-{RELEASE}\nVersion: 6.1.192-2\n"),
        &files,
    )
}

#[test]
fn a_first_run_makes_the_image_and_a_second_one_finds_it() {
    let host = Host::new();
    let image = host.image().unwrap();
    assert_eq!(fs::read(&image.kernel).unwrap(), b"the kernel");
    assert_eq!(
        image.version,
        "linux-image-6.1.0-56-cloud-amd64 6.1.192-2, busybox-static 1.35"
    );
    let entries = read(&fs::read(&image.initrd).unwrap());
    let content = |path: &str| &entries.iter().find(|e| e.path == path).unwrap().content;
    assert_eq!(content("bin/busybox"), b"\x7fELF b");
    assert_eq!(
        String::from_utf8_lossy(content(&format!("lib/modules/{RELEASE}/modules.dep"))),
        "kernel/drivers/net/virtio_net.ko: kernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/virtio/virtio_pci.ko:\n"
            .split_inclusive('\n')
            .collect::<String>()
    );
    let net = content(&format!("lib/modules/{RELEASE}/kernel/drivers/net/virtio_net.ko"));
    assert!(net.starts_with(b"\x7fELF"), "unpacked for busybox");

    let calls = host.calls();
    assert_eq!(
        calls,
        [
            "update ",
            "download linux-image-cloud-amd64",
            "download linux-image-6.1.0-56-cloud-amd64=6.1.192-2 busybox-static"
        ]
    );
    assert_eq!(host.image().unwrap(), image);
    assert_eq!(host.calls(), calls, "the second run needs no apt");
}

#[test]
fn merged_usr_packages_give_the_same_image() {
    let (old, new) = (Host::new(), Host::new());
    new.package(&format!("linux-image-{RELEASE}"), &kernel("usr/lib/modules", &[]));
    let initrd = |host: &Host| fs::read(host.image().unwrap().initrd).unwrap();
    assert_eq!(initrd(&old), initrd(&new));
}

#[test]
fn a_damaged_image_is_rebuilt_from_the_packages() {
    let host = Host::new();
    let image = host.image().unwrap();
    let (before, calls) = (fs::read(&image.initrd).unwrap(), host.calls());
    fs::write(&image.initrd, b"damaged").unwrap();
    assert_eq!(
        fs::read(host.image().unwrap().initrd).unwrap(),
        before,
        "the same bytes again"
    );
    assert_eq!(host.calls(), calls);
}

#[test]
fn damaged_packages_are_downloaded_again() {
    let host = Host::new();
    let image = host.image().unwrap();
    fs::remove_file(&image.kernel).unwrap();
    fs::write(host.dir.path().join("cache/packages/tiny/kernel.deb"), b"damaged").unwrap();
    assert_eq!(fs::read(host.image().unwrap().kernel).unwrap(), b"the kernel");
    assert_eq!(
        host.calls().iter().filter(|c| c.starts_with("update")).count(),
        1,
        "the lists were there"
    );
    assert_eq!(host.calls().len(), 5);
}

#[test]
fn first_runs_at_the_same_time_do_the_work_once() {
    let host = Host::new();
    std::thread::scope(|s| {
        let runs: Vec<_> = (0..8).map(|_| s.spawn(|| host.image().unwrap())).collect();
        let images: Vec<_> = runs.into_iter().map(|r| r.join().unwrap()).collect();
        assert!(images.iter().all(|i| *i == images[0]));
    });
    assert_eq!(host.calls().len(), 3);
}

#[test]
fn old_lists_are_renewed_when_they_do_not_help() {
    let host = Host::new();
    host.image().unwrap();
    fs::remove_dir_all(host.dir.path().join("cache/packages")).unwrap();
    fs::remove_dir_all(host.dir.path().join("cache/images")).unwrap();
    fs::write(host.dir.path().join("stale"), "").unwrap();
    host.image().unwrap();
    let operations: Vec<_> = host.calls()[3..]
        .iter()
        .map(|c| c.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(operations, ["download", "update", "download", "download"]);
}

#[test]
fn without_apt_or_network_the_error_says_what_to_do() {
    let host = Host::new();
    let none = Tiny::new(
        Cache::at(host.dir.path().join("c")),
        vec!["/nonexistent/apt-get".into()],
    );
    let error = none.image(&Silent).unwrap_err().to_string();
    assert!(
        error.contains("no /nonexistent/apt-get") && error.contains("--kernel FILE --initrd FILE"),
        "{error}"
    );

    let said =
        "W: Failed to fetch somewhere/InRelease  Temporary failure resolving 'somewhere'\nE: Some more";
    fs::write(host.dir.path().join("update-fails"), said).unwrap();
    fs::remove_file(host.dir.path().join(format!("{META}.deb"))).unwrap();
    let error = host.error();
    for part in [
        "fake-apt.sh",
        " update\n",
        "  W: Failed to fetch",
        "  E: Some more",
        "connect this host",
        "--kernel",
    ] {
        assert!(error.contains(part), "{error:?} should contain {part:?}");
    }

    fs::remove_file(host.dir.path().join("update-fails")).unwrap();
    let error = host.error();
    assert!(
        error.contains("Unable to locate package linux-image-cloud-amd64"),
        "{error}"
    );
    assert!(error.contains("add Debian's main archive"), "{error}");
}

#[test]
fn packages_that_are_not_what_they_should_be_are_named() {
    type Change = fn(&Host);
    let cases: [(Change, &str); 9] = [
        (
            |h| h.package(META, &meta("linux-image-6.1.0-arm64")),
            "where a linux-image-VERSION-cloud-amd64",
        ),
        (
            |h| h.package(META, &meta("linux-image-$(reboot)-cloud-amd64")),
            "where a linux-image-VERSION",
        ),
        (
            |h| h.package(META, b"<html>a captive portal</html>"),
            "not a Debian package",
        ),
        (
            |h| h.package(BUSYBOX, &deb_of("Package: busybox-static\n", &[])),
            "no bin/busybox",
        ),
        (
            |h| {
                h.package(
                    BUSYBOX,
                    &deb_of("Package: busybox-static\n", &[("bin/busybox", b"#!")]),
                )
            },
            "not an ELF",
        ),
        (
            |h| h.package(BUSYBOX, &ar_of(&[("debian-binary", b"2.0\n")])),
            "no control.tar",
        ),
        (
            |h| {
                h.package(
                    "linux-image-6.1.0-56-cloud-amd64",
                    &kernel("lib/modules", &[("boot/vmlinuz-7", b"")]),
                )
            },
            "one kernel was expected",
        ),
        (
            |h| h.package("linux-image-6.1.0-56-cloud-amd64", &kernel("elsewhere", &[])),
            "no kernel modules",
        ),
        (
            |h| {
                h.package(
                    "linux-image-6.1.0-56-cloud-amd64",
                    &kernel("lib/modules", &[("../../x", b"")]),
                )
            },
            "leads outside",
        ),
    ];
    for (change, expected) in cases {
        let host = Host::new();
        change(&host);
        let error = host.error();
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
        assert!(
            error.contains("remove ") && error.contains("--kernel FILE"),
            "{error}"
        );
        assert!(!host.dir.path().join("x").exists());
    }
}

#[test]
fn a_half_made_image_is_never_found() {
    let host = Host::new();
    fs::create_dir_all(host.tiny().image_target()).unwrap();
    fs::write(host.tiny().image_target().join("vmlinuz"), "half").unwrap();
    assert_eq!(fs::read(host.image().unwrap().kernel).unwrap(), b"the kernel");
}

#[test]
fn progress_is_told_and_finished() {
    #[derive(Default)]
    struct Notes(Mutex<Vec<String>>);
    impl Progress for Notes {
        fn step(&self, what: &str) {
            self.0.lock().unwrap().push(what.to_owned());
        }
        fn percent(&self, done: f32) {
            self.0.lock().unwrap().push(format!("{done} %"));
        }
        fn finish(&self) {
            self.0.lock().unwrap().push("end".into());
        }
    }
    let (host, notes) = (Host::new(), Notes::default());
    host.tiny().image(&notes).unwrap();
    let text = notes.0.lock().unwrap().join("; ");
    assert!(
        text.starts_with("fetching Debian's package lists; 50 %; looking up"),
        "{text}"
    );
    assert!(text.ends_with("building the image tiny; end"), "{text}");
    notes.0.lock().unwrap().clear();
    host.tiny().image(&notes).unwrap();
    assert_eq!(
        *notes.0.lock().unwrap(),
        ["end"],
        "nothing to tell when nothing is done"
    );
}

#[test]
fn the_kernel_is_found_among_what_the_metapackage_needs() {
    let found = current_kernel("a (>= 1), linux-image-6.12.1+deb13-cloud-amd64 (= 6.12.1-1), b").unwrap();
    assert_eq!(found.for_apt(), "linux-image-6.12.1+deb13-cloud-amd64=6.12.1-1");
    assert_eq!(
        current_kernel("linux-image-6-cloud-amd64").unwrap().for_apt(),
        "linux-image-6-cloud-amd64"
    );
    assert!(current_kernel("linux-image-cloud-amd64").is_err());
    assert!(current_kernel("").is_err());
}
