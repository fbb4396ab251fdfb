//! Names made.
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use fuse_backend_rs::api::filesystem::Entry;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};

use crate::content::reads;
use crate::handle::FileHandle;
use crate::lookup::Found;
use crate::overlay::kind_name;
use crate::record::Fact;
use crate::rules::Class;
use crate::spec::Access;
use crate::sys::{self, errno};
use crate::tree::{Id, Layer, Spot, TOP};
use crate::view::View;

/// Longest path, relative to its root, under which a name is made: every record must hold it.
const LONGEST_PATH: usize = 32 << 10;

/// A file that was opened by name, perhaps after it was made.
pub struct Created {
    pub entry: Entry,
    pub handle: u64,
    /// Written past the kernel's pages.
    pub direct: bool,
    /// Its close waits for nothing.
    pub intended: bool,
}

/// True when what a new file is opened with goes past the kernel's pages: it is written only, so nothing can map or read
/// it here, one copy is saved, and the kernel does not ask for capabilities first.
pub fn goes_direct(flags: u32) -> bool {
    flags as i32 & libc::O_ACCMODE == libc::O_WRONLY
}

impl View {
    /// A node that names may be made in or taken from.
    pub fn parent(&self, node: u64) -> io::Result<Spot> {
        if node == TOP {
            return Err(errno(libc::EROFS));
        }
        let spot = self.spot(node)?;
        if spot.gone { Err(errno(libc::ENOENT)) } else { Ok(spot) }
    }

    /// Admits a new name. A hidden one gets the same answer whether or not it exists.
    pub fn admit_name(
        &self,
        parent: &Spot,
        name: &[u8],
        kind: FileType,
        op: &'static str,
    ) -> io::Result<Class> {
        sys::check_name(name)?;
        let path = parent.child_path(name);
        if path.len() > LONGEST_PATH {
            return Err(errno(libc::ENAMETOOLONG));
        }
        let root = self.root(parent);
        let class = self.child_class(parent, &path);
        if class.hidden {
            return Err(self.refuse(parent.root, &path, op, "hidden", libc::EACCES));
        }
        if root.access == Access::Read {
            return Err(self.refuse(parent.root, &path, op, "read-only", libc::EROFS));
        }
        if class.protected || root.rules.guards(&path, kind) {
            return Err(self.refuse(parent.root, &path, op, "protected", libc::EACCES));
        }
        Ok(class)
    }

    /// The directory that a new name of this class goes to.
    pub fn place(&self, parent: &Spot, class: Class) -> io::Result<Arc<OwnedFd>> {
        if class.review { self.upper_dir(parent.node) } else { self.dir(parent.node, Layer::Lower) }
    }

    /// Admits a name and one inode more, and gives the directory to make it in and its class.
    fn prepare(
        &self,
        parent: &Spot,
        name: &[u8],
        kind: FileType,
        op: &'static str,
    ) -> io::Result<(Arc<OwnedFd>, Class)> {
        let class = self.admit_name(parent, name, kind, op)?;
        // In a single layer whatever makes the name sees whether it is there.
        let one_layer = !class.review && parent.upper.is_none();
        if !one_layer && self.find(parent, name)?.is_some() {
            return Err(errno(libc::EEXIST));
        }
        self.within_quota(parent.root, &parent.child_path(name), self.quota.add_inode())?;
        Ok((self.place(parent, class)?, class))
    }

    /// Records that `name` is made, then has it made; when that fails, there is no inode more.
    fn make<T>(
        &self,
        parent: &Spot,
        name: &[u8],
        kind: FileType,
        make: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let path = self.fact_path(parent.root, &parent.child_path(name));
        let fact = Fact::Create { path: &path, kind: kind_name(kind) };
        self.record.ahead(&[fact], make).inspect_err(|_| self.quota.drop_inode())
    }

    /// After a name was made: it belongs to the session and has a node.
    fn made(
        &self,
        parent: &Spot,
        name: &[u8],
        class: Class,
        object: impl std::os::fd::AsFd,
    ) -> io::Result<Entry> {
        let stat = self.own(&object)?;
        self.made_entry(parent, name, class, stat)
    }

    /// The entry of a name that was made.
    fn made_entry(&self, parent: &Spot, name: &[u8], class: Class, stat: fs::Stat) -> io::Result<Entry> {
        let path = parent.child_path(name);
        // The parent may have got its upper directory just now.
        let lasts = self.names_last(parent.node, parent.lower.is_some());
        // A name in the upper layer that stands over a directory of the host's is merged with it.
        if class.review && parent.lower.is_some() {
            return self.known(parent.node, name);
        }
        let (lower, upper) = if class.review { (None, Some(stat)) } else { (Some(stat), None) };
        self.entry(parent.node, name, &Found { path, class, stat, lower, upper }, lasts)
    }

    fn known(&self, parent: u64, name: &[u8]) -> io::Result<Entry> {
        let parent = self.spot(parent)?;
        let lasts = self.names_last(parent.node, parent.lower.is_some());
        let found = self.find(&parent, name)?.ok_or_else(|| errno(libc::ENOENT))?;
        self.entry(parent.node, name, &found, lasts)
    }

    /// Makes a file and opens it.
    pub fn create_file(&self, parent: u64, name: &[u8], mode: u32, flags: u32) -> io::Result<Created> {
        let _shape = self.shape.read().unwrap();
        let spot = self.parent(parent)?;
        let child = spot.child_path(name);
        let made = self.prepare(&spot, name, FileType::RegularFile, "create").and_then(|(dir, class)| {
            let new = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
            let (path, label) = (self.fact_path(spot.root, &child), &self.root(&spot).label);
            let facts = [
                Fact::Create { path: &path, kind: kind_name(FileType::RegularFile) },
                Fact::Open { path: &path, mode: "write", size: 0, sha256: None, label },
            ];
            let file = self.record.ahead(&facts, || sys::open(&dir, name, new, mode & 0o1777));
            Ok((file.inspect_err(|_| self.quota.drop_inode())?, class))
        });
        let (file, class) = match made {
            // The host made it since the kernel looked.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) && flags as i32 & libc::O_EXCL == 0 => {
                let entry = self.known(parent, name)?;
                let (handle, _) =
                    self.open_file(entry.inode, flags).inspect_err(|_| self.forget_node(entry.inode, 1))?;
                return Ok(Created { entry, handle, direct: false, intended: false });
            }
            other => other?,
        };
        let file = Arc::new(File::from(file));
        let stat = self.own(&*file)?;
        let entry = self.made_entry(&spot, name, class, stat)?;
        let direct = goes_direct(flags);
        let intended = direct && self.is_intended(spot.root, &child);
        if !direct {
            self.will_intend(spot.root, &child);
        }
        let id = Id::from(&stat);
        self.quota.open_new(id, &file);
        let handle = FileHandle {
            unrecorded: AtomicBool::new(true),
            intended: AtomicBool::new(intended),
            direct,
            reads: reads(flags),
            ..FileHandle::new(entry.inode, file, Some(id))
        };
        let handle = self.add_handle(handle).inspect_err(|_| self.quota.close(id))?;
        Ok(Created { entry, handle, direct, intended })
    }

    pub fn make_dir(&self, parent: u64, name: &[u8], mode: u32) -> io::Result<Entry> {
        let _shape = self.shape.read().unwrap();
        let spot = self.parent(parent)?;
        let (dir, class) = self.prepare(&spot, name, FileType::Directory, "mkdir")?;
        let mode = Mode::from_raw_mode(mode & 0o1777);
        self.make(&spot, name, FileType::Directory, || Ok(fs::mkdirat(&dir, name, mode)?))?;
        self.made(&spot, name, class, sys::open_path(&dir, name)?)
    }

    pub fn make_link(&self, target: &[u8], parent: u64, name: &[u8]) -> io::Result<Entry> {
        let _shape = self.shape.read().unwrap();
        let spot = self.parent(parent)?;
        let (dir, class) = self.prepare(&spot, name, FileType::Symlink, "symlink")?;
        // The target is text to this process: only the agent's own kernel view ever follows it.
        self.make(&spot, name, FileType::Symlink, || Ok(fs::symlinkat(target, &dir, name)?))?;
        self.made(&spot, name, class, sys::open_path(&dir, name)?)
    }

    /// Regular files, FIFOs and sockets. Device nodes have no place in a view.
    pub fn make_node(&self, parent: u64, name: &[u8], mode: u32) -> io::Result<Entry> {
        let _shape = self.shape.read().unwrap();
        let spot = self.parent(parent)?;
        let kind = FileType::from_raw_mode(mode);
        if !matches!(kind, FileType::RegularFile | FileType::Fifo | FileType::Socket) {
            return Err(self.refuse(spot.root, &spot.child_path(name), "mknod", "unsupported", libc::EPERM));
        }
        let (dir, class) = self.prepare(&spot, name, kind, "mknod")?;
        let mode = Mode::from_raw_mode(mode & 0o1777);
        self.make(&spot, name, kind, || Ok(fs::mknodat(&dir, name, kind, mode, 0)?))?;
        self.made(&spot, name, class, sys::open_path(&dir, name)?)
    }

    pub fn hard_link(&self, node: u64, parent: u64, name: &[u8]) -> io::Result<Entry> {
        // Alone: a removal beside it would take the file's only name for its last.
        let shape = self.shape.write().unwrap();
        let to = self.parent(parent)?;
        let from = self.spot(node)?;
        let class = self.admit_name(&to, name, from.kind, "link")?;
        if from.root != to.root {
            return Err(errno(libc::EXDEV));
        }
        self.admit_change(&from, "link")?;
        if from.class.review != class.review {
            return Err(self.refuse(from.root, &from.path, "link", "hard-link", libc::EXDEV));
        }
        use FileType::{Fifo, RegularFile, Socket, Symlink};
        if !matches!(from.kind, RegularFile | Symlink | Fifo | Socket) {
            return Err(errno(libc::EPERM));
        }
        if self.find(&to, name)?.is_some() {
            return Err(errno(libc::EEXIST));
        }
        let from = if class.review { self.copy_up(node)? } else { from };
        let stat = self.stat(&from)?;
        self.admit_links(&from, &stat, true)?;
        let dir = self.place(&to, class)?;
        let object = self.object(&from)?;
        let path = to.child_path(name);
        let (fact_path, kind) = (self.fact_path(to.root, &path), kind_name(from.kind));
        self.record.ahead(&[Fact::Create { path: &fact_path, kind }], || {
            Ok(fs::linkat(fs::CWD, sys::proc_path(&object), &dir, name, AtFlags::SYMLINK_FOLLOW)?)
        })?;
        self.links.note(to.root, Id::from(&stat), [&from.path, &path]);
        // Its names are inodes of their own to the kernel: what is changed by one must not stay cached for another.
        // Without a lock: the kernel may wait for an answer that needs one.
        let others = {
            let mut tree = self.tree.lock().unwrap();
            let others = tree.nodes_of(Id::from(&stat));
            for other in &others {
                tree.is_shared(*other, true);
            }
            others
        };
        let entry = self.known(parent, name);
        drop(shape);
        for other in others {
            self.kernel(|kernel| kernel.forget_attributes(other, false));
        }
        entry
    }
}
