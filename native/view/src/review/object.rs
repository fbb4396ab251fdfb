//! Objects of either layer by their path, and when two of them are equal. No link is ever followed.
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{self, Stat};

use crate::overlay::{Base, describe_fully};
use crate::sys::{self, errno};

pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

pub fn existing(root: &OwnedFd, path: &[u8]) -> io::Result<Option<OwnedFd>> {
    match sys::open_dir(root, if path.is_empty() { b"." } else { path }) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ESTALE) => Ok(None),
            _ => Err(error),
        },
    }
}

/// What stands at `path` beneath `root`. A link on the way counts as nothing there.
pub fn object(root: &OwnedFd, path: &[u8]) -> io::Result<Option<(Base, Stat)>> {
    let (parent, name) = split(path);
    let Some(dir) = existing(root, parent)? else { return Ok(None) };
    let Some(stat) = sys::stat_at(&dir, name)? else { return Ok(None) };
    Ok(Some((describe_fully(&dir, name, &stat)?, stat)))
}

pub fn read_link(root: &OwnedFd, path: &[u8]) -> io::Result<Vec<u8>> {
    let (parent, name) = split(path);
    let dir = existing(root, parent)?.ok_or_else(|| errno(libc::ENOENT))?;
    Ok(fs::readlinkat(&dir, name, Vec::new())?.into_bytes())
}

/// Equal content.
pub fn same(a: &Base, b: &Base) -> bool {
    a.kind == b.kind
        && match (&a.sha256, &b.sha256) {
            (Some(a), Some(b)) => a == b,
            _ => a.kind == "dir" || (a.size == b.size && a.mtime == b.mtime),
        }
}

pub fn same_at(a: &OwnedFd, path_a: &[u8], b: &OwnedFd, path_b: &[u8]) -> io::Result<bool> {
    Ok(match (object(a, path_a)?, object(b, path_b)?) {
        (Some((a, _)), Some((b, _))) => same(&a, &b),
        _ => false,
    })
}

/// True when the host's object is what the agent started from.
pub fn as_base(base: &Option<Base>, host: Option<&Base>) -> bool {
    match (base, host) {
        (None, None) => true,
        (Some(base), Some(host)) => same(base, host),
        _ => false,
    }
}
