//! What the spec's limits mean on this machine.
use std::mem::{size_of, zeroed};

use crate::spec::Limits;

/// Threads that a process may have on average: RLIMIT_NPROC counts threads, the profile counts processes.
const THREADS_PER_PROCESS: u64 = 8;

/// The kernel's hard wall against fork bombs; the watchdog counts processes exactly but a moment later.
pub fn tasks(limits: Limits) -> u64 {
    limits.processes.saturating_mul(THREADS_PER_PROCESS)
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Whole CPUs that the session gets.
fn granted(limits: Limits) -> usize {
    limits.cpus.ceil().max(1.0) as usize
}

/// True when the session gets fewer CPUs than there are.
pub fn pinned(limits: Limits) -> bool {
    granted(limits) < cpus()
}

/// Keeps this process, and what it starts, on the first of the CPUs that it may use.
pub fn pin(limits: Limits) {
    let mut left = granted(limits);
    // SAFETY: cpu_set_t is plain data and large enough for CPU_SETSIZE.
    unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set);
        for cpu in 0..libc::CPU_SETSIZE as usize {
            if libc::CPU_ISSET(cpu, &set) {
                if left == 0 {
                    libc::CPU_CLR(cpu, &mut set);
                }
                left = left.saturating_sub(1);
            }
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}
