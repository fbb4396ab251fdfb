//! The guest's side: PID 1 on gVisor's kernel. It makes the process that becomes the agent, reaps, passes signals on,
//! and ends when the command ends; then the Sentry ends everything else.
//!
//! Files of the session's host uid show as uid 0 here, because that is all that `runsc` can map. So the agent gets a
//! user namespace of the Sentry's, in which they, and itself, have its usual uid; and no capability in it.
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::bundle::{GUEST_COMPAT, GUEST_CONFIG};
use super::look::look;
use super::report::{GO, Report};
use crate::command;
use crate::control::Ending;
use crate::failure::{Context, Failure, Result};
use crate::spec::Ids;
use crate::{cell, pty, relay, seccomp, sys};

/// What the guest is told, through a file that the agent may read: it holds what the agent knows anyway.
#[derive(Serialize, Deserialize)]
pub struct Config {
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: PathBuf,
    pub terminal: bool,
    pub inside: Ids,
    pub pinned: bool,
}

/// Passed on to the command, as `runsc` passes them on to PID 1. A terminal's go to its foreground by themselves.
const PASSED_ON: [libc::c_int; 7] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGCONT];

/// `ambit-launch guest`.
pub fn run() -> i32 {
    match stand() {
        Ok((main, signals)) => keep(main, &signals),
        Err(failure) => {
            Report::Failed { what: failure.what, why: failure.why }.say();
            125
        }
    }
}

fn stand() -> Result<(libc::pid_t, OwnedFd)> {
    let what = "reading the guest's configuration";
    let bytes = fs::read(GUEST_CONFIG).context(what)?;
    let config: Config = serde_json::from_slice(&bytes).map_err(|error| Failure::new(what, error))?;
    sys::prctl(libc::PR_SET_DUMPABLE, 0).context("making PID 1 undumpable")?;
    forget_environment();
    remove_fuse().context("removing the Sentry's own /dev/fuse")?;
    // SAFETY: plain number.
    unsafe { libc::umask(0o022) };
    let signals = sys::signal_fd(&[&PASSED_ON[..], &[libc::SIGCHLD]].concat()).context("taking signals")?;
    let (powerless, powers) = sys::pipe().context("forking")?;
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        0 => {
            drop(powers);
            std::process::exit(become_command(&config, powerless))
        }
        pid => {
            let main = sys::check(pid).context("forking")?;
            drop_capabilities().context("dropping capabilities")?;
            // Ends what the command waits for.
            drop(powers);
            read_common();
            Ok((main, signals))
        }
    }
}

/// The Sentry's own, a way to file systems of its making (C-32): nobody inside can make it anew. Not
/// covered, because newer versions mount no directory over a device.
fn remove_fuse() -> io::Result<()> {
    match fs::remove_file("/dev/fuse") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// `runsc` gives PID 1 a HOME of its own making, and the guest's kernel shows that to every process (C-25).
fn forget_environment() {
    unsafe extern "C" {
        static environ: *const *mut libc::c_char;
    }
    // SAFETY: one thread, and nobody here reads a variable; the strings lie on this process' own stack.
    unsafe {
        let mut at = environ;
        while !at.is_null() && !(*at).is_null() {
            libc::memset((*at).cast(), 0, libc::strlen(*at));
            at = at.add(1);
        }
    }
}

/// What nearly every command opens first: the Sentry knows it then, while the command still waits for its word.
const COMMON: [&str; 6] = [
    "/etc/ld.so.preload",
    "/etc/ld.so.cache",
    "/lib64/ld-linux-x86-64.so.2",
    GUEST_COMPAT,
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/locale/C.utf8/LC_CTYPE",
];

/// Nothing depends on it. The profile may have put anything there: a device or a FIFO is not waited for.
fn read_common() {
    COMMON.into_iter().for_each(|path| drop(read_file(path)));
}

fn read_file(path: impl AsRef<Path>) -> io::Result<u64> {
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
    let mut file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => io::copy(&mut file, &mut io::sink()),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// PID 1's life.
fn keep(main: libc::pid_t, signals: &OwnedFd) -> i32 {
    // The command's descriptors are its own: who waits for their end must not wait for us.
    relay::leave_stdio();
    loop {
        match cell::reap(main, usize::MAX).0 {
            Some(Ending::Code(code)) => return code,
            Some(Ending::Signal(signal)) => return 128 + signal,
            None => {}
        }
        if sys::poll(&[std::os::fd::AsRawFd::as_raw_fd(signals)], None).is_err() {
            return 125;
        }
        while let Some(signal) = sys::next_signal(signals.as_fd()) {
            if signal != libc::SIGCHLD {
                // SAFETY: plain numbers.
                unsafe { libc::kill(main, signal) };
            }
        }
    }
}

/// Returns only when the command cannot be started. `powerless` ends when PID 1 has no capability left.
fn become_command(config: &Config, powerless: OwnedFd) -> i32 {
    match prepare(config, powerless).and_then(|()| wait_for_go(config)) {
        Ok(()) => {
            // The Sentry gives PID 1 no other that is not as it should be, and asking it of each takes 5 ms.
            sys::reset_signals([libc::SIGPIPE].into_iter());
            command::start(&config.argv, &config.env, Vec::new())
        }
        Err(failure) => {
            Report::Failed { what: failure.what, why: failure.why }.say();
            125
        }
    }
}

fn prepare(config: &Config, powerless: OwnedFd) -> Result<()> {
    if config.terminal {
        // SAFETY: plain numbers. The terminal belongs to PID 1's session, so the command is a group of its own there.
        sys::check(unsafe { libc::setpgid(0, 0) }).context("making a process group")?;
        pty::take_foreground(0).context("taking the terminal")?;
    } else {
        // SAFETY: plain call in a fresh child.
        sys::check(unsafe { libc::setsid() }).context("making a session")?;
    }
    take_name(config.inside).context("taking the session's uid")?;
    drop_capabilities().context("dropping capabilities")?;
    fs::File::from(powerless).read(&mut [0]).context("waiting for PID 1 to drop capabilities")?;
    sys::prctl(libc::PR_SET_DUMPABLE, 1).context("becoming dumpable again")?;
    std::env::set_current_dir(&config.cwd).context(&format!("entering {}", config.cwd.display()))?;
    seccomp::install(&seccomp::allowlist(config.pinned)).context("loading the system call filter")
}

/// A user namespace of the guest's kernel in which its uid 0 is `ids`; newer ones ask for CAP_SETFCAP, as Linux does.
fn take_name(ids: Ids) -> io::Result<()> {
    // SAFETY: plain flags.
    sys::check(unsafe { libc::unshare(libc::CLONE_NEWUSER) })?;
    // Old versions of gVisor have no such file; its kernel keeps groups from being dropped by capabilities alone.
    let _ = fs::write("/proc/self/setgroups", "deny");
    fs::write("/proc/self/uid_map", format!("{} 0 1\n", ids.uid))?;
    fs::write("/proc/self/gid_map", format!("{} 0 1\n", ids.gid))
}

fn drop_capabilities() -> io::Result<()> {
    // Beyond the last one that this kernel knows: EINVAL. PID 1 may not, and starts no program.
    let _ = (0..64).try_for_each(|capability| sys::prctl(libc::PR_CAPBSET_DROP, capability).map(drop));
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let (header, none) = (Header { version: VERSION_3, pid: 0 }, [0u32; 6]);
    // SAFETY: header and data are as capset(2) describes them for version 3.
    sys::check(unsafe { libc::syscall(libc::SYS_capset, &header, none.as_ptr()) })?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop)
}

/// The report goes out by stdout and the word to start comes in by stdin, which nobody else uses yet; a terminal is
/// raw meanwhile, so that it neither echoes nor changes either.
fn wait_for_go(config: &Config) -> Result<()> {
    let raw =
        config.terminal.then(|| pty::RawTerminal::enter(0)).transpose().context("taking the terminal")?;
    // SAFETY: always succeeds.
    let main = unsafe { libc::getpid() };
    Report::Ready { main, kernel: kernel(), controls: look() }.say();
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") {
        // One at a time: what follows is for the command.
        match relay::user(0).read(&mut byte) {
            Ok(1) if line.len() < GO.len() => line.push(byte[0]),
            _ => return Err(Failure::new("waiting for the word to start", "nobody is left to say it")),
        }
    }
    drop(raw);
    if line == GO {
        Ok(())
    } else {
        Err(Failure::new("waiting for the word to start", "something else came"))
    }
}

fn kernel() -> String {
    fs::read_to_string("/proc/version").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_ahead_is_a_file_and_nothing_that_waits() {
        let path = std::env::temp_dir().join(format!("ambit-common-{}", std::process::id()));
        fs::write(&path, "abc").unwrap();
        assert_eq!(read_file(&path).unwrap(), 3);
        fs::remove_file(&path).unwrap();
        let name = sys::cpath(&path).unwrap();
        // SAFETY: a C string that outlives the call.
        sys::check(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }).unwrap();
        assert!(read_file(&path).is_err());
        assert!(read_file("/dev/zero").is_err());
        fs::remove_file(path).unwrap();
    }
}
