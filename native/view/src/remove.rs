//! Names removed.
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{self, AtFlags};

use crate::lookup::Found;
use crate::overlay::describe;
use crate::record::Fact;
use crate::spec::Access;
use crate::sys::{self, errno};
use crate::tree::{Id, Layer, Spot};
use crate::view::View;

impl View {
    /// A link or file where protected names would have their directory: what it points to takes its part, so it stays.
    pub fn leads_elsewhere(&self, parent: &Spot, found: &Found) -> bool {
        !found.kind().is_dir() && self.root(parent).rules.guards(&found.path, found.kind())
    }

    /// Admits the removal of an existing name.
    fn admit_removal(&self, parent: &Spot, name: &[u8], op: &'static str) -> io::Result<Found> {
        let path = parent.child_path(name);
        let root = self.root(parent);
        let found = self.find(parent, name)?.ok_or_else(|| errno(libc::ENOENT))?;
        if root.access == Access::Read {
            return Err(self.refuse(parent.root, &path, op, "read-only", libc::EROFS));
        }
        if found.class.pinned {
            return Err(errno(libc::EBUSY));
        }
        if found.class.protected || self.leads_elsewhere(parent, &found) {
            return Err(self.refuse(parent.root, &path, op, "protected", libc::EACCES));
        }
        Ok(found)
    }

    pub fn remove_file(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        let _shape = self.shape.read().unwrap();
        let spot = self.parent(parent)?;
        let found = self.admit_removal(&spot, name, "unlink")?;
        if found.kind().is_dir() {
            return Err(errno(libc::EISDIR));
        }
        let pin = self.keep_in_use(&spot, name, &found);
        let path = self.fact_path(spot.root, &found.path);
        self.record
            .ahead(&[Fact::Delete { path: &path }], || self.remove(&spot, name, &found, AtFlags::empty()))?;
        self.removed(parent, name, &found, pin);
        Ok(())
    }

    pub fn remove_dir(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        let _shape = self.shape.write().unwrap();
        let spot = self.parent(parent)?;
        let found = self.admit_removal(&spot, name, "rmdir")?;
        if !found.kind().is_dir() {
            return Err(errno(libc::ENOTDIR));
        }
        self.must_be_empty(&spot, name, &found)?;
        let pin = self.keep_in_use(&spot, name, &found);
        let path = self.fact_path(spot.root, &found.path);
        self.record.ahead(&[Fact::Delete { path: &path }], || {
            self.remove(&spot, name, &found, AtFlags::REMOVEDIR)
        })?;
        self.removed(parent, name, &found, pin);
        Ok(())
    }

    /// Hidden names count: a directory that holds only them is not empty, and not to be looked through by removing it.
    fn must_be_empty(&self, parent: &Spot, name: &[u8], found: &Found) -> io::Result<()> {
        // What really goes may be unreadable: then whoever takes it away looks.
        let read = |layer, goes: bool| match sys::list(sys::open_dir(self.dir(parent.node, layer)?, name)?) {
            Err(error) if goes && error.raw_os_error() == Some(libc::EACCES) => Ok(Vec::new()),
            other => other,
        };
        if found.upper.is_some() && !read(Layer::Upper, true)?.is_empty() {
            return Err(errno(libc::ENOTEMPTY));
        }
        if found.lower.is_some() {
            let overlay = self.root(parent).overlay.as_ref();
            let names = read(Layer::Lower, !found.class.review)?;
            let stays = |child: &[u8]| {
                let path = [&found.path[..], b"/", child].concat();
                !overlay.is_some_and(|o| o.hides(&path))
            };
            if names.iter().any(|(child, _, _)| stays(child)) {
                return Err(errno(libc::ENOTEMPTY));
            }
        }
        Ok(())
    }

    /// Takes the name out of the layers: from the upper one really, from the host's tree by a mark when under review.
    pub fn remove(&self, parent: &Spot, name: &[u8], found: &Found, flags: AtFlags) -> io::Result<()> {
        if found.class.review {
            if let Some(overlay) = &self.root(parent).overlay
                && parent.lower.is_some()
                && !overlay.hides(&found.path)
            {
                let lower = self.dir(parent.node, Layer::Lower)?;
                if let Some(stat) = sys::stat_at(&lower, name)? {
                    overlay.hide(&found.path, describe(&lower, name, &stat)?)?;
                }
            }
            if found.upper.is_some() {
                fs::unlinkat(self.dir(parent.node, Layer::Upper)?, name, flags)?;
            }
            return Ok(());
        }
        if found.lower.is_some() {
            fs::unlinkat(self.dir(parent.node, Layer::Lower)?, name, flags)?;
        }
        if found.upper.is_some() {
            fs::unlinkat(self.dir(parent.node, Layer::Upper)?, name, flags)?;
        }
        Ok(())
    }

    /// A descriptor for an object that loses its name while the kernel still uses it.
    pub fn keep_in_use(&self, parent: &Spot, name: &[u8], found: &Found) -> Option<Arc<OwnedFd>> {
        self.tree.lock().unwrap().child(parent.node, name)?;
        let layer = if found.upper.is_some() { Layer::Upper } else { Layer::Lower };
        let fd = sys::open_path(self.dir(parent.node, layer).ok()?, name).ok()?;
        (Id::from(&sys::stat_fd(&fd).ok()?) == Id::from(&found.stat)).then(|| Arc::new(fd))
    }

    pub fn removed(&self, parent: u64, name: &[u8], found: &Found, pin: Option<Arc<OwnedFd>>) {
        if (found.upper.is_some() || !found.class.review)
            && (found.kind().is_dir() || found.stat.st_nlink < 2)
        {
            self.quota.drop_inode();
        }
        let mut tree = self.tree.lock().unwrap();
        if let Some(node) = tree.child(parent, name) {
            tree.is_shared(node, found.stat.st_nlink > 1);
            if let Some(fd) = pin {
                tree.pin(node, fd, !found.kind().is_dir() && found.stat.st_nlink < 2);
            }
            tree.detach(node);
            drop(tree);
            if found.kind().is_dir() {
                self.dirs.drop_node(node);
            }
        }
    }
}
