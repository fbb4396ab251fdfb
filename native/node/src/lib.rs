//! The napi addon: the few things `ambit run` and `ambitd` need and Node lacks.
//!
//! The release profile aborts on panic, so nothing here may panic on bad input: every failure is a JS exception.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod certificates;
mod events;
mod fd_passing;
mod files;
mod last_words;
mod lockdown;
mod record_queue;
mod redact;
mod rego;
mod sockets;
mod tree_hashes;
mod wire;

/// A JS `Error` with the text of any Rust error.
fn failed(what: &str, why: impl std::fmt::Display) -> napi::Error {
    napi::Error::from_reason(format!("{what}: {why}"))
}

/// A JS `Error` with the calling thread's errno, e.g. `tryLock: EBADF (os error 9)`.
fn errno(what: &str) -> napi::Error {
    failed(what, std::io::Error::last_os_error())
}
