//! Attributes: mode, owner, size, times, extended.
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{SetattrValid, stat64};
use fuse_backend_rs::api::filesystem::Entry;
use rustix::fs::{self, AtFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags};

use crate::overlay::describe;
use crate::record::{Fact, admit_end};
use crate::sys::{self, errno};
use crate::tree::{Layer, Spot, TOP};
use crate::view::View;
use crate::watch::{LINKED, LONG, SHORT};

/// What the kernel lets an extended attribute hold.
const LARGEST_XATTR: usize = 64 << 10;
/// What one takes beside its name and value.
const XATTR_OVERHEAD: u64 = 64;

impl View {
    /// The attributes, and how long the kernel may keep them.
    pub fn attributes_of(&self, node: u64, handle: Option<u64>) -> io::Result<(stat64, Duration)> {
        if node == TOP {
            let mut attr = Entry::default().attr;
            attr.st_ino = TOP;
            attr.st_mode = libc::S_IFDIR | 0o555;
            attr.st_nlink = 1;
            (attr.st_uid, attr.st_gid) = (self.owner.uid, self.owner.gid);
            return Ok((attr, LONG));
        }
        let spot = self.spot(node)?;
        // Before they are looked at: a change after that makes an event.
        let lasts = self.attributes_last(&spot);
        let stat = match handle.and_then(|id| self.handle_of(node, id).ok()) {
            Some(file) => sys::stat_fd(&**file.file.read().unwrap())?,
            None => self.stat(&spot).or_else(|error| self.stat_of_open(node).ok_or(error))?,
        };
        let shared = self.tree.lock().unwrap().is_shared(node, stat.st_nlink > 1);
        let lasts = match stat.st_nlink {
            _ if spot.kind.is_dir() => lasts,
            _ if shared => LINKED,
            0 => SHORT,
            // Its name went, not its last: what is left may change it, or go.
            _ if spot.gone => LINKED,
            _ => lasts,
        };
        Ok((self.attributes(&stat, spot.ino), lasts))
    }

    /// Of a file whose name the host gave to another, while it is open here.
    fn stat_of_open(&self, node: u64) -> Option<fs::Stat> {
        let handles = self.handles.read().unwrap();
        let file = handles.values().find(|file| file.node == node)?.file.read().unwrap().clone();
        sys::stat_fd(&*file).ok()
    }

    fn attributes_last(&self, spot: &Spot) -> Duration {
        match spot.kind.is_dir() {
            _ if spot.gone => SHORT,
            true => self.names_last(spot.node, spot.lower.is_some()),
            // The upper layer changes through this view only.
            false if spot.lower.is_none() => LONG,
            false if spot.parent == TOP => SHORT,
            false => self.names_last(spot.parent, true),
        }
    }

    pub fn change_attributes(
        &self,
        node: u64,
        attr: &stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        if node == TOP {
            return Err(errno(libc::EROFS));
        }
        let mut spot = self.spot(node)?;
        // The agent's own ids are all it can name; anything else is nobody's to give.
        let foreign = (valid.contains(SetattrValid::UID) && attr.st_uid != self.owner.uid)
            || (valid.contains(SetattrValid::GID) && attr.st_gid != self.owner.gid);
        if foreign {
            return Err(errno(libc::EPERM));
        }
        if valid.contains(SetattrValid::SIZE) {
            admit_end(attr.st_size as u64, 0)?;
        }
        self.admit_change(&spot, if valid.contains(SetattrValid::SIZE) { "truncate" } else { "setattr" })?;
        let stat = self.stat(&spot)?;
        self.admit_links(&spot, &stat, !spot.class.review)?;
        if spot.class.review && (spot.upper.is_none() || spot.kind.is_dir()) {
            spot = self.before_change(node, &spot)?;
        }
        let path = self.fact_path(spot.root, &spot.path);
        self.record.ahead(&[Fact::Attributes { path: &path }], || {
            if valid.contains(SetattrValid::SIZE) {
                self.resize(&spot, handle, attr.st_size as u64)?;
            }
            self.set_mode_and_times(&spot, attr, valid)
        })?;
        self.attributes_of(node, None)
    }

    fn set_mode_and_times(&self, spot: &Spot, attr: &stat64, valid: SetattrValid) -> io::Result<()> {
        let object = self.object(spot)?;
        if valid.contains(SetattrValid::MODE) {
            // No set-uid, set-gid: nothing of the session may act as somebody else on the host.
            fs::chmod(sys::proc_path(&object), Mode::from_raw_mode(attr.st_mode & 0o1777))?;
        }
        let touched =
            SetattrValid::ATIME | SetattrValid::MTIME | SetattrValid::ATIME_NOW | SetattrValid::MTIME_NOW;
        if valid.intersects(touched) {
            fs::utimensat(&object, c"", &new_times(attr, valid), AtFlags::EMPTY_PATH)?;
        }
        Ok(())
    }

    /// Copies up; of a directory, notes what the host's was.
    fn before_change(&self, node: u64, spot: &Spot) -> io::Result<Spot> {
        if spot.kind.is_dir()
            && spot.lower.is_some()
            && let Some(overlay) = &self.root(spot).overlay
        {
            let stat = self.stat(spot)?;
            self.upper_dir(node)?;
            match spot.path.is_empty() {
                true => return Err(errno(libc::EACCES)),
                false => overlay
                    .note(&spot.path, describe(self.dir(spot.parent, Layer::Lower)?, &spot.name, &stat)?)?,
            }
        }
        self.copy_up(node)
    }

    fn resize(&self, spot: &Spot, handle: Option<u64>, size: u64) -> io::Result<()> {
        let held = match handle.and_then(|id| self.handle_of(spot.node, id).ok()) {
            Some(file) if file.may_write().is_ok() && !file.revoked.load(Ordering::Acquire) => {
                file.dirty.store(true, Ordering::Release);
                Some(file.file.read().unwrap().clone())
            }
            _ => None,
        };
        match held {
            Some(file) => fs::ftruncate(&*file, size)?,
            None => {
                let file = self.content(spot, OFlags::WRONLY)?;
                let (path, label) = (self.fact_path(spot.root, &spot.path), &self.root(spot).label);
                let fact = Fact::Write { path: &path, size, sha256: None, label };
                self.record.ahead(&[fact], || Ok(fs::ftruncate(&file, size)?))?;
            }
        }
        Ok(())
    }

    pub fn read_link(&self, node: u64) -> io::Result<Vec<u8>> {
        let spot = self.spot(node)?;
        if !spot.kind.is_symlink() {
            return Err(errno(libc::EINVAL));
        }
        let object = self.object(&spot)?;
        Ok(fs::readlinkat(&object, c"", Vec::new())?.into_bytes())
    }

    pub fn get_xattr(&self, node: u64, name: &[u8]) -> io::Result<Vec<u8>> {
        if node == TOP || !name.starts_with(b"user.") {
            return Err(errno(libc::ENODATA));
        }
        let spot = self.spot(node)?;
        let object = self.object(&spot)?;
        let stat = sys::stat_fd(&object)?;
        // It is content like any other.
        self.crew.held_up(|| self.admit_links(&spot, &stat, false))?;
        let mut value = vec![0; LARGEST_XATTR];
        let length = fs::getxattr(sys::proc_path(&object), name, &mut value[..])?;
        value.truncate(length);
        let (path, label) = (self.fact_path(spot.root, &spot.path), &self.root(&spot).label);
        let size = stat.st_size as u64;
        self.record.append(&Fact::Open { path: &path, mode: "read", size, sha256: None, label })?;
        Ok(value)
    }

    pub fn list_xattr(&self, node: u64) -> io::Result<Vec<u8>> {
        if node == TOP {
            return Ok(Vec::new());
        }
        let spot = self.spot(node)?;
        if !spot.kind.is_file() && !spot.kind.is_dir() {
            return Ok(Vec::new());
        }
        let object = self.object(&spot)?;
        let mut names = vec![0; 65536];
        let length = fs::listxattr(sys::proc_path(&object), &mut names[..])?;
        let visible = names[..length].split_inclusive(|b| *b == 0).filter(|n| n.starts_with(b"user."));
        Ok(visible.flatten().copied().collect())
    }

    /// Sets (`Some`) or removes (`None`) an attribute; only `user.*`.
    pub fn change_xattr(&self, node: u64, name: &[u8], value: Option<&[u8]>, flags: u32) -> io::Result<()> {
        if node == TOP {
            return Err(errno(libc::EROFS));
        }
        let mut spot = self.spot(node)?;
        self.admit_change(&spot, "xattr")?;
        if !name.starts_with(b"user.") {
            return Err(self.refuse(spot.root, &spot.path, "xattr", "unsupported", libc::EOPNOTSUPP));
        }
        let stat = self.stat(&spot)?;
        self.admit_links(&spot, &stat, !spot.class.review)?;
        if spot.class.review {
            spot = self.before_change(node, &spot)?;
        }
        let object = self.object(&spot)?;
        let (path, place) = (self.fact_path(spot.root, &spot.path), sys::proc_path(&object));
        let more = value.map_or(0, |value| growth(&place, name, value.len()));
        self.within_quota(spot.root, &spot.path, self.quota.add(more))?;
        self.record.ahead(&[Fact::Attributes { path: &path }], || {
            match value {
                Some(value) => {
                    let flags = XattrFlags::from_bits_truncate(flags);
                    fs::setxattr(&place, name, value, flags).inspect_err(|_| self.quota.drop_bytes(more))?;
                }
                None => fs::removexattr(&place, name)?,
            }
            Ok(())
        })
    }
}

/// What an attribute takes that is set to so many bytes. File systems that keep them apart count them nowhere, so
/// this is never given back: then what is counted is at least what is there, whatever changes beside it.
fn growth(place: &str, name: &[u8], length: usize) -> u64 {
    match fs::getxattr(place, name, &mut vec![0; LARGEST_XATTR][..]) {
        Ok(before) => length.saturating_sub(before) as u64,
        Err(_) => (name.len() + length) as u64 + XATTR_OVERHEAD,
    }
}

fn new_times(attr: &stat64, valid: SetattrValid) -> Timestamps {
    const NOW: i64 = libc::UTIME_NOW;
    const OMIT: i64 = libc::UTIME_OMIT;
    let time = |set, now, sec: i64, nsec: i64| {
        let nsec = if valid.contains(now) {
            NOW
        } else if valid.contains(set) {
            nsec
        } else {
            OMIT
        };
        Timespec { tv_sec: sec, tv_nsec: nsec as _ }
    };
    Timestamps {
        last_access: time(SetattrValid::ATIME, SetattrValid::ATIME_NOW, attr.st_atime, attr.st_atime_nsec),
        last_modification: time(
            SetattrValid::MTIME,
            SetattrValid::MTIME_NOW,
            attr.st_mtime,
            attr.st_mtime_nsec,
        ),
    }
}
