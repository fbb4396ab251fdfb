//! Standing still. SIGSTOP to everything is not enough by itself: a process that is just sending SIGCONT when the stop
//! arrives wakes the others after it, and they it. PID 1 therefore stops and looks until nothing runs, and looks again
//! for as long as the freeze lasts.
use std::fs;

/// Stops in a row before PID 1 attends to its other duties.
const ROUNDS: usize = 32;
/// Milliseconds until the next look, while something runs and when nothing does.
const RESTLESS: u64 = 1;
const CALM: u64 = 100;

/// Stops everything inside; returns how long that may be left alone.
pub fn hold() -> u64 {
    for _ in 0..ROUNDS {
        signal_all(libc::SIGSTOP);
        if !anything_runs() {
            return CALM;
        }
    }
    RESTLESS
}

pub fn release() {
    signal_all(libc::SIGCONT);
}

/// Everything in the pid namespace but PID 1: that is what -1 means here (kill(2)).
pub fn signal_all(signal: libc::c_int) {
    // SAFETY: plain numbers.
    unsafe { libc::kill(-1, signal) };
}

/// Threads, too: a process whose first thread has ended looks dead.
fn anything_runs() -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|pid| *pid > 1).any(|pid| {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        threads
            .map(|thread| thread.path().join("stat"))
            .any(|path| fs::read_to_string(path).is_ok_and(|stat| may_go_on(&stat)))
    })
}

/// Stopped, dead, or deep in the kernel, from where it comes back stopped: these stand still.
fn may_go_on(stat: &str) -> bool {
    // The name before it is the process' own choice.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, Some('T' | 't' | 'Z' | 'X' | 'D'))
}

#[cfg(test)]
mod tests {
    use super::may_go_on;

    #[test]
    fn a_name_cannot_feign_a_state() {
        assert!(may_go_on("7 (x) T) R 1 7 7"));
        assert!(!may_go_on("7 (x) R) T 1 7 7"));
        assert!(may_go_on("7 (sleep) S 1 7 7"));
    }
}
