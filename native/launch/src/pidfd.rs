//! Processes by descriptor: that one ended, and how (exit information: Linux 6.15).
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use crate::sys;

/// `PIDFD_GET_INFO` with the structure's first, 64-byte version.
const GET_INFO: libc::c_ulong = 0xc040_ff0b;
const INFO_EXIT: u64 = 1 << 3;

#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// One process that the sensor saw start.
pub struct Watched {
    pidfd: OwnedFd,
    /// As the sandbox counts.
    pub pid: i32,
}

impl Watched {
    pub fn new(outer: i32, pid: i32) -> io::Result<Self> {
        Ok(Self { pidfd: sys::pidfd_open(outer)?, pid })
    }

    pub fn fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }

    pub fn is_running(&self) -> bool {
        sys::poll(&[self.fd()], Some(0)).is_ok_and(|events| events[0] == 0)
    }

    pub fn is_reaped(&self) -> bool {
        sys::poll(&[self.fd()], Some(0)).is_ok_and(|events| events[0] & libc::POLLHUP != 0)
    }

    /// As a shell says it: 128 + n for a signal. `None` where the kernel does not tell.
    pub fn exit_code(&self) -> Option<i32> {
        let mut info = Info { mask: INFO_EXIT, ..Info::default() };
        // SAFETY: the kernel fills at most the 64 bytes that the request number names.
        let told =
            unsafe { libc::ioctl(self.fd(), GET_INFO as _, &mut info) } == 0 && info.mask & INFO_EXIT != 0;
        told.then(|| match libc::WIFSIGNALED(info.exit_code) {
            true => 128 + libc::WTERMSIG(info.exit_code),
            false => libc::WEXITSTATUS(info.exit_code),
        })
    }
}

/// Linux 6.15 and later.
pub fn tells_exit_codes() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut numbers = release.split(['.', '-']).map_while(|part| part.trim().parse::<u32>().ok());
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 15)
    })
}

pub fn watch(epoll: &OwnedFd, fd: RawFd, events: u32, key: u64) -> io::Result<()> {
    change(epoll, libc::EPOLL_CTL_ADD, fd, events, key)
}

pub fn rewatch(epoll: &OwnedFd, fd: RawFd, events: u32, key: u64) -> io::Result<()> {
    change(epoll, libc::EPOLL_CTL_MOD, fd, events, key)
}

fn change(epoll: &OwnedFd, operation: i32, fd: RawFd, events: u32, key: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events, u64: key };
    // SAFETY: event is valid for the call.
    sys::check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), operation, fd, &mut event) })?;
    Ok(())
}

/// Keys and events of what is ready.
pub fn wait(epoll: &OwnedFd, timeout_ms: i32) -> Vec<(u64, u32)> {
    // SAFETY: zeroed epoll_events are valid; the kernel writes at most as many as there are.
    unsafe {
        let mut events: [libc::epoll_event; 64] = zeroed();
        let count = libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, timeout_ms);
        events[..count.max(0) as usize].iter().map(|event| (event.u64, event.events)).collect()
    }
}
