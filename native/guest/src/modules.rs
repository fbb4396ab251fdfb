//! Kernel modules from the initramfs, in the order that its list gives. The host verified the initramfs before the
//! start; their signatures were left out, which saves an RSA operation each.
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

use ambit_launch::failure::{Context, Result};
use ambit_launch::sys;

const LIST: &str = "/modules/order";

pub fn load() -> Result<()> {
    let list = fs::read_to_string(LIST).context("reading the list of modules")?;
    list.lines().try_for_each(|name| insert(name).context(&format!("loading the module {name}")))
}

fn insert(name: &str) -> io::Result<()> {
    let file = File::open(format!("/modules/{name}"))?;
    // SAFETY: a descriptor, an empty C string, and no flags.
    let loaded =
        sys::check(unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) });
    match loaded {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other.map(drop),
    }
}
