//! What the native parts share: the journal writer, facts' clocks, the glob matcher, the lock of host processes, what
//! of a command line may be recorded, system calls.
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod glob;
pub mod journal;
pub mod lockdown;
pub mod redact;
pub mod sys;
