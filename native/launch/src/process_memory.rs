//! What a process that waits in `execve` asked for, read from its memory. All of it is attacker-controlled: bounded
//! here, escaped where a person reads it.
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::sensor::Notification;
use crate::sys;

const MAX_PATH: usize = 4096;
const MAX_ARGUMENTS: usize = 128;
const MAX_ARGUMENT: usize = 1024;
/// As it will stand in the journal, where a control character takes six bytes.
const MAX_TOTAL: usize = 16 << 10;
const IN_JSON: usize = 6;

pub struct Launch {
    /// As the sandbox counts, and as we do.
    pub pid: i32,
    pub ppid: i32,
    pub outer_pid: i32,
    pub path: String,
    pub argv: Vec<String>,
    pub cwd: String,
    /// True when something of argv was left out.
    pub truncated: bool,
    /// The file that the path means inside, opened without following anything out (`O_PATH`).
    pub file: Option<File>,
}

/// What the caller gets.
pub enum Asked {
    Launch(Launch),
    /// The exec cannot succeed. Answered by us and not by the kernel: otherwise a second thread could mend the path
    /// after this look, and the exec would happen unrecorded.
    Refused(i32),
    /// The caller is gone.
    Nobody,
}

pub fn read_launch(notification: &Notification) -> Asked {
    let thread = notification.pid as i32;
    let Ok(status) = fs::read_to_string(format!("/proc/{thread}/status")) else { return Asked::Nobody };
    let Some(outer_pid) = number(&status, "Tgid") else { return Asked::Nobody };
    let memory = Memory { thread };
    let at_directory = i64::from(notification.number) == libc::SYS_execveat;
    let [first, second, third, ..] = notification.args;
    let (directory, path, argv) =
        if at_directory { (Some(first as i32), second, third) } else { (None, first, second) };
    let path = match memory.string(path, MAX_PATH) {
        Some((path, true)) => path,
        Some((_, false)) => return Asked::Refused(libc::ENAMETOOLONG),
        None => return Asked::Refused(libc::EFAULT),
    };
    // The thread's own: it may have a directory and descriptors of its own, by unshare(2).
    let cwd = fs::read_link(format!("/proc/{thread}/cwd")).unwrap_or_default();
    let numbers = (inner(&status, "NStgid"), inner(&status, "NSpid"));
    let place = Place { outer_pid, thread, numbers, cwd: &cwd, directory };
    let file = match place.open(&path) {
        Ok(file) => Some(file),
        Err(error) => match error.raw_os_error() {
            Some(missing @ (libc::ENOENT | libc::ENOTDIR)) if !place.is_dangling(&path) => {
                return Asked::Refused(missing);
            }
            Some(closed @ libc::EBADF) if at_directory && !path.starts_with(b"/") => {
                return Asked::Refused(closed);
            }
            _ => None,
        },
    };
    let (argv, truncated) = memory.arguments(argv);
    Asked::Launch(Launch {
        pid: numbers.0.unwrap_or(outer_pid),
        ppid: parent(&status),
        outer_pid,
        path: place.name(&path, file.as_ref()),
        argv,
        cwd: text(cwd.as_os_str().as_bytes()),
        truncated,
        file,
    })
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

fn number(status: &str, name: &str) -> Option<i32> {
    field(status, name)?.trim().parse().ok()
}

/// The number of the thread group (`NStgid`) or thread (`NSpid`) in the innermost pid namespace.
fn inner(status: &str, name: &str) -> Option<i32> {
    field(status, name)?.split_whitespace().last()?.parse().ok()
}

fn parent(status: &str) -> i32 {
    let outer = number(status, "PPid").unwrap_or(0);
    fs::read_to_string(format!("/proc/{outer}/status"))
        .ok()
        .and_then(|status| inner(&status, "NStgid"))
        .unwrap_or(0)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[derive(Debug, PartialEq)]
enum Magic {
    Executable,
    /// Of a task: the thread, or the process' first one.
    Descriptor(i32, RawFd),
    /// Of a task that is not the caller's, as its /proc names it, and a link there.
    Others(i32, String),
}

/// Where a path starts from.
struct Place<'a> {
    outer_pid: i32,
    thread: i32,
    /// Of process and thread, as the sandbox counts.
    numbers: (Option<i32>, Option<i32>),
    cwd: &'a Path,
    directory: Option<RawFd>,
}

impl Place<'_> {
    fn open(&self, path: &[u8]) -> io::Result<File> {
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
    fn is_dangling(&self, path: &[u8]) -> bool {
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
    fn name(&self, path: &[u8], file: Option<&File>) -> String {
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

/// An argument list, cut to what a record may hold.
#[derive(Default)]
pub struct Bounded {
    argv: Vec<String>,
    total: usize,
    truncated: bool,
}

impl Bounded {
    /// True while there is room for more.
    fn has_room(&self) -> bool {
        !self.truncated && self.argv.len() < MAX_ARGUMENTS && self.total < MAX_TOTAL
    }

    pub fn push(&mut self, argument: &[u8]) {
        if !self.has_room() {
            self.truncated = true;
            return;
        }
        let kept = &argument[..argument.len().min(MAX_ARGUMENT)];
        self.total +=
            kept.iter().map(|byte| if byte.is_ascii_control() { IN_JSON } else { 1 }).sum::<usize>();
        self.truncated = kept.len() < argument.len();
        self.argv.push(text(kept));
    }

    pub fn finish(self) -> (Vec<String>, bool) {
        (self.argv, self.truncated)
    }
}

/// What the kernel calls it.
fn link_of(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn open_path(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)
}

/// The caller's memory. Not /proc/PID/mem, which belongs to the host's root once a process made itself undumpable.
struct Memory {
    thread: i32,
}

impl Memory {
    /// At most `length` bytes; fewer where the mapping ends.
    fn read(&self, at: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0u8; length];
        let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
        let remote = libc::iovec { iov_base: at as *mut _, iov_len: length };
        // SAFETY: local is valid for length bytes; remote is in the other process.
        let read = unsafe { libc::process_vm_readv(self.thread, &local, 1, &remote, 1, 0) };
        bytes.truncate(usize::try_from(read).ok().filter(|&read| read > 0)?);
        Some(bytes)
    }

    fn word(&self, at: u64) -> Option<u64> {
        self.read(at, 8)?.try_into().ok().map(u64::from_ne_bytes)
    }

    /// The bytes up to NUL, at most `limit`; false when there were more. Page by page: the next may not exist.
    fn string(&self, at: u64, limit: usize) -> Option<(Vec<u8>, bool)> {
        const PAGE: u64 = 4096;
        let mut found = Vec::new();
        while found.len() < limit {
            let from = at.checked_add(found.len() as u64)?;
            let chunk = self.read(from, ((PAGE - from % PAGE) as usize).min(limit - found.len()))?;
            match chunk.iter().position(|&byte| byte == 0) {
                Some(end) => {
                    found.extend_from_slice(&chunk[..end]);
                    return Some((found, true));
                }
                None => found.extend_from_slice(&chunk),
            }
        }
        Some((found, false))
    }

    fn arguments(&self, array: u64) -> (Vec<String>, bool) {
        let mut argv = Bounded::default();
        for index in 0.. {
            let pointer = array.checked_add(index * 8).and_then(|at| self.word(at)).unwrap_or(0);
            if pointer == 0 {
                return argv.finish();
            }
            if !argv.has_room() {
                break;
            }
            // One byte more than is kept: whether something was left out is for the list to see.
            let Some((argument, _)) = self.string(pointer, MAX_ARGUMENT + 1) else { break };
            argv.push(&argument);
        }
        (argv.finish().0, true)
    }
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
        for path in
            ["/proc/self/fd", "/proc/self/fd/x", "/proc/x/fd/8", "/proc/self/fd/8/x", "/usr/proc/self/exe"]
        {
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
