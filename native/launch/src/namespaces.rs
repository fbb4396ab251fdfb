//! The outer namespaces: user, mount, network, IPC, UTS. The session's host uid is 0 here, and only here.
use std::fs;
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

fn write(path: &str, text: &str) -> Result<()> {
    fs::write(Path::new(path), text).context(&format!("writing {path}"))
}
