//! Renames. A move may not carry a protected or hidden name along, nor make one, and does not silently take a file
//! across a rule's border (F-08, F-09, F-14, F-16).
use std::io;

use rustix::fs::{self, AtFlags, FileType, RenameFlags};

use crate::lookup::Found;
use crate::overlay::describe;
use crate::record::Fact;
use crate::rules::Class;
use crate::sys::{self, errno};
use crate::tree::{Id, Layer, Spot};
use crate::view::View;
use crate::watch::SHORT;

/// Names looked at before a directory moves; a larger one is refused.
const WALK_LIMIT: usize = 500_000;

/// An object in the two layers: lower, upper.
type Identities = (Option<Id>, Option<Id>);

/// One name that moves.
struct Move<'a> {
    from: &'a Spot,
    name: &'a [u8],
    source: &'a Found,
    to: &'a Spot,
    new_name: &'a [u8],
    /// Of the new name.
    class: Class,
}

impl View {
    pub fn rename_name(
        &self,
        old: u64,
        name: &[u8],
        new: u64,
        new_name: &[u8],
        flags: u32,
    ) -> io::Result<()> {
        // One at a time: the check of what a directory holds must still be true when it moves.
        let _shape = self.shape.write().unwrap();
        let _name = self.renaming.write().unwrap();
        let (from, to) = (self.parent(old)?, self.parent(new)?);
        if from.root != to.root {
            return Err(errno(libc::EXDEV));
        }
        let source = self.find(&from, name)?.ok_or_else(|| errno(libc::ENOENT))?;
        let class = self.admit_name(&to, new_name, source.kind(), "rename")?;
        let target = self.find(&to, new_name)?;
        self.admit_move(&from, &source, to.child_path(new_name), class)?;
        if let Some(target) = &target {
            self.admit_replacement(&to, target)?;
        }
        let moved = Move { from: &from, name, source: &source, to: &to, new_name, class };
        match RenameFlags::from_bits_retain(flags) {
            f if f == RenameFlags::NOREPLACE && target.is_some() => return Err(errno(libc::EEXIST)),
            f if f == RenameFlags::EXCHANGE => {
                return self.exchange(&moved, target);
            }
            f if f.is_empty() || f == RenameFlags::NOREPLACE => {}
            _ => return Err(errno(libc::EINVAL)),
        }
        if let Some(target) = &target {
            fits(&source, target)?;
            // rename(2): two names of one file stay as they are.
            if Id::from(&source.stat) == Id::from(&target.stat) {
                return Ok(());
            }
        }
        let replaced = target.as_ref().and_then(|t| self.keep_in_use(&to, new_name, t));
        let old_path = self.fact_path(from.root, &source.path);
        let new_path = self.fact_path(to.root, &to.child_path(new_name));
        let ids = self.record.ahead(&[Fact::Rename { path: &old_path, to: &new_path }], || {
            self.carry(&moved, target.as_ref())
        })?;
        if let Some(target) = &target {
            self.removed(new, new_name, target, replaced);
        }
        let mut tree = self.tree.lock().unwrap();
        if let Some(node) = tree.child(old, name) {
            tree.rename(node, new, new_name, class, ids);
            drop(tree);
            if ids.is_some() {
                self.dirs.drop_node(node);
                if let Ok(spot) = self.spot(node) {
                    self.follow_copy(&spot)?;
                }
            }
        }
        Ok(())
    }

    /// The source may go, and what it holds may be where it goes.
    fn admit_move(&self, from: &Spot, source: &Found, new_path: Vec<u8>, class: Class) -> io::Result<()> {
        if source.class.pinned || class.pinned {
            return Err(errno(libc::EBUSY));
        }
        if source.class.protected || self.leads_elsewhere(from, source) {
            return Err(self.refuse(from.root, &source.path, "rename", "protected", libc::EACCES));
        }
        if !source.kind().is_dir() {
            return Ok(());
        }
        // First what may not move at all: EXDEV would have mv(1) copy and delete piece by piece.
        self.admit_contents(from, source, &new_path)?;
        let in_upper = source.class.review && class.review && source.lower.is_none();
        let in_lower = !source.class.review && !class.review && source.upper.is_none();
        if in_upper || in_lower { Ok(()) } else { Err(errno(libc::EXDEV)) }
    }

    fn admit_contents(&self, from: &Spot, source: &Found, new_path: &[u8]) -> io::Result<()> {
        let rules = &self.root(from).rules;
        if rules.moves_freely() {
            return Ok(());
        }
        let layer = if source.lower.is_some() { Layer::Lower } else { Layer::Upper };
        let name = source.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let dir = sys::open_dir(self.dir(from.node, layer)?, name)?;
        let (mut seen, mut crosses, mut why) = (0, false, None);
        let complete = sys::walk(&dir, false, &mut |path, stat| {
            let kind = sys::kind(stat);
            seen += 1;
            let there = |base: &[u8]| [base, b"/", path].concat();
            let (old, new) = (rules.class(&there(&source.path)), rules.class(&there(new_path)));
            why = match () {
                () if old.pinned || new.pinned => Some(("protected", libc::EBUSY)),
                () if old.protected
                    || new.protected
                    || rules.guards(&there(new_path), kind) && !rules.guards(&there(&source.path), kind) =>
                {
                    Some(("protected", libc::EBUSY))
                }
                () if old.hidden != new.hidden => Some(("hidden", libc::EACCES)),
                () => {
                    crosses |= old.review != new.review || (old.review && layer == Layer::Lower);
                    None
                }
            };
            Ok(why.is_none() && seen < WALK_LIMIT)
        })?;
        match why {
            Some((reason, error)) => Err(self.refuse(from.root, &source.path, "rename", reason, error)),
            None if crosses => Err(errno(libc::EXDEV)),
            None if !complete => {
                Err(self.refuse(from.root, &source.path, "rename", "unsupported", libc::EBUSY))
            }
            None => Ok(()),
        }
    }

    fn admit_replacement(&self, to: &Spot, target: &Found) -> io::Result<()> {
        if target.class.pinned {
            return Err(errno(libc::EBUSY));
        }
        if target.class.protected || self.leads_elsewhere(to, target) {
            return Err(self.refuse(to.root, &target.path, "rename", "protected", libc::EACCES));
        }
        Ok(())
    }

    /// Moves the object. Returns its new identities where the move was a copy or crossed layers.
    fn carry(&self, moved: &Move, target: Option<&Found>) -> io::Result<Option<Identities>> {
        let Move { from, name, source, to, new_name, class } = *moved;
        if !source.class.review && !class.review {
            let (lower, new_lower) = (self.dir(from.node, Layer::Lower)?, self.dir(to.node, Layer::Lower)?);
            if source.lower.is_none() {
                return Err(errno(libc::EXDEV));
            }
            if let Some(target) = target
                && target.upper.is_some()
            {
                fs::unlinkat(self.dir(to.node, Layer::Upper)?, new_name, AtFlags::REMOVEDIR)?;
            }
            fs::renameat(lower, name, new_lower, new_name)?;
            return Ok(None);
        }
        if class.review {
            self.hide_lower(to, new_name)?;
        }
        if source.class.review && class.review {
            return self.carry_in_upper(moved).map(Some);
        }
        // Across the border of `review`: a copy, then the removal of the source.
        let entry = self.entry(from.node, name, source, SHORT)?;
        let copied = self.spot(entry.inode).and_then(|spot| {
            let dir = self.place(to, class)?;
            self.copy_across(&spot, &dir, new_name)
        });
        self.forget_node(entry.inode, 1);
        let id = copied?;
        self.remove(from, name, source, AtFlags::empty())?;
        Ok(Some(if class.review { (None, Some(id)) } else { (Some(id), None) }))
    }

    fn carry_in_upper(&self, moved: &Move) -> io::Result<Identities> {
        let Move { from, name, source, to, new_name, .. } = *moved;
        let mut id = source.upper.as_ref().map(Id::from);
        if id.is_none() {
            let entry = self.entry(from.node, name, source, SHORT)?;
            let copied = self.copy_up(entry.inode);
            self.forget_node(entry.inode, 1);
            id = copied?.upper;
        }
        let upper = self.dir(from.node, Layer::Upper)?;
        let new_upper = self.upper_dir(to.node)?;
        self.hide_lower(from, name)?;
        fs::renameat(&upper, name, &new_upper, new_name)?;
        Ok((None, id))
    }

    fn hides_lower_at(&self, parent: &Spot, path: &[u8]) -> bool {
        parent.lower.is_none() || self.root(parent).overlay.as_ref().is_some_and(|o| o.hides(path))
    }

    /// Marks the host's object of this name, where there is one, as seen no more.
    fn hide_lower(&self, parent: &Spot, name: &[u8]) -> io::Result<()> {
        let path = parent.child_path(name);
        if self.hides_lower_at(parent, &path) {
            return Ok(());
        }
        let lower = self.dir(parent.node, Layer::Lower)?;
        let Some(stat) = sys::stat_at(&lower, name)? else { return Ok(()) };
        if sys::kind(&stat).is_dir() {
            self.must_look_empty(&lower, name, &path, parent)?;
        }
        match &self.root(parent).overlay {
            Some(overlay) => overlay.hide(&path, describe(&lower, name, &stat)?),
            None => Ok(()),
        }
    }

    fn must_look_empty(
        &self,
        lower: &std::os::fd::OwnedFd,
        name: &[u8],
        path: &[u8],
        parent: &Spot,
    ) -> io::Result<()> {
        let overlay = self.root(parent).overlay.as_ref();
        for (child, _, _) in sys::list(sys::open_dir(lower, name)?)? {
            if !overlay.is_some_and(|o| o.hides(&[path, b"/", &child[..]].concat())) {
                return Err(errno(libc::ENOTEMPTY));
            }
        }
        Ok(())
    }

    /// Two names swap: only where nothing but the host's tree is involved.
    fn exchange(&self, moved: &Move, target: Option<Found>) -> io::Result<()> {
        let Move { from, name, source, to, new_name, class } = *moved;
        let target = target.ok_or_else(|| errno(libc::ENOENT))?;
        let back = self.admit_name(from, name, target.kind(), "rename")?;
        self.admit_move(to, &target, source.path.clone(), back)?;
        if class.review || back.review || source.upper.is_some() || target.upper.is_some() {
            return Err(errno(libc::EINVAL));
        }
        let (lower, new_lower) = (self.dir(from.node, Layer::Lower)?, self.dir(to.node, Layer::Lower)?);
        let (one, other) = (self.fact_path(from.root, &source.path), self.fact_path(from.root, &target.path));
        let facts = [Fact::Rename { path: &one, to: &other }, Fact::Rename { path: &other, to: &one }];
        self.record.ahead(&facts, || {
            Ok(fs::renameat_with(lower, name, new_lower, new_name, RenameFlags::EXCHANGE)?)
        })?;
        let (a, b) = ((from.node, name, back), (to.node, new_name, class));
        self.tree.lock().unwrap().exchange(a, b);
        Ok(())
    }
}

/// The kind rules of rename(2).
fn fits(source: &Found, target: &Found) -> io::Result<()> {
    match (source.kind() == FileType::Directory, target.kind() == FileType::Directory) {
        (true, false) => Err(errno(libc::ENOTDIR)),
        (false, true) => Err(errno(libc::EISDIR)),
        _ => Ok(()),
    }
}
