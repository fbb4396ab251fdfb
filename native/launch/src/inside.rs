//! A look from the inside: each control is tried where the agent will stand, and only what was seen is reported.
use std::fs;
use std::io;

use crate::cell::Config;
use crate::control::{ControlState, State};
use crate::landlock::Enforced;
use crate::namespaces;

pub fn look(config: &Config, landlock: Enforced) -> Vec<ControlState> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut controls: Vec<ControlState> =
        namespaces::KINDS.iter().map(|kind| namespace(kind, config)).collect();
    controls.extend([
        seen("no-new-privileges", field(&status, "NoNewPrivs") == "1", "NoNewPrivs: 1"),
        capabilities(&status, &["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]),
        system_calls(&status),
        self::landlock(landlock),
        unix_sockets(landlock),
        read_only_root(),
        seen("dumpable", !fs::exists("/proc/1/root/usr").unwrap_or(false), "PID 1's files stay shut"),
    ]);
    controls
}

pub fn seen(control: &str, holds: bool, detail: &str) -> ControlState {
    let state = if holds { State::Fully } else { State::Not };
    ControlState::new(control, state, detail)
}

pub fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
}

/// The network namespace is the outer one's, which is the session's; all others are the cell's own.
fn namespace(kind: &str, config: &Config) -> ControlState {
    let (own, outer) = (namespaces::identity(kind), config.outer.get(kind).cloned().unwrap_or_default());
    let holds = !own.is_empty() && !outer.is_empty() && ((own == outer) == (kind == "net"));
    let names = [("mnt", "mount"), ("net", "network")];
    let name = names.iter().find(|(short, _)| *short == kind).map_or(kind, |(_, long)| *long);
    seen(&format!("{name}-namespace"), holds && (kind != "net" || only_devices(&config.interfaces)), &own)
}

fn only_devices(expected: &[String]) -> bool {
    let devices = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let mut names: Vec<&str> =
        devices.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim).collect();
    names.sort_unstable_by_key(|name| (*name != "lo", *name));
    names == expected
}

pub fn capabilities(status: &str, sets: &[&str]) -> ControlState {
    let none = sets
        .iter()
        .all(|set| field(status, set).chars().all(|digit| digit == '0') && !field(status, set).is_empty());
    seen("no-capabilities", none, &format!("all {} sets are empty", sets.len()))
}

pub fn read_only_root() -> ControlState {
    seen(
        "read-only-root",
        refused(create_file("/.ambit-probe"), libc::EROFS),
        "creating a file in / is EROFS",
    )
}

/// Arguments are such that the kernel itself, if asked, would answer otherwise.
pub fn system_calls(status: &str) -> ControlState {
    // SAFETY: calls that are refused, or that change nothing.
    let refusals = unsafe {
        [
            refused(call(libc::unshare(libc::CLONE_NEWUSER)), libc::EPERM),
            refused(call(libc::socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)), libc::EAFNOSUPPORT),
            refused(call(libc::ioctl(-1, 0x5412, 0)), libc::EPERM),
            refused(call(libc::syscall(libc::SYS_io_uring_setup, 1, 0) as i32), libc::EPERM),
            refused(call(libc::syscall(libc::SYS_clone3, 0, 0) as i32), libc::ENOSYS),
            refused(call(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) as i32), libc::EPERM),
        ]
    };
    let holds = field(status, "Seccomp") == "2" && refusals.iter().all(|refused| *refused);
    seen(
        "system-calls",
        holds,
        "seccomp mode 2; namespaces, raw sockets, TIOCSTI, io_uring, clone3, ptrace were tried",
    )
}

fn landlock(enforced: Enforced) -> ControlState {
    let state = match enforced.abi {
        0 => State::Not,
        _ if enforced.scopes() => State::Fully,
        _ => State::Partly,
    };
    ControlState::new(
        "landlock",
        state,
        format!("ABI {}; file system, abstract sockets and signals from 6", enforced.abi),
    )
}

fn unix_sockets(enforced: Enforced) -> ControlState {
    let state = if enforced.unix_sockets() { State::Fully } else { State::Partly };
    let detail =
        "no socket in a root can be reached; those in the agent's own tree are refused from Landlock ABI 9";
    ControlState::new("unix-sockets", state, detail)
}

fn call(returned: i32) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn create_file(path: &str) -> io::Result<()> {
    fs::File::create_new(path).map(drop)
}

fn refused(result: io::Result<()>, errno: i32) -> bool {
    result.err().and_then(|error| error.raw_os_error()) == Some(errno)
}
