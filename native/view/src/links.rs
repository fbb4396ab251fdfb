//! Hard links: a file with several names is used only when all its names are known, visible and of one rule
//! (F-07).
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::fs::Stat;

use crate::rules::Class;
use crate::sys;
use crate::tree::{Id, Spot};
use crate::view::View;

/// Names looked at in one search of a root.
const SCAN_LIMIT: usize = 200_000;
/// A root is searched again at the earliest after this time.
const SCAN_EVERY: Duration = Duration::from_secs(2);

#[derive(Default)]
pub struct Links {
    roots: Mutex<HashMap<usize, Found>>,
}

#[derive(Default)]
struct Found {
    names: HashMap<Id, HashSet<Vec<u8>>>,
    scanned: Option<Instant>,
}

impl Links {
    /// Remembers names that the session itself linked.
    pub fn note(&self, root: usize, id: Id, paths: [&[u8]; 2]) {
        let mut roots = self.roots.lock().unwrap();
        roots.entry(root).or_default().names.entry(id).or_default().extend(paths.map(<[u8]>::to_vec));
    }
}

impl View {
    /// Refuses a file with a name that is unknown, hidden or (for a change) not freely writable.
    pub fn admit_links(&self, spot: &Spot, stat: &Stat, change: bool) -> io::Result<()> {
        let rules = &self.root(spot).rules;
        // The upper layer's names were all made through the view.
        // What lost its name here and has one left has it elsewhere.
        let own = u64::from(!spot.gone);
        if spot.kind.is_dir() || stat.st_nlink <= own || spot.upper.is_some() || !(change || rules.hides()) {
            return Ok(());
        }
        let free = |class: Class| {
            !class.hidden && !(change && (class.protected || class.review != spot.class.review))
        };
        let known = |view: &View| view.known_names(spot, stat, free);
        if known(self)? >= stat.st_nlink as usize {
            return Ok(());
        }
        self.scan(spot.root, Id::from(stat))?;
        if known(self)? >= stat.st_nlink as usize {
            return Ok(());
        }
        Err(self.refuse(
            spot.root,
            &spot.path,
            if change { "write" } else { "open" },
            "hard-link",
            libc::EACCES,
        ))
    }

    /// Counts names of the object that exist now and are free.
    fn known_names(&self, spot: &Spot, stat: &Stat, free: impl Fn(Class) -> bool) -> io::Result<usize> {
        let id = Id::from(stat);
        // A name that moves meanwhile would count at both its places.
        let _all_stay = self.renaming.read().unwrap();
        let mut names: HashSet<Vec<u8>> = {
            let tree = self.tree.lock().unwrap();
            tree.names_of(id)
                .into_iter()
                .filter_map(|n| tree.spot(n))
                .filter(|s| s.root == spot.root)
                .map(|s| s.path)
                .collect()
        };
        if let Some(found) = self.links.roots.lock().unwrap().get(&spot.root) {
            names.extend(found.names.get(&id).into_iter().flatten().cloned());
        }
        let rules = &self.root(spot).rules;
        let mut count = 0;
        for path in names {
            if free(rules.class(&path)) && self.is_at(spot.root, &path, id) {
                count += 1;
            }
        }
        Ok(count)
    }

    fn is_at(&self, root: usize, path: &[u8], id: Id) -> bool {
        sys::open_path_deep(&self.roots[root].fd, path)
            .and_then(sys::stat_fd)
            .is_ok_and(|stat| Id::from(&stat) == id)
    }

    /// Collects the names of all files with several names in a root, and those of `wanted`.
    fn scan(&self, root: usize, wanted: Id) -> io::Result<()> {
        {
            let mut roots = self.links.roots.lock().unwrap();
            let found = roots.entry(root).or_default();
            if found.scanned.is_some_and(|at| at.elapsed() < SCAN_EVERY) {
                return Ok(());
            }
            found.scanned = Some(Instant::now());
        }
        let mut names: HashMap<Id, HashSet<Vec<u8>>> = HashMap::new();
        let mut seen = 0;
        sys::walk(&self.roots[root].fd, true, &mut |path, stat| {
            seen += 1;
            if sys::kind(stat).is_file() && (stat.st_nlink > 1 || Id::from(stat) == wanted) {
                names.entry(stat.into()).or_default().insert(path.to_vec());
            }
            Ok(seen < SCAN_LIMIT)
        })?;
        let mut roots = self.links.roots.lock().unwrap();
        let found = roots.entry(root).or_default();
        for (id, paths) in names {
            found.names.entry(id).or_default().extend(paths);
        }
        Ok(())
    }
}
