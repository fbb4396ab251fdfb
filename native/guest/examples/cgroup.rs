//! PID 1 of a machine of its own (test/launch/cgroup.test.ts): delegates a cgroup as systemd does, and has an ordinary
//! user's sessions make groups in it. One line a finding, on the serial console.
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ambit_launch::cgroup::{self, Group, Wanted};
use ambit_launch::sys;

const ROOT: &str = "/sys/fs/cgroup";
const USER: u32 = 1000;
const MIB: usize = 1 << 20;

fn main() {
    for dir in ["/proc", "/sys", "/dev"] {
        let _ = fs::create_dir(dir);
    }
    mount("proc", "/proc", "proc");
    mount("sysfs", "/sys", "sysfs");
    mount("cgroup2", ROOT, "cgroup2");
    let scope = Path::new(ROOT).join("user.slice/run.scope");
    fs::create_dir_all(&scope).expect("the scope");
    for above in [ROOT.into(), Path::new(ROOT).join("user.slice")] as [PathBuf; 2] {
        fs::write(above.join("cgroup.subtree_control"), "+memory +pids +cpu").expect("controllers");
    }
    for name in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        std::os::unix::fs::chown(scope.join(name), Some(USER), Some(USER)).expect("chown");
    }
    in_user_session(&scope, || say("not delegated", cgroup::delegated().unwrap_err()));
    delegate(&scope);
    in_user_session(&scope, || {
        say("delegated", cgroup::delegated().is_ok());
        bombs();
        two_at_once();
        left_behind();
    });
    // SAFETY: ends the machine.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
}

fn say(what: &str, found: impl std::fmt::Display) {
    println!("finding {what}: {found}");
}

fn mount(source: &str, target: &str, kind: &str) {
    sys::mount(Some(Path::new(source)), Path::new(target), Some(kind), 0, None).expect(target);
}

fn delegate(scope: &Path) {
    let path = CString::new(scope.to_str().expect("text")).expect("path");
    // SAFETY: both strings are NUL-terminated, the value has one byte.
    let set = unsafe { libc::setxattr(path.as_ptr(), c"user.delegate".as_ptr(), b"1".as_ptr().cast(), 1, 0) };
    assert_eq!(set, 0, "user.delegate: {}", io::Error::last_os_error());
}

/// Runs `work` in a child; how that ended, as waitpid(2) says it.
fn child(work: impl FnOnce()) -> libc::c_int {
    wait(start(work))
}

fn start(work: impl FnOnce()) -> libc::pid_t {
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        0 => {
            work();
            std::process::exit(0)
        }
        pid => pid,
    }
}

fn wait(pid: libc::pid_t) -> libc::c_int {
    let mut status = 0;
    // SAFETY: status is a valid int.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    status
}

fn in_user_session(scope: &Path, work: impl FnOnce()) {
    let status = child(|| {
        fs::write(scope.join("cgroup.procs"), "0").expect("entering the scope");
        // SAFETY: plain numbers.
        unsafe { assert_eq!(libc::setgid(USER) + libc::setuid(USER), 0) };
        work();
    });
    if status != 0 {
        say("the session", format!("broke, {status}"));
    }
}

fn group(name: &str, memory: usize) -> Group {
    cgroup::named(name, &Wanted { memory: memory as u64, tasks: 20, cpus: Some(0.5) }).expect(name)
}

fn inside(group: &Group, work: impl FnOnce()) -> libc::c_int {
    wait(started_inside(group, work))
}

fn started_inside(group: &Group, work: impl FnOnce()) -> libc::pid_t {
    let entry = group.entry().expect("its entry");
    start(|| {
        cgroup::enter(entry.as_raw_fd()).expect("entering");
        work();
    })
}

/// Fills a file in memory that nobody maps, which no sum over processes sees.
fn fill(bytes: usize) {
    let page = vec![1u8; MIB];
    let file = sys::memfd(c"bomb", &[]).expect("memfd");
    for at in 0..bytes / MIB {
        // SAFETY: page is valid for its length.
        unsafe { libc::pwrite(file.as_raw_fd(), page.as_ptr().cast(), MIB, (at * MIB) as libc::off_t) };
    }
}

/// How many children could be had.
fn multiply(most: usize) -> usize {
    let started: Vec<_> = (0..most)
        .map(|_| start(|| std::thread::sleep(Duration::from_secs(600))))
        .take_while(|pid| *pid > 0)
        .collect();
    for pid in &started {
        // SAFETY: our own children.
        unsafe { libc::kill(*pid, libc::SIGKILL) };
        wait(*pid);
    }
    started.len()
}

fn bombs() {
    for (what, memory) in [("memory", 64 * MIB), ("memory, control", 512 * MIB)] {
        let group = group("memory", memory);
        let status = inside(&group, || fill(160 * MIB));
        say(what, format!("signal {}, over {}", libc::WTERMSIG(status), group.exceeded().unwrap_or("none")));
    }
    let held = group("tasks", 64 * MIB);
    inside(&held, || say("tasks", multiply(40)));
    say("tasks, control", multiply(40));
    say("processors", held.cpus);
}

fn two_at_once() {
    let (one, other) = (group("one", 64 * MIB), group("other", 64 * MIB));
    let sleep = || std::thread::sleep(Duration::from_secs(600));
    let (first, second) = (started_inside(&one, sleep), started_inside(&other, sleep));
    one.end();
    // SAFETY: both are our children.
    let lives = |pid| unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) == 0 };
    std::thread::sleep(Duration::from_millis(50));
    say("ended", format!("first lives {}, second lives {}", lives(first), lives(second)));
    drop(other);
}

/// A launcher that was killed could not take its group away; the next one does, with what is in it, if it can tell.
fn left_behind() {
    child(|| std::mem::forget(group("forgotten", 64 * MIB)));
    let place = cgroup::delegated().expect("the place");
    // Of a launcher in another pid namespace: its number is nobody's here.
    fs::create_dir(place.join("ambit-session-elsewhere-1-99999")).expect("its group");
    let names = || {
        let mut names: Vec<_> = fs::read_dir(&place)
            .expect("its groups")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("ambit-"))
            .map(|name| name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned())
            .collect();
        names.sort();
        names.join(" ")
    };
    say("before", names());
    let next = group("next", 64 * MIB);
    say("beside the next", names());
    drop(next);
    say("after", names());
}
