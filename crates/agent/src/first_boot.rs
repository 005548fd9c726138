//! A new machine's name, user and time zone.

use crate::text;
use donjon_agent_protocol::{Error, ErrorKind, FirstBoot, User};
use rustix::fs::{FlockOperation, fcntl_lock};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind as Io};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, lchown, symlink};
use std::path::{Component, Path};

/// The first user ID that is tried, and the last: those of ordinary users (login.defs(5)).
const IDS: std::ops::Range<u32> = 1000..60000;

/// Does it to the system at `root`. What is wrong is found before anything is changed.
pub fn apply(root: &Path, what: &FirstBoot) -> Result<(), Error> {
    if let Some(name) = &what.hostname {
        check_hostname(name)?;
    }
    if let Some(user) = &what.user {
        check_user(user)?;
    }
    if let Some(zone) = &what.timezone {
        check_timezone(root, zone)?;
    }
    let done = || -> io::Result<()> {
        if let Some(name) = &what.hostname {
            set_hostname(root, name)?;
        }
        if let Some(zone) = &what.timezone {
            set_timezone(root, zone)?;
        }
        if let Some(user) = &what.user {
            set_user(root, user)?;
        }
        Ok(())
    };
    done().map_err(|e| Error::new(ErrorKind::Failed, format!("cannot set the machine up: {e}")))
}

fn invalid(what: String) -> Error {
    Error::new(ErrorKind::Invalid, what)
}

fn check_hostname(name: &str) -> Result<(), Error> {
    let label = |l: &str| {
        let proper = l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        proper && (1..=63).contains(&l.len()) && !l.starts_with('-') && !l.ends_with('-')
    };
    if name.len() <= 64 && name.split('.').all(label) {
        return Ok(());
    }
    Err(invalid(format!(
        "{name:?} is no host name; use letters, digits and hyphens (RFC 1123), 64 at most"
    )))
}

fn check_user(user: &User) -> Result<(), Error> {
    // useradd(8)
    let name = &user.name;
    let first = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let rest = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b));
    if !first || !rest || name.len() > 32 {
        return Err(invalid(format!(
            "{name:?} is no user name; use small letters, digits, _ and -, a letter first, 32 at most"
        )));
    }
    let control = |s: &str| s.chars().any(char::is_control);
    if let Some(shell) = &user.shell
        && (!shell.starts_with('/') || shell.contains(':') || control(shell))
    {
        return Err(invalid(format!("{shell:?} is no shell; name its path")));
    }
    match user.ssh_keys.iter().find(|k| k.trim().is_empty() || control(k)) {
        Some(key) => Err(invalid(format!("{key:?} is no key; give a line of a .pub file"))),
        None => Ok(()),
    }
}

fn check_timezone(root: &Path, zone: &str) -> Result<(), Error> {
    let proper = zone
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"_+-/".contains(&b));
    let mut parts = Path::new(zone).components();
    if zone.is_empty() || !proper || !parts.all(|p| matches!(p, Component::Normal(_))) {
        return Err(invalid(format!(
            "{zone:?} is no time zone; use one as Europe/Berlin or UTC"
        )));
    }
    let zones = root.join("usr/share/zoneinfo");
    if zones.is_dir() && !zones.join(zone).is_file() {
        return Err(invalid(format!(
            "there is no time zone {zone:?} in /usr/share/zoneinfo"
        )));
    }
    Ok(())
}

fn set_hostname(root: &Path, name: &str) -> io::Result<()> {
    text::replace(&root.join("etc/hostname"), 0o644, &format!("{name}\n"))?;
    let hosts = root.join("etc/hosts");
    let old = text::read(&hosts)?;
    // Debian's address for the machine's own name.
    let mut lines: Vec<_> = old.lines().filter(|l| !l.starts_with("127.0.1.1")).collect();
    let short = name.split('.').next().unwrap_or(name);
    let own = if short == name {
        format!("127.0.1.1\t{name}")
    } else {
        format!("127.0.1.1\t{name} {short}")
    };
    if !lines
        .iter()
        .any(|l| l.split_ascii_whitespace().next() == Some("127.0.0.1"))
    {
        lines.insert(0, "127.0.0.1\tlocalhost");
    }
    let place = lines
        .iter()
        .position(|l| l.starts_with("127.0.0.1"))
        .map_or(0, |p| p + 1);
    lines.insert(place, &own);
    text::replace(&hosts, 0o644, &(lines.join("\n") + "\n"))
}

fn set_timezone(root: &Path, zone: &str) -> io::Result<()> {
    let localtime = root.join("etc/localtime");
    let draft = root.join("etc/localtime.donjon");
    let _ = fs::remove_file(&draft);
    symlink(Path::new("/usr/share/zoneinfo").join(zone), &draft)?;
    fs::rename(&draft, &localtime)?;
    text::replace(&root.join("etc/timezone"), 0o644, &format!("{zone}\n"))
}

fn set_user(root: &Path, user: &User) -> io::Result<()> {
    // lckpwdf(3): useradd and others wait.
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(root.join("etc/.pwd.lock"))?;
    fcntl_lock(&lock, FlockOperation::LockExclusive)?;
    let existing = crate::accounts::resolve(root, &user.name).ok();
    let account = match existing {
        Some(account) => account,
        None => {
            add_user(root, user)?;
            crate::accounts::resolve(root, &user.name).map_err(|e| io::Error::other(e.message))?
        }
    };
    let home = root.join(account.home.trim_start_matches('/'));
    if !user.ssh_keys.is_empty() {
        authorize(&home, &user.ssh_keys, (account.uid, account.gid))?;
    }
    if user.sudo {
        let directory = root.join("etc/sudoers.d");
        fs::create_dir_all(&directory)?;
        let rule = format!("{} ALL=(ALL:ALL) NOPASSWD: ALL\n", user.name);
        text::replace(&directory.join(format!("90-donjon-{}", user.name)), 0o440, &rule)?;
    }
    Ok(())
}

/// Adds a user with a group and a home of its own, and without a password.
fn add_user(root: &Path, user: &User) -> io::Result<()> {
    let [passwd_file, group_file, shadow_file] =
        ["passwd", "group", "shadow"].map(|f| root.join("etc").join(f));
    let (mut passwd, mut group) = (text::read(&passwd_file)?, text::read(&group_file)?);
    let mut shadow = text::read(&shadow_file)?;
    let used = |text: &str, id: u32| {
        let id = id.to_string();
        text.lines().any(|l| l.split(':').nth(2) == Some(&id))
    };
    let Some(id) = IDS
        .into_iter()
        .find(|id| !used(&passwd, *id) && !used(&group, *id))
    else {
        return Err(io::Error::other("no user ID is free"));
    };
    let bash = root.join("bin/bash").exists();
    let shell = user
        .shell
        .as_deref()
        .unwrap_or(if bash { "/bin/bash" } else { "/bin/sh" });
    let name = &user.name;
    let home = format!("/home/{name}");
    for text in [&mut passwd, &mut group, &mut shadow] {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
    }
    passwd += &format!("{name}:x:{id}:{id}::{home}:{shell}\n");
    // A group of this name that there is already stays what it is.
    if !group.lines().any(|l| l.split(':').next() == Some(name)) {
        group += &format!("{name}:x:{id}:\n");
        text::replace(&group_file, 0o644, &group)?;
    }
    // `*` is no password's hash: keys only.
    shadow += &format!("{name}:*:{}:0:99999:7:::\n", days());
    text::replace(&shadow_file, 0o640, &shadow)?;
    make_home(root, &root.join(home.trim_start_matches('/')), id)?;
    // Last: what is in it is complete.
    text::replace(&passwd_file, 0o644, &passwd)
}

/// Days since 1970, as shadow(5) counts them.
fn days() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_secs() / 86400)
}

/// A home with what is in /etc/skel.
fn make_home(root: &Path, home: &Path, id: u32) -> io::Result<()> {
    if let Some(parent) = home.parent() {
        fs::create_dir_all(parent)?;
    }
    directory(home, 0o755, (id, id))?;
    let Ok(skel) = fs::read_dir(root.join("etc/skel")) else {
        return Ok(());
    };
    for entry in skel.flatten() {
        let target = home.join(entry.file_name());
        if entry.file_type()?.is_file() && !target.exists() {
            fs::copy(entry.path(), &target)?;
            lchown(&target, Some(id), Some(id))?;
        }
    }
    Ok(())
}

fn directory(path: &Path, mode: u32, (uid, gid): (u32, u32)) -> io::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => lchown(path, Some(uid), Some(gid)),
        Err(e) if e.kind() == Io::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}

/// Adds keys to those that may log in.
fn authorize(home: &Path, keys: &[String], owner: (u32, u32)) -> io::Result<()> {
    let ssh = home.join(".ssh");
    directory(&ssh, 0o700, owner)?;
    // A user who makes it a link does not get other files written by it.
    if fs::symlink_metadata(&ssh)?.is_symlink() {
        return Err(io::Error::other(format!("{ssh:?} is a symbolic link")));
    }
    let path = ssh.join("authorized_keys");
    let mut text = text::read(&path)?;
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for key in keys.iter().map(|k| k.trim()) {
        if !text.lines().any(|l| l == key) {
            text += key;
            text.push('\n');
        }
    }
    text::replace(&path, 0o600, &text)?;
    let file = File::open(&path)?;
    std::os::unix::fs::fchown(&file, Some(owner.0), Some(owner.1))
}
