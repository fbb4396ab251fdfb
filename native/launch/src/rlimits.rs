//! Per-process limits. No RLIMIT_AS: it breaks V8 and Go, which reserve far more than they use.
use std::io;

use crate::sys;

/// `tasks` counts threads, per uid and user namespace since Linux 5.14, so it is the session's own count: the hard
/// wall behind the watchdog's finer one.
pub fn set(tasks: u64, open_files: u64) -> io::Result<()> {
    // The agent may not lower it either: rules.rs.
    ambit_shared::lockdown::no_core()?;
    // What sound servers are given: an agent with it would come before everything else on the machine.
    limit(libc::RLIMIT_RTPRIO, 0)?;
    limit(libc::RLIMIT_NICE, 0)?;
    limit(libc::RLIMIT_NPROC, tasks)?;
    limit(libc::RLIMIT_NOFILE, open_files)?;
    limit(libc::RLIMIT_MEMLOCK, 64 << 20)
}

/// The outer launcher holds a descriptor for each process inside: as many as it may have.
pub fn raise_open_files() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: limit is a valid structure.
    unsafe {
        sys::check(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        sys::check(libc::setrlimit(libc::RLIMIT_NOFILE, &limit))?;
    }
    Ok(())
}

fn limit(resource: libc::__rlimit_resource_t, value: u64) -> io::Result<()> {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both point to valid structures.
    unsafe {
        sys::check(libc::getrlimit(resource, &mut old))?;
        let value = value.min(old.rlim_max);
        sys::check(libc::setrlimit(resource, &libc::rlimit { rlim_cur: value, rlim_max: value }))?;
    }
    Ok(())
}
