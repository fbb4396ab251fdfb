//! Open files: what a descriptor of the agent's stands for.
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crate::sys::errno;
use crate::tree::Id;
use crate::view::View;

pub struct FileHandle {
    pub node: u64,
    /// Replaced when the file is copied up.
    pub file: RwLock<Arc<File>>,
    pub reads: bool,
    pub writes: bool,
    /// The file whose writers it counts as in the quota, until it is closed.
    pub counted: Mutex<Option<Id>>,
    /// The grant shrank: nothing may be read or written here any more, or nothing written.
    pub revoked: AtomicBool,
    pub kept: AtomicBool,
    /// Written since the last `file.write` fact.
    pub dirty: AtomicBool,
    /// Made or emptied, with no fact of its content yet.
    pub unrecorded: AtomicBool,
    /// A durable intent covers its first `file.write` fact.
    pub intended: AtomicBool,
    /// Its writes go past the kernel's pages.
    pub direct: bool,
    /// The file was opened once more since: the kernel may have pages of it.
    pub shared: AtomicBool,
}

impl FileHandle {
    /// One that may read; where it counts as a writer of a file, it may write, too.
    pub fn new(node: u64, file: Arc<File>, counted: Option<Id>) -> Self {
        let [revoked, kept, dirty, unrecorded, intended, shared] =
            std::array::from_fn(|_| AtomicBool::new(false));
        let file = RwLock::new(file);
        FileHandle {
            node,
            file,
            reads: true,
            writes: counted.is_some(),
            counted: Mutex::new(counted),
            revoked,
            kept,
            dirty,
            unrecorded,
            intended,
            direct: false,
            shared,
        }
    }

    /// A file opened only to be written is open for both on the host, and on record as written only.
    pub fn may_read(&self) -> io::Result<()> {
        if self.reads { Ok(()) } else { Err(errno(libc::EBADF)) }
    }

    pub fn may_write(&self) -> io::Result<()> {
        match () {
            () if !self.writes => Err(errno(libc::EBADF)),
            () if self.kept.load(Ordering::Acquire) => Err(errno(libc::EACCES)),
            () => Ok(()),
        }
    }
}

impl View {
    pub fn handle(&self, id: u64) -> io::Result<Arc<FileHandle>> {
        self.record.alive()?;
        self.handles.read().unwrap().get(&id).cloned().ok_or_else(|| errno(libc::EBADF))
    }

    /// The same, if it is one of `node`: a guest may name any two.
    pub fn handle_of(&self, node: u64, id: u64) -> io::Result<Arc<FileHandle>> {
        self.handle(id).and_then(|file| if file.node == node { Ok(file) } else { Err(errno(libc::EBADF)) })
    }

    /// Gives the handle its number. Its node is known as long as it is open, so that what is written through it goes on
    /// record by name.
    pub fn add_handle(&self, handle: FileHandle) -> io::Result<u64> {
        if !self.tree.lock().unwrap().opened(handle.node) {
            return Err(errno(libc::ESTALE));
        }
        let id = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let mut handles = self.handles.write().unwrap();
        if self.stale.anyone_direct() {
            for other in handles.values().filter(|other| other.direct && other.node == handle.node) {
                other.shared.store(true, Ordering::Release);
            }
        }
        self.stale.opened(&handle);
        handles.insert(id, Arc::new(handle));
        Ok(id)
    }

    /// The same for content: not once the grant shrank.
    pub fn with_file<T>(
        &self,
        node: u64,
        handle: u64,
        act: impl FnOnce(&FileHandle) -> io::Result<T>,
    ) -> io::Result<T> {
        let file = self.handle_of(node, handle)?;
        if file.revoked.load(Ordering::Acquire) { Err(errno(libc::EACCES)) } else { act(&file) }
    }
}
