//! `ambit-launch probe`: what this kernel supports, found by trying each in a child of its own. One JSON object.
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::failure::{Context, Failure, Result};
use crate::spec::{Ids, Ports};
use crate::stage::Tool;
use crate::{cgroup, fuse, landlock, namespaces, net, seccomp, stage, sys};

#[derive(Serialize)]
struct Answer {
    works: bool,
    detail: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    user_namespaces: Answer,
    network_namespace: Answer,
    network_redirect: Answer,
    fuse_in_namespace: Answer,
    bubblewrap: Answer,
    landlock: Answer,
    seccomp_filter: Answer,
    seccomp_notify: Answer,
    exit_codes: Answer,
    cgroup: Answer,
}

pub fn run() -> i32 {
    let abi = landlock::abi();
    let report = Report {
        user_namespaces: attempt(enter),
        network_namespace: attempt(|| enter().and_then(|()| net::raise_loopback().context("raising lo"))),
        network_redirect: attempt(redirect),
        fuse_in_namespace: attempt(|| {
            enter().and_then(|()| fuse::mount(Path::new("/dev/fuse"), Path::new("/sys"), "probe").map(drop))
        }),
        bubblewrap: attempt(bubblewrap),
        landlock: Answer {
            works: abi > 0,
            detail: format!("ABI {abi}; all of it from 6, unix sockets from 9"),
        },
        seccomp_filter: attempt(|| confine(|| seccomp::install(&seccomp::allowlist(false)))),
        seccomp_notify: attempt(|| {
            confine(|| seccomp::install_with_listener(&seccomp::exec_sensor()).map(drop))
        }),
        exit_codes: Answer {
            works: crate::pidfd::tells_exit_codes(),
            detail: "of every process, Linux 6.15".into(),
        },
        cgroup: match cgroup::delegated() {
            Ok(place) => Answer { works: true, detail: format!("delegated: {}", place.display()) },
            Err(why) => Answer { works: false, detail: why },
        },
    };
    match serde_json::to_string(&report) {
        Ok(text) => println!("{text}"),
        Err(_) => return 125,
    }
    0
}

/// Runs `work` in a child; its failure comes back as text.
fn attempt(work: impl FnOnce() -> Result<()>) -> Answer {
    let Ok((read, write)) = sys::pipe() else { return Answer { works: false, detail: "no pipe".into() } };
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        0 => {
            let said = work().err().map(|failure| failure.to_string()).unwrap_or_default();
            // SAFETY: said is valid for its length; _exit leaves the parent's buffers alone.
            unsafe {
                libc::write(write.as_raw_fd(), said.as_ptr().cast(), said.len());
                libc::_exit(i32::from(!said.is_empty()))
            }
        }
        pid => {
            drop(write);
            let (mut detail, mut status) = (String::new(), 0);
            let _ = std::fs::File::from(read).read_to_string(&mut detail);
            // SAFETY: pid is our child; status is a valid int.
            let ended = unsafe { libc::waitpid(pid, &mut status, 0) } == pid && status == 0;
            Answer { works: ended && detail.is_empty(), detail }
        }
    }
}

/// As a session would: root first becomes somebody else.
fn enter() -> Result<()> {
    // SAFETY: always succeed.
    let mut ids = unsafe { Ids { uid: libc::geteuid(), gid: libc::getegid() } };
    if stage::is_privileged() {
        ids = Ids { uid: 65534, gid: 65534 };
        stage::become_user(ids)?;
    }
    namespaces::enter(ids)
}

fn redirect() -> Result<()> {
    enter()?;
    net::wire(Ports { tcp: 1080, dns: 1053, proxy: 3128 }).map(drop)
}

fn bubblewrap() -> Result<()> {
    let bwrap = Tool::open(&find("bwrap")?)?;
    enter()?;
    let arguments = [
        "--unshare-user",
        "--unshare-pid",
        "--disable-userns",
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "true",
    ];
    let what = "running bubblewrap in the outer namespaces";
    let done = std::process::Command::new(bwrap.path()).args(arguments).output().context(what)?;
    let said = String::from_utf8_lossy(&done.stderr).trim().to_string();
    if done.status.success() {
        Ok(())
    } else {
        Err(Failure::new(what, said).remedy("install bubblewrap 0.8 or later"))
    }
}

fn confine(work: impl FnOnce() -> std::io::Result<()>) -> Result<()> {
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).context("setting no_new_privs")?;
    work().context("loading the filter")
}

fn find(name: &str) -> Result<PathBuf> {
    let places = std::env::var("PATH").unwrap_or_default() + ":/usr/bin:/usr/sbin:/sbin";
    let found = places.split(':').map(|place| Path::new(place).join(name)).find(|path| path.is_file());
    found.ok_or_else(|| Failure::new(&format!("looking for {name}"), "not installed"))
}
