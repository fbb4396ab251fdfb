//! What a process that waits in `execve` asked for, read from its memory. All of it is attacker-controlled: bounded
//! here, escaped where a person reads it.
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::sensor::Notification;
use crate::sys;

const MAX_PATH: usize = 4096;
const MAX_ARGUMENTS: usize = 128;
const MAX_ARGUMENT: usize = 1024;
const MAX_TOTAL: usize = 16 << 10;

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

/// `None` when the caller is gone, or when the path leads nowhere: libc's PATH search tries many.
pub fn read_launch(notification: &Notification) -> Option<Launch> {
    let thread = notification.pid as i32;
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let outer_pid = number(&status, "Tgid")?;
    let memory = File::open(format!("/proc/{thread}/mem")).ok()?;
    let at_directory = i64::from(notification.number) == libc::SYS_execveat;
    let [first, second, third, ..] = notification.args;
    let (directory, path, argv) = if at_directory { (Some(first as i32), second, third) } else { (None, first, second) };
    let path = string(&memory, path, MAX_PATH)?.0;
    let cwd = fs::read_link(format!("/proc/{outer_pid}/cwd")).unwrap_or_default();
    let place = Place { outer_pid, cwd: &cwd, directory };
    let file = place.open(&path).ok()?;
    let (argv, truncated) = arguments(&memory, argv);
    Some(Launch {
        pid: inner(&status).unwrap_or(outer_pid),
        ppid: parent(&status),
        outer_pid,
        path: place.name(&path, &file),
        argv,
        cwd: text(cwd.as_os_str().as_bytes()),
        truncated,
        file: Some(file),
    })
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

fn number(status: &str, name: &str) -> Option<i32> {
    field(status, name)?.trim().parse().ok()
}

/// The thread group's number in the innermost pid namespace.
fn inner(status: &str) -> Option<i32> {
    field(status, "NStgid")?.split_whitespace().last()?.parse().ok()
}

fn parent(status: &str) -> i32 {
    let outer = number(status, "PPid").unwrap_or(0);
    fs::read_to_string(format!("/proc/{outer}/status")).ok().and_then(|status| inner(&status)).unwrap_or(0)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where a path starts from.
struct Place<'a> {
    outer_pid: i32,
    cwd: &'a Path,
    directory: Option<RawFd>,
}

impl Place<'_> {
    fn open(&self, path: &[u8]) -> io::Result<File> {
        match self.magic(path) {
            Some(link) => open_path(&link),
            None => self.open_in_root(&self.absolute(path)?),
        }
    }

    /// An empty path with a descriptor, and the links that every process has to itself.
    fn magic(&self, path: &[u8]) -> Option<PathBuf> {
        let own = format!("/proc/{}", self.outer_pid);
        let path = std::str::from_utf8(path).ok()?;
        if path.is_empty() {
            return self.directory.map(|fd| format!("{own}/fd/{fd}").into());
        }
        let fd = path.strip_prefix("/proc/self/fd/").or_else(|| path.strip_prefix("/dev/fd/"));
        let fd = fd.and_then(|fd| fd.parse::<u32>().ok());
        let exe = (path == "/proc/self/exe").then(|| format!("{own}/exe").into());
        fd.map(|fd| format!("{own}/fd/{fd}").into()).or(exe)
    }

    fn absolute(&self, path: &[u8]) -> io::Result<PathBuf> {
        let path = Path::new(OsStr::from_bytes(path));
        let base = match self.directory {
            Some(fd) if fd != libc::AT_FDCWD => fs::read_link(format!("/proc/{}/fd/{fd}", self.outer_pid))?,
            _ => self.cwd.to_path_buf(),
        };
        Ok(base.join(path))
    }

    /// As the caller would resolve it: every link stays below its root.
    fn open_in_root(&self, path: &Path) -> io::Result<File> {
        let root = open_path(Path::new(&format!("/proc/{}/root", self.outer_pid)))?;
        let path = sys::cpath(path)?;
        // SAFETY: open_how is plain data of the size that is passed.
        unsafe {
            let mut how: libc::open_how = std::mem::zeroed();
            how.flags = (libc::O_PATH | libc::O_CLOEXEC) as u64;
            how.resolve = libc::RESOLVE_IN_ROOT;
            let size = size_of::<libc::open_how>();
            let fd = libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), &how, size);
            sys::check(fd).map(|fd| File::from(sys::owned(fd as RawFd)))
        }
    }

    /// The spelled path, or what a descriptor stands for.
    fn name(&self, path: &[u8], file: &File) -> String {
        if self.magic(path).is_some() {
            let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
            return text(link.as_os_str().as_bytes());
        }
        self.absolute(path).map_or_else(|_| text(path), |path| text(path.as_os_str().as_bytes()))
    }
}

fn open_path(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)
}

fn arguments(memory: &File, array: u64) -> (Vec<String>, bool) {
    let mut argv = Vec::new();
    let mut total = 0;
    for index in 0..=MAX_ARGUMENTS as u64 {
        let pointer = array.checked_add(index * 8).and_then(|at| word(memory, at)).unwrap_or(0);
        if pointer == 0 {
            return (argv, false);
        }
        if index == MAX_ARGUMENTS as u64 || total >= MAX_TOTAL {
            return (argv, true);
        }
        let Some((argument, whole)) = string(memory, pointer, MAX_ARGUMENT) else { return (argv, true) };
        total += argument.len();
        argv.push(text(&argument));
        if !whole {
            return (argv, true);
        }
    }
    (argv, true)
}

fn word(memory: &File, at: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    memory.read_exact_at(&mut bytes, at).ok().map(|()| u64::from_ne_bytes(bytes))
}

/// The bytes up to NUL, at most `limit`; false when there were more. Read page by page: the next may not exist.
fn string(memory: &File, at: u64, limit: usize) -> Option<(Vec<u8>, bool)> {
    const PAGE: u64 = 4096;
    let mut found = Vec::new();
    while found.len() < limit {
        let from = at.checked_add(found.len() as u64)?;
        let length = ((PAGE - from % PAGE) as usize).min(limit - found.len());
        let mut chunk = vec![0; length];
        let read = memory.read_at(&mut chunk, from).ok().filter(|&read| read > 0)?;
        match chunk[..read].iter().position(|&byte| byte == 0) {
            Some(end) => {
                found.extend_from_slice(&chunk[..end]);
                return Some((found, true));
            }
            None => found.extend_from_slice(&chunk[..read]),
        }
    }
    Some((found, false))
}
