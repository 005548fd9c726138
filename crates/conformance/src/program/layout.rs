//! Where the instructions of a program come to lie.

use super::{Branch, Item, Program};
use crate::encode::Bytes;
use std::collections::HashMap;

/// One instruction in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Which item it is.
    pub item: usize,
    /// Its address.
    pub address: u64,
    /// Its bytes.
    pub length: usize,
}

/// A program in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The bytes, from the program's start on.
    pub bytes: Vec<u8>,
    /// The instructions, in order.
    pub places: Vec<Place>,
}

impl Layout {
    /// Lays a program out.
    pub fn of(program: &Program) -> Self {
        let items = &program.items;
        // Short branches that do not reach are made long, which may put others out of reach.
        let mut long: Vec<bool> = items.iter().map(|i| !wants_short(i)).collect();
        loop {
            let mut labels = HashMap::new();
            let mut at = program.start;
            let mut addresses = Vec::with_capacity(items.len());
            for (item, &long) in items.iter().zip(&long) {
                addresses.push(at);
                if let Item::Label(l) = item {
                    labels.insert(*l, at);
                }
                at += length(item, long) as u64;
            }
            let end = at;
            let target = |label| labels.get(&label).copied().unwrap_or(end);
            let mut again = false;
            for ((item, long), at) in items.iter().zip(&mut long).zip(&addresses) {
                if let Item::Branch { branch, label, .. } = item
                    && !*long
                {
                    let next = at + length(item, false) as u64;
                    let distance = target(*label).wrapping_sub(next) as i64;
                    if i8::try_from(distance).is_err()
                        && !matches!(branch, Branch::Count(_) | Branch::CountHalf(_))
                    {
                        *long = true;
                        again = true;
                    }
                }
            }
            if again {
                continue;
            }
            let mut layout = Self {
                bytes: Vec::new(),
                places: Vec::new(),
            };
            for (n, ((item, &long), &address)) in items.iter().zip(&long).zip(&addresses).enumerate() {
                let bytes = encode(item, address, long, &target);
                if !bytes.is_empty() {
                    layout.places.push(Place {
                        item: n,
                        address,
                        length: bytes.len(),
                    });
                }
                layout.bytes.extend_from_slice(&bytes);
            }
            return layout;
        }
    }

    /// The instruction at an address.
    pub fn at(&self, address: u64) -> Option<usize> {
        self.places.binary_search_by_key(&address, |p| p.address).ok()
    }

    /// The bytes of one of the instructions.
    pub fn instruction(&self, n: usize) -> &[u8] {
        let p = &self.places[n];
        let at = (p.address - self.places[0].address) as usize;
        &self.bytes[at..at + p.length]
    }
}

fn wants_short(item: &Item) -> bool {
    match item {
        Item::Branch { branch, short, .. } => *short && *branch != Branch::Call,
        _ => false,
    }
}

fn length(item: &Item, long: bool) -> usize {
    match item {
        Item::Plain(b) | Item::Relative { bytes: b, .. } | Item::Address { bytes: b, .. } => b.len(),
        Item::Branch { branch, .. } => match branch {
            Branch::Count(_) => 2,
            Branch::CountHalf(_) => 3,
            _ if !long => 2,
            Branch::If(_) => 6,
            _ => 5,
        },
        Item::Label(_) => 0,
    }
}

fn encode(item: &Item, address: u64, long: bool, target: &dyn Fn(usize) -> u64) -> Bytes {
    let next = address + length(item, long) as u64;
    let mut out = Bytes::default();
    match *item {
        Item::Plain(b) => return b,
        Item::Relative { bytes, at, to } => {
            out = bytes;
            out[at..at + 4].copy_from_slice(&(to.wrapping_sub(next) as u32).to_le_bytes());
        }
        Item::Address {
            bytes,
            at,
            label,
            plus,
        } => {
            out = bytes;
            let to = (target(label) as u32).wrapping_add(plus);
            out[at..at + 4].copy_from_slice(&to.to_le_bytes());
        }
        Item::Branch { branch, label, .. } => {
            let distance = target(label).wrapping_sub(next);
            match branch {
                Branch::Count(_) if i8::try_from(distance as i64).is_err() => out.extend(&[0x66, 0x90]),
                Branch::CountHalf(_) if i8::try_from(distance as i64).is_err() => {
                    out.extend(&[0x0f, 0x1f, 0xc0])
                }
                Branch::CountHalf(kind) => out.extend(&[0x67, 0xe0 | kind & 3, distance as u8]),
                Branch::Count(kind) => out.extend(&[0xe0 | kind & 3, distance as u8]),
                Branch::Always if !long => out.extend(&[0xeb, distance as u8]),
                Branch::If(cc) if !long => out.extend(&[0x70 | cc & 15, distance as u8]),
                Branch::Always => out.push(0xe9),
                Branch::Call => out.push(0xe8),
                Branch::If(cc) => out.extend(&[0x0f, 0x80 | cc & 15]),
            }
            if out.len() < length(item, long) {
                out.extend(&(distance as u32).to_le_bytes());
            }
        }
        Item::Label(_) => {}
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Mode;
    use crate::regs::Regs;

    fn nops(n: usize) -> Vec<Item> {
        let mut nop = Bytes::default();
        nop.push(0x90);
        vec![Item::Plain(nop); n]
    }

    fn jump(short: bool) -> Item {
        Item::Branch {
            branch: Branch::Always,
            label: 1,
            short,
        }
    }

    fn laid(items: Vec<Item>) -> Layout {
        Layout::of(&Program {
            index: 0,
            mode: Mode::Long,
            start: 0x1000,
            items,
            before: Regs::default(),
            patches: vec![],
        })
    }

    #[test]
    fn branches_are_as_short_as_they_can_be() {
        let with = |n| {
            let mut items = vec![jump(true)];
            items.extend(nops(n));
            items.push(Item::Label(1));
            laid(items).bytes[..2].to_vec()
        };
        assert_eq!(with(127), [0xeb, 127]);
        assert_eq!(with(128), [0xe9, 128]);
    }

    #[test]
    fn a_branch_whose_label_is_gone_leads_to_the_end() {
        let mut items = vec![jump(false)];
        items.extend(nops(3));
        let l = laid(items);
        assert_eq!(l.bytes[..5], [0xe9, 3, 0, 0, 0]);
        assert_eq!(l.at(0x1006), Some(2));
    }
}
