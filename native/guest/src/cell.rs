//! The cell in the guest: namespaces of its own, the session's mounts on top of the image, the agent's uid, and then
//! the same PID 1 as in `os-sandbox`. What bubblewrap does on the host, in small: here root may do everything, and
//! nobody else is there yet.
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use ambit_launch::failure::{Context, Failure, Result};
use ambit_launch::{cell, sys};

use crate::mounts;
use crate::spec::Shape;

/// What the waiting process says once it is one.
const MADE: &[u8] = b"made";
const LAST_CAPABILITY: libc::c_ulong = 63;

/// The process that becomes PID 1 of the cell, before it knows of what session: started with the machine, and in its
/// snapshot.
pub struct Waiting {
    child: Child,
    order: OwnedFd,
}

pub fn prepare() -> Result<Waiting> {
    let what = "preparing the cell";
    let (order, theirs) = sys::socketpair(libc::SOCK_SEQPACKET).context(what)?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["cell", &theirs.as_raw_fd().to_string()]);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            sys::check(libc::setsid())?;
            sys::inherit(theirs.as_raw_fd())
        });
    }
    let child = in_new_pid_namespace(command).context(what)?;
    Ok(Waiting { child: once_made(child, &order)?, order })
}

/// A snapshot holds all that it has made, and none is taken without.
fn once_made(child: Child, order: &OwnedFd) -> Result<Child> {
    let what = "preparing the cell";
    if sys::receive(order.as_fd()).context(what)?.bytes == MADE {
        return Ok(child);
    }
    // It has closed its end, and ends.
    let said = child.wait_with_output().context(what)?.stderr;
    let said = String::from_utf8_lossy(&said);
    Err(Failure::new(what, if said.trim().is_empty() { "it ended without a word" } else { said.trim() }))
}

impl Waiting {
    /// Has it become the cell. `fds` are its own then.
    pub fn start(self, shape: &Shape, fds: &[RawFd]) -> Result<Child> {
        let what = "starting the cell";
        let text = serde_json::to_vec(shape).map_err(|error| Failure::new(what, error))?;
        let shape = sys::memfd(c"ambit-shape", &text).context(what)?;
        let fds = [&[shape.as_raw_fd()], fds].concat();
        // If it is gone, its last words say why to whoever waits for the cell.
        let _ = sys::send_with_fds(self.order.as_fd(), b"start", &fds);
        Ok(self.child)
    }
}

/// A thread that has made a pid namespace for its children can start no thread more, and its end would be taken for
/// the parent's: it stays, for this alone.
fn in_new_pid_namespace(mut command: Command) -> std::io::Result<Child> {
    let (tell, hear) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // SAFETY: plain flags.
        let made = sys::check(unsafe { libc::unshare(libc::CLONE_NEWPID) });
        let child = made.and_then(|_| command.spawn());
        drop(command); // its end of the order's socket is the child's alone
        let _ = tell.send(child);
        loop {
            std::thread::park();
        }
    });
    hear.recv().map_err(std::io::Error::other)?
}

/// `ambit-guest cell N`, as PID 1 of a new pid namespace and root of the guest.
pub fn become_cell(order: &str) -> i32 {
    match make(order).and_then(await_order).and_then(enter) {
        Ok(fds) => cell::run(&fds),
        Err(failure) => {
            eprintln!("{failure}");
            125
        }
    }
}

/// All that is the same in every cell. Gives the socket of the order.
fn make(order: &str) -> Result<OwnedFd> {
    let what = "preparing the cell";
    let order = sys::owned(order.parse().map_err(|error| Failure::new(what, error))?);
    unshare(libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS)?;
    mounts::prepare()?;
    sys::send_with_fds(order.as_fd(), MADE, &[]).context(what)?;
    Ok(order)
}

/// The shape, and the cell's descriptors.
fn await_order(order: OwnedFd) -> Result<(OwnedFd, Vec<OwnedFd>)> {
    let what = "waiting for the cell's shape";
    let mut fds = sys::receive(order.as_fd()).context(what)?.fds.into_iter();
    let shape = fds.next().ok_or_else(|| Failure::new(what, "nobody is left to say it"))?;
    Ok((shape, fds.collect()))
}

/// The descriptors' numbers, which are the cell's to close.
fn enter((shape, fds): (OwnedFd, Vec<OwnedFd>)) -> Result<String> {
    let shape = read(shape)?;
    let hostname = sys::cstring(&shape.hostname).context("naming the cell")?;
    // SAFETY: a valid string of that length.
    sys::check(unsafe { libc::sethostname(hostname.as_ptr(), shape.hostname.len()) })
        .context("naming the cell")?;
    mounts::lay(&shape)?;
    become_agent(shape.uid, shape.gid)?;
    let numbers: Vec<_> = fds.into_iter().map(|fd| fd.into_raw_fd().to_string()).collect();
    Ok(numbers.join(","))
}

fn read(file: OwnedFd) -> Result<Shape> {
    let what = "reading the cell's shape";
    let mut bytes = Vec::new();
    File::from(file).read_to_end(&mut bytes).context(what)?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::new(what, error))
}

fn unshare(flags: libc::c_int) -> Result<()> {
    // SAFETY: plain flags; this process has one thread.
    sys::check(unsafe { libc::unshare(flags) }).context("making namespaces").map(drop)
}

/// The uid first: a user namespace that root made would have root's uid outside.
fn become_agent(uid: u32, gid: u32) -> Result<()> {
    let what = "becoming the agent's uid";
    if uid == 0 || gid == 0 {
        return Err(Failure::new(what, "uid and gid 0 are never given to an agent"));
    }
    // SAFETY: plain numbers.
    unsafe {
        sys::check(libc::setgroups(0, std::ptr::null())).context(what)?;
        sys::check(libc::setresgid(gid, gid, gid)).context(what)?;
        sys::check(libc::setresuid(uid, uid, uid)).context(what)?;
    }
    // Or its own /proc/self/uid_map would belong to root. Undone by whoever becomes PID 1 of the cell.
    sys::prctl(libc::PR_SET_DUMPABLE, 1).context(what)?;
    unshare(libc::CLONE_NEWUSER)?;
    fs::write("/proc/self/setgroups", "deny").context(what)?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1\n")).context(what)?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1\n")).context(what)?;
    drop_capabilities().context("dropping capabilities")
}

/// A new user namespace comes with all of them.
fn drop_capabilities() -> std::io::Result<()> {
    const VERSION: u32 = 0x2008_0522;
    for capability in 0..=LAST_CAPABILITY {
        if sys::prctl(libc::PR_CAPBSET_READ, capability).is_ok_and(|has| has == 1) {
            sys::prctl(libc::PR_CAPBSET_DROP, capability)?;
        }
    }
    let (header, none) = ([VERSION, 0], [0u32; 6]);
    // SAFETY: both are the structures of this version; capset reads them.
    sys::check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(script: &str, said: &[u8]) -> Result<Child> {
        let (order, theirs) = sys::socketpair(libc::SOCK_SEQPACKET).unwrap();
        sys::send_with_fds(theirs.as_fd(), said, &[]).unwrap();
        drop(theirs);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stderr(Stdio::piped());
        once_made(command.spawn().unwrap(), &order)
    }

    #[test]
    fn a_cell_that_died_while_it_was_prepared_says_why() {
        let mut made = waiting("exit 0", MADE).expect("control");
        made.wait().unwrap();
        let failure = waiting("echo 'mounting /proc: no' >&2; exit 125", b"").expect_err("it is dead");
        assert_eq!(failure.why, "mounting /proc: no");
    }
}
