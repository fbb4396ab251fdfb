//! The guest's one network device: an address, and everything else by way of the host's side of it.
use std::io;
use std::mem::zeroed;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use ambit_launch::failure::{Context, Result};
use ambit_launch::{net, sys};

use crate::spec::Net;

pub const DEVICE: &str = "eth0";

/// Names of the devices that the agent will find.
pub fn devices(net: Option<Net>) -> Vec<String> {
    ["lo"].into_iter().chain(net.map(|_| DEVICE)).map(String::from).collect()
}

pub fn raise(given: Option<Net>) -> Result<()> {
    net::raise_loopback().context("raising lo")?;
    given.map_or(Ok(()), |given| configure(given).context("setting up the network"))
}

fn configure(given: Net) -> io::Result<()> {
    let mask = Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(given.prefix)).unwrap_or(0));
    // SAFETY: ifreq and rtentry are plain data; every pointer outlives its call.
    unsafe {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        let socket = sys::owned(sys::check(libc::socket(libc::AF_INET, kind, 0))?);
        let mut request: libc::ifreq = zeroed();
        DEVICE.bytes().zip(&mut request.ifr_name).for_each(|(byte, place)| *place = byte as _);
        request.ifr_ifru.ifru_addr = address(given.address);
        sys::check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR as _, &request))?;
        request.ifr_ifru.ifru_netmask = address(mask);
        sys::check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFNETMASK as _, &request))?;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as _;
        sys::check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request))?;
        let mut route: libc::rtentry = zeroed();
        route.rt_dst = address(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = address(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = address(given.gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        sys::check(libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT as _, &route))?;
    }
    Ok(())
}

fn address(of: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    of.octets().iter().zip(&mut data[2..]).for_each(|(byte, place)| *place = *byte as _);
    libc::sockaddr { sa_family: libc::AF_INET as _, sa_data: data }
}
