//! Who a container's program runs as.

use donjon_ext4::Tree;

/// Numbers that a user's name stands for in an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The user's.
    pub uid: u32,
    /// The group's.
    pub gid: u32,
    /// Further groups: those that /etc/group has the user in, if no group was asked for.
    pub groups: Vec<u32>,
    /// The home directory, if /etc/passwd has the user.
    pub home: Option<String>,
}

/// Why a name stands for nobody.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// The image has no such user.
    #[error("the image has no user {0:?} in its /etc/passwd; give a number, or another name")]
    NoUser(String),
    /// The image has no such group.
    #[error("the image has no group {0:?} in its /etc/group; give a number, or another name")]
    NoGroup(String),
    /// The files cannot be read.
    #[error("cannot read the image's {file}: {source}")]
    Read {
        /// Which.
        file: &'static str,
        /// Why.
        source: donjon_ext4::Error,
    },
}

/// Bytes of /etc/passwd and /etc/group that are looked at.
const MAX_FILE: u64 = 4 << 20;
const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Finds who `user[:group]` is in an image, names or numbers, as runc does; empty is root. A number need not be in the
/// files (passwd(5), group(5)).
pub fn user(tree: &Tree, user: &str) -> Result<User, UserError> {
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|g| !g.is_empty())),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let (passwd, groups) = (lines(tree, PASSWD)?, lines(tree, GROUP)?);
    let number = name.parse::<u32>().ok();
    let entry = passwd.iter().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let uid: u32 = fields.get(2)?.parse().ok()?;
        let gid: u32 = fields.get(3)?.parse().ok()?;
        let home = fields.get(5).map(|h| (*h).to_owned());
        (fields[0] == name || number == Some(uid)).then(|| (fields[0].to_owned(), uid, gid, home))
    });
    let (login, mut found) = match (entry, number) {
        (Some((login, uid, gid, home)), _) => {
            let groups = Vec::new();
            (
                Some(login),
                User {
                    uid,
                    gid,
                    groups,
                    home,
                },
            )
        }
        (None, Some(uid)) => (
            None,
            User {
                uid,
                ..User::default()
            },
        ),
        (None, None) => return Err(UserError::NoUser(name.to_owned())),
    };
    let entries = groups.iter().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let gid: u32 = fields.get(2)?.parse().ok()?;
        Some((fields[0], gid, fields.get(3).copied().unwrap_or_default()))
    });
    match (group, login) {
        (Some(group), _) => {
            let number = group.parse::<u32>().ok();
            let entry = entries
                .clone()
                .find(|(name, gid, _)| *name == group || number == Some(*gid));
            let gid = entry.map(|(_, gid, _)| gid).or(number);
            found.gid = gid.ok_or_else(|| UserError::NoGroup(group.to_owned()))?;
        }
        (None, Some(login)) => {
            let of_user = entries.filter(|(_, _, members)| members.split(',').any(|m| m == login));
            found.groups = of_user.map(|(_, gid, _)| gid).collect();
            found.groups.sort_unstable();
            found.groups.dedup();
        }
        (None, None) => {}
    }
    Ok(found)
}

/// The lines of a file; of one that is not there, none.
fn lines(tree: &Tree, file: &'static str) -> Result<Vec<String>, UserError> {
    let bytes = tree
        .read(file, MAX_FILE)
        .map_err(|source| UserError::Read { file, source })?;
    let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
    Ok(text.lines().map(str::to_owned).collect())
}
