//! A cold session: Node is the supervisor, and this process stands before it as it stands before a warm host, so that
//! a supervisor that the kernel ends leaves a terminal that works and one line that says why.
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use ambit_shared::lockdown::no_new_privileges;

use crate::room;
use crate::sys::{self, Ended};
use crate::terminal::Terminal;

const SIGNALS: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD];

/// The exit status of the session that `node` supervises. Fails when it did not start.
pub fn run(mut node: Command) -> io::Result<i32> {
    no_new_privileges()?;
    sys::keep_children();
    let terminal = Terminal::now();
    let kills = room::kills();
    let parent = std::process::id();
    // SAFETY: async-signal-safe calls only.
    unsafe { node.pre_exec(move || sys::die_with(parent)) };
    let child = node.spawn()?.id();
    let signals = sys::signal_fd(&SIGNALS)?;
    loop {
        match sys::ended(child) {
            Some(Ended::Code(code)) => return Ok(code),
            Some(Ended::Signal(libc::SIGKILL)) => {
                terminal.restore();
                eprintln!("{}", words("its supervisor", kills));
                return Ok(125);
            }
            Some(Ended::Signal(signal)) => {
                sys::die_of(signal);
                return Ok(128 + signal);
            }
            None => sys::poll([signals.as_raw_fd()], -1),
        };
        while let Some((signal, sent)) = sys::next_sent(&signals) {
            // What the terminal's key sends goes to all of this process group.
            if signal != libc::SIGCHLD && (sent || signal != libc::SIGINT) {
                sys::signal(child, signal);
            }
        }
    }
}

/// That `what` is no more, why by what the kernel counts (`kills`: before), and what to do.
pub fn words(what: &str, kills: u64) -> String {
    let (why, remedy) = match room::kills() > kills {
        true => (
            " by the kernel for want of memory",
            "free some memory, or allow the control group that ambit runs in more; ",
        ),
        false => ("", ""),
    };
    format!(
        "ambit: session: {what} was killed{why}; nothing of it runs any more; {remedy}see: ambit sessions --all [ERR_INTERNAL]"
    )
}
