//! Images from inside: what a crash leaves, what failing writes leave, many threads.

mod crash;
mod hostile;
mod model;
mod threads;

use crate::image::{Driver, Format, Image};
use crate::manage::{self, Creation};
use crate::qcow2::Qcow2;
use crate::store::{Event, Observer, Store};
use crate::{Options, chain};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A small generator (xorshift64*), so that runs repeat.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Remembers what happens to a file, and fails it on demand.
#[derive(Default)]
pub struct Recorder {
    pub events: Mutex<Vec<Event>>,
    /// Writes from now on that succeed before one fails; `None` for all.
    pub fail_after: Mutex<Option<u64>>,
}

impl Observer for Recorder {
    fn event(&self, event: Event) -> io::Result<()> {
        if let Some(left) = &mut *self.fail_after.lock().unwrap()
            && !matches!(event, Event::Sync)
        {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => return Err(rustix::io::Errno::NOSPC.into()),
            }
        }
        self.events.lock().unwrap().push(event);
        Ok(())
    }
}

/// Opens a qcow2 image whose file is watched.
pub fn open_watched(path: &Path, recorder: &Arc<Recorder>) -> Image {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut store = Store::new(file, path).unwrap();
    store.observer = Some(recorder.clone());
    let header = chain::read_header(&store).unwrap();
    let backing = header.backing.as_ref().map(|name| {
        let options = Options {
            read_only: true,
            ..Options::default()
        };
        chain::open(chain::beside(path, name), &options).unwrap()
    });
    let qcow2 = Qcow2::open(store, None, header, backing.clone(), false).unwrap();
    Image {
        driver: Driver::Qcow2(Box::new(qcow2)),
        path: path.to_owned(),
        backing,
        read_only: false,
    }
}

pub fn creation(cluster_size: u64, version: u32, refcount_bits: u32) -> Creation {
    Creation {
        cluster_size,
        version,
        refcount_bits,
        ..Creation::default()
    }
}

pub fn check(path: &Path) -> manage::CheckReport {
    manage::check(path, Some(Format::Qcow2), false).unwrap()
}

#[track_caller]
pub fn is_clean(path: &Path) {
    let report = check(path);
    assert_eq!((report.errors, report.leaks), (0, 0), "{:#?}", report.findings);
}
