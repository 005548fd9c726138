//! Making the image `tiny` and keeping it.
//!
//! The cache has, each [sealed](crate::cache::Sealed): the packages (`packages/tiny`) and the image made from
//! them (`images/tiny-KEY`, where KEY changes with the recipe). So a damaged image, or another version of
//! donjon, needs no network; only when there are no packages does apt run.

use super::apt::{Apt, Complaint};
use super::deb::{Deb, DebError};
use super::modules::{Module, ModuleTree, in_order};
use super::{BootImage, ImageError, KernelWithModules, PackageError, rootfs};
use crate::cache::{Cache, CacheError, CacheLock, Draft, Sealed, Unsealed};
use crate::initramfs;
use crate::progress::Progress;
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// The package that always depends on the current kernel.
const META: &str = "linux-image-cloud-amd64";
/// What the kernel packages it depends on are called.
const KERNEL: (&str, &str) = ("linux-image-", "-cloud-amd64");
const BUSYBOX: &str = "busybox-static";
/// Disk space of a first run: lists 30 MB, packages 28, image 25, and as much again for bad luck.
const SPACE: u64 = 160 << 20;
/// A busybox, bytes: Debian's has 2 MB.
const BUSYBOX_LIMIT: u64 = 64 << 20;
/// A kernel, bytes: Debian's has 14 MB.
const KERNEL_LIMIT: u64 = 256 << 20;

/// The built-in image, wherever it is kept.
pub struct Tiny {
    cache: Cache,
    apt_get: Vec<OsString>,
}

impl Tiny {
    /// The image in `cache`, made if need be with the command `apt_get`: a program, and leading arguments if
    /// it takes any.
    ///
    /// # Panics
    /// If `apt_get` is empty.
    pub fn new(cache: Cache, apt_get: Vec<OsString>) -> Self {
        assert!(!apt_get.is_empty());
        Self { cache, apt_get }
    }

    /// The image, made if it is not there or not whole.
    pub fn image(&self, progress: &dyn Progress) -> Result<BootImage, ImageError> {
        let target = self.image_target();
        let done = self.find_or_make(
            &target,
            boot_image,
            |b, d| b.image(d),
            "building the image tiny",
            progress,
        );
        progress.finish();
        done
    }

    /// Its kernel with other modules and what they need, kept under the name `what`.
    pub fn kernel_with(
        &self,
        what: &str,
        modules: &[&str],
        progress: &dyn Progress,
    ) -> Result<KernelWithModules, ImageError> {
        let recipe = format!("{what}, layout 1\n{}", modules.join(" "));
        let target = self.target(what, &recipe);
        let done = self.find_or_make(
            &target,
            kernel_with_modules,
            |b, d| b.kernel_with(modules, d),
            &format!("preparing the kernel: {what}"),
            progress,
        );
        progress.finish();
        done
    }

    /// What `read` finds in `target`, where `make` puts it if need be.
    fn find_or_make<T>(
        &self,
        target: &Path,
        read: impl Fn(&Sealed) -> Option<T>,
        make: impl Fn(&Builder<'_>, &Draft) -> Result<String, ImageError>,
        step: &str,
        progress: &dyn Progress,
    ) -> Result<T, ImageError> {
        let existing = || self.existing(target).and_then(|sealed| read(&sealed));
        if let Some(image) = existing() {
            return Ok(image);
        }
        let lock = self
            .cache
            .lock(|| progress.step("waiting for another donjon that prepares the image"))?;
        // The other may have made it.
        if let Some(image) = existing() {
            return Ok(image);
        }
        self.cache.sweep(&lock);
        let packages = self.packages(&lock, progress)?;
        progress.step(step);
        let draft = Draft::new(&self.cache)?;
        let builder = Builder {
            packages: &packages,
            dir: self.packages_dir(),
        };
        let note = make(&builder, &draft)?;
        let sealed = draft.seal(target, &note)?;
        Ok(read(&sealed).expect("the builder has just written all of it"))
    }

    fn image_target(&self) -> PathBuf {
        self.target("tiny", &rootfs::recipe())
    }

    /// Where something is kept that is made by this recipe.
    fn target(&self, what: &str, recipe: &str) -> PathBuf {
        let key = Sha256::digest(recipe.as_bytes());
        self.cache.path(&format!(
            "images/{what}-{:02x}{:02x}{:02x}{:02x}",
            key[0], key[1], key[2], key[3]
        ))
    }

    fn packages_dir(&self) -> PathBuf {
        self.cache.path("packages/tiny")
    }

    fn existing(&self, target: &Path) -> Option<Sealed> {
        match Sealed::open(target) {
            Ok(sealed) => Some(sealed),
            Err(Unsealed::Absent(_)) => None,
            Err(damage) => {
                tracing::warn!("{damage}; it is built anew");
                None
            }
        }
    }

    /// The sealed packages, downloaded if they are not there.
    fn packages(&self, _lock: &CacheLock, progress: &dyn Progress) -> Result<Sealed, ImageError> {
        let dir = self.packages_dir();
        match Sealed::open(&dir) {
            Ok(sealed) => return Ok(sealed),
            Err(Unsealed::Absent(_)) => {}
            Err(damage) => tracing::warn!("{damage}; it is downloaded anew"),
        }
        self.cache.require_space(SPACE)?;
        let apt = Apt::new(&self.apt_get, &self.cache.path("apt"))?;
        let draft = Draft::new(&self.cache)?;
        let mut complaint = None;
        let fresh = !apt.has_lists();
        if fresh {
            progress.step("fetching Debian's package lists");
            complaint = apt.update(progress)?;
        }
        let mut outcome = self.download(&apt, &draft, progress)?;
        if outcome.is_err() && !fresh {
            // Lists of another day may name packages that the mirror has since replaced.
            progress.step("fetching Debian's package lists");
            complaint = apt.update(progress)?;
            outcome = self.download(&apt, &draft, progress)?;
        }
        match outcome {
            Ok(note) => Ok(draft.seal(&dir, &note)?),
            // What went wrong first is what is to be fixed.
            Err(later) => Err(ImageError::Apt {
                complaint: complaint.unwrap_or(later),
            }),
        }
    }

    /// Fills the draft with `kernel.deb` and `busybox.deb`; returns their names and versions.
    fn download(
        &self,
        apt: &Apt<'_>,
        draft: &Draft,
        progress: &dyn Progress,
    ) -> Result<Result<String, Complaint>, ImageError> {
        progress.step("looking up Debian's kernel");
        let meta = Draft::new(&self.cache)?;
        if let Err(complaint) = apt.download(&[META], meta.path(), progress)? {
            return Ok(Err(complaint));
        }
        let bad = |package: &str, e: PackageError| ImageError::package(package, self.cache.path("apt"), e);
        let found = find(meta.path(), META).map_err(|e| bad(META, e))?;
        let depends = Deb::open(&found)
            .and_then(|mut d| d.field("Depends"))
            .map_err(|e| bad(META, e.into()))?;
        let kernel = current_kernel(depends.as_deref().unwrap_or("")).map_err(|e| bad(META, e))?;

        progress.step(&format!("downloading {} and {BUSYBOX}", kernel.name));
        let got = Draft::new(&self.cache)?;
        if let Err(complaint) = apt.download(&[&kernel.for_apt(), BUSYBOX], got.path(), progress)? {
            return Ok(Err(complaint));
        }
        let mut note = Vec::new();
        for (name, file) in [(&kernel.name[..], "kernel.deb"), (BUSYBOX, "busybox.deb")] {
            let found = find(got.path(), name).map_err(|e| bad(name, e))?;
            let version = Deb::open(&found).and_then(|mut d| d.field("Version"));
            let version = version.map_err(|e| bad(name, e.into()))?.unwrap_or_default();
            note.push(format!("{name} {version}"));
            let target = draft.path().join(file);
            fs::rename(&found, &target).map_err(CacheError::io("move a package to", target))?;
        }
        Ok(Ok(note.join(", ")))
    }
}

fn boot_image(sealed: &Sealed) -> Option<BootImage> {
    let (kernel, initrd) = (sealed.file("vmlinuz")?, sealed.file("initrd")?);
    Some(BootImage {
        kernel,
        initrd,
        version: sealed.note().to_owned(),
    })
}

fn kernel_with_modules(sealed: &Sealed) -> Option<KernelWithModules> {
    Some(KernelWithModules {
        kernel: sealed.file("vmlinuz")?,
        modules: sealed.file("modules.cpio")?,
        order: fs::read_to_string(sealed.file("order")?)
            .ok()?
            .lines()
            .map(str::to_owned)
            .collect(),
    })
}

/// A package in a `Depends` field.
#[derive(PartialEq, Eq, Debug)]
struct Wanted {
    name: String,
    version: Option<String>,
}

impl Wanted {
    fn for_apt(&self) -> String {
        match &self.version {
            Some(version) => format!("{}={version}", self.name),
            None => self.name.clone(),
        }
    }
}

/// The kernel in the metapackage's `Depends`, such as
/// `linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), other`.
fn current_kernel(depends: &str) -> Result<Wanted, PackageError> {
    // deb-control(5) and Debian policy 5.6.1, 5.6.12.
    let proper = |s: &str| {
        s.chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.~:".contains(c))
    };
    for package in depends.split([',', '|']) {
        let (name, relation) = package.split_once('(').unwrap_or((package, ""));
        let name = name.trim();
        if name != META && name.starts_with(KERNEL.0) && name.ends_with(KERNEL.1) && proper(name) {
            let version = relation
                .trim()
                .strip_prefix('=')
                .and_then(|v| v.trim().strip_suffix(')'));
            let version = version.map(str::trim).filter(|v| !v.is_empty() && proper(v));
            return Ok(Wanted {
                name: name.to_owned(),
                version: version.map(str::to_owned),
            });
        }
    }
    let what = format!(
        "it depends on {depends:?}, where a {}VERSION{} was expected",
        KERNEL.0, KERNEL.1
    );
    Err(PackageError::Layout(what))
}

/// The package `name` among the files in `dir`.
fn find(dir: &Path, name: &str) -> Result<PathBuf, PackageError> {
    let entries = fs::read_dir(dir).map_err(DebError::Io)?;
    for entry in entries.flatten() {
        let path = entry.path();
        let deb = path.extension().is_some_and(|e| e == "deb");
        if deb && Deb::open(&path)?.field("Package")?.as_deref() == Some(name) {
            return Ok(path);
        }
    }
    Err(PackageError::Layout(
        "apt said that it downloaded it, but it is not there".into(),
    ))
}

/// Makes kernel and initramfs out of the two packages.
struct Builder<'a> {
    packages: &'a Sealed,
    dir: PathBuf,
}

impl Builder<'_> {
    fn kernel_with(&self, modules: &[&str], draft: &Draft) -> Result<String, ImageError> {
        let kernel = self.kernel(draft)?;
        let modules = kernel
            .modules
            .select(modules)
            .map_err(|e| self.bad("with the kernel", e.into()))?;
        let name = |module: &Module| format!("{}.ko", module.name);
        let order = in_order(&modules);
        let names: String = order.iter().map(|m| name(m) + "\n").collect();
        let content: Vec<_> = order.iter().map(|m| (name(m), m.bytes.clone())).collect();
        let (archive, list) = (draft.path().join("modules.cpio"), draft.path().join("order"));
        let written = initramfs::of_modules(&content).and_then(|bytes| fs::write(&archive, bytes));
        written.map_err(CacheError::io("write", archive))?;
        fs::write(&list, names).map_err(CacheError::io("write", list))?;
        Ok(self.packages.note().to_owned())
    }

    fn kernel(&self, draft: &Draft) -> Result<KernelPackage, ImageError> {
        let kernel = self.open("kernel.deb")?;
        read_kernel(kernel, &draft.path().join("vmlinuz")).map_err(|e| match e {
            ReadError::Package(e) => self.bad("with the kernel", e),
            ReadError::Cache(e) => e.into(),
        })
    }

    fn image(&self, draft: &Draft) -> Result<String, ImageError> {
        let busybox = self.open("busybox.deb")?;
        let busybox = read_busybox(busybox).map_err(|e| self.bad(BUSYBOX, e))?;
        let kernel = self.kernel(draft)?;
        let modules = kernel
            .modules
            .select(rootfs::MODULES)
            .map_err(|e| self.bad("with the kernel", e.into()))?;
        let initrd = draft.path().join("initrd");
        let written = File::create(&initrd).and_then(|f| {
            let out = BufWriter::new(f);
            rootfs::write(out, &busybox, &kernel.release, &kernel.builtin, &modules)?.flush()
        });
        written.map_err(CacheError::io("write", initrd))?;
        Ok(self.packages.note().to_owned())
    }

    fn open(&self, name: &str) -> Result<Deb, ImageError> {
        let missing = || self.bad(name, PackageError::Layout("it is not in the cache".into()));
        let path = self.packages.file(name).ok_or_else(missing)?;
        Deb::open(&path).map_err(|e| self.bad(name, e.into()))
    }

    fn bad(&self, package: &str, source: PackageError) -> ImageError {
        ImageError::package(package, self.dir.clone(), source)
    }
}

fn read_busybox(mut deb: Deb) -> Result<Vec<u8>, PackageError> {
    let mut found = None;
    deb.files(|file| {
        if file.path == Path::new("bin/busybox") || file.path == Path::new("usr/bin/busybox") {
            found = Some(read_whole(file.content, file.size, BUSYBOX_LIMIT)?);
        }
        Ok(())
    })?;
    let found = found.ok_or_else(|| PackageError::Layout("there is no bin/busybox in it".into()))?;
    if !found.starts_with(b"\x7fELF") {
        return Err(PackageError::Layout(
            "its bin/busybox is not an ELF program".into(),
        ));
    }
    Ok(found)
}

enum ReadError {
    Package(PackageError),
    Cache(CacheError),
}

struct KernelPackage {
    release: String,
    builtin: String,
    modules: ModuleTree,
}

/// Writes the kernel of the package to `target`, byte for byte, and takes its modules.
fn read_kernel(mut deb: Deb, target: &Path) -> Result<KernelPackage, ReadError> {
    let mut releases = Vec::new();
    let mut package = KernelPackage {
        release: String::new(),
        builtin: String::new(),
        modules: ModuleTree::default(),
    };
    let mut cache_error = None;
    let read = deb.files(|file| {
        let Some(path) = file.path.to_str() else {
            return Ok(());
        };
        if let Some(release) = path.strip_prefix("boot/vmlinuz-") {
            releases.push(release.to_owned());
            let kernel = read_whole(file.content, file.size, KERNEL_LIMIT)?;
            cache_error = fs::write(target, kernel)
                .map_err(CacheError::io("write", target))
                .err();
        } else if let Some((_, path)) = module_path(path) {
            if path.contains(".ko") {
                package
                    .modules
                    .add(path, read_whole(file.content, file.size, KERNEL_LIMIT)?);
            } else if path == "modules.builtin" {
                let list = read_whole(file.content, file.size, KERNEL_LIMIT)?;
                package.builtin = String::from_utf8_lossy(&list).into_owned();
            }
        }
        Ok(())
    });
    if let Some(error) = cache_error {
        return Err(ReadError::Cache(error));
    }
    let layout = |what: String| Err(ReadError::Package(PackageError::Layout(what)));
    read.map_err(|e| ReadError::Package(e.into()))?;
    let usable = |r: &str| {
        !r.is_empty()
            && r.chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-._~".contains(c))
    };
    match &releases[..] {
        [release] if usable(release) => package.release.clone_from(release),
        [] => return layout("there is no boot/vmlinuz-VERSION in it".into()),
        other => return layout(format!("one kernel was expected in boot/, there is {other:?}")),
    }
    if package.modules.is_empty() {
        return layout("there are no kernel modules in lib/modules or usr/lib/modules".into());
    }
    let builtin = std::mem::take(&mut package.builtin);
    package.modules.add_builtin(&builtin);
    package.builtin = builtin;
    Ok(package)
}

/// Splits `lib/modules/RELEASE/PATH`, with or without a leading `usr/`.
fn module_path(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("usr/")
        .unwrap_or(path)
        .strip_prefix("lib/modules/")?
        .split_once('/')
}

fn read_whole(content: &mut dyn Read, size: u64, limit: u64) -> Result<Vec<u8>, DebError> {
    if size > limit {
        let what = format!("a file of {size} bytes, where at most {limit} were expected");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what).into());
    }
    let mut bytes = Vec::new();
    content.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
