//! Facts about files (src/audit/fact.ts), appended before their effect is released. When the journal fails, every
//! operation fails from then on: the view dies closed.
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use ambit_shared::journal::Journal;
use serde::{Serialize, Serializer};

use crate::sys::errno;

/// Largest size that a fact can say: readers of the log take its numbers for JavaScript's (src/audit/parse-fact.ts).
pub const LARGEST: u64 = (1 << 53) - 1;

/// Refuses a change of a file that would end beyond what can be said of it.
pub fn admit_end(offset: u64, length: u64) -> io::Result<()> {
    match offset.checked_add(length) {
        Some(end) if end <= LARGEST => Ok(()),
        _ => Err(errno(libc::EFBIG)),
    }
}

/// The host may have larger files: their size is on record as the largest.
fn said<S: Serializer>(size: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(*size.min(&LARGEST))
}

#[derive(Serialize)]
#[serde(tag = "k")]
pub enum Fact<'a> {
    #[serde(rename = "file.open")]
    Open {
        path: &'a str,
        mode: &'a str,
        #[serde(serialize_with = "said")]
        size: u64,
        sha256: Option<&'a str>,
        label: &'a str,
    },
    #[serde(rename = "file.write")]
    Write {
        path: &'a str,
        #[serde(serialize_with = "said")]
        size: u64,
        sha256: Option<&'a str>,
        label: &'a str,
    },
    /// Up to `files` files beneath `path` are being written.
    #[serde(rename = "file.intent")]
    Intent { path: &'a str, files: u64, label: &'a str },
    #[serde(rename = "file.create")]
    Create {
        path: &'a str,
        #[serde(rename = "type")]
        kind: &'a str,
    },
    #[serde(rename = "file.delete")]
    Delete { path: &'a str },
    #[serde(rename = "file.rename")]
    Rename { path: &'a str, to: &'a str },
    #[serde(rename = "file.attributes")]
    Attributes { path: &'a str },
    /// The change that the fact before it for this path announced did not happen, or only in part.
    #[serde(rename = "file.failed")]
    Failed {
        path: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<&'a str>,
        op: &'static str,
        reason: &'a str,
    },
    #[serde(rename = "file.hash")]
    Hash {
        path: &'a str,
        #[serde(serialize_with = "said")]
        size: u64,
        sha256: &'a str,
    },
    #[serde(rename = "file.denied")]
    Denied {
        path: &'a str,
        op: &'a str,
        reason: &'a str,
        rule: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        count: Option<u64>,
    },
}

impl<'a> Fact<'a> {
    /// What is to be said when the change that this fact announces failed.
    fn failed(&self, reason: &'a str) -> Option<Fact<'a>> {
        let (path, to, op) = match *self {
            Fact::Create { path, .. } => (path, None, "create"),
            Fact::Delete { path } => (path, None, "delete"),
            Fact::Rename { path, to } => (path, Some(to), "rename"),
            Fact::Attributes { path } => (path, None, "attributes"),
            Fact::Write { path, .. } => (path, None, "write"),
            _ => return None,
        };
        Some(Fact::Failed { path, to, op, reason })
    }
}

/// Equal refusals recorded one by one; further ones are counted and recorded once a second.
const REFUSALS_IN_FULL: u64 = 8;
const COUNTED_EVERY: Duration = Duration::from_secs(1);
/// Different refusals remembered at once.
const REFUSALS_KEPT: usize = 4096;

#[derive(Default)]
struct Refusals {
    seen: HashMap<(String, &'static str, &'static str), Tally>,
}

#[derive(Default)]
struct Tally {
    total: u64,
    unwritten: u64,
    rule: String,
}

#[derive(Default)]
pub struct Stats {
    pub opens: AtomicU64,
    pub reads: AtomicU64,
    pub writes: AtomicU64,
    pub denied: AtomicU64,
}

pub struct Recorder {
    journal: Journal,
    dead: AtomicBool,
    /// Why the journal died.
    died: (Mutex<Option<String>>, Condvar),
    /// When the background thread is to sync.
    wanted: (Mutex<Option<Instant>>, Condvar),
    refusals: Mutex<Refusals>,
    pub stats: Stats,
}

impl Recorder {
    pub fn new(journal: Journal) -> Self {
        Recorder {
            journal,
            dead: AtomicBool::new(false),
            died: Default::default(),
            wanted: Default::default(),
            refusals: Mutex::default(),
            stats: Stats::default(),
        }
    }

    pub fn append(&self, fact: &Fact) -> io::Result<()> {
        self.append_all(std::slice::from_ref(fact))
    }

    /// Several facts of one moment, in one write.
    pub fn append_all(&self, facts: &[Fact]) -> io::Result<()> {
        self.alive()?;
        self.journal.append_all(facts).map_err(|why| self.die(&why))
    }

    /// Records changes, then makes them: whoever kills this process in between leaves a record of what may have
    /// happened, never a change without one. One that fails is on record as failed.
    pub fn ahead<T>(&self, facts: &[Fact], change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.append_all(facts)?;
        change().or_else(|error| {
            let reason = error.to_string();
            let failed: Vec<_> = facts.iter().filter_map(|fact| fact.failed(&reason)).collect();
            self.append_all(&failed)?;
            Err(error)
        })
    }

    /// Everything appended before is durable when this returns.
    pub fn sync(&self) -> io::Result<()> {
        self.alive()?;
        self.journal.sync().map_err(|why| self.die(&why))
    }

    /// Asks the background thread for a sync: at once, so that the close that will need it finds it done, or later.
    pub fn sync_within(&self, lag: Duration) {
        let due = Instant::now() + lag;
        let mut wanted = self.wanted.0.lock().unwrap();
        if wanted.is_none_or(|wanted| wanted > due) {
            *wanted = Some(due);
            self.wanted.1.notify_one();
        }
    }

    /// Body of the background thread: syncs on request, writes counted refusals each second.
    pub fn run(&self) {
        let mut counted = Instant::now() + COUNTED_EVERY;
        loop {
            let asked = self.wait_until(counted);
            if asked && self.sync().is_err() {
                return;
            }
            if Instant::now() >= counted {
                counted = Instant::now() + COUNTED_EVERY;
                if self.write_counted().is_err() {
                    return;
                }
            }
        }
    }

    /// True when a sync is due; false when the time has come.
    fn wait_until(&self, end: Instant) -> bool {
        let mut wanted = self.wanted.0.lock().unwrap();
        loop {
            let now = Instant::now();
            if wanted.is_some_and(|due| due <= now) {
                *wanted = None;
                return true;
            }
            if now >= end {
                return false;
            }
            let next = wanted.map_or(end, |due| due.min(end));
            wanted = self.wanted.1.wait_timeout(wanted, next - now).unwrap().0;
        }
    }

    /// Records a refusal. Bounded: equal ones are counted after the first few, never dropped.
    pub fn denied(&self, path: &str, op: &'static str, reason: &'static str, rule: &str) -> io::Result<()> {
        self.stats.denied.fetch_add(1, Ordering::Relaxed);
        {
            let mut refusals = self.refusals.lock().unwrap();
            if refusals.seen.len() >= REFUSALS_KEPT {
                refusals.seen.retain(|_, tally| tally.unwritten > 0);
            }
            if refusals.seen.len() < REFUSALS_KEPT {
                let tally = refusals.seen.entry((path.to_owned(), op, reason)).or_default();
                tally.total += 1;
                if tally.total > REFUSALS_IN_FULL {
                    tally.unwritten += 1;
                    tally.rule = rule.to_owned();
                    return self.alive();
                }
            }
        }
        self.append(&Fact::Denied { path, op, reason, rule, count: None })
    }

    /// Writes the refusals that were only counted so far.
    pub fn write_counted(&self) -> io::Result<()> {
        let due: Vec<_> = {
            let mut refusals = self.refusals.lock().unwrap();
            let due = refusals.seen.iter_mut().filter(|(_, tally)| tally.unwritten > 0);
            due.map(|(key, tally)| (key.clone(), std::mem::take(&mut tally.unwritten), tally.rule.clone()))
                .collect()
        };
        for ((path, op, reason), count, rule) in due {
            self.append(&Fact::Denied { path: &path, op, reason, rule: &rule, count: Some(count) })?;
        }
        Ok(())
    }

    /// Fails once the journal is dead.
    pub fn alive(&self) -> io::Result<()> {
        if self.dead.load(Ordering::Acquire) { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }

    fn die(&self, why: &io::Error) -> io::Error {
        self.dead.store(true, Ordering::Release);
        self.died.0.lock().unwrap().get_or_insert_with(|| why.to_string());
        self.died.1.notify_all();
        io::Error::from_raw_os_error(libc::EIO)
    }

    /// Blocks until the journal is dead; returns why.
    pub fn wait_for_death(&self) -> String {
        let died = self.died.1.wait_while(self.died.0.lock().unwrap(), |why| why.is_none()).unwrap();
        died.clone().unwrap_or_default()
    }
}

/// A path as facts carry it: bytes that are not UTF-8 become `\xNN`, a backslash is doubled so that this is reversible.
pub fn path_text(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for char in chunk.valid().chars() {
            if char == '\\' {
                text.push('\\');
            }
            text.push(char);
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The bytes of a `path_text`.
pub fn path_bytes(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut path = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'\\', Some(b'\\')) => {
                path.push(b'\\');
                at += 2;
            }
            (b'\\', Some(b'x')) => {
                let byte = text.get(at + 2..at + 4).and_then(|hex| u8::from_str_radix(hex, 16).ok());
                path.push(byte.unwrap_or(b'?'));
                at += 4;
            }
            (byte, _) => {
                path.push(byte);
                at += 1;
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_text_is_reversible() {
        for path in [&b"/a/b"[..], b"/caf\xc3\xa9", b"/\xff\\x41\\", b"\\\\x\n"] {
            assert_eq!(path_bytes(&path_text(path)), path);
        }
    }
}
