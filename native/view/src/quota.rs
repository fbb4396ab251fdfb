//! What the session adds to the disk: net growth in allocated bytes and inodes. While a file is open for writing its
//! writes count in full; blocks are read only when that estimate would exceed the quota, and at the last close.
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex};

use crate::sys::{errno, stat_fd};

pub struct Quota {
    bytes: i64,
    inodes: i64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bytes: i64,
    inodes: i64,
    pending: i64,
    writers: HashMap<u64, Writer>,
    reported: bool,
}

struct Writer {
    handles: u32,
    file: Arc<File>,
    /// Allocated bytes that `State::bytes` already accounts for.
    known: i64,
    pending: i64,
}

fn allocated(file: &File) -> i64 {
    stat_fd(file).map_or(0, |stat| stat.st_blocks * 512)
}

impl State {
    /// Replaces estimates by what is allocated.
    fn settle(&mut self) {
        for writer in self.writers.values_mut() {
            let now = allocated(&writer.file);
            self.bytes += now - writer.known;
            self.pending -= writer.pending;
            writer.known = now;
            writer.pending = 0;
        }
    }
}

/// Refused for quota; the first refusal of the session says so, to be recorded once.
pub struct OverQuota {
    pub first: bool,
}

impl Quota {
    pub fn new(bytes: u64, inodes: u64) -> Self {
        let cap = |n: u64| n.min(i64::MAX as u64) as i64;
        Quota { bytes: cap(bytes), inodes: cap(inodes), state: Mutex::default() }
    }

    fn over(state: &mut State) -> OverQuota {
        let first = !std::mem::replace(&mut state.reported, true);
        OverQuota { first }
    }

    /// A handle that may write was opened on `node`.
    pub fn open(&self, node: u64, file: &Arc<File>) {
        let mut state = self.state.lock().unwrap();
        state.writers.entry(node).and_modify(|w| w.handles += 1).or_insert_with(|| Writer {
            handles: 1,
            file: file.clone(),
            known: allocated(file),
            pending: 0,
        });
    }

    /// The content of `node` is another file's now: a copy, which was admitted as such.
    pub fn follow(&self, node: u64, file: &Arc<File>) {
        let mut state = self.state.lock().unwrap();
        state.settle();
        if let Some(writer) = state.writers.get_mut(&node) {
            (writer.file, writer.known) = (file.clone(), allocated(file));
        }
    }

    /// The same for a file that was made just now.
    pub fn open_new(&self, node: u64, file: &Arc<File>) {
        let new = Writer { handles: 1, file: file.clone(), known: 0, pending: 0 };
        self.state.lock().unwrap().writers.entry(node).and_modify(|w| w.handles += 1).or_insert(new);
    }

    pub fn close(&self, node: u64) {
        let mut state = self.state.lock().unwrap();
        let Some(writer) = state.writers.get_mut(&node) else { return };
        writer.handles -= 1;
        if writer.handles == 0
            && let Some(writer) = state.writers.remove(&node)
        {
            state.pending -= writer.pending;
            state.bytes += allocated(&writer.file) - writer.known;
        }
    }

    /// Admits a write of `length` bytes, or says no before it happens.
    pub fn write(&self, node: u64, length: u64) -> Result<(), OverQuota> {
        let mut state = self.state.lock().unwrap();
        // A guest may claim any length; none may count as less than nothing.
        let length = i64::try_from(length).unwrap_or(i64::MAX).saturating_add(4096);
        if state.bytes.saturating_add(state.pending).saturating_add(length) > self.bytes {
            state.settle();
            if state.bytes.saturating_add(length) > self.bytes {
                return Err(Self::over(&mut state));
            }
        }
        state.pending += length;
        match state.writers.get_mut(&node) {
            Some(writer) => writer.pending += length,
            None => {
                state.pending -= length;
                state.bytes += length;
            }
        }
        Ok(())
    }

    /// Admits `bytes` that are added at once (a copy-up, a link target).
    pub fn add(&self, bytes: u64) -> Result<(), OverQuota> {
        let mut state = self.state.lock().unwrap();
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        if state.bytes.saturating_add(state.pending).saturating_add(bytes) > self.bytes {
            return Err(Self::over(&mut state));
        }
        state.bytes += bytes;
        Ok(())
    }

    pub fn add_inode(&self) -> Result<(), OverQuota> {
        let mut state = self.state.lock().unwrap();
        if state.inodes >= self.inodes {
            return Err(Self::over(&mut state));
        }
        state.inodes += 1;
        Ok(())
    }

    pub fn drop_inode(&self) {
        self.state.lock().unwrap().inodes -= 1;
    }

    pub fn drop_bytes(&self, bytes: u64) {
        self.state.lock().unwrap().bytes -= bytes as i64;
    }

    /// (bytes, inodes) added so far.
    pub fn added(&self) -> (i64, i64) {
        let state = self.state.lock().unwrap();
        (state.bytes + state.pending, state.inodes)
    }
}

impl From<OverQuota> for io::Error {
    fn from(_: OverQuota) -> Self {
        errno(libc::EDQUOT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn rewriting_in_place_is_not_growth() {
        let path = std::env::temp_dir().join(format!("ambit-quota-{}", std::process::id()));
        let mut file = File::create(&path).unwrap();
        let quota = Quota::new(1 << 20, 10);
        let shared = Arc::new(file.try_clone().unwrap());
        quota.open(7, &shared);
        for _ in 0..100 {
            assert!(quota.write(7, 65536).is_ok());
            use std::io::{Seek, SeekFrom};
            file.seek(SeekFrom::Start(0)).unwrap();
            file.write_all(&[1; 65536]).unwrap();
        }
        assert!(quota.write(7, 1 << 20).is_err());
        quota.close(7);
        let (bytes, _) = quota.added();
        assert!((65536..=131072).contains(&bytes), "{bytes}");
        std::fs::remove_file(path).unwrap();
    }
}
