//! What file a path means to a process that waits in `execve`: all of it is the attacker's choice, and nothing leads
//! out of the process's root.
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::sys;

#[derive(Debug, PartialEq)]
enum Magic {
    Executable,
    /// Of a task: the thread, or the process' first one.
    Descriptor(i32, RawFd),
    /// Of a task that is not the caller's, as its /proc names it, and a link there.
    Others(i32, String),
}

/// Where a path starts from.
pub struct Place<'a> {
    pub outer_pid: i32,
    pub thread: i32,
    /// Of process and thread, as the sandbox counts.
    pub numbers: (Option<i32>, Option<i32>),
    pub cwd: &'a Path,
    pub directory: Option<RawFd>,
}

impl Place<'_> {
    pub fn open(&self, path: &[u8]) -> io::Result<File> {
        match self.magic(path) {
            Some(Magic::Executable) => open_path(Path::new(&format!("/proc/{}/exe", self.outer_pid))),
            Some(Magic::Descriptor(task, fd)) => self.descriptor(task, fd),
            Some(Magic::Others(task, link)) => self.others(task, &link),
            None => self.open_in_root(&self.absolute(path)?, 0),
        }
    }

    /// The links that lead where no name does, however the way to them is spelled, and the empty path that means a
    /// descriptor. `/proc/self` is the process, whose descriptors are its first thread's, whichever thread asks.
    fn magic(&self, path: &[u8]) -> Option<Magic> {
        if path.is_empty() {
            return self.directory.map(|fd| Magic::Descriptor(self.thread, fd));
        }
        let path = self.absolute(path).ok()?;
        let path = path.to_str()?;
        let rest = match path.strip_prefix("/dev/fd/") {
            Some(fd) => format!("self/fd/{fd}"),
            None => path.strip_prefix("/proc/")?.into(),
        };
        let words: Vec<&str> = rest.split('/').collect();
        // `..` may lead out of /proc again, to files of the agent's own making.
        if words.contains(&"..") {
            return None;
        }
        let (task, fd) = match words[..] {
            [_, "task", task, "fd", fd] | [task, "fd", fd] => (task, Some(fd.parse().ok()?)),
            [_, "task", task, "exe"] | [task, "exe"] => (task, None),
            _ => return None,
        };
        Some(match (self.task(task), fd) {
            (Some(task), Some(fd)) => Magic::Descriptor(task, fd),
            (Some(_), None) => Magic::Executable,
            (None, fd) => Magic::Others(task.parse().ok()?, fd.map_or("exe".into(), |fd| format!("fd/{fd}"))),
        })
    }

    /// One of the caller's own, as its /proc names it.
    fn task(&self, name: &str) -> Option<i32> {
        let number = name.parse::<i32>().ok();
        match name {
            "self" => Some(self.outer_pid),
            "thread-self" => Some(self.thread),
            _ if number.is_some() && number == self.numbers.0 => Some(self.outer_pid),
            _ if number.is_some() && number == self.numbers.1 => Some(self.thread),
            _ => None,
        }
    }

    /// Through a pidfd: /proc/PID/fd of a process that made itself undumpable is shut even to us. Before Linux 6.9
    /// a thread has none, and its descriptors are known only where that directory is not shut.
    fn descriptor(&self, task: i32, fd: RawFd) -> io::Result<File> {
        let opened = match task == self.outer_pid {
            true => sys::pidfd_open(task),
            false => sys::pidfd_open_thread(task),
        };
        let pidfd = match opened {
            Err(_) if task != self.outer_pid => {
                return open_path(Path::new(&format!("/proc/{task}/fd/{fd}")));
            }
            opened => opened?,
        };
        // SAFETY: plain numbers; a new descriptor comes back.
        let fd = sys::check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })?;
        Ok(File::from(sys::owned(fd as RawFd)))
    }

    /// Not where that directory is something else: a link of the caller's own would lead out of its root.
    fn others(&self, task: i32, link: &str) -> io::Result<File> {
        let directory = self.open_in_root(Path::new(&format!("/proc/{task}")), libc::O_DIRECTORY)?;
        // SAFETY: a zeroed structure is valid, and the kernel fills it.
        let system = unsafe {
            let mut system: libc::statfs = std::mem::zeroed();
            sys::check(libc::fstatfs(directory.as_raw_fd(), &mut system))?;
            system
        };
        match system.f_type == libc::PROC_SUPER_MAGIC {
            true => open_path(&link_of(&directory).join(link)),
            false => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// True when a link on the way leads to something that exists only for the caller (/proc/self): from here it
    /// looks like a missing file, and is none.
    pub fn is_dangling(&self, path: &[u8]) -> bool {
        let Ok(path) = self.absolute(path) else { return true };
        let mut prefix = PathBuf::new();
        for part in path.components() {
            prefix.push(part);
            let exists = self.open_in_root(&prefix, libc::O_NOFOLLOW).is_ok();
            if exists && self.open_in_root(&prefix, 0).is_err() {
                return true;
            }
            if !exists {
                return false;
            }
        }
        true
    }

    fn absolute(&self, path: &[u8]) -> io::Result<PathBuf> {
        let path = Path::new(OsStr::from_bytes(path));
        let base = match self.directory {
            Some(fd) if fd != libc::AT_FDCWD && path.is_relative() => {
                fs::read_link(link_of(&self.descriptor(self.thread, fd)?))?
            }
            _ => self.cwd.to_path_buf(),
        };
        Ok(base.join(path).components().collect())
    }

    fn open_in_root(&self, path: &Path, flags: i32) -> io::Result<File> {
        open_in_root(&open_path(Path::new(&format!("/proc/{}/root", self.thread)))?, path, flags)
    }

    /// The spelled path, or what a descriptor stands for.
    pub fn name(&self, path: &[u8], file: Option<&File>) -> String {
        if let (Some(_), Some(file)) = (self.magic(path), file) {
            let link = fs::read_link(link_of(file)).unwrap_or_default();
            return text(link.as_os_str().as_bytes());
        }
        self.absolute(path).map_or_else(|_| text(path), |path| text(path.as_os_str().as_bytes()))
    }
}

/// As whoever has this root would resolve it: every link stays below it. For looking at, not for reading (`O_PATH`).
pub fn open_in_root(root: &File, path: &Path, flags: i32) -> io::Result<File> {
    let path = sys::cpath(path)?;
    // SAFETY: open_how is plain data of the size that is passed.
    unsafe {
        let mut how: libc::open_how = std::mem::zeroed();
        how.flags = (libc::O_PATH | libc::O_CLOEXEC | flags) as u64;
        how.resolve = libc::RESOLVE_IN_ROOT;
        let size = size_of::<libc::open_how>();
        let fd = libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), &how, size);
        sys::check(fd).map(|fd| File::from(sys::owned(fd as RawFd)))
    }
}

/// What the kernel calls it.
fn link_of(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn open_path(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(directory: Option<RawFd>) -> Place<'static> {
        let cwd = Path::new("/proc");
        Place { outer_pid: 500, thread: 501, numbers: (Some(5), Some(6)), cwd, directory }
    }

    #[test]
    fn a_magic_link_is_known_however_it_is_spelled() {
        let place = place(None);
        let process = Some(Magic::Descriptor(500, 8));
        for path in [
            "/proc/self/fd/8",
            "/proc/./self/fd/8",
            "//proc//self/fd/8",
            "self/fd/8",
            "./5/fd/8",
            "/dev/./fd/8",
            "/proc/self/task/5/fd/8",
        ] {
            assert_eq!(place.magic(path.as_bytes()), process, "{path}");
        }
        for path in ["/proc/thread-self/fd/8", "/proc/6/./fd/8", "/proc/self/task/6/fd/8"] {
            assert_eq!(place.magic(path.as_bytes()), Some(Magic::Descriptor(501, 8)), "{path}");
        }
        for path in ["/proc/self/exe", "/proc/./self/exe", "/proc/5/exe"] {
            assert_eq!(place.magic(path.as_bytes()), Some(Magic::Executable), "{path}");
        }
        assert_eq!(place.magic(b"/proc/7/fd/8"), Some(Magic::Others(7, "fd/8".into())));
        for path in [
            "/proc/self/fd",
            "/proc/self/fd/x",
            "/proc/x/fd/8",
            "/proc/../task/5/exe",
            "/proc/self/fd/8/x",
            "/usr/proc/self/exe",
        ] {
            assert_eq!(place.magic(path.as_bytes()), None, "{path}");
        }
    }

    #[test]
    fn what_a_thread_means_is_below_a_root_of_its_own() {
        let directory = std::env::temp_dir().join(format!("ambit-root-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("prog"), "in its root").unwrap();
        let own_root = sys::cpath(&directory).unwrap();
        let (tell, hear) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: plain flags, and a valid string. Of this thread alone.
            let made = unsafe { libc::unshare(libc::CLONE_FS) == 0 && libc::chroot(own_root.as_ptr()) == 0 };
            tell.send(made.then(|| unsafe { libc::gettid() })).unwrap();
            std::thread::park();
        });
        // Only root may.
        if let Some(own) = hear.recv().unwrap() {
            let leader = std::process::id() as i32;
            let of = |thread| Place { outer_pid: leader, thread, ..place(None) };
            assert!(of(own).open(b"/prog").is_ok());
            assert!(of(leader).open(b"/prog").is_err(), "control: another root");
        }
        thread.thread().unpark();
        thread.join().unwrap();
        fs::remove_dir_all(&directory).unwrap();
    }
}
