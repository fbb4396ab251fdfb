//! `ambit-view`: the file view. One filtering file system over the session's roots.
#![deny(unsafe_code)]
mod aliases;
mod attr;
mod change;
mod channel;
mod confine;
mod content;
mod crew;
mod dirs;
mod filesystem;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod fuzz_requests;
mod git;
mod globs;
mod handle;
mod hash;
mod intent;
mod links;
mod listing;
mod lookup;
mod mount;
mod narrow;
mod notify;
mod order;
mod overlay;
mod quota;
mod readdir;
mod record;
mod remove;
mod rename;
mod request;
mod review;
mod root;
mod rules;
mod search;
mod serve;
mod spec;
mod stale;
mod sys;
mod tree;
mod view;
mod watch;

use std::path::Path;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let code = match args.as_slice() {
        ["serve", spec] => serve_inherited(Path::new(spec)),
        ["review", spec] => review::run(Path::new(spec)),
        ["globs"] => globs::run(),
        // For tests and benchmarks: mounts in namespaces of its own and runs a command there.
        ["mount", spec, dir, "--", command @ ..] if !command.is_empty() => {
            mount::run(Path::new(spec), Path::new(dir), command)
        }
        _ => {
            eprintln!("usage: ambit-view serve SPEC | ambit-view review SPEC");
            2
        }
    };
    std::process::exit(code)
}

fn serve_inherited(spec: &Path) -> i32 {
    match (serve::inherited(3), serve::inherited(4)) {
        (Ok(fuse), Ok(control)) => serve::serve(spec, fuse, control),
        (Err(why), _) | (_, Err(why)) => {
            eprintln!("ambit-view: cannot serve: {why}");
            2
        }
    }
}
