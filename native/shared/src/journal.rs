//! Session journals. Format: docs/architecture.md, "Journals". The TypeScript twin is src/audit/journal.ts;
//! both are held to test/fixtures/journal.
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;

/// First bytes of every journal.
pub const MAGIC: &[u8; 8] = b"AMBITJ1\n";
/// Longest payload, bytes.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// A session that writes more is a flood: it ends, rather than fill the user's disk.
pub const MOST_BYTES: u64 = 1 << 30;

/// An append-only journal. One writer process; several threads may append.
///
/// After the first failed write or sync the journal is dead: every later call fails, and its owner must stop
/// (fail closed; a retried fsync would lie, A-05).
pub struct Journal {
    file: Mutex<File>,
    written: AtomicU64,
    synced: AtomicU64,
    sync_turn: Mutex<()>,
    dead: AtomicBool,
    limit: u64,
}

/// Wall clock in milliseconds and monotonic clock in microseconds, as facts carry them.
pub fn clocks() -> (u64, u64) {
    fn read(id: libc::clockid_t) -> libc::timespec {
        let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: ts is a valid timespec; both clocks always exist on Linux.
        unsafe { libc::clock_gettime(id, &mut ts) };
        ts
    }
    let wall = read(libc::CLOCK_REALTIME);
    let mono = read(libc::CLOCK_MONOTONIC);
    (
        wall.tv_sec as u64 * 1000 + wall.tv_nsec as u64 / 1_000_000,
        mono.tv_sec as u64 * 1_000_000 + mono.tv_nsec as u64 / 1000,
    )
}

/// Bytes that most records fit in.
const TYPICAL: usize = 256;
/// Length and checksum before each payload.
const HEAD: usize = 8;

/// Makes room for a record's head at the end of `records`; where it is, for `frame_end`.
pub fn frame_start(records: &mut Vec<u8>) -> usize {
    let head = records.len();
    records.extend_from_slice(&[0; HEAD]);
    head
}

/// Fills in the head of the record that ends `records`, now that its payload is there.
pub fn frame_end(records: &mut [u8], head: usize) -> io::Result<()> {
    let (head, payload) = records[head..].split_at_mut(HEAD);
    if payload.is_empty() || payload.len() > MAX_PAYLOAD {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "fact too large for the journal"));
    }
    head[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    head[4..].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    Ok(())
}

fn add_record(records: &mut Vec<u8>, fact: &impl Serialize) -> io::Result<()> {
    let head = frame_start(records);
    serde_json::to_writer(&mut *records, fact)?;
    frame_end(records, head)
}

#[derive(Serialize)]
struct Stamped<'a, T: Serialize> {
    #[serde(flatten)]
    body: &'a T,
    t: u64,
    m: u64,
}

impl Journal {
    /// Opens or creates the journal at `path` (mode 0600) and cuts an incomplete tail.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_limited(path, MOST_BYTES)
    }

    /// The same with another limit, for tests.
    pub fn open_limited(path: &Path, limit: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
            .open(path)?;
        let end = valid_length(&mut file)?;
        let whole = end > 0 && end == file.metadata()?.len();
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        if end == 0 {
            file.write_all(MAGIC)?;
        }
        // Whoever made one that is whole saw to its name (src/session/register.ts).
        if !whole {
            file.sync_all()?;
            if let Some(parent) = path.parent() {
                File::open(parent)?.sync_all()?;
            }
        }
        let length = end.max(MAGIC.len() as u64);
        Ok(Self {
            file: Mutex::new(file),
            written: AtomicU64::new(length),
            synced: AtomicU64::new(length),
            sync_turn: Mutex::new(()),
            dead: AtomicBool::new(false),
            limit,
        })
    }

    /// Appends one fact, stamped with both clocks. It is in the kernel when this returns, not yet durable.
    pub fn append<T: Serialize>(&self, fact: &T) -> io::Result<()> {
        self.append_all(std::slice::from_ref(fact))
    }

    /// The same for several facts of one moment, in one write: each is a record of its own.
    pub fn append_all<T: Serialize>(&self, facts: &[T]) -> io::Result<()> {
        let (t, m) = clocks();
        let mut records = Vec::with_capacity(facts.len() * TYPICAL);
        for fact in facts {
            add_record(&mut records, &Stamped { body: fact, t, m })?;
        }
        self.alive()?;
        let mut file = self.file.lock().map_err(|_| broken())?;
        if self.written.load(Ordering::Acquire) + records.len() as u64 > self.limit {
            self.die();
            return Err(io::Error::other(format!("it has reached {} bytes", self.limit)));
        }
        file.write_all(&records).inspect_err(|_| self.die())?;
        self.written.fetch_add(records.len() as u64, Ordering::Release);
        Ok(())
    }

    /// Makes everything appended before this call durable. Concurrent callers share one fdatasync.
    pub fn sync(&self) -> io::Result<()> {
        self.alive()?;
        let want = self.written.load(Ordering::Acquire);
        let _turn = self.sync_turn.lock().map_err(|_| broken())?;
        if self.synced.load(Ordering::Acquire) >= want {
            return self.alive();
        }
        let covered = self.written.load(Ordering::Acquire);
        let fd = {
            use std::os::fd::AsRawFd;
            self.file.lock().map_err(|_| broken())?.as_raw_fd()
        };
        // SAFETY: the fd belongs to self.file and lives as long as self.
        if unsafe { libc::fdatasync(fd) } != 0 {
            let error = io::Error::last_os_error();
            self.die();
            return Err(error);
        }
        self.synced.store(covered, Ordering::Release);
        Ok(())
    }

    fn die(&self) {
        self.dead.store(true, Ordering::Release);
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead.load(Ordering::Acquire) { Err(broken()) } else { Ok(()) }
    }
}

fn broken() -> io::Error {
    io::Error::other("journal failed earlier; nothing more is recorded")
}

/// Length of the longest valid prefix: 0 for an empty or torn header, an error for another file.
fn valid_length(file: &mut File) -> io::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    longest_prefix(&mut BufReader::with_capacity(MAX_PAYLOAD, file))
}

/// Record by record: a journal may be as long as its limit.
fn longest_prefix(reader: &mut impl Read) -> io::Result<u64> {
    let mut magic = Vec::new();
    reader.take(MAGIC.len() as u64).read_to_end(&mut magic)?;
    if magic != MAGIC {
        return if MAGIC.starts_with(&magic) { Ok(0) } else { Err(foreign()) };
    }
    let (mut at, mut header, mut payload) = (MAGIC.len() as u64, Vec::new(), Vec::new());
    loop {
        header.clear();
        reader.take(8).read_to_end(&mut header)?;
        let Ok([a, b, c, d, e, f, g, h]) = <[u8; 8]>::try_from(header.as_slice()) else { return Ok(at) };
        let (length, sum) = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]));
        if !(1..=MAX_PAYLOAD).contains(&length) {
            return Ok(at);
        }
        payload.clear();
        reader.take(length as u64).read_to_end(&mut payload)?;
        if payload.len() < length || crc32fast::hash(&payload) != sum {
            return Ok(at);
        }
        at += 8 + length as u64;
    }
}

fn foreign() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not an Ambit journal")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: &[u8]) -> Vec<u8> {
        let head = [(payload.len() as u32).to_le_bytes(), crc32fast::hash(payload).to_le_bytes()].concat();
        [&head, payload].concat()
    }

    #[test]
    fn fuzz_journal_prefix() {
        let two = [&MAGIC[..], &record(b"{\"k\":\"a\"}"), &record(b"{}")].concat();
        crate::fuzz::fuzz("journal-prefix", &[&two, MAGIC, b"AMBITJ"], |input| {
            let Ok(length) = longest_prefix(&mut &input[..]) else { return };
            let valid = &input[..length as usize];
            // What is kept stays valid, and a whole record behind it is kept, too.
            assert_eq!(longest_prefix(&mut &valid[..]).unwrap(), length);
            if length > 0 {
                let more = [valid, &record(b"more")].concat();
                assert_eq!(longest_prefix(&mut &more[..]).unwrap(), more.len() as u64);
            }
        });
    }

    #[test]
    fn several_facts_are_records_of_their_own() {
        let path = std::env::temp_dir().join(format!("ambit-journal-all-{}", std::process::id()));
        let journal = Journal::open(&path).unwrap();
        let fact = |k: &str| std::collections::BTreeMap::from([("k".to_owned(), k.to_owned())]);
        journal.append_all(&[fact("a"), fact("b")]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let first = 16 + u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
        assert!(
            bytes[16..first].starts_with(b"{\"k\":\"a\"") && bytes[first + 8..].starts_with(b"{\"k\":\"b\"")
        );
        // Whole, and cut at the record where it is torn.
        assert_eq!(longest_prefix(&mut &bytes[..]).unwrap(), bytes.len() as u64);
        assert_eq!(longest_prefix(&mut &bytes[..bytes.len() - 1]).unwrap(), first as u64);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_flood_ends_the_journal_and_says_why() {
        let path = std::env::temp_dir().join(format!("ambit-journal-{}", std::process::id()));
        let journal = Journal::open_limited(&path, 1000).unwrap();
        let fact = std::collections::BTreeMap::from([("k", "x".repeat(200))]);
        let why = std::iter::repeat_with(|| journal.append(&fact)).find_map(Result::err).unwrap();
        assert_eq!(why.to_string(), "it has reached 1000 bytes");
        // Dead for good: what came later is not recorded, and nobody is told that it was.
        assert!(journal.append(&std::collections::BTreeMap::from([("k", "small")])).is_err());
        assert!(journal.sync().is_err());
        assert!(std::fs::metadata(&path).unwrap().len() <= 1000);
        std::fs::remove_file(path).unwrap();
    }
}
