//! The session's network: every address is local, every TCP stream and DNS query lands on sockets that the gate
//! holds. There is no interface but `lo`, so a mistake here ends in silence, never in a route out.
use std::ffi::CStr;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::failure::{Context, Result};
use crate::spec::Ports;
use crate::tap::{self, Tap};
use crate::{netfilter, sys};

const BACKLOG: libc::c_int = 4096;

/// Listening sockets of the gate, in the order in which they are handed out.
pub struct GateSockets {
    pub tcp: OwnedFd,
    pub dns: OwnedFd,
    pub dns_tcp: OwnedFd,
    pub proxy: OwnedFd,
}

/// Wires this (fresh) network namespace. The sockets stand before anything else can run in it and take their ports.
pub fn wire(ports: Ports) -> Result<GateSockets> {
    raise_loopback().context("raising lo")?;
    make_everything_local().context("adding the local route")?;
    let sockets = listen(ports, Ipv4Addr::LOCALHOST).context("opening the gate's sockets")?;
    load(&netfilter::batch(ports))?;
    Ok(sockets)
}

/// The same for a machine at the end of a tap: what comes out of it lands on the same sockets, which listen at the
/// tap's address; nothing else in this namespace can be reached from it, nor from a process beside it.
pub fn wire_machine(ports: Ports) -> Result<(GateSockets, Tap)> {
    raise_loopback().context("raising lo")?;
    make_everything_local().context("adding the local route")?;
    let tap = Tap::open()?;
    let sockets = listen(ports, tap::GATEWAY).context("opening the gate's sockets")?;
    load(&netfilter::batch_for_machine(ports, tap::GATEWAY))?;
    tap.raise()?;
    Ok((sockets, tap))
}

fn load(rules: &[u8]) -> Result<()> {
    netfilter::send(rules)
        .context("loading the network rules")
        .map_err(|failure| failure.remedy("the kernel needs nf_tables with NAT"))
}

/// All at one address: that is where the redirect delivers, and a UDP answer must leave from the address to which the
/// question was redirected, or connection tracking does not know it.
fn listen(ports: Ports, at: Ipv4Addr) -> io::Result<GateSockets> {
    Ok(GateSockets {
        tcp: listener(at, ports.tcp)?,
        dns: UdpSocket::bind((at, ports.dns))?.into(),
        dns_tcp: listener(at, ports.dns)?,
        proxy: listener(at, ports.proxy)?,
    })
}

fn listener(at: Ipv4Addr, port: u16) -> io::Result<OwnedFd> {
    let socket = TcpListener::bind((at, port))?;
    // std asks for a backlog of 128; an agent that opens many connections at once would see resets.
    // SAFETY: listen on our own socket.
    sys::check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(socket.into())
}

pub fn raise_loopback() -> io::Result<()> {
    // SAFETY: ifreq is plain data; the name is NUL-terminated by zeroed().
    unsafe {
        let socket =
            sys::owned(sys::check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?);
        let mut request: libc::ifreq = zeroed();
        request.ifr_name[0] = b'l' as _;
        request.ifr_name[1] = b'o' as _;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as _;
        sys::check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request))?;
    }
    Ok(())
}

/// `ip route add local 0.0.0.0/0 dev lo`.
fn make_everything_local() -> io::Result<()> {
    add_route(libc::RTN_LOCAL, None, c"lo")
}

/// A route in the table that is asked first, as rtnetlink(7) says it.
pub fn add_route(kind: u8, to: Option<Ipv4Addr>, device: &CStr) -> io::Result<()> {
    const ACKNOWLEDGE: u16 =
        (libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
    let scope = if kind == libc::RTN_LOCAL { libc::RT_SCOPE_HOST } else { libc::RT_SCOPE_LINK };
    let length = if to.is_some() { 32 } else { 0 };
    let table = [libc::RT_TABLE_LOCAL, libc::RTPROT_BOOT, scope, kind];
    // SAFETY: the name is a C string.
    let interface = unsafe { libc::if_nametoindex(device.as_ptr()) };
    let mut body = vec![libc::AF_INET as u8, length, 0, 0];
    body.extend(table);
    body.extend(0_u32.to_ne_bytes());
    let attributes = to.map(|to| (libc::RTA_DST, to.octets())).into_iter();
    for (attribute, value) in attributes.chain([(libc::RTA_OIF, interface.to_ne_bytes())]) {
        body.extend(8_u16.to_ne_bytes());
        body.extend(attribute.to_ne_bytes());
        body.extend(value);
    }
    let mut request = ((size_of::<libc::nlmsghdr>() + body.len()) as u32).to_ne_bytes().to_vec();
    request.extend(libc::RTM_NEWROUTE.to_ne_bytes());
    request.extend(ACKNOWLEDGE.to_ne_bytes());
    request.extend(1_u32.to_ne_bytes());
    request.extend(0_u32.to_ne_bytes());
    request.extend(body);
    acknowledged(&request)
}

fn acknowledged(request: &[u8]) -> io::Result<()> {
    #[repr(C)]
    struct Answer {
        header: libc::nlmsghdr,
        error: i32,
        rest: [u8; 256],
    }
    // SAFETY: request and answer are plain repr(C) data that outlive the calls.
    let answer = unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let socket =
            OwnedFd::from_raw_fd(sys::check(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE))?);
        sys::check(libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0))?;
        let mut answer: Answer = zeroed();
        sys::check(libc::recv(socket.as_raw_fd(), (&raw mut answer).cast(), size_of::<Answer>(), 0))?;
        answer
    };
    match (answer.header.nlmsg_type == libc::NLMSG_ERROR as u16, answer.error) {
        (true, 0) => Ok(()),
        (true, error) => Err(io::Error::from_raw_os_error(-error)),
        _ => Err(io::Error::other("rtnetlink did not acknowledge")),
    }
}
