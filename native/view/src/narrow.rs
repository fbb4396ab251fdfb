//! A grant that shrinks in mid-session (CASES.md F-11, F-17). Names follow at once; a handle that is open keeps its
//! number and loses what the new rules take.
use std::collections::HashMap;
use std::sync::atomic::Ordering;

use crate::rules::Class;
use crate::tree::Changed;
use crate::view::View;

impl View {
    /// Adds rules to a root. No request may be under way. Returns the nodes that are not what they were.
    pub fn narrow(&self, root: usize, hide: &[String], protect: &[String]) -> Result<Vec<Changed>, String> {
        let root = self.roots.get(root).ok_or("there is no such root")?;
        root.rules.narrow(hide, protect).map_err(|e| e.to_string())?;
        let changed = self.reclassify();
        self.listings.clear();
        Ok(changed)
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
