//! The inodes that the kernel knows. A node is a name in a directory, bound to the host object it had when looked up;
//! nothing is ever resolved again by path (F-15).
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, Stat};

use crate::hash::Version;
use crate::rules::Class;

/// Node of the mount's top directory.
pub const TOP: u64 = 1;
/// Node of root 0; root n has FIRST_ROOT + n.
pub const FIRST_ROOT: u64 = 2;

/// Identity of an object on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id {
    pub dev: u64,
    pub ino: u64,
}

impl From<&Stat> for Id {
    fn from(stat: &Stat) -> Self {
        Id { dev: stat.st_dev, ino: stat.st_ino }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layer {
    Lower,
    Upper,
}

struct Node {
    parent: u64,
    name: Arc<[u8]>,
    root: usize,
    class: Class,
    kind: FileType,
    lower: Option<Id>,
    upper: Option<Id>,
    /// Inode number that the agent sees; kept over copy-up.
    ino: u64,
    lookups: u64,
    /// Open handles.
    opens: u32,
    children: u32,
    /// For roots and for unlinked objects that are still in use: the object itself.
    pinned: Option<Arc<OwnedFd>>,
    gone: bool,
    /// The file whose last name it had: its space is free with the last node for it.
    last: Option<Arc<OwnedFd>>,
    /// What all pages that the kernel may keep were read from.
    version: Option<Version>,
    /// What it counts for in `Tree::shared`.
    shared: Option<Id>,
}

/// A node and where it is, at one moment.
#[derive(Clone)]
pub struct Spot {
    pub node: u64,
    pub parent: u64,
    pub name: Arc<[u8]>,
    pub root: usize,
    /// Relative to the root; empty for the root itself.
    pub path: Vec<u8>,
    pub class: Class,
    pub kind: FileType,
    pub lower: Option<Id>,
    pub upper: Option<Id>,
    pub ino: u64,
    pub pinned: Option<Arc<OwnedFd>>,
    pub gone: bool,
}

impl Spot {
    /// The layer whose object is in effect for anything but a merged directory.
    pub fn layer(&self) -> Layer {
        if self.upper.is_some() { Layer::Upper } else { Layer::Lower }
    }

    pub fn id(&self) -> Option<Id> {
        self.upper.or(self.lower)
    }

    pub fn child_path(&self, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::with_capacity(self.path.len() + name.len() + 1);
        path.extend_from_slice(&self.path);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }
}

/// What a lookup found, to be given a node.
pub struct Object {
    pub class: Class,
    pub kind: FileType,
    pub lower: Option<Id>,
    pub upper: Option<Id>,
    pub ino: u64,
}

/// A node whose class became another in mid-session.
pub struct Changed {
    pub node: u64,
    pub parent: u64,
    pub name: Arc<[u8]>,
    pub class: Class,
}

#[derive(Default)]
pub struct Tree {
    nodes: HashMap<u64, Node>,
    names: HashMap<(u64, Arc<[u8]>), u64>,
    /// Objects that were seen to have several names, and how many nodes there are for each.
    shared: HashMap<Id, u32>,
    next: u64,
}

impl Tree {
    /// Puts root `index` in its place.
    pub fn plant(&mut self, index: usize, object: Object, fd: Arc<OwnedFd>) {
        self.next = self.next.max(FIRST_ROOT + index as u64 + 1).max(1024);
        let name: Arc<[u8]> = index.to_string().into_bytes().into();
        self.nodes.insert(
            FIRST_ROOT + index as u64,
            Node {
                parent: TOP,
                name,
                root: index,
                class: object.class,
                kind: object.kind,
                lower: object.lower,
                upper: object.upper,
                ino: object.ino,
                lookups: 1,
                opens: 0,
                children: 0,
                pinned: Some(fd),
                gone: false,
                last: None,
                version: None,
                shared: None,
            },
        );
    }

    pub fn spot(&self, id: u64) -> Option<Spot> {
        let node = self.nodes.get(&id)?;
        let mut names: Vec<&[u8]> = Vec::with_capacity(12);
        let mut at = node;
        while at.parent != TOP {
            names.push(&at.name);
            at = self.nodes.get(&at.parent)?;
        }
        names.reverse();
        Some(Spot {
            node: id,
            parent: node.parent,
            name: node.name.clone(),
            root: node.root,
            path: names.join(&b'/'),
            class: node.class,
            kind: node.kind,
            lower: node.lower,
            upper: node.upper,
            ino: node.ino,
            pinned: node.pinned.clone(),
            gone: node.gone,
        })
    }

    pub fn child(&self, parent: u64, name: &[u8]) -> Option<u64> {
        self.names.get(&(parent, Arc::from(name))).copied()
    }

    /// The node for `name` in `parent`, one reference more. A name that now means another object gets a new node;
    /// the old one stays with the old object.
    pub fn adopt(&mut self, parent: u64, name: &[u8], object: Object) -> Option<(u64, u64)> {
        let name: Arc<[u8]> = name.into();
        if let Some(id) = self.names.get(&(parent, name.clone())).copied()
            && let Some(node) = self.nodes.get_mut(&id)
        {
            let same = node.kind == object.kind
                && match (node.upper, object.upper) {
                    (Some(a), Some(b)) => a == b,
                    _ => node.lower.is_some() && node.lower == object.lower,
                };
            if same {
                node.lookups += 1;
                node.lower = object.lower;
                node.upper = object.upper;
                return Some((id, node.ino));
            }
            self.detach(id);
        }
        let root = self.nodes.get(&parent)?.root;
        let id = self.next;
        self.next += 1;
        self.nodes.get_mut(&parent)?.children += 1;
        self.names.insert((parent, name.clone()), id);
        let ino = object.ino;
        self.nodes.insert(
            id,
            Node {
                parent,
                name,
                root,
                class: object.class,
                kind: object.kind,
                lower: object.lower,
                upper: object.upper,
                ino,
                lookups: 1,
                opens: 0,
                children: 0,
                pinned: None,
                gone: false,
                last: None,
                version: None,
                shared: None,
            },
        );
        Some((id, ino))
    }

    /// Takes the name from the node; it lives on until the kernel forgets it.
    pub fn detach(&mut self, id: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.gone = true;
            let key = (node.parent, node.name.clone());
            if self.names.get(&key) == Some(&id) {
                self.names.remove(&key);
            }
        }
    }

    /// Keeps an object that loses this name. `last`: it had no other, so its space is free with the node.
    pub fn pin(&mut self, id: u64, fd: Arc<OwnedFd>, last: bool) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.last = last.then(|| fd.clone());
            node.pinned = Some(fd);
        }
    }

    /// True when the node's content was this at its last open; remembers it. `None`: it changed just now.
    pub fn seen(&mut self, id: u64, version: Option<Version>) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        std::mem::replace(&mut node.version, version) == version && version.is_some()
    }

    /// All that the kernel keeps of a file that was young when it was last opened was read since it was settled.
    pub fn settled(&mut self, id: u64, version: Version) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.version.get_or_insert(version);
        }
    }

    /// Somebody wrote: times are set when a write begins, so what was read meanwhile may be older than they say.
    pub fn written(&mut self, id: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.version = None;
        }
    }

    pub fn set_upper(&mut self, id: u64, upper: Id) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.upper = Some(upper);
            if !node.kind.is_dir() {
                node.lower = None;
            }
        }
    }

    /// Gives the node another name (and layer, where a move was a copy).
    pub fn rename(
        &mut self,
        id: u64,
        parent: u64,
        name: &[u8],
        class: Class,
        ids: Option<(Option<Id>, Option<Id>)>,
    ) {
        if let Some(old) = self.child(parent, name)
            && old != id
        {
            self.detach(old);
        }
        // The host put something else at the old name meanwhile: the tree must never close to a ring.
        if self.is_beneath(parent, id) {
            return self.detach(id);
        }
        let name: Arc<[u8]> = name.into();
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let before = (node.parent, node.name.clone());
        let old_parent = node.parent;
        node.parent = parent;
        node.name = name.clone();
        node.class = class;
        if let Some((lower, upper)) = ids {
            node.lower = lower;
            node.upper = upper;
        }
        if self.names.get(&before) == Some(&id) {
            self.names.remove(&before);
        }
        self.names.insert((parent, name), id);
        if let Some(node) = self.nodes.get_mut(&parent) {
            node.children += 1;
        }
        self.release(old_parent, true, 0);
    }

    /// Swaps two names (RENAME_EXCHANGE); each node gets the class of its new place.
    pub fn exchange(&mut self, a: (u64, &[u8], Class), b: (u64, &[u8], Class)) {
        let nodes = [self.child(a.0, a.1), self.child(b.0, b.1)];
        // As for `rename`.
        if nodes[0].is_some_and(|id| self.is_beneath(b.0, id))
            || nodes[1].is_some_and(|id| self.is_beneath(a.0, id))
        {
            return nodes.into_iter().flatten().for_each(|id| self.detach(id));
        }
        for (parent, name, _) in [a, b] {
            self.names.remove(&(parent, Arc::from(name)));
        }
        for (id, from, to) in [(nodes[0], a, b), (nodes[1], b, a)] {
            let Some(id) = id else { continue };
            let name: Arc<[u8]> = to.1.into();
            if let Some(node) = self.nodes.get_mut(&id) {
                (node.parent, node.name, node.class) = (to.0, name.clone(), to.2);
            }
            self.names.insert((to.0, name), id);
            if let Some(node) = self.nodes.get_mut(&to.0) {
                node.children += 1;
            }
            self.release(from.0, true, 0);
        }
    }

    /// Gives every node the class that `class` finds for its path now; returns those whose class became another.
    pub fn reclassify(&mut self, class: impl Fn(usize, &[u8]) -> Class) -> Vec<Changed> {
        let ids: Vec<u64> = self.nodes.keys().copied().filter(|id| *id >= FIRST_ROOT).collect();
        let mut changed = Vec::new();
        for id in ids {
            let Some(spot) = self.spot(id) else { continue };
            let now = class(spot.root, &spot.path);
            if now != spot.class
                && let Some(node) = self.nodes.get_mut(&id)
            {
                node.class = now;
                changed.push(Changed { node: id, parent: spot.parent, name: spot.name, class: now });
            }
        }
        changed
    }

    /// Live names that the kernel knows for a host object.
    pub fn names_of(&self, id: Id) -> Vec<u64> {
        self.nodes.iter().filter(|(_, n)| !n.gone && n.lower == Some(id)).map(|(node, _)| *node).collect()
    }

    /// All that is held for a host object, in either layer.
    pub fn nodes_of(&self, id: Id) -> Vec<u64> {
        let is = |n: &Node| n.lower == Some(id) || n.upper == Some(id);
        self.nodes.iter().filter(|(_, n)| is(n)).map(|(node, _)| *node).collect()
    }

    /// True when a file's attributes may change by another node: it has several names now, or had when another node for
    /// it was last asked for. That one may be open still, with its name gone.
    pub fn is_shared(&mut self, id: u64, several_names: bool) -> bool {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| !node.kind.is_dir()) else { return false };
        if !several_names && self.shared.is_empty() {
            return false;
        }
        let object = node.upper.or(node.lower);
        let own = u32::from(node.shared == object);
        let all = object.and_then(|object| self.shared.get(&object)).copied().unwrap_or(0);
        if !several_names && all <= own {
            return false;
        }
        if own == 0 {
            let before = std::mem::replace(&mut node.shared, object);
            self.unshare(before);
            if let Some(object) = object {
                *self.shared.entry(object).or_default() += 1;
            }
        }
        true
    }

    fn unshare(&mut self, object: Option<Id>) {
        let Some(object) = object else { return };
        if let Some(count) = self.shared.get_mut(&object) {
            *count -= 1;
            if *count == 0 {
                self.shared.remove(&object);
            }
        }
    }

    /// The host's object at `node`.
    pub fn lower(&self, node: u64) -> Option<Id> {
        self.nodes.get(&node)?.lower
    }

    /// Every node: (node, parent, name, whether it is a directory).
    pub fn all(&self) -> Vec<(u64, u64, Arc<[u8]>, bool)> {
        self.nodes.iter().map(|(id, n)| (*id, n.parent, n.name.clone(), n.kind.is_dir())).collect()
    }

    /// Drops kernel references; returns the nodes that went, with the objects that had no other name.
    pub fn forget(&mut self, id: u64, count: u64) -> Vec<(u64, Option<Arc<OwnedFd>>)> {
        self.release(id, false, count)
    }

    /// The node is open once more; false when it is not known.
    pub fn opened(&mut self, id: u64) -> bool {
        self.nodes.get_mut(&id).map(|node| node.opens += 1).is_some()
    }

    /// The node is open once less; returns what went, as `forget` does.
    pub fn closed(&mut self, id: u64) -> Vec<(u64, Option<Arc<OwnedFd>>)> {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.opens = node.opens.saturating_sub(1);
        }
        self.release(id, false, 0)
    }

    /// True when `id` is `above` or beneath it.
    fn is_beneath(&self, id: u64, above: u64) -> bool {
        let mut at = id;
        while at != above {
            match self.nodes.get(&at) {
                Some(node) if at != TOP => at = node.parent,
                _ => return false,
            }
        }
        true
    }

    /// What is free with a node that went; where another one is left for its file, that one takes it over.
    fn space_of(&mut self, mut gone: Node) -> Option<Arc<OwnedFd>> {
        let file = gone.last.take()?;
        let object = gone.upper.or(gone.lower);
        // Whoever took a name of several from a file marked its nodes (`is_shared`).
        let heir = gone.shared.and(object).and_then(|id| self.nodes_of(id).first().copied());
        match heir.and_then(|id| self.nodes.get_mut(&id)) {
            Some(heir) => {
                heir.last.get_or_insert(file);
                None
            }
            None => Some(file),
        }
    }

    fn release(&mut self, id: u64, child: bool, count: u64) -> Vec<(u64, Option<Arc<OwnedFd>>)> {
        let mut gone = Vec::new();
        let (mut id, mut child, mut count) = (id, child, count);
        while let Some(node) = self.nodes.get_mut(&id) {
            node.children -= u32::from(child);
            node.lookups = node.lookups.saturating_sub(count);
            if node.lookups > 0 || node.opens > 0 || node.children > 0 || node.parent == TOP {
                break;
            }
            let key = (node.parent, node.name.clone());
            if self.names.get(&key) == Some(&id) {
                self.names.remove(&key);
            }
            let removed = self.nodes.remove(&id);
            self.unshare(removed.as_ref().and_then(|n| n.shared));
            gone.push((id, removed.and_then(|node| self.space_of(node))));
            (id, child, count) = (key.0, true, 0);
        }
        gone
    }
}

impl Default for Object {
    fn default() -> Self {
        Object { class: Class::default(), kind: FileType::Directory, lower: None, upper: None, ino: 0 }
    }
}
