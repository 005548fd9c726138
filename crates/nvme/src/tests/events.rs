use super::*;

fn request(rig: &mut Rig) -> u16 {
    rig.send(0, sqe(0x0c, 0))
}

#[test]
fn a_new_size_is_told_once_until_it_is_looked_at() {
    let mut rig = Rig::new(SETUP);
    let cid = request(&mut rig);
    rig.nvme.resized();
    assert_eq!(rig.look(0), None, "it has not asked for that kind");
    assert_eq!(rig.log(4, 4096).unwrap()[0], 1, "it is in the list all the same");
    assert_eq!(rig.log(4, 4096).unwrap()[0], 0, "read once");
    rig.admin(sqe(9, 0).dw(10, 0x0b).dw(11, 1 << 8));
    rig.nvme.disk().image().resize(2 * SECTORS * 512).unwrap();
    rig.nvme.resized();
    let c = rig.wait(0);
    assert_eq!((c.cid, c.status, c.result), (cid, 0, 2 | 4 << 16));
    request(&mut rig);
    rig.nvme.resized();
    assert_eq!(rig.look(0), None, "not before the log has been read");
    let size = rig.identify(0, 1).unwrap();
    assert_eq!(
        u32::from_le_bytes(size[..4].try_into().unwrap()),
        2 * SECTORS as u32
    );
    // Retained, then not.
    rig.admin(sqe(2, 0).prp(DATA, 0).dw(10, 4 | 1 << 15));
    assert_eq!(rig.bytes(DATA, 1), [1]);
    assert_eq!(rig.look(0), None);
    rig.send(0, sqe(2, 0).prp(DATA, 0).dw(10, 4));
    assert_eq!(rig.wait(0).status, 0);
    assert_eq!(rig.wait(0).result, 2 | 4 << 16);
    assert_eq!(
        rig.transfer(1, 2, 2 * SECTORS - 8, 8),
        0,
        "the new room can be used"
    );
}

#[test]
fn wrong_doorbells_are_told_and_change_nothing() {
    let mut rig = Rig::new(SETUP);
    let cids: Vec<_> = (0..2).map(|_| request(&mut rig)).collect();
    rig.put(at::DOORBELLS + 8, 64);
    let c = rig.wait(0);
    assert_eq!((c.cid, c.result), (cids[0], 1 << 8 | 1 << 16));
    for _ in 0..1000 {
        rig.put(at::DOORBELLS + 8, u32::MAX);
        rig.put(at::DOORBELLS + 12, 64);
        rig.put(at::DOORBELLS + 4, 32);
        rig.put(at::DOORBELLS, 32);
        rig.put(at::DOORBELLS + 16, 0);
        rig.put(at::DOORBELLS + 0xffc, 0);
    }
    assert_eq!(rig.look(0), None, "not again before the error log has been read");
    rig.send(0, sqe(2, 0).prp(DATA, 0).dw(10, 1));
    assert_eq!(rig.wait(0).status, 0);
    let c = rig.wait(0);
    assert_eq!((c.cid, c.result), (cids[1], 1 << 16), "no such queue");
    assert_eq!(rig.transfer(1, 2, 0, 8), 0);
}

#[test]
fn requests_are_limited_and_aborted() {
    let mut rig = Rig::new(SETUP);
    let cids: Vec<_> = (0..4).map(|_| request(&mut rig)).collect();
    assert_eq!(rig.look(0), None);
    assert_eq!(rig.admin(sqe(0x0c, 0)).status, 0x105);
    rig.send(0, sqe(8, 0).dw(10, u32::from(cids[2]) << 16));
    let c = rig.wait(0);
    assert_eq!((c.status, c.result), (0, 0), "aborted");
    let c = rig.wait(0);
    assert_eq!((c.cid, c.status), (cids[2], 7));
    // A threshold below what it is; the health log says so too.
    rig.admin(sqe(9, 0).dw(10, 0x0b).dw(11, 2));
    rig.send(0, sqe(9, 0).dw(10, 4).dw(11, 280));
    assert_eq!(rig.wait(0).status, 0);
    let c = rig.wait(0);
    assert_eq!((c.cid, c.result), (cids[0], 1 | 1 << 8 | 2 << 16));
    assert_eq!(rig.log(2, 512).unwrap()[0], 2);
}
