//! Links that stand where protected names belong (`.codex -> config/codex`): what they lead to is protected alike, and
//! the link itself stays (CASES.md F-09). Looked for when the view starts: at once near the top of each root, in the
//! background beneath.
use std::os::fd::OwnedFd;

use rustix::fs;

use crate::sys;
use crate::view::Root;

/// Levels looked through before the view serves.
const AT_ONCE: usize = 3;
/// Links that follow each other; the kernel stops at forty.
const HOPS: usize = 40;
/// Names looked at in the background.
const LIMIT: usize = 500_000;

/// Notes the links near the top.
pub fn find_near(root: &Root) {
    find(root, AT_ONCE);
}

/// Notes all links.
pub fn find_all(root: &Root) {
    find(root, usize::MAX);
}

fn find(root: &Root, depth: usize) {
    if !root.rules.protects() {
        return;
    }
    let mut seen = 0;
    // A directory that cannot be read cannot be looked through; the agent acts with the same rights.
    let _ = sys::walk_to(&root.fd, true, depth, &mut |path, stat| {
        seen += 1;
        if sys::kind(stat).is_symlink()
            && (root.rules.guards(path, sys::kind(stat)) || root.rules.class(path).protected)
        {
            add(root, path);
        }
        Ok(seen < LIMIT)
    });
}

/// Notes the link at `path`, and the links that it leads to.
fn add(root: &Root, path: &[u8]) {
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
    let mut names: Vec<&[u8]> = match text.first() {
        Some(b'/') => return within(root, &text),
        _ => path.split(|b| *b == b'/').collect(),
    };
    names.pop();
    for name in text.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    Some(names.join(&b'/')).filter(|target| !target.is_empty())
}

/// An absolute target as a path relative to the root.
fn within(root: &OwnedFd, target: &[u8]) -> Option<Vec<u8>> {
    let root = fs::readlinkat(fs::CWD, sys::proc_path(root), Vec::new()).ok()?.into_bytes();
    let rest = target.strip_prefix(&root[..])?.strip_prefix(b"/")?;
    Some(rest.to_vec()).filter(|rest| !rest.is_empty())
}
