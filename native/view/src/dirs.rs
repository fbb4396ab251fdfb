//! Held directory descriptors, at most `capacity` of them. An evicted one is opened again from its parent and must
//! then be the object that it was: one open descriptor per inode would hit the limit at some 20,000 files
//! (BASELINES.md).
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use crate::tree::Layer;

pub struct Dirs {
    capacity: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    clock: u64,
    cleared: u64,
    fds: HashMap<(u64, Layer), (Arc<OwnedFd>, u64)>,
}

impl Dirs {
    pub fn new(capacity: usize) -> Self {
        Dirs { capacity, held: Mutex::default() }
    }

    pub fn get(&self, node: u64, layer: Layer) -> Option<Arc<OwnedFd>> {
        let mut held = self.held.lock().unwrap();
        held.clock += 1;
        let now = held.clock;
        held.fds.get_mut(&(node, layer)).map(|(fd, used)| {
            *used = now;
            fd.clone()
        })
    }

    pub fn put(&self, node: u64, layer: Layer, fd: Arc<OwnedFd>) {
        let mut held = self.held.lock().unwrap();
        if held.fds.len() >= self.capacity {
            let mut ages: Vec<u64> = held.fds.values().map(|(_, used)| *used).collect();
            let middle = ages.len() / 2;
            let limit = *ages.select_nth_unstable(middle).1;
            held.fds.retain(|_, (_, used)| *used > limit);
        }
        held.clock += 1;
        let now = held.clock;
        held.fds.insert((node, layer), (fd, now));
    }

    /// The same, unless all were let go since `times_cleared` said `before`: it was opened beneath one of them.
    pub fn put_unless_cleared(&self, node: u64, layer: Layer, fd: Arc<OwnedFd>, before: u64) {
        if self.times_cleared() == before {
            self.put(node, layer, fd);
        }
    }

    pub fn times_cleared(&self) -> u64 {
        self.held.lock().unwrap().cleared
    }

    /// Lets all go: each is looked for at its name again.
    pub fn clear(&self) {
        let mut held = self.held.lock().unwrap();
        held.cleared += 1;
        held.fds.clear();
    }

    pub fn drop_node(&self, node: u64) {
        let mut held = self.held.lock().unwrap();
        held.fds.remove(&(node, Layer::Lower));
        held.fds.remove(&(node, Layer::Upper));
    }
}
