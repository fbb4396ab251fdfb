//! What a root's rules say of a path: hide > protect > review > read/write (DESIGN.md, "Semantics").
use ambit_shared::glob::{BadGlob, Globs, fold_name};
use rustix::fs::FileType;

use std::sync::RwLock;

use crate::spec::{Access, RootSpec};

/// What the rules say of one path. Inherited: a hidden, protected or reviewed directory covers what is beneath it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Class {
    /// Does not exist for the agent.
    pub hidden: bool,
    /// Beneath a hidden name; differs from `hidden` only where another root is mounted.
    covered: bool,
    /// May be read and executed, never changed or created.
    pub protected: bool,
    /// Changes go to the upper layer.
    pub review: bool,
    /// Another root is mounted here or beneath: may not move or vanish.
    pub pinned: bool,
}

pub struct Rules {
    pub access: Access,
    hide: Globs,
    protect: Globs,
    parents: Globs,
    review: Globs,
    nested: Vec<Vec<String>>,
    /// Directories that a link stands for where protected names belong: what is at (target, folded) is protected as
    /// if it were at (link, folded).
    aliases: RwLock<Vec<(Vec<String>, Vec<String>)>>,
}

impl Rules {
    pub fn new(spec: &RootSpec) -> Result<Self, BadGlob> {
        let protect = Globs::compile(&spec.protect)?;
        Ok(Rules {
            access: spec.access,
            hide: Globs::compile(&spec.hide)?,
            parents: protect.parents(),
            protect,
            review: Globs::compile(&spec.review)?,
            aliases: RwLock::default(),
            nested: spec
                .nested
                .iter()
                .map(|path| path.split('/').map(|n| fold_name(n.as_bytes()).into_owned()).collect())
                .collect(),
        })
    }

    /// The class of the root itself.
    pub fn top(&self) -> Class {
        Class { review: self.access == Access::Review, pinned: true, ..Class::default() }
    }

    /// The class of `path` (relative to the root), whose parent has class `parent`.
    pub fn child(&self, parent: Class, path: &[u8]) -> Class {
        let names: Vec<_> = path.split(|b| *b == b'/').map(fold_name).collect();
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        let pinned =
            self.nested.iter().any(|n| n.len() >= names.len() && n.iter().zip(&names).all(|(a, b)| a == b));
        let covered = parent.covered || self.hide.decides(&names);
        Class {
            hidden: covered && !pinned,
            covered,
            protected: parent.protected || self.protect.decides(&names) || self.protected_by_link(&names),
            review: self.access == Access::Review
                || (self.access == Access::Write && (parent.review || self.review.decides(&names))),
            pinned,
        }
    }

    /// Takes note of a link at `path` to `target` (relative to the root): CASES.md F-09.
    pub fn add_alias(&self, path: &[u8], target: &[u8]) {
        let fold =
            |path: &[u8]| path.split(|b| *b == b'/').map(|n| fold_name(n).into_owned()).collect::<Vec<_>>();
        let alias = (fold(target), fold(path));
        let mut aliases = self.aliases.write().unwrap();
        if !aliases.contains(&alias) {
            aliases.push(alias);
        }
    }

    fn protected_by_link(&self, names: &[&str]) -> bool {
        self.aliases.read().unwrap().iter().any(|(target, link)| {
            names.len() >= target.len() && target.iter().zip(names).all(|(a, b)| a == b) && {
                let path: Vec<&str> =
                    link.iter().map(String::as_str).chain(names[target.len()..].iter().copied()).collect();
                (link.len()..=path.len()).any(|length| self.protect.decides(&path[..length]))
            }
        })
    }

    /// The class of any path, from the root down.
    pub fn class(&self, path: &[u8]) -> Class {
        let mut class = self.top();
        for end in path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at).chain([path.len()])
        {
            class = self.child(class, &path[..end]);
        }
        class
    }

    /// True when an object of this kind may not be placed here: protected names belong beneath, and what stood here
    /// would decide what they mean. A link at any such name; at a dotted one (`.git`, `.github`) also a file, and a
    /// directory, the first step towards the name itself. `library` stays free for directories: only macOS gives
    /// that name a meaning, and what is protected beneath it is refused there.
    pub fn guards(&self, path: &[u8], kind: FileType) -> bool {
        if self.parents.is_empty() {
            return false;
        }
        let names: Vec<_> = path.split(|b| *b == b'/').map(fold_name).collect();
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        let dotted = names.last().is_some_and(|name| name.starts_with('.'));
        ((dotted || kind.is_symlink()) && self.parents.decides(&names))
            || (kind.is_symlink() && self.leads_to_alias(&names))
    }

    /// True at and above what a link at a guarded name leads to: another link there would lead it elsewhere.
    fn leads_to_alias(&self, names: &[&str]) -> bool {
        let aliases = self.aliases.read().unwrap();
        aliases
            .iter()
            .any(|(target, _)| target.len() >= names.len() && target.iter().zip(names).all(|(a, b)| a == b))
    }

    pub fn hides(&self) -> bool {
        !self.hide.is_empty()
    }

    /// True when links at guarded names matter.
    pub fn protects(&self) -> bool {
        !self.protect.is_empty()
    }

    /// True when a directory can be moved without looking at what it holds.
    pub fn moves_freely(&self) -> bool {
        self.hide.is_empty() && self.protect.is_empty() && self.review.is_empty() && self.nested.is_empty()
    }
}
