//! Opening, reading, writing and closing files; copy-up.
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};

use crate::handle::FileHandle;
use crate::hash::{Version, digest};
use crate::intent::LAG;
use crate::overlay::{describe, times};
use crate::record::Fact;
use crate::spec::Access;
use crate::sys::{self, errno};
use crate::tree::{Id, Layer, Spot, TOP};
use crate::view::View;

/// Files up to this size are hashed at once when they are closed; larger ones later.
const HASHED_AT_CLOSE: u64 = 64 << 10;

/// True when a file opened with these flags may change.
pub fn changes(flags: u32) -> bool {
    flags as i32 & libc::O_ACCMODE != libc::O_RDONLY || flags as i32 & libc::O_TRUNC != 0
}

/// True when the content can be read through a file opened with these flags.
pub fn reads(flags: u32) -> bool {
    flags as i32 & libc::O_ACCMODE != libc::O_WRONLY
}

/// What a copy may take: holes become blocks.
fn copied_size(stat: &fs::Stat) -> u64 {
    (stat.st_blocks as u64 * 512).max(stat.st_size as u64)
}

impl View {
    /// Admits a change of the object at `spot`.
    pub fn admit_change(&self, spot: &Spot, op: &'static str) -> io::Result<()> {
        if self.root(spot).access == Access::Read {
            return Err(self.refuse(spot.root, &spot.path, op, "read-only", libc::EROFS));
        }
        let elsewhere = !spot.kind.is_dir() && self.root(spot).rules.guards(&spot.path, spot.kind);
        if spot.class.protected || elsewhere {
            return Err(self.refuse(spot.root, &spot.path, op, "protected", libc::EACCES));
        }
        Ok(())
    }

    /// True when changes of `spot` belong in the upper layer and it is not there yet.
    fn below_review(&self, spot: &Spot) -> bool {
        spot.class.review && spot.upper.is_none()
    }

    /// Opens a file. The flag says that its content is what it was at the last open: the kernel may keep its pages.
    pub fn open_file(&self, node: u64, flags: u32) -> io::Result<(u64, bool)> {
        let mut spot = self.spot(node)?;
        let writes = changes(flags);
        let stat = self.stat(&spot)?;
        if !sys::kind(&stat).is_file() {
            return Err(errno(libc::ENXIO));
        }
        if writes {
            self.admit_change(&spot, "open")?;
        }
        // It may search the whole root.
        if stat.st_nlink > 1 || spot.gone {
            self.crew.held_up(|| self.admit_links(&spot, &stat, writes && !spot.class.review))?;
        }
        if writes && self.below_review(&spot) {
            spot = self.crew.held_up(|| self.copy_up(node))?;
        }
        let file = if writes { self.writable(&spot)? } else { self.content(&spot, OFlags::RDONLY)? };
        let path = self.fact_path(spot.root, &spot.path);
        let label = &self.root(&spot).label;
        let stat = sys::stat_fd(&file)?;
        let file = Arc::new(file);
        let (id, size) = (Id::from(&stat), stat.st_size as u64);
        self.record.stats.opens.fetch_add(1, Ordering::Relaxed);
        let mut unchanged = false;
        if reads(flags) && flags as i32 & libc::O_TRUNC == 0 {
            let version = Version::from(&stat);
            let sha256 = self.hasher.known(version);
            self.record.append(&Fact::Open {
                path: &path,
                mode: "read",
                size,
                sha256: sha256.as_deref(),
                label,
            })?;
            if sha256.is_none() {
                self.hash_later(&file, &path, version);
            }
            let young = version.unsettled();
            let settled = young.is_zero().then_some(version);
            unchanged = self.tree.lock().unwrap().seen(node, settled);
            if settled.is_none() {
                self.stale.opened_young(node, version, young);
            }
        }
        if writes {
            self.record.append(&Fact::Open { path: &path, mode: "write", size, sha256: None, label })?;
            self.will_intend(spot.root, &spot.path);
            self.quota.open(id, &file);
            // An empty file, too: it is a change of its time.
            if flags as i32 & libc::O_TRUNC != 0 {
                fs::ftruncate(&file, 0).inspect_err(|_| self.quota.close(id))?;
            }
        }
        let unrecorded = AtomicBool::new(writes && flags as i32 & libc::O_TRUNC != 0);
        let dirty = AtomicBool::new(false);
        let counted = writes.then_some(id);
        let handle =
            FileHandle { dirty, unrecorded, reads: reads(flags), ..FileHandle::new(node, file, counted) };
        let handle = self.add_handle(handle).inspect_err(|_| {
            if writes {
                self.quota.close(id)
            }
        })?;
        Ok((handle, unchanged && !writes))
    }

    /// Opens for reading and writing where the host allows both: the digest at close needs to read.
    fn writable(&self, spot: &Spot) -> io::Result<File> {
        let file = match self.content(spot, OFlags::RDWR) {
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => self
                .content(spot, OFlags::WRONLY)
                .or_else(|error| self.just_made(spot.node).ok_or(error)?)?,
            other => other?,
        };
        let stat = sys::stat_fd(&file)?;
        // Root's writes would leave these bits on what the agent now controls.
        if stat.st_mode & 0o6000 != 0 {
            fs::fchmod(&file, Mode::from_raw_mode(stat.st_mode & 0o1777))?;
        }
        Ok(file)
    }

    /// Who makes a file may write it whatever its mode says (git's objects are 0444). gVisor's Gofer makes it with one
    /// call and opens it with the next, so the handle of the first counts as long as nothing went on record by it.
    fn just_made(&self, node: u64) -> Option<io::Result<File>> {
        let handles = self.handles.read().unwrap();
        let made = handles.values().find(|handle| {
            let is = |flag: &AtomicBool| flag.load(Ordering::Acquire);
            handle.node == node
                && handle.writes
                && is(&handle.unrecorded)
                && !is(&handle.kept)
                && !is(&handle.revoked)
        })?;
        Some(made.file.read().unwrap().try_clone())
    }

    /// Writes are over for now: what was written goes on record before close returns.
    pub fn flush_file(&self, handle: &FileHandle) -> io::Result<()> {
        if !handle.writes || !handle.dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        handle.unrecorded.store(false, Ordering::Release);
        // The intent was appended when the file was opened; it is durable before close returns.
        let spot = self.spot_of_any(handle.node);
        match &spot {
            // It may have been held open for long after its burst.
            Ok(_) if handle.intended.swap(false, Ordering::AcqRel) => self.record.sync_within(LAG),
            Ok(spot) => self.intend(spot)?,
            Err(_) => self.crew.held_up(|| self.record.sync())?,
        }
        let file = handle.file.read().unwrap().clone();
        let stat = sys::stat_fd(&*file)?;
        let version = Version::from(&stat);
        let size = stat.st_size as u64;
        let sha256 = if size <= HASHED_AT_CLOSE { digest(&file, size).ok() } else { None };
        let Ok(spot) = spot else { return Ok(()) };
        let path = self.fact_path(spot.root, &spot.path);
        let label = &self.root(&spot).label;
        self.record.append(&Fact::Write { path: &path, size, sha256: sha256.as_deref(), label })?;
        // Not remembered: the next change may bear the same time.
        if sha256.is_none() {
            self.hash_later(&file, &path, version);
        }
        Ok(())
    }

    pub fn release_file(&self, node: u64, id: u64) -> io::Result<()> {
        self.handle_of(node, id)?;
        let handle = self.handles.write().unwrap().remove(&id);
        let Some(handle) = handle else { return Ok(()) };
        self.stale.closed(&handle);
        // Made or emptied, and nothing written: that is its content.
        handle.dirty.fetch_or(handle.unrecorded.load(Ordering::Acquire), Ordering::AcqRel);
        let flushed = self.flush_file(&handle);
        if let Some(id) = handle.counted.lock().unwrap().take() {
            self.quota.close(id);
        }
        let gone = self.tree.lock().unwrap().closed(handle.node);
        self.let_nodes_go(gone);
        flushed
    }

    /// Has the digest follow. The file is kept open for it, and counts until then even if it is deleted.
    fn hash_later(&self, file: &Arc<File>, path: &str, version: Version) {
        self.quota.keep(version.id());
        if !self.hasher.later(file, path, version) {
            self.quota.let_go(version.id());
        }
    }

    /// What is open when the view ends goes on record: its close may come behind the end, or never.
    pub fn record_open(&self) {
        let handles: Vec<_> = self.handles.read().unwrap().values().cloned().collect();
        for handle in handles {
            handle.dirty.fetch_or(handle.unrecorded.load(Ordering::Acquire), Ordering::AcqRel);
            // A journal that failed says so at its last sync.
            let _ = self.flush_file(&handle);
        }
    }

    /// Makes a directory's names durable, in both layers.
    pub fn sync_dir(&self, node: u64) -> io::Result<()> {
        if node == TOP {
            return Ok(());
        }
        let spot = self.spot(node)?;
        // What the agent makes durable is on record first.
        self.record.sync()?;
        for (layer, id) in [(Layer::Lower, spot.lower), (Layer::Upper, spot.upper)] {
            if id.is_some() {
                fs::fsync(sys::readable(self.dir(node, layer)?)?)?;
            }
        }
        Ok(())
    }

    /// The upper layer's directory for `node`, made (with its parents) where it is missing.
    pub fn upper_dir(&self, node: u64) -> io::Result<Arc<std::os::fd::OwnedFd>> {
        let spot = self.spot(node)?;
        if spot.upper.is_some() {
            return self.dir(node, Layer::Upper);
        }
        if spot.gone {
            return Err(errno(libc::ENOENT));
        }
        let parent = self.upper_dir(spot.parent)?;
        let mode = self.stat(&spot)?.st_mode & 0o777;
        let mode = Mode::from_raw_mode(mode | 0o700);
        sys::make_in(&parent, || match fs::mkdirat(&parent, &*spot.name, mode) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        })?;
        let fd = Arc::new(sys::open_dir(&parent, &spot.name)?);
        let stat = self.own(&fd)?;
        self.tree.lock().unwrap().set_upper(node, Id::from(&stat));
        self.dirs.put(node, Layer::Upper, fd.clone());
        Ok(fd)
    }

    /// Brings the object into the upper layer before its first change; open handles follow.
    pub fn copy_up(&self, node: u64) -> io::Result<Spot> {
        let spot = self.spot(node)?;
        let overlay = self.root(&spot).overlay.as_ref().ok_or_else(|| errno(libc::EROFS))?;
        if spot.kind.is_dir() {
            self.upper_dir(node)?;
            return self.spot(node);
        }
        let _turn = overlay.copying.lock().unwrap();
        let spot = self.spot(node)?;
        if spot.upper.is_some() {
            return Ok(spot);
        }
        if spot.gone {
            return Err(errno(libc::ESTALE));
        }
        let upper = self.upper_dir(spot.parent)?;
        let stat = self.stat(&spot)?;
        self.within_quota(spot.root, &spot.path, self.quota.add_inode())?;
        match spot.kind {
            FileType::RegularFile => {
                let source = self.content(&spot, OFlags::RDONLY)?;
                self.within_quota(spot.root, &spot.path, self.quota.add(copied_size(&stat)))?;
                let base = sys::make_in(&upper, || overlay.copy_file(&source, &stat, &upper, &spot.name))?;
                overlay.note(&spot.path, base)?;
            }
            FileType::Symlink => {
                let lower = self.dir(spot.parent, Layer::Lower)?;
                overlay.note(&spot.path, describe(&lower, &spot.name, &stat)?)?;
                let target = fs::readlinkat(&lower, &*spot.name, Vec::new())?;
                sys::make_in(&upper, || Ok(fs::symlinkat(&target, &upper, &*spot.name)?))?;
            }
            _ => return Err(errno(libc::EACCES)),
        }
        let copied = sys::open_path(&upper, &spot.name)?;
        let stat = self.own(&copied)?;
        self.tree.lock().unwrap().set_upper(node, Id::from(&stat));
        let spot = self.spot(node)?;
        self.follow_copy(&spot)?;
        Ok(spot)
    }

    /// Points handles that were opened on the host's file to its copy.
    pub fn follow_copy(&self, spot: &Spot) -> io::Result<()> {
        if !spot.kind.is_file() {
            return Ok(());
        }
        let handles: Vec<_> = self.handles.read().unwrap().values().cloned().collect();
        for file in handles.iter().filter(|file| file.node == spot.node) {
            let open = file.file.read().unwrap().clone();
            // Moved within its layer: what it is open for it may not be opened for again.
            if Some(Id::from(&sys::stat_fd(&*open)?)) == spot.id() {
                continue;
            }
            let copy = if file.writes { self.writable(spot)? } else { self.content(spot, OFlags::RDONLY)? };
            let copy = Arc::new(copy);
            let mut counted = file.counted.lock().unwrap();
            if let Some(before) = *counted {
                // The copy was admitted as one.
                let now = Id::from(&sys::stat_fd(&*copy)?);
                self.quota.open(now, &copy);
                self.quota.close(before);
                *counted = Some(now);
            }
            drop(counted);
            *file.file.write().unwrap() = copy;
        }
        Ok(())
    }

    /// Copies a file or link from one layer's directory to another's: what a rename is where a rule's border is crossed.
    pub fn copy_across(&self, spot: &Spot, to: &Arc<std::os::fd::OwnedFd>, name: &[u8]) -> io::Result<Id> {
        let stat = self.stat(spot)?;
        match spot.kind {
            FileType::RegularFile => {
                self.within_quota(spot.root, &spot.path, self.quota.add(copied_size(&stat)))?;
                let source = self.content(spot, OFlags::RDONLY)?;
                let temporary = [b".ambit-move-", &*spot.node.to_string().into_bytes()].concat();
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let target = File::from(sys::open(to, &temporary, flags, 0o600)?);
                let moved = crate::overlay::copy_content(&source, &stat, &target)
                    .and_then(|_| self.own(&target))
                    .and_then(|_| Ok(fs::futimens(&target, &times(&stat))?))
                    .and_then(|()| Ok(fs::renameat(to, &temporary, to, name)?));
                if let Err(error) = moved {
                    let _ = fs::unlinkat(to, &temporary, AtFlags::empty());
                    return Err(error);
                }
            }
            FileType::Symlink => {
                let target = fs::readlinkat(self.dir(spot.parent, spot.layer())?, &*spot.name, Vec::new())?;
                let _ = fs::unlinkat(to, name, AtFlags::empty());
                fs::symlinkat(&target, to, name)?;
            }
            _ => return Err(errno(libc::EXDEV)),
        }
        let copy = sys::open_path(to, name)?;
        Ok(Id::from(&self.own(&copy)?))
    }
}
