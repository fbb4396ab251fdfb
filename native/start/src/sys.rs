//! The system calls that std lacks.
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use ambit_shared::sys::{check, owned};
pub use ambit_shared::sys::{memfd, next_signal, send_with_fds, socketpair};

/// Which of fds 0 to 2 are terminals; None when one of them is closed.
pub fn terminals() -> Option<[bool; 3]> {
    let open = |fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
    // SAFETY: plain numbers.
    (0..3).all(open).then(|| [0, 1, 2].map(|fd| unsafe { libc::isatty(fd) } == 1))
}

pub fn umask() -> u32 {
    // SAFETY: this process has one thread; the mask is put back at once.
    unsafe {
        let mask = libc::umask(0o077);
        libc::umask(mask);
        mask
    }
}

pub fn uid() -> u32 {
    // SAFETY: always succeeds.
    unsafe { libc::geteuid() }
}

/// Sends a short line; a peer that is gone is an error, not a signal.
pub fn send(socket: &impl AsRawFd, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the buffer has the length that is given.
    let sent =
        unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    if sent == bytes.len() as isize { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The account at the other end of a unix socket.
pub fn peer_uid(socket: &impl AsRawFd) -> io::Result<u32> {
    // SAFETY: ucred is plain data of the length given.
    unsafe {
        let mut peer: libc::ucred = zeroed();
        let mut length = size_of::<libc::ucred>() as libc::socklen_t;
        let fd = socket.as_raw_fd();
        let into = (&raw mut peer).cast();
        check(libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, into, &mut length))?;
        Ok(peer.uid)
    }
}

/// Connected to the unix socket at `path`, at once or not at all: where a stopped process has a full queue, connect(2)
/// would wait for ever.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: sockaddr_un is plain data, and the length is checked before the copy.
    unsafe {
        let mut address: libc::sockaddr_un = zeroed();
        if bytes.len() >= address.sun_path.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        address.sun_family = libc::AF_UNIX as _;
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), address.sun_path.as_mut_ptr().cast(), bytes.len());
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let socket = UnixStream::from(owned(check(libc::socket(libc::AF_UNIX, kind, 0))?));
        let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
        check(libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length))?;
        socket.set_nonblocking(false)?;
        Ok(socket)
    }
}

/// A reader that is gone is an error to us (EPIPE), as it is to Node, and not our end.
pub fn ignore_broken_pipes() {
    // SAFETY: plain numbers.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Signals do in the child what they do by default, whatever our caller ignores (`nohup`, a shell's `&`): as libuv has
/// it for what Node starts. Only async-signal-safe calls.
pub fn default_signals() {
    for signal in 1..=31 {
        // SAFETY: plain numbers; SIGKILL and SIGSTOP are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Blocks `signals`, hands them out by descriptor instead. An ignored signal (`nohup`, a shell's `&`) is handed out
/// too, as Node's handlers would have it.
pub fn signal_fd(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    keep_children();
    ambit_shared::sys::signal_fd(signals)
}

/// A caller that ignores SIGCHLD would have our children vanish before their end is seen.
pub fn keep_children() {
    // SAFETY: plain numbers.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// The next of a `signal_fd`, and whether a process sent it; else the kernel did, such as for a terminal's key.
pub fn next_sent(fd: &OwnedFd) -> Option<(libc::c_int, bool)> {
    // SAFETY: info is a plain structure of the size that the kernel writes.
    unsafe {
        let mut info: libc::signalfd_siginfo = zeroed();
        let length = size_of::<libc::signalfd_siginfo>();
        let read = libc::read(fd.as_raw_fd(), (&raw mut info).cast(), length);
        (read == length as isize).then_some((info.ssi_signo as libc::c_int, info.ssi_code <= 0))
    }
}

/// Waits until one of `fds` is readable or closed, at most `ms` (-1: for ever). None when time is up.
pub fn poll<const N: usize>(fds: [RawFd; N], ms: libc::c_int) -> Option<[bool; N]> {
    let mut set = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    loop {
        // SAFETY: the set has N entries.
        match unsafe { libc::poll(set.as_mut_ptr(), N as libc::nfds_t, ms) } {
            0 => return None,
            1.. => return Some(set.map(|one| one.revents != 0)),
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return None,
        }
    }
}

/// How a child ended; it stays a zombie, so that its number is nobody else's while we live.
pub fn ended(pid: u32) -> Option<Ended> {
    // SAFETY: siginfo_t is plain data, filled by waitid.
    unsafe {
        let mut info: libc::siginfo_t = zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        if libc::waitid(libc::P_PID, pid, &mut info, flags) != 0 || info.si_pid() == 0 {
            return None;
        }
        let exited = info.si_code == libc::CLD_EXITED;
        Some(if exited { Ended::Code(info.si_status()) } else { Ended::Signal(info.si_status()) })
    }
}

pub enum Ended {
    Code(i32),
    Signal(i32),
}

pub fn kill(pid: u32) {
    signal(pid, libc::SIGKILL);
}

/// Of a child: it is not reaped, so the number is its own.
pub fn signal(pid: u32, signal: libc::c_int) {
    // SAFETY: plain numbers.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// This process, a child of `parent`'s, does not outlive it. Only async-signal-safe calls.
pub fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: plain numbers.
    unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        let gone = libc::getppid() as u32 != parent;
        if gone { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { Ok(()) }
    }
}

/// Ends this process as `signal` does by default.
pub fn die_of(signal: libc::c_int) {
    // SAFETY: plain numbers and a set filled before use.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        let mut set: libc::sigset_t = zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        libc::raise(signal);
    }
}

/// Makes `fds` descriptors 3 and 4. Only async-signal-safe calls: it runs between fork and exec.
pub fn take_places(fds: [RawFd; 2]) -> io::Result<()> {
    // SAFETY: plain numbers; first out of the way, so that neither overwrites the other.
    unsafe {
        let high = fds.map(|fd| libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 10));
        for (place, fd) in (3..).zip(high) {
            check(libc::dup2(check(fd)?, place))?;
        }
    }
    Ok(())
}

/// The soft limit of this process and its children; None without one.
pub fn limit(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the structure that it is given.
    let done = unsafe { libc::getrlimit(resource, &mut limit) };
    (done == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}
