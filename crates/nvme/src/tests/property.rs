//! Whatever a host does: no panic, an end to everything, and memory that it never named stays as it is.

use super::*;
use proptest::prelude::*;

/// Nothing here names this part of RAM: all addresses are below it, and the most a command transfers does not
/// reach it.
const UNTOUCHED: u64 = 8 << 20;
/// Random addresses are below this.
const NAMED: u64 = 6 << 20;

#[derive(Clone, Debug)]
enum Act {
    /// A command in queue 0 to 2.
    Command(usize, Vec<u32>),
    /// One as a driver would write it.
    Sound(usize, u8, u64, u32),
    Doorbell(u64, u32),
    Register(u64, u32),
    Bytes(u64, u64),
    Master(bool),
    Save,
    Reset,
    Resized,
}

fn address() -> impl Strategy<Value = u32> {
    prop_oneof![
        (0..NAMED as u32 / 4096).prop_map(|p| p * 4096),
        (0..NAMED as u32 / 4).prop_map(|p| p * 4),
        Just(0xffff_f000),
    ]
}

fn word() -> impl Strategy<Value = u32> {
    prop_oneof![
        0..8u32,
        any::<u32>(),
        (0..5u32, 0..70u32).prop_map(|(a, b)| a | b << 16)
    ]
}

fn command() -> impl Strategy<Value = Vec<u32>> {
    let opcode = prop_oneof![0..0x10u32, Just(0x7c), any::<u8>().prop_map(u32::from)];
    let head = (
        opcode,
        prop_oneof![4 => Just(1u32), 1 => any::<u32>()],
        address(),
        address(),
    );
    (head, proptest::collection::vec(word(), 6)).prop_map(|((opcode, nsid, prp1, prp2), words)| {
        let mut c = vec![opcode, nsid, 0, 0, 0, 0, prp1, 0, prp2, 0];
        c.extend(words);
        c
    })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0..3usize, command()).prop_map(|(n, c)| Act::Command(n, c)),
        8 => (1..3usize, 0..10u8, 0..SECTORS, 1..2100u32).prop_map(|(n, o, l, c)| Act::Sound(n, o, l, c)),
        4 => (0..12u64, prop_oneof![0..64u32, any::<u32>()]).prop_map(|(n, v)| Act::Doorbell(n, v)),
        1 => (0..0x40u64, any::<u32>()).prop_map(|(r, v)| Act::Register(r & !3, v)),
        4 => (0..NAMED / 8, (address(), any::<bool>()).prop_map(|(a, b)| if b { a.into() } else { u64::MAX }))
            .prop_map(|(a, v)| Act::Bytes(a * 8, v)),
        1 => any::<bool>().prop_map(Act::Master),
        1 => Just(Act::Save),
        1 => Just(Act::Reset),
        1 => Just(Act::Resized),
    ]
}

fn perform(rig: &mut Rig, act: &Act) {
    match act {
        Act::Command(n, words) if *n < rig.pairs.len() => {
            let mut c = [0; 16];
            c.copy_from_slice(words);
            rig.send(*n, Sqe(c));
        }
        Act::Sound(n, opcode, lba, count) if *n < rig.pairs.len() => {
            let c = transfer(&rig.ram, *opcode, *lba, *count, DATA);
            rig.send(*n, c);
        }
        Act::Command(..) | Act::Sound(..) => {}
        Act::Doorbell(n, value) => rig.put(at::DOORBELLS + n * 4, *value),
        // Queue addresses stay where the rest is.
        Act::Register(at::ASQ | at::ACQ, value) => rig.put(at::ASQ, value % NAMED as u32),
        Act::Register(register, _) if (0x28..0x38).contains(register) => {}
        Act::Register(register, value) => rig.put(*register, *value),
        Act::Bytes(at, value) => rig.ram.store(*at as usize, *value),
        Act::Master(on) => rig.set_command(if *on { 6 } else { 2 }),
        Act::Save => {
            if let donjon_devices::Migrate::State(record) = rig.nvme.migrate() {
                rig.nvme.restore(&record).unwrap();
            }
        }
        Act::Reset => {
            rig.set_command(2);
            rig.nvme.reset();
            rig.set_command(6);
            rig.enable();
            rig.add_pair(1, 64);
            rig.add_pair(2, 8);
        }
        Act::Resized => rig.nvme.resized(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn nothing_does_harm(acts in proptest::collection::vec(act(), 1..80), io_uring in any::<bool>()) {
        let mut rig = Rig::new(Setup { io_uring, ..SETUP });
        rig.add_pair(2, 8);
        rig.ram.write(UNTOUCHED, &vec![0x5a; (RAM - UNTOUCHED) as usize]).unwrap();
        for act in &acts {
            perform(&mut rig, act);
        }
        rig.set_command(2);
        rig.nvme.reset();
        prop_assert!(rig.bytes(UNTOUCHED, (RAM - UNTOUCHED) as usize).iter().all(|b| *b == 0x5a));
        // And it works still.
        rig.set_command(6);
        rig.enable();
        rig.add_pair(1, 64);
        prop_assert_eq!(rig.transfer(1, 2, 0, 8), 0);
    }
}
