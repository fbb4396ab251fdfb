//! Ports of the virtio-serial device, by their names.
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use ambit_launch::failure::{Context, Failure, Result};

const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);

/// They appear one by one after the device.
pub fn open(name: &str) -> Result<File> {
    let what = format!("opening the port {name}");
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(device) = find(name) {
            let path = format!("/dev/{device}");
            return File::options().read(true).write(true).open(path).context(&what);
        }
        if Instant::now() > until {
            return Err(Failure::new(&what, "the machine has none of that name"));
        }
        std::thread::sleep(PAUSE);
    }
}

fn find(name: &str) -> Option<String> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|port| {
        let said = fs::read_to_string(port.path().join("name")).ok()?;
        (said.trim_end() == name).then(|| port.file_name().to_string_lossy().into_owned())
    })
}

/// Returns once a host is at the other end.
pub fn wait_for_host(port: &File) {
    let mut entry = libc::pollfd { fd: port.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: one valid entry.
        unsafe { libc::poll(&mut entry, 1, 0) };
        if entry.revents & libc::POLLHUP == 0 {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}
