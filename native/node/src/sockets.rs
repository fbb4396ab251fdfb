//! Facts about sockets that Node does not tell.

use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::{c_int, c_void, socklen_t};
use napi::Result;
use napi_derive::napi;

use crate::{errno, failed};

/// linux/netfilter_ipv4.h and linux/netfilter_ipv6/ip6_tables.h give both the same number.
const SO_ORIGINAL_DST: c_int = 80;

#[napi(object)]
pub struct Address {
    pub address: String,
    pub port: u16,
}

#[napi(object)]
pub struct PeerCredentials {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

/// AF_UNIX SOCK_SEQPACKET pair, both CLOEXEC.
#[napi]
pub fn socketpair() -> Result<Vec<i32>> {
    let mut fds: [c_int; 2] = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `fds` has room for the two descriptors that socketpair writes.
    match unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) } {
        0 => Ok(fds.to_vec()),
        _ => Err(errno("socketpair")),
    }
}

/// Where the peer wanted to go before nftables redirected it; the local address when nothing was redirected.
#[napi]
pub fn original_destination(fd: i32) -> Result<Address> {
    let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
    for level in [libc::SOL_IP, libc::SOL_IPV6] {
        let mut size = size_of::<libc::sockaddr_storage>() as socklen_t;
        // SAFETY: the kernel writes at most `size` bytes into `storage`.
        let got =
            unsafe { libc::getsockopt(fd, level, SO_ORIGINAL_DST, (&raw mut storage).cast(), &raw mut size) };
        if got == 0 {
            return address_of(&storage);
        }
    }
    let mut size = size_of::<libc::sockaddr_storage>() as socklen_t;
    // SAFETY: as above.
    match unsafe { libc::getsockname(fd, (&raw mut storage).cast(), &raw mut size) } {
        0 => address_of(&storage),
        _ => Err(errno("originalDestination")),
    }
}

fn address_of(storage: &libc::sockaddr_storage) -> Result<Address> {
    let (ip, port) = match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the kernel wrote a sockaddr_in, which fits in sockaddr_storage.
            let v4: &libc::sockaddr_in = unsafe { &*(&raw const *storage).cast() };
            (IpAddr::V4(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr))), v4.sin_port)
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for sockaddr_in6.
            let v6: &libc::sockaddr_in6 = unsafe { &*(&raw const *storage).cast() };
            // A dual-stack listener reports ::ffff:a.b.c.d: rules know the IPv4 form only.
            (Ipv6Addr::from(v6.sin6_addr.s6_addr).to_canonical(), v6.sin6_port)
        }
        family => {
            return Err(failed("originalDestination", format!("address family {family} is not IP")));
        }
    };
    Ok(Address { address: ip.to_string(), port: u16::from_be(port) })
}

/// SO_PEERCRED: who connected, as the kernel saw it then.
#[napi]
pub fn peer_credentials(fd: i32) -> Result<PeerCredentials> {
    let mut cred = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut size = size_of::<libc::ucred>() as socklen_t;
    let target: *mut c_void = (&raw mut cred).cast();
    // SAFETY: the kernel writes at most `size` bytes into `cred`.
    match unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, target, &raw mut size) } {
        0 => Ok(PeerCredentials { pid: cred.pid, uid: cred.uid, gid: cred.gid }),
        _ => Err(errno("peerCredentials")),
    }
}

/// SO_PEERPIDFD: false when the process that connected has ended, so that its number may be another's by now. A kernel
/// without it (before Linux 6.5) cannot say: true.
#[napi]
pub fn peer_lives(fd: i32) -> Result<bool> {
    const SO_PEERPIDFD: i32 = 77;
    let mut pidfd: i32 = -1;
    let mut size = size_of::<i32>() as socklen_t;
    let target: *mut c_void = (&raw mut pidfd).cast();
    // SAFETY: the kernel writes at most `size` bytes into `pidfd`.
    if unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, SO_PEERPIDFD, target, &raw mut size) } != 0 {
        return match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::ENOPROTOOPT) => Ok(true),
            // The process is gone, and reaped.
            Some(libc::ESRCH | libc::EINVAL | libc::ENODATA) => Ok(false),
            _ => Err(errno("peerLives")),
        };
    }
    // SAFETY: the kernel has just made the descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // Readable once the process has ended.
    let mut ended = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry.
    match unsafe { libc::poll(&raw mut ended, 1, 0) } {
        0 => Ok(true),
        1 => Ok(false),
        _ => Err(errno("peerLives")),
    }
}

/// flock(2) exclusive, non-blocking; false when another open description holds it. The kernel frees it with the fd.
#[napi]
pub fn try_lock(fd: i32) -> Result<bool> {
    // SAFETY: no memory is involved; a bad fd is EBADF.
    if unsafe { libc::flock(fd, libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    match std::io::Error::last_os_error() {
        error if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
        error => Err(failed("tryLock", error)),
    }
}
