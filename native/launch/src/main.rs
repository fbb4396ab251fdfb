//! `ambit-launch`: makes a session's world, builds the cell in it, and watches over it. docs/architecture.md.
use ambit_launch::{cell, gvisor, probe, tsc, world};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let status = match words[..] {
        ["world", spec] => world::run(spec.as_ref()),
        ["cell", fds] => cell::run(fds),
        ["guest"] => gvisor::guest::run(),
        ["probe"] => probe::run(),
        ["tsc"] => tsc::run(),
        _ => {
            eprintln!("usage: ambit-launch world SPEC | probe | tsc");
            2
        }
    };
    std::process::exit(status);
}
