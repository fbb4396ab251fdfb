//! Names to nodes: the merge of the host's tree and the upper layer, without hidden names.
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use fuse_backend_rs::api::filesystem::Entry;
use rustix::fs::{FileType, Stat};

use crate::rules::Class;
use crate::sys::{self, errno};
use crate::tree::{FIRST_ROOT, Id, Layer, Object, Spot, TOP};
use crate::view::View;
use crate::watch::{LINKED, LONG, SHORT};

/// What stands at a name: the object in effect, and the other layer's directory where both have one.
pub struct Found {
    pub path: Vec<u8>,
    pub class: Class,
    /// Of the object in effect.
    pub stat: Stat,
    pub lower: Option<Stat>,
    pub upper: Option<Stat>,
}

impl Found {
    pub fn kind(&self) -> FileType {
        sys::kind(&self.stat)
    }

    /// How long attributes last where names last `names`. A directory's change without an event in its parent, and
    /// those of a file with several names (`shared`) by another name.
    fn attributes_last(&self, names: Duration, shared: bool) -> Duration {
        match self.lower {
            _ if shared => LINKED,
            Some(_) if self.kind().is_dir() => SHORT,
            _ => names,
        }
    }
}

impl View {
    /// Looks `name` up in both layers; hidden names are not there.
    pub fn find(&self, parent: &Spot, name: &[u8]) -> io::Result<Option<Found>> {
        sys::check_name(name)?;
        let path = parent.child_path(name);
        let class = self.child_class(parent, &path);
        if class.hidden {
            return Ok(None);
        }
        let overlay = self.root(parent).overlay.as_ref();
        let upper = match parent.upper {
            Some(_) => sys::stat_at(self.dir(parent.node, Layer::Upper)?, name)?,
            None => None,
        };
        let lower = match parent.lower {
            Some(_) if !overlay.is_some_and(|o| o.hides(&path)) => {
                sys::stat_at(self.dir(parent.node, Layer::Lower)?, name)?
            }
            _ => None,
        };
        Ok(self.merge(parent, path, class, lower, upper))
    }

    fn merge(
        &self,
        parent: &Spot,
        path: Vec<u8>,
        class: Class,
        lower: Option<Stat>,
        upper: Option<Stat>,
    ) -> Option<Found> {
        let is_dir = |stat: &Option<Stat>| stat.as_ref().is_some_and(|s| sys::kind(s).is_dir());
        // Two directories are one; anything else in the upper layer stands instead of the host's.
        let lower = if upper.is_none() || (is_dir(&upper) && is_dir(&lower)) { lower } else { None };
        let changed =
            || self.root(parent).overlay.as_ref().is_some_and(|o| class.review && o.has_base(&path));
        let stat = match (&lower, &upper) {
            (Some(_), Some(upper)) if changed() => *upper,
            (Some(lower), _) => *lower,
            (None, Some(upper)) => *upper,
            (None, None) => return None,
        };
        Some(Found { path, class, stat, lower, upper })
    }

    /// The entry for a found name, with one reference for the kernel. `lasts`: what `names_last` said of the parent
    /// before the name was looked for.
    pub fn entry(&self, parent: u64, name: &[u8], found: &Found, lasts: Duration) -> io::Result<Entry> {
        let object = Object {
            class: found.class,
            kind: found.kind(),
            lower: found.lower.as_ref().map(Id::from),
            upper: found.upper.as_ref().map(Id::from),
            ino: self.shown_ino(&found.stat),
        };
        let (inode, ino, shared) = {
            let mut tree = self.tree.lock().unwrap();
            let (inode, ino) = tree.adopt(parent, name, object).ok_or_else(|| errno(libc::ESTALE))?;
            (inode, ino, tree.is_shared(inode, found.stat.st_nlink > 1))
        };
        Ok(Entry {
            inode,
            generation: 0,
            attr: self.attributes(&found.stat, ino),
            attr_flags: 0,
            attr_timeout: found.attributes_last(lasts, shared),
            entry_timeout: lasts,
        })
    }

    /// "No such name", which the kernel may remember for as long as a name.
    pub fn absent(lasts: Duration) -> Entry {
        Entry { entry_timeout: lasts, ..Entry::default() }
    }

    pub fn look_up(&self, parent: u64, name: &[u8]) -> io::Result<Entry> {
        if parent == TOP {
            return self.look_up_root(name);
        }
        let parent = self.spot(parent)?;
        let lasts = self.names_last(parent.node, parent.lower.is_some());
        match self.find(&parent, name)? {
            Some(found) => self.entry(parent.node, name, &found, lasts),
            None => {
                let path = parent.child_path(name);
                // Recorded whether or not it exists: the time this takes must not tell.
                if self.child_class(&parent, &path).hidden {
                    self.refuse(parent.root, &path, "lookup", "hidden", libc::ENOENT);
                    self.record.alive()?;
                }
                Ok(Self::absent(lasts))
            }
        }
    }

    fn look_up_root(&self, name: &[u8]) -> io::Result<Entry> {
        let index = std::str::from_utf8(name).ok().and_then(|n| n.parse::<usize>().ok());
        let Some(index) = index.filter(|i| *i < self.roots.len() && i.to_string().as_bytes() == name) else {
            return Ok(Self::absent(SHORT));
        };
        let node = FIRST_ROOT + index as u64;
        let spot = self.spot(node)?;
        let stat = self.stat(&spot)?;
        Ok(Entry {
            inode: node,
            attr: self.attributes(&stat, spot.ino),
            attr_timeout: SHORT,
            entry_timeout: LONG,
            ..Entry::default()
        })
    }

    pub fn forget_node(&self, node: u64, count: u64) {
        let gone = self.tree.lock().unwrap().forget(node, count);
        self.let_nodes_go(gone);
    }

    /// After nodes left the tree.
    pub fn let_nodes_go(&self, gone: Vec<(u64, Option<Arc<OwnedFd>>)>) {
        for (node, pinned) in gone {
            self.dirs.drop_node(node);
            self.watch.drop_node(node);
            // The last use of an unlinked file ended.
            if let Some(stat) = pinned.and_then(|fd| sys::stat_fd(fd).ok())
                && stat.st_nlink == 0
                && sys::kind(&stat).is_file()
            {
                self.quota.gone(Id::from(&stat), stat.st_blocks as u64 * 512);
            }
        }
    }
}
