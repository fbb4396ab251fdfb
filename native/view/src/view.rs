//! The view: its parts, and how a node becomes something on the host.
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use ambit_shared::journal::Journal;
use fuse_backend_rs::abi::fuse_abi::stat64;
use fuse_backend_rs::api::filesystem::Entry;
use rustix::fs::{self, OFlags, Stat};

use crate::crew::Crew;
use crate::dirs::Dirs;
use crate::handle::FileHandle;
use crate::hash::Hasher;
use crate::intent::Intents;
use crate::listing::Listings;
use crate::quota::{OverQuota, Quota};
use crate::record::{Recorder, path_text};
use crate::root::Root;
use crate::rules::{Class, beneath};
use crate::spec::{Owner, ViewSpec};
use crate::stale::Stale;
use crate::sys::{self, errno};
use crate::tree::{FIRST_ROOT, Id, Layer, Object, Spot, TOP, Tree};
use crate::watch::Watch;

/// Bytes of a refused path that go on record: a refusal costs the agent nothing, so its record must stay small.
const REFUSED_PATH: usize = 2 << 10;

/// What unmapped owners look like.
const NOBODY: u32 = 65534;

pub struct View {
    pub roots: Vec<Root>,
    pub owner: Owner,
    pub tree: Mutex<Tree>,
    pub dirs: Dirs,
    pub handles: RwLock<HashMap<u64, Arc<FileHandle>>>,
    pub next_handle: AtomicU64,
    pub record: Arc<Recorder>,
    pub hasher: Arc<Hasher>,
    pub quota: Quota,
    devices: Mutex<Vec<u64>>,
    /// Held for writing while a directory moves, so that nobody creates beneath it meanwhile what the move's check
    /// did not see.
    pub shape: RwLock<()>,
    /// Held for writing while a name moves; taken after `shape`.
    pub renaming: RwLock<()>,
    pub links: crate::links::Links,
    pub crew: Crew,
    pub intents: Intents,
    pub watch: Watch,
    pub stale: Stale,
    pub listings: Listings,
    /// The kernel is too old to open directories by itself.
    pub opens_dirs: AtomicBool,
    /// True when new files must be given to `owner`.
    pub acts_for_owner: bool,
}

impl View {
    pub fn open(
        spec: &ViewSpec,
        journal: Journal,
        hasher: Arc<Hasher>,
        descriptors: usize,
    ) -> Result<Self, String> {
        let roots = spec.roots.iter().map(Root::open).collect::<Result<Vec<_>, _>>()?;
        for root in &roots {
            let around = roots.iter().filter_map(|outer| beneath(&root.path, &outer.path));
            root.rules.place(&around.collect::<Vec<_>>());
        }
        let view = View {
            roots,
            owner: spec.owner,
            tree: Mutex::default(),
            dirs: Dirs::new(descriptors / 4),
            handles: RwLock::default(),
            next_handle: AtomicU64::new(1),
            record: Arc::new(Recorder::new(journal)),
            hasher,
            quota: Quota::new(spec.quota.bytes, spec.quota.inodes),
            devices: Mutex::default(),
            shape: RwLock::new(()),
            renaming: RwLock::new(()),
            links: crate::links::Links::default(),
            crew: Crew::default(),
            intents: Intents::default(),
            watch: Watch::new(),
            stale: Stale::default(),
            listings: Listings::default(),
            opens_dirs: AtomicBool::new(false),
            acts_for_owner: rustix::process::geteuid().is_root(),
        };
        for index in 0..view.roots.len() {
            view.plant(index).map_err(|e| format!("root {index}: {e}"))?;
        }
        Ok(view)
    }

    fn plant(&self, index: usize) -> io::Result<()> {
        let root = &self.roots[index];
        let stat = sys::stat_fd(&root.fd)?;
        let upper = match &root.overlay {
            Some(overlay) if sys::kind(&stat).is_dir() => Some(Id::from(&sys::stat_fd(&overlay.files)?)),
            _ => None,
        };
        let object = Object {
            class: root.rules.top(),
            kind: sys::kind(&stat),
            lower: Some((&stat).into()),
            upper,
            ino: self.shown_ino(&stat),
        };
        let node = FIRST_ROOT + index as u64;
        self.tree.lock().unwrap().plant(index, object, root.fd.clone());
        self.plant_dirs(node, root);
        Ok(())
    }

    fn plant_dirs(&self, node: u64, root: &Root) {
        self.dirs.put(node, Layer::Lower, root.fd.clone());
        if let Some(overlay) = &root.overlay {
            self.dirs.put(node, Layer::Upper, overlay.files.clone());
        }
    }

    pub fn spot(&self, node: u64) -> io::Result<Spot> {
        let spot = self.spot_of_any(node)?;
        // Hidden since the kernel learned of it: it looks the name up again, and there is none.
        if spot.class.hidden { Err(errno(libc::ESTALE)) } else { Ok(spot) }
    }

    /// The same for a node that became hidden in mid-session; for the record only.
    pub fn spot_of_any(&self, node: u64) -> io::Result<Spot> {
        self.record.alive()?;
        self.tree.lock().unwrap().spot(node).ok_or_else(|| errno(libc::ESTALE))
    }

    pub fn root(&self, spot: &Spot) -> &Root {
        &self.roots[spot.root]
    }

    /// The directory `node` in one layer.
    pub fn dir(&self, node: u64, layer: Layer) -> io::Result<Arc<OwnedFd>> {
        let asked = self.dirs.times_cleared();
        if let Some(fd) = self.dirs.get(node, layer) {
            return match layer == Layer::Upper || self.is_in_place(node)? {
                true => Ok(fd),
                false => Err(errno(libc::ESTALE)),
            };
        }
        let spot = self.spot(node)?;
        if spot.parent == TOP {
            self.plant_dirs(node, self.root(&spot));
            return match layer {
                Layer::Lower => Ok(self.root(&spot).fd.clone()),
                Layer::Upper => {
                    self.root(&spot).overlay.as_ref().map(|o| o.files.clone()).ok_or(errno(libc::ESTALE))
                }
            };
        }
        let want = match layer {
            Layer::Lower => spot.lower,
            Layer::Upper => spot.upper,
        };
        if want.is_none() {
            return Err(errno(libc::ENOENT));
        }
        let fd = match (&spot.pinned, spot.gone) {
            (Some(fd), true) => fd.clone(),
            (None, true) => return Err(errno(libc::ESTALE)),
            _ => Arc::new(sys::open_dir(self.dir(spot.parent, layer)?, &spot.name).map_err(moved)?),
        };
        if Some(Id::from(&sys::stat_fd(&fd)?)) != want {
            return Err(errno(libc::ESTALE));
        }
        self.dirs.put_unless_cleared(node, layer, fd.clone(), asked);
        Ok(fd)
    }

    /// False for a held directory that is not at its name any more. A watch tells when that happens; where one is
    /// missing it is looked at each time.
    fn is_in_place(&self, node: u64) -> io::Result<bool> {
        if !self.watch.has_gaps() {
            return Ok(true);
        }
        let spot = self.spot(node)?;
        if spot.parent == TOP || spot.gone {
            return Ok(true);
        }
        let above = self.dir(spot.parent, Layer::Lower)?;
        let there = || sys::stat_at(&above, &spot.name).map(|there| there.as_ref().map(Id::from));
        Ok(self.watch.covers(spot.parent) || there()? == spot.lower)
    }

    /// O_PATH descriptor of the object in effect.
    pub fn object(&self, spot: &Spot) -> io::Result<Arc<OwnedFd>> {
        if let Some(fd) = &spot.pinned
            && (spot.gone || !spot.kind.is_dir())
        {
            return Ok(fd.clone());
        }
        if spot.kind.is_dir() {
            return self.dir(spot.node, self.dir_layer(spot));
        }
        let fd = sys::open_path(self.dir(spot.parent, spot.layer())?, &spot.name).map_err(moved)?;
        if Some(Id::from(&sys::stat_fd(&fd)?)) != spot.id() {
            return Err(errno(libc::ESTALE));
        }
        Ok(Arc::new(fd))
    }

    /// Opens a regular file's content.
    pub fn content(&self, spot: &Spot, flags: OFlags) -> io::Result<File> {
        if !spot.kind.is_file() {
            return Err(errno(libc::EINVAL));
        }
        let fd = match &spot.pinned {
            Some(fd) => sys::reopen(fd, flags)?,
            None if spot.gone => return Err(errno(libc::ESTALE)),
            None => sys::open(self.dir(spot.parent, spot.layer())?, &spot.name, flags, 0).map_err(moved)?,
        };
        let stat = sys::stat_fd(&fd)?;
        if Some(Id::from(&stat)) != spot.id() || !sys::kind(&stat).is_file() {
            return Err(errno(libc::ESTALE));
        }
        Ok(File::from(fd))
    }

    /// Whose attributes a directory shows: the host's, until the agent changed them under review.
    pub fn dir_layer(&self, spot: &Spot) -> Layer {
        match (spot.lower, spot.upper) {
            (None, _) => Layer::Upper,
            (Some(_), None) => Layer::Lower,
            _ if spot.class.review
                && self.root(spot).overlay.as_ref().is_some_and(|o| o.has_base(&spot.path)) =>
            {
                Layer::Upper
            }
            _ => Layer::Lower,
        }
    }

    pub fn stat(&self, spot: &Spot) -> io::Result<Stat> {
        if let Some(fd) = &spot.pinned {
            return sys::stat_fd(fd);
        }
        if spot.gone {
            return Err(errno(libc::ESTALE));
        }
        let (layer, want) = match spot.kind.is_dir() {
            true => match self.dir_layer(spot) {
                Layer::Lower => (Layer::Lower, spot.lower),
                Layer::Upper => (Layer::Upper, spot.upper),
            },
            false => (spot.layer(), spot.id()),
        };
        let stat =
            sys::stat_at(self.dir(spot.parent, layer)?, &spot.name)?.ok_or_else(|| errno(libc::ESTALE))?;
        if Some(Id::from(&stat)) != want {
            return Err(errno(libc::ESTALE));
        }
        Ok(stat)
    }

    /// A number that is unique over the devices beneath the roots: the host's own on the first device.
    pub fn shown_ino(&self, stat: &Stat) -> u64 {
        let mut devices = self.devices.lock().unwrap();
        let at = devices.iter().position(|dev| *dev == stat.st_dev).unwrap_or_else(|| {
            devices.push(stat.st_dev);
            devices.len() - 1
        });
        stat.st_ino ^ ((at as u64) << 48)
    }

    /// Attributes as the agent sees them: its own uid and gid where the host has the session's, nobody's elsewhere.
    pub fn attributes(&self, stat: &Stat, ino: u64) -> stat64 {
        let mut attr = Entry::default().attr;
        attr.st_ino = ino;
        attr.st_mode = stat.st_mode;
        attr.st_nlink = stat.st_nlink as _;
        attr.st_uid = if stat.st_uid == self.owner.host_uid { self.owner.uid } else { NOBODY };
        attr.st_gid = if stat.st_gid == self.owner.host_gid { self.owner.gid } else { NOBODY };
        attr.st_rdev = stat.st_rdev;
        attr.st_size = stat.st_size;
        attr.st_blksize = stat.st_blksize as _;
        attr.st_blocks = stat.st_blocks;
        attr.st_atime = stat.st_atime;
        attr.st_atime_nsec = stat.st_atime_nsec as _;
        attr.st_mtime = stat.st_mtime;
        attr.st_mtime_nsec = stat.st_mtime_nsec as _;
        attr.st_ctime = stat.st_ctime;
        attr.st_ctime_nsec = stat.st_ctime_nsec as _;
        if sys::kind(stat).is_dir() {
            // Both would count hidden names. One link means "not counted" to find(1) and its like.
            attr.st_nlink = 1;
            (attr.st_size, attr.st_blocks) = (4096, 8);
        }
        attr
    }

    /// The path on the host, as facts carry it.
    pub fn fact_path(&self, root: usize, path: &[u8]) -> String {
        self.path_up_to(root, path, 64 << 10)
    }

    /// A path may grow past what a journal record holds; its beginning names it well enough.
    fn path_up_to(&self, root: usize, path: &[u8], most: usize) -> String {
        let mut full = self.roots[root].path.as_os_str().as_bytes().to_vec();
        if !path.is_empty() {
            if full.last() != Some(&b'/') {
                full.push(b'/');
            }
            full.extend_from_slice(path);
        }
        full.truncate(most);
        path_text(&full)
    }

    /// Records a refusal and gives the error for it.
    pub fn refuse(
        &self,
        root: usize,
        path: &[u8],
        op: &'static str,
        reason: &'static str,
        error: i32,
    ) -> io::Error {
        match self.record.denied(
            &self.path_up_to(root, path, REFUSED_PATH),
            op,
            reason,
            &self.roots[root].rule,
        ) {
            Ok(()) => errno(error),
            Err(dead) => dead,
        }
    }

    pub fn within_quota(&self, root: usize, path: &[u8], result: Result<(), OverQuota>) -> io::Result<()> {
        match result {
            Ok(()) => Ok(()),
            Err(over) if over.first => Err(self.refuse(root, path, "write", "quota", libc::EDQUOT)),
            Err(over) => Err(over.into()),
        }
    }

    /// Gives a new object to the session's owner when root acts for it; what it is then.
    pub fn own(&self, fd: impl AsFd) -> io::Result<Stat> {
        let stat = sys::stat_fd(&fd)?;
        let theirs = (stat.st_uid, stat.st_gid) == (self.owner.host_uid, self.owner.host_gid);
        if !self.acts_for_owner || theirs {
            return Ok(stat);
        }
        let uid = rustix::fs::Uid::from_raw(self.owner.host_uid);
        let gid = rustix::fs::Gid::from_raw(self.owner.host_gid);
        fs::chownat(&fd, c"", Some(uid), Some(gid), fs::AtFlags::EMPTY_PATH)?;
        sys::stat_fd(fd)
    }

    /// The class of `name` in `parent`.
    pub fn child_class(&self, parent: &Spot, path: &[u8]) -> Class {
        self.root(parent).rules.child(parent.class, path)
    }
}

/// A known object that is not at its name any more has moved: the kernel looks the name up again.
fn moved(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(libc::ENOENT) { errno(libc::ESTALE) } else { error }
}
