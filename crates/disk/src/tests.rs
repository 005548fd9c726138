use super::*;
use donjon_block::{Format, Options, manage, open};
use donjon_memory::{Ram, Scatter};
use proptest::prelude::*;
use std::io;
use std::path::Path;
use std::time::Duration;

const SIZE: u64 = 1 << 20;
/// Where in RAM transfers go to and come from.
const AREA: u64 = 0x10000;

fn image(directory: &Path, format: Format) -> Arc<Image> {
    let path = directory.join(format!("disk.{format}"));
    let how = manage::Creation {
        format,
        ..manage::Creation::default()
    };
    manage::create(&path, SIZE, &how).unwrap();
    let options = Options {
        format: Some(format),
        ..Options::default()
    };
    open(&path, &options).unwrap()
}

/// A list in three parts.
fn list(ram: &Arc<Ram>, at: u64, len: u64) -> Scatter {
    let mut s = Scatter::new(ram);
    let first = (len / 3) & !511;
    s.push(at, first as usize).unwrap();
    s.push(at + first, 512.min(len - first) as usize).unwrap();
    let rest = len - first - 512.min(len - first);
    s.push(at + len - rest, rest as usize).unwrap();
    s
}

fn wait(requests: &mut Requests, may_block: bool) -> (u64, io::Result<()>) {
    let start = Instant::now();
    loop {
        requests.run(may_block);
        if let Some(done) = requests.take() {
            return done;
        }
        // What may not block there is for another thread.
        requests.run(start.elapsed() > Duration::from_millis(1));
        assert!(start.elapsed() < Duration::from_secs(20), "a request hangs");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, u8),
    Read(u64, u64),
    Zero(u64, u64, bool),
    Discard(u64, u64),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0..SIZE / SECTOR, 1u64..256).prop_map(|(at, len)| {
        let len = len.min(SIZE / SECTOR - at);
        (at * SECTOR, len * SECTOR)
    });
    prop_oneof![
        4 => (range.clone(), any::<u8>()).prop_map(|((at, len), v)| Step::Write(at, len, v)),
        4 => range.clone().prop_map(|(at, len)| Step::Read(at, len)),
        1 => (range.clone(), any::<bool>()).prop_map(|((at, len), unmap)| Step::Zero(at, len, unmap)),
        1 => range.prop_map(|(at, len)| Step::Discard(at, len)),
        1 => Just(Step::Flush),
    ]
}

fn run(format: Format, io_uring: bool, may_block: bool, steps: &[Step]) {
    let directory = tempfile::tempdir().unwrap();
    let image = image(directory.path(), format);
    let disk = match io_uring {
        true => Disk::new(image, "s", Limit::default()),
        false => Disk::without_io_uring(image, "s", Limit::default()),
    };
    let ram = Arc::new(Ram::new(2 << 20).unwrap());
    let mut requests = Requests::new(&disk).unwrap();
    let mut model = vec![Some(0u8); SIZE as usize];
    for (token, step) in (0..).zip(steps) {
        let range = |at: u64, len: u64| at as usize..(at + len) as usize;
        let (offset, operation) = match *step {
            Step::Write(at, len, v) => {
                ram.write(AREA, &vec![v; len as usize]).unwrap();
                model[range(at, len)].fill(Some(v));
                (at, Operation::Write(list(&ram, AREA, len)))
            }
            Step::Read(at, len) => (at, Operation::Read(list(&ram, AREA, len))),
            Step::Zero(at, len, unmap) => {
                model[range(at, len)].fill(Some(0));
                (at, Operation::WriteZeroes { len, unmap })
            }
            Step::Discard(at, len) => {
                // Zeroes, or as it was.
                for byte in &mut model[range(at, len)] {
                    *byte = byte.filter(|b| *b == 0);
                }
                (at, Operation::Discard { len })
            }
            Step::Flush => (0, Operation::Flush),
        };
        requests.submit(Request {
            token,
            offset,
            operation,
        });
        let (done, result) = wait(&mut requests, may_block);
        assert_eq!(done, token);
        result.unwrap();
        if let Step::Read(at, len) = *step {
            let mut bytes = vec![0; len as usize];
            ram.read(AREA, &mut bytes).unwrap();
            for (n, expected) in model[range(at, len)].iter().enumerate() {
                assert!(expected.is_none_or(|e| e == bytes[n]), "byte {n} of {step:?}");
            }
        }
    }
    assert_eq!(requests.pending(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_disk_is_what_was_written_to_it(
        steps in prop::collection::vec(step(), 1..40),
        qcow2: bool,
        io_uring: bool,
        may_block: bool,
    ) {
        let format = if qcow2 { Format::Qcow2 } else { Format::Raw };
        run(format, io_uring, may_block, &steps);
    }
}

#[test]
fn requests_that_cannot_be_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::new(image(directory.path(), Format::Raw), "s", Limit::default());
    let ram = Arc::new(Ram::new(2 << 20).unwrap());
    let mut requests = Requests::new(&disk).unwrap();
    let read = |len| Operation::Read(list(&ram, AREA, len));
    let bad = [
        (SIZE, read(512)),
        (SIZE - 512, read(1024)),
        (u64::MAX - 511, read(512)),
        (1, read(512)),
        (0, read(1000)),
        (0, Operation::Discard { len: SIZE + 512 }),
        (
            512,
            Operation::WriteZeroes {
                len: u64::MAX - 511,
                unmap: true,
            },
        ),
    ];
    for (token, (offset, operation)) in (0..).zip(bad) {
        requests.submit(Request {
            token,
            offset,
            operation,
        });
        let (_, result) = wait(&mut requests, true);
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput, "{token}");
    }
}

#[test]
fn a_drain_waits_for_everything_whatever_the_limit() {
    let directory = tempfile::tempdir().unwrap();
    let limit = "iops=1,iops-burst=1".parse().unwrap();
    let disk = Disk::new(image(directory.path(), Format::Qcow2), "s", limit);
    let ram = Arc::new(Ram::new(2 << 20).unwrap());
    let mut requests = Requests::new(&disk).unwrap();
    for token in 0..50 {
        requests.submit(Request {
            token,
            offset: token * 4096,
            operation: Operation::Write(list(&ram, AREA, 4096)),
        });
    }
    requests.run(true);
    assert!(requests.pending() > 40, "the limit holds them back");
    assert!(requests.until().is_some());
    let start = Instant::now();
    requests.drain();
    assert!(start.elapsed() < Duration::from_secs(10));
    let mut tokens: Vec<_> = std::iter::from_fn(|| requests.take())
        .map(|(token, result)| {
            result.unwrap();
            token
        })
        .collect();
    tokens.sort();
    assert_eq!(tokens, (0..50).collect::<Vec<_>>());
}
