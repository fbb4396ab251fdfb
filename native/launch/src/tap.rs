//! The machine's cable: a tap in the session's network namespace. It lives as long as its descriptor.
use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::failure::{Context, Result};
use crate::{net, sys};

/// Addresses that no network routes (RFC 7335), for the two ends.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);
pub const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
pub const PREFIX: u8 = 30;
pub const NAME: &str = "machine";

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);

pub struct Tap(OwnedFd);

impl Tap {
    /// Makes the device and gives it its address; it carries nothing yet.
    pub fn open() -> Result<Self> {
        let what = "making the machine's network device";
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .context(what)
            .map_err(|failure| failure.remedy("load the tun module and make /dev/net/tun mode 0666"))?;
        let tap = Self(device.into());
        tap.configure().context(what)?;
        Ok(tap)
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.0
    }

    fn configure(&self) -> io::Result<()> {
        let mut request = request();
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as _;
        // SAFETY: request is a valid ifreq for each call.
        unsafe {
            sys::check(libc::ioctl(self.0.as_raw_fd(), TUNSETIFF as _, &request))?;
            let socket = socket()?;
            request.ifr_ifru.ifru_addr = address(GATEWAY);
            sys::check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR as _, &request))?;
            request.ifr_ifru.ifru_netmask = address(NETMASK);
            sys::check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFNETMASK as _, &request))?;
        }
        Ok(())
    }

    /// Switches it on, once the rules stand. Its one neighbour needs a route of its own where every address is local.
    pub fn raise(&self) -> Result<()> {
        let what = "raising the machine's network device";
        let mut request = request();
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as _;
        let socket = socket().context(what)?;
        // SAFETY: request is a valid ifreq.
        sys::check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) })
            .context(what)?;
        net::add_route(libc::RTN_UNICAST, Some(GUEST), c"machine").context(what)
    }
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    sys::check(socket).map(sys::owned)
}

fn request() -> libc::ifreq {
    // SAFETY: ifreq is plain data; the name is shorter than its place and NUL-terminated by zeroed().
    let mut request: libc::ifreq = unsafe { zeroed() };
    NAME.bytes().zip(&mut request.ifr_name).for_each(|(byte, place)| *place = byte as _);
    request
}

fn address(of: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    of.octets().iter().zip(&mut data[2..]).for_each(|(byte, place)| *place = *byte as _);
    libc::sockaddr { sa_family: libc::AF_INET as _, sa_data: data }
}
