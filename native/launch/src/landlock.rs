//! Landlock: a second lock behind the mounts, and the scopes that namespaces lack. Unlike the usual best effort,
//! what the kernel cannot do is reported, not passed over.
//!
//! Nothing is said about TCP: Landlock would see the port before the network's redirect and refuse in silence; the
//! network namespace is that control.
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::sys;

// include/uapi/linux/landlock.h
const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;
const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;
const RESOLVE_UNIX: u64 = 1 << 16;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 1 << 1;

/// Rights that make sense on a file that is no directory.
const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;

#[repr(C)]
struct RulesetAttribute {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: RawFd,
}

/// What was enforced: 0 = the kernel has no Landlock.
#[derive(Debug, Clone, Copy)]
pub struct Enforced {
    pub abi: i32,
}

impl Enforced {
    /// Abstract sockets and signals stay inside (ABI 6).
    pub fn scopes(self) -> bool {
        self.abi >= 6
    }

    /// Sockets of the host that show in a bind cannot be connected to (ABI 9).
    pub fn unix_sockets(self) -> bool {
        self.abi >= 9
    }
}

/// The kernel's Landlock version, 0 when there is none.
pub fn abi() -> i32 {
    let none: *const RulesetAttribute = std::ptr::null();
    // SAFETY: the documented way to ask for the version.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, CREATE_RULESET_VERSION) as i32 }
        .max(0)
}

/// Restricts this thread and its children for ever: read and execute anywhere (only the declared mounts exist),
/// write below `writable`. A read-only mount inside a writable one is held by its mount flag: rules reach downwards.
pub fn restrict(writable: &[PathBuf]) -> io::Result<Enforced> {
    let abi = abi();
    if abi == 0 {
        return Ok(Enforced { abi });
    }
    let handled = handled(abi);
    let ruleset = create(abi, handled)?;
    let read = EXECUTE | READ_FILE | READ_DIR;
    allow(ruleset.as_fd(), Path::new("/"), read & handled)?;
    // A process tells the kernel about itself here (oom_score_adj, comm); the rest of /proc is read-only mounts.
    allow(ruleset.as_fd(), Path::new("/proc"), (read | WRITE_FILE | TRUNCATE) & handled)?;
    allow(ruleset.as_fd(), Path::new("/dev"), (read | WRITE_FILE | TRUNCATE | IOCTL_DEV) & handled)?;
    for path in writable.iter().map(PathBuf::as_path).chain([Path::new("/dev/shm")]) {
        allow(ruleset.as_fd(), path, handled & !RESOLVE_UNIX)?;
    }
    // SAFETY: a ruleset descriptor and no flags.
    sys::check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })?;
    Ok(Enforced { abi })
}

fn handled(abi: i32) -> u64 {
    let first = (1 << 13) - 1;
    let since = [(2, REFER), (3, TRUNCATE), (5, IOCTL_DEV), (9, RESOLVE_UNIX)];
    since.iter().filter(|(version, _)| abi >= *version).fold(first, |all, (_, right)| all | right)
}

fn create(abi: i32, handled_access_fs: u64) -> io::Result<File> {
    let scoped = if abi >= 6 { SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL } else { 0 };
    let attribute = RulesetAttribute { handled_access_fs, handled_access_net: 0, scoped };
    // An older kernel knows a shorter structure and wants the rest to be zero, which it then is.
    let size = size_of::<RulesetAttribute>();
    // SAFETY: attribute is valid for size bytes.
    let fd = sys::check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &attribute, size, 0) })?;
    Ok(sys::owned(fd as RawFd).into())
}

fn allow(ruleset: BorrowedFd, path: &Path, access: u64) -> io::Result<()> {
    let parent =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)?;
    let allowed_access = if parent.metadata()?.is_dir() { access } else { access & OF_FILES };
    let rule = PathBeneath { allowed_access, parent_fd: parent.as_raw_fd() };
    // SAFETY: rule is a valid landlock_path_beneath_attr.
    sys::check(unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), RULE_PATH_BENEATH, &rule, 0)
    })?;
    Ok(())
}
