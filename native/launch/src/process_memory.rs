//! What a process that waits in `execve` asked for, read from its memory. All of it is attacker-controlled: bounded
//! here, escaped where a person reads it.
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;

use crate::exec_path::{Place, text};
use crate::sensor::Notification;

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
