//! The agent's changes on their way to the host, and out of the upper layer: `apply` and `drop`.
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags};
use serde_json::{Value, json};

use super::object::{as_base, existing, object, read_link, same_at, split};
use super::{Change, Review};
use crate::overlay::{Base, Mark, copy_content, is_hollow, write_mark};
use crate::record::{path_bytes, path_text};
use crate::sys::{self, errno};

impl Review {
    /// Deletions first and deepest first, then the rest with parents first.
    pub fn apply(&self, paths: &[Vec<u8>]) -> io::Result<Value> {
        let mut changes = self.list(paths)?;
        changes.sort_by_key(|c| {
            (
                c.kind != "deleted",
                if c.kind == "deleted" { usize::MAX - depth(&c.path) } else { depth(&c.path) },
            )
        });
        let mut results = Vec::new();
        for change in &changes {
            let path = path_bytes(&change.path);
            let result = if change.conflict { Err(conflict()) } else { self.apply_one(change, &path) };
            let (state, why) = match result {
                Ok(()) => ("applied", None),
                Err(error) if is_conflict(&error) => ("conflict", None),
                Err(error) => ("failed", Some(error.to_string())),
            };
            results.push(json!({ "path": change.path, "state": state, "why": why, "sha256": change.sha256 }));
        }
        let done: BTreeSet<_> = results
            .iter()
            .filter(|r| r["state"] == "applied")
            .map(|r| path_bytes(r["path"].as_str().unwrap_or_default()))
            .collect();
        for path in paths.iter().rev() {
            // Touched but not changed goes with the rest.
            if done.contains(path) || self.change(path)?.is_none() {
                self.settle(path)?;
            }
        }
        Ok(json!({ "results": results }))
    }

    fn apply_one(&self, change: &Change, path: &[u8]) -> io::Result<()> {
        let (parent, name) = split(path);
        if change.kind == "deleted" {
            let Some(dir) = existing(&self.root, parent)? else { return Ok(()) };
            let Some((host, _)) = object(&self.root, path)? else { return Ok(()) };
            if !as_base(&change.base, Some(&host)) {
                return Err(conflict());
            }
            if host.kind == "dir" {
                return fs::unlinkat(&dir, name, AtFlags::REMOVEDIR).map_err(|e| match e {
                    rustix::io::Errno::NOTEMPTY => conflict(),
                    other => other.into(),
                });
            }
            return self.remove(&dir, name, &change.base);
        }
        let dir = self.make_parents(parent)?;
        if change.file_type == "dir" {
            if change.kind == "type-changed"
                && object(&self.root, path)?.is_some_and(|(host, _)| host.kind != "dir")
            {
                self.remove(&dir, name, &change.base)?;
            }
            return self.apply_dir(change, &dir, name);
        }
        let fresh = self.stage(&dir, path)?;
        match &change.base {
            // NOREPLACE: what appeared meanwhile stays.
            None => match fs::renameat_with(&dir, &fresh, &dir, name, RenameFlags::NOREPLACE) {
                Ok(()) => {}
                Err(error) => {
                    let _ = fs::unlinkat(&dir, &fresh, AtFlags::empty());
                    let settled = same_at(&self.root, path, &self.files, path)?;
                    return match error {
                        rustix::io::Errno::EXIST if settled => Ok(()),
                        rustix::io::Errno::EXIST => Err(conflict()),
                        other => Err(other.into()),
                    };
                }
            },
            Some(base) if base.kind == "dir" => {
                let placed = fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)
                    .and_then(|()| fs::renameat_with(&dir, &fresh, &dir, name, RenameFlags::NOREPLACE));
                if placed.is_err() {
                    let _ = fs::unlinkat(&dir, &fresh, AtFlags::empty());
                    return Err(conflict());
                }
            }
            Some(_) => {
                match fs::renameat_with(&dir, &fresh, &dir, name, RenameFlags::EXCHANGE) {
                    Ok(()) => self.finish_swap(&dir, name, &fresh, &change.base, true)?,
                    Err(_) => {
                        let _ = fs::unlinkat(&dir, &fresh, AtFlags::empty());
                        return Err(conflict());
                    }
                };
            }
        }
        sync_dir(&dir)
    }

    /// Moved aside and looked at once more: what changed since the check comes back.
    fn remove(&self, dir: &OwnedFd, name: &[u8], base: &Option<Base>) -> io::Result<()> {
        let aside = temporary();
        fs::renameat_with(dir, name, dir, &aside, RenameFlags::NOREPLACE)?;
        self.finish_swap(dir, name, &aside, base, false)
    }

    /// `aside` holds what stood at `name`. Gone for good if it is the base; else put back.
    fn finish_swap(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        aside: &str,
        base: &Option<Base>,
        swapped: bool,
    ) -> io::Result<()> {
        let found = object(dir, aside.as_bytes())?;
        if as_base(base, found.as_ref().map(|(found, _)| found))
            || (swapped && same_at(dir, aside.as_bytes(), dir, name)?)
        {
            fs::unlinkat(dir, aside, AtFlags::empty())?;
            return sync_dir(dir);
        }
        if swapped {
            fs::renameat_with(dir, aside, dir, name, RenameFlags::EXCHANGE)?;
            fs::unlinkat(dir, aside, AtFlags::empty())?;
        } else {
            fs::renameat_with(dir, aside, dir, name, RenameFlags::NOREPLACE)?;
        }
        Err(conflict())
    }

    /// Copies the agent's version next to its place, durable and complete, under a name of its own.
    fn stage(&self, dir: &OwnedFd, path: &[u8]) -> io::Result<String> {
        let name = temporary();
        let (_, stat) = object(&self.files, path)?.ok_or_else(|| errno(libc::ENOENT))?;
        if sys::kind(&stat).is_symlink() {
            let target = read_link(&self.files, path)?;
            fs::symlinkat(&target[..], dir, &name)?;
        } else if is_hollow(&stat) {
            let why = "it is mostly holes, and a copy would fill them: copy it by hand if you want it";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        } else if sys::kind(&stat).is_file() {
            let source = File::from(sys::open(&self.files, path, OFlags::RDONLY, 0)?);
            let target = File::from(sys::open(
                dir,
                name.as_bytes(),
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL,
                0o600,
            )?);
            let staged = copy_content(&source, &stat, &target).and_then(|_| target.sync_all());
            if let Err(error) = staged {
                let _ = fs::unlinkat(dir, &name, AtFlags::empty());
                return Err(error);
            }
        } else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "neither a file, a link nor a directory"));
        }
        self.own(dir, name.as_bytes())?;
        Ok(name)
    }

    fn apply_dir(&self, change: &Change, dir: &OwnedFd, name: &[u8]) -> io::Result<()> {
        let mode = Mode::from_raw_mode(change.mode.unwrap_or(0o755));
        match fs::mkdirat(dir, name, mode) {
            Ok(()) => self.own(dir, name)?,
            Err(rustix::io::Errno::EXIST) => {
                let fd = sys::open_dir(dir, name).map_err(|_| conflict())?;
                fs::chmod(sys::proc_path(&fd), mode)?;
            }
            Err(error) => return Err(error.into()),
        }
        sync_dir(dir)
    }

    /// The directory `path` on the host; missing ones are made with the mode of the agent's.
    fn make_parents(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let mut dir = sys::open_dir(&self.root, b".")?;
        let mut at = Vec::new();
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            if !at.is_empty() {
                at.push(b'/');
            }
            at.extend_from_slice(name);
            if sys::stat_at(&dir, name)?.is_none() {
                let mode = object(&self.files, &at)?.map_or(0o755, |(base, _)| base.mode);
                fs::mkdirat(&dir, name, Mode::from_raw_mode(mode))?;
                self.own(&dir, name)?;
            }
            // A file or link where the agent had a directory: the host changed.
            dir = sys::open_dir(&dir, name).map_err(|_| conflict())?;
        }
        Ok(dir)
    }

    fn own(&self, dir: &OwnedFd, name: &[u8]) -> io::Result<()> {
        if let Some(owner) = self.owner {
            let (uid, gid) = (fs::Uid::from_raw(owner.uid), fs::Gid::from_raw(owner.gid));
            fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    pub fn drop_all(&self, paths: &[Vec<u8>]) -> io::Result<Value> {
        let mut dropped = Vec::new();
        for path in paths.iter().rev() {
            if self.change(path)?.is_some() {
                dropped.push(path_text(path));
            }
            self.settle(path)?;
        }
        dropped.reverse();
        Ok(json!({ "dropped": dropped }))
    }

    /// Takes `path` out of the upper layer. A directory stays while something is in it.
    fn settle(&self, path: &[u8]) -> io::Result<()> {
        let (parent, name) = split(path);
        if let Some(dir) = existing(&self.files, parent)? {
            let flags = match sys::stat_at(&dir, name)? {
                Some(stat) if sys::kind(&stat).is_dir() => AtFlags::REMOVEDIR,
                _ => AtFlags::empty(),
            };
            match fs::unlinkat(&dir, name, flags) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(rustix::io::Errno::NOTEMPTY) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        if self.marks.contains_key(path) {
            write_mark(&self.upper.join("meta/changes.jsonl"), path, &Mark::default())?;
        }
        Ok(())
    }
}

fn temporary() -> String {
    let (_, now) = ambit_shared::journal::clocks();
    format!(".ambit-apply-{}-{now}", std::process::id())
}

fn conflict() -> io::Error {
    io::Error::from_raw_os_error(libc::ESTALE)
}

fn is_conflict(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESTALE)
}

fn depth(path: &str) -> usize {
    path.matches('/').count()
}

fn sync_dir(dir: &OwnedFd) -> io::Result<()> {
    let fd = fs::openat(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(fs::fsync(fd)?)
}
