//! `ambit-launch`: makes a session's world, builds the cell in it, and watches over it. docs/architecture.md.
mod alarm;
mod bpf;
mod bwrap;
mod cell;
mod cell_end;
mod command;
mod control;
mod digest;
mod disk;
mod failure;
mod freeze;
mod fuse;
#[cfg(test)]
mod fuzz;
mod gvisor;
mod inside;
mod landlock;
mod limits;
mod namespaces;
mod net;
mod netfilter;
mod pidfd;
mod probe;
mod process_memory;
mod pty;
mod redact;
mod relay;
mod rlimits;
mod rules;
mod seccomp;
mod sensor;
mod session;
mod spec;
mod stage;
mod sys;
mod syscalls;
mod termfilter;
mod watchdog;
mod world;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let status = match words[..] {
        ["world", spec] => world::run(spec.as_ref()),
        ["cell", fds] => cell::run(fds),
        ["guest"] => gvisor::guest::run(),
        ["probe"] => probe::run(),
        _ => {
            eprintln!("usage: ambit-launch world SPEC | probe");
            2
        }
    };
    std::process::exit(status);
}
