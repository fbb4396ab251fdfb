//! A grant that shrinks in mid-session (CASES.md F-11, F-17). Names follow at once; a handle that is open keeps its
//! number and loses what the new rules take.
use std::collections::HashMap;
use std::sync::atomic::Ordering;

use crate::rules::Class;
use crate::tree::Changed;
use crate::view::{Handle, View};

impl View {
    /// Adds rules to a root. No request may be under way. Returns the nodes that are not what they were.
    pub fn narrow(&self, root: usize, hide: &[String], protect: &[String]) -> Result<Vec<Changed>, String> {
        let root = self.roots.get(root).ok_or("there is no such root")?;
        root.rules.narrow(hide, protect).map_err(|e| e.to_string())?;
        let changed = self.reclassify();
        for handle in self.handles.read().unwrap().values() {
            // A listing that is half read ends here.
            if let Handle::Dir(items) = &**handle {
                *items.lock().unwrap() = Default::default();
            }
        }
        Ok(changed)
    }

    /// Gives every node and open handle what the rules say of it now. No request may be under way.
    pub fn reclassify(&self) -> Vec<Changed> {
        let changed = self.tree.lock().unwrap().reclassify(|root, path| self.roots[root].rules.class(path));
        let classes: HashMap<u64, Class> = changed.iter().map(|node| (node.node, node.class)).collect();
        for handle in self.handles.read().unwrap().values() {
            if let Handle::File(file) = &**handle
                && let Some(class) = classes.get(&file.node)
            {
                file.revoked.fetch_or(class.hidden, Ordering::AcqRel);
                file.kept.fetch_or(class.hidden || class.protected, Ordering::AcqRel);
            }
        }
        changed
    }
}
