//! The cell with a kernel of its own: bubblewrap's namespaces as ever, and in them gVisor's `runsc` instead of the
//! agent. The Sentry is the agent's kernel, the Gofer its way to the files; both see only what bubblewrap mounted.
pub mod bundle;
pub mod guest;
mod look;
mod order;
pub mod outside;
mod proto;
pub mod report;
pub mod trace;
