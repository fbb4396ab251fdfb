//! A machine's TPM 2.0: `swtpm` in a cell of its own. Before the guest's first instruction it is extended with what
//! starts; afterwards it serves the guest, and signs quotes for the host. It binds the log to an image. It is software
//! on the same host, and so proves nothing against whoever rules this host.
pub mod commands;
pub mod event_log;
pub mod measure;
pub mod port;
pub mod swtpm;
pub mod wire;
