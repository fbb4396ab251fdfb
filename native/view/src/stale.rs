//! Pages that the kernel must not keep.
//!
//! A new file that is opened to be written only is written past the kernel's pages. Whoever opens it meanwhile may bring
//! pages of it there; those are dropped after each write.
//!
//! A file that changed a moment ago may change again without a sign in its times: what is read of it in that moment may
//! not be kept for the next open. Of a large file only that is dropped, once the moment is over; the rest stays.
//!
//! By a thread of its own: to drop a page the kernel may wait for a read of it, which the threads that answer must be
//! free to answer.
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::handle::FileHandle;
use crate::hash::Version;
use crate::view::View;

/// Smaller files are read once more rather than looked after.
const LARGE: u64 = 1 << 20;

#[derive(Default)]
pub struct Stale {
    /// Open handles whose writes are direct.
    direct: AtomicUsize,
    /// Length of `Pages::young`.
    young: AtomicUsize,
    pages: Mutex<Pages>,
    some: Condvar,
}

#[derive(Default)]
struct Pages {
    /// Everything of these is to be dropped.
    written: BTreeSet<u64>,
    /// Files that changed a moment ago.
    young: HashMap<u64, Young>,
}

struct Young {
    version: Version,
    /// When a further change would show.
    until: Instant,
    /// First and last byte asked for before that.
    read: Option<(u64, u64)>,
}

enum Step {
    Drop(u64),
    Settle(u64, Young),
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
            && self.pages.lock().unwrap().written.insert(handle.node)
        {
            self.some.notify_one();
        }
    }

    /// A file was opened whose times may not show its next change.
    pub fn opened_young(&self, node: u64, version: Version, settles_in: Duration) {
        if version.size() < LARGE {
            return;
        }
        let mut pages = self.pages.lock().unwrap();
        let read = pages.young.get(&node).and_then(|young| young.read);
        pages.young.insert(node, Young { version, until: Instant::now() + settles_in, read });
        self.young.store(pages.young.len(), Ordering::Release);
        self.some.notify_one();
    }

    /// Before bytes are read for the kernel's pages.
    pub fn reads(&self, node: u64, offset: u64, length: u64) {
        if self.young.load(Ordering::Acquire) == 0 {
            return;
        }
        if let Some(young) = self.pages.lock().unwrap().young.get_mut(&node) {
            let (first, last) = young.read.unwrap_or((offset, offset));
            young.read = Some((first.min(offset), last.max(offset.saturating_add(length))));
        }
    }

    fn next(&self) -> Step {
        let mut pages = self.pages.lock().unwrap();
        loop {
            if let Some(node) = pages.written.pop_first() {
                return Step::Drop(node);
            }
            let due = pages.young.iter().map(|(node, young)| (young.until, *node)).min();
            let now = Instant::now();
            match due {
                Some((until, node)) if until <= now => {
                    let young = pages.young.remove(&node);
                    self.young.store(pages.young.len(), Ordering::Release);
                    if let Some(young) = young {
                        return Step::Settle(node, young);
                    }
                }
                Some((until, _)) => pages = self.some.wait_timeout(pages, until - now).unwrap().0,
                None => pages = self.some.wait(pages).unwrap(),
            }
        }
    }
}

impl View {
    /// Body of the thread that drops stale pages.
    pub fn forget_stale(&self) {
        loop {
            match self.stale.next() {
                Step::Drop(node) => self.kernel(|kernel| kernel.forget_pages(node)),
                Step::Settle(node, young) => {
                    if let Some((first, last)) = young.read {
                        self.kernel(|kernel| kernel.forget_range(node, first, last - first));
                    }
                    // What the kernel has now was read when a change would have shown.
                    self.tree.lock().unwrap().settled(node, young.version);
                }
            }
        }
    }
}
