//! Whether there is memory for a start of its own. Without it Node would end in words that tell nobody what to do, or
//! the kernel would kill it without a word.
use std::fs;
use std::path::{Path, PathBuf};

use crate::sys;

const MIB: u64 = 1 << 20;
/// What Node reserves, whatever it uses: below it V8 aborts, or waits for ever.
const ADDRESS_SPACE: u64 = 1900 * MIB;
const DATA: u64 = 700 * MIB;
/// What a cold session has touched when its command starts; below it the kernel ends Node (measured: 62 to 66 MiB).
const TOUCHED: u64 = 64 * MIB;
const GROUPS: &str = "/sys/fs/cgroup";

/// Why nothing can start, in words: limits that this process has.
pub fn limited() -> Option<String> {
    let limits = [
        (libc::RLIMIT_AS, ADDRESS_SPACE, "virtual memory", "ulimit -v"),
        (libc::RLIMIT_DATA, DATA, "a program's data", "ulimit -d"),
    ];
    limits.into_iter().find_map(|(resource, least, what, how)| {
        let limit = sys::limit(resource).filter(|limit| *limit < least)?;
        let (limit, least) = (limit / MIB, least / MIB);
        Some(format!(
            "the limit on {what} is {limit} MiB, too little to start: allow {least} MiB or more ({how})"
        ))
    })
}

/// Why no session can start, in words: memory that is left. What cannot be read says nothing.
pub fn exhausted() -> Option<String> {
    let machine = free_of_machine().map(|free| (free, "this machine".to_owned()));
    let groups = groups()
        .into_iter()
        .filter_map(|dir| Some((free_of_group(&dir)?, format!("the control group {dir:?}"))));
    let (free, place) = machine.into_iter().chain(groups).min()?;
    (free < TOUCHED).then(|| {
        format!(
            "{place} has {} MiB of memory left, too little for a session: free some, or allow it more ({} MiB, and what the command takes)",
            free / MIB,
            TOUCHED / MIB
        )
    })
}

/// How many processes the kernel has ended for want of memory, of this machine or of any control group; 0 where it does
/// not say.
pub fn kills() -> u64 {
    fs::read_to_string("/proc/vmstat").ok().and_then(|text| field(&text, "oom_kill")).unwrap_or(0)
}

fn free_of_machine() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    Some((field(&text, "MemAvailable:")? + field(&text, "SwapFree:").unwrap_or(0)) * 1024)
}

/// The groups that this process is in and that account for memory, those that hold them included: each has a limit of
/// its own.
fn groups() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let place = |line: &str| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let top = match controllers {
            "" => PathBuf::from(GROUPS),
            _ if controllers.split(',').any(|name| name == "memory") => Path::new(GROUPS).join("memory"),
            _ => return None,
        };
        let leaf = top.join(path.trim_start_matches('/'));
        let dirs = leaf.ancestors().take_while(|dir| dir.starts_with(&top)).map(Path::to_path_buf);
        Some(dirs.collect::<Vec<_>>())
    };
    text.lines().filter_map(place).flatten().collect()
}

/// What the kernel would still give the group, files that it can drop included.
fn free_of_group(dir: &Path) -> Option<u64> {
    let number = |names: [&str; 2]| {
        let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
        names.into_iter().find_map(read)?.trim().parse::<u64>().ok()
    };
    let limit = number(["memory.max", "memory.limit_in_bytes"])?;
    let used = number(["memory.current", "memory.usage_in_bytes"])?;
    let stat = fs::read_to_string(dir.join("memory.stat")).ok()?;
    let files =
        |kind: &str| field(&stat, &format!("total_{kind}")).or_else(|| field(&stat, kind)).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(files("inactive_file") + files("active_file"))))
}

/// The number behind `name` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let words = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok())?
    };
    text.lines().find_map(words)
}
