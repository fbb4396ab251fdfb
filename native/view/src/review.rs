//! `ambit-view review SPEC` (`-`: standard input): what the agent changed under review, and its way onto the host. Runs outside, as the
//! user; everything in the upper layer was written by the agent, so no link is ever followed and no path resolved but
//! beneath held directories (CASES.md F-04). Three-way: a file that no longer is what the agent started from is a
//! conflict and stays as it is.
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::hash::hex;
use crate::overlay::{
    Base, Mark, copy_content, describe_fully, is_hollow, kind_name, read_marks, write_mark,
};
use crate::record::{path_bytes, path_text};
use crate::sys::{self, errno};

/// Links followed before one counts as leading out.
const LINKS: usize = 40;
/// Bytes of a file's content that `show` gives.
const SHOWN: u64 = 256 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ReviewSpec {
    version: u32,
    op: Op,
    root: PathBuf,
    upper: PathBuf,
    /// Who owns what is written; null: the caller.
    owner: Option<OwnerIds>,
    /// Null: everything.
    paths: Option<Vec<String>>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
struct OwnerIds {
    uid: u32,
    gid: u32,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Op {
    List,
    Show,
    Apply,
    Drop,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    path: String,
    kind: &'static str,
    #[serde(rename = "type")]
    file_type: &'static str,
    size: u64,
    /// Permission bits; null when deleted.
    mode: Option<u32>,
    sha256: Option<String>,
    base: Option<Base>,
    /// Of a link.
    target: Option<String>,
    /// The link leads to something outside the root.
    leads_out: bool,
    /// The host's object is not what the agent started from.
    conflict: bool,
}

struct Review {
    root: OwnedFd,
    files: OwnedFd,
    upper: PathBuf,
    marks: BTreeMap<Vec<u8>, Mark>,
    owner: Option<OwnerIds>,
}

/// Prints one JSON document; the exit code says whether the question could be answered at all.
pub fn run(spec: &Path) -> i32 {
    match try_run(spec) {
        Ok(answer) => {
            println!("{answer}");
            0
        }
        Err(why) => {
            eprintln!("ambit-view: {why}");
            1
        }
    }
}

fn try_run(spec: &Path) -> Result<Value, String> {
    let text = match spec.as_os_str() == "-" {
        true => {
            let mut text = Vec::new();
            io::Read::read_to_end(&mut io::stdin().lock(), &mut text).map(|_| text)
        }
        false => std::fs::read(spec),
    };
    let text = text.map_err(|e| format!("cannot read the review spec: {e}"))?;
    let spec: ReviewSpec = serde_json::from_slice(&text).map_err(|e| format!("bad review spec: {e}"))?;
    if spec.version != 1 {
        return Err("review spec version is not 1".into());
    }
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat2(
            fs::CWD,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )
        .map_err(|e| format!("{}: {e}", path.display()))
    };
    let review = Review {
        root: open(&spec.root)?,
        files: open(&spec.upper.join("files"))?,
        marks: read_marks(&spec.upper.join("meta/changes.jsonl"))
            .map_err(|e| format!("marks: {e}"))?
            .into_iter()
            .collect(),
        upper: spec.upper,
        owner: spec.owner,
    };
    rustix::process::umask(Mode::empty());
    let wanted: Option<BTreeSet<Vec<u8>>> =
        spec.paths.map(|paths| paths.iter().map(|p| path_bytes(p)).collect());
    let paths = review.touched().map_err(|e| e.to_string())?;
    let paths: Vec<Vec<u8>> =
        paths.into_iter().filter(|p| wanted.as_ref().is_none_or(|w| w.contains(p))).collect();
    let answer = match spec.op {
        Op::List => review.list(&paths).map(|changes| json!({ "changes": changes })),
        Op::Show => review.show(&paths),
        Op::Apply => review.apply(&paths),
        Op::Drop => review.drop_all(&paths),
    };
    answer.map_err(|e| e.to_string())
}

impl Review {
    /// Every path that the upper layer says something of.
    fn touched(&self) -> io::Result<BTreeSet<Vec<u8>>> {
        let mut paths: BTreeSet<Vec<u8>> = self.marks.keys().cloned().collect();
        sys::walk(&self.files, false, &mut |path, _| {
            paths.insert(path.to_vec());
            Ok(true)
        })?;
        Ok(paths)
    }

    fn list(&self, paths: &[Vec<u8>]) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        for path in paths {
            changes.extend(self.change(path)?);
        }
        Ok(changes)
    }

    /// What changed at `path`, if anything did.
    fn change(&self, path: &[u8]) -> io::Result<Option<Change>> {
        let mark = self.marks.get(path).cloned().unwrap_or_default();
        let now = object(&self.files, path)?;
        let host = object(&self.root, path)?;
        let kind = match (&now, &mark.base) {
            (None, None) => return Ok(None),
            (None, Some(_)) if !mark.hidden => return Ok(None),
            (None, Some(_)) => "deleted",
            // A directory that only leads to changes.
            (Some((base, _)), None) if base.kind == "dir" && !mark.hidden && host_is(&host, "dir") => {
                return Ok(None);
            }
            // Sockets and FIFOs mean nothing outside the session.
            (Some((now, _)), None) if now.kind == "other" => return Ok(None),
            (Some(_), None) => "added",
            (Some((now, _)), Some(base)) if now.kind != base.kind => "type-changed",
            (Some((now, _)), Some(base)) if same(now, base) && now.mode == base.mode => return Ok(None),
            (Some(_), Some(_)) => "modified",
        };
        let settled = match (&now, &host) {
            (Some((now, _)), Some((host, _))) => same(now, host) && now.mode == host.mode,
            (None, None) => true,
            _ => false,
        };
        let conflict = !settled && !as_base(&mark.base, host.as_ref().map(|(host, _)| host));
        let target = match &now {
            Some((now, _)) if now.kind == "link" => Some(read_link(&self.files, path)?),
            _ => None,
        };
        let described = now.map(|(now, _)| now);
        Ok(Some(Change {
            path: path_text(path),
            kind,
            file_type: type_name(described.as_ref().or(mark.base.as_ref())),
            size: described.as_ref().map_or(0, |now| now.size),
            mode: described.as_ref().map(|now| now.mode),
            sha256: described.and_then(|now| now.sha256),
            base: mark.base,
            leads_out: target.as_ref().is_some_and(|target| self.leads_out(path, target)),
            target: target.map(|target| path_text(&target)),
            conflict,
        }))
    }

    /// Follows the link at `path` through what the host's tree will be, as the kernel would. What cannot be followed to
    /// its end leads out.
    fn leads_out(&self, path: &[u8], target: &[u8]) -> bool {
        let names = |path: &[u8]| path.split(|b| *b == b'/').map(<[u8]>::to_vec).rev().collect::<Vec<_>>();
        let mut at: Vec<Vec<u8>> = split(path).0.split(|b| *b == b'/').map(<[u8]>::to_vec).collect();
        at.retain(|name| !name.is_empty());
        let mut next = target.to_vec();
        let mut waiting: Vec<Vec<u8>> = Vec::new();
        for _ in 0..LINKS {
            if next.first() == Some(&b'/') {
                let Some(inside) = self.beneath_root(&next) else { return true };
                (at, next) = (Vec::new(), inside);
            }
            waiting.extend(names(&next));
            let link = loop {
                match waiting.pop() {
                    None => return false,
                    Some(name) if name.is_empty() || name == b"." => {}
                    Some(name) if name == b".." => {
                        if at.pop().is_none() {
                            return true;
                        }
                    }
                    Some(name) => {
                        at.push(name);
                        if let Some(link) = self.link_at(&at.join(&b'/')) {
                            break link;
                        }
                    }
                }
            };
            at.pop();
            next = link;
        }
        true
    }

    /// The target of the link that will stand at `path`, if one will.
    fn link_at(&self, path: &[u8]) -> Option<Vec<u8>> {
        let link = |layer: &OwnedFd| {
            let (parent, name) = split(path);
            let stat = sys::stat_at(existing(layer, parent).ok()??, name).ok()??;
            Some(sys::kind(&stat).is_symlink().then(|| read_link(layer, path).ok()).flatten())
        };
        link(&self.files).or_else(|| link(&self.root)).flatten()
    }

    fn beneath_root(&self, target: &[u8]) -> Option<Vec<u8>> {
        let root = fs::readlinkat(fs::CWD, sys::proc_path(&self.root), Vec::new()).ok()?.into_bytes();
        let rest = target.strip_prefix(&root[..])?;
        (rest.is_empty() || rest[0] == b'/').then(|| rest.iter().skip(1).copied().collect())
    }

    fn show(&self, paths: &[Vec<u8>]) -> io::Result<Value> {
        let mut files = Vec::new();
        for path in paths {
            let (before, after) = (content(&self.root, path)?, content(&self.files, path)?);
            files.push(json!({ "path": path_text(path), "before": before, "after": after }));
        }
        Ok(json!({ "files": files }))
    }

    /// Deletions first and deepest first, then the rest with parents first.
    fn apply(&self, paths: &[Vec<u8>]) -> io::Result<Value> {
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

    fn drop_all(&self, paths: &[Vec<u8>]) -> io::Result<Value> {
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

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn existing(root: &OwnedFd, path: &[u8]) -> io::Result<Option<OwnedFd>> {
    match sys::open_dir(root, if path.is_empty() { b"." } else { path }) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ESTALE) => Ok(None),
            _ => Err(error),
        },
    }
}

/// What stands at `path` beneath `root`. A link on the way counts as nothing there.
fn object(root: &OwnedFd, path: &[u8]) -> io::Result<Option<(Base, Stat)>> {
    let (parent, name) = split(path);
    let Some(dir) = existing(root, parent)? else { return Ok(None) };
    let Some(stat) = sys::stat_at(&dir, name)? else { return Ok(None) };
    Ok(Some((describe_fully(&dir, name, &stat)?, stat)))
}

fn read_link(root: &OwnedFd, path: &[u8]) -> io::Result<Vec<u8>> {
    let (parent, name) = split(path);
    let dir = existing(root, parent)?.ok_or_else(|| errno(libc::ENOENT))?;
    Ok(fs::readlinkat(&dir, name, Vec::new())?.into_bytes())
}

fn content(root: &OwnedFd, path: &[u8]) -> io::Result<Value> {
    let Some((_, stat)) = object(root, path)? else { return Ok(Value::Null) };
    let size = stat.st_size as u64;
    let mut bytes = match sys::kind(&stat) {
        FileType::Symlink => read_link(root, path)?,
        FileType::RegularFile => vec![0; size.min(SHOWN) as usize],
        _ => return Ok(json!({ "type": kind_name(sys::kind(&stat)), "hex": "", "size": 0 })),
    };
    if sys::kind(&stat).is_file() {
        let file = File::from(sys::open(root, path, OFlags::RDONLY, 0)?);
        let mut read = 0;
        while read < bytes.len() {
            match file.read_at(&mut bytes[read..], read as u64)? {
                0 => break,
                n => read += n,
            }
        }
        bytes.truncate(read);
    }
    Ok(json!({ "type": kind_name(sys::kind(&stat)), "hex": hex(&bytes), "size": size }))
}

fn host_is(host: &Option<(Base, Stat)>, kind: &str) -> bool {
    host.as_ref().is_some_and(|(host, _)| host.kind == kind)
}

/// Equal content.
fn same(a: &Base, b: &Base) -> bool {
    a.kind == b.kind
        && match (&a.sha256, &b.sha256) {
            (Some(a), Some(b)) => a == b,
            _ => a.kind == "dir" || (a.size == b.size && a.mtime == b.mtime),
        }
}

fn same_at(a: &OwnedFd, path_a: &[u8], b: &OwnedFd, path_b: &[u8]) -> io::Result<bool> {
    Ok(match (object(a, path_a)?, object(b, path_b)?) {
        (Some((a, _)), Some((b, _))) => same(&a, &b),
        _ => false,
    })
}

/// True when the host's object is what the agent started from.
fn as_base(base: &Option<Base>, host: Option<&Base>) -> bool {
    match (base, host) {
        (None, None) => true,
        (Some(base), Some(host)) => same(base, host),
        _ => false,
    }
}

fn type_name(base: Option<&Base>) -> &'static str {
    match base.map(|b| b.kind.as_str()) {
        Some("file") => "file",
        Some("dir") => "dir",
        Some("link") => "link",
        _ => "other",
    }
}

fn sync_dir(dir: &OwnedFd) -> io::Result<()> {
    let fd = fs::openat(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(fs::fsync(fd)?)
}
