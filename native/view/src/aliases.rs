//! Links that stand where protected names belong (`.codex -> config/codex`): what they lead to is protected alike, and
//! the link itself stays (F-09).
use std::os::fd::OwnedFd;

use rustix::fs::{self, FileType};

use crate::root::Root;
use crate::sys;

/// Links that follow each other; the kernel stops at forty.
const HOPS: usize = 40;

/// Notes the link at `path` and the links that it leads to, if it stands for something protected.
pub fn note(root: &Root, path: &[u8]) {
    if !root.rules.guards(path, FileType::Symlink) && !root.rules.class(path).protected {
        return;
    }
    let mut at = path.to_vec();
    for _ in 0..HOPS {
        let Some(target) = target_within(&root.fd, &at) else { return };
        root.rules.add_alias(path, &target);
        at = target;
    }
}

/// Where the link leads, relative to the root; None when it leads out, or is no link.
fn target_within(root: &OwnedFd, path: &[u8]) -> Option<Vec<u8>> {
    let text = fs::readlinkat(root, path, Vec::new()).ok()?.into_bytes();
    let parent = path.iter().rposition(|b| *b == b'/').map_or(&b""[..], |at| &path[..at]);
    resolve(root, parent, &text)
}

/// `target`, as written in the directory `base`, as a path relative to the root; None when it leads out.
pub fn resolve(root: &OwnedFd, base: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if target.first() == Some(&b'/') {
        return resolve(root, b"", &within(root, target)?);
    }
    let mut names: Vec<&[u8]> = base.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect();
    for name in target.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    Some(names.join(&b'/')).filter(|path| !path.is_empty())
}

/// An absolute target as a path relative to the root.
pub fn within(root: &OwnedFd, target: &[u8]) -> Option<Vec<u8>> {
    let root = fs::readlinkat(fs::CWD, sys::proc_path(root), Vec::new()).ok()?.into_bytes();
    let rest = target.strip_prefix(&root[..])?.strip_prefix(b"/")?;
    Some(rest.to_vec()).filter(|rest| !rest.is_empty())
}
