//! A grant that shrinks in mid-session (F-11, F-17). Names follow at once; a handle that is open keeps its
//! number and loses what the new rules take.
use std::collections::HashMap;
use std::sync::atomic::Ordering;

use crate::rules::Class;
use crate::sys;
use crate::tree::{Changed, Spot};
use crate::view::View;

impl View {
    /// Adds rules to a root. No request may be under way. Returns the nodes that are not what they were.
    pub fn narrow(&self, root: usize, hide: &[String], protect: &[String]) -> Result<Vec<Changed>, String> {
        let rules = &self.roots.get(root).ok_or("there is no such root")?.rules;
        rules.narrow(hide, protect).map_err(|e| e.to_string())?;
        let mut changed = self.reclassify();
        changed.extend(self.let_second_names_go(root));
        self.listings.clear();
        Ok(changed)
    }

    /// A file that is open by a name that stays may have another that was taken: what a new open of it is refused, its
    /// handles lose as well.
    fn let_second_names_go(&self, root: usize) -> Vec<Changed> {
        let handles: Vec<_> = self.handles.read().unwrap().values().cloned().collect();
        let mut let_go = HashMap::new();
        for handle in handles.iter().filter(|handle| !handle.revoked.load(Ordering::Acquire)) {
            let Ok(spot) = self.spot_of_any(handle.node) else { continue };
            if spot.root != root {
                continue;
            }
            let admits = |change| {
                let stat = sys::stat_fd(&**handle.file.read().unwrap());
                stat.and_then(|stat| self.admit_links(&spot, &stat, change)).is_ok()
            };
            let read = admits(false);
            let write = read && (!handle.writes || spot.class.review || admits(true));
            handle.revoked.fetch_or(!read, Ordering::AcqRel);
            handle.kept.fetch_or(!write, Ordering::AcqRel);
            if !(read && write) {
                let Spot { node, parent, name, class, .. } = spot;
                let_go.insert(node, Changed { node, parent, name, class });
            }
        }
        let_go.into_values().collect()
    }

    /// Gives every node and open handle what the rules say of it now. No request may be under way.
    pub fn reclassify(&self) -> Vec<Changed> {
        let changed = self.tree.lock().unwrap().reclassify(|root, path| self.roots[root].rules.class(path));
        let classes: HashMap<u64, Class> = changed.iter().map(|node| (node.node, node.class)).collect();
        for handle in self.handles.read().unwrap().values() {
            if let Some(class) = classes.get(&handle.node) {
                handle.revoked.fetch_or(class.hidden, Ordering::AcqRel);
                handle.kept.fetch_or(class.hidden || class.protected, Ordering::AcqRel);
            }
        }
        changed
    }
}
