//! What changed, and what it looks like: `list` and `show`.
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{self, FileType, OFlags, Stat};
use serde_json::{Value, json};

use super::object::{as_base, existing, object, read_link, same, split};
use super::{Change, Review};
use crate::hash::hex;
use crate::overlay::{Base, kind_name};
use crate::record::path_text;
use crate::sys;

/// Links followed before one counts as leading out.
const LINKS: usize = 40;
/// Bytes of a file's content that `show` gives.
const SHOWN: u64 = 256 << 10;

impl Review {
    pub fn list(&self, paths: &[Vec<u8>]) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        for path in paths {
            changes.extend(self.change(path)?);
        }
        Ok(changes)
    }

    /// What changed at `path`, if anything did.
    pub fn change(&self, path: &[u8]) -> io::Result<Option<Change>> {
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

    pub fn show(&self, paths: &[Vec<u8>]) -> io::Result<Value> {
        let mut files = Vec::new();
        for path in paths {
            let (before, after) = (content(&self.root, path)?, content(&self.files, path)?);
            files.push(json!({ "path": path_text(path), "before": before, "after": after }));
        }
        Ok(json!({ "files": files }))
    }
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

fn type_name(base: Option<&Base>) -> &'static str {
    match base.map(|b| b.kind.as_str()) {
        Some("file") => "file",
        Some("dir") => "dir",
        Some("link") => "link",
        _ => "other",
    }
}
