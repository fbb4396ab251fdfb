//! System calls that std lacks and more than one program needs: descriptors over sockets, memory files, signals as reads.
use std::ffi::CStr;
use std::io::{self, Seek, Write};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Turns the C convention (negative = errno) into a Result.
pub fn check<T: PartialOrd + Default>(returned: T) -> io::Result<T> {
    if returned < T::default() { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// Takes ownership of a descriptor that a system call returned or a parent passed.
pub fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass descriptors that nothing else in this process owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A connected pair of `kind`; both ends close at exec.
pub fn socketpair(kind: libc::c_int) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: fds has room for the two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) })?;
    Ok((owned(fds[0]), owned(fds[1])))
}

/// An anonymous file that holds `content`, read from its start.
pub fn memfd(name: &CStr, content: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: name is a C string.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })?;
    let mut file = std::fs::File::from(owned(fd));
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}

const MAX_FDS: usize = 8;

/// Sends one message with descriptors, whole or not at all.
pub fn send_with_fds(socket: impl AsFd, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    assert!(fds.len() <= MAX_FDS);
    let mut iov = libc::iovec { iov_base: bytes.as_ptr() as *mut _, iov_len: bytes.len() };
    let mut space = [0u64; 16];
    // SAFETY: every pointer outlives the call; the control buffer is aligned and larger than CMSG_SPACE of MAX_FDS.
    unsafe {
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &mut iov;
        message.msg_iovlen = 1;
        if !fds.is_empty() {
            let payload = size_of_val(fds);
            message.msg_control = space.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(payload as u32) as _;
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(payload as u32) as _;
            std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(header), payload);
        }
        let sent = check(libc::sendmsg(socket.as_fd().as_raw_fd(), &message, libc::MSG_NOSIGNAL))?;
        if sent == bytes.len() as isize { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

/// Blocks `signals` for this thread and all later ones, and returns a descriptor that reads them.
pub fn signal_fd(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised before it is used.
    unsafe {
        let mut set: libc::sigset_t = zeroed();
        libc::sigemptyset(&mut set);
        signals.iter().for_each(|&signal| {
            libc::sigaddset(&mut set, signal);
        });
        check(libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
        Ok(owned(check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?))
    }
}

/// The next signal from a `signal_fd`, if any.
pub fn next_signal(fd: impl AsFd) -> Option<libc::c_int> {
    // SAFETY: info is a plain structure of the size that the kernel writes.
    unsafe {
        let mut info: libc::signalfd_siginfo = zeroed();
        let length = size_of::<libc::signalfd_siginfo>();
        let read = libc::read(fd.as_fd().as_raw_fd(), (&raw mut info).cast(), length);
        (read == length as isize).then_some(info.ssi_signo as libc::c_int)
    }
}
