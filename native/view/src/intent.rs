//! What is durable before the close of a written file returns: that it is written.
//!
//! One file after the other would pay one fdatasync each. A burst of them shares: after the first few, one durable
//! record says that files beneath a directory are being written, and how many at most. Each is still recorded by name
//! before its effect, as always; those records are durable at most `LAG` later, and before the agent makes a file
//! durable itself. A power cut in between leaves the directory on record.
use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::record::Fact;
use crate::tree::Spot;
use crate::view::View;

/// Closes that wait for themselves before a burst is one.
const ALONE: u32 = 2;
/// A pause that ends a burst.
const CALM: Duration = Duration::from_millis(500);
/// Files that one intent covers.
const FILES: u64 = 256;
/// Records of covered files are durable after this time.
pub const LAG: Duration = Duration::from_millis(100);

/// One burst at a time for each root.
#[derive(Default)]
pub struct Intents(Mutex<HashMap<usize, Burst>>);

struct Burst {
    closes: u32,
    last: Instant,
    /// Directory that all of them are beneath.
    dir: Vec<u8>,
    /// Files that the durable intent still covers.
    left: u64,
}

impl Burst {
    fn new(dir: &[u8], now: Instant) -> Self {
        Burst { closes: 0, last: now, dir: dir.to_vec(), left: 0 }
    }

    fn covers(&self, dir: &[u8], now: Instant) -> bool {
        self.left > 0 && now - self.last < CALM && common(&self.dir, dir).len() == self.dir.len()
    }

    /// Uses up one of the files that it covers.
    fn take(&mut self, dir: &[u8], now: Instant) -> bool {
        let covered = self.covers(dir, now);
        if covered {
            (self.left, self.last) = (self.left - 1, now);
        }
        covered
    }
}

/// The deepest directory that both are beneath, or are.
fn common<'a>(a: &'a [u8], b: &[u8]) -> &'a [u8] {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let ends = |path: &[u8]| path.len() == same || path[same] == b'/';
    let end = if ends(a) && ends(b) { same } else { a[..same].iter().rposition(|b| *b == b'/').unwrap_or(0) };
    &a[..end]
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(b"", |at| &path[..at])
}

impl View {
    /// A file was opened to be written: what its close will wait for is begun now.
    pub fn will_intend(&self, root: usize, path: &[u8]) {
        // Locked: another's intent is being made durable.
        let Ok(bursts) = self.intents.0.try_lock() else { return self.record.sync_within(Duration::ZERO) };
        match bursts.get(&root) {
            Some(burst) if burst.covers(parent(path), Instant::now()) => {}
            _ => self.record.sync_within(Duration::ZERO),
        }
    }

    /// The same for a new file that will be written for sure. True when a durable intent covers it already: its close
    /// has nothing to wait for.
    pub fn is_intended(&self, root: usize, path: &[u8]) -> bool {
        let (now, dir) = (Instant::now(), parent(path));
        let covered = match self.intents.0.try_lock() {
            Ok(mut bursts) => bursts.get_mut(&root).is_some_and(|burst| burst.take(dir, now)),
            Err(_) => false,
        };
        self.record.sync_within(if covered { LAG } else { Duration::ZERO });
        covered
    }

    /// Returns when it is durable that the file at `spot`, or files beneath a directory above it, are written.
    pub fn intend(&self, spot: &Spot) -> io::Result<()> {
        // Held over the sync: nobody may rely on an intent that is not durable yet.
        let mut bursts = match self.intents.0.try_lock() {
            Ok(bursts) => bursts,
            Err(_) => self.crew.held_up(|| self.intents.0.lock().unwrap()),
        };
        let (now, dir) = (Instant::now(), parent(&spot.path));
        let burst = bursts.entry(spot.root).or_insert_with(|| Burst::new(dir, now));
        if burst.take(dir, now) {
            self.record.sync_within(LAG);
            return Ok(());
        }
        if now - burst.last >= CALM {
            *burst = Burst::new(dir, now);
        }
        burst.dir = common(&burst.dir, dir).to_vec();
        (burst.closes, burst.last, burst.left) = (burst.closes + 1, now, 0);
        if burst.closes <= ALONE {
            drop(bursts);
            return self.crew.held_up(|| self.record.sync());
        }
        let path = self.fact_path(spot.root, &burst.dir);
        self.record.append(&Fact::Intent { path: &path, files: FILES, label: &self.root(spot).label })?;
        self.crew.held_up(|| self.record.sync())?;
        burst.left = FILES;
        burst.last = Instant::now();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_directory_ends_at_a_name() {
        for (a, b, want) in [
            ("", "a", ""),
            ("a/b", "a/b", "a/b"),
            ("a/b", "a/b/c", "a/b"),
            ("a/b", "a/bc", "a"),
            ("a/bc", "a/bd", "a"),
            ("ab", "ac", ""),
        ] {
            assert_eq!(common(a.as_bytes(), b.as_bytes()), want.as_bytes(), "{a} {b}");
        }
    }

    #[test]
    fn a_burst_covers_what_is_beneath_its_directory_and_no_more() {
        let now = Instant::now();
        let mut burst = Burst { left: 1, ..Burst::new(b"a/b", now) };
        assert!(burst.covers(b"a/b", now) && burst.covers(b"a/b/c", now));
        assert!(!burst.covers(b"a/bc", now) && !burst.covers(b"a", now));
        assert!(!burst.covers(b"a/b", now + CALM));
        assert!(!burst.take(b"a", now) && burst.take(b"a/b", now) && !burst.take(b"a/b", now));
    }
}
