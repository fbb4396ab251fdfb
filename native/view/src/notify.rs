//! What the view tells the kernel without being asked: that it must not rely on what it remembers.
use std::io;
use std::sync::Arc;

use crate::channel::Channel;
use crate::tree::{Changed, TOP};

const INVALIDATE_INODE: i32 = 2;
const INVALIDATE_ENTRY: i32 = 3;
const EXPIRE_ONLY: u32 = 1;
/// `struct fuse_out_header`.
const HEADER: usize = 16;

pub struct Notifier(Arc<Channel>);

impl Notifier {
    pub fn new(channel: Arc<Channel>) -> Self {
        Notifier(channel)
    }

    /// Returns once all that was told has been done.
    pub fn settle(&self) -> io::Result<()> {
        self.0.settle()
    }

    /// Drops pages and attributes of changed nodes, mappings included, and the names of those that are hidden now.
    pub fn forget_content(&self, changed: &[Changed]) {
        for node in changed {
            // Offset 0 and length 0: everything.
            self.send(INVALIDATE_INODE, &[&node.node.to_ne_bytes(), &[0; 16]]);
        }
        // A root has no name to be taken: it is mounted.
        for node in changed.iter().filter(|node| node.class.hidden && node.parent != TOP) {
            let length = (node.name.len() as u32).to_ne_bytes();
            self.send(INVALIDATE_ENTRY, &[&node.parent.to_ne_bytes(), &length, &[0; 4], &node.name, &[0]]);
        }
    }

    /// Drops pages and attributes of a node.
    pub fn forget_pages(&self, node: u64) {
        self.send(INVALIDATE_INODE, &[&node.to_ne_bytes(), &[0; 16]]);
    }

    /// Drops the pages of some bytes; a length of 0 means all behind the first.
    pub fn forget_range(&self, node: u64, first: u64, length: u64) {
        let length = length.min(i64::MAX as u64);
        self.send(INVALIDATE_INODE, &[&node.to_ne_bytes(), &first.to_ne_bytes(), &length.to_ne_bytes()]);
    }

    /// Drops a node's attributes, and of a directory its listing. What a file's pages hold is compared by time and size
    /// when they are next read (AUTO_INVAL_DATA).
    pub fn forget_attributes(&self, node: u64, is_dir: bool) {
        let offset: i64 = if is_dir { 0 } else { -1 };
        self.send(INVALIDATE_INODE, &[&node.to_ne_bytes(), &offset.to_ne_bytes(), &[0; 8]]);
    }

    /// Has the kernel ask for a name again. It is not thrown out: something may be mounted on it.
    pub fn forget_name(&self, parent: u64, name: &[u8]) {
        let length = (name.len() as u32).to_ne_bytes();
        self.send(
            INVALIDATE_ENTRY,
            &[&parent.to_ne_bytes(), &length, &EXPIRE_ONLY.to_ne_bytes(), name, &[0]],
        );
    }

    fn send(&self, code: i32, parts: &[&[u8]]) {
        let length = HEADER + parts.iter().map(|part| part.len()).sum::<usize>();
        let mut message = (length as u32).to_ne_bytes().to_vec();
        message.extend_from_slice(&code.to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        parts.iter().for_each(|part| message.extend_from_slice(part));
        // ENOENT: the kernel remembers nothing of it, which is what was wanted.
        let _ = self.0.tell(&message);
    }
}
