//! What must differ between two sessions that start from one snapshot: random numbers and the clock.
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use ambit_launch::failure::{Context, Failure, Result};
use ambit_launch::sys;

const BYTES: usize = 64;
/// RNDADDENTROPY, RNDRESEEDCRNG (random(4)).
const ADD: libc::c_ulong = 0x4008_5203;
const RESEED: libc::c_ulong = 0x5207;

#[repr(C)]
struct Pool {
    bits: i32,
    size: i32,
    bytes: [u8; BYTES],
}

pub fn random(text: &str) -> Result<()> {
    let what = "seeding the random numbers";
    let bytes = from_hex(text).ok_or_else(|| Failure::new(what, "the seed is not 64 bytes in hex"))?;
    let pool = Pool { bits: 8 * BYTES as i32, size: BYTES as i32, bytes };
    let device = File::open("/dev/urandom").context(what)?;
    // SAFETY: pool is a valid rand_pool_info; the second call takes no argument.
    unsafe {
        sys::check(libc::ioctl(device.as_raw_fd(), ADD as _, &pool)).context(what)?;
        sys::check(libc::ioctl(device.as_raw_fd(), RESEED as _)).context(what)?;
    }
    Ok(())
}

fn from_hex(text: &str) -> Option<[u8; BYTES]> {
    let pairs =
        text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    pairs.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

pub fn clock(milliseconds: u64) -> Result<()> {
    let time = libc::timespec {
        tv_sec: (milliseconds / 1000) as _,
        tv_nsec: (milliseconds % 1000 * 1_000_000) as _,
    };
    // SAFETY: time is a valid timespec.
    let set: io::Result<i32> = sys::check(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &time) });
    set.map(drop).context("setting the clock")
}
