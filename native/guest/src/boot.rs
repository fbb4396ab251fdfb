//! All that is the same for every session: kernel file systems, modules, the root image. A snapshot is taken behind it.
use std::fs;
use std::path::Path;
use std::time::Duration;

use ambit_launch::failure::{Context, Result};
use ambit_launch::sys;

use crate::{modules, verity};

/// The root image, checked block by block.
pub const IMAGE: &str = "/image";
/// A tmpfs for what the session lays over the image.
pub const LAYER: &str = "/layer";

pub fn prepare() -> Result<()> {
    kernel_file_systems()?;
    modules::load()?;
    verity::open(&verity::Expected::from_command_line()?)?;
    let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
    fs::create_dir_all(IMAGE).context("making /image")?;
    sys::mount(Some(Path::new(verity::DEVICE)), Path::new(IMAGE), Some("erofs"), flags, None)
        .context("mounting the root image")?;
    fs::create_dir_all(LAYER).context("making /layer")?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    sys::mount(None, Path::new(LAYER), Some("tmpfs"), flags, Some("mode=755")).context("mounting /layer")?;
    // One: the cell's own. The agent's uid can make no second one.
    fs::write("/proc/sys/user/max_user_namespaces", "1").context("limiting user namespaces")
}

fn kernel_file_systems() -> Result<()> {
    for (kind, target) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        fs::create_dir_all(target).context(target)?;
        let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
        sys::mount(None, Path::new(target), Some(kind), flags, None).context(target)?;
    }
    Ok(())
}

/// The end: QEMU is started with -no-reboot, so this is its end, too. The pause lets the last words out.
pub fn restart() -> ! {
    std::thread::sleep(Duration::from_millis(200));
    // SAFETY: plain number; nothing here needs to be written to a disk.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) };
    std::process::exit(1)
}
