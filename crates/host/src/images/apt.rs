//! Debian packages through the host's own apt, without touching the host: its sources, keyrings, proxies and
//! preferences are used as they are, while lists, archives and locks are kept in a directory of our own. So
//! signatures and hashes are checked as in every other installation, nothing is installed, and no rights are
//! needed.

use super::ImageError;
use crate::cache::CacheError;
use crate::progress::Progress;
use rustix::fs::{Gid, Uid};
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Settings for every call. The hooks of the host's configuration do things like emptying the host's own
/// package cache, for which there is no reason here; package caches would cost 50 MB of disk to save half a
/// second.
const SETTINGS: &str = r#"#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear APT::Architectures;
APT::Architectures { "amd64"; };
APT::Architecture "amd64";
APT::Color "0";
APT::Status-Fd "1";
Acquire::GzipIndexes "true";
Acquire::Languages "none";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"#;
/// Indexes that other programs add to apt's configuration: descriptions for software centres, lists of all
/// files, commands by package. On a desktop they are most of what an update downloads.
const OTHER_INDEXES: &[&str] = &[
    "CNF",
    "Contents-deb",
    "Contents-deb-legacy",
    "DEP-11",
    "DEP-11-icons",
    "DEP-11-icons-hidpi",
    "DEP-11-icons-large",
    "DEP-11-icons-large-hidpi",
    "DEP-11-icons-small",
];
/// Standard error that is kept of a call, lines.
const TAIL: usize = 12;

/// apt with a private state directory.
pub struct Apt<'a> {
    command: &'a [OsString],
    state: PathBuf,
    /// The user to whom apt drops its rights for downloads.
    sandbox: Option<u32>,
}

/// What a call left.
struct Outcome {
    ok: bool,
    /// The command line.
    command: String,
    /// How it ended, and the last lines of its standard error.
    said: String,
}

impl<'a> Apt<'a> {
    /// Prepares `state`, which must be absolute. `command` is `apt-get`, or another program that takes its
    /// arguments, with leading arguments of its own.
    pub fn new(command: &'a [OsString], state: &Path) -> Result<Self, ImageError> {
        let plain = state
            .to_str()
            .filter(|s| !s.contains(|c: char| c == '"' || c.is_control()));
        let Some(root) = plain else {
            return Err(ImageError::OddPath {
                path: state.to_owned(),
            });
        };
        for below in ["lists/partial", "archives/partial"] {
            let dir = state.join(below);
            fs::create_dir_all(&dir).map_err(CacheError::io("create", dir))?;
        }
        let sandbox = if rustix::process::geteuid().is_root() {
            sandbox_user(state)
        } else {
            None
        };
        let mut settings = format!(
            "{SETTINGS}Dir::State \"{root}\";\nDir::State::Lists \"{root}/lists\";\n\
             Dir::State::status \"{root}/status\";\nDir::Cache \"{root}\";\n\
             Dir::Cache::Archives \"{root}/archives\";\n"
        );
        for index in OTHER_INDEXES {
            settings += &format!("Acquire::IndexTargets::deb::{index}::DefaultEnabled \"false\";\n");
        }
        settings += "Acquire::IndexTargets::deb-src::Sources::DefaultEnabled \"false\";\n";
        if sandbox.is_none() {
            // apt would find out by itself that its own user cannot get here, and complain.
            settings += "APT::Sandbox::User \"root\";\n";
        }
        let apt = Self {
            command,
            state: state.to_owned(),
            sandbox,
        };
        for (name, content) in [("status", ""), ("apt.conf", &settings)] {
            let path = state.join(name);
            fs::write(&path, content).map_err(CacheError::io("write", path))?;
        }
        Ok(apt)
    }

    /// Whether package lists have been fetched before.
    pub fn has_lists(&self) -> bool {
        let Ok(entries) = fs::read_dir(self.state.join("lists")) else {
            return false;
        };
        entries
            .flatten()
            .any(|e| e.file_name().to_string_lossy().contains("Packages"))
    }

    /// `apt-get update`. Sources that fail are no error as long as the packages are in the others, so the
    /// answer is what apt complained about, for the case that they are not.
    pub fn update(&self, progress: &dyn Progress) -> Result<Option<Complaint>, ImageError> {
        let outcome = self.run(&["update"], &self.state, progress)?;
        Ok((!outcome.ok || !outcome.said.is_empty()).then(|| Complaint::from(outcome)))
    }

    /// Downloads packages, each NAME or NAME=VERSION, into the directory `into`.
    pub fn download(
        &self,
        packages: &[&str],
        into: &Path,
        progress: &dyn Progress,
    ) -> Result<Result<(), Complaint>, ImageError> {
        if let Some(uid) = self.sandbox {
            let (uid, gid) = (Uid::from_raw(uid), None::<Gid>);
            rustix::fs::chown(into, Some(uid), gid)
                .map_err(|e| CacheError::io("change the owner of", into)(e.into()))?;
        }
        let mut arguments = vec!["download"];
        arguments.extend(packages);
        let outcome = self.run(&arguments, into, progress)?;
        Ok(if outcome.ok {
            Ok(())
        } else {
            Err(Complaint::from(outcome))
        })
    }

    /// Where packages come from, of what has been fetched by [`Self::update`].
    pub fn sources(&self) -> Result<Vec<Source>, ImageError> {
        let format = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)";
        let (program, leading) = self.command.split_first().expect("the command is not empty");
        let output = Command::new(program)
            .args(leading)
            .arg("-c")
            .arg(self.state.join("apt.conf"))
            .args([
                "indextargets",
                "--no-release-info",
                "--format",
                format,
                "Created-By: Packages",
            ])
            .stdin(Stdio::null())
            .output()
            .map_err(|source| self.not_started(source))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut sources: Vec<Source> = text.lines().filter_map(Source::parse).collect();
        sources.sort();
        sources.dedup();
        Ok(sources)
    }

    /// When the newest list of a suite, its updates or its security updates was made, seconds since 1970; 0 if
    /// there is none.
    pub fn newest_list(&self, suite: &str) -> u64 {
        let entries = fs::read_dir(self.state.join("lists"))
            .into_iter()
            .flatten()
            .flatten();
        let releases = entries.filter(|e| e.file_name().to_string_lossy().ends_with("Release"));
        let texts = releases.filter_map(|e| fs::read(e.path()).ok());
        texts
            .filter_map(|t| date_of_release(&String::from_utf8_lossy(&t), suite))
            .max()
            .unwrap_or(0)
    }

    fn not_started(&self, source: io::Error) -> ImageError {
        let program = self.command[0].clone();
        match source.kind() {
            io::ErrorKind::NotFound => ImageError::NoApt { program },
            _ => ImageError::Spawn { program, source },
        }
    }

    fn run(
        &self,
        arguments: &[&str],
        directory: &Path,
        progress: &dyn Progress,
    ) -> Result<Outcome, ImageError> {
        let (program, leading) = self.command.split_first().expect("the command is not empty");
        let mut command = Command::new(program);
        command
            .args(leading)
            .arg("-qq")
            .arg("-c")
            .arg(self.state.join("apt.conf"));
        command
            .args(arguments)
            .current_dir(directory)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|source| self.not_started(source))?;
        let said = listen(&mut child, progress);
        let status = child.wait().map_err(|source| ImageError::Spawn {
            program: program.clone(),
            source,
        })?;
        let mut said = said.join("\n");
        if !status.success() && said.is_empty() {
            said = format!("it said nothing and ended with {status}");
        }
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let command = words
            .map(|w| shell_word(&w.to_string_lossy()))
            .collect::<Vec<_>>()
            .join(" ");
        tracing::debug!(%command, %status, "apt");
        Ok(Outcome {
            ok: status.success(),
            command,
            said,
        })
    }
}

/// Where packages come from (sources.list(5)).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Source {
    /// The archive.
    pub uri: String,
    /// Its suite, such as `bookworm-updates`.
    pub release: String,
    /// `main` and others.
    pub component: String,
}

impl Source {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split('|');
        let mut word = || {
            words
                .next()
                .filter(|w| !w.is_empty() && !w.contains(char::is_whitespace))
        };
        Some(Self {
            uri: word()?.to_owned(),
            release: word()?.to_owned(),
            component: word()?.to_owned(),
        })
    }
}

/// A command that failed, or warned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Complaint {
    /// The command line, for a shell.
    pub command: String,
    /// The last lines it wrote to standard error.
    pub said: String,
}

impl From<Outcome> for Complaint {
    fn from(outcome: Outcome) -> Self {
        Self {
            command: outcome.command,
            said: outcome.said,
        }
    }
}

impl Complaint {
    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        let said = |words: &[&str]| words.iter().any(|w| self.said.contains(w));
        if said(&["No space left", "enough free space"]) {
            "free some disk space, or put the cache on another disk: `export XDG_CACHE_HOME=/path/on/that/disk`"
        } else if said(&["NO_PUBKEY", "not signed", "EXPKEYSIG", "KEYEXPIRED"]) {
            "renew the host's keys: `sudo apt-get install --reinstall debian-archive-keyring`"
        } else if said(&["not valid yet", "Release file", "is expired"]) && !said(&["Failed to fetch"]) {
            "check the host's clock: `date`"
        } else if said(&[
            "resolv",
            "onnect",
            "nreachable",
            "imed out",
            "Failed to fetch",
            "Err:",
        ]) {
            "connect this host to its package mirror (`sudo apt-get update` has to work; for a proxy, \
             `export http_proxy=http://HOST:PORT`) and run the command again"
        } else if said(&[
            "Unable to locate package",
            "no installation candidate",
            "No packages found",
        ]) {
            "add Debian's main archive to this host's apt sources (/etc/apt/sources.list.d) and run the \
             command again"
        } else {
            "make `apt-get update` work on this host and run the command again"
        }
    }
}

/// Reads both streams to their ends; returns the last lines of standard error.
fn listen(child: &mut Child, progress: &dyn Progress) -> Vec<String> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let said = scope.spawn(move || stderr.map(last_lines).unwrap_or_default());
        for line in stdout
            .into_iter()
            .flat_map(|s| BufReader::new(s).split(b'\n'))
            .map_while(Result::ok)
        {
            if let Some(done) = percentage(&String::from_utf8_lossy(&line)) {
                progress.percent(done);
            }
        }
        said.join().unwrap_or_default()
    })
}

fn last_lines(input: impl Read) -> Vec<String> {
    let mut lines = std::collections::VecDeque::new();
    for line in BufReader::new(input).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if !line.is_empty() {
            lines.push_back(line);
        }
        if lines.len() > TAIL {
            lines.pop_front();
        }
    }
    lines.into()
}

/// `Date` of a Release file whose `Codename` begins with the suite's.
fn date_of_release(text: &str, suite: &str) -> Option<u64> {
    let field = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
    };
    if !field("Codename")?.starts_with(suite) {
        return None;
    }
    // The zone is always this one, under its older name in HTTP.
    let date = httpdate::parse_http_date(&field("Date")?.replace("UTC", "GMT")).ok()?;
    Some(date.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs())
}

/// The figure in a line such as `dlstatus:2:12.6863:Retrieving file 2 of 2` (README.progress-reporting of apt).
fn percentage(line: &str) -> Option<f32> {
    let done: f32 = line.strip_prefix("dlstatus:")?.split(':').nth(1)?.parse().ok()?;
    done.is_finite().then_some(done)
}

fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:+,~@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The user that apt becomes for downloads when it is run by root, if that user can reach `state`.
fn sandbox_user(state: &Path) -> Option<u32> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let uid = passwd
        .lines()
        .find_map(|l| l.strip_prefix("_apt:")?.split(':').nth(1)?.parse().ok())?;
    let open = |dir: &Path| fs::metadata(dir).is_ok_and(|m| m.mode() & 0o001 != 0 || m.uid() == uid);
    state.ancestors().all(open).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_lines_are_told_from_others() {
        assert_eq!(
            percentage("dlstatus:2:12.5000:Retrieving file 2 of 2"),
            Some(12.5)
        );
        for line in [
            "",
            "dlstatus",
            "dlstatus:1",
            "dlstatus:1:x:y",
            "dlstatus:1:NaN:y",
            "pmstatus:a:50:b",
        ] {
            assert_eq!(percentage(line), None, "{line}");
        }
    }

    #[test]
    fn a_release_has_a_date() {
        let text = "Origin: Debian\nCodename: bookworm-security\nDate: Sat, 08 Nov 2025 10:23:01 UTC\n";
        assert_eq!(date_of_release(text, "bookworm"), Some(1_762_597_381));
        assert_eq!(date_of_release(text, "trixie"), None);
        assert_eq!(
            date_of_release("Codename: bookworm\nDate: today\n", "bookworm"),
            None
        );
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let text: String = (0..100).map(|i| format!("line {i}\n\n")).collect();
        let lines = last_lines(text.as_bytes());
        assert_eq!(
            (lines.len(), &lines[0][..], &lines[TAIL - 1][..]),
            (TAIL, "line 88", "line 99")
        );
    }

    #[test]
    fn a_command_can_be_pasted() {
        assert_eq!(shell_word("/usr/bin/apt-get"), "/usr/bin/apt-get");
        assert_eq!(shell_word("$(X)"), "'$(X)'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn advice_fits_the_complaint() {
        let advice = |said: &str| {
            Complaint {
                command: String::new(),
                said: said.into(),
            }
            .advice()
        };
        assert!(
            advice("W: Failed to fetch x  Temporary failure resolving 'y'").contains("connect this host")
        );
        assert!(advice("E: Unable to locate package linux-image-cloud-amd64").contains("apt sources"));
        assert!(advice("E: The repository 'x' is not signed.").contains("keys"));
        assert!(advice("E: You don't have enough free space").contains("disk space"));
        assert!(advice("E: Write error - write (28: No space left on device)").contains("XDG_CACHE_HOME"));
    }
}
