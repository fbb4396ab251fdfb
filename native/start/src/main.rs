//! `ambit`, as it is started: `run` goes to a warm session host where one stands ready, everything else, and whatever
//! a host cannot take, to a Node of its own. docs/architecture.md, "A warm start".
#![no_main]
mod client;
mod cold;
mod host;
mod request;
mod room;
mod sys;
mod terminal;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Without Rust's own start, which would change what SIGPIPE does in everything started from here.
#[unsafe(no_mangle)]
pub extern "C" fn main(_argc: libc::c_int, _argv: *const *const libc::c_char) -> libc::c_int {
    let Some(root) = installation() else {
        return refuse("cannot find its own installation: /proc is not mounted");
    };
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(why) = room::limited() {
        return refuse(&why);
    }
    host::run(&root, &words).unwrap_or_else(|| start_node(&root, &words))
}

/// The directory that holds `.build/bin/ambit-start`, by the kernel's word.
fn installation() -> Option<PathBuf> {
    Some(std::fs::read_link("/proc/self/exe").ok()?.parent()?.parent()?.parent()?.to_path_buf())
}

/// What would load somebody's code, configuration or trust into the program that confines (C-48).
const LOADING: [&str; 8] = [
    "NODE_OPTIONS",
    "NODE_PATH",
    "NODE_V8_COVERAGE",
    "NODE_TLS_REJECT_UNAUTHORIZED",
    "OPENSSL_CONF",
    "OPENSSL_MODULES",
    "LD_PRELOAD",
    "LD_AUDIT",
];

fn refuse(why: &str) -> libc::c_int {
    eprintln!("ambit: {why}");
    125
}

/// The cold start. Of all but a session this process becomes Node, and returns only when it cannot.
fn start_node(root: &Path, words: &[OsString]) -> libc::c_int {
    let starts = words.first().is_some_and(|word| word == "run");
    // Whoever ends a session because memory is short must be able to.
    if let Some(why) = room::exhausted().filter(|_| starts) {
        return refuse(&why);
    }
    let build = root.join(".build");
    let mut node = Command::new(build.join("node"));
    for name in LOADING {
        node.env_remove(name);
    }
    // As the warm host has it (src/daemon/standby.ts), or V8 would refuse the code that the other one compiled.
    if starts {
        node.args(["--max-semi-space-size=8", "--min-semi-space-size=8", "--no-flush-bytecode"]);
    }
    // Else that signal, which any process of the user may send, opens Node's debugger: it would run what it is told.
    node.arg("--disable-sigusr1");
    node.arg(build.join("ambit.cjs")).args(words);
    let ended = if starts { cold::run(node) } else { Err(node.exec()) };
    ended.unwrap_or_else(|error| {
        refuse(&format!("cannot start: {}: {error}; run: ./dev build", build.join("node").display()))
    })
}
