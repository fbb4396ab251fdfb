//! Listings: what a directory holds for the agent, kept from one request of a reader to its next. The kernel caches
//! them too; it opens no directories here, so a position says by itself which listing it belongs to.
use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};

use rustix::fs::FileType;

use crate::sys;
use crate::tree::{FIRST_ROOT, Layer, Spot, TOP};
use crate::view::View;

pub struct DirItem {
    pub name: Vec<u8>,
    pub kind: FileType,
    pub ino: u64,
}

/// Listings kept; a reader that comes back later gets a new one at the same place.
const KEPT: usize = 64;
/// Names kept over all listings.
const NAMES: usize = 400_000;

#[derive(Default)]
pub struct Listings(Mutex<Recent>);

#[derive(Default)]
struct Recent {
    made: u64,
    names: usize,
    held: VecDeque<(u64, u64, Arc<Vec<DirItem>>)>,
}

/// A place in a listing. As an offset it stays below 2^31 for all but huge directories: 32-bit programs take no more.
#[derive(Clone, Copy)]
pub struct Place {
    listing: u64,
    /// Position in the stream of `.`, `..` and the items.
    pub index: u64,
}

impl Place {
    pub fn from_offset(offset: u64) -> Self {
        Place { listing: offset >> 24 & 0x7f, index: offset & 0xff_ffff | offset >> 31 << 24 }
    }

    pub fn offset(self) -> u64 {
        self.index & 0xff_ffff | self.listing << 24 | self.index >> 24 << 31
    }

    pub fn next(self) -> Self {
        Place { index: self.index + 1, ..self }
    }
}

impl Listings {
    fn find(&self, node: u64, listing: u64) -> Option<Arc<Vec<DirItem>>> {
        let recent = self.0.lock().unwrap();
        let at = |(number, of, _): &&(u64, u64, _)| number & 0x7f == listing && *of == node;
        recent.held.iter().rev().find(at).map(|(_, _, items)| items.clone())
    }

    /// The rules changed: what is read half is read again.
    pub fn clear(&self) {
        let mut recent = self.0.lock().unwrap();
        recent.held.clear();
        recent.names = 0;
    }

    /// Keeps a listing; returns its number.
    fn keep(&self, node: u64, items: &Arc<Vec<DirItem>>) -> u64 {
        let mut recent = self.0.lock().unwrap();
        recent.made += 1;
        let number = recent.made;
        recent.names += items.len();
        recent.held.push_back((number, node, items.clone()));
        while recent.held.len() > KEPT || (recent.names > NAMES && recent.held.len() > 1) {
            if let Some((_, _, old)) = recent.held.pop_front() {
                recent.names -= old.len();
            }
        }
        number & 0x7f
    }
}

impl View {
    /// The listing that `offset` belongs to, and the place in it; from the start it is read afresh.
    pub fn items(&self, node: u64, offset: u64) -> io::Result<(Arc<Vec<DirItem>>, Place)> {
        let mut place = Place::from_offset(offset);
        if offset > 0
            && let Some(items) = self.listings.find(node, place.listing)
        {
            self.record.alive()?;
            return Ok((items, place));
        }
        let items = Arc::new(match node {
            TOP => self.roots_listing(),
            _ => self.listing(&self.spot(node)?)?,
        });
        place.listing = self.listings.keep(node, &items);
        Ok((items, place))
    }

    /// What the directory holds for the agent: both layers' names, without hidden ones.
    fn listing(&self, spot: &Spot) -> io::Result<Vec<DirItem>> {
        let mut items = Vec::new();
        let mut seen = HashSet::new();
        let overlay = self.root(spot).overlay.as_ref();
        if spot.upper.is_some() {
            for (name, kind, ino) in sys::list(self.dir(spot.node, Layer::Upper)?)? {
                seen.insert(name.clone());
                items.push(DirItem { name, kind, ino });
            }
        }
        if spot.lower.is_some() {
            for (name, kind, ino) in sys::list(self.dir(spot.node, Layer::Lower)?)? {
                if !seen.contains(&name) && !overlay.is_some_and(|o| o.hides(&spot.child_path(&name))) {
                    items.push(DirItem { name, kind, ino });
                }
            }
        }
        let root = self.root(spot);
        if root.rules.hides() {
            items.retain(|item| !root.rules.child(spot.class, &spot.child_path(&item.name)).hidden);
        }
        Ok(items)
    }

    /// The listing of the mount's top.
    fn roots_listing(&self) -> Vec<DirItem> {
        let item = |index: usize| DirItem {
            name: index.to_string().into_bytes(),
            kind: FileType::Directory,
            ino: FIRST_ROOT + index as u64,
        };
        (0..self.roots.len()).map(item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_as_an_offset() {
        for (listing, index) in [(0, 0), (5, 3), (127, 0xff_ffff), (1, 0x100_0000), (77, 1 << 30)] {
            let place = Place { listing, index };
            let back = Place::from_offset(place.offset());
            assert_eq!((back.listing, back.index), (listing, index));
            assert!(index > 0xff_ffff || place.offset() < 1 << 31);
        }
    }
}
