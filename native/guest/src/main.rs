//! `ambit-guest`: PID 1 of a microVM, from the initramfs to the end of the session. It checks and mounts the root
//! image, carries the view's messages, and builds the agent's cell from the same parts as `ambit-launch`.
//! What is said on which port: docs/architecture.md, "Inside a microVM".
mod boot;
mod cell;
mod channel;
mod modules;
mod mounts;
mod network;
mod port;
mod processors;
mod seed;
mod session;
mod spec;
mod streams;
mod tpm;
mod verity;
mod view;
mod warm;

use ambit_launch::failure::Failure;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let ["cell", order] = words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        std::process::exit(cell::become_cell(order));
    }
    if std::process::id() != 1 {
        eprintln!("ambit-guest: it is PID 1 of a microVM and runs nowhere else");
        std::process::exit(2);
    }
    if let Err(failure) = boot::prepare().and_then(session::run) {
        say(&failure);
    }
    boot::restart()
}

/// For whoever looks at the console; the control channel had it, too, if there was one.
fn say(failure: &Failure) {
    let _ = std::fs::write("/dev/kmsg", format!("<0>ambit: {failure}\n"));
}
