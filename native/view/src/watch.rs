//! Notices what the host changes beneath the roots, so that the kernel may keep names and attributes for long.
//!
//! A host directory is watched (inotify) before anything in it is told to the kernel with a long lifetime. What
//! changes there is taken from the kernel's caches some milliseconds later. Where no watch can be had (limits, a file
//! system on which others' changes make no events) lifetimes stay short. The session's own changes make events too;
//! they are told apart by looking: what the host has is what the tree has.
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use crate::notify::Notifier;
use crate::sys;
use crate::tree::{FIRST_ROOT, Id, Layer};
use crate::view::View;

/// Lifetime of what a watch covers. It bounds what no watch sees: a page that a host process changes in memory, a
/// mount on top of a directory.
pub const LONG: Duration = Duration::from_secs(300);
/// Lifetime of what no watch covers.
pub const SHORT: Duration = Duration::from_secs(1);
/// Lifetime of the attributes of a file with several names: each name is a file of its own to the kernel, which would
/// not see by one what was written by another. It asks each time; what its pages hold follows from the answer.
pub const LINKED: Duration = Duration::ZERO;

/// Events are gathered this long, so that a busy host costs few wake-ups.
const GATHER: Duration = Duration::from_millis(10);
/// Names are looked at once more after this time: an answer that was under way when the event came may have put an
/// old name into the kernel's cache behind it.
const AGAIN: Duration = Duration::from_secs(1);
/// The first Linux that can expire a name without detaching what is mounted on it.
const EXPIRES_NAMES: (u32, u32) = (6, 2);
/// Names that wait for their second look; beyond it everything is taken from the caches.
const WAITING: usize = 100_000;

const MASK: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);
const NAMES: ReadFlags =
    ReadFlags::CREATE.union(ReadFlags::DELETE).union(ReadFlags::MOVED_FROM).union(ReadFlags::MOVED_TO);

/// Local file systems, whose every change makes an event here (statfs(2), magic numbers).
const LOCAL: [i64; 8] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0xf2f5_2010, // f2fs
    0x2fc1_2fc1, // zfs
    0x794c_7630, // overlayfs
    0xca45_1a4e, // bcachefs
];

/// The watches, and the way to the kernel's caches.
pub struct Watch {
    events: Option<OwnedFd>,
    limit: usize,
    watched: Mutex<Watched>,
    /// Set by whoever serves, before the first request.
    pub kernel: OnceLock<Notifier>,
    /// Nobody reads the events any more.
    blind: AtomicBool,
    /// A directory of the host has no watch.
    gaps: AtomicBool,
}

#[derive(Default)]
struct Watched {
    by_watch: HashMap<i32, Vec<u64>>,
    by_node: HashMap<u64, i32>,
}

impl Watch {
    /// Before confinement: it reads the system's limit.
    pub fn new() -> Self {
        let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").ok();
        let limit = limit.and_then(|text| text.trim().parse::<usize>().ok()).unwrap_or(8192);
        let events = if expires_names() {
            inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()
        } else {
            None
        };
        // A quarter: the user's editor wants some too.
        Watch {
            events,
            limit: limit / 4,
            watched: Mutex::default(),
            kernel: OnceLock::new(),
            blind: AtomicBool::new(false),
            gaps: AtomicBool::new(false),
        }
    }

    /// Lifetimes stay short: names cannot be taken back from this kernel.
    pub fn go_blind(&self) {
        self.blind.store(true, Ordering::Release);
    }

    /// True when changes in the directory `fd`, shown as `node`, are seen from now on.
    fn cover(&self, node: u64, fd: impl AsFd) -> bool {
        let Some(events) = &self.events else { return false };
        // Held over the call: a watch that is just being dropped must not count as had.
        let mut watched = self.watched.lock().unwrap();
        if self.blind.load(Ordering::Acquire) {
            return false;
        }
        if watched.by_node.contains_key(&node) {
            return true;
        }
        if watched.by_node.len() >= self.limit || !is_local(&fd) {
            return false;
        }
        let Ok(watch) = inotify::add_watch(events, sys::proc_path(&fd), MASK) else { return false };
        if watched.by_node.insert(node, watch) != Some(watch) {
            watched.by_watch.entry(watch).or_default().push(node);
        }
        true
    }

    pub fn covers(&self, node: u64) -> bool {
        !self.blind.load(Ordering::Acquire) && self.watched.lock().unwrap().by_node.contains_key(&node)
    }

    /// True once a directory could not be watched.
    pub fn has_gaps(&self) -> bool {
        self.gaps.load(Ordering::Acquire) || self.blind.load(Ordering::Acquire)
    }

    /// The kernel knows the directory no more.
    pub fn drop_node(&self, node: u64) {
        let mut watched = self.watched.lock().unwrap();
        let Some(watch) = watched.by_node.remove(&node) else { return };
        let Some(nodes) = watched.by_watch.get_mut(&watch) else { return };
        nodes.retain(|other| *other != node);
        if nodes.is_empty() {
            watched.by_watch.remove(&watch);
            if let Some(events) = &self.events {
                let _ = inotify::remove_watch(events, watch);
            }
        }
    }

    fn nodes(&self, watch: i32) -> Vec<u64> {
        self.watched.lock().unwrap().by_watch.get(&watch).cloned().unwrap_or_default()
    }

    /// The kernel ended the watch: its directory is gone.
    fn ended(&self, watch: i32) -> Vec<u64> {
        let mut watched = self.watched.lock().unwrap();
        let nodes = watched.by_watch.remove(&watch).unwrap_or_default();
        for node in &nodes {
            watched.by_node.remove(node);
        }
        nodes
    }
}

fn expires_names() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= EXPIRES_NAMES
}

fn is_local(fd: impl AsFd) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|found| LOCAL.contains(&(found.f_type)))
}

/// What changed in one gathering, each thing once.
#[derive(Default)]
struct Changes {
    /// (directory, name): made, removed or moved.
    names: BTreeSet<(u64, Vec<u8>)>,
    /// (directory, name): content or attributes.
    contents: HashSet<(u64, Vec<u8>)>,
    dirs: HashSet<u64>,
    /// Events were lost.
    all: bool,
}

impl Changes {
    fn add(&mut self, dir: u64, what: ReadFlags, name: Option<&[u8]>) {
        match name {
            None => drop(self.dirs.insert(dir)),
            Some(name) if what.intersects(NAMES) => {
                self.dirs.insert(dir);
                self.names.insert((dir, name.to_vec()));
            }
            Some(name) => drop(self.contents.insert((dir, name.to_vec()))),
        }
    }
}

impl View {
    /// How long the kernel may keep names in the directory `node`. Asked before its names are looked at.
    pub fn names_last(&self, node: u64, has_lower: bool) -> Duration {
        if !has_lower || self.watch.covers(node) {
            return LONG;
        }
        match self.dir(node, Layer::Lower) {
            Ok(fd) if self.watch.cover(node, &fd) => LONG,
            _ => {
                self.watch.gaps.store(true, Ordering::Release);
                self.crew.never_alone();
                SHORT
            }
        }
    }

    /// Body of the watching thread.
    pub fn watch_host(&self) {
        if let Some(events) = &self.watch.events {
            let _ = self.follow(events);
            self.watch.blind.store(true, Ordering::Release);
            self.forget_all();
        }
    }

    fn follow(&self, events: &OwnedFd) -> io::Result<()> {
        let mut buffer = vec![MaybeUninit::uninit(); 256 << 10];
        let mut again: VecDeque<(Instant, u64, Vec<u8>)> = VecDeque::new();
        loop {
            wait(events, again.front().map(|(due, ..)| *due))?;
            std::thread::sleep(GATHER);
            let mut changes = self.gather(events, &mut buffer)?;
            let due = Instant::now() + AGAIN;
            again.extend(changes.names.iter().map(|(dir, name)| (due, *dir, name.clone())));
            if again.len() > WAITING {
                again.clear();
                changes.all = true;
            }
            while again.front().is_some_and(|(due, ..)| *due <= Instant::now()) {
                changes.names.extend(again.pop_front().map(|(_, dir, name)| (dir, name)));
            }
            self.apply(changes);
        }
    }

    /// Reads what the kernel has queued.
    fn gather(&self, events: &OwnedFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Changes> {
        let mut changes = Changes::default();
        let mut reader = inotify::Reader::new(events, buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let (what, watch) = (event.events(), event.wd());
            if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                changes.all = true;
            } else if what.contains(ReadFlags::IGNORED) {
                changes.dirs.extend(self.watch.ended(watch));
            } else {
                for node in self.watch.nodes(watch) {
                    changes.add(node, what, event.file_name().map(|name| name.to_bytes()));
                }
            }
        }
        Ok(changes)
    }

    fn apply(&self, changes: Changes) {
        if changes.all {
            return self.forget_all();
        }
        let changed = changes.names.iter().filter(|(dir, name)| !self.is_as_known(*dir, name));
        let changed: Vec<_> = changed.collect();
        let moved: Vec<u64> = changed.iter().filter_map(|(dir, name)| self.let_go(*dir, name)).collect();
        if !moved.is_empty() {
            self.dirs.clear();
        }
        for (dir, name) in changed {
            self.kernel(|kernel| kernel.forget_name(*dir, name));
        }
        for node in moved {
            self.kernel(|kernel| kernel.forget_attributes(node, true));
        }
        for (dir, name) in changes.contents {
            let node = {
                let mut tree = self.tree.lock().unwrap();
                tree.child(dir, &name).inspect(|node| tree.written(*node))
            };
            if let Some(node) = node {
                self.kernel(|kernel| kernel.forget_attributes(node, false));
            }
        }
        for dir in changes.dirs {
            self.kernel(|kernel| kernel.forget_attributes(dir, true));
        }
    }

    /// True when the host has at `name` what the tree has: the session's own changes are like that.
    fn is_as_known(&self, dir: u64, name: &[u8]) -> bool {
        let Ok(fd) = self.dir(dir, Layer::Lower) else { return false };
        let Ok(there) = sys::stat_at(fd, name) else { return false };
        let tree = self.tree.lock().unwrap();
        let known = tree.child(dir, name).and_then(|node| tree.lower(node));
        known == there.as_ref().map(Id::from)
    }

    /// A directory that the host moved may lie anywhere now, also where other rules hold: whoever stands in it or
    /// holds it open stays behind.
    fn let_go(&self, dir: u64, name: &[u8]) -> Option<u64> {
        let child = || {
            let tree = self.tree.lock().unwrap();
            tree.child(dir, name).filter(|node| tree.spot(*node).is_some_and(|spot| spot.kind.is_dir()))
        };
        child()?;
        // The session's own moves are through, and known.
        let _shape = self.shape.write().unwrap();
        let node = child()?;
        if self.is_as_known(dir, name) {
            return None;
        }
        let mut tree = self.tree.lock().unwrap();
        tree.lower(node)?;
        tree.detach(node);
        Some(node)
    }

    fn forget_all(&self) {
        self.dirs.clear();
        let nodes = self.tree.lock().unwrap().all();
        for (node, parent, name, is_dir) in nodes {
            self.kernel(|kernel| {
                if node >= FIRST_ROOT + self.roots.len() as u64 {
                    kernel.forget_name(parent, &name);
                }
                kernel.forget_attributes(node, is_dir);
            });
        }
    }

    /// Takes all listings from the kernel's cache: the rules are not what they were.
    pub fn forget_listings(&self) {
        let nodes = self.tree.lock().unwrap().all();
        for (node, ..) in nodes.iter().filter(|(.., is_dir)| *is_dir) {
            self.kernel(|kernel| kernel.forget_attributes(*node, true));
        }
    }

    /// Tells the kernel something, once it is there.
    pub fn kernel(&self, tell: impl FnOnce(&Notifier)) {
        if let Some(kernel) = self.watch.kernel.get() {
            tell(kernel)
        }
    }
}

/// Waits until there is something to read or the time has come.
fn wait(events: &OwnedFd, until: Option<Instant>) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    let left = left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos() as _ });
    match poll(&mut [PollFd::new(events, PollFlags::IN)], left.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
