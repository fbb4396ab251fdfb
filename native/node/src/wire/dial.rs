//! TCP sockets that are being connected, without waiting.

use std::mem::size_of;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::{c_int, c_void, socklen_t};
use napi::Result;

use crate::errno;

/// A socket on its way to `address`.
pub fn connecting(address: SocketAddr) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no memory is involved; the kernel makes a new descriptor.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(errno("connect"));
    }
    // SAFETY: as above; it is ours alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    set(&fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    set(&fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 60);
    let got = match address {
        SocketAddr::V4(v4) => {
            // SAFETY: all-zero is a valid sockaddr_in.
            let mut to: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            to.sin_family = libc::AF_INET as libc::sa_family_t;
            to.sin_port = v4.port().to_be();
            to.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
            connect_to(&fd, &to)
        }
        SocketAddr::V6(v6) => {
            // SAFETY: as above, for sockaddr_in6.
            let mut to: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            to.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            to.sin6_port = v6.port().to_be();
            to.sin6_addr.s6_addr = v6.ip().octets();
            connect_to(&fd, &to)
        }
    };
    let pending = std::io::Error::last_os_error().raw_os_error() == Some(libc::EINPROGRESS);
    if got == 0 || pending { Ok(fd) } else { Err(errno("connect")) }
}

fn connect_to<T>(fd: &OwnedFd, to: &T) -> c_int {
    let to: *const T = to;
    // SAFETY: `to` is a live socket address of the stated size.
    unsafe { libc::connect(fd.as_raw_fd(), to.cast(), size_of::<T>() as socklen_t) }
}

fn set(fd: &OwnedFd, level: c_int, name: c_int, value: c_int) {
    let value: *const c_int = &raw const value;
    // SAFETY: one int. A socket without the option is slower, not wrong.
    unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, value.cast::<c_void>(), size_of::<c_int>() as socklen_t)
    };
}
