//! SHA-256 of what runs, remembered by the file's identity where its times tell of every change. Small files are hashed
//! before the process goes on; a large one (a 100 MB runtime costs 100 ms) goes on at once and its digest follows as a
//! `file.hash` fact.
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ambit_shared::journal::Journal;
use sha2::{Digest, Sha256};

use crate::alarm::{Alarm, Bell};
use crate::failure::Failure;
use crate::sensor::Fact;

const INLINE: u64 = 4 << 20;
const LARGEST: u64 = 512 << 20;
const CACHED: usize = 8192;
/// More than a tick of the kernel's clock, within which two changes may bear one time.
const TICK: Duration = Duration::from_millis(100);
/// Large files that may wait; an agent that runs more at once leaves the rest without a digest.
const WAITING: usize = 8;

/// Device, inode, size, mtime and ctime: a file that changes has another key.
type Key = (u64, u64, u64, i64, i64, i64, i64);
type Cache = Arc<Mutex<HashMap<Key, Option<String>>>>;

/// Where a change to come gives the file another key. Not on an agent's own files of other file systems: writing
/// through a mapping leaves the times as they are (tmpfs), or changes them but once for all that is written until the
/// page is clean (ext4). That such a mapping makes execve fail does not help, for it is asked about before that.
#[derive(Clone, Copy, PartialEq)]
pub enum Lasting {
    ReadOnly,
    /// And on the view, whose device this is: the kernel writes what a mapping changed, at the latest when the mapping
    /// goes. Another FUSE file system may show other content under the same times.
    View(u64),
}

struct Large {
    key: Key,
    file: File,
    path: String,
    /// Belongs to the session's uid (0 in this user namespace), so the agent or its user may have made it. Installed
    /// by the system otherwise: a session that ends before such a digest is known does not wait for it.
    own: bool,
    /// What is found may be remembered.
    lasting: bool,
}

pub struct Digests {
    where_lasting: Lasting,
    cache: Cache,
    queue: Option<SyncSender<Large>>,
    worker: Option<JoinHandle<()>>,
    ending: Arc<AtomicBool>,
}

impl Digests {
    pub fn new(journal: Arc<Journal>, bell: Bell, where_lasting: Lasting) -> Self {
        let (queue, waiting) = sync_channel::<Large>(WAITING);
        let cache = Cache::default();
        let known = cache.clone();
        let ending = Arc::new(AtomicBool::new(false));
        let ends = ending.clone();
        let worker = std::thread::spawn(move || {
            for large in waiting {
                if let Err(error) = hash_large(large, &known, &journal, &ends) {
                    bell.ring(Alarm::Failed(Failure::new("recording a digest", error)));
                }
            }
        });
        Self { where_lasting, cache, queue: Some(queue), worker: Some(worker), ending }
    }

    /// `None` = unknown for now (large) or for ever (no regular file, unreadable).
    pub fn of(&mut self, path_only: &File, path: &str) -> Option<String> {
        let metadata = path_only.metadata().ok().filter(fs::Metadata::is_file)?;
        let key = key(&metadata);
        if let Some(known) = self.cache.lock().ok()?.get(&key) {
            return known.clone();
        }
        let lasting = tells_changes(path_only, &metadata, self.where_lasting);
        let file = reopen(path_only).ok()?;
        let digest = if metadata.len() <= INLINE {
            Some(hash(&file, metadata.len(), &|| false).ok()?)
        } else {
            let large = Large { key, file, path: path.into(), own: metadata.uid() == 0, lasting };
            if metadata.len() > LARGEST || self.queue.as_ref()?.try_send(large).is_err() {
                return None;
            }
            None
        };
        if lasting && has_key(path_only, &key) {
            remember(&self.cache, key, digest.clone());
        }
        digest
    }

    /// Waits for the digests of the user's own files that are still on their way.
    pub fn finish(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        self.queue = None;
        self.worker.take().map(JoinHandle::join);
    }
}

/// Whether a change to come gives the file another key. Not of one that was changed a moment ago.
fn tells_changes(file: &File, metadata: &fs::Metadata, lasting: Lasting) -> bool {
    let changed = Duration::new(metadata.ctime().max(0) as u64, metadata.ctime_nsec() as u32);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let rests = now.checked_sub(changed).is_some_and(|age| age > TICK);
    rests && (lasting == Lasting::View(metadata.dev()) || is_read_only(file))
}

fn is_read_only(file: &File) -> bool {
    // SAFETY: a zeroed structure is valid, and the kernel fills it or says that it did not.
    unsafe {
        let mut mount: libc::statvfs = std::mem::zeroed();
        libc::fstatvfs(file.as_raw_fd(), &mut mount) == 0 && mount.f_flag & libc::ST_RDONLY != 0
    }
}

fn has_key(file: &File, known: &Key) -> bool {
    file.metadata().is_ok_and(|metadata| key(&metadata) == *known)
}

fn key(metadata: &fs::Metadata) -> Key {
    (
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}

/// An `O_PATH` descriptor, opened for reading. It is a regular file, so this cannot block as a FIFO would.
fn reopen(path_only: &File) -> io::Result<File> {
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", path_only.as_raw_fd()))
}

fn remember(cache: &Cache, key: Key, digest: Option<String>) {
    if let Ok(mut cache) = cache.lock() {
        if cache.len() >= CACHED {
            cache.clear();
        }
        cache.insert(key, digest);
    }
}

fn hash_large(large: Large, cache: &Cache, journal: &Journal, ending: &AtomicBool) -> io::Result<()> {
    let abandoned = || !large.own && ending.load(Ordering::Relaxed);
    let Ok(sha256) = hash(&large.file, large.key.2, &abandoned) else { return Ok(()) };
    if !has_key(&large.file, &large.key) {
        return Ok(()); // Changed meanwhile: this is the digest of nothing that ran.
    }
    if large.lasting {
        remember(cache, large.key, Some(sha256.clone()));
    }
    journal.append(&Fact::Hash { path: large.path, size: large.key.2, sha256 })
}

/// Of a file that has `size` bytes. One that has grown since has no digest: it may have no end.
fn hash(mut file: &File, size: u64, abandoned: &dyn Fn() -> bool) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut left = size;
    while !abandoned() {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            length => {
                left = left.checked_sub(length as u64).ok_or(io::ErrorKind::FileTooLarge)?;
                hasher.update(&buffer[..length]);
            }
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_change_unseen_is_remembered_on_the_view_only() {
        let path = std::env::temp_dir().join(format!("ambit-digest-{}", std::process::id()));
        fs::write(&path, "abc").unwrap();
        std::thread::sleep(2 * TICK);
        let file = File::open(&path).unwrap();
        let metadata = file.metadata().unwrap();
        let device = crate::fuse::device(&path).unwrap();
        assert_eq!(device, metadata.dev());
        let tells = |lasting| tells_changes(&file, &metadata, lasting);
        assert!(tells(Lasting::View(device)));
        assert!(!tells(Lasting::View(device + 1)), "as another file system of the same kind");
        assert!(!tells(Lasting::ReadOnly));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_that_grows_has_no_digest() {
        let file = |bytes: &[u8]| File::from(crate::sys::memfd(c"ambit-test", bytes).unwrap());
        let never = || false;
        assert!(hash(&file(b"abc"), 3, &never).unwrap().starts_with("ba7816bf"));
        let endless = file(b"abc");
        endless.set_len(1 << 60).unwrap();
        assert!(hash(&endless, 3, &never).is_err());
    }
}
