//! The machine boots on its first processor alone: where every instruction is emulated, two that wait for each other
//! boot a second slower.
use std::fs;
use std::io;

use ambit_launch::failure::{Context, Result};
use ambit_launch::sys;

const PLACE: &str = "/sys/devices/system/cpu";

/// Keeps this thread, and all that it starts, on the first one: a session is made ready step by step, and two that wake
/// each other take a tenth longer.
pub fn keep_to_first() -> io::Result<()> {
    allow(0, 1)
}

/// Lets a process, each thread of it, use all that there are.
pub fn allow_all(pid: libc::pid_t) -> io::Result<()> {
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = entry?.file_name().to_string_lossy().parse().map_err(io::Error::other)?;
        match allow(thread, libc::CPU_SETSIZE as usize) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {} // it has ended meanwhile
            done => done?,
        }
    }
    Ok(())
}

fn allow(pid: libc::pid_t, count: usize) -> io::Result<()> {
    // SAFETY: a cpu_set_t is plain data, and the indices are within it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        (0..count).for_each(|index| libc::CPU_SET(index, &mut set));
        sys::check(libc::sched_setaffinity(pid, size_of_val(&set), &set)).map(drop)
    }
}

/// Brings up all that there are.
pub fn start() -> Result<()> {
    let what = "starting the processors";
    for entry in fs::read_dir(PLACE).context(what)?.flatten() {
        let switch = entry.path().join("online");
        if fs::read_to_string(&switch).is_ok_and(|state| state.trim_end() == "0") {
            fs::write(switch, "1").context(what)?;
        }
    }
    Ok(())
}
