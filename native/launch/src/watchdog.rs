//! Limits where no cgroup is delegated: a thread that counts and kills. It samples, so it says *partly*: a burst
//! between two looks passes. Near a limit it looks more often.
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::alarm::{Alarm, Bell};
use crate::disk::Disk;
use crate::gvisor::{bundle, outside};
use crate::spec::{Cell, Limits, Mount};

const CALM: Duration = Duration::from_millis(200);
const NEAR: Duration = Duration::from_millis(20);

/// What one look sees.
struct Usage {
    pids: Vec<String>,
    processes: u64,
    /// Upper bound: pages that processes share count for each.
    resident: u64,
    /// What lies in the session's own tmpfs mounts.
    stored: u64,
}

pub struct Watchdog {
    /// The cell's root as PID 1 has it; its /proc lists exactly the cell's processes.
    root: fs::File,
    /// Held from the start: an agent can move the directory that such a mount lies in.
    tmpfs: Vec<fs::File>,
    /// A guest's memory.
    guest: Option<fs::File>,
    processes: u64,
    memory: u64,
    /// Where the agent's own files lie on the host's disk.
    homes: Vec<Disk>,
}

impl Watchdog {
    /// `init`: PID 1 of the cell, as we count.
    pub fn new(
        mounts: &[Mount],
        limits: Limits,
        cell: &Cell,
        init: libc::pid_t,
        homes: Vec<Disk>,
    ) -> std::io::Result<Self> {
        // A guest's own memory is the Sentry's, and counts as its.
        let guest = matches!(cell, Cell::Gvisor { .. });
        let is_ours = |mount: &&Mount| {
            matches!(mount, Mount::Tmpfs { .. }) && !(guest && bundle::is_internal(mount, mounts))
        };
        let placed = |path: &Path| if guest { bundle::placed(path) } else { path.to_path_buf() };
        let root = PathBuf::from(format!("/proc/{init}/root"));
        let below = |path: &Path| path.strip_prefix("/").unwrap_or(path).to_path_buf();
        let tmpfs = mounts.iter().filter(is_ours).map(|mount| placed(mount.target()));
        let tmpfs = tmpfs.chain([PathBuf::from("/dev/shm")]).map(|path| root.join(below(&path)));
        let memory = guest.then(|| outside::memory(&root.join("proc"))).transpose();
        Ok(Self {
            guest: memory.map_err(|failure| io::Error::other(failure.why))?,
            tmpfs: tmpfs.map(fs::File::open).collect::<std::io::Result<_>>()?,
            root: fs::File::open(&root)?,
            processes: limits.processes,
            memory: limits.memory,
            homes,
        })
    }

    /// Until something is over a limit or the cell is gone.
    pub fn run(mut self, bell: &Bell) {
        while let Some(usage) = self.look() {
            let processes: Vec<PathBuf> =
                usage.pids.iter().map(|pid| self.inside("proc").join(pid)).collect();
            if self.homes.iter_mut().any(|home| home.is_over(&processes)) {
                return bell.ring(Alarm::OverLimit("disk"));
            }
            if usage.processes > self.processes {
                return bell.ring(Alarm::OverLimit("processes"));
            }
            // Resident sizes are cheap and too high; the exact sum is taken only when it could matter.
            let near =
                usage.processes > self.processes / 2 || usage.resident + usage.stored > self.memory / 2;
            if usage.resident + usage.stored > self.memory && self.proportional() + usage.stored > self.memory
            {
                return bell.ring(Alarm::OverLimit("memory"));
            }
            std::thread::sleep(if near { NEAR } else { CALM });
        }
    }

    fn inside(&self, path: impl AsRef<Path>) -> PathBuf {
        Path::new("/proc/self/fd").join(self.root.as_raw_fd().to_string()).join(path)
    }

    fn pids(&self) -> Option<Vec<String>> {
        let names = fs::read_dir(self.inside("proc"))
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        // PID 1 is ours.
        let pids: Vec<String> = names.filter(|name| name.parse::<u32>().is_ok_and(|pid| pid > 1)).collect();
        fs::exists(self.inside("proc/1")).ok().filter(|lives| *lives).map(|_| pids)
    }

    fn look(&self) -> Option<Usage> {
        let pids = self.pids()?;
        let resident = pids.iter().filter_map(|pid| resident(&self.inside("proc").join(pid))).sum();
        let stored: u64 = self.tmpfs.iter().filter_map(stored).sum();
        let guest =
            self.guest.iter().flat_map(fs::File::metadata).map(|file| file.blocks() * 512).sum::<u64>();
        let stored = stored + guest;
        Some(Usage { processes: pids.len() as u64, pids, resident, stored })
    }

    /// Sum of PSS; a process that does not show it (it just ended) counts as resident.
    fn proportional(&self) -> u64 {
        let directories =
            self.pids().unwrap_or_default().into_iter().map(|pid| self.inside("proc").join(pid));
        // A guest's memory counts as the file that it is.
        let shared = self.guest.is_none();
        directories
            .filter_map(|directory| proportional(&directory, shared).or_else(|| resident(&directory)))
            .sum()
    }
}

/// Bytes of memory that this process maps, from statm.
fn resident(directory: &Path) -> Option<u64> {
    let statm = fs::read_to_string(directory.join("statm")).ok()?;
    statm.split_whitespace().nth(1)?.parse::<u64>().ok().map(|pages| pages * 4096)
}

/// PSS, with or without what is mapped of shared memory.
fn proportional(directory: &Path, shared: bool) -> Option<u64> {
    let rollup = fs::read_to_string(directory.join("smaps_rollup")).ok()?;
    let kib = |name: &str| -> Option<u64> {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    };
    let without = if shared { 0 } else { kib("Pss_Shmem").unwrap_or(0) };
    kib("Pss").map(|total| total.saturating_sub(without) * 1024)
}

fn stored(mount: &fs::File) -> Option<u64> {
    // SAFETY: statvfs is plain data that the call fills.
    unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        (libc::fstatvfs(mount.as_raw_fd(), &mut found) == 0)
            .then(|| (found.f_blocks - found.f_bfree) * found.f_frsize)
    }
}
