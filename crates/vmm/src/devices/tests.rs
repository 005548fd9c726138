use super::*;
use std::path::Path;

fn refused(text: &str) -> String {
    text.parse::<DiskSpec>().unwrap_err().to_string()
}

#[test]
fn disks_are_read_as_they_are_written() {
    for text in [
        "/a/b.raw",
        "/a,,b,ro",
        "/a=b,format=qcow2,bus=nvme,ro,serial=X1,name=data,queues=2,bps=100M,bps-burst=10M",
    ] {
        let spec: DiskSpec = text.parse().unwrap();
        let again: DiskSpec = spec.to_string().parse().unwrap();
        assert_eq!(spec, again, "{text}");
    }
    let spec: DiskSpec = "/a,,b=c,ro".parse().unwrap();
    assert_eq!(spec.path, Path::new("/a,b=c"));
    assert!(spec.read_only);
    assert!("/a,,".parse::<DiskSpec>().unwrap().path.ends_with("a,"));
}

#[test]
fn what_is_wrong_with_a_disk_is_said() {
    assert!(refused("").contains("say which image"));
    assert!(refused(",ro").contains("say which image"));
    assert!(refused("a,").contains("empty option"));
    assert!(refused("a,format=vhd").contains("raw, qcow2, vmdk"));
    assert!(refused("a,bus=ide").contains("virtio and nvme"));
    assert!(refused("a,serial=two words").contains("visible ASCII"));
    assert!(refused("a,serial=123456789012345678901").contains("1 to 20"));
    assert!(refused("a,name=a/b").contains("letters, digits"));
    assert!(refused("a,queues=0").contains("1 to 64 queues"));
    assert!(refused("a,readonly").contains("format, bus, ro"));
    assert!(refused("a,iops-burst=5").contains("needs a rate"));
}

#[test]
fn devices_have_names_of_their_own_and_slots_in_order() {
    let devices = Devices::new();
    assert_eq!(devices.add(Arc::new(RngDevice)).unwrap(), 1);
    assert!(matches!(
        devices.add(Arc::new(RngDevice)),
        Err(DeviceError::Taken(_))
    ));
    let no_time = Duration::ZERO;
    assert!(matches!(
        devices.remove("rng", no_time, true),
        Err(DeviceError::Fixed(_))
    ));
    let directory = tempfile::tempdir().unwrap();
    let disk = |n: u32| {
        let path = directory.path().join(format!("{n}.raw"));
        std::fs::write(&path, [0; 4096]).unwrap();
        let spec = DiskSpec {
            path,
            ..DiskSpec::default()
        };
        DiskDevice::open(&spec, devices.free_name("disk"), 2).unwrap()
    };
    assert_eq!(devices.add(disk(0)).unwrap(), 2);
    assert_eq!(devices.add(disk(1)).unwrap(), 3);
    devices.remove("disk0", no_time, false).unwrap();
    assert_eq!(devices.free_name("disk"), "disk0");
    assert_eq!(devices.add(disk(2)).unwrap(), 2, "the slot is free again");
    let names: Vec<_> = devices.list().into_iter().map(|d| (d.name, d.slot)).collect();
    let expected = [("rng", 1), ("disk0", 2), ("disk1", 3)];
    assert_eq!(names, expected.map(|(n, s)| (n.to_owned(), s)));
    let unknown = devices.remove("disk7", no_time, false).unwrap_err().to_string();
    assert!(unknown.contains("rng, disk1, disk0"), "{unknown}");
    for n in 4..32 {
        devices.add(disk(n)).unwrap();
    }
    assert!(matches!(
        devices.add(disk(99)),
        Err(DeviceError::Plug(PlugError::Full))
    ));
}

#[test]
fn what_a_device_does_not_do_is_said() {
    let devices = Devices::new();
    devices.add(Arc::new(RngDevice)).unwrap();
    let limit = devices
        .with("rng", |d| d.set_limit(Limit::default()))
        .unwrap_err();
    assert_eq!(limit.to_string(), "rng (rng): cannot be limited");
    assert!(devices.with("rng", |d| d.set_link(false)).is_err());
    assert!(devices.with("rng", |d| d.resize(1)).is_err());
}

#[test]
fn a_disk_in_use_only_grows() {
    let devices = Devices::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let spec = format!("{},format=raw,iops=10", file.path().display())
        .parse()
        .unwrap();
    devices
        .add(DiskDevice::open(&spec, "d".into(), 1).unwrap())
        .unwrap();
    devices.with("d", |d| d.resize(2 << 20)).unwrap();
    assert_eq!(file.as_file().metadata().unwrap().len(), 2 << 20);
    let smaller = devices.with("d", |d| d.resize(1 << 20)).unwrap_err().to_string();
    assert!(smaller.contains("can only grow"), "{smaller}");
    devices
        .with("d", |d| d.set_limit("bps=1M".parse().unwrap()))
        .unwrap();
    let options = devices.list().remove(0).options;
    assert!(
        options.contains(",bps=1M") && !options.contains("iops"),
        "{options}"
    );
}

#[test]
fn persistent_memory_is_read_as_it_is_written() {
    for text in ["/a/b.ext4", "/a,,b,ro", "/a=b,ro,name=root"] {
        let spec: PmemSpec = text.parse().unwrap();
        assert_eq!(spec.to_string().parse(), Ok(spec), "{text}");
    }
    let refused = |text: &str| text.parse::<PmemSpec>().unwrap_err().to_string();
    assert!(refused(",ro").contains("say which file"));
    assert!(refused("a,rw").contains("ro, name"));
    assert!(refused("a,name=a/b").contains("letters, digits"));
}

#[test]
fn files_are_memory_in_the_order_of_their_slots_and_of_new_machines_only() {
    let directory = tempfile::tempdir().unwrap();
    let devices = Devices::new();
    let pmem = |name: &str, mib: u64, read_only| {
        let path = directory.path().join(name);
        std::fs::File::create(&path).unwrap().set_len(mib << 20).unwrap();
        let spec = PmemSpec {
            path,
            read_only,
            name: None,
        };
        PmemDevice::open(&spec, name.into())
    };
    for (name, mib) in [("a", 2), ("b", 4), ("c", 6)] {
        devices.add(pmem(name, mib, name == "b").unwrap()).unwrap();
    }
    devices.remove("a", Duration::ZERO, false).unwrap();
    devices.add(pmem("d", 8, false).unwrap()).unwrap();
    let files: Vec<_> = devices
        .files()
        .iter()
        .map(|f| (f.len >> 20, f.read_only))
        .collect();
    assert_eq!(files, [(8, false), (4, true), (6, false)]);
    assert!(
        pmem("e", 3, false)
            .err()
            .unwrap()
            .to_string()
            .contains("truncate -s %2M")
    );
    // The lock is that of images.
    let again = PmemSpec {
        path: directory.path().join("b"),
        ..PmemSpec::default()
    };
    let busy = PmemDevice::open(&again, "again".into())
        .err()
        .unwrap()
        .to_string();
    assert!(busy.contains("in use by this process"), "{busy}");
    let again = PmemSpec {
        read_only: true,
        ..again
    };
    assert!(PmemDevice::open(&again, "again".into()).is_ok(), "readers share");
    let spec = donjon_machine::MachineSpec {
        cpus: 1,
        memory: donjon_machine::MIN_MEMORY,
        backing: Default::default(),
        tsc_hz: donjon_engine::Clock::DEFAULT_HZ,
        model: Arc::new(donjon_x86::cpuid::CpuModel::named("x86-64-v2").unwrap()),
    };
    let ram = spec.ram(&devices.files()).unwrap();
    let built = devices.build(&ram, |devices| {
        let outside = donjon_machine::Outside {
            attentions: vec![Arc::default()],
            power: Arc::new(Nobody),
            console: Box::new(std::io::sink()),
            devices,
        };
        Machine::new(&spec, ram.clone(), outside)
    });
    let machine = built.unwrap();
    let late = devices
        .add(pmem("late", 2, false).unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        late.contains("late (pmem)") && late.contains("donjon run"),
        "{late}"
    );
    drop(machine);
    devices.powered_off();
    devices.add(pmem("late2", 2, false).unwrap()).unwrap();
}

/// Hears of power-off and reset.
struct Nobody;

impl donjon_devices::PowerSink for Nobody {
    fn power_off(&self) {}
    fn reset(&self) {}
}

#[test]
fn shared_directories_are_read_as_they_are_written() {
    for text in [
        "/a/b,tag=work",
        "/a,,b,tag=a,,b,ro",
        "/a=b,tag=x y,uid=1000,gid=100,name=home",
    ] {
        let spec: FsSpec = text.parse().unwrap();
        assert_eq!(spec.to_string(), *text, "{text}");
    }
    let refused = |text: &str| text.parse::<FsSpec>().unwrap_err().to_string();
    for text in ["", "a", ",tag=a", "a,ro"] {
        assert!(refused(text).contains("DIR,tag=TAG"), "{text}");
    }
    assert!(refused(&format!("a,tag={}", "x".repeat(37))).contains("1 to 36 bytes"));
    assert!(refused("a,tag=b,rw").contains("tag, ro, uid, gid, name"));
    assert!(refused("a,tag=b,uid=-1").contains("uid"));
    assert!(refused("a,tag=b,name=a/b").contains("letters, digits"));
}

#[test]
fn places_in_the_guest_are_read_as_they_are_written() {
    for (text, guest, read_only) in [
        ("data:/data", "/data", false),
        ("./a b:/srv//x/./y/:ro", "/srv/x/y", true),
        ("/h:/g:rw", "/g", false),
    ] {
        let share: fs::Share = text.parse().unwrap();
        assert_eq!((&share.guest[..], share.read_only), (guest, read_only), "{text}");
        assert_eq!(share.to_string().parse(), Ok(share.clone()));
        let device = share.device();
        assert_eq!((device.tag, device.read_only), (share.tag(), read_only));
    }
    let tag = |text: &str| text.parse::<fs::Share>().unwrap().tag().to_string();
    // Agents of older and newer versions have to say the same.
    assert_eq!(tag("a:/data"), "donjon-2e61291ce2d9239e");
    assert_eq!(tag("a:/data"), tag("b:/data/:ro"));
    assert_ne!(tag("a:/data"), tag("a:/data2"));
    let refused = |text: &str| text.parse::<fs::Share>().unwrap_err().to_string();
    for text in ["", "a", ":/a", "a:/b:ro:x"] {
        assert!(refused(text).contains("HOST:GUEST"), "{text}");
    }
    assert!(refused("a:/b:exec").contains("ro and rw"));
    for text in ["a:b", "a:", "a:/", "a:/../etc", "a:/b/../c"] {
        assert!(refused(text).contains("absolute path"), "{text}");
    }
}
