//! Thin wrappers over the system calls that std lacks. Every `unsafe` of a general kind lives here.
use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

/// Turns the C convention (negative = errno) into a Result.
pub fn check<T: PartialOrd + Default>(returned: T) -> io::Result<T> {
    if returned < T::default() { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

pub fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<libc::c_int> {
    // SAFETY: only used with options whose arguments are plain numbers.
    check(unsafe { libc::prctl(option, value, 0, 0, 0) })
}

/// Takes ownership of a descriptor that a system call returned or a parent passed.
pub fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass descriptors that nothing else in this process owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub fn cstring(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "NUL in a string"))
}

pub fn cpath(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "NUL in a path"))
}

pub fn socketpair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: fds has room for the two descriptors.
    check(unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr())
    })?;
    Ok((owned(fds[0]), owned(fds[1])))
}

pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: fds has room for the two descriptors.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((owned(fds[0]), owned(fds[1])))
}

/// An anonymous file that holds `content`, read from its start.
pub fn memfd(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    use std::io::{Seek, Write};
    let name = cstring(name)?;
    // SAFETY: name is a valid C string.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })?;
    let mut file = std::fs::File::from(owned(fd));
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}

const MAX_FDS: usize = 8;

/// Sends one message with descriptors.
pub fn send_with_fds(socket: BorrowedFd, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
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
        check(libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL))?;
    }
    Ok(())
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
pub fn next_signal(fd: BorrowedFd) -> Option<libc::c_int> {
    // SAFETY: info is a plain structure of the size that the kernel writes.
    unsafe {
        let mut info: libc::signalfd_siginfo = zeroed();
        let length = size_of::<libc::signalfd_siginfo>();
        let read = libc::read(fd.as_raw_fd(), (&raw mut info).cast(), length);
        (read == length as isize).then_some(info.ssi_signo as libc::c_int)
    }
}

/// Unblocks every signal and restores default actions: what a fresh program expects.
pub fn reset_signals() {
    // SAFETY: sets plain masks and default handlers; errors concern signals that cannot be changed.
    unsafe {
        for signal in 1..=64 {
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
