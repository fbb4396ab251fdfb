//! Limits by the kernel, where a cgroup is delegated to the caller (Linux's cgroup-v2.rst, "Delegation"; systemd's
//! `Delegate=`). A session gets a group of its own beneath it: its memory is exact (tmpfs, files in memory and sockets
//! included), its tasks are counted, and what is too much ends what is inside, never the host.
//!
//! Nothing of a cgroup that is not delegated is touched: who runs it moves processes there as it likes.
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::limits;
use crate::spec::{LaunchSpec, Limits};
use crate::sys;
use crate::vm::machine;

/// CGROUP2_SUPER_MAGIC, linux/magic.h.
const CGROUP2: i64 = 0x6367_7270;
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// What systemd says of a delegated cgroup; the second is older and for root's eyes.
const DELEGATED: [&CStr; 2] = [c"user.delegate", c"trusted.delegate"];
/// Where the processes go that were there before: a group with groups beneath it holds none itself.
const LEAF: &str = "ambit-beside";
const PREFIX: &str = "ambit-session-";
/// The unit of `cpu.max`, microseconds.
const PERIOD: f64 = 100_000.0;
/// How long what was killed may take to go.
const GONE: Duration = Duration::from_secs(1);

/// One session's group. Its files are opened while the caller's rights and paths still stand.
pub struct Group {
    above: File,
    name: CString,
    entry: OwnedFd,
    kill: File,
    events: File,
    memory_events: File,
    /// How it holds the limits, for the status.
    pub cpus: bool,
}

/// What is held for a session: of a machine QEMU's memory, and no share of the processors beside its own.
pub struct Wanted {
    /// Bytes.
    pub memory: u64,
    pub tasks: u64,
    pub cpus: Option<f64>,
}

impl Wanted {
    fn of(spec: &LaunchSpec) -> Self {
        let Limits { memory, cpus, .. } = spec.limits;
        let tasks = limits::tasks(spec.limits);
        match spec.cell.machine() {
            None => Wanted { memory, tasks, cpus: Some(cpus) },
            Some(own) => {
                Wanted { memory: machine::limits_of_qemu(own, spec.limits).memory, tasks, cpus: None }
            }
        }
    }
}

/// The session's group, or why there is none.
pub fn make(spec: &LaunchSpec) -> Result<Group, String> {
    named(&spec.session, &Wanted::of(spec))
}

/// The same for anything that has a name, letters and digits, beneath the caller's own cgroup.
pub fn named(name: &str, wanted: &Wanted) -> Result<Group, String> {
    let place = delegated()?;
    let name = format!("{PREFIX}{name}-{}-{}", pids(), std::process::id());
    Group::beneath(&place, &name, wanted)
        .map_err(|error| format!("the cgroup {} is delegated and cannot be used: {error}", place.display()))
}

/// The directory of the delegated cgroup that this process is in.
pub fn delegated() -> Result<PathBuf, String> {
    let lists = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = lists.lines().find_map(|line| line.strip_prefix("0::/"));
    let mount = MOUNTS.iter().find(|mount| is_cgroup2(Path::new(mount)));
    let (Some(own), Some(mount)) = (own, mount) else { return Err("no cgroup v2".into()) };
    let mut place = Path::new(mount).join(own);
    if place.file_name().is_some_and(|name| name == LEAF) {
        place.pop();
    }
    let offered = fs::read_to_string(place.join("cgroup.controllers")).unwrap_or_default();
    if !has(&offered, "memory") || !has(&offered, "pids") {
        return Err("no cgroup with memory and pids".into());
    }
    match DELEGATED.iter().any(|name| says_yes(&place, name)) {
        true => Ok(place),
        false => Err("no delegated cgroup".into()),
    }
}

fn is_cgroup2(mount: &Path) -> bool {
    let Ok(path) = sys::cpath(mount) else { return false };
    // SAFETY: statfs is plain data that the call fills; path is NUL-terminated.
    unsafe {
        let mut found: libc::statfs = std::mem::zeroed();
        libc::statfs(path.as_ptr(), &mut found) == 0 && found.f_type as i64 == CGROUP2
    }
}

fn says_yes(place: &Path, attribute: &CStr) -> bool {
    let Ok(path) = sys::cpath(place) else { return false };
    let mut value = [0u8; 2];
    // SAFETY: both strings are NUL-terminated; value has room for what is asked.
    let length =
        unsafe { libc::getxattr(path.as_ptr(), attribute.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    length == 1 && value[0] == b'1'
}

fn has(list: &str, word: &str) -> bool {
    list.split_whitespace().any(|one| one == word)
}

/// Lets groups beneath `place` have controllers: those who are in it move to a leaf first.
fn open_up(place: &Path) -> io::Result<()> {
    let enabled = fs::read_to_string(place.join("cgroup.subtree_control"))?;
    if !has(&enabled, "memory") || !has(&enabled, "pids") {
        let leaf = place.join(LEAF);
        match fs::create_dir(&leaf) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Those who are moved may start others meanwhile.
        for _ in 0..20 {
            let inside = fs::read_to_string(place.join("cgroup.procs"))?;
            if inside.is_empty() {
                break;
            }
            for pid in inside.lines() {
                match fs::write(leaf.join("cgroup.procs"), pid) {
                    Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
                    _ => {}
                }
            }
        }
        fs::write(place.join("cgroup.subtree_control"), "+memory +pids")?;
    }
    if !has(&enabled, "cpu") {
        // Not every delegation has it; affinity holds without.
        let _ = fs::write(place.join("cgroup.subtree_control"), "+cpu");
    }
    Ok(())
}

/// The pid namespace in which our number is ours: one cgroup may hold several.
fn pids() -> String {
    let found = fs::metadata("/proc/self/ns/pid").map(|entry| entry.ino());
    found.map_or_else(|_| "unknown".into(), |number| number.to_string())
}

/// Groups whose launcher is gone: a crash, or root's, whose launcher is not root any more at its end. Of another pid
/// namespace's launchers nobody here can tell.
fn sweep(place: &Path) {
    let ours = pids();
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let parts = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.rsplit_once('-'));
        let Some((rest, owner)) = parts else { continue };
        if rest.rsplit('-').next() == Some(&ours)
            && owner.parse::<u32>().is_ok_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
        {
            let _ = fs::write(entry.path().join("cgroup.kill"), "1");
            let _ = fs::remove_dir(entry.path());
        }
    }
}

impl Group {
    fn beneath(place: &Path, name: &str, wanted: &Wanted) -> io::Result<Group> {
        open_up(place)?;
        sweep(place);
        let group = place.join(name);
        fs::create_dir(&group)?;
        Self::open(place, &group, name, wanted).inspect_err(|_| drop(fs::remove_dir(&group)))
    }

    fn open(place: &Path, group: &Path, name: &str, wanted: &Wanted) -> io::Result<Group> {
        let set = |file: &str, value: String| fs::write(group.join(file), value);
        set("memory.max", wanted.memory.to_string())?;
        set("memory.oom.group", "1".into())?;
        set("pids.max", wanted.tasks.to_string())?;
        // Absent where the kernel does not count what is swapped out.
        match set("memory.swap.max", "0".into()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let cpus = wanted.cpus.is_some_and(|cpus| {
            set("cpu.max", format!("{} {PERIOD}", (cpus.max(0.01) * PERIOD) as u64)).is_ok()
        });
        let write = |file: &str| fs::OpenOptions::new().write(true).open(group.join(file));
        Ok(Group {
            above: File::open(place)?,
            name: sys::cstring(name)?,
            entry: write("cgroup.procs")?.into(),
            kill: write("cgroup.kill")?,
            events: File::open(group.join("cgroup.events"))?,
            memory_events: File::open(group.join("memory.events"))?,
            cpus,
        })
    }

    /// What `enter` is called with.
    pub fn entry(&self) -> io::Result<OwnedFd> {
        self.entry.try_clone()
    }

    /// The limit that ended what was inside, if one did.
    pub fn exceeded(&self) -> Option<&'static str> {
        (number(&self.memory_events, "oom_kill") > 0).then_some("memory")
    }

    /// Nothing is left inside when this returns, and the group is gone. Once more does nothing.
    pub fn end(&self) {
        let _ = (&self.kill).write_all(b"1");
        let until = Instant::now() + GONE;
        while number(&self.events, "populated") > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        // SAFETY: the name is NUL-terminated. Root's launcher may not any more: the next one sweeps.
        unsafe { libc::unlinkat(self.above.as_raw_fd(), self.name.as_ptr(), libc::AT_REMOVEDIR) };
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

/// Moves the calling process; between fork and exec, so only one plain call.
pub fn enter(entry: RawFd) -> io::Result<()> {
    // SAFETY: a constant of that length.
    sys::check(unsafe { libc::write(entry, b"0".as_ptr().cast(), 1) as libc::c_int })?;
    Ok(())
}

/// The value behind `key` in a flat keyed file, 0 where there is none.
fn number(file: &File, key: &str) -> u64 {
    use std::os::unix::fs::FileExt;
    let mut text = [0u8; 1024];
    let length = file.read_at(&mut text, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&text[..length]);
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or(0)
}
