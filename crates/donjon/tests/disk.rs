//! `donjon disk`: the built binary on images, beside QEMU's tools.

mod common;

use common::{Finished, donjon, finish};
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn disk(&self, args: &[&str]) -> Finished {
        let mut command = donjon(&[&["disk"], args].concat());
        finish(command.current_dir(self.0.path()), "")
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let done = self.disk(args).exits(0);
        assert_eq!(done.stdout.lines().count(), 1);
        serde_json::from_str(&done.stdout).unwrap()
    }

    #[track_caller]
    fn qemu_img(&self, args: &[&str]) -> String {
        let output = Command::new("qemu-img")
            .args(args)
            .current_dir(self.0.path())
            .output();
        let output = output.expect("qemu-img is installed (Debian: qemu-utils)");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{args:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// What is in the directory.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn images_are_made_and_shown() {
    let place = Place::new();
    place.disk(&["create", "a.qcow2", "10G"]).exits(0);
    place.qemu_img(&["check", "-q", "a.qcow2"]);
    place.disk(&["create", "--format", "raw", "b.raw", "1M"]).exits(0);
    assert_eq!(std::fs::metadata(place.path("b.raw")).unwrap().len(), 1 << 20);
    place.disk(&["overlay", "a.qcow2", "c.qcow2"]).exits(0);
    let table = place.disk(&["info", "c.qcow2"]).exits(0).stdout;
    for part in [
        "size          10G (10737418240 bytes)",
        "backing file  a.qcow2 (qcow2)",
        "below it:",
        "cluster size  64K",
    ] {
        assert!(table.contains(part), "no {part:?} in {table}");
    }
    let info = place.json(&["info", "--format", "json", "c.qcow2"]);
    assert_eq!(info[0]["virtual_size"], 10u64 << 30);
    assert_eq!(
        (&info[1]["file"], &info[1]["format"]),
        (&"a.qcow2".into(), &"qcow2".into())
    );
    // Elsewhere it needs the whole path.
    std::fs::create_dir(place.path("sub")).unwrap();
    place
        .disk(&["overlay", "a.qcow2", "sub/d.qcow2", "--size", "11G"])
        .exits(0);
    let told = place.qemu_img(&["info", "sub/d.qcow2"]);
    assert!(
        told.contains(&format!("backing file: {}", place.path("a.qcow2").display())),
        "{told}"
    );
    assert!(told.contains("11 GiB"), "{told}");
    place
        .disk(&["create", "full.qcow2", "8M", "--preallocation", "falloc"])
        .exits(0);
    let info = place.json(&["info", "--format", "json", "full.qcow2"]);
    assert!(info[0]["allocated"].as_u64() >= Some(8 << 20), "{info}");
}

#[test]
fn nothing_is_overwritten_by_accident() {
    let place = Place::new();
    place.disk(&["create", "a.qcow2", "1M"]).exits(0);
    place
        .disk(&["create", "a.qcow2", "2M"])
        .exits(1)
        .says(&["exists already", "--force"]);
    place
        .disk(&["convert", "a.qcow2", "a.qcow2"])
        .exits(1)
        .says(&["exists already"]);
    place.disk(&["create", "a.qcow2", "2M", "--force"]).exits(0);
    assert_eq!(
        place.json(&["info", "--format", "json", "a.qcow2"])[0]["virtual_size"],
        2 << 20
    );
    place
        .disk(&["create", "no/such/a.qcow2", "2M"])
        .exits(1)
        .says(&["cannot create no/such/a.qcow2"]);
    place
        .disk(&["create", "b", "100"])
        .exits(1)
        .says(&["512 would do"]);
    place
        .disk(&["create", "b", "1M", "--cluster-size", "3K"])
        .exits(1)
        .says(&["power of two", "--cluster-size 64K"]);
    place.disk(&["create", "b", "ten"]).exits(2).says(&["512M"]);
    place
        .disk(&["info", "none"])
        .exits(1)
        .says(&["does not exist", "donjon disk create"]);
    place
        .disk(&["overlay", "none", "b"])
        .exits(1)
        .says(&["none does not exist"]);
    assert_eq!(place.names(), ["a.qcow2"]);
}

#[test]
fn disks_change_their_size() {
    let place = Place::new();
    place.disk(&["create", "a.qcow2", "1M"]).exits(0);
    place.disk(&["resize", "a.qcow2", "+1M"]).exits(0);
    place.disk(&["resize", "a.qcow2", "8G"]).exits(0);
    place
        .disk(&["resize", "a.qcow2", "-1G"])
        .exits(1)
        .says(&["--shrink", "loses what lies past"]);
    place.disk(&["resize", "a.qcow2", "-1G", "--shrink"]).exits(0);
    assert!(place.qemu_img(&["info", "a.qcow2"]).contains("7 GiB"));
    place.qemu_img(&["check", "-q", "a.qcow2"]);
    place
        .disk(&["resize", "a.qcow2", "-8G", "--shrink"])
        .exits(1)
        .says(&["cannot change by that much"]);
    place
        .disk(&["resize", "a.qcow2", "1000000"])
        .exits(1)
        .says(&["1000448 would do"]);
}

#[test]
fn images_are_converted() {
    let place = Place::new();
    let mut content = vec![0; 3 << 20];
    content[1 << 20..(1 << 20) + 300_000].fill(0x5a);
    std::fs::write(place.path("a.raw"), &content).unwrap();
    place
        .disk(&["convert", "a.raw", "b.qcow2", "--compress=zstd"])
        .exits(0)
        .says(&["converting a.raw to b.qcow2"]);
    place
        .disk(&[
            "convert",
            "a.raw",
            "c.qcow2",
            "--compress",
            "--cluster-size",
            "4K",
        ])
        .exits(0);
    place.qemu_img(&["compare", "a.raw", "b.qcow2"]);
    place.qemu_img(&["compare", "a.raw", "c.qcow2"]);
    assert!(
        place
            .qemu_img(&["info", "b.qcow2"])
            .contains("compression type: zstd")
    );
    place
        .disk(&["convert", "b.qcow2", "d.raw", "--format", "raw"])
        .exits(0);
    assert!(std::fs::read(place.path("d.raw")).unwrap() == content);
    let info = place.json(&["info", "--format", "json", "d.raw"]);
    assert!(info[0]["allocated"].as_u64() < Some(400_000), "{info}");
    place
        .disk(&["convert", "b.qcow2", "e.raw", "--format", "raw", "--compress"])
        .exits(1)
        .says(&["only qcow2"]);
    // What cannot be read leaves nothing behind.
    let mut bad = std::fs::read(place.path("b.qcow2")).unwrap();
    // The first cluster of data is behind the header, the refcount table and block, and the L1 table.
    bad[4 * 65536..4 * 65536 + 16].fill(0xff);
    std::fs::write(place.path("bad.qcow2"), bad).unwrap();
    let before = place.names();
    place
        .disk(&["convert", "bad.qcow2", "f.raw", "--format", "raw"])
        .exits(1)
        .says(&["donjon disk check"]);
    assert_eq!(place.names(), before);
}

#[test]
fn damage_is_found_and_repaired() {
    let place = Place::new();
    place.disk(&["create", "a.qcow2", "1M"]).exits(0);
    assert!(
        place
            .disk(&["check", "a.qcow2"])
            .exits(0)
            .stdout
            .contains("no errors")
    );
    let good = std::fs::read(place.path("a.qcow2")).unwrap();
    // The refcount block comes third: its first counts are those of the header and the table.
    let mut leaked = good.clone();
    leaked[2 * 65536 + 7] = 2;
    std::fs::write(place.path("a.qcow2"), &leaked).unwrap();
    let told = place.disk(&["check", "a.qcow2"]).exits(0).stdout;
    assert!(
        told.contains("1 leaked cluster, which only cost room") && told.contains("--repair"),
        "{told}"
    );
    leaked[2 * 65536 + 1] = 0;
    std::fs::write(place.path("a.qcow2"), &leaked).unwrap();
    let told = place.disk(&["check", "a.qcow2"]).exits(1).stdout;
    assert!(
        told.contains("1 error, 1 leaked cluster") && told.contains("has refcount 0 and 1 references"),
        "{told}"
    );
    let report = place.json(&["check", "--repair", "--format", "json", "a.qcow2"]);
    assert_eq!(
        (&report["errors_repaired"], &report["leaks_repaired"]),
        (&1.into(), &1.into())
    );
    place.qemu_img(&["check", "-q", "a.qcow2"]);
    place.disk(&["check", "a.qcow2"]).exits(0);
    std::fs::write(place.path("raw"), [0; 512]).unwrap();
    place.disk(&["check", "raw"]).exits(0);
}

#[test]
fn vmdk_images_are_read() {
    let place = Place::new();
    let content: Vec<u8> = (0..3u32 << 18).flat_map(u32::to_le_bytes).collect();
    std::fs::write(place.path("a.raw"), &content).unwrap();
    for (subformat, extent) in [
        (
            "streamOptimized",
            "extent        SPARSE, 3M (3145728 bytes), grains of 64K (65536 bytes), compressed\n",
        ),
        (
            "monolithicFlat",
            "extent        FLAT, 3M (3145728 bytes), in a-flat.vmdk\n",
        ),
    ] {
        let options = format!("subformat={subformat}");
        place.qemu_img(&["convert", "-O", "vmdk", "-o", &options, "a.raw", "a.vmdk"]);
        let table = place.disk(&["info", "a.vmdk"]).exits(0).stdout;
        for part in [
            "format        vmdk",
            &format!("type          {subformat}"),
            extent,
        ] {
            assert!(table.contains(part), "no {part:?} in {table}");
        }
        let info = place.json(&["info", "--format", "json", "a.vmdk"]);
        assert_eq!(
            (&info[0]["format"], &info[0]["create_type"]),
            (&"vmdk".into(), &subformat.into())
        );
        assert_eq!(info[0]["extents"][0]["size"], 3 << 20);
        place.disk(&["convert", "--force", "a.vmdk", "a.qcow2"]).exits(0);
        place
            .disk(&["overlay", "--force", "a.vmdk", "top.qcow2"])
            .exits(0);
        for made in ["a.qcow2", "top.qcow2"] {
            place.qemu_img(&["compare", "-q", "-f", "qcow2", "-F", "raw", made, "a.raw"]);
        }
    }
    let way_out = "donjon disk convert a.vmdk NEW.qcow2";
    for refused in [&["resize", "a.vmdk", "+1M"][..], &["check", "a.vmdk"]] {
        place.disk(refused).exits(1).says(&[way_out]);
    }
    place
        .disk(&["create", "--format", "vmdk", "b.vmdk", "1M"])
        .exits(1)
        .says(&["only read", "--format qcow2"]);
}
