//! Thin wrappers over the system calls that std lacks. Every `unsafe` of a general kind lives here or in what is shared.
use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

pub use ambit_shared::sys::{check, memfd, next_signal, owned, send_with_fds, signal_fd, socketpair};

pub fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<libc::c_int> {
    // SAFETY: only used with options whose arguments are plain numbers.
    check(unsafe { libc::prctl(option, value, 0, 0, 0) })
}

pub fn cstring(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "NUL in a string"))
}

pub fn cpath(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "NUL in a path"))
}

pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: fds has room for the two descriptors.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((owned(fds[0]), owned(fds[1])))
}

/// One message: its bytes (empty at end of file), its descriptors, and who sent it, as the kernel says.
pub struct Message {
    pub bytes: Vec<u8>,
    pub fds: Vec<OwnedFd>,
    pub sender: Option<libc::pid_t>,
}

/// Receives one message; refuses one that is cut off.
pub fn receive(socket: BorrowedFd) -> io::Result<Message> {
    let mut bytes = vec![0u8; 1 << 16];
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut space = [0u64; 32];
    let mut message = Message { bytes: Vec::new(), fds: Vec::new(), sender: None };
    // SAFETY: every pointer outlives the call; control messages are walked with the kernel's own macros.
    unsafe {
        let mut header: libc::msghdr = zeroed();
        header.msg_iov = &mut iov;
        header.msg_iovlen = 1;
        header.msg_control = space.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&space) as _;
        let length = loop {
            match check(libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => break other?,
            }
        };
        let mut control = libc::CMSG_FIRSTHDR(&header);
        while !control.is_null() {
            if (*control).cmsg_level == libc::SOL_SOCKET && (*control).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*control).cmsg_len as usize - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                let data = libc::CMSG_DATA(control).cast::<RawFd>();
                message.fds.extend((0..count).map(|i| owned(data.add(i).read_unaligned())));
            }
            if (*control).cmsg_level == libc::SOL_SOCKET && (*control).cmsg_type == libc::SCM_CREDENTIALS {
                message.sender = Some(libc::CMSG_DATA(control).cast::<libc::ucred>().read_unaligned().pid);
            }
            control = libc::CMSG_NXTHDR(&header, control);
        }
        if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "message cut off"));
        }
        bytes.truncate(length as usize);
    }
    message.bytes = bytes;
    Ok(message)
}

/// Waits for one of `fds` to be readable or hung up; the answer has one flag set per fd. `None` waits for ever.
pub fn poll(fds: &[RawFd], timeout_ms: Option<u64>) -> io::Result<Vec<libc::c_short>> {
    let mut entries: Vec<libc::pollfd> =
        fds.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    let timeout = timeout_ms.map_or(-1, |ms| ms.min(i32::MAX as u64) as i32);
    // SAFETY: entries is a valid array of its own length.
    match check(unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as _, timeout) }) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(vec![0; fds.len()]),
        Err(error) => Err(error),
        Ok(_) => Ok(entries.iter().map(|entry| entry.revents).collect()),
    }
}

/// Unblocks every signal and restores default actions: what a fresh program expects.
pub fn reset_signals(signals: impl Iterator<Item = libc::c_int>) {
    // SAFETY: sets plain masks and default handlers; errors concern signals that cannot be changed.
    unsafe {
        for signal in signals {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

pub fn pidfd_open(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    Ok(owned(check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })? as RawFd))
}

/// The same of one thread (Linux 6.9).
pub fn pidfd_open_thread(thread: libc::pid_t) -> io::Result<OwnedFd> {
    const PIDFD_THREAD: libc::c_int = libc::O_EXCL;
    // SAFETY: plain numbers.
    Ok(owned(check(unsafe { libc::syscall(libc::SYS_pidfd_open, thread, PIDFD_THREAD) })? as RawFd))
}

pub fn pidfd_kill(pidfd: BorrowedFd, signal: libc::c_int) -> io::Result<()> {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: no siginfo is passed.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) })?;
    Ok(())
}

/// Lets a descriptor survive exec.
pub fn inherit(fd: RawFd) -> io::Result<()> {
    // SAFETY: fcntl on a number.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })?;
    Ok(())
}

pub fn set_cloexec(fd: RawFd) -> io::Result<()> {
    // SAFETY: fcntl on a number.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    Ok(())
}

pub fn mount(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: libc::c_ulong,
    data: Option<&str>,
) -> io::Result<()> {
    let source = source.map(cpath).transpose()?;
    let target = cpath(target)?;
    let kind = kind.map(cstring).transpose()?;
    let data = data.map(cstring).transpose()?;
    let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
    // SAFETY: all strings live until the call returns.
    check(unsafe {
        libc::mount(pointer(&source), target.as_ptr(), pointer(&kind), flags, pointer(&data).cast())
    })?;
    Ok(())
}
