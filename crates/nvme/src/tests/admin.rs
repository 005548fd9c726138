use super::*;
use crate::identity::Identifiers;

fn word(page: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(page[at..at + 4].try_into().unwrap())
}

#[test]
fn registers_say_what_there_is() {
    let rig = Rig::cold(SETUP);
    let cap = rig.nvme.read(0, at::CAP, 8);
    assert_eq!(cap & 0xffff, 1023, "MQES");
    assert_eq!(cap >> 16 & 1, 1, "CQR");
    assert_eq!(cap >> 32 & 15, 0, "DSTRD");
    assert_eq!(cap >> 37 & 0xff, 1, "CSS");
    assert_eq!(cap >> 48, 0, "MPSMIN and MPSMAX");
    assert_eq!(rig.get(at::VS), 0x10400);
    assert_eq!(rig.nvme.read(0, at::VS + 2, 2), 1);
    assert_eq!(rig.get(at::CSTS), 0);
    assert_eq!(rig.config(0), 0x0010_d0d0);
    assert_eq!(rig.config(8), 0x0108_0201);
    // Addresses of queues are those of pages; NSSR and unknown registers do not hold anything.
    rig.nvme.write(0, at::ASQ, 8, u64::MAX);
    assert_eq!(rig.nvme.read(0, at::ASQ, 8), !0xfff);
    rig.put(0x20, 0x4e56_4d65);
    rig.put(0x400, 77);
    assert_eq!((rig.get(0x20), rig.get(0x400), rig.get(at::CSTS)), (0, 0, 0));
}

#[test]
fn identify_says_who_it_is() {
    let mut rig = Rig::new(SETUP);
    let c = rig.identify(1, 0).unwrap();
    assert_eq!(&c[4..24], b"serial-no-1         ");
    assert_eq!(&c[24..64], format!("{:40}", "donjon NVMe").as_bytes());
    assert_eq!(&c[64..72], format!("{:8}", env!("CARGO_PKG_VERSION")).as_bytes());
    assert_eq!(c[77], 8, "MDTS");
    assert_eq!(word(&c, 80), 0x10400);
    assert_eq!((c[512], c[513], word(&c, 516)), (0x66, 0x44, 1));
    let identifiers = Identifiers::new("serial-no-1");
    let name = identifiers.subsystem_name();
    assert_eq!(&c[768..768 + name.len()], name.as_bytes());
    assert_eq!(name.len(), "nqn.2014-08.org.nvmexpress:uuid:".len() + 36);
    let n = rig.identify(0, 1).unwrap();
    assert_eq!(word(&n, 0), SECTORS as u32);
    assert_eq!((n[25], n[26], n[130]), (0, 0, 9));
    assert_eq!(&n[104..120], &identifiers.nguid);
    assert_eq!(&n[120..128], &identifiers.eui64);
    assert_ne!(identifiers.uuid, Identifiers::new("serial-no-2").uuid);
    let d = rig.identify(3, 1).unwrap();
    assert_eq!((d[0], d[1], &d[4..12]), (1, 8, &identifiers.eui64[..]));
    assert_eq!((d[12], d[13], &d[16..32]), (2, 16, &identifiers.nguid[..]));
    assert_eq!((d[32], d[33], &d[36..52]), (3, 16, &identifiers.uuid[..]));
    assert_eq!(d[52..], [0; 4044]);
    let list = rig.identify(2, 0).unwrap();
    assert_eq!((word(&list, 0), word(&list, 4)), (1, 0));
    assert_eq!(word(&rig.identify(2, 1).unwrap(), 0), 0);
    // Errors: namespaces and structures that there are not.
    for (cns, nsid, status) in [
        (0, 2, 0x0b),
        (0, 0, 0x0b),
        (0, u32::MAX, 0x0b),
        (3, 2, 0x0b),
        (2, u32::MAX, 0x0b),
        (0x10, 1, 2),
        (0xff, 1, 2),
    ] {
        assert_eq!(rig.identify(cns, nsid), Err(status), "{cns:#x} {nsid:#x}");
    }
}

#[test]
fn features_are_set_and_read() {
    let mut rig = Rig::new(SETUP);
    let mut get = |fid: u32, dw11: u32| {
        let c = rig.admin(sqe(0x0a, 1).dw(10, fid).dw(11, dw11));
        if c.status == 0 {
            Ok(c.result)
        } else {
            Err(c.status)
        }
    };
    assert_eq!(get(7, 0), Ok(3 | 3 << 16));
    assert_eq!(get(6, 0), Ok(1));
    assert_eq!(get(4, 0), Ok(343));
    assert_eq!(get(4, 1 << 20), Ok(0));
    assert_eq!(get(9, 0), Ok(1 << 16));
    assert_eq!(get(9, 4), Ok(4));
    assert_eq!(get(9, 5), Err(2), "no such vector");
    assert_eq!(get(0x42, 0), Err(2), "no such feature");
    assert_eq!(get(6 | 3 << 8, 0), Ok(4), "changeable");
    assert_eq!(get(5 | 3 << 8, 0), Ok(6), "changeable, of a namespace");
    let mut set = |fid: u32, value: u32| {
        let c = rig.admin(sqe(9, 1).dw(10, fid).dw(11, value));
        if c.status == 0 {
            Ok(c.result)
        } else {
            Err(c.status)
        }
    };
    assert_eq!(set(1, 0x0102_0303), Ok(0));
    assert_eq!(set(2, 1), Err(2), "no such power state");
    assert_eq!(set(6, 0), Ok(0));
    assert_eq!(set(8, 0x0405), Ok(0));
    assert_eq!(set(9, 2 | 1 << 16), Ok(0));
    assert_eq!(set(6 | 1 << 31, 0), Err(0x10d), "not saveable");
    assert_eq!(set(7, 1 | 1 << 16), Err(0x0c), "queues exist");
    assert_eq!(set(0x42, 0), Err(2));
    assert_eq!(set(5, 1 << 16), Err(2), "DULBE");
    let mut get = |fid: u32, dw11: u32| rig.admin(sqe(0x0a, 1).dw(10, fid).dw(11, dw11)).result;
    assert_eq!(get(1, 0), 0x0102_0303);
    assert_eq!((get(6, 0), get(6 | 1 << 8, 0)), (0, 1), "current and default");
    assert_eq!((get(8, 0), get(9, 2)), (0x0405, 2 | 1 << 16));
    // The number of queues before there are any.
    let mut rig = Rig::cold(SETUP);
    rig.enable();
    let c = rig.admin(sqe(9, 0).dw(10, 7).dw(11, 63 | 63 << 16));
    assert_eq!((c.status, c.result), (0, 3 | 3 << 16));
    assert_eq!(rig.admin(sqe(9, 0).dw(10, 7).dw(11, 0xffff)).status, 2);
}

#[test]
fn queues_that_cannot_be_are_refused() {
    let mut rig = Rig::new(SETUP);
    let pair = Rig::place(2, 64);
    let cq = |id: u32, size: u32, dw11: u32, at: u64| {
        sqe(5, 0).prp(at, 0).dw(10, id | (size - 1) << 16).dw(11, dw11)
    };
    for (c, status) in [
        (cq(0, 64, 1, pair.cq_at), 0x101),
        (cq(1, 64, 1, pair.cq_at), 0x101),
        (cq(5, 64, 1, pair.cq_at), 0x101),
        (cq(0xffff, 64, 1, pair.cq_at), 0x101),
        (cq(2, 1, 1, pair.cq_at), 0x102),
        (cq(2, 1025, 1, pair.cq_at), 0x102),
        (cq(2, 65536, 1, pair.cq_at), 0x102),
        (cq(2, 64, 0, pair.cq_at), 2),
        (cq(2, 64, 1 | 5 << 16, pair.cq_at), 0x108),
        (cq(2, 64, 1, pair.cq_at + 64), 0x13),
        (cq(2, 512, 1, RAM - 4096), 4),
        (cq(2, 64, 1, !0xfff), 4),
    ] {
        assert_eq!(rig.admin(c).status, status, "{:x?}", c.0);
    }
    let sq = |id: u32, size: u32, dw11: u32, at: u64| {
        sqe(1, 0).prp(at, 0).dw(10, id | (size - 1) << 16).dw(11, dw11)
    };
    for (c, status) in [
        (sq(1, 64, 1 | 1 << 16, pair.sq_at), 0x101),
        (sq(5, 64, 1 | 1 << 16, pair.sq_at), 0x101),
        (sq(2, 64, 1 | 2 << 16, pair.sq_at), 0x100),
        (sq(2, 64, 1, pair.sq_at), 0x101),
        (sq(2, 1025, 1 | 1 << 16, pair.sq_at), 0x102),
        (sq(2, 64, 1 << 16, pair.sq_at), 2),
        (sq(2, 65, 1 | 1 << 16, RAM - 4096), 4),
    ] {
        assert_eq!(rig.admin(c).status, status, "{:x?}", c.0);
    }
    // Deletion, in the wrong order and in the right one.
    assert_eq!(rig.admin(sqe(4, 0).dw(10, 1)).status, 0x10c);
    assert_eq!(rig.admin(sqe(4, 0).dw(10, 0)).status, 0x101);
    assert_eq!(rig.admin(sqe(4, 0).dw(10, 2)).status, 0x101);
    assert_eq!(rig.admin(sqe(0, 0).dw(10, 2)).status, 0x101);
    assert_eq!(rig.admin(sqe(0, 0).dw(10, 1)).status, 0);
    assert_eq!(rig.admin(sqe(4, 0).dw(10, 1)).status, 0);
    rig.pairs.pop();
    rig.add_pair(1, 1024);
    assert_eq!(rig.transfer(1, 2, 0, 8), 0);
}

#[test]
fn logs_are_read() {
    let mut rig = Rig::new(SETUP);
    assert_eq!(rig.transfer(1, 1, 0, 2000), 0);
    assert_eq!(rig.transfer(1, 2, 0, 8), 0);
    assert_eq!(rig.transfer(1, 2, SECTORS, 8), 0x80);
    let health = rig.log(2, 512).unwrap();
    assert_eq!((health[0], word(&health, 32), word(&health, 48)), (0, 1, 2));
    assert_eq!((word(&health, 64), word(&health, 80)), (1, 1));
    assert_eq!(word(&health, 176), 1, "errors");
    let errors = rig.log(1, 128).unwrap();
    assert_eq!((word(&errors, 0), word(&errors, 8) & 0xffff), (1, 1));
    assert_eq!(word(&errors, 16), SECTORS as u32, "where");
    assert_eq!(errors[64..], [0; 64]);
    let firmware = rig.log(3, 512).unwrap();
    assert_eq!(firmware[0], 1);
    let effects = rig.log(5, 4096).unwrap();
    assert_eq!((word(&effects, 6 * 4), word(&effects, 1024 + 4)), (1, 3));
    assert_eq!(word(&effects, 0x80 * 4), 0, "no Format");
    assert_eq!(rig.log(0x7f, 512), Err(0x109));
    // From an offset; beyond the end; too much; at once with what lies behind it.
    let part = sqe(2, 1).prp(DATA, 0).dw(10, 3 | 1 << 16);
    assert_eq!(rig.admin(part.dw(12, 8)).status, 0);
    assert_eq!(rig.bytes(DATA, 8), firmware[8..16]);
    assert_eq!(rig.admin(part.dw(12, 516)).status, 2);
    assert_eq!(rig.admin(part.dw(13, 1)).status, 2);
    assert_eq!(rig.admin(part.dw(10, 3 | 0xffff << 16).dw(11, 0xffff)).status, 2);
}

#[test]
fn other_commands_are_refused() {
    let mut rig = Rig::new(SETUP);
    for opcode in [0x03, 0x10, 0x11, 0x18, 0x80, 0x81, 0xc0, 0xff] {
        assert_eq!(rig.admin(sqe(opcode, 1)).status, 1, "{opcode:#x}");
    }
    for flags in [1 << 8, 2 << 8, 1 << 14, 2 << 14] {
        assert_eq!(
            rig.admin(sqe(6, 1).dw(0, 6 | flags)).status,
            2,
            "fused, or an SGL"
        );
    }
    let identify = sqe(6, 1).dw(10, 1);
    assert_eq!(rig.admin(identify.prp(DATA + 1, 0)).status, 0x13);
    assert_eq!(rig.admin(identify.prp(DATA + 8, DATA + 12)).status, 0x13);
    assert_eq!(rig.admin(identify.prp(RAM, 0)).status, 4);
    assert_eq!(rig.admin(identify.prp(DATA + 8, !0xfff)).status, 4);
    // Abort: nothing of the kind is there.
    assert_eq!(rig.admin(sqe(8, 0).dw(10, 1 | 5 << 16)).result, 1);
    assert_eq!(rig.admin(sqe(8, 0).dw(10, 3)).status, 2, "no such queue");
}
