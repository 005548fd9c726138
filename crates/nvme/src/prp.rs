//! Physical region pages: where a command's data is (NVM Express Base 1.4 §4.3).

use crate::status::Status;
use donjon_memory::{Ram, Scatter};
use std::sync::Arc;

/// The one memory page size (CAP.MPSMIN and MPSMAX, CC.MPS).
pub const PAGE: u64 = 4096;
/// Bytes of an entry.
const ENTRY: u64 = 8;

/// The `len` bytes that PRP1 and PRP2 describe, `len` being at most what a command may transfer.
///
/// Every entry adds a page or ends the walk, and only the first list may begin inside a page, so the work is
/// bounded by `len` however the lists are chained.
pub fn resolve(ram: &Arc<Ram>, prp1: u64, prp2: u64, len: usize) -> Result<Scatter, Status> {
    let mut list = Scatter::new(ram);
    if !prp1.is_multiple_of(4) {
        return Err(Status::PRP_OFFSET_INVALID);
    }
    let mut left = len as u64;
    let first = left.min(PAGE - prp1 % PAGE);
    push(&mut list, prp1, first)?;
    left -= first;
    if left == 0 {
        return Ok(list);
    }
    if left <= PAGE {
        push_page(&mut list, prp2, left)?;
        return Ok(list);
    }
    if !prp2.is_multiple_of(ENTRY) {
        return Err(Status::PRP_OFFSET_INVALID);
    }
    let mut at = prp2;
    while left > 0 {
        let entries = (PAGE - at % PAGE) / ENTRY;
        let mut page = vec![0; (entries * ENTRY) as usize];
        // Read once: the guest may change it at any time.
        ram.read(at, &mut page).map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        let mut entries = page
            .chunks_exact(ENTRY as usize)
            .map(|e| u64::from_le_bytes(e.try_into().expect("eight bytes")))
            .peekable();
        while left > 0 {
            let Some(entry) = entries.next() else { break };
            if entries.peek().is_none() && left > PAGE {
                // The last entry of a list's page leads to the rest of the list.
                if !entry.is_multiple_of(PAGE) {
                    return Err(Status::PRP_OFFSET_INVALID);
                }
                at = entry;
                break;
            }
            let n = left.min(PAGE);
            push_page(&mut list, entry, n)?;
            left -= n;
        }
    }
    Ok(list)
}

/// Refuses what the controller is to write and cannot.
pub fn writable(list: Scatter) -> Result<Scatter, Status> {
    match list.is_writable() {
        true => Ok(list),
        false => Err(Status::DATA_TRANSFER_ERROR),
    }
}

fn push_page(list: &mut Scatter, address: u64, len: u64) -> Result<(), Status> {
    if !address.is_multiple_of(PAGE) {
        return Err(Status::PRP_OFFSET_INVALID);
    }
    push(list, address, len)
}

fn push(list: &mut Scatter, address: u64, len: u64) -> Result<(), Status> {
    list.push(address, len as usize)
        .map_err(|_| Status::DATA_TRANSFER_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use donjon_memory::{MemoryFile, Part};

    fn ram() -> Arc<Ram> {
        Arc::new(Ram::new(4 << 20).unwrap())
    }

    fn list(ram: &Ram, at: u64, entries: impl IntoIterator<Item = u64>) {
        for (n, e) in entries.into_iter().enumerate() {
            ram.store(at as usize + n * 8, e);
        }
    }

    #[test]
    fn a_read_only_file_is_read_and_not_written() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(2 * PAGE).unwrap();
        let file = MemoryFile {
            file: Arc::new(file),
            len: 2 * PAGE,
            read_only: true,
        };
        let ram = Arc::new(Ram::with_files(PAGE, &[(PAGE, file)]).unwrap());
        let pages = |prp1, prp2| resolve(&ram, prp1, prp2, 2 * PAGE as usize).unwrap();
        assert_eq!(pages(0, PAGE).len(), 2 * PAGE as usize);
        assert_eq!(writable(pages(0, PAGE)).err(), Some(Status::DATA_TRANSFER_ERROR));
        assert!(writable(pages(0, 0)).is_ok());
    }

    #[test]
    fn one_two_and_many_pages() {
        let ram = ram();
        let len = |prp1, prp2, len| resolve(&ram, prp1, prp2, len).map(|s| s.parts().to_vec());
        let part = |offset, len| Part { offset, len };
        assert_eq!(len(0x1ff0, 0xdead, 16), Ok(vec![part(0x1ff0, 16)]));
        assert_eq!(
            len(0x1e00, 0x8000, 1024),
            Ok(vec![part(0x1e00, 512), part(0x8000, 512)])
        );
        list(&ram, 0x3008, [0x9000, 0x7000]);
        assert_eq!(
            len(0x1e00, 0x3008, 512 + 4096 + 100),
            Ok(vec![part(0x1e00, 512), part(0x9000, 4096), part(0x7000, 100)])
        );
    }

    #[test]
    fn lists_are_chained_at_the_end_of_their_page() {
        let ram = ram();
        // The first list has room for one entry and the link.
        list(&ram, 0x3ff0, [0x9000, 0x4000]);
        list(&ram, 0x4000, [0xa000, 0xb000]);
        let whole = resolve(&ram, 0x1000, 0x3ff0, 4 * 4096).unwrap();
        let offsets: Vec<_> = whole.parts().iter().map(|p| (p.offset, p.len)).collect();
        assert_eq!(offsets, [(0x1000, 4096), (0x9000, 3 * 4096)]);
        // One page less: the last entry of the page is data.
        let whole = resolve(&ram, 0x1000, 0x3ff0, 3 * 4096).unwrap();
        assert_eq!(whole.parts().last().unwrap().offset, 0x4000);
    }

    #[test]
    fn lists_that_loop_or_lead_nowhere_end() {
        let ram = ram();
        let mib = 1 << 20;
        let failed = |prp1, prp2| resolve(&ram, prp1, prp2, mib).map(|_| ()).unwrap_err();
        // All entries and the link lead to the list itself.
        list(&ram, 0x5000, [0x5000; 512]);
        assert_eq!(resolve(&ram, 0x1000, 0x5000, mib).unwrap().len(), mib);
        list(&ram, 0x6ff8, [0x6ff8]);
        assert_eq!(failed(0x1000, 0x6ff8), Status::PRP_OFFSET_INVALID);
        assert_eq!(failed(0x1001, 0x5000), Status::PRP_OFFSET_INVALID);
        assert_eq!(failed(0x1000, 0x5004), Status::PRP_OFFSET_INVALID);
        assert_eq!(failed(0x1000, 4 << 20), Status::DATA_TRANSFER_ERROR);
        assert_eq!(failed(u64::MAX - 7, 0x5000), Status::DATA_TRANSFER_ERROR);
        assert_eq!(failed(!0xfff, 0x5000), Status::DATA_TRANSFER_ERROR);
        list(&ram, 0x5000, [!0xfff; 512]);
        assert_eq!(failed(0x1000, 0x5000), Status::DATA_TRANSFER_ERROR);
    }
}
