//! The session's network: every address is local, every TCP stream and DNS query lands on sockets that the gate
//! holds. There is no interface but `lo`, so a mistake here ends in silence, never in a route out.
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::failure::{Context, Result};
use crate::spec::Ports;
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
    let sockets = listen(ports).context("opening the gate's sockets")?;
    netfilter::load(ports)
        .context("loading the network rules")
        .map_err(|failure| failure.remedy("the kernel needs nf_tables with NAT"))?;
    Ok(sockets)
}

/// All on loopback: that is where the redirect delivers, and a UDP answer must leave from the address to which the
/// question was redirected, or connection tracking does not know it.
fn listen(ports: Ports) -> io::Result<GateSockets> {
    Ok(GateSockets {
        tcp: listener(ports.tcp)?,
        dns: UdpSocket::bind((Ipv4Addr::LOCALHOST, ports.dns))?.into(),
        dns_tcp: listener(ports.dns)?,
        proxy: listener(ports.proxy)?,
    })
}

fn listener(port: u16) -> io::Result<OwnedFd> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
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

/// `ip route add local 0.0.0.0/0 dev lo`, as rtnetlink says it (rtnetlink(7)).
#[repr(C)]
struct RouteRequest {
    header: libc::nlmsghdr,
    family: u8,
    destination_length: u8,
    source_length: u8,
    tos: u8,
    table: u8,
    protocol: u8,
    scope: u8,
    kind: u8,
    flags: u32,
    attribute_length: u16,
    attribute_type: u16,
    interface: u32,
}

fn make_everything_local() -> io::Result<()> {
    const ACKNOWLEDGE: u16 =
        (libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
    // SAFETY: lo exists in every network namespace; the name is a C string.
    let interface = unsafe { libc::if_nametoindex(c"lo".as_ptr()) };
    let request = RouteRequest {
        header: libc::nlmsghdr {
            nlmsg_len: size_of::<RouteRequest>() as u32,
            nlmsg_type: libc::RTM_NEWROUTE,
            nlmsg_flags: ACKNOWLEDGE,
            nlmsg_seq: 1,
            nlmsg_pid: 0,
        },
        family: libc::AF_INET as u8,
        destination_length: 0,
        source_length: 0,
        tos: 0,
        table: libc::RT_TABLE_LOCAL,
        protocol: libc::RTPROT_BOOT,
        scope: libc::RT_SCOPE_HOST,
        kind: libc::RTN_LOCAL,
        flags: 0,
        attribute_length: 8,
        attribute_type: libc::RTA_OIF,
        interface,
    };
    acknowledged(&request)
}

fn acknowledged(request: &RouteRequest) -> io::Result<()> {
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
        let bytes = (&raw const *request).cast();
        sys::check(libc::send(socket.as_raw_fd(), bytes, size_of::<RouteRequest>(), 0))?;
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
