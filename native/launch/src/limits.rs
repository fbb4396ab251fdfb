//! What the spec's limits mean on this machine.
use std::io;
use std::mem::{size_of, zeroed};

use crate::cgroup::Group;
use crate::control::{ControlState, State};
use crate::spec::Limits;
use crate::sys;

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

/// How each limit is held, as the status says it.
pub fn controls(limits: Limits, group: Result<&Group, &str>) -> [ControlState; 6] {
    let wall = if group.is_ok() { "by cgroup" } else { "by the kernel" };
    let processes = format!("{} processes by watchdog, {} threads {wall}", limits.processes, tasks(limits));
    let held = if group.is_ok() { State::Fully } else { State::Partly };
    let memory = match group {
        Ok(_) => format!("{} MiB by cgroup, files in memory included", limits.memory >> 20),
        Err(why) => format!("{} MiB by watchdog (sum of PSS and tmpfs), {why}", limits.memory >> 20),
    };
    let cpus = match (group, pinned(limits)) {
        (Ok(Group { cpus: true, .. }), _) => format!("{} CPUs by cgroup", limits.cpus),
        (_, true) => format!("{} CPUs by affinity, which the agent cannot change", granted(limits)),
        (_, false) => "all CPUs granted".into(),
    };
    let disk = format!(
        "{} MiB: exact in the view, the home by watchdog after at most one look and walk",
        limits.disk >> 20
    );
    [
        ControlState::new("disk-limit", State::Partly, disk),
        ControlState::new("process-limit", held, processes),
        ControlState::new("memory-limit", held, memory),
        ControlState::new("cpu-limit", State::Fully, cpus),
        ControlState::new(
            "time-limit",
            State::Fully,
            format!("{} s, then everything is killed", limits.wallclock / 1000),
        ),
        ControlState::new(
            "open-files-limit",
            State::Fully,
            format!("{} for each process", limits.open_files),
        ),
    ]
}

/// Keeps this process, and what it starts, on the first of the CPUs that it may use.
pub fn pin(limits: Limits) -> io::Result<()> {
    let mut left = granted(limits);
    // SAFETY: cpu_set_t is plain data and large enough for CPU_SETSIZE.
    unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        sys::check(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set))?;
        for cpu in 0..libc::CPU_SETSIZE as usize {
            if libc::CPU_ISSET(cpu, &set) {
                if left == 0 {
                    libc::CPU_CLR(cpu, &mut set);
                }
                left = left.saturating_sub(1);
            }
        }
        sys::check(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set))?;
    }
    Ok(())
}
