//! The kernel modules of a kernel package, and what `modprobe` needs to load some of them.
//!
//! A package has no `modules.dep`: depmod makes that when the package is installed, which never happens here.
//! So dependencies come from the modules themselves.

use super::modinfo::{ModInfo, NotAModule, normal_name};
use super::unpack::Compression;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Read};

/// One module, unpacked, bytes. The largest of Debian's (a graphics driver) has about 15 MiB.
const MODULE_LIMIT: u64 = 64 << 20;

/// Why modules could not be taken from a package.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// It cannot be unpacked.
    #[error("cannot unpack the kernel module {0}: {1}")]
    Unpack(String, io::Error),
    /// It is something else.
    #[error("{0} is not a kernel module: {1}")]
    NotAModule(String, NotAModule),
    /// It needs a module that the package does not have.
    #[error("the kernel module {module} needs {needs}, which is neither a module nor built in")]
    Missing {
        /// The one in need.
        module: String,
        /// What it needs.
        needs: String,
    },
}

/// All modules of one kernel, still compressed.
#[derive(Default)]
pub struct ModuleTree {
    packed: BTreeMap<String, Packed>,
    builtin: BTreeSet<String>,
}

struct Packed {
    path: String,
    compression: Compression,
    bytes: Vec<u8>,
}

/// A module to be loaded.
#[derive(Debug)]
pub struct Module {
    /// Its name, in the kernel's spelling.
    pub name: String,
    /// Its path below `/lib/modules/RELEASE`, without the ending of a compression.
    pub path: String,
    /// The ELF file.
    pub bytes: Vec<u8>,
    /// What it says of itself.
    pub info: ModInfo,
}

impl ModuleTree {
    /// Adds the file at `path` (below `/lib/modules/RELEASE`); other files than modules are ignored.
    pub fn add(&mut self, path: &str, bytes: Vec<u8>) {
        let (plain, compression) = Compression::of_name(path);
        let Some(stem) = plain.strip_suffix(".ko") else {
            return;
        };
        let name = normal_name(stem.rsplit('/').next().unwrap_or(stem));
        self.packed.insert(
            name,
            Packed {
                path: plain.to_owned(),
                compression,
                bytes,
            },
        );
    }

    /// Takes `modules.builtin`: the paths that would be modules had they not been built in.
    pub fn add_builtin(&mut self, list: &str) {
        let names = list
            .lines()
            .filter_map(|l| l.trim().rsplit('/').next()?.strip_suffix(".ko"));
        self.builtin.extend(names.map(normal_name));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    /// Those of the `wanted` modules that exist, with all they depend on, by name. What is built in or not
    /// part of this kernel is left out.
    pub fn select(&self, wanted: &[&str]) -> Result<BTreeMap<String, Module>, ModuleError> {
        let mut selected = BTreeMap::new();
        let mut open: Vec<String> = wanted
            .iter()
            .map(|w| normal_name(w))
            .filter(|w| self.packed.contains_key(w))
            .collect();
        while let Some(name) = open.pop() {
            if selected.contains_key(&name) {
                continue;
            }
            let module = self.unpack(&name)?;
            for needs in &module.info.depends {
                if self.packed.contains_key(needs) {
                    open.push(needs.clone());
                } else if !self.builtin.contains(needs) {
                    return Err(ModuleError::Missing {
                        module: name,
                        needs: needs.clone(),
                    });
                }
            }
            selected.insert(name, module);
        }
        Ok(selected)
    }

    fn unpack(&self, name: &str) -> Result<Module, ModuleError> {
        let packed = &self.packed[name];
        let mut bytes = Vec::new();
        let read = packed.compression.reader(&packed.bytes[..], MODULE_LIMIT);
        read.and_then(|mut r| r.read_to_end(&mut bytes))
            .map_err(|e| ModuleError::Unpack(packed.path.clone(), e))?;
        let info = ModInfo::of(&bytes).map_err(|e| ModuleError::NotAModule(packed.path.clone(), e))?;
        Ok(Module {
            name: name.to_owned(),
            path: packed.path.clone(),
            bytes,
            info,
        })
    }
}

/// All of them, each behind what it needs.
pub fn in_order(modules: &BTreeMap<String, Module>) -> Vec<&Module> {
    let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
    for module in modules.values() {
        visit(modules, &module.name, &mut seen, &mut order);
    }
    order.iter().map(|name| &modules[*name]).collect()
}

/// `modules.dep` (modules.dep(5)): for every module all that it needs, each before what that needs itself, so
/// that the line is loaded from its end to its start.
pub fn modules_dep(modules: &BTreeMap<String, Module>) -> String {
    let mut text = String::new();
    for module in modules.values() {
        let mut order = Vec::new();
        visit(modules, &module.name, &mut BTreeSet::new(), &mut order);
        write!(text, "{}:", module.path).expect("a String takes everything");
        // The last visited is the module itself.
        for needs in order.iter().rev().skip(1) {
            write!(text, " {}", modules[*needs].path).expect("a String takes everything");
        }
        text.push('\n');
    }
    text
}

/// Appends `name` after all that it needs. A circle, which no kernel has, is cut where it closes.
fn visit<'a>(
    modules: &'a BTreeMap<String, Module>,
    name: &'a str,
    seen: &mut BTreeSet<&'a str>,
    order: &mut Vec<&'a str>,
) {
    let Some(module) = modules.get(name) else { return };
    if !seen.insert(name) {
        return;
    }
    for needs in &module.info.depends {
        visit(modules, needs, seen, order);
    }
    order.push(name);
}

/// `modules.alias`: which module drives what.
pub fn modules_alias(modules: &BTreeMap<String, Module>) -> String {
    let mut text = String::new();
    for module in modules.values() {
        for alias in &module.info.aliases {
            writeln!(text, "alias {alias} {}", module.name).expect("a String takes everything");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::modinfo::tests::module_of;
    use super::*;

    fn tree(modules: &[(&str, &str)]) -> ModuleTree {
        let mut tree = ModuleTree::default();
        for (path, depends) in modules {
            let elf = module_of(&[&format!("depends={depends}"), &format!("alias=x:{path}")]);
            let packed = match Compression::of_name(path).1 {
                Compression::Xz => liblzma::encode_all(&elf[..], 1).unwrap(),
                Compression::Zstd => zstd::encode_all(&elf[..], 1).unwrap(),
                Compression::None => elf,
            };
            tree.add(path, packed);
        }
        tree.add("modules.order", b"not a module".to_vec());
        tree
    }

    #[test]
    fn a_module_comes_with_all_it_needs() {
        let tree = tree(&[
            ("kernel/virtio-net.ko.xz", "net_failover,virtio"),
            ("kernel/net-failover.ko.zst", "failover"),
            ("kernel/failover.ko", ""),
            ("kernel/virtio.ko", ""),
            ("kernel/other.ko", ""),
        ]);
        assert_eq!(tree.packed.len(), 5);
        let selected = tree.select(&["virtio_net", "absent"]).unwrap();
        let names: Vec<_> = selected.keys().map(String::as_str).collect();
        assert_eq!(names, ["failover", "net_failover", "virtio", "virtio_net"]);
        let dep = modules_dep(&selected);
        let line = dep
            .lines()
            .find(|l| l.starts_with("kernel/virtio-net.ko:"))
            .unwrap();
        assert_eq!(
            line,
            "kernel/virtio-net.ko: kernel/virtio.ko kernel/net-failover.ko kernel/failover.ko"
        );
        assert!(dep.contains("kernel/failover.ko:\n"));
        assert!(modules_alias(&selected).contains("alias x:kernel/failover.ko failover\n"));
    }

    #[test]
    fn what_is_built_in_need_not_be_there() {
        let mut tree = tree(&[("kernel/a.ko", "b_c")]);
        let error = tree.select(&["a"]).unwrap_err().to_string();
        assert_eq!(
            error,
            "the kernel module a needs b_c, which is neither a module nor built in"
        );
        tree.add_builtin("kernel/x/b-c.ko\nkernel/y.ko\n");
        assert_eq!(tree.select(&["a", "b_c"]).unwrap().len(), 1);
    }

    #[test]
    fn a_circle_ends() {
        let selected = tree(&[("a.ko", "b"), ("b.ko", "a")]).select(&["a"]).unwrap();
        assert_eq!(modules_dep(&selected), "a.ko: b.ko\nb.ko: a.ko\n");
    }

    #[test]
    fn a_damaged_module_is_named() {
        let mut tree = ModuleTree::default();
        tree.add("kernel/bad.ko.xz", b"not xz".to_vec());
        tree.add("kernel/text.ko", b"text".to_vec());
        assert!(
            tree.select(&["bad"])
                .unwrap_err()
                .to_string()
                .contains("kernel/bad.ko")
        );
        assert!(
            tree.select(&["text"])
                .unwrap_err()
                .to_string()
                .contains("is not a kernel module")
        );
    }
}
