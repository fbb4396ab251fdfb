//! Terminals: the agent's own pty, and the user's terminal while it is lent to it.
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::sys;

/// Opens a pty of the sandbox's own devpts, makes it the controlling terminal and fds 0 to 2; returns the master.
pub fn take_terminal() -> io::Result<OwnedFd> {
    const PEER: libc::c_ulong = libc::TIOCGPTPEER as libc::c_ulong;
    // SAFETY: each call works on descriptors that the one before returned.
    unsafe {
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        let master = sys::owned(sys::check(libc::open(c"/dev/ptmx".as_ptr(), flags))?);
        let unlocked: libc::c_int = 0;
        sys::check(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK as _, &unlocked))?;
        let slave = sys::owned(sys::check(libc::ioctl(master.as_raw_fd(), PEER as _, flags))?);
        sys::check(libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY as _, 0))?;
        replace_stdio([slave.as_raw_fd(); 3])?;
        Ok(master)
    }
}

pub fn take_pipes(stdio: &[OwnedFd]) -> io::Result<()> {
    let [input, output, errors] = stdio else { return Err(io::ErrorKind::InvalidInput.into()) };
    replace_stdio([input.as_raw_fd(), output.as_raw_fd(), errors.as_raw_fd()])
}

fn replace_stdio(fds: [RawFd; 3]) -> io::Result<()> {
    for (number, fd) in fds.into_iter().enumerate() {
        // SAFETY: plain descriptor numbers, all above 2.
        sys::check(unsafe { libc::dup2(fd, number as RawFd) })?;
    }
    Ok(())
}

/// Makes this process group the one that the terminal's keys and signals go to. Asked from the background, which a
/// terminal answers with a stop unless that is ignored; exec restores it.
pub fn take_foreground(fd: RawFd) -> io::Result<()> {
    // SAFETY: plain numbers.
    unsafe {
        libc::signal(libc::SIGTTOU, libc::SIG_IGN);
        sys::check(libc::tcsetpgrp(fd, libc::getpid())).map(drop)
    }
}

pub fn is_terminal(fd: RawFd) -> bool {
    // SAFETY: plain number.
    unsafe { libc::isatty(fd) == 1 }
}

/// The user's terminal in raw mode, as it was before when this is dropped.
pub struct RawTerminal {
    fd: RawFd,
    before: libc::termios,
}

impl RawTerminal {
    pub fn enter(fd: RawFd) -> io::Result<Self> {
        // SAFETY: termios is plain data, filled by tcgetattr before it is used.
        unsafe {
            let mut before: libc::termios = zeroed();
            sys::check(libc::tcgetattr(fd, &mut before))?;
            let mut raw = before;
            libc::cfmakeraw(&mut raw);
            sys::check(libc::tcsetattr(fd, libc::TCSADRAIN, &raw))?;
            Ok(Self { fd, before })
        }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // SAFETY: before was filled by tcgetattr.
        unsafe { libc::tcsetattr(self.fd, libc::TCSADRAIN, &self.before) };
    }
}

/// Gives the agent's terminal the size of the user's.
pub fn copy_size(from: RawFd, to: RawFd) {
    // SAFETY: winsize is plain data; a failure leaves the old size.
    unsafe {
        let mut size: libc::winsize = zeroed();
        if libc::ioctl(from, libc::TIOCGWINSZ, &mut size) == 0 {
            libc::ioctl(to, libc::TIOCSWINSZ, &size);
        }
    }
}

/// Rows and columns.
pub fn size(fd: RawFd) -> Option<[u16; 2]> {
    // SAFETY: winsize is plain data that the call fills.
    unsafe {
        let mut size: libc::winsize = zeroed();
        (libc::ioctl(fd, libc::TIOCGWINSZ, &mut size) == 0).then_some([size.ws_row, size.ws_col])
    }
}
