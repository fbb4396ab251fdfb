//! Pages that went stale under direct writes.
//!
//! A new file that is opened to be written only is written past the kernel's pages. Whoever opens it meanwhile may bring
//! pages of it there; those are dropped after each write. By a thread of its own: to drop a page the kernel may wait for
//! a read of it, which the threads that answer must be free to answer.
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use crate::handle::FileHandle;
use crate::view::View;

#[derive(Default)]
pub struct Stale {
    /// Open handles whose writes are direct.
    direct: AtomicUsize,
    nodes: Mutex<BTreeSet<u64>>,
    some: Condvar,
}

impl Stale {
    pub fn opened(&self, handle: &FileHandle) {
        self.direct.fetch_add(usize::from(handle.direct), Ordering::AcqRel);
    }

    pub fn closed(&self, handle: &FileHandle) {
        self.direct.fetch_sub(usize::from(handle.direct), Ordering::AcqRel);
    }

    pub fn anyone_direct(&self) -> bool {
        self.direct.load(Ordering::Acquire) > 0
    }

    /// After a write. Who opened the file after this was asked reads what was written.
    pub fn written(&self, handle: &FileHandle) {
        if handle.direct
            && handle.shared.load(Ordering::Acquire)
            && self.nodes.lock().unwrap().insert(handle.node)
        {
            self.some.notify_one();
        }
    }

    fn next(&self) -> u64 {
        let mut nodes = self.some.wait_while(self.nodes.lock().unwrap(), |nodes| nodes.is_empty()).unwrap();
        nodes.pop_first().unwrap_or_default()
    }
}

impl View {
    /// Body of the thread that drops stale pages.
    pub fn forget_stale(&self) {
        loop {
            let node = self.stale.next();
            self.kernel(|kernel| kernel.forget_pages(node));
        }
    }
}
