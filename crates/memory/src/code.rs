//! Which guest bytes have been decoded as code, and when they changed.
//!
//! A CPU engine that caches decoded blocks calls [`CodeMap::mark`] before it reads the bytes and keeps the
//! page's generation with the block. Every store, by whichever thread, ends in [`CodeMap::stored`]; if it
//! touches marked bytes the page's generation moves on, and blocks of older generations are stale.
//!
//! Marks are per 64-byte chunk, one word a page, because kernels and JITs keep data beside code.

use crate::view::View;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::sync::{Mutex, OnceLock};

/// Bytes covered by one bit of a page's mark.
pub const CHUNK_SIZE: usize = 64;
const PAGE_SHIFT: usize = 12;

/// Marks and generations for every page of RAM.
pub struct CodeMap {
    chunks: Box<[AtomicU64]>,
    generations: Box<[AtomicU32]>,
    /// Times any generation moved on.
    changes: AtomicU64,
    /// Times a page without marks got one.
    marked: AtomicU64,
    journal: OnceLock<Journal>,
    /// Where other threads store without telling, if they do.
    view: OnceLock<View>,
    /// Who wants to know when a generation has moved on.
    watchers: Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
}

/// Stores, for whoever checks them.
///
/// While one is kept every chunk counts as marked, so that each store takes the slow path to it; stores of
/// a map without journal pay nothing.
struct Journal {
    /// The marks proper.
    marks: Box<[AtomicU64]>,
    stores: Mutex<Vec<Stored>>,
}

/// Chunks of a page that were stored to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// RAM offset of the page.
    pub page: usize,
    /// A bit for each chunk of [`CHUNK_SIZE`] bytes.
    pub chunks: u64,
}

/// The bits of the chunks that `len` bytes at `offset` touch within the offset's page.
#[inline(always)]
fn chunk_mask(offset: usize, len: usize) -> u64 {
    let first = (offset & 0xfff) / CHUNK_SIZE;
    let last = ((offset & 0xfff) + len - 1).min(0xfff) / CHUNK_SIZE;
    (u64::MAX << first) & (u64::MAX >> (63 - last))
}

impl CodeMap {
    pub(crate) fn new(pages: usize) -> Self {
        membarrier::register();
        Self {
            chunks: (0..pages).map(|_| AtomicU64::new(0)).collect(),
            generations: (0..pages).map(|_| AtomicU32::new(0)).collect(),
            changes: AtomicU64::new(0),
            marked: AtomicU64::new(0),
            journal: OnceLock::new(),
            view: OnceLock::new(),
            watchers: Mutex::default(),
        }
    }

    /// Notes every store that is told of from now on, for [`CodeMap::take_stores`]. Nobody may store
    /// meanwhile.
    pub fn keep_journal(&self) {
        self.journal.get_or_init(|| Journal {
            marks: self
                .chunks
                .iter()
                .map(|c| AtomicU64::new(c.swap(u64::MAX, SeqCst)))
                .collect(),
            stores: Mutex::default(),
        });
    }

    /// Moves the stores since the last time to the end of `to`.
    pub fn take_stores(&self, to: &mut Vec<Stored>) {
        if let Some(journal) = self.journal.get() {
            to.append(&mut journal.stores.lock().unwrap_or_else(|e| e.into_inner()));
        }
    }

    /// The marks of a page.
    fn marks(&self, page: usize) -> &AtomicU64 {
        self.journal.get().map_or(&self.chunks[page], |j| &j.marks[page])
    }

    /// The generation of the page that holds `offset`.
    #[inline(always)]
    pub fn generation(&self, offset: usize) -> u32 {
        self.generations[offset >> PAGE_SHIFT].load(Acquire)
    }

    /// The counter behind [`CodeMap::generation`].
    #[inline(always)]
    pub fn cell(&self, offset: usize) -> &AtomicU32 {
        &self.generations[offset >> PAGE_SHIFT]
    }

    /// Has `view` follow the marks from now on; the first one stays.
    pub(crate) fn follow(&self, view: View) -> &View {
        self.view.get_or_init(|| view)
    }

    /// The view that follows the marks.
    pub(crate) fn view(&self) -> Option<&View> {
        self.view.get()
    }

    /// Calls `watcher` whenever a page's generation has moved on.
    pub fn watch(&self, watcher: impl Fn() + Send + Sync + 'static) {
        let mut watchers = self.watchers.lock().unwrap_or_else(|e| e.into_inner());
        watchers.push(Box::new(watcher));
    }

    /// How often any page's generation has moved on.
    #[inline(always)]
    pub fn changes(&self) -> u64 {
        self.changes.load(Acquire)
    }

    /// How often a page without marks got one.
    #[inline(always)]
    pub fn marked(&self) -> u64 {
        self.marked.load(Acquire)
    }

    /// Whether any byte of the page that holds `offset` is marked.
    pub fn is_marked(&self, offset: usize) -> bool {
        self.marks(offset >> PAGE_SHIFT).load(SeqCst) != 0
    }

    /// Marks `len` bytes at `offset` (within one page) as code about to be decoded and returns the page's
    /// generation. Bytes read after this call are either current, or the generation has moved on.
    pub fn mark(&self, offset: usize, len: usize) -> u32 {
        let page = offset >> PAGE_SHIFT;
        let generation = self.generations[page].load(SeqCst);
        let mask = chunk_mask(offset, len);
        let before = self.marks(page).fetch_or(mask, SeqCst);
        if before == 0 {
            self.marked.fetch_add(1, SeqCst);
        }
        if let Some(view) = self.view.get() {
            view.protect(page, || self.marks(page).load(SeqCst) != 0);
        }
        if before & mask != mask {
            // Another vCPU may have stored before it could see the mark, with the store still in its
            // store buffer. The barrier makes every thread's earlier stores visible before we read.
            membarrier::all_threads();
        }
        generation
    }

    /// Tells that `len` bytes (at most a page's rest) at `offset` were stored.
    #[inline(always)]
    pub fn stored(&self, offset: usize, len: usize) {
        let page = offset >> PAGE_SHIFT;
        if self.chunks[page].load(Relaxed) != 0 {
            self.stored_beside_code(page, chunk_mask(offset, len));
        }
        let last = (offset + len - 1) >> PAGE_SHIFT;
        if last != page && self.chunks[last].load(Relaxed) != 0 {
            self.stored_beside_code(last, chunk_mask(0, (offset + len) & 0xfff));
        }
    }

    #[cold]
    fn stored_beside_code(&self, page: usize, mask: u64) {
        if let Some(journal) = self.journal.get() {
            let stored = Stored {
                page: page << PAGE_SHIFT,
                chunks: mask,
            };
            journal
                .stores
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .push(stored);
        }
        let marks = self.marks(page);
        if marks.load(SeqCst) & mask != 0 {
            // The order matters: whoever reads the new generation must not have its marks wiped.
            marks.store(0, SeqCst);
            self.generations[page].fetch_add(1, SeqCst);
            self.changes.fetch_add(1, SeqCst);
            for watcher in self.watchers.lock().unwrap_or_else(|e| e.into_inner()).iter() {
                watcher();
            }
        }
    }
}

mod membarrier {
    //! The asymmetric half of the store-then-check protocol: stores need no fence of their own because the
    //! rare marker makes every thread of the process pass one (membarrier(2), private expedited).
    use std::sync::atomic::{AtomicBool, Ordering::*, fence};

    static READY: AtomicBool = AtomicBool::new(false);

    pub fn register() {
        let ok = rustix::thread::membarrier(rustix::thread::MembarrierCommand::RegisterPrivateExpedited);
        READY.store(ok.is_ok(), SeqCst);
    }

    pub fn all_threads() {
        if READY.load(SeqCst) {
            let _ = rustix::thread::membarrier(rustix::thread::MembarrierCommand::PrivateExpedited);
        }
        fence(SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stores_to_marked_chunks_count() {
        let map = CodeMap::new(3);
        let generation = map.mark(4096 + 128, 64);
        map.stored(4096 + 120, 8);
        map.stored(4096 + 192, 8);
        assert_eq!(map.generation(4096), generation);
        map.stored(4096 + 121, 8);
        assert_eq!(map.generation(4096), generation + 1);
        map.stored(4096 + 121, 8);
        assert_eq!(map.generation(4096), generation + 1, "no mark left");
    }

    #[test]
    fn a_store_across_pages_reaches_the_second() {
        let map = CodeMap::new(2);
        map.mark(4096, 1);
        map.stored(4090, 8);
        assert_eq!(map.generation(4096), 1);
        assert_eq!(map.generation(0), 0);
    }

    #[test]
    fn a_journal_has_every_store_and_changes_nothing_else() {
        let map = CodeMap::new(2);
        let generation = map.mark(0, 64);
        map.stored(64, 8);
        map.keep_journal();
        assert!(map.is_marked(0) && !map.is_marked(4096));
        map.stored(4090, 8);
        map.stored(0x48, 1);
        assert_eq!(map.generation(0), generation);
        map.stored(0x38, 16);
        assert_eq!((map.generation(0), map.is_marked(0)), (generation + 1, false));
        let mut stores = vec![];
        map.take_stores(&mut stores);
        let expected = [(0, 1 << 63), (4096, 1), (0, 2), (0, 3)];
        assert_eq!(stores, expected.map(|(page, chunks)| Stored { page, chunks }));
        map.take_stores(&mut stores);
        assert_eq!(stores.len(), 4, "taken once");
    }

    #[test]
    fn masks_cover_exactly_the_touched_chunks() {
        assert_eq!(chunk_mask(0, 1), 1);
        assert_eq!(chunk_mask(63, 2), 3);
        assert_eq!(chunk_mask(4095, 1), 1 << 63);
        assert_eq!(chunk_mask(4095, 8), 1 << 63);
        assert_eq!(chunk_mask(0, 4096), u64::MAX);
    }
}
