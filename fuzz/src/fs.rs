//! Any requests to a shared directory: they are answered or refused, within bounds, and nothing beside the directory
//! is touched or told.
//!
//! Input: an options byte, then requests: operation, node, length, and as many bytes of arguments.
#![no_main]

use donjon_fs::{Ids, Limits, Server, Share, ShareOptions};
use donjon_memory::{Ram, Scatter};
use libfuzzer_sys::fuzz_target;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

const REQUEST: u64 = 0x1000;
const REPLY: u64 = 0x2_0000;
/// Room for an answer.
const ROOM: usize = 0x1_0000;
const SECRET: &[u8] = b"nothing leads here";
const LIMITS: Limits = Limits {
    nodes: 40,
    descriptors: 4,
    handles: 10,
};
const INIT: u32 = 26;
const FALLOCATE: u32 = 43;
const COPY_FILE_RANGE: u32 = 47;

/// A directory of this process in memory: `shared` and what must stay as it is.
fn place() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let above = if memory.is_dir() {
            memory.into()
        } else {
            std::env::temp_dir()
        };
        let place = above.join(format!("donjon-fuzz-fs-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&place);
        std::fs::create_dir_all(&place).expect("a directory");
        std::fs::write(place.join("secret"), SECRET).expect("a file");
        place
    })
}

fn ram() -> &'static Arc<Ram> {
    static RAM: OnceLock<Arc<Ram>> = OnceLock::new();
    RAM.get_or_init(|| Arc::new(Ram::new(1 << 20).expect("guest RAM")))
}

/// The directory as every input finds it.
fn populate(shared: &Path) {
    std::fs::create_dir(shared).expect("a directory");
    std::fs::create_dir(shared.join("d")).expect("a directory");
    for file in ["a", "b", "d/c"] {
        std::fs::write(shared.join(file), [0x55; 5000]).expect("a file");
    }
    std::os::unix::fs::symlink("../secret", shared.join("l")).expect("a link");
}

fn list(at: u64, len: usize) -> Scatter {
    let mut list = Scatter::new(ram());
    list.push(at, len).expect("it is RAM");
    list
}

fn ask(server: &Server, op: u32, node: u64, body: &[u8]) {
    let len = 40 + body.len();
    let numbers = [len as u32, op, 1, 0].map(u32::to_le_bytes).concat();
    let request = list(REQUEST, len);
    request.store(0, &[&numbers, &node.to_le_bytes()[..], &[0; 16], body].concat());
    let done = server.handle(&request, &list(REPLY, ROOM));
    let done = done.expect("it has a header, and its answer has room");
    assert!(done <= ROOM);
    let mut answer = vec![0; done];
    list(REPLY, ROOM).load(0, &mut answer);
    assert!(!answer.windows(SECRET.len()).any(|w| w == SECRET));
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&options, mut rest)) = bytes.split_first() else {
        return;
    };
    let shared = place().join("shared");
    let _ = std::fs::remove_dir_all(&shared);
    populate(&shared);
    let options = ShareOptions {
        read_only: options & 1 != 0,
        owner: (options & 2 != 0).then_some(Ids { uid: 0, gid: 0 }),
    };
    let share = Share::open(&shared, &options).expect("it is there");
    let server = Server::new(&share, &LIMITS);
    let begin = [7u32, 38, 0, 0].map(u32::to_le_bytes).concat();
    ask(&server, INIT, 0, &begin);
    for name in [&b"a\0"[..], b"b\0", b"d\0", b"l\0"] {
        ask(&server, 1, 1, name);
    }
    while let Some((&[op, node, len], behind)) = rest.split_first_chunk() {
        let (body, behind) = behind.split_at(behind.len().min(len.into()));
        rest = behind;
        if op == u8::MAX {
            let saved = server.save();
            server.restore(&saved).expect("what was saved can be");
            continue;
        }
        let mut body = body.to_vec();
        // Space that is really taken.
        let real = match op.into() {
            FALLOCATE => 8..24,
            COPY_FILE_RANGE => 40..48,
            _ => 0..0,
        };
        for (n, byte) in body.get_mut(real).unwrap_or_default().iter_mut().enumerate() {
            *byte = if n % 8 < 2 { *byte } else { 0 };
        }
        ask(&server, op.into(), node.into(), &body);
    }
    let secret = std::fs::read(place().join("secret")).expect("it is still there");
    assert_eq!(secret, SECRET);
    assert_eq!(std::fs::read_dir(place()).expect("a directory").count(), 2);
});
