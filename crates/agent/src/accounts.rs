//! Users and groups: passwd(5), group(5).

use crate::text;
use donjon_agent_protocol::{Error, ErrorKind};
use std::path::Path;

/// A user that a program runs as.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// All groups that it is in, `gid` among them.
    pub groups: Vec<u32>,
    /// Its name; the number, if it has none.
    pub name: String,
    /// Its home; `/`, if it has none.
    pub home: String,
    /// Its shell.
    pub shell: String,
}

/// A line of passwd(5).
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

/// The most groups that a process is put in; the kernel's own limit is 65536.
const GROUPS: usize = 1024;
/// `(uid_t) -1`, which means none.
const NOBODY: u32 = u32::MAX;

/// The user of `NAME`, `UID`, `NAME:GROUP` or `UID:GID`, by the files of the system at `root`. A number needs no
/// entry there; groups that are named after a colon are the only ones.
pub fn resolve(root: &Path, spec: &str) -> Result<Account, Error> {
    let unreadable = |what: &str, e| Error::new(ErrorKind::Failed, format!("cannot read {what}: {e}"));
    let passwd = text::read(&root.join("etc/passwd")).map_err(|e| unreadable("/etc/passwd", e))?;
    let group = text::read(&root.join("etc/group")).map_err(|e| unreadable("/etc/group", e))?;
    find(&passwd, &group, spec)
}

fn find(passwd: &str, group: &str, spec: &str) -> Result<Account, Error> {
    let (user, group_spec) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let number = |s: &str| s.parse().ok().filter(|n| *n != NOBODY);
    let mut entries = passwd.lines().filter_map(entry);
    let found = match number(user) {
        // Names of digits are none, as in chown(1) when there is no such name.
        Some(uid) => entries.find(|e| e.name == user || e.uid == uid).ok_or(uid),
        None => match entries.find(|e| e.name == user) {
            Some(entry) => Ok(entry),
            None => {
                let what =
                    format!("there is no user {user:?} in /etc/passwd; name one that there is, or a number");
                return Err(Error::new(ErrorKind::NotFound, what));
            }
        },
    };
    let mut account = match found {
        Ok(e) => Account {
            uid: e.uid,
            gid: e.gid,
            groups: vec![],
            name: e.name.into(),
            home: if e.home.is_empty() { "/" } else { e.home }.into(),
            shell: if e.shell.is_empty() { "/bin/sh" } else { e.shell }.into(),
        },
        Err(uid) => Account {
            uid,
            gid: 0,
            groups: vec![],
            name: uid.to_string(),
            home: "/".into(),
            shell: "/bin/sh".into(),
        },
    };
    if let Some(spec) = group_spec {
        account.gid = match groups(group).find(|g| g.0 == spec) {
            Some((_, gid, _)) => gid,
            None => number(spec).ok_or_else(|| {
                let what =
                    format!("there is no group {spec:?} in /etc/group; name one that there is, or a number");
                Error::new(ErrorKind::NotFound, what)
            })?,
        };
        account.groups = vec![account.gid];
    } else {
        let member = |members: &str| members.split(',').any(|m| m == account.name);
        let others = groups(group).filter(|g| g.1 != account.gid && member(g.2));
        account.groups = std::iter::once(account.gid)
            .chain(others.map(|g| g.1))
            .take(GROUPS)
            .collect();
    }
    Ok(account)
}

fn entry(line: &str) -> Option<Entry<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|n| !n.is_empty())?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1)?;
    let shell = fields.next().unwrap_or_default();
    Some(Entry {
        name,
        uid,
        gid,
        home,
        shell,
    })
}

/// Name, number and members of each group.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|n| !n.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\n# no\n:x:1:1::/:\nbad:x:one:1::/:\n\
        ann:x:1000:1000:Ann,,,:/home/ann:/bin/zsh\nbare:x:7:7::";
    const GROUP: &str = "root:x:0:\nsudo:x:27:bob,ann\nann:x:1000:ann\nanna:x:5:anna\nbad:x:-1:ann\n";

    fn ids(spec: &str) -> Option<(u32, u32, Vec<u32>)> {
        let a = find(PASSWD, GROUP, spec).ok()?;
        Some((a.uid, a.gid, a.groups))
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(ids("root"), Some((0, 0, vec![0])));
        assert_eq!(ids("ann"), Some((1000, 1000, vec![1000, 27])));
        assert_eq!(ids("1000"), ids("ann"));
        assert_eq!(ids("1001"), Some((1001, 0, vec![0])));
        assert_eq!(ids("ann:sudo"), Some((1000, 27, vec![27])));
        assert_eq!(ids("12:34"), Some((12, 34, vec![34])));
        for none in [
            "bob",
            "",
            ":",
            "bad",
            "ann:nogroup",
            "4294967295",
            "-1",
            "99999999999",
            "ann:-1",
        ] {
            assert_eq!(ids(none), None, "{none:?}");
        }
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let bare = find(PASSWD, GROUP, "bare").unwrap();
        assert_eq!((&*bare.home, &*bare.shell), ("/", "/bin/sh"));
        let number = find("", "", "5").unwrap();
        assert_eq!((&*number.name, &*number.home), ("5", "/"));
    }
}
