//! vmdk images of qemu-img, read as QEMU reads them.

mod common;

use common::{Place, Random, read_all};
use donjon_block::manage::{self, Conversion, Creation};
use donjon_block::{Format, Options, open};
use std::fs;
use std::path::Path;

fn read_only() -> Options {
    Options {
        read_only: true,
        ..Options::default()
    }
}

fn error(path: &Path, options: &Options) -> String {
    open(path, options).unwrap_err().to_string()
}

const SUBFORMATS: [&str; 5] = [
    "monolithicSparse",
    "streamOptimized",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
];

fn convert(place: &Place, options: &str, from: &str, to: &str) {
    place.img(&["convert", "-f", "raw", "-O", "vmdk", "-o", options, from, to]);
}

/// Reads the image in pieces of any size, by every way there is, and compares.
fn read_at_random(path: &Path, content: &[u8], random: &mut Random) {
    let image = open(path, &read_only()).unwrap();
    assert_eq!(image.size(), content.len() as u64);
    for _ in 0..200 {
        let offset = random.below(image.size());
        let len = 1 + random.below((image.size() - offset).min(300_000));
        let expected = &content[offset as usize..(offset + len) as usize];
        let mut out = vec![0xee; len as usize];
        image.read_bytes(offset, &mut out).unwrap();
        assert!(out == expected, "{offset} {len}");
        if let Some(direct) = image.direct(offset, len, false) {
            std::os::unix::fs::FileExt::read_exact_at(&*direct.file, &mut out, direct.at).unwrap();
            assert!(out == expected, "direct: {offset} {len}");
        }
        let extent = image.extent(offset, len).unwrap();
        assert!((1..=len).contains(&extent.len));
        assert!(extent.data || expected[..extent.len as usize].iter().all(|b| *b == 0));
        assert!(image.direct(offset, len, true).is_none());
    }
    assert!(image.write_bytes(0, &[1]).is_err());
}

#[test]
fn every_subformat_of_qemu_img() {
    let place = Place::new();
    let mut random = Random::new(51);
    // Not in whole grains.
    let content = common::content(&mut random, (5 << 20) + 3 * 512);
    fs::write(place.path("content.raw"), &content).unwrap();
    for subformat in SUBFORMATS {
        let name = format!("{subformat}.vmdk");
        convert(&place, &format!("subformat={subformat}"), "content.raw", &name);
        let path = place.path(&name);
        let expected = format!("{subformat}.raw");
        place.img(&["convert", "-O", "raw", &name, &expected]);
        assert!(fs::read(place.path(&expected)).unwrap() == content);
        assert!(read_all(&path, &read_only()) == content, "{subformat}");
        read_at_random(&path, &content, &mut random);
        let info = &manage::info(&path, None).unwrap()[0];
        assert_eq!(info.format, Format::Vmdk);
        let vmdk = info.vmdk.as_ref().unwrap();
        assert_eq!(vmdk.create_type, subformat);
        let extent = &vmdk.extents[0];
        assert_eq!(extent.kind == "FLAT", subformat.ends_with("Flat"));
        assert_eq!(extent.compressed, subformat == "streamOptimized");
        assert_eq!(extent.size, content.len() as u64);
        assert!(info.allocated > 1 << 20, "{info:?}");
        for format in [Format::Raw, Format::Qcow2] {
            let target = place.path(&format!("{subformat}.{format}.new"));
            let how = Conversion {
                target: Creation {
                    format,
                    ..Creation::default()
                },
                ..Conversion::default()
            };
            manage::convert(&path, &target, &how, &|_| {}).unwrap();
            assert!(
                read_all(
                    &target,
                    &Options {
                        format: Some(format),
                        ..read_only()
                    }
                ) == content
            );
        }
    }
}

/// A copy that failed half-way shows what it has, and nothing in place of the rest.
#[test]
fn images_that_are_cut_off() {
    let place = Place::new();
    let content = common::content(&mut Random::new(55), 3 << 20);
    fs::write(place.path("content.raw"), &content).unwrap();
    for subformat in ["monolithicSparse", "streamOptimized"] {
        convert(&place, &format!("subformat={subformat}"), "content.raw", "a.vmdk");
        let whole = fs::read(place.path("a.vmdk")).unwrap();
        fs::write(place.path("a.vmdk"), &whole[..whole.len() / 2]).unwrap();
        let image = open(place.path("a.vmdk"), &read_only()).unwrap();
        let (mut there, mut gone) = (0, 0);
        for (n, grain) in content.chunks(64 << 10).enumerate() {
            let mut out = vec![0; grain.len()];
            let at = (n * grain.len()) as u64;
            match image.read_bytes(at, &mut out) {
                Ok(()) => {
                    assert!(out == grain, "{n}");
                    there += 1;
                }
                Err(e) => {
                    assert!(e.to_string().contains("past the end of the file"), "{e}");
                    assert!(image.direct(at, grain.len() as u64, false).is_none());
                    assert!(image.extent(at, grain.len() as u64).unwrap().data);
                    gone += 1;
                }
            }
        }
        assert!(there > 5 && gone > 5, "{there} {gone}");
        let copied = manage::convert(
            &place.path("a.vmdk"),
            &place.path("b.qcow2"),
            &Conversion::default(),
            &|_| {},
        );
        assert!(copied.is_err() && !place.path("b.qcow2").exists());
    }
}

/// Older sparse images, images with zeroed grains, and one that is empty.
#[test]
fn variants_of_sparse_images() {
    let place = Place::new();
    let mut random = Random::new(52);
    let content = common::content(&mut random, 3 << 20);
    fs::write(place.path("content.raw"), &content).unwrap();
    for options in [
        "compat6=on",
        "adapter_type=lsilogic,hwversion=11",
        "zeroed_grain=on",
    ] {
        let name = format!("{options}.vmdk");
        convert(&place, options, "content.raw", &name);
        let mut model = content.clone();
        // Grains in another order, and zeroed ones.
        for step in 0..8 {
            let grain = random.below(model.len() as u64 >> 16) as usize;
            let range = grain << 16..(grain + 1) << 16;
            let (value, command) = match step % 2 {
                0 => (0, format!("write -z {} 64k", range.start)),
                _ => (step, format!("write -P {step} {} 64k", range.start)),
            };
            model[range].fill(value);
            common::io(&place, "vmdk", &name, &command);
        }
        assert!(read_all(&place.path(&name), &read_only()) == model, "{options}");
        read_at_random(&place.path(&name), &model, &mut random);
    }
    place.img(&["create", "-q", "-f", "vmdk", "empty.vmdk", "1T"]);
    let image = open(place.path("empty.vmdk"), &read_only()).unwrap();
    assert_eq!(image.size(), 1 << 40);
    let mut out = [1; 512];
    image.read_bytes((1 << 40) - 512, &mut out).unwrap();
    assert_eq!(out, [0; 512]);
}

#[test]
fn disks_of_several_files() {
    let place = Place::new();
    let size = (4u64 << 30) + (300 << 20);
    let raw = fs::File::create(place.path("content.raw")).unwrap();
    raw.set_len(size).unwrap();
    let mut random = Random::new(53);
    // Across both ends of extents, and here and there.
    let places = [(2 << 30) - 100_000, (4 << 30) - 4096, 0, size - 70_000, 3 << 30];
    for at in places {
        let data: Vec<u8> = (0..70_000.min(size - at)).map(|_| random.next() as u8).collect();
        std::os::unix::fs::FileExt::write_all_at(&raw, &data, at).unwrap();
    }
    for subformat in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let name = format!("{subformat}.vmdk");
        convert(&place, &format!("subformat={subformat}"), "content.raw", &name);
        let path = place.path(&name);
        let info = &manage::info(&path, None).unwrap()[0];
        assert_eq!(info.virtual_size, size);
        assert_eq!(info.vmdk.as_ref().unwrap().extents.len(), 3, "{info:?}");
        let target = format!("{subformat}.qcow2");
        manage::convert(&path, &place.path(&target), &Conversion::default(), &|_| {}).unwrap();
        place.img(&[
            "compare",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "raw",
            &target,
            "content.raw",
        ]);
        // One alone is not the disk.
        let part = info.vmdk.as_ref().unwrap().extents[1].file.clone().unwrap();
        if subformat.ends_with("Sparse") {
            assert!(error(&part, &read_only()).contains("only an extent"));
        }
        fs::remove_file(&part).unwrap();
        let error = error(&path, &read_only());
        assert!(
            error.contains("has an extent") && error.contains("copy it"),
            "{error}"
        );
    }
}

#[test]
fn overlays_on_vmdk() {
    let place = Place::new();
    let mut random = Random::new(54);
    let content = common::content(&mut random, 3 << 20);
    fs::write(place.path("content.raw"), &content).unwrap();
    for subformat in ["streamOptimized", "monolithicFlat"] {
        let name = format!("{subformat}.vmdk");
        convert(&place, &format!("subformat={subformat}"), "content.raw", &name);
        let top = format!("{subformat}.qcow2");
        manage::overlay(&place.path(&top), &name, None, None, &Creation::default()).unwrap();
        let mut model = content.clone();
        common::random_steps(&place.path(&top), &mut model, &mut random, 80);
        place.same(&top, "qcow2", &model);
        let chain = manage::info(&place.path(&top), None).unwrap();
        let named = chain[0].qcow2.as_ref().unwrap().backing_format.clone();
        assert_eq!((named.as_deref(), chain[1].format), (Some("vmdk"), Format::Vmdk));
        assert!(read_all(&place.path(&name), &read_only()) == content);
    }
}

#[test]
fn what_is_not_done_is_said_with_the_way_out() {
    let place = Place::new();
    place.img(&["create", "-q", "-f", "vmdk", "a.vmdk", "8M"]);
    let path = place.path("a.vmdk");
    let convert = format!("donjon disk convert {} NEW.qcow2", path.display());
    let overlay = format!("donjon disk overlay {} NEW.qcow2", path.display());
    let written = error(&path, &Options::default());
    assert!(
        written.contains(&convert) && written.contains(&overlay),
        "{written}"
    );
    let resized = manage::resize(&path, None, 16 << 20, false).unwrap_err();
    assert!(resized.to_string().contains(&convert), "{resized}");
    let image = open(&path, &read_only()).unwrap();
    let resized = image.resize(16 << 20).unwrap_err();
    assert!(resized.to_string().contains(&convert), "{resized}");
    drop(image);
    for repair in [false, true] {
        let checked = manage::check(&path, None, repair).unwrap_err().to_string();
        assert!(
            checked.contains("not checked") && checked.contains(&convert),
            "{checked}"
        );
    }
    let vmdk = Creation {
        format: Format::Vmdk,
        ..Creation::default()
    };
    let created = manage::create(&place.path("b.vmdk"), 1 << 20, &vmdk).unwrap_err();
    let how = Conversion {
        target: vmdk,
        ..Conversion::default()
    };
    let converted = manage::convert(&path, &place.path("b.vmdk"), &how, &|_| {}).unwrap_err();
    for error in [created, converted] {
        assert!(error.to_string().contains("--format qcow2"), "{error}");
    }
    assert!(!place.path("b.vmdk").exists());
    // A snapshot, and the wrong format.
    place.img(&[
        "create",
        "-q",
        "-f",
        "vmdk",
        "-b",
        "a.vmdk",
        "-F",
        "vmdk",
        "delta.vmdk",
    ]);
    let delta = error(&place.path("delta.vmdk"), &read_only());
    assert!(
        delta.contains("a snapshot") && delta.contains("qemu-img convert"),
        "{delta}"
    );
    for (file, format, parts) in [
        ("a.vmdk", Format::Qcow2, ["not a qcow2 image", "content is vmdk"]),
        ("a.qcow2", Format::Vmdk, ["not a vmdk image", "content is qcow2"]),
    ] {
        place.img(&["create", "-q", "-f", "qcow2", "a.qcow2", "1M"]);
        let options = Options {
            format: Some(format),
            ..read_only()
        };
        let error = error(&place.path(file), &options);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn extents_are_locked_as_well() {
    let place = Place::new();
    place.img(&[
        "create",
        "-q",
        "-f",
        "vmdk",
        "-o",
        "subformat=monolithicFlat",
        "a.vmdk",
        "8M",
    ]);
    let mut qemu = common::Holder::start(&place, "raw", "a-flat.vmdk", false);
    let error = error(&place.path("a.vmdk"), &read_only());
    assert!(
        error.contains("a-flat.vmdk is in use by process qemu-io"),
        "{error}"
    );
    let info = &manage::info(&place.path("a.vmdk"), None).unwrap()[0];
    assert!(info.in_use_by.as_ref().is_some_and(|h| h.contains("qemu-io")));
    qemu.stop();
    let _image = open(place.path("a.vmdk"), &read_only()).unwrap();
    let error = common::img_fails(&place, &["resize", "-f", "raw", "a-flat.vmdk", "16M"]);
    assert!(error.contains("lock"), "{error}");
}
