use super::*;
use crate::mock::{Driver, Told, running};
use donjon_memory::Ram;
use donjon_net::{HEADER, MAX_PACKET, Pair as Cable, Port};

const BUFFERS: u64 = 0x40_0000;

struct Rig {
    net: Arc<Net>,
    /// The other end of the cable.
    far: Arc<dyn Port>,
    receive: Driver,
    transmit: Driver,
    control: Driver,
    told: Arc<Told>,
}

fn settings() -> Settings {
    Settings {
        mac: "52:54:00:01:02:03".parse().unwrap(),
        mtu: Some(9000),
        limit: Limit::default(),
    }
}

fn rig(features: u64) -> Rig {
    let (near, far) = Cable::new().unwrap();
    let net = Net::new(Arc::new(near), settings());
    let ram = Arc::new(Ram::new(16 << 20).unwrap());
    let (drivers, told) = running(&*net, &ram, features);
    let [receive, transmit, control] = drivers.try_into().ok().unwrap();
    far.set_offloads(Offloads::ALL).unwrap();
    Rig {
        net,
        far: far.queue(0).unwrap(),
        receive,
        transmit,
        control,
        told,
    }
}

/// A packet of `len` bytes behind a header that asks for nothing.
fn packet(len: usize, seed: u8) -> Vec<u8> {
    let mut p = vec![0; HEADER];
    p[10] = 1;
    p.extend((0..len).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed)));
    // A unicast destination.
    p[HEADER] = 0x52;
    p
}

impl Rig {
    fn far_receives(&self) -> Vec<u8> {
        let start = Instant::now();
        let mut bytes = vec![0; MAX_PACKET + 1];
        loop {
            match self.far.receive(&mut &mut bytes[..]) {
                Ok(len) => return bytes[..len].to_vec(),
                Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
            }
            assert!(start.elapsed().as_secs() < 20, "no packet");
            std::thread::yield_now();
        }
    }

    fn command(&mut self, bytes: &[u8]) -> u8 {
        self.control.write(BUFFERS - 64, bytes);
        self.control
            .add(&[(BUFFERS - 64, bytes.len() as u32, false), (BUFFERS - 1, 1, true)]);
        self.net.notify(2);
        assert!(self.control.used().is_some());
        self.control.read(BUFFERS - 1, 1)[0]
    }
}

#[test]
fn what_the_driver_sees() {
    let rig = rig(0);
    let mut config = [0xff; 14];
    rig.net.read_config(0, &mut config);
    assert_eq!(config, [0x52, 0x54, 0, 1, 2, 3, 1, 0, 1, 0, 0x28, 0x23, 0, 0]);
    assert_ne!(rig.net.features() & feature::MTU, 0);
    assert_eq!(rig.net.features() & feature::MULTI_QUEUE, 0, "one pair of queues");
    rig.net.set_link(false);
    rig.net.read_config(6, &mut config[..2]);
    assert_eq!(config[..2], [0, 0]);
    assert_eq!(rig.told.changes.load(SeqCst), 1);
    rig.net.set_link(false);
    assert_eq!(rig.told.changes.load(SeqCst), 1, "nothing has changed");
}

#[test]
fn packets_are_sent_in_order() {
    let mut rig = rig(0);
    let ram = rig.transmit.ram.clone();
    for n in 0..100u8 {
        let p = packet(60 + usize::from(n) * 13, n);
        let at = BUFFERS + u64::from(n) * 4096;
        ram.write(at, &p).unwrap();
        rig.transmit
            .add(&[(at, 12, false), (at + 12, p.len() as u32 - 12, false)]);
        rig.net.notify(1);
    }
    for n in 0..100u8 {
        assert_eq!(rig.far_receives(), packet(60 + usize::from(n) * 13, n));
        rig.transmit.wait(&rig.told);
    }
}

#[test]
fn a_large_packet_is_spread_over_mergeable_buffers() {
    let mut rig = rig(feature::MERGEABLE);
    let lens = [60, 1514, 9000, 60000, 65000, 100];
    for n in 0..120 {
        rig.receive.add(&[(BUFFERS + n * 4096, 2048, true)]);
    }
    rig.net.notify(0);
    for (n, len) in lens.into_iter().enumerate() {
        let sent = packet(len, n as u8);
        rig.far.send(&&sent[..]).unwrap();
        let (mut got, mut buffers) = (vec![], 1);
        while buffers > 0 {
            let (head, len) = rig.receive.wait(&rig.told);
            let part = rig.receive.read(BUFFERS + u64::from(head) * 4096, len as usize);
            if got.is_empty() {
                buffers = u16::from_le_bytes([part[10], part[11]]);
                assert_eq!(usize::from(buffers), sent.len().div_ceil(2048));
                // All of them are there when the first one is.
                for _ in 1..buffers {
                    let (head, len) = rig.receive.used().expect("given back together");
                    got.push((head, len));
                }
                got.insert(0, (head, len));
                buffers = 0;
            }
        }
        let bytes: Vec<u8> = got
            .iter()
            .flat_map(|(head, len)| rig.receive.read(BUFFERS + u64::from(*head) * 4096, *len as usize))
            .collect();
        assert_eq!(bytes[12..], sent[12..], "{len}");
    }
}

#[test]
fn without_mergeable_buffers_each_packet_has_one() {
    let mut rig = rig(0);
    for n in 0..20 {
        let at = BUFFERS + n * 4096;
        rig.receive.add(&[(at, 12, true), (at + 12, 1514, true)]);
    }
    rig.net.notify(0);
    // One that does not fit is lost, and does no harm.
    rig.far.send(&&packet(5000, 9)[..]).unwrap();
    for n in 0..10u8 {
        let sent = packet(1000 + usize::from(n), n);
        rig.far.send(&&sent[..]).unwrap();
        let (head, len) = rig.receive.wait(&rig.told);
        assert_eq!(len as usize, sent.len());
        let at = BUFFERS + u64::from(head) / 2 * 4096;
        assert_eq!(rig.receive.read(at, sent.len()), sent);
    }
}

#[test]
fn buffers_that_were_taken_and_not_used_come_again() {
    let mut rig = rig(feature::MERGEABLE);
    for n in 0..100 {
        rig.receive.add(&[(BUFFERS + n * 4096, 2048, true)]);
    }
    rig.far.send(&&packet(100, 1)[..]).unwrap();
    rig.net.notify(0);
    rig.receive.wait(&rig.told);
    let state = rig.net.stop_queue(0).unwrap();
    assert_eq!((state.next_available, state.next_used), (1, 1));
    rig.receive.state = state;
    rig.net
        .start_queue(0, rig.receive.queue(0, feature::MERGEABLE, &rig.told));
    for n in 0..50 {
        rig.far.send(&&packet(100, n)[..]).unwrap();
        rig.receive.wait(&rig.told);
    }
}

#[test]
fn a_pulled_cable_carries_nothing() {
    let mut rig = rig(feature::MERGEABLE);
    rig.net.set_link(false);
    let sent = packet(100, 1);
    rig.transmit.write(BUFFERS, &sent);
    rig.transmit.add(&[(BUFFERS, sent.len() as u32, false)]);
    rig.net.notify(1);
    rig.transmit.wait(&rig.told);
    rig.net.set_link(true);
    let sent = packet(100, 2);
    rig.transmit.write(BUFFERS, &sent);
    rig.transmit.add(&[(BUFFERS, sent.len() as u32, false)]);
    rig.net.notify(1);
    assert_eq!(rig.far_receives(), sent, "the first one was lost");
}

#[test]
fn commands_are_carried_out_or_refused() {
    let mut rig = rig(feature::CONTROL | feature::CONTROL_MAC | feature::CONTROL_RX);
    assert_eq!(rig.command(&[0, 0, 1]), 0, "promiscuous mode");
    assert_eq!(rig.command(&[1, 1, 0x52, 0x54, 0, 9, 9, 9]), 0, "another address");
    let mut mac = [0; 6];
    rig.net.read_config(0, &mut mac);
    assert_eq!(mac, [0x52, 0x54, 0, 9, 9, 9]);
    assert_eq!(
        rig.command(&[1, 1, 0x53, 0x54, 0, 9, 9, 9]),
        1,
        "a group's address"
    );
    assert_eq!(rig.command(&[1, 1, 0x52]), 1, "too short");
    assert_eq!(rig.command(&[4, 0, 2, 0]), 1, "more queues than there are");
    assert_eq!(
        rig.command(&[5, 0, 1, 0, 0, 0, 0, 0, 0, 0]),
        1,
        "was not accepted"
    );
    assert_eq!(rig.command(&[9]), 1, "half a command");
    assert_eq!(rig.command(&[77, 0, 1]), 1, "no such command");
    rig.net.reset();
    rig.net.read_config(0, &mut mac);
    assert_eq!(mac, [0x52, 0x54, 0, 1, 2, 3]);
}

#[test]
fn limits_count_in_each_direction() {
    let mut rig = rig(feature::MERGEABLE);
    rig.net.set_limit("bps=100K,bps-burst=10K".parse().unwrap());
    let start = Instant::now();
    let sent = packet(10_000, 1);
    for n in 0..4 {
        let at = BUFFERS + n * 0x4000;
        rig.transmit.write(at, &sent);
        rig.transmit.add(&[(at, sent.len() as u32, false)]);
    }
    rig.net.notify(1);
    for _ in 0..4 {
        rig.far_receives();
    }
    assert!(start.elapsed().as_millis() > 100, "in {:?}", start.elapsed());
    let start = Instant::now();
    for n in 0..40 {
        rig.receive.add(&[(BUFFERS + (40 + n) * 4096, 4096, true)]);
    }
    rig.net.notify(0);
    for _ in 0..4 {
        rig.far.send(&&sent[..]).unwrap();
    }
    for _ in 0..4 * 3 {
        rig.receive.wait(&rig.told);
    }
    assert!(start.elapsed().as_millis() > 100, "in {:?}", start.elapsed());
}

#[test]
fn state_survives_and_nonsense_does_not() {
    let mut rig = rig(feature::CONTROL);
    rig.command(&[1, 1, 0x52, 0x54, 0, 9, 9, 9]);
    rig.net.set_link(false);
    let Migrate::State(record) = rig.net.migrate() else {
        panic!("it has state");
    };
    let (near, _far) = Cable::new().unwrap();
    let other = Net::new(Arc::new(near), settings());
    other.restore(&record).unwrap();
    let mut config = [0; 8];
    other.read_config(0, &mut config);
    assert_eq!(config, [0x52, 0x54, 0, 9, 9, 9, 0, 0]);
    for at in 0..record.bytes.len() {
        let mut damaged = record.clone();
        damaged.bytes.truncate(at);
        assert!(other.restore(&damaged).is_err());
    }
    let mut group = record;
    group.bytes[0] = 0xff;
    assert!(other.restore(&group).is_err());
}
