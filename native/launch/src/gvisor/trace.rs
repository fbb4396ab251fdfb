//! The exec evidence of a guest: gVisor's trace points over a socket of ours, turned into the facts that the exec
//! sensor records elsewhere (src/audit/fact.ts).
//!
//! The Sentry has written a message before the program starts, but does not wait until it is recorded: the control
//! says *partly*. What cannot be sent (text that is not UTF-8, more than a socket holds) is told from the raw trace
//! of the call, which carries no text, and recorded as a launch without its words. Later versions tell of
//! the call's return before the program is looked for, so there it takes the program's first call of its own.
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ambit_shared::journal::Journal;
use ambit_shared::redact::redact;

use super::order::{Caller, Launches};
use super::proto::{Fields, Value, bytes, field, number};
use crate::alarm::{Alarm, Bell};
use crate::control::Ending;
use crate::digest::{Digests, Lasting};
use crate::exec_path::open_in_root;
use crate::failure::{Context, Failure, Result};
use crate::process_memory::Bounded;
use crate::sensor::Fact;
use crate::sys;

/// `execve` and `execveat`.
pub const EXEC_CALLS: [libc::c_long; 2] = [libc::SYS_execve, libc::SYS_execveat];
/// What the C library, or Go's runtime, of each program calls once it runs: the place of its thread's own memory.
#[cfg(target_arch = "x86_64")]
pub const START_CALL: libc::c_long = libc::SYS_arch_prctl;
#[cfg(not(target_arch = "x86_64"))]
pub const START_CALL: libc::c_long = libc::SYS_set_tid_address;

/// Of pkg/sentry/seccheck/points/common.proto.
mod kind {
    pub const CLONE: u16 = 2;
    pub const EXEC: u16 = 3;
    pub const EXIT: u16 = 4;
    pub const RAW_CALL: u16 = 6;
}

/// `Handshake { version: 1 }`.
const HANDSHAKE: [u8; 2] = [0x08, 1];
/// Header size, type, count of what was dropped.
const HEADER: usize = 8;
/// Beyond this a Sentry makes them up: it is an agent's that has broken it.
const MOST_PROCESSES: usize = 1 << 17;
const WHAT: &str = "following gVisor's trace";
/// What stands for a launch whose words did not arrive.
const UNREPORTED: &str = "(not reported by gVisor)";
/// How long the last messages of a Sentry that is gone may take.
const LAST_MESSAGES: Duration = Duration::from_secs(2);

/// A listening trace sink, and what the threads share.
pub struct Trace {
    thread: JoinHandle<()>,
    ended: Arc<OnceLock<Ending>>,
    guest: Arc<OnceLock<Guest>>,
    _stop: OwnedFd,
}

/// What is known of the guest once it stands, before the command starts.
struct Guest {
    /// Where its root is to be found, for digests.
    root: File,
    /// The command's process, as the guest counts.
    main: i32,
}

impl Trace {
    /// Listens at `path`; the only one to connect is `runsc`, before the guest runs.
    pub fn listen(path: &Path, journal: Arc<Journal>, bell: Bell) -> Result<Self> {
        let what = "listening for gVisor's trace";
        let listener = seqpacket(path).context(what)?;
        let (stopped, stop) = sys::pipe().context(what)?;
        let (ended, guest) = (Arc::default(), Arc::default());
        let mut follower = Follower {
            bell: bell.clone(),
            digests: Digests::new(journal.clone(), bell.clone(), Lasting::ReadOnly),
            journal,
            ended: Arc::clone(&ended),
            guest: Arc::clone(&guest),
            parents: HashMap::new(),
            launched: HashSet::new(),
            launches: Launches::default(),
        };
        let thread = std::thread::spawn(move || {
            if let Err(failure) = follower.run(listener, &stopped) {
                bell.ring(Alarm::Failed(failure));
            }
            follower.digests.finish();
        });
        Ok(Self { thread, ended, guest, _stop: stop })
    }

    /// The guest stands. `init`: PID 1 of the cell, as we count; `main`: the command's process, as the guest counts.
    pub fn stands(&self, init: libc::pid_t, main: i32) -> Result<()> {
        let root = File::open(format!("/proc/{init}/root{}", super::bundle::ROOT));
        let _ = self.guest.set(Guest { root: root.context("finding the guest's root")?, main });
        Ok(())
    }

    /// How the command ended. To be asked when the Sentry is gone or dies.
    pub fn ending(&self) -> Option<Ending> {
        let since = Instant::now();
        while self.ended.get().is_none() && !self.thread.is_finished() && since.elapsed() < LAST_MESSAGES {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.ended.get().copied()
    }

    /// Waits for the last record; a sink to which nobody came is given up.
    pub fn finish(self) {
        drop(self._stop);
        let _ = self.thread.join();
    }
}

fn seqpacket(path: &Path) -> std::io::Result<UnixListener> {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: the address is plain data of the length that is passed, its path ends in NUL by zeroed().
    unsafe {
        let socket = sys::owned(sys::check(libc::socket(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
        ))?);
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = libc::AF_UNIX as _;
        let bytes = path.as_os_str().as_bytes();
        if bytes.len() >= address.sun_path.len() {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        address.sun_path.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from as _);
        let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
        sys::check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length))?;
        sys::check(libc::listen(socket.as_raw_fd(), 1))?;
        Ok(socket.into())
    }
}

/// As many as there can be.
fn possible(processes: usize) -> Result<()> {
    match processes > MOST_PROCESSES {
        true => Err(Failure::new(WHAT, "it tells of more processes than there can be")),
        false => Ok(()),
    }
}

struct Follower {
    bell: Bell,
    journal: Arc<Journal>,
    digests: Digests,
    ended: Arc<OnceLock<Ending>>,
    guest: Arc<OnceLock<Guest>>,
    /// Process → its parent.
    parents: HashMap<i32, i32>,
    /// Processes whose launch is recorded and whose end is not.
    launched: HashSet<i32>,
    launches: Launches,
}

impl Follower {
    fn run(&mut self, listener: UnixListener, stopped: &OwnedFd) -> Result<()> {
        let what = WHAT;
        let ready = sys::poll(&[listener.as_raw_fd(), stopped.as_raw_fd()], None).context(what)?;
        if ready[0] == 0 {
            return Ok(());
        }
        let stream = OwnedFd::from(listener.accept().context(what)?.0);
        sys::receive(stream.as_fd()).context(what)?;
        sys::send_with_fds(stream.as_fd(), &HANDSHAKE, &[]).context(what)?;
        let mut buffer = vec![0u8; 1 << 20];
        loop {
            // SAFETY: buffer is valid for its length.
            let length =
                unsafe { libc::recv(stream.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            match length {
                0 => return self.rest(),
                length if length > 0 => self.note(&buffer[..length as usize])?,
                _ => match std::io::Error::last_os_error() {
                    error if error.kind() == std::io::ErrorKind::Interrupted => {}
                    error if error.raw_os_error() == Some(libc::ECONNRESET) => return self.rest(),
                    error => return Err(Failure::new(what, error)),
                },
            }
        }
    }

    fn note(&mut self, message: &[u8]) -> Result<()> {
        let Some((header, _)) = message.split_at_checked(HEADER) else { return Ok(()) };
        let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let Some(payload) = message.get(usize::from(word(0))..) else { return Ok(()) };
        let context = bytes(payload, 1);
        let pid = number(context, 4) as i32;
        let caller = Caller { process: pid, thread: number(context, 2) as i32 };
        match word(2) {
            kind::CLONE => {
                let (thread, process) = (number(payload, 3) as i32, number(payload, 4) as i32);
                if thread == process {
                    self.parents.insert(process, pid);
                }
                possible(self.parents.len())
            }
            kind::EXEC => self.note_launch(caller, payload),
            kind::RAW_CALL => {
                let unreported = self.note_call(caller, payload);
                possible(self.launches.waiting())?;
                if unreported { self.note_unreported(pid) } else { Ok(()) }
            }
            kind::EXIT => self.note_exit(pid, number(payload, 2) as i32),
            _ => Ok(()),
        }
    }

    fn note_launch(&mut self, caller: Caller, payload: &[u8]) -> Result<()> {
        let pid = caller.process;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let cwd = text(bytes(bytes(payload, 1), 8));
        let path: PathBuf = Path::new(&cwd).join(text(bytes(payload, 2))).components().collect();
        let mut argv = Bounded::default();
        let arguments = Fields(payload).filter_map(|(field, value)| match value {
            Value::Bytes(bytes) if field == 3 => Some(bytes),
            _ => None,
        });
        for argument in arguments {
            argv.push(argument);
        }
        let (argv, truncated) = argv.finish();
        let file = self.guest.get().and_then(|guest| open_in_root(&guest.root, &path, 0).ok());
        let path = path.to_string_lossy().into_owned();
        let digest = file.and_then(|file| self.digests.of(&file, &path));
        self.launches.is_reported(caller);
        possible(self.launches.waiting())?;
        self.append_launch(Fact::Launch {
            pid,
            ppid: self.parents.get(&pid).copied().unwrap_or(0),
            path,
            digest,
            argv: redact(argv),
            cwd,
            truncated,
        })
    }

    /// True when it shows a launch that was not reported.
    fn note_call(&mut self, caller: Caller, payload: &[u8]) -> bool {
        match field(payload, 2) {
            // Result and errno.
            Some(exit) => self.launches.returns(caller, number(exit, 2)),
            None if number(payload, 4) == START_CALL as u64 => self.launches.starts(caller.process),
            None => {
                self.launches.begins(caller);
                false
            }
        }
    }

    fn note_unreported(&mut self, pid: i32) -> Result<()> {
        self.append_launch(Fact::Launch {
            pid,
            ppid: self.parents.get(&pid).copied().unwrap_or(0),
            path: UNREPORTED.into(),
            digest: None,
            argv: Vec::new(),
            cwd: String::new(),
            truncated: true,
        })
    }

    fn append_launch(&mut self, fact: Fact) -> Result<()> {
        let fact = fact.as_told(WHAT)?;
        if let Fact::Launch { pid, .. } = fact {
            self.launched.insert(pid);
        }
        self.append(&fact)
    }

    fn note_exit(&mut self, pid: i32, status: i32) -> Result<()> {
        let ending = match libc::WIFSIGNALED(status) {
            true => Ending::Signal(libc::WTERMSIG(status)),
            false => Ending::Code(libc::WEXITSTATUS(status)),
        };
        self.parents.remove(&pid);
        self.launches.ends(pid);
        if !self.launched.remove(&pid) {
            return Ok(());
        }
        let is_main = self.guest.get().is_some_and(|guest| guest.main == pid);
        if is_main {
            let _ = self.ended.set(ending);
        }
        let code = match ending {
            Ending::Code(code) => code,
            Ending::Signal(signal) => 128 + signal,
        };
        self.append(&Fact::Exit { pid, code: Some(code) })?;
        // Not left to the guest's first process: gVisor lets the agent stop that one, and taking a Sentry down nicely
        // takes long.
        if is_main {
            self.bell.ring(Alarm::Ended(ending));
        }
        Ok(())
    }

    /// The Sentry is gone, and with it whoever was left.
    fn rest(&mut self) -> Result<()> {
        let left: Vec<i32> = self.launched.drain().collect();
        left.into_iter().try_for_each(|pid| self.append(&Fact::Exit { pid, code: None }))
    }

    fn append(&self, fact: &Fact) -> Result<()> {
        self.journal.append(fact).map_err(|error| Failure::new("recording a process", error))
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alarm;
    use std::sync::atomic::{AtomicU32, Ordering};

    pub fn follower() -> (Follower, PathBuf) {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ambit-trace-{}-{number}", std::process::id()));
        let journal = Arc::new(Journal::open(&path).unwrap());
        let (bell, _) = alarm::alarms().unwrap();
        let follower = Follower {
            digests: Digests::new(journal.clone(), bell.clone(), Lasting::ReadOnly),
            bell,
            journal,
            ended: Arc::default(),
            guest: Arc::default(),
            parents: HashMap::new(),
            launched: HashSet::new(),
            launches: Launches::default(),
        };
        (follower, path)
    }

    fn varint(mut value: u64) -> Vec<u8> {
        let mut all = Vec::new();
        while value > 0x7f {
            all.push(value as u8 | 0x80);
            value >>= 7;
        }
        all.push(value as u8);
        all
    }

    fn text(field: u8, bytes: &[u8]) -> Vec<u8> {
        [&[field << 3 | 2][..], &varint(bytes.len() as u64), bytes].concat()
    }

    pub fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        [&8u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 4], payload].concat()
    }

    pub fn context(process: i64, thread: i64) -> Vec<u8> {
        [&[2 << 3][..], &varint(thread as u64), &[4 << 3], &varint(process as u64)].concat()
    }

    pub fn exec(pid: i64, path: &str, argv: &[&str]) -> Vec<u8> {
        let context = [context(pid, pid), text(8, b"/")].concat();
        let argv: Vec<u8> = argv.iter().flat_map(|word| text(3, word.as_bytes())).collect();
        message(kind::EXEC, &[text(1, &context), text(2, path.as_bytes()), argv].concat())
    }

    pub fn raw(process: i64, thread: i64, call: libc::c_long, exit: Option<&[u8]>) -> Vec<u8> {
        let call = [&[4 << 3][..], &varint(call as u64)].concat();
        let exit = exit.map(|exit| text(2, exit)).unwrap_or_default();
        message(kind::RAW_CALL, &[text(1, &context(process, thread)), exit, call].concat())
    }

    /// Records of launches, `true` for one without its words.
    fn launches(path: &Path) -> Vec<bool> {
        let text = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        let launches = text.split("process.launch").skip(1);
        launches.map(|record| record.contains(UNREPORTED)).collect()
    }

    pub const DONE: Option<&[u8]> = Some(&[]);
    const REFUSED: Option<&[u8]> = Some(&[2 << 3, 2]);
    const EXECVE: libc::c_long = libc::SYS_execve;

    #[test]
    fn launches_are_on_record_with_and_without_their_words() {
        let (mut follower, path) = follower();
        for told in [
            raw(5, 5, EXECVE, None),
            raw(5, 5, EXECVE, DONE),
            // By another thread, before the report.
            raw(5, 6, START_CALL, None),
            exec(5, "/bin/sh", &["sh"]),
            raw(5, 5, START_CALL, None),
            raw(5, 5, EXECVE, None),
            raw(5, 5, EXECVE, REFUSED),
            raw(5, 7, EXECVE, None),
            raw(5, 7, EXECVE, DONE),
            raw(5, 6, libc::SYS_execveat, None),
            raw(5, 5, START_CALL, None),
            raw(5, 5, EXECVE, DONE),
            message(kind::EXIT, &text(1, &context(5, 5))),
            raw(5, 5, START_CALL, None),
        ] {
            follower.note(&told).unwrap();
        }
        assert_eq!(launches(&path), [true, false, true]);
        std::fs::remove_file(&path).unwrap();
    }

    /// What an agent that has broken its Sentry may say.
    #[test]
    fn a_sentry_that_lies_ends_the_session_and_leaves_a_record_that_can_be_read() {
        let (mut follower, path) = follower();
        follower.note(&exec(5, "/usr/bin/id", &["id", "--token", "abc"])).unwrap();
        let recorded = std::fs::metadata(&path).unwrap().len();
        for pid in [0, -1, i64::from(i32::MAX) + 1] {
            assert!(follower.note(&exec(pid, "/x", &[])).is_err(), "{pid}");
        }
        assert!(follower.note(&exec(6, &format!("/{}", "x".repeat(40_000)), &[])).is_err());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), recorded, "nothing of it is on record");
        let many = (1..=MOST_PROCESSES as u64 + 1).try_for_each(|process| {
            let ids = [&[3 << 3][..], &varint(process), &[4 << 3], &varint(process)].concat();
            follower.note(&message(kind::CLONE, &ids))
        });
        assert!(many.is_err());
        let many = (1..=MOST_PROCESSES as i64 + 1).map(|thread| raw(7, thread, EXECVE, DONE));
        assert!(many.map(|told| follower.note(&told)).any(|noted| noted.is_err()));
        std::fs::remove_file(&path).unwrap();
    }
}
