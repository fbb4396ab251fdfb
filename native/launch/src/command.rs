//! The process that becomes the agent: a session of its own, its own terminal or pipes, the exec sensor, a look from
//! the inside at every control, and then `execve`, when told.
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::cell::{Config, FromCommand};
use crate::control::ControlState;
use crate::failure::{Context, Failure, Result};
use crate::gvisor::bundle::RUNSC;
use crate::{inside, landlock, pty, seccomp, sys};

pub fn report_failure(channel: &OwnedFd, failure: &Failure) {
    let news = FromCommand::Failed { what: failure.what.clone(), why: failure.why.clone() };
    let _ = sys::send_with_fds(channel.as_fd(), &serde_json::to_vec(&news).unwrap_or_default(), &[]);
}

/// Returns only when the command cannot be started.
pub fn become_command(
    config: &Config,
    landlock: landlock::Enforced,
    channel: OwnedFd,
    stdio: Vec<OwnedFd>,
) -> i32 {
    if let Some(runsc) = &config.runsc {
        return become_runsc(config, runsc, &channel, stdio);
    }
    match prepare(config, landlock, &channel, stdio) {
        Err(failure) => {
            report_failure(&channel, &failure);
            125
        }
        Ok(handed) => match wait_for_exec(&channel) {
            Err(_) => 125,
            Ok(()) => execute(&config.argv, &config.env, handed),
        },
    }
}

/// gVisor takes the place of the command. Its guest then waits for the word by itself, on the same descriptors.
fn become_runsc(config: &Config, runsc: &[String], channel: &OwnedFd, stdio: Vec<OwnedFd>) -> i32 {
    let taken = take_stdio(config, &stdio).and_then(|master| {
        seccomp::install(&seccomp::no_membarrier()).context("loading gVisor's filter")?;
        report(channel, Vec::new(), None, master.as_ref())
    });
    if let Err(failure) = taken {
        report_failure(channel, &failure);
        return 125;
    }
    let program = [&[RUNSC.to_string()], &runsc[1..]].concat();
    sys::reset_signals(1..=64);
    if hand_over(Vec::new()).and_then(|()| hold_large_table()).is_err() {
        return 125;
    }
    replace(&program, &BTreeMap::new())
}

/// A descriptor of /dev/null for gVisor to inherit. The Sentry moves its streams to numbers from 256 on; where the table
/// of its descriptors must grow for that, its start waits for a grace period of RCU: 5 to 12 ms.
fn hold_large_table() -> io::Result<()> {
    const BEYOND: libc::c_int = 320;
    let null = std::fs::File::open("/dev/null")?;
    // SAFETY: a descriptor of ours and a plain number; what it returns is the next program's.
    sys::check(unsafe { libc::fcntl(null.as_raw_fd(), libc::F_DUPFD, BEYOND) }).map(drop)
}

fn prepare(
    config: &Config,
    landlock: landlock::Enforced,
    channel: &OwnedFd,
    mut stdio: Vec<OwnedFd>,
) -> Result<Vec<OwnedFd>> {
    let handed = stdio.split_off(stdio.len().saturating_sub(config.handed));
    let master = take_stdio(config, &stdio)?;
    drop(stdio);
    std::env::set_current_dir(&config.cwd).context(&format!("entering {}", config.cwd.display()))?;
    let listener =
        seccomp::install_with_listener(&seccomp::exec_sensor()).context("loading the exec sensor")?;
    let controls = inside::look(config, landlock);
    report(channel, controls, Some(&listener), master.as_ref())?;
    Ok(handed)
}

/// A session of its own, with its own terminal (whose master is returned) or the pipes.
fn take_stdio(config: &Config, stdio: &[OwnedFd]) -> Result<Option<OwnedFd>> {
    // SAFETY: plain call in a fresh child.
    sys::check(unsafe { libc::setsid() }).context("making a session")?;
    if config.terminal {
        return pty::take_terminal().map(Some).context("making the terminal");
    }
    pty::take_pipes(stdio).map(|()| None).context("connecting the pipes")
}

fn report(
    channel: &OwnedFd,
    controls: Vec<ControlState>,
    listener: Option<&OwnedFd>,
    master: Option<&OwnedFd>,
) -> Result<()> {
    let news = serde_json::to_vec(&FromCommand::Ready(controls)).unwrap_or_default();
    let fds: Vec<RawFd> = [listener, master].into_iter().flatten().map(AsRawFd::as_raw_fd).collect();
    sys::send_with_fds(channel.as_fd(), &news, &fds).context("reporting")
}

/// Puts what the command keeps where it looks for it, and closes everything above stderr that it does not keep.
fn hand_over(handed: Vec<OwnedFd>) -> io::Result<()> {
    const FIRST: RawFd = 3;
    const BEYOND: RawFd = 32;
    // Out of the way first: one may stand where another has to go.
    let moved: io::Result<Vec<RawFd>> = handed
        .into_iter()
        // SAFETY: a descriptor of ours and a plain number.
        .map(|fd| sys::check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD, BEYOND) }))
        .collect();
    let moved = moved?;
    for (number, fd) in (FIRST..).zip(&moved) {
        // SAFETY: both are plain numbers; what stood at the second belongs to nobody any more.
        sys::check(unsafe { libc::dup2(*fd, number) })?;
    }
    let first = (FIRST as usize + moved.len()) as libc::c_uint;
    // SAFETY: plain numbers. gVisor of 2022 does not have it, and nothing else is open there.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    Ok(())
}

/// One message means go; end of file means that nobody is left to say so.
fn wait_for_exec(channel: &OwnedFd) -> io::Result<()> {
    let message = sys::receive(channel.as_fd())?;
    if message.bytes == b"exec" { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Returns only when there is no such program, or it cannot be started.
pub fn execute(argv: &[String], env: &BTreeMap<String, String>, handed: Vec<OwnedFd>) -> i32 {
    // Whoever started Ambit may ignore any of them.
    sys::reset_signals(1..=64);
    start(argv, env, handed)
}

/// The same for a process whose signals are the command's already.
pub fn start(argv: &[String], env: &BTreeMap<String, String>, handed: Vec<OwnedFd>) -> i32 {
    if hand_over(handed).is_err() {
        return 125;
    }
    replace(argv, env)
}

fn replace(argv: &[String], env: &BTreeMap<String, String>) -> i32 {
    let name = argv.first().map_or("", String::as_str);
    let path = match find(name, env) {
        Ok(path) => path,
        Err((code, why)) => {
            eprintln!("ambit: cannot start {name:?}: {why}");
            return code;
        }
    };
    let strings = |texts: &mut dyn Iterator<Item = String>| -> Vec<CString> {
        texts.filter_map(|text| CString::new(text).ok()).collect()
    };
    let argv = strings(&mut argv.iter().cloned());
    let env = strings(&mut env.iter().map(|(key, value)| format!("{key}={value}")));
    let Ok(program) = sys::cpath(&path) else { return 127 };
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv_pointers, env_pointers) = (pointers(&argv), pointers(&env));
    // SAFETY: both arrays end in a null pointer and outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv_pointers.as_ptr(), env_pointers.as_ptr()) };
    let error = io::Error::last_os_error();
    eprintln!("ambit: cannot start {name:?}: {error}");
    if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
}

/// What a shell does: a name without a slash is looked for in the PATH inside.
fn find(name: &str, env: &BTreeMap<String, String>) -> std::result::Result<PathBuf, (i32, &'static str)> {
    if name.contains('/') {
        return Ok(name.into());
    }
    let places = env.get("PATH").map_or("/usr/bin:/bin", String::as_str);
    let found: Vec<PathBuf> = places
        .split(':')
        .filter(|place| place.starts_with('/'))
        .map(|place| Path::new(place).join(name))
        .collect();
    let is_file = |path: &&PathBuf| std::fs::metadata(path).is_ok_and(|found| found.is_file());
    let is_executable = |path: &&PathBuf| {
        is_file(path) && std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o111 != 0)
    };
    match (found.iter().find(is_executable), found.iter().any(|path| is_file(&path))) {
        (Some(path), _) => Ok(path.clone()),
        (None, true) => Err((126, "not executable")),
        (None, false) => Err((127, "not found")),
    }
}
