//! What the native parts share: the journal writer, facts' clocks, the glob matcher, the lock of host processes.
pub mod glob;
pub mod journal;
pub mod lockdown;
