//! Small steps on the host, always one name beneath a held directory.
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

/// One error by its number.
pub fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// The kernel takes paths up to 4096 bytes; an agent can build longer ones, name by name.
const AT_ONCE: usize = 4000;

/// Opens a path beneath `dir`. No link of any kind is followed; a FIFO does not block.
pub fn open(dir: impl AsFd, name: &[u8], flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
    if name.len() > AT_ONCE
        && let Some(cut) = name[..AT_ONCE].iter().rposition(|b| *b == b'/')
    {
        let first = open(dir.as_fd(), &name[..cut], OFlags::PATH | OFlags::DIRECTORY, 0)?;
        return open(first.as_fd(), &name[cut + 1..], flags, mode);
    }
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
    let flags = if flags.contains(OFlags::PATH) { flags - OFlags::NOCTTY } else { flags | OFlags::NONBLOCK };
    loop {
        match fs::openat2(&dir, name, flags, Mode::from_raw_mode(mode), BENEATH) {
            // openat2 reports a concurrent rename on the host this way.
            Err(rustix::io::Errno::AGAIN) => {}
            Err(rustix::io::Errno::LOOP) | Err(rustix::io::Errno::XDEV) => return Err(errno(libc::ESTALE)),
            other => return Ok(other?),
        }
    }
}

pub fn open_path(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    open(dir, name, OFlags::PATH, 0)
}

pub fn open_dir(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    open(dir, name, OFlags::PATH | OFlags::DIRECTORY, 0)
}

/// Opens what an O_PATH descriptor holds. The link in /proc leads to the object itself, not to a path.
pub fn reopen(fd: impl AsFd, flags: OFlags) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    Ok(fs::open(path, flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?)
}

/// Path of an O_PATH descriptor for calls that exist for paths only. Good while `fd` is open.
pub fn proc_path(fd: &impl AsFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Makes something in a directory of the upper layer. It has the mode that the agent gave it, perhaps one that lets its
/// owner make nothing there; what is copied for a change of a file is no new name to the agent.
pub fn make_in<T>(dir: &OwnedFd, make: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match make() {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            let mode = Mode::from_raw_mode(stat_fd(dir)?.st_mode & 0o7777);
            fs::chmod(proc_path(dir), mode | Mode::RWXU)?;
            let made = make();
            fs::chmod(proc_path(dir), mode)?;
            made
        }
        other => other,
    }
}

pub fn stat_at(dir: impl AsFd, name: &[u8]) -> io::Result<Option<Stat>> {
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT) {
        Ok(stat) => Ok(Some(stat)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub fn stat_fd(fd: impl AsFd) -> io::Result<Stat> {
    Ok(fs::fstat(fd)?)
}

pub fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Opens a directory that is held to read what is in it, or to sync it.
pub fn readable(dir: impl AsFd) -> io::Result<OwnedFd> {
    match fs::openat(&dir, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        // One that may be listed and not entered: `.` is a name in it.
        Err(rustix::io::Errno::ACCESS) => reopen(dir, OFlags::RDONLY | OFlags::DIRECTORY),
        other => Ok(other?),
    }
}

/// Names and types in a directory, without `.` and `..`.
pub fn list(dir: impl AsFd) -> io::Result<Vec<(Vec<u8>, FileType, u64)>> {
    let fd = readable(dir)?;
    let mut names = Vec::new();
    for entry in Dir::new(fd)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if name != c"." && name != c".." {
            names.push((name.to_bytes().to_vec(), entry.file_type(), entry.ino()));
        }
    }
    Ok(names)
}

/// Checks a single name as the kernel sends it.
pub fn check_name(name: &[u8]) -> io::Result<()> {
    match name {
        b"" | b"." | b".." => Err(errno(libc::EINVAL)),
        _ if name.contains(&b'/') => Err(errno(libc::EINVAL)),
        _ if name.len() > 255 => Err(errno(libc::ENAMETOOLONG)),
        _ => Ok(()),
    }
}

/// O_PATH descriptor of a path of several names beneath `dir`.
pub fn open_path_deep(dir: impl AsFd, path: &[u8]) -> io::Result<OwnedFd> {
    open(dir, if path.is_empty() { b"." } else { path }, OFlags::PATH, 0)
}

/// Visits everything beneath `dir`, parents first, with paths relative to it. `visit` returns false to stop; the walk
/// then returns false. A directory that may not be read is an error unless `skip_unreadable`.
pub fn walk(dir: &OwnedFd, skip_unreadable: bool, visit: Visit) -> io::Result<bool> {
    walk_to(dir, skip_unreadable, usize::MAX, visit)
}

pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &Stat) -> io::Result<bool>;

/// The same, `depth` levels down.
pub fn walk_to(dir: &OwnedFd, skip_unreadable: bool, depth: usize, visit: Visit) -> io::Result<bool> {
    let mut waiting = vec![Vec::new()];
    while let Some(path) = waiting.pop() {
        let opened =
            open_dir(dir, if path.is_empty() { b"." } else { &path }).and_then(|fd| Ok((list(&fd)?, fd)));
        let (names, fd) = match opened {
            Ok(opened) => opened,
            Err(error) if skip_unreadable && error.raw_os_error() == Some(libc::EACCES) => continue,
            Err(error) => return Err(error),
        };
        for (name, _, _) in names {
            let stat = match stat_at(&fd, &name) {
                Ok(Some(stat)) => stat,
                Ok(None) => continue,
                Err(error) if skip_unreadable && error.raw_os_error() == Some(libc::EACCES) => continue,
                Err(error) => return Err(error),
            };
            let mut child = path.clone();
            if !child.is_empty() {
                child.push(b'/');
            }
            child.extend_from_slice(&name);
            if !visit(&child, &stat)? {
                return Ok(false);
            }
            if kind(&stat).is_dir() && child.iter().filter(|b| **b == b'/').count() + 1 < depth {
                waiting.push(child);
            }
        }
    }
    Ok(true)
}

/// A `File` for calls that want one mutably although they only use its descriptor (positioned reads and writes).
/// It must not outlive `file`, whose descriptor it shares without owning it.
pub fn lent(file: &File) -> ManuallyDrop<File> {
    use std::os::fd::{AsRawFd, FromRawFd};
    // SAFETY: the descriptor is open while `file` is borrowed by the caller's expression, and never closed here.
    #[allow(unsafe_code)]
    ManuallyDrop::new(unsafe { File::from_raw_fd(file.as_raw_fd()) })
}
