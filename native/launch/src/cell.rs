//! The cell's side, run by bubblewrap as PID 1 of the new pid namespace: restricts itself, starts the command in a
//! session of its own, reaps everything, and ends everything when the command ends.
//!
//! PID 1 shares uid and filters with the agent. It is undumpable, so /proc/1/{mem,fd,root} stay shut, and a PID 1
//! ignores every signal from inside for which it has no handler.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::command;
use crate::control::{ControlState, Ending};
use crate::failure::{Context, Failure, Result};
use crate::spec::Mount;
use crate::{freeze, landlock, namespaces, rlimits, seccomp, sys};

/// Of 1000; an agent may go back to 0, where it would have been, and not below.
const OOM_SCORE: &str = "500";

/// What the outer launcher tells the cell, through an anonymous file: nothing of it shows on a command line.
#[derive(Serialize, Deserialize)]
pub struct Config {
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: PathBuf,
    pub terminal: bool,
    pub tasks: u64,
    pub open_files: u64,
    /// What the files and sockets that it makes are shut to.
    pub umask: u32,
    /// The agent may not widen its CPU set.
    pub pinned: bool,
    /// gVisor's command line: it takes the command's place, and its guest starts the command.
    pub runsc: Option<Vec<String>>,
    /// Mount targets that may be written to.
    pub writable: Vec<PathBuf>,
    /// Descriptors, behind those of the cell, that the command keeps: from 3 on, in order.
    pub handed: usize,
    /// Network devices that the agent may find.
    pub interfaces: Vec<String>,
    /// Namespaces of the outer launcher, by kind.
    pub outer: BTreeMap<String, String>,
}

/// An agent's files are its user's, as in a shell of his.
pub const USUAL_UMASK: u32 = 0o022;
/// Of what serves an agent, and makes nothing for anybody else.
pub const PRIVATE_UMASK: u32 = 0o077;

impl Config {
    pub fn writable(mounts: &[Mount]) -> Vec<PathBuf> {
        let writable = mounts.iter().filter(|mount| {
            matches!(mount, Mount::View { .. } | Mount::Tmpfs { .. } | Mount::Bind { write: true, .. })
        });
        writable.map(|mount| PathBuf::from(mount.target())).collect()
    }

    /// This process' own, by kind.
    pub fn namespaces() -> BTreeMap<String, String> {
        namespaces::KINDS.iter().map(|kind| (kind.to_string(), namespaces::identity(kind))).collect()
    }
}

/// Orders to PID 1.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToCell {
    Signal(i32),
    Freeze,
    Thaw,
}

/// News from PID 1.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FromCell {
    Ended(Ending),
}

/// News from the command's process before it becomes the command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FromCommand {
    /// Comes with the exec sensor's listener and, for a terminal, the pty's master.
    Ready(Vec<ControlState>),
    Failed {
        what: String,
        why: String,
    },
}

/// The descriptors that the outer launcher lets through, in the order of its list.
struct Inherited {
    control: OwnedFd,
    command: OwnedFd,
    config: OwnedFd,
    stdio: Vec<OwnedFd>,
}

/// `ambit-launch cell N,N,N[,N,N,N]`.
pub fn run(numbers: &str) -> i32 {
    let Some(inherited) = take(numbers) else { return 125 };
    let Inherited { control, command, config, stdio } = inherited;
    match stand(config, command, stdio) {
        Ok(main) => keep(&control, main),
        Err(()) => 125,
    }
}

fn take(numbers: &str) -> Option<Inherited> {
    let mut fds =
        numbers.split(',').map(|number| number.parse::<RawFd>().ok().filter(|fd| *fd > 2).map(sys::owned));
    let (control, command, config) = (fds.next()??, fds.next()??, fds.next()??);
    let stdio = fds.collect::<Option<Vec<_>>>()?;
    let all = [&control, &command, &config].into_iter().chain(&stdio);
    all.map(|fd| sys::set_cloexec(fd.as_raw_fd())).collect::<io::Result<Vec<_>>>().ok()?;
    Some(Inherited { control, command, config, stdio })
}

/// Restricts this process, then forks the one that becomes the command.
fn stand(config: OwnedFd, command: OwnedFd, stdio: Vec<OwnedFd>) -> std::result::Result<libc::pid_t, ()> {
    let prepared = read(config).and_then(|config| restrict(&config).map(|landlock| (config, landlock)));
    match prepared {
        Err(failure) => {
            command::report_failure(&command, &failure);
            Err(())
        }
        // SAFETY: this process has one thread.
        Ok((config, landlock)) => match unsafe { libc::fork() } {
            0 => std::process::exit(command::become_command(&config, landlock, command, stdio)),
            pid if pid > 0 => Ok(pid),
            _ => {
                command::report_failure(&command, &Failure::new("forking", io::Error::last_os_error()));
                Err(())
            }
        },
    }
}

fn read(config: OwnedFd) -> Result<Config> {
    let what = "reading the cell's configuration";
    let mut bytes = Vec::new();
    File::from(config).read_to_end(&mut bytes).context(what)?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::new(what, error))
}

/// Everything that holds for PID 1 as well as for the agent. The order matters: after seccomp only what the agent
/// may do is left.
fn restrict(config: &Config) -> Result<landlock::Enforced> {
    // When memory runs out the kernel takes the agent before its user's own programs. Refused only to those who
    // stand higher already.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    sys::prctl(libc::PR_SET_DUMPABLE, 0).context("making PID 1 undumpable")?;
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as _).context("dying with bubblewrap")?;
    // SAFETY: plain number.
    unsafe { libc::umask(config.umask) };
    if config.runsc.is_some() {
        // Its own limits and filters are gVisor's to set: it makes mounts and traces processes before it does.
        return Ok(landlock::Enforced { abi: 0 });
    }
    rlimits::set(config.tasks, config.open_files).context("setting resource limits")?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).context("setting no_new_privs")?;
    let landlock = landlock::restrict(&config.writable).context("restricting with Landlock")?;
    seccomp::install(&seccomp::allowlist(config.pinned)).context("loading the system call filter")?;
    Ok(landlock)
}

/// Children taken before it looks for orders again: an agent may make more of them than can be taken.
const REAPED: usize = 64;

/// PID 1's life: reap, obey, and end with the command.
fn keep(control: &OwnedFd, main: libc::pid_t) -> i32 {
    let Ok(children) = sys::signal_fd(&[libc::SIGCHLD]) else { return 125 };
    let mut frozen = false;
    loop {
        let (ending, more) = reap(main, REAPED);
        if let Some(ending) = ending {
            return end(control, ending);
        }
        let held = frozen.then(freeze::hold);
        let patience = if more { Some(0) } else { held };
        let Ok(ready) = sys::poll(&[control.as_raw_fd(), children.as_raw_fd()], patience) else { return 125 };
        while sys::next_signal(children.as_fd()).is_some() {}
        if ready[0] != 0 && !obey(control, main, &mut frozen) {
            return 137;
        }
    }
}

/// Returning from here is the end of PID 1, and so of the whole pid namespace.
fn end(control: &OwnedFd, ending: Ending) -> i32 {
    freeze::signal_all(libc::SIGKILL);
    let news = serde_json::to_vec(&FromCell::Ended(ending)).unwrap_or_default();
    let _ = sys::send_with_fds(control.as_fd(), &news, &[]);
    match ending {
        Ending::Code(code) => code,
        Ending::Signal(signal) => 128 + signal,
    }
}

/// Takes children that ended, at most so many; how `main` did, if it was among them, and whether there may be more.
pub fn reap(main: libc::pid_t, most: usize) -> (Option<Ending>, bool) {
    let mut ending = None;
    for _ in 0..most {
        let mut status = 0;
        // SAFETY: status is a valid int.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        if pid <= 0 {
            return (ending, false);
        }
        if pid == main {
            ending = Some(match libc::WIFSIGNALED(status) {
                true => Ending::Signal(libc::WTERMSIG(status)),
                false => Ending::Code(libc::WEXITSTATUS(status)),
            });
        }
    }
    (ending, true)
}

/// False when the outer launcher is gone or speaks nonsense.
fn obey(control: &OwnedFd, main: libc::pid_t, frozen: &mut bool) -> bool {
    let Ok(message) = sys::receive(control.as_fd()) else { return false };
    match serde_json::from_slice(&message.bytes) {
        Ok(ToCell::Signal(signal)) => {
            // SAFETY: plain numbers.
            unsafe { libc::kill(main, signal) };
        }
        Ok(ToCell::Freeze) => *frozen = true,
        Ok(ToCell::Thaw) => {
            *frozen = false;
            freeze::release();
        }
        Err(_) => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a process of its own: other tests have children, too.
    fn alone(test: fn() -> bool) -> bool {
        // SAFETY: the child makes system calls only, and never returns.
        match unsafe { libc::fork() } {
            0 => unsafe { libc::_exit(if test() { 0 } else { 1 }) },
            pid => {
                let mut status = -1;
                // SAFETY: status is a valid int.
                unsafe { libc::waitpid(pid, &mut status, 0) == pid && status == 0 }
            }
        }
    }

    #[test]
    fn looks_for_orders_after_each_64_children() {
        assert!(alone(|| {
            for _ in 0..REAPED + 6 {
                // SAFETY: the child ends at once; one that ended is left to be taken.
                unsafe {
                    let pid = libc::fork();
                    if pid == 0 {
                        libc::_exit(0);
                    }
                    let mut info = std::mem::zeroed();
                    libc::waitid(libc::P_PID, pid as _, &mut info, libc::WEXITED | libc::WNOWAIT);
                }
            }
            let first = reap(-1, REAPED);
            let rest = reap(-1, REAPED);
            matches!(first, (None, true)) && matches!(rest, (None, false))
        }));
    }
}
