//! What launch and view share: the journal writer, facts' clocks, the glob matcher.
pub mod glob;
pub mod journal;
