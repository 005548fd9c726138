//! Where file systems are on a disk: the GUID partition table (UEFI 2.10 §5.3), the MBR's four partitions, or the
//! whole disk.

use donjon_block::Image;
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

/// Partitions that are looked at.
const MAX: usize = 128;
const SECTOR: u64 = 512;

/// Part of a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The partition's number from 1, as Linux counts them; none for the whole disk.
    pub partition: Option<u32>,
    /// Bytes from the disk's beginning.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

impl Place {
    /// What Linux calls it on a virtio disk or one of NVMe, such as `/dev/vda1` for `/dev/vda`.
    pub fn device(&self, disk: &str) -> String {
        // Names that end in a digit get a letter in between (block/partitions in Linux).
        let between = if disk.ends_with(|c: char| c.is_ascii_digit()) {
            "p"
        } else {
            ""
        };
        match self.partition {
            None => disk.to_owned(),
            Some(n) => format!("{disk}{between}{n}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.partition {
            None => f.write_str("the whole disk"),
            Some(n) => write!(f, "partition {n}"),
        }
    }
}

/// All there are. The whole disk is the only one if there are no partitions.
pub fn places(image: &Arc<Image>) -> io::Result<Vec<Place>> {
    let mut disk = Disk {
        image: image.clone(),
        at: 0,
    };
    let whole = Place {
        partition: None,
        start: 0,
        len: image.size(),
    };
    if image.size() < 2 * SECTOR {
        return Ok(vec![whole]);
    }
    let mut found = match gptman::GPT::find_from(&mut disk) {
        Ok(table) => gpt(&table, image.size()),
        // A broken table is as good as none.
        Err(gptman::Error::Io(e)) => return Err(e),
        Err(_) => {
            let mut record = [0; SECTOR as usize];
            image.read_bytes(0, &mut record)?;
            mbr(&record, image.size())
        }
    };
    if found.is_empty() {
        found.push(whole);
    }
    Ok(found)
}

fn gpt(table: &gptman::GPT, size: u64) -> Vec<Place> {
    let used = table.iter().filter(|(_, p)| p.is_used()).take(MAX);
    let all = used.filter_map(|(number, p)| {
        let sectors = p.ending_lba.checked_sub(p.starting_lba)?.checked_add(1)?;
        let start = p.starting_lba.checked_mul(table.sector_size)?;
        let len = sectors.checked_mul(table.sector_size)?;
        inside(number, start, len, size)
    });
    all.collect()
}

fn mbr(record: &[u8; SECTOR as usize], size: u64) -> Vec<Place> {
    // A boot sector without partitions, of FAT for example, ends in the same way: its entries say nothing sensible.
    if record[510..] != [0x55, 0xaa] {
        return vec![];
    }
    let entries = record[446..510].chunks_exact(16).enumerate();
    let word = |e: &[u8], at: usize| u64::from(u32::from_le_bytes([e[at], e[at + 1], e[at + 2], e[at + 3]]));
    entries
        .filter(|(_, e)| e[4] != 0 && e[0] & 0x7f == 0)
        .filter_map(|(i, e)| inside(i as u32 + 1, word(e, 8) * SECTOR, word(e, 12) * SECTOR, size))
        .collect()
}

fn inside(number: u32, start: u64, len: u64, size: u64) -> Option<Place> {
    let fits = start > 0 && len > 0 && start.checked_add(len).is_some_and(|end| end <= size);
    fits.then_some(Place {
        partition: Some(number),
        start,
        len,
    })
}

/// An image as a stream.
struct Disk {
    image: Arc<Image>,
    at: u64,
}

impl Read for Disk {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.image.size().saturating_sub(self.at);
        let n = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.image.read_bytes(self.at, &mut out[..n])?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Disk {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.image.size().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
