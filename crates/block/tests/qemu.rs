//! The same images under QEMU's tools and donjon.

mod common;

use common::{Place, Random, img, img_fails, random_steps};
use donjon_block::manage::{self, Compression, Conversion, Creation, Preallocation};
use donjon_block::{Format, OpenError, Options, open};
use std::fs;

fn read_only(format: Option<Format>) -> Options {
    Options {
        format,
        read_only: true,
        ..Options::default()
    }
}

/// Every kind of image that qemu-img makes is read as QEMU reads it, written to, and still QEMU's.
#[test]
fn images_of_qemu_img() {
    let place = Place::new();
    let mut random = Random::new(1);
    let content = common::content(&mut random, 3 << 20);
    fs::write(place.path("content.raw"), &content).unwrap();
    let variants: [&[&str]; 14] = [
        &[],
        &["-o", "compat=0.10"],
        &["-o", "compat=0.10,cluster_size=512"],
        &["-o", "cluster_size=512"],
        &["-o", "cluster_size=2M"],
        &["-o", "refcount_bits=1"],
        &["-o", "refcount_bits=64,cluster_size=4k"],
        &["-o", "lazy_refcounts=on"],
        &["-o", "preallocation=metadata"],
        &["-o", "preallocation=full"],
        &["-c"],
        &["-c", "-o", "cluster_size=512"],
        &["-c", "-o", "compression_type=zstd"],
        &["-c", "-o", "compression_type=zstd,cluster_size=2M"],
    ];
    for (i, options) in variants.iter().enumerate() {
        let name = format!("{i}.qcow2");
        let path = place.path(&name);
        let args = [
            &["convert", "-f", "raw", "-O", "qcow2"],
            *options,
            &["content.raw", &name],
        ]
        .concat();
        place.img(&args);
        assert_eq!(common::read_all(&path, &read_only(None)), content, "{options:?}");
        let report = manage::check(&path, None, false).unwrap();
        assert_eq!((report.errors, report.leaks), (0, 0), "{options:?}: {report:?}");
        let mut model = content.clone();
        random_steps(&path, &mut model, &mut random, 60);
        place.same(&name, "qcow2", &model);
    }
}

#[test]
fn random_operations_between_snapshots_and_resizes_of_qemu_img() {
    let place = Place::new();
    for (cluster, compat, seed) in [
        (512, "1.1", 5),
        (4096, "1.1", 6),
        (65536, "1.1", 7),
        (4096, "0.10", 8),
    ] {
        let name = format!("{cluster}-{compat}.qcow2");
        let options = format!("cluster_size={cluster},compat={compat}");
        let mut size = 2 << 20;
        place.img(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            &options,
            &name,
            &size.to_string(),
        ]);
        let mut model = vec![0; size];
        let mut random = Random::new(seed);
        let mut snapshots: Vec<Vec<u8>> = vec![];
        for round in 0..5 {
            random_steps(&place.path(&name), &mut model, &mut random, 40);
            place.same(&name, "qcow2", &model);
            if round < 3 {
                place.img(&["snapshot", "-c", &format!("s{round}"), &name]);
                snapshots.push(model.clone());
            }
            // Not with snapshots that do not know their size.
            if round == 3 && compat == "1.1" {
                size += 512 * 1024;
                place.img(&["resize", "-q", &name, &size.to_string()]);
                model.resize(size, 0);
                size += 65536 * 3;
                manage::resize(&place.path(&name), None, size as u64, false).unwrap();
                model.resize(size, 0);
            }
        }
        for (i, snapshot) in snapshots.iter().enumerate() {
            let out = format!("{name}-s{i}.raw");
            place.img(&["convert", "-l", &format!("s{i}"), "-O", "raw", &name, &out]);
            // It comes with the size that the disk has now.
            assert!(
                fs::read(place.path(&out)).unwrap().starts_with(snapshot),
                "{name} s{i}"
            );
        }
        let info = manage::info(&place.path(&name), None).unwrap();
        let found: Vec<_> = info[0]
            .qcow2
            .as_ref()
            .unwrap()
            .snapshots
            .iter()
            .map(|s| s.name.clone())
            .collect();
        assert_eq!(found, ["s0", "s1", "s2"]);
        // Snapshots that go leave clusters to whoever has them still.
        place.img(&["snapshot", "-d", "s1", &name]);
        random_steps(&place.path(&name), &mut model, &mut random, 30);
        place.same(&name, "qcow2", &model);
    }
}

#[test]
fn chains_of_qemu_img() {
    let place = Place::new();
    let mut random = Random::new(11);
    let base = common::content(&mut random, 1 << 20);
    fs::write(place.path("base.raw"), &base).unwrap();
    place.img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "base.raw",
        "-F",
        "raw",
        "mid.qcow2",
        "2M",
    ]);
    let mut model = base;
    model.resize(2 << 20, 0);
    random_steps(&place.path("mid.qcow2"), &mut model, &mut random, 50);
    place.img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "mid.qcow2",
        "-F",
        "qcow2",
        "-o",
        "cluster_size=4k",
        "top.qcow2",
    ]);
    random_steps(&place.path("top.qcow2"), &mut model, &mut random, 50);
    place.same("top.qcow2", "qcow2", &model);
    // The same chain, made here, with the backing file larger than what it is seen of.
    manage::overlay(
        &place.path("small.qcow2"),
        "top.qcow2",
        None,
        Some(1 << 20),
        &Creation::default(),
    )
    .unwrap();
    let before = model.clone();
    model.truncate(1 << 20);
    random_steps(&place.path("small.qcow2"), &mut model, &mut random, 20);
    manage::resize(&place.path("small.qcow2"), None, 3 << 20, false).unwrap();
    model.resize(3 << 20, 0);
    place.same("small.qcow2", "qcow2", &model);
    place.same("top.qcow2", "qcow2", &before);
}

#[test]
fn external_data_files() {
    let place = Place::new();
    for (name, raw) in [("a", "off"), ("b", "on")] {
        let options = format!("data_file={name}.data,data_file_raw={raw}");
        let image = format!("{name}.qcow2");
        place.img(&["create", "-q", "-f", "qcow2", "-o", &options, &image, "2M"]);
        let mut model = vec![0; 2 << 20];
        random_steps(&place.path(&image), &mut model, &mut Random::new(12), 120);
        place.same(&image, "qcow2", &model);
        if raw == "on" {
            let mut data = fs::read(place.path("b.data")).unwrap();
            data.resize(model.len(), 0);
            assert!(data == model);
        }
    }
}

#[test]
fn images_made_here() {
    let place = Place::new();
    for (i, preallocation) in [Preallocation::Off, Preallocation::Metadata, Preallocation::Falloc]
        .into_iter()
        .enumerate()
    {
        for cluster_size in [512, 4096, 65536, 2 << 20] {
            for refcount_bits in [1, 16, 64] {
                let name = format!("{i}-{cluster_size}-{refcount_bits}.qcow2");
                let how = Creation {
                    cluster_size,
                    refcount_bits,
                    preallocation,
                    ..Creation::default()
                };
                manage::create(&place.path(&name), 3 << 20, &how).unwrap();
                let mut model = vec![0; 3 << 20];
                place.same(&name, "qcow2", &model);
                if refcount_bits == 16 {
                    random_steps(&place.path(&name), &mut model, &mut Random::new(13), 25);
                    place.same(&name, "qcow2", &model);
                }
            }
        }
    }
    let large = Creation {
        cluster_size: 65536,
        ..Creation::default()
    };
    manage::create(&place.path("large.qcow2"), 1 << 44, &large).unwrap();
    place.img(&["check", "-q", "large.qcow2"]);
    let how = Creation {
        version: 2,
        ..Creation::default()
    };
    manage::create(&place.path("v2.qcow2"), 1 << 30, &how).unwrap();
    assert!(place.img(&["info", "v2.qcow2"]).contains("compat: 0.10"));
    let error = manage::create(
        &place.path("x"),
        1 << 50,
        &Creation {
            cluster_size: 512,
            ..how
        },
    )
    .unwrap_err();
    assert!(error.to_string().contains("--cluster-size 2M"), "{error}");
}

#[test]
fn conversions() {
    let place = Place::new();
    let mut random = Random::new(21);
    let content = common::content(&mut random, (5 << 20) + 512);
    fs::write(place.path("a.raw"), &content).unwrap();
    for (compress, compression, cluster_size) in [
        (false, Compression::Zlib, 65536),
        (true, Compression::Zlib, 65536),
        (true, Compression::Zstd, 65536),
        (true, Compression::Zlib, 2 << 20),
        (true, Compression::Zlib, 4096),
        (true, Compression::Zstd, 512),
    ] {
        let target = Creation {
            compression,
            cluster_size,
            ..Creation::default()
        };
        let how = Conversion {
            source_format: Some(Format::Raw),
            target,
            compress,
        };
        let name = format!("{compress}-{compression:?}-{cluster_size}.qcow2");
        manage::convert(&place.path("a.raw"), &place.path(&name), &how, &|_| {}).unwrap();
        place.same(&name, "qcow2", &content);
        let allocated = manage::info(&place.path(&name), None).unwrap()[0].allocated;
        assert!(
            !compress || cluster_size > 65536 || allocated < 4 << 20,
            "{name}: {allocated}"
        );
        // It can be written to like any other.
        let mut model = content.clone();
        random_steps(&place.path(&name), &mut model, &mut random, 40);
        place.same(&name, "qcow2", &model);
        let back = Conversion {
            target: Creation {
                format: Format::Raw,
                ..Creation::default()
            },
            ..Conversion::default()
        };
        manage::convert(
            &place.path(&name),
            &place.path(&format!("{name}.raw")),
            &back,
            &|_| {},
        )
        .unwrap();
        assert!(fs::read(place.path(&format!("{name}.raw"))).unwrap() == model);
    }
}

#[test]
fn what_is_not_supported_is_named() {
    let place = Place::new();
    let refused = |name: &str| {
        open(place.path(name), &Options::default())
            .unwrap_err()
            .to_string()
    };
    place.img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "extended_l2=on",
        "subclusters",
        "1M",
    ]);
    assert!(refused("subclusters").contains("extended L2 entries"));
    place.img(&["create", "-q", "-f", "qcow2", "luks", "1M"]);
    let mut luks = fs::read(place.path("luks")).unwrap();
    // The encryption method; making a real one takes a second.
    luks[35] = 2;
    fs::write(place.path("luks"), luks).unwrap();
    assert!(refused("luks").contains("LUKS encryption"));
    for format in ["vhdx", "vdi", "vpc", "qed"] {
        place.img(&["create", "-q", "-f", format, format, "8M"]);
        let error = refused(format);
        // The footer of a dynamic VHD is copied to its beginning.
        assert!(
            error.contains(&format!("the format {format}")) && error.contains("qemu-img convert"),
            "{error}"
        );
    }
}

#[test]
fn bitmaps_of_qemu_are_dropped_when_they_are_no_longer_true() {
    let place = Place::new();
    place.img(&["create", "-q", "-f", "qcow2", "a", "4M"]);
    place.img(&["bitmap", "--add", "a", "changes"]);
    let report = manage::check(&place.path("a"), None, false).unwrap();
    assert_eq!((report.errors, report.leaks), (0, 0), "{report:?}");
    assert!(place.img(&["info", "a"]).contains("changes"));
    let mut model = vec![0; 4 << 20];
    random_steps(&place.path("a"), &mut model, &mut Random::new(31), 10);
    // It is not said to be right any more; QEMU counts its clusters as leaked.
    manage::check(&place.path("a"), None, true).unwrap();
    place.same("a", "qcow2", &model);
}

/// Damage is counted as qemu-img counts it, and repaired so that qemu-img finds none.
#[test]
fn checks_agree_with_qemu_img() {
    let place = Place::new();
    let mut random = Random::new(41);
    let content = common::content(&mut random, 2 << 20);
    fs::write(place.path("content.raw"), &content).unwrap();
    place.img(&[
        "convert",
        "-O",
        "qcow2",
        "-o",
        "cluster_size=4k",
        "content.raw",
        "good",
    ]);
    place.img(&["snapshot", "-c", "s", "good"]);
    let good = fs::read(place.path("good")).unwrap();
    let be64 = |at: usize| u64::from_be_bytes(good[at..at + 8].try_into().unwrap()) as usize;
    let (l1, table) = (be64(40), be64(48));
    let block = be64(table);
    let l2 = be64(l1) & 0x00ff_ffff_ffff_fe00;
    let mut both = 0;
    for round in 0..60 {
        let mut bad = good.clone();
        for _ in 0..=round % 3 {
            match random.below(3) {
                // A refcount becomes another.
                0 => bad[block + random.below(600) as usize * 2 + 1] = random.below(4) as u8,
                // A data cluster is unmapped.
                1 => bad[l2 + random.below(512) as usize * 8..][..8].fill(0),
                // A flag is wrong.
                _ => {
                    let at = l2 + random.below(512) as usize * 8;
                    if bad[at..at + 8] != [0; 8] {
                        bad[at] ^= 0x80;
                    }
                }
            }
        }
        fs::write(place.path("bad"), &bad).unwrap();
        let theirs = place.check("bad");
        let ours = manage::check(&place.path("bad"), None, false).unwrap();
        assert_eq!((ours.errors, ours.leaks), theirs, "{round}: {ours:?}");
        both += u64::from(ours.errors > 0 && ours.leaks > 0);
        let repaired = manage::check(&place.path("bad"), None, true).unwrap();
        assert!(!repaired.is_damaged(), "{repaired:?}");
        assert_eq!(place.check("bad"), (0, 0), "{round}: {repaired:?}");
    }
    assert!(both > 3);
}

#[test]
fn a_lost_refcount_table_is_made_anew() {
    let place = Place::new();
    let content = common::content(&mut Random::new(42), 3 << 20);
    fs::write(place.path("content.raw"), &content).unwrap();
    for cluster in ["512", "64k"] {
        place.img(&[
            "convert",
            "-O",
            "qcow2",
            "-o",
            &format!("cluster_size={cluster}"),
            "content.raw",
            "bad",
        ]);
        let mut bad = fs::read(place.path("bad")).unwrap();
        let table = u64::from_be_bytes(bad[48..56].try_into().unwrap()) as usize;
        bad[table..table + 16].copy_from_slice(&[0xff; 16]);
        fs::write(place.path("bad"), &bad).unwrap();
        let error = open(place.path("bad"), &Options::default()).unwrap_err();
        assert!(error.to_string().contains("donjon disk check"), "{error}");
        assert_eq!(common::read_all(&place.path("bad"), &read_only(None)), content);
        let report = manage::check(&place.path("bad"), None, true).unwrap();
        assert!(report.errors_repaired > 0 && !report.is_damaged(), "{report:?}");
        place.same("bad", "qcow2", &content);
        open(place.path("bad"), &Options::default()).unwrap();
    }
}

#[test]
fn qemu_and_donjon_exclude_each_other() {
    let place = Place::new();
    for format in ["raw", "qcow2"] {
        place.img(&["create", "-q", "-f", format, "a", "1M"]);
        let path = place.path("a");
        let named = Some(format.parse().unwrap());
        let writable = || {
            open(
                &path,
                &Options {
                    format: named,
                    ..Options::default()
                },
            )
        };
        let image = writable().unwrap();
        let error = img_fails(&place, &["resize", "-f", format, "a", "2M"]);
        assert!(error.contains("lock"), "{error}");
        drop(image);
        // Who reads excludes who writes, and nobody else.
        let image = open(&path, &read_only(named)).unwrap();
        place.img(&["info", "-f", format, "a"]);
        img_fails(&place, &["resize", "-f", format, "a", "2M"]);
        drop(image);
        let mut qemu = common::Holder::start(&place, format, "a", false);
        let Err(OpenError::Busy {
            holder: Some(holder), ..
        }) = writable()
        else {
            panic!()
        };
        assert_eq!((holder.pid, holder.name.as_str()), (qemu.pid(), "qemu-io"));
        assert!(open(&path, &read_only(named)).is_err());
        let info = manage::info(&path, named).unwrap();
        assert_eq!(
            info[0].in_use_by,
            Some(format!("process qemu-io ({})", qemu.pid()))
        );
        qemu.stop();
        let mut qemu = common::Holder::start(&place, format, "a", true);
        open(&path, &read_only(named)).unwrap();
        // QEMU itself lets others write to a raw image that it only reads.
        assert_eq!(writable().is_err(), format == "qcow2");
        qemu.stop();
        writable().unwrap();
        fs::remove_file(&path).unwrap();
    }
    assert!(img(&place, &["--version"]).contains("qemu-img"));
}
