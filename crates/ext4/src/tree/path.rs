//! How paths are found in the tree. Nothing outside of it exists.

use super::{Error, Id, Kind, Metadata, Node, ROOT, Timestamp, Tree};

/// Bytes of a path, and of a name in it (PATH_MAX, NAME_MAX).
const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;
/// Bytes of a symbolic link's target: one less than a block.
pub(super) const MAX_TARGET: usize = 4095;
/// Symbolic links in one path (Linux: MAXSYMLINKS).
const MAX_LINKS: u32 = 40;
/// Names that are looked up for one path.
const MAX_STEPS: u32 = 8192;

/// A name in a directory, whether there is something or not.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) directory: Id,
    pub(super) name: Box<[u8]>,
}

/// The names of a path that was written by others. What is absolute counts from the root; `..` takes a name back,
/// and may not take back more than there are.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>, Error> {
    if path.len() > MAX_PATH || path.contains(&0) {
        return Err(Error::Path(path.into()));
    }
    let mut names = Vec::new();
    for name in path.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop().ok_or_else(|| Error::Climbs(path.into()))?),
            _ if name.len() > MAX_NAME => return Err(Error::Path(path.into())),
            _ => names.push(name),
        }
    }
    Ok(names)
}

/// What a walk does about a directory that is not there.
enum Missing {
    Stop,
    Make(Timestamp),
}

impl Tree {
    /// The node at `path`. Its last name is looked through if `follow`, those before it always.
    pub(super) fn find(&self, path: &[u8], follow: bool) -> Result<Option<Id>, Error> {
        let names = components(path)?;
        let mut walk = Walk::new(path, &names);
        loop {
            match walk.step(self, follow) {
                Ok(Step::Done) => return Ok(Some(walk.here())),
                Ok(Step::Went) => {}
                Ok(Step::Missing(_)) | Err(Error::NotADirectory(_)) => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }

    /// Where `path` is or would be, its parents being made; `None` for the root.
    pub(super) fn place(&mut self, path: &[u8], time: Timestamp) -> Result<Option<Place>, Error> {
        self.walk_to_parent(path, &Missing::Make(time))
    }

    /// Where `path` is; `None` for the root and below what does not exist.
    pub(super) fn existing_place(&mut self, path: &[u8]) -> Result<Option<Place>, Error> {
        match self.walk_to_parent(path, &Missing::Stop) {
            Err(Error::NotADirectory(_)) => Ok(None),
            found => found,
        }
    }

    fn walk_to_parent(&mut self, path: &[u8], missing: &Missing) -> Result<Option<Place>, Error> {
        let mut names = components(path)?;
        let Some(last) = names.pop() else {
            return Ok(None);
        };
        let mut walk = Walk::new(path, &names);
        loop {
            match (walk.step(self, true)?, missing) {
                (Step::Went, _) => {}
                (Step::Done, _) if self.is_directory(walk.here()) => break,
                (Step::Done, _) => return Err(Error::NotADirectory(path.into())),
                (Step::Missing(_), Missing::Stop) => return Ok(None),
                (Step::Missing(name), Missing::Make(time)) => {
                    self.charge(name.len())?;
                    let id = self.nodes.len();
                    self.nodes.push(Some(Node {
                        metadata: Metadata {
                            mtime: *time,
                            ..Metadata::new(0o755)
                        },
                        kind: Kind::directory(),
                        names: 1,
                    }));
                    let directory = walk.here();
                    self.name(Place { directory, name }, id);
                    walk.enter(id);
                }
            }
        }
        Ok(Some(Place {
            directory: walk.here(),
            name: last.into(),
        }))
    }
}

/// A path being followed.
struct Walk<'a> {
    path: &'a [u8],
    /// From the root to where it is.
    trail: Vec<Id>,
    /// The names to go, the next one last.
    ahead: Vec<Box<[u8]>>,
    links: u32,
    steps: u32,
}

enum Step {
    Went,
    /// There is nothing of that name.
    Missing(Box<[u8]>),
    Done,
}

impl<'a> Walk<'a> {
    fn new(path: &'a [u8], names: &[&[u8]]) -> Self {
        Self {
            path,
            trail: vec![ROOT],
            ahead: names.iter().rev().map(|n| Box::from(*n)).collect(),
            links: 0,
            steps: 0,
        }
    }

    fn here(&self) -> Id {
        *self.trail.last().expect("the root stays")
    }

    fn enter(&mut self, id: Id) {
        self.trail.push(id);
    }

    fn step(&mut self, tree: &Tree, follow_last: bool) -> Result<Step, Error> {
        let Some(name) = self.ahead.pop() else {
            return Ok(Step::Done);
        };
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(Error::Loop(self.path.into()));
        }
        match &name[..] {
            b"" | b"." => return Ok(Step::Went),
            // From the root it leads to the root (path_resolution(7)). Only symbolic links still have it.
            b".." => {
                if self.trail.len() > 1 {
                    self.trail.pop();
                }
                return Ok(Step::Went);
            }
            _ => {}
        }
        let Kind::Directory(directory) = &tree.node(self.here()).kind else {
            return Err(Error::NotADirectory(self.path.into()));
        };
        let Some(entry) = directory.entries.get(&name) else {
            return match name.len() > MAX_NAME {
                true => Err(Error::Path(self.path.into())),
                false => Ok(Step::Missing(name)),
            };
        };
        match &tree.node(entry.node).kind {
            Kind::Symlink(target) if follow_last || !self.ahead.is_empty() => {
                self.links += 1;
                if self.links > MAX_LINKS {
                    return Err(Error::Loop(self.path.into()));
                }
                if target.first() == Some(&b'/') {
                    self.trail.truncate(1);
                }
                self.ahead
                    .extend(target.split(|b| *b == b'/').rev().map(Box::from));
            }
            _ => self.enter(entry.node),
        }
        Ok(Step::Went)
    }
}
