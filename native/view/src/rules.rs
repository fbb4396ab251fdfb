//! What a root's rules say of a path: hide > protect > review > read/write.
use ambit_shared::glob::{BadGlob, Globs, fold_name};
use rustix::fs::FileType;

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, RwLock};

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
    /// Where this root lies beneath other roots, folded: what is taken there by its path is taken here.
    outer: OnceLock<Vec<Vec<String>>>,
    /// Directories that a link stands for where protected names belong: what is at (target, folded) is protected as
    /// if it were at (link, folded).
    aliases: RwLock<Vec<(Vec<String>, Vec<String>)>>,
    /// What was added since the start; never taken back.
    later: RwLock<Later>,
    /// True once `later` says something.
    narrowed: AtomicBool,
}

#[derive(Default)]
struct Later {
    hide: Globs,
    protect: Globs,
    parents: Globs,
    /// Single paths, folded, that are protected with what is beneath them.
    kept: HashSet<Vec<String>>,
    /// Source of the lists.
    given: (Vec<String>, Vec<String>),
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
            later: RwLock::default(),
            narrowed: AtomicBool::new(false),
            outer: OnceLock::new(),
            nested: spec
                .nested
                .iter()
                .map(|path| path.split('/').map(|n| fold_name(n.as_bytes()).into_owned()).collect())
                .collect(),
        })
    }

    /// The class of the root itself.
    pub fn top(&self) -> Class {
        let (hidden, protected) = self.above();
        let review = self.access == Access::Review;
        Class { hidden, covered: hidden, protected, review, pinned: true }
    }

    /// Says where the root lies beneath other roots. Once, before anything is asked.
    pub fn place(&self, outer: &[Vec<u8>]) {
        let fold = |path: &Vec<u8>| path.split(|b| *b == b'/').map(|n| fold_name(n).into_owned()).collect();
        let _ = self.outer.set(outer.iter().map(fold).collect());
    }

    fn outer(&self) -> impl Iterator<Item = &[String]> {
        self.outer.get().into_iter().flatten().map(Vec::as_slice)
    }

    /// (hidden, protected) by what was added since the start for the root or for what it lies in.
    fn above(&self) -> (bool, bool) {
        let mut all = (false, false);
        if self.narrowed.load(Ordering::Acquire) {
            let later = self.later.read().unwrap();
            for outer in self.outer() {
                let names: Vec<&str> = outer.iter().map(String::as_str).collect();
                for end in 1..=names.len() {
                    all.0 |= later.hide.decides(&names[..end]);
                    all.1 |= later.protect.decides(&names[..end]);
                }
            }
        }
        all
    }

    /// The class of `path` (relative to the root), whose parent has class `parent`.
    pub fn child(&self, parent: Class, path: &[u8]) -> Class {
        let names: Vec<_> = path.split(|b| *b == b'/').map(fold_name).collect();
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        let pinned =
            self.nested.iter().any(|n| n.len() >= names.len() && n.iter().zip(&names).all(|(a, b)| a == b));
        let (hidden, protected) = self.later(&names);
        let covered = parent.covered || self.hide.decides(&names) || hidden;
        Class {
            hidden: covered && !pinned,
            covered,
            protected: parent.protected
                || self.protect.decides(&names)
                || self.protected_by_link(&names)
                || protected,
            review: self.access == Access::Review
                || (self.access == Access::Write && (parent.review || self.review.decides(&names))),
            pinned,
        }
    }

    /// (hidden, protected) by what was added since the start.
    fn later(&self, names: &[&str]) -> (bool, bool) {
        if !self.narrowed.load(Ordering::Acquire) {
            return (false, false);
        }
        let later = self.later.read().unwrap();
        let kept = || {
            !later.kept.is_empty()
                && later.kept.contains(&names.iter().map(|n| n.to_string()).collect::<Vec<_>>())
        };
        (self.anywhere(&later.hide, names), self.anywhere(&later.protect, names) || kept())
    }

    /// Whether a list that was given for every root decides `names` here or as a path in a root around this one.
    fn anywhere(&self, globs: &Globs, names: &[&str]) -> bool {
        let beneath = |outer: &[String]| {
            globs.decides(&outer.iter().map(String::as_str).chain(names.iter().copied()).collect::<Vec<_>>())
        };
        globs.decides(names) || self.outer().any(beneath)
    }

    /// Hides and protects more from now on. Only ever adds: a pattern that re-admits is refused, and the lists are
    /// read apart from the profile's, so none of that one's exceptions reaches them.
    pub fn narrow(&self, hide: &[String], protect: &[String]) -> Result<(), BadGlob> {
        if let Some(pattern) = hide.iter().chain(protect).find(|p| p.starts_with('!')) {
            return Err(BadGlob { pattern: pattern.clone(), why: "a grant that shrinks re-admits nothing" });
        }
        let mut later = self.later.write().unwrap();
        let (mut hidden, mut protected) = later.given.clone();
        hidden.extend_from_slice(hide);
        protected.extend_from_slice(protect);
        let (new_hide, new_protect) = (Globs::compile(&hidden)?, Globs::compile(&protected)?);
        later.parents = new_protect.parents();
        (later.hide, later.protect, later.given) = (new_hide, new_protect, (hidden, protected));
        self.narrowed.store(true, Ordering::Release);
        Ok(())
    }

    /// Protects what is at `path`, whatever its name, and all beneath it.
    pub fn keep(&self, path: &[u8]) {
        let names = path.split(|b| *b == b'/').map(|n| fold_name(n).into_owned()).collect();
        self.later.write().unwrap().kept.insert(names);
        self.narrowed.store(true, Ordering::Release);
    }

    /// Takes note of a link at `path` to `target` (relative to the root): F-09.
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
        if path.is_empty() {
            return class;
        }
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
        let narrowed = self.narrowed.load(Ordering::Acquire);
        if self.parents.is_empty() && !narrowed {
            return false;
        }
        let names: Vec<_> = path.split(|b| *b == b'/').map(fold_name).collect();
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        let dotted = names.last().is_some_and(|name| name.starts_with('.'));
        let above = |names: &[&str]| {
            self.parents.decides(names)
                || (narrowed && self.anywhere(&self.later.read().unwrap().parents, names))
        };
        ((dotted || kind.is_symlink()) && above(&names)) || (kind.is_symlink() && self.leads_to_alias(&names))
    }

    /// True at and above what a link at a guarded name leads to: another link there would lead it elsewhere.
    fn leads_to_alias(&self, names: &[&str]) -> bool {
        let aliases = self.aliases.read().unwrap();
        aliases
            .iter()
            .any(|(target, _)| target.len() >= names.len() && target.iter().zip(names).all(|(a, b)| a == b))
    }

    pub fn hides(&self) -> bool {
        !self.hide.is_empty() || !self.later.read().unwrap().hide.is_empty()
    }

    /// True when links at guarded names matter.
    pub fn protects(&self) -> bool {
        !self.protect.is_empty()
    }

    /// True when a directory can be moved without looking at what it holds.
    pub fn moves_freely(&self) -> bool {
        !self.narrowed.load(Ordering::Acquire)
            && self.hide.is_empty()
            && self.protect.is_empty()
            && self.review.is_empty()
            && self.nested.is_empty()
    }
}

/// The names that lead from `directory` to `path`; none unless it lies beneath it. Twin of `beneath` in
/// src/profile/territory.ts; test/fixtures/beneath-vectors.json holds both to the same answers.
pub fn beneath(path: &Path, directory: &Path) -> Option<Vec<u8>> {
    let rest = path.strip_prefix(directory).ok()?.as_os_str().as_bytes();
    (!rest.is_empty()).then(|| rest.to_vec())
}

#[test]
fn a_root_lies_beneath_another_as_the_vectors_say() {
    let text = include_str!("../../../test/fixtures/beneath-vectors.json");
    let vectors: Vec<(String, String, Option<String>)> = serde_json::from_str(text).unwrap();
    for (path, directory, expected) in &vectors {
        let found = beneath(Path::new(path), Path::new(directory));
        assert_eq!(found, expected.as_ref().map(|rest| rest.as_bytes().to_vec()), "{path} in {directory}");
    }
}
