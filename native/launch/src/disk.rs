//! What the session adds to the disk beside the view, which has a quota of its own: the agent's home is a plain bind.
//! It is measured by walking it, when the file system under it has filled or some time has passed, so a session goes
//! over by at most what can be written in one look of the watchdog and one walk. Counted too: files that were unlinked
//! while a process keeps them open or mapped. Not counted: descriptors that lie in a socket on their way. What was there
//! before is walked while the cell is made (2 µs a name), and the command waits for the end of that.
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::control::{Control, Orders};
use crate::failure::{Context, Failure, Result};
use crate::spec::Mount;
use crate::sys;

/// A walk takes at most one part in fifty of the time.
const IDLE: u32 = 50;
const AT_LEAST: Duration = Duration::from_secs(5);
/// Growth of the file system that is not worth a walk.
const SMALL: u64 = 4 << 20;
/// Levels that are walked; who goes deeper counts as unreadable.
const DEPTH: usize = 500;

/// What a walk found.
#[derive(Default, Clone, Copy)]
struct Size {
    bytes: u64,
    names: u64,
    /// Something could not be read, so it is more than this.
    partial: bool,
}

/// What lies in the writable binds before the command starts, being measured.
pub struct Baseline {
    thread: JoinHandle<io::Result<Vec<Disk>>>,
    /// At its end when the thread is.
    known: OwnedFd,
}

impl Baseline {
    /// `bytes` may be added to each. Sources of `mounts` are as this process reaches them.
    pub fn begin(mounts: &[Mount], bytes: u64) -> io::Result<Self> {
        let homes = mounts.iter().filter_map(|mount| match mount {
            Mount::Bind { source, write: true, .. } => Some(source.clone()),
            _ => None,
        });
        let homes: Vec<PathBuf> = homes.collect();
        let (known, measuring) = sys::pipe()?;
        let thread = thread::spawn(move || {
            let _measuring = measuring;
            homes.iter().map(|home| Disk::new(home, bytes)).collect()
        });
        Ok(Self { thread, known })
    }

    /// Waits for it, while the supervisor may call it off.
    pub fn finish(self, control: &Control, orders: &mut Orders) -> Result<Vec<Disk>> {
        let what = "measuring the home";
        orders.until_readable(self.known.as_raw_fd(), control, what)?;
        self.thread.join().map_err(|_| Failure::new(what, "it broke off"))?.context(what)
    }
}

pub struct Disk {
    home: OwnedFd,
    device: u64,
    bytes: u64,
    names: u64,
    before: Size,
    used_before: u64,
    used_at_walk: u64,
    left: u64,
    next: Instant,
}

impl Disk {
    /// `home` as this process reaches it; it is walked once for what is there already.
    pub fn new(home: &Path, bytes: u64) -> io::Result<Self> {
        let home = open_dir(libc::AT_FDCWD, &sys::cpath(home)?, 0)?;
        let device = fs::metadata(proc_path(&home))?.dev();
        let used = used(&home)?;
        let started = Instant::now();
        let before = walk(&home);
        // The same rule as the view's: src/session/wire.ts.
        let names = (bytes / 8192).max(10_000);
        let next = started + pause(started.elapsed());
        Ok(Disk {
            home,
            device,
            bytes,
            names,
            before,
            used_before: used,
            used_at_walk: used,
            left: bytes,
            next,
        })
    }

    /// True when the session has added more than it may. `processes`: directories in /proc.
    pub fn is_over(&mut self, processes: &[impl AsRef<Path>]) -> bool {
        let Ok(used) = used(&self.home) else { return true };
        let grown = used.saturating_sub(self.used_at_walk);
        if grown < (self.left / 4).max(SMALL) && Instant::now() < self.next {
            return false;
        }
        let started = Instant::now();
        let now = walk(&self.home);
        let mut added = now.bytes.saturating_sub(self.before.bytes) + self.unlinked(processes);
        if now.partial {
            // What cannot be read is as large as the file system has grown.
            added = added.max(used.saturating_sub(self.used_before));
        }
        self.used_at_walk = used;
        self.left = self.bytes.saturating_sub(added);
        self.next = started + pause(started.elapsed());
        added > self.bytes || now.names.saturating_sub(self.before.names) > self.names
    }

    /// Bytes of files on the home's file system that have no name left but are open or mapped.
    fn unlinked(&self, processes: &[impl AsRef<Path>]) -> u64 {
        let mut files: HashMap<u64, u64> = HashMap::new();
        for process in processes {
            // A thread may have a table of descriptors of its own.
            let Ok(threads) = fs::read_dir(process.as_ref().join("task")) else { continue };
            for descriptors in threads.flatten().flat_map(|thread| fs::read_dir(thread.path().join("fd"))) {
                for file in descriptors.flatten().flat_map(|entry| fs::metadata(entry.path())) {
                    if file.nlink() == 0 && file.dev() == self.device && file.is_file() {
                        files.insert(file.ino(), file.blocks() * 512);
                    }
                }
            }
            let maps = fs::read_to_string(process.as_ref().join("maps")).unwrap_or_default();
            for (inode, length) in maps.lines().filter_map(|line| mapped(line, self.device)) {
                let known = files.entry(inode).or_default();
                *known = (*known).max(length);
            }
        }
        files.values().sum()
    }
}

fn pause(walk: Duration) -> Duration {
    (walk * IDLE).max(AT_LEAST)
}

/// Inode and length of a mapping of an unlinked file on `device`: `START-END PERMS OFFSET MAJOR:MINOR INODE PATH`.
fn mapped(line: &str, device: u64) -> Option<(u64, u64)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (major, minor) = words.nth(2)?.split_once(':')?;
    let inode: u64 = words.next()?.parse().ok()?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    let same = libc::makedev(number(major)?, number(minor)?) == device;
    let address = |text| u64::from_str_radix(text, 16).ok();
    (same && line.ends_with(" (deleted)")).then_some((inode, address(end)? - address(start)?))
}

/// Bytes in use on the file system.
fn used(fd: &OwnedFd) -> io::Result<u64> {
    // SAFETY: statvfs is plain data that the call fills.
    unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        sys::check(libc::fstatvfs(fd.as_raw_fd(), &mut found))?;
        Ok((found.f_blocks - found.f_bfree) * found.f_frsize)
    }
}

/// Adds up what is beneath `home`, without leaving its mount and without following links: the agent makes its tree.
fn walk(home: &OwnedFd) -> Size {
    let mut size = Size::default();
    let mut open: Vec<(OwnedFd, Vec<CString>)> = Vec::new();
    enter(home.as_raw_fd(), c".", &mut size, &mut open);
    while let Some(depth) = open.len().checked_sub(1) {
        let (directory, names) = &mut open[depth];
        match names.pop() {
            None => drop(open.pop()),
            Some(_) if depth >= DEPTH => size.partial = true,
            Some(name) => {
                let parent = directory.as_raw_fd();
                enter(parent, &name, &mut size, &mut open);
            }
        }
    }
    size
}

/// Counts what a directory holds; its directories are to be entered next.
fn enter(parent: i32, name: &CStr, size: &mut Size, open: &mut Vec<(OwnedFd, Vec<CString>)>) {
    let directory = match open_dir(parent, name, libc::RESOLVE_NO_XDEV) {
        Ok(directory) => directory,
        // Another mount, or gone meanwhile.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EXDEV | libc::ENOENT | libc::ENOTDIR)) => {
            return;
        }
        Err(_) => return size.partial = true,
    };
    let Ok(entries) = fs::read_dir(proc_path(&directory)) else { return size.partial = true };
    let mut deeper = Vec::new();
    for entry in entries.flatten() {
        size.names += 1;
        // Of the entry itself, by descriptor: no link is followed.
        let Ok(stat) = entry.metadata() else { continue };
        if stat.is_dir() {
            deeper.extend(CString::new(entry.file_name().as_bytes()));
        } else {
            // A file with two names counts twice: the bound errs towards less.
            size.bytes += stat.blocks() * 512;
        }
    }
    open.push((directory, deeper));
}

fn open_dir(parent: i32, name: &CStr, resolve: u64) -> io::Result<OwnedFd> {
    // SAFETY: open_how is plain data; the kernel reads it and the name, and returns a descriptor that is ours.
    unsafe {
        let mut how: libc::open_how = std::mem::zeroed();
        how.flags = (libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) as u64;
        how.resolve = resolve;
        if resolve != 0 {
            how.flags |= libc::O_NOFOLLOW as u64;
        }
        let fd = libc::syscall(libc::SYS_openat2, parent, name.as_ptr(), &how, size_of::<libc::open_how>());
        Ok(sys::owned(sys::check(fd)? as i32))
    }
}

fn proc_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn scratch(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("ambit-disk-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("a/b")).unwrap();
        path
    }

    #[test]
    fn what_is_there_already_does_not_count_and_growth_does() {
        let home = scratch("growth");
        fs::write(home.join("a/old"), vec![1; 8 << 20]).unwrap();
        let mut disk = Disk::new(&home, 6 << 20).unwrap();
        disk.next = Instant::now();
        let own = [Path::new("/proc/self").to_path_buf()];
        assert!(!disk.is_over(&own));
        fs::write(home.join("a/b/new"), vec![1; 12 << 20]).unwrap();
        disk.next = Instant::now();
        assert!(disk.is_over(&own));
        // Without a name, and held open: still there.
        let mut held = fs::File::create(home.join("gone")).unwrap();
        fs::remove_file(home.join("a/b/new")).unwrap();
        fs::remove_file(home.join("gone")).unwrap();
        disk.next = Instant::now();
        assert!(!disk.is_over(&own));
        held.write_all(&vec![1; 12 << 20]).unwrap();
        disk.next = Instant::now();
        assert!(disk.is_over(&own));
        fs::remove_dir_all(home).unwrap();
    }

    #[test]
    fn a_mapping_without_a_file_is_read_as_proc_shows_it() {
        let line = "7f00-8f00 rw-s 00000000 fe:00 42   /home/a b/x (deleted)";
        assert_eq!(mapped(line, libc::makedev(0xfe, 0)), Some((42, 0x1000)));
        assert_eq!(mapped(line, libc::makedev(0xfe, 1)), None);
        assert_eq!(mapped("7f00-8f00 rw-s 00000000 fe:00 42 /x", libc::makedev(0xfe, 0)), None);
    }
}
