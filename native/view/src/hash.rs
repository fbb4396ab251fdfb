//! SHA-256 of file contents, cached by (device, inode, size, mtime) and computed off the hot path.
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{OFlags, Stat};
use sha2::{Digest, Sha256};

use crate::quota::Quota;
use crate::record::{Fact, Recorder};
use crate::sys::{reopen, stat_fd};
use crate::tree::Id;

/// Larger files are not read a second time for their digest.
const MAX_HASHED: u64 = 256 << 20;
/// Files that wait to be hashed; each holds a descriptor.
const QUEUE: usize = 512;
const CACHE: usize = 100_000;
/// Two changes within it may bear the same time: file systems keep it by the kernel's tick, of 10 ms at most.
const TICK: Duration = Duration::from_millis(20);
/// The same where whole seconds are kept (ext3, small inodes of ext4).
const COARSE: Duration = Duration::from_millis(1020);
/// Less than the supervisor waits before it kills the view (src/view/view.ts).
const DRAIN: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    id: Id,
    size: u64,
    mtime: (i64, u64),
    /// Unlike the other time it cannot be set by whoever writes.
    ctime: (i64, u64),
}

impl From<&Stat> for Version {
    fn from(stat: &Stat) -> Self {
        Version {
            id: stat.into(),
            size: stat.st_size as u64,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

impl Version {
    pub fn id(&self) -> Id {
        self.id
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// How long until a change of the content would show in the times.
    pub fn unsettled(&self) -> Duration {
        let since = Duration::new(self.ctime.0.max(0) as u64, self.ctime.1 as u32);
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + since).unwrap_or_default();
        let tick = if self.ctime.1 == 0 { COARSE } else { TICK };
        tick.saturating_sub(age)
    }
}

enum Job {
    Hash { file: Arc<File>, path: String, version: Version },
    Stop,
}

pub struct Hasher {
    queue: SyncSender<Job>,
    cache: Mutex<HashMap<Version, String>>,
    /// Set when the view stops: what is not hashed by then stays on record without a digest.
    until: OnceLock<Instant>,
}

/// Digest of the first `size` bytes.
pub fn digest(file: &File, size: u64) -> io::Result<String> {
    digest_while(file, size, || true)
}

/// The same, as long as `wanted` says so.
fn digest_while(file: &File, size: u64, wanted: impl Fn() -> bool) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; size.clamp(1, 128 << 10) as usize];
    let mut at = 0;
    while at < size {
        if !wanted() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let want = buffer.len().min((size - at) as usize);
        match file.read_at(&mut buffer[..want], at)? {
            0 => break,
            read => {
                hash.update(&buffer[..read]);
                at += read as u64;
            }
        }
    }
    Ok(hex(&hash.finalize()))
}

/// The file for a read that leaves no trace in its times: they may be what the agent has set meanwhile. Only the owner
/// and root can read so.
fn unseen(file: &Arc<File>) -> Arc<File> {
    reopen(file, OFlags::RDONLY | OFlags::NOATIME).map_or_else(|_| file.clone(), |fd| Arc::new(fd.into()))
}

pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub struct Worker(Receiver<Job>);

impl Hasher {
    pub fn new() -> (Self, Worker) {
        let (queue, jobs) = sync_channel(QUEUE);
        (Hasher { queue, cache: Mutex::default(), until: OnceLock::new() }, Worker(jobs))
    }

    pub fn known(&self, version: Version) -> Option<String> {
        self.cache.lock().unwrap().get(&version).cloned()
    }

    pub fn remember(&self, version: Version, sha256: &str) {
        let mut cache = self.cache.lock().unwrap();
        if cache.len() >= CACHE {
            cache.clear();
        }
        cache.insert(version, sha256.to_owned());
    }

    /// Hashes later; a `file.hash` fact follows. Beyond the queue's length the open or write is on record without it.
    /// False when it is not to be: nothing is kept.
    pub fn later(&self, file: &Arc<File>, path: &str, version: Version) -> bool {
        if version.size > MAX_HASHED {
            return false;
        }
        let job = Job::Hash { file: file.clone(), path: path.to_owned(), version };
        self.queue.try_send(job).is_ok()
    }

    /// Lets the worker finish what is queued, within reason, and end.
    pub fn stop(&self) {
        let _ = self.until.set(Instant::now() + DRAIN);
        let _ = self.queue.send(Job::Stop);
    }
}

impl Worker {
    /// Body of the hasher's thread.
    pub fn run(self, hasher: &Hasher, record: &Recorder, quota: &Quota) {
        while let Ok(Job::Hash { file, path, version }) = self.0.recv() {
            let sha256 = hasher.known(version).or_else(|| hasher.hash(&file, version, quota));
            // Closed before its space counts as free.
            drop(file);
            quota.let_go(version.id);
            let Some(sha256) = sha256 else { continue };
            if record.append(&Fact::Hash { path: &path, size: version.size, sha256: &sha256 }).is_err() {
                return;
            }
        }
    }
}

impl Hasher {
    /// `None` leaves the open or write on record without a digest.
    fn hash(&self, file: &Arc<File>, version: Version, quota: &Quota) -> Option<String> {
        // A deleted file is hashed like any other, unless such files keep too much of the quota from the agent.
        let wanted = || !quota.is_pressed() || stat_fd(file).is_ok_and(|stat| stat.st_nlink > 0);
        if !wanted() || self.until.get().is_some_and(|until| Instant::now() > *until) {
            return None;
        }
        std::thread::sleep(version.unsettled());
        let sha256 = digest_while(&unseen(file), version.size, wanted).ok()?;
        // Changed since: whoever wrote it will bring the new content here.
        if !stat_fd(file).is_ok_and(|stat| Version::from(&stat) == version) {
            return None;
        }
        self.remember(version, &sha256);
        Some(sha256)
    }
}
