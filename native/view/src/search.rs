//! What the roots hold that is protected by what it is, not by its name: links at protected names (aliases.rs) and
//! repositories (git.rs). One walk when the view starts; the first change waits until it is through, so there is no
//! depth and no moment at which these lie open (F-13, F-14).
use std::io;

use rustix::fs::FileType;

use crate::root::Root;
use crate::sys;
use crate::view::View;
use crate::{aliases, git};

/// Names looked at in one root.
const LIMIT: usize = 1_000_000;

/// Looks through all roots. Known nodes still have the class that they had: `View::reclassify`.
pub fn run(view: &View) {
    for root in view.roots.iter().filter(|root| root.rules.protects()) {
        // A directory that cannot be read cannot be looked through; the agent acts with the same rights.
        let _ = look_through(root);
    }
}

fn look_through(root: &Root) -> io::Result<()> {
    let mut waiting = vec![Vec::new()];
    let mut seen = 0;
    while let Some(path) = waiting.pop() {
        let at: &[u8] = if path.is_empty() { b"." } else { &path };
        let Ok((fd, names)) =
            sys::open_dir(&root.fd, at).and_then(|fd| Ok((sys::list(&fd)?, fd))).map(|(n, f)| (f, n))
        else {
            continue;
        };
        git::note(root, &path, &names);
        for (name, kind, _) in names {
            let child = if path.is_empty() { name.clone() } else { [&path[..], b"/", &name].concat() };
            let kind = match kind {
                FileType::Unknown => sys::stat_at(&fd, &name)?.map_or(kind, |stat| sys::kind(&stat)),
                known => known,
            };
            match kind {
                FileType::Directory => waiting.push(child),
                FileType::Symlink => aliases::note(root, &child),
                _ => {}
            }
            seen += 1;
        }
        if seen >= LIMIT {
            break;
        }
    }
    Ok(())
}
