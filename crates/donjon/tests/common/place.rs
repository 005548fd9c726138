//! A directory of a test's own: for images, and for the sockets of its domains.

use super::{Finished, arg, donjon, file, finish};
use donjon_host::{images, progress};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// What the kernel is told: little to say, nothing to test.
const COMMAND_LINE: &str = "console=ttyS0 quiet cryptomgr.notests panic=-1";

/// A directory that goes with the test.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `program`, in it.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.0.path());
        command
    }

    /// `donjon`, in it, with its domains.
    pub fn donjon(&self, args: &[&str]) -> Command {
        let mut command = donjon(args);
        command
            .env("XDG_RUNTIME_DIR", self.0.path())
            .current_dir(self.0.path());
        command
    }

    /// The end of a `donjon` that ends by itself.
    pub fn ask(&self, args: &[&str]) -> Finished {
        finish(&mut self.donjon(args), "")
    }

    /// What a command that succeeds says in JSON.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let done = self.ask(&[args, &["--format", "json"]].concat()).exits(0);
        assert_eq!(done.stdout.lines().count(), 1, "{}", done.stdout);
        serde_json::from_str(&done.stdout).unwrap()
    }

    /// An image of this format.
    #[track_caller]
    pub fn image(&self, name: &str, format: &str, size: &str) -> PathBuf {
        self.ask(&["disk", "create", name, size, "--format", format])
            .exits(0);
        self.path(name)
    }

    /// A program of the host's that has to succeed; its standard output.
    #[track_caller]
    pub fn host(&self, program: &str, args: &[&str]) -> String {
        let output = self.try_host(program, args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {args:?}: {text}{errors}");
        text
    }

    /// A program of the host's.
    #[track_caller]
    pub fn try_host(&self, program: &str, args: &[&str]) -> Output {
        let output = self.command(program, args).output();
        output.unwrap_or_else(|e| panic!("{program}: {e}; install qemu-utils, e2fsprogs, iproute2 and gcc"))
    }

    /// The host's name for bytes that a file takes.
    pub fn allocated(&self, name: &str) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(self.path(name)).unwrap().blocks() * 512
    }

    /// Arguments that boot the image `tiny` with these programs, which are `tests/guest/NAME.c`, in its root directory.
    pub fn with_programs(&self, programs: &[&str]) -> Vec<String> {
        let image = images::tiny(&progress::Silent).expect("the image tiny");
        let mut initrd = std::fs::read(&image.initrd).unwrap();
        // The kernel unpacks archives one after the other.
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        for name in programs {
            initrd.extend(newc(name, &self.compile(name)));
        }
        let initrd = file(self.0.path(), "initrd", &initrd);
        let args = [
            "--kernel",
            arg(&image.kernel),
            "--initrd",
            arg(&initrd),
            "--append",
            COMMAND_LINE,
        ];
        args.map(str::to_owned).into()
    }

    fn compile(&self, name: &str) -> Vec<u8> {
        let source = format!("{}/tests/guest/{name}.c", env!("CARGO_MANIFEST_DIR"));
        let options = [
            "-static", "-O1", "-Wall", "-Werror", "-pthread", "-o", name, &source,
        ];
        self.host("gcc", &options);
        std::fs::read(self.path(name)).expect("gcc made it")
    }
}

impl AsRef<Path> for Place {
    fn as_ref(&self) -> &Path {
        self.0.path()
    }
}

/// `content` as a program in an archive of the format "newc" (Linux Documentation/driver-api/early-userspace/
/// buffer-format.rst).
fn newc(name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = vec![];
    for (name, mode, content) in [(name, 0o100_755, content), ("TRAILER!!!", 0, &[])] {
        let fields =
            [1, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0].map(|f| format!("{f:08x}"));
        archive.extend_from_slice(format!("070701{}{name}\0", fields.concat()).as_bytes());
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}
