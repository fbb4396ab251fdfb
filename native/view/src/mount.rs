//! `ambit-view mount SPEC DIR -- COMMAND…`, for tests and benchmarks: what `ambit-launch` does, in small. The command
//! runs in user and mount namespaces of its own with the view on DIR; this process serves from outside, as always.
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::thread::UnshareFlags;

use crate::serve;
use crate::spec::{Owner, ViewSpec};

pub fn run(spec: &Path, dir: &Path, command: &[&str]) -> i32 {
    match try_run(spec, dir, command) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("ambit-view: {why}");
            125
        }
    }
}

fn try_run(spec: &Path, dir: &Path, command: &[&str]) -> Result<i32, String> {
    let spec = ViewSpec::read(spec)?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| e.to_string())?;
    let mut child = Command::new(command[0]);
    child.args(&command[1..]);
    let (dir, owner) = (dir.to_path_buf(), spec.owner);
    // SAFETY: between fork and exec this makes system calls and allocates; the parent has one thread at this point.
    #[allow(unsafe_code)]
    unsafe {
        child.pre_exec(move || enter(&dir, owner, &theirs));
    }
    // spawn() returns only after exec, which waits for the mount to be there, not for it to be served.
    let mut child = child.spawn().map_err(|e| format!("{}: {e}", command[0]))?;
    let serving = serve::start(&spec, receive(&ours).map_err(|e| e.to_string())?, |_| {})?;
    serving.stay();
    let status = child.wait().map_err(|e| e.to_string())?;
    serving.finish().map_err(|e| e.to_string())?;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// In the child: new user and mount namespaces, the mount, and the device sent to the parent.
fn enter(dir: &Path, owner: Owner, parent: &OwnedFd) -> io::Result<()> {
    // SAFETY of namespaces: nothing else runs in this process yet.
    #[allow(unsafe_code)]
    unsafe {
        rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)?;
    }
    let _ = std::fs::write("/proc/self/setgroups", "deny");
    std::fs::write("/proc/self/uid_map", format!("{} {} 1", owner.uid, owner.host_uid))?;
    std::fs::write("/proc/self/gid_map", format!("{} {} 1", owner.gid, owner.host_gid))?;
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    use std::os::fd::AsRawFd;
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions,allow_other\0",
        device.as_raw_fd(),
        owner.uid,
        owner.gid
    );
    let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).map_err(io::Error::other)?;
    rustix::mount::mount("ambit", dir, "fuse", MountFlags::NOSUID | MountFlags::NODEV, options)?;
    send(parent, device.as_fd())
}

fn send(socket: &OwnedFd, fd: std::os::fd::BorrowedFd) -> io::Result<()> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[io::IoSlice::new(b"fuse")], &mut control, SendFlags::empty())?;
    Ok(())
}

fn receive(socket: &OwnedFd) -> io::Result<File> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; 16];
    recvmsg(socket, &mut [io::IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(File::from(fd));
        }
    }
    Err(io::Error::other("no device came from the namespace"))
}
