//! A cell of the kind `vm`: QEMU stands where the command would, and the command runs under the guest's kernel. What
//! the guest says is believed as far as it harms nobody but itself. docs/architecture.md, "Inside a microVM".
pub mod facts;
pub mod guest;
pub mod loaded;
pub mod machine;
pub mod memory;
pub mod running;
pub mod session;
pub mod snapshot;
pub mod start;
pub mod streams;
