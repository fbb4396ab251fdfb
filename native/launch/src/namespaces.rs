//! The outer namespaces: user, mount, network, IPC, UTS. The session's host uid is 0 here, and only here.
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use crate::failure::{Context, Failure, Result};
use crate::spec::Ids;
use crate::sys;

/// Names of the namespaces that a session must not share with the host, as /proc/self/ns spells them.
pub const KINDS: [&str; 6] = ["user", "mnt", "net", "ipc", "uts", "pid"];

/// Identity of this process's namespace of a kind, e.g. `net:[4026531840]`.
pub fn identity(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}"))
        .map(|link| link.to_string_lossy().into_owned())
        .unwrap_or_default()
}

pub fn enter(host: Ids) -> Result<()> {
    // SAFETY: always succeed.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    if uid != host.uid || gid != host.gid {
        let why = format!("the spec says {}:{}, this process is {uid}:{gid}", host.uid, host.gid);
        return Err(Failure::new("checking the session's uid", why));
    }
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    // SAFETY: plain flags; this process has one thread.
    sys::check(unsafe { libc::unshare(flags) })
        .context("making namespaces")
        .map_err(|failure| failure.remedy("allow unprivileged user namespaces; `ambit doctor` says how"))?;
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("0 {uid} 1\n"))?;
    write("/proc/self/gid_map", &format!("0 {gid} 1\n"))
}

/// From now on nobody makes a user namespace in that of `process`, or in one below it.
pub fn end_user_namespaces(process: libc::pid_t) -> io::Result<()> {
    let pidfd = sys::pidfd_open(process)?;
    // A process of its own: one with threads cannot change its user namespace, and this one must not.
    // SAFETY: the child makes system calls only, which are safe behind a fork of many threads.
    let child = sys::check(unsafe { libc::fork() })?;
    if child == 0 {
        let done = leave_no_user_namespaces(pidfd.as_raw_fd());
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(done.err().and_then(|error| error.raw_os_error()).unwrap_or(0)) };
    }
    let mut status = 0;
    // SAFETY: status is a valid int.
    while unsafe { libc::waitpid(child, &mut status, 0) } < 0 {
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
    match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
        (true, 0) => Ok(()),
        (true, errno) => Err(io::Error::from_raw_os_error(errno)),
        (false, _) => Err(io::ErrorKind::Interrupted.into()),
    }
}

/// The switch that a process opens is that of its own user namespace.
fn leave_no_user_namespaces(pidfd: RawFd) -> io::Result<()> {
    const SWITCH: &CStr = c"/proc/sys/user/max_user_namespaces";
    // SAFETY: a descriptor, constant strings, and plain numbers.
    unsafe {
        sys::check(libc::setns(pidfd, libc::CLONE_NEWUSER))?;
        let switch = sys::check(libc::open(SWITCH.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC))?;
        sys::check(libc::write(switch, c"0".as_ptr().cast(), 1))?;
    }
    Ok(())
}

fn write(path: &str, text: &str) -> Result<()> {
    fs::write(Path::new(path), text).context(&format!("writing {path}"))
}
