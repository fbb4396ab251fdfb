//! dm-verity without its tools: three ioctls make the device, a uevent tells of a block that does not fit.
//! linux/dm-ioctl.h; Documentation/admin-guide/device-mapper/verity.rst.
use std::fs::{self, File};
use std::os::fd::AsRawFd;

use ambit_launch::alarm::{Alarm, Bell};
use ambit_launch::failure::{Context, Failure, Result};
use ambit_launch::sys;

pub const DEVICE: &str = "/dev/dm-0";
const DISK: &str = "/dev/vda";
const NAME: &[u8] = b"root";
const BLOCK: u64 = 4096;

const CREATE: libc::c_ulong = 0xc138_fd03;
const RESUME: libc::c_ulong = 0xc138_fd06;
const LOAD_TABLE: libc::c_ulong = 0xc138_fd09;
const READ_ONLY: u32 = 1;
/// Where the target's description starts: behind `struct dm_ioctl`.
const HEADER: usize = 312;
const TARGET: usize = 40;

/// What the command line says of the root image; the host's manifest vouches for that line.
#[derive(Debug, PartialEq)]
pub struct Expected {
    blocks: u64,
    root: String,
    salt: String,
}

impl Expected {
    pub fn from_command_line() -> Result<Self> {
        let line = fs::read_to_string("/proc/cmdline").context("reading the command line")?;
        Self::parse(&line)
            .ok_or_else(|| Failure::new("the command line", "no ambit.root=BLOCKS:HASH:SALT in it"))
    }

    fn parse(line: &str) -> Option<Self> {
        let text = line.split_whitespace().find_map(|word| word.strip_prefix("ambit.root="))?;
        let mut parts = text.split(':');
        let (blocks, root, salt) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
        let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let fits = parts.next().is_none() && root.len() == 64 && is_hex(root) && is_hex(salt);
        fits.then(|| Expected { blocks, root: root.into(), salt: salt.into() })
    }

    /// Data and hash tree lie on one device; the tree has no header.
    fn table(&self) -> String {
        let Expected { blocks, root, salt } = self;
        format!("1 {DISK} {DISK} {BLOCK} {BLOCK} {blocks} {blocks} sha256 {root} {salt}")
    }
}

pub fn open(expected: &Expected) -> Result<()> {
    let what = "opening the root image through dm-verity";
    let control = File::options().read(true).write(true).open("/dev/mapper/control").context(what)?;
    order(&control, CREATE, 0, &[]).context(what)?;
    let mut target = vec![0; TARGET];
    target[8..16].copy_from_slice(&(expected.blocks * (BLOCK / 512)).to_ne_bytes());
    target[24..30].copy_from_slice(b"verity");
    target.extend_from_slice(expected.table().as_bytes());
    target.push(0);
    order(&control, LOAD_TABLE, 1, &target).context(what)?;
    order(&control, RESUME, 0, &[]).context(what)
}

fn order(control: &File, request: libc::c_ulong, targets: u32, payload: &[u8]) -> std::io::Result<()> {
    let mut message = vec![0u8; (HEADER + payload.len()).max(4096)];
    let length = message.len() as u32;
    let words = [4u32, 0, 0, length, HEADER as u32, targets, 0, READ_ONLY];
    for (at, word) in words.iter().enumerate() {
        message[4 * at..4 * at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    message[48..48 + NAME.len()].copy_from_slice(NAME);
    message[HEADER..HEADER + payload.len()].copy_from_slice(payload);
    // SAFETY: message is as long as its own data_size says.
    sys::check(unsafe { libc::ioctl(control.as_raw_fd(), request as _, message.as_mut_ptr()) }).map(drop)
}

/// Rings when a block of the image is not what it was built as. Whoever reads it gets EIO; the session ends.
pub fn watch(bell: Bell) -> Result<()> {
    let what = "listening for the root image's errors";
    // SAFETY: sockaddr_nl is plain data and outlives the call.
    let socket = unsafe {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        let socket =
            sys::check(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_KOBJECT_UEVENT)).context(what)?;
        let mut address: libc::sockaddr_nl = std::mem::zeroed();
        address.nl_family = libc::AF_NETLINK as _;
        address.nl_groups = 1;
        let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        sys::check(libc::bind(socket, (&raw const address).cast(), length)).context(what)?;
        File::from(sys::owned(socket))
    };
    std::thread::spawn(move || {
        use std::io::Read;
        let mut event = vec![0; 16 << 10];
        while let Ok(length) = (&socket).read(&mut event) {
            let text = String::from_utf8_lossy(&event[..length]);
            if let Some(block) =
                text.split('\0').find_map(|line| line.strip_prefix("DM_VERITY_ERR_BLOCK_NR="))
            {
                let why = format!("block {block} is not what it was built as");
                return bell.ring(Alarm::Failed(
                    Failure::new("the root image", why).remedy("build it anew: ambit image build"),
                ));
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_line_that_the_manifest_wrote_and_no_other() {
        let hash = "ab".repeat(32);
        let good = format!("quiet ambit.root=12:{hash}:00ff reboot=t");
        let expected = Expected::parse(&good).unwrap();
        assert_eq!(expected.table(), format!("1 /dev/vda /dev/vda 4096 4096 12 12 sha256 {hash} 00ff"));
        assert_eq!(Expected::parse("quiet"), None);
        assert_eq!(Expected::parse("ambit.root=12:ab:00"), None);
        assert_eq!(Expected::parse(&format!("ambit.root=x:{hash}:00")), None);
        assert_eq!(Expected::parse(&format!("ambit.root=12:{hash}")), None);
        assert_eq!(Expected::parse(&format!("ambit.root=12:{hash}:0g")), None);
        assert_eq!(Expected::parse(&format!("ambit.root=12:{hash}:00:1 opt_params")), None);
    }
}
