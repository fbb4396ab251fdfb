//! What the session adds to the disk: net growth in allocated bytes and inodes. While a file is open for writing its
//! writes count in full; blocks are read only when that estimate would exceed the quota, and at the last close. Files
//! are counted, not names: a file has one account however many it has, and its space comes back when nobody holds it.
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex};

use crate::sys::{errno, stat_fd};
use crate::tree::Id;

/// Of the whole quota, what deleted files may keep from it while they wait for their digest: one part of so many.
const KEPT_BACK: i64 = 16;

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
    writers: HashMap<Id, Writer>,
    kept: HashMap<Id, Kept>,
    /// Sum of `Kept::back`.
    kept_back: i64,
    reported: bool,
}

struct Writer {
    handles: u32,
    file: Arc<File>,
    /// Allocated bytes that `State::bytes` already accounts for.
    known: i64,
    pending: i64,
    /// It has no name any more: its last close gives its space back.
    gone: bool,
}

/// A file that this process keeps open for its digest.
#[derive(Default)]
struct Kept {
    times: u32,
    /// What its removal gives back when it is let go.
    back: i64,
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

    /// The file has neither a name nor a user any more: its space is free as soon as nobody here keeps it.
    fn give_back(&mut self, id: Id, bytes: i64) {
        match self.kept.get_mut(&id) {
            Some(kept) => {
                kept.back += bytes;
                self.kept_back += bytes;
            }
            None => self.bytes -= bytes,
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

    /// A handle that may write was opened on this file.
    pub fn open(&self, id: Id, file: &Arc<File>) {
        self.opened(id, file, allocated(file));
    }

    /// The same for a file that was made just now.
    pub fn open_new(&self, id: Id, file: &Arc<File>) {
        self.opened(id, file, 0);
    }

    fn opened(&self, id: Id, file: &Arc<File>, known: i64) {
        let new = || Writer { handles: 0, file: file.clone(), known, pending: 0, gone: false };
        self.state.lock().unwrap().writers.entry(id).or_insert_with(new).handles += 1;
    }

    pub fn close(&self, id: Id) {
        let mut state = self.state.lock().unwrap();
        let Some(writer) = state.writers.get_mut(&id) else { return };
        writer.handles -= 1;
        if writer.handles == 0
            && let Some(writer) = state.writers.remove(&id)
        {
            let now = allocated(&writer.file);
            state.pending -= writer.pending;
            state.bytes += now - writer.known;
            if writer.gone {
                state.give_back(id, now);
            }
        }
    }

    /// A file without a name is out of use.
    pub fn gone(&self, id: Id, bytes: u64) {
        let mut state = self.state.lock().unwrap();
        match state.writers.get_mut(&id) {
            Some(writer) => writer.gone = true,
            None => state.give_back(id, i64::try_from(bytes).unwrap_or(i64::MAX)),
        }
    }

    /// This process keeps the file open for itself: deleted meanwhile, it still takes its space.
    pub fn keep(&self, id: Id) {
        self.state.lock().unwrap().kept.entry(id).or_default().times += 1;
    }

    pub fn let_go(&self, id: Id) {
        let mut state = self.state.lock().unwrap();
        let Some(kept) = state.kept.get_mut(&id) else { return };
        kept.times -= 1;
        if kept.times == 0
            && let Some(kept) = state.kept.remove(&id)
        {
            state.kept_back -= kept.back;
            state.bytes -= kept.back;
        }
    }

    /// True when deleted files that are kept for their digest keep too much from the agent.
    pub fn is_pressed(&self) -> bool {
        self.state.lock().unwrap().kept_back > self.bytes / KEPT_BACK
    }

    /// Admits a write of `length` bytes, or says no before it happens.
    pub fn write(&self, id: Id, length: u64) -> Result<(), OverQuota> {
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
        match state.writers.get_mut(&id) {
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

    const FILE: Id = Id { dev: 1, ino: 7 };

    fn scratch(name: &str) -> Arc<File> {
        let path = std::env::temp_dir().join(format!("ambit-quota-{}-{name}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        Arc::new(file)
    }

    /// A quota with one new file that holds 1 MiB, open once.
    fn with_file(name: &str) -> (Quota, Arc<File>) {
        let (quota, file) = (Quota::new(4 << 20, 10), scratch(name));
        quota.open_new(FILE, &file);
        assert!(quota.write(FILE, 1 << 20).is_ok());
        (&*file).write_all(&vec![1; 1 << 20]).unwrap();
        (quota, file)
    }

    #[test]
    fn rewriting_in_place_is_not_growth() {
        let (quota, file) = (Quota::new(1 << 20, 10), scratch("rewrite"));
        quota.open(FILE, &file);
        for _ in 0..100 {
            assert!(quota.write(FILE, 65536).is_ok());
            use std::io::{Seek, SeekFrom};
            (&*file).seek(SeekFrom::Start(0)).unwrap();
            (&*file).write_all(&[1; 65536]).unwrap();
        }
        assert!(quota.write(FILE, 1 << 20).is_err());
        quota.close(FILE);
        let (bytes, _) = quota.added();
        assert!((65536..=131072).contains(&bytes), "{bytes}");
    }

    #[test]
    fn what_two_handles_see_shrink_is_given_back_once() {
        let (quota, file) = with_file("shrink");
        quota.close(FILE);
        quota.open(FILE, &file);
        quota.open(FILE, &file);
        file.set_len(0).unwrap();
        quota.close(FILE);
        quota.close(FILE);
        assert_eq!(quota.added().0, 0);
    }

    #[test]
    fn a_file_without_a_name_counts_until_its_last_writer_closes() {
        let (quota, file) = with_file("gone");
        quota.gone(FILE, allocated(&file) as u64);
        assert!(quota.added().0 >= 1 << 20);
        file.set_len(0).unwrap();
        quota.close(FILE);
        assert_eq!(quota.added().0, 0);
    }

    #[test]
    fn a_file_without_a_name_counts_until_it_is_hashed() {
        let (quota, file) = with_file("hashed");
        quota.keep(FILE);
        quota.keep(FILE);
        quota.close(FILE);
        quota.gone(FILE, allocated(&file) as u64);
        quota.let_go(FILE);
        assert!(quota.is_pressed() && quota.added().0 >= 1 << 20);
        quota.let_go(FILE);
        assert!(!quota.is_pressed());
        assert_eq!(quota.added().0, 0);
    }
}
