//! What a kernel module says of itself: the `.modinfo` section of its ELF file, zero-terminated `key=value`
//! strings (include/linux/moduleparam.h in the kernel's source).

/// The parts of `.modinfo` that loading a module needs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ModInfo {
    /// Modules that must be loaded before.
    pub depends: Vec<String>,
    /// Patterns of what it drives, such as `pci:v00001AF4d*`.
    pub aliases: Vec<String>,
}

/// Why a file is not a kernel module for x86-64.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotAModule {
    /// Other kind of file.
    #[error("not a little-endian 64-bit ELF file for x86-64")]
    Kind,
    /// An offset or a length in it points outside.
    #[error("an ELF file whose {0} lies outside the file")]
    Outside(&'static str),
    /// No `.modinfo`.
    #[error("an ELF file without a .modinfo section")]
    NoModInfo,
}

const SECTION_HEADER: usize = 64;

impl ModInfo {
    /// Reads it from a module's bytes (uncompressed).
    pub fn of(elf: &[u8]) -> Result<Self, NotAModule> {
        let section = section(elf, b".modinfo")?;
        let mut info = Self::default();
        for entry in section.split(|b| *b == 0) {
            let Ok(entry) = std::str::from_utf8(entry) else {
                continue;
            };
            let Some((key, value)) = entry.split_once('=') else {
                continue;
            };
            match key {
                "depends" => info
                    .depends
                    .extend(value.split(',').filter(|d| !d.is_empty()).map(normal_name)),
                "alias" => info.aliases.push(value.to_owned()),
                _ => {}
            }
        }
        Ok(info)
    }
}

/// A module's name as the kernel spells it: `-` and `_` are the same.
pub fn normal_name(name: &str) -> String {
    name.replace('-', "_")
}

/// The content of the section `name` (ELF-64 object file format, section headers).
fn section<'a>(elf: &'a [u8], name: &[u8]) -> Result<&'a [u8], NotAModule> {
    const CLASS64_LITTLE: [u8; 2] = [2, 1];
    const X86_64: u16 = 62;
    let magic = elf.get(..4) == Some(b"\x7fELF") && elf.get(4..6) == Some(&CLASS64_LITTLE);
    if !magic || u16_at(elf, 0x12) != Some(X86_64) {
        return Err(NotAModule::Kind);
    }
    let outside = || NotAModule::Outside("section table");
    let table = u64_at(elf, 0x28).ok_or_else(outside)?;
    let entry_size = usize::from(u16_at(elf, 0x3a).ok_or_else(outside)?);
    let count = usize::from(u16_at(elf, 0x3c).ok_or_else(outside)?);
    let names_index = usize::from(u16_at(elf, 0x3e).ok_or_else(outside)?);
    if entry_size < SECTION_HEADER {
        return Err(NotAModule::Outside("section header"));
    }
    let header = |index: usize| -> Option<&[u8]> {
        let at = usize::try_from(table)
            .ok()?
            .checked_add(index.checked_mul(entry_size)?)?;
        elf.get(at..at.checked_add(SECTION_HEADER)?)
    };
    let content = |header: &[u8]| -> Option<&'a [u8]> {
        let at = usize::try_from(u64_at(header, 0x18)?).ok()?;
        elf.get(at..at.checked_add(usize::try_from(u64_at(header, 0x20)?).ok()?)?)
    };
    let names = header(names_index)
        .and_then(content)
        .ok_or(NotAModule::Outside("section names"))?;
    for index in 0..count {
        let header = header(index).ok_or_else(outside)?;
        let name_at = u32_at(header, 0).and_then(|n| names.get(n as usize..));
        let this = name_at.and_then(|n| n.split(|b| *b == 0).next());
        if this == Some(name) {
            return content(header).ok_or(NotAModule::Outside(".modinfo section"));
        }
    }
    Err(NotAModule::NoModInfo)
}

fn bytes_at<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    bytes_at(data, at).map(u16::from_le_bytes)
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    bytes_at(data, at).map(u32::from_le_bytes)
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    bytes_at(data, at).map(u64::from_le_bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The smallest ELF file with this `.modinfo`.
    pub fn module_of(entries: &[&str]) -> Vec<u8> {
        let modinfo: Vec<u8> = entries.iter().flat_map(|e| e.bytes().chain([0])).collect();
        let names = b"\0.shstrtab\0.modinfo\0";
        let names_at = 64;
        let modinfo_at = names_at + names.len();
        let table_at = (modinfo_at + modinfo.len()).next_multiple_of(8);
        let mut elf = vec![0; table_at + 3 * SECTION_HEADER];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x12..0x14].copy_from_slice(&62u16.to_le_bytes());
        elf[0x28..0x30].copy_from_slice(&(table_at as u64).to_le_bytes());
        for (at, value) in [(0x3a, 64u16), (0x3c, 3), (0x3e, 1)] {
            elf[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        elf[names_at..modinfo_at].copy_from_slice(names);
        elf[modinfo_at..modinfo_at + modinfo.len()].copy_from_slice(&modinfo);
        for (index, name, at, size) in [
            (1, 1u32, names_at, names.len()),
            (2, 11, modinfo_at, modinfo.len()),
        ] {
            let header = table_at + index * SECTION_HEADER;
            elf[header..header + 4].copy_from_slice(&name.to_le_bytes());
            elf[header + 0x18..header + 0x20].copy_from_slice(&(at as u64).to_le_bytes());
            elf[header + 0x20..header + 0x28].copy_from_slice(&(size as u64).to_le_bytes());
        }
        elf
    }

    #[test]
    fn the_fields_are_found() {
        let elf = module_of(&[
            "license=GPL",
            "depends=virtio,net-failover",
            "alias=virtio:d1v*",
            "other=x",
        ]);
        let info = ModInfo::of(&elf).unwrap();
        assert_eq!(info.depends, ["virtio", "net_failover"]);
        assert_eq!(info.aliases, ["virtio:d1v*"]);
        assert_eq!(
            ModInfo::of(&module_of(&["depends="])).unwrap(),
            ModInfo::default()
        );
    }

    #[test]
    fn other_files_are_refused() {
        assert_eq!(ModInfo::of(b""), Err(NotAModule::Kind));
        assert_eq!(ModInfo::of(b"#!/bin/sh\n"), Err(NotAModule::Kind));
        let mut arm = module_of(&[]);
        arm[0x12] = 183;
        assert_eq!(ModInfo::of(&arm), Err(NotAModule::Kind));
        let mut nameless = module_of(&["depends="]);
        let at = nameless.windows(8).position(|w| w == b".modinfo").unwrap();
        nameless[at] = b'_';
        assert_eq!(ModInfo::of(&nameless), Err(NotAModule::NoModInfo));
    }

    #[test]
    fn no_damage_makes_it_panic() {
        let elf = module_of(&["depends=a,b", "alias=x"]);
        for at in 0..elf.len() {
            let _ = ModInfo::of(&elf[..at]);
            for value in [0x00, 0x7f, 0x80, 0xff] {
                let mut damaged = elf.clone();
                damaged[at] = value;
                let _ = ModInfo::of(&damaged);
            }
        }
    }
}
