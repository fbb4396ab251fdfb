//! The view's mount point: FUSE, mounted in the outer namespaces and served from outside them.
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::failure::{Context, Result};
use crate::sys;

/// Mounts and returns the `/dev/fuse` descriptor. `allow_other` means: whoever is in this user namespace or below it
/// (fs/fuse/dir.c, fuse_allow_current_process), that is, the cell. The kernel checks modes by itself.
pub fn mount(device: &Path, target: &Path, session: &str) -> Result<OwnedFd> {
    // Opened after the user namespace was made: the kernel wants opener and mounter in the same one.
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(device)
        .context("opening /dev/fuse")
        .map_err(|failure| failure.remedy("load the fuse module and make /dev/fuse mode 0666"))?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
        device.as_raw_fd()
    );
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    let name = format!("ambit-view:{session}");
    sys::mount(Some(Path::new(&name)), target, Some("fuse"), flags, Some(&options))
        .context("mounting the view")?;
    Ok(device.into())
}

/// The device that files on it show. Whoever serves it is not asked: it may hang.
pub fn device(target: &Path) -> io::Result<u64> {
    let target = sys::cpath(target)?;
    // SAFETY: statx is plain data that the kernel fills; the path is a C string.
    let found = unsafe {
        let mut found: libc::statx = std::mem::zeroed();
        let flags = libc::AT_STATX_DONT_SYNC;
        sys::check(libc::statx(libc::AT_FDCWD, target.as_ptr(), flags, 0, &mut found))?;
        found
    };
    Ok(libc::makedev(found.stx_dev_major, found.stx_dev_minor))
}

/// Ends the connection: whoever waits for an answer gets ENOTCONN. A view that was killed while one of its threads had
/// the kernel forget a name cannot let go of the device by itself: that thread waits for a lock whose holder waits for
/// an answer. The mount itself may stay, busy.
pub fn abort(target: &Path) {
    let Ok(target) = sys::cpath(target) else { return };
    // SAFETY: a C string that outlives the call.
    unsafe { libc::umount2(target.as_ptr(), libc::MNT_FORCE) };
}
