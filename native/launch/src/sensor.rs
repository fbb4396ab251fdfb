//! The exec sensor: every `execve` in the cell waits here until it is in the journal.
//!
//! A sensor, not a control. The path and the arguments lie in the caller's memory and the kernel reads them again
//! after we did (seccomp_unotify(2)): another thread can change them in between. What runs is confined by the
//! mounts, the filter and the network whatever its name; this is the record of what was asked for.
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use ambit_shared::journal::Journal;
use ambit_shared::redact::redact;
use serde::{Deserialize, Serialize};

use crate::alarm::{Alarm, Bell};
use crate::digest::{Digests, Lasting};
use crate::failure::Failure;
use crate::pidfd::{self, Watched};
use crate::process_memory::{Asked, Launch, read_launch};
use crate::sys;

const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;
const ID_VALID: libc::c_ulong = 0x4008_2102;
const SET_FLAGS: libc::c_ulong = 0x4008_2104;
const SYNCHRONOUS_WAKE_UP: u64 = 1;
const CONTINUE: u32 = 1;
/// How long the last processes may take to be reaped before their exit codes count as unknown.
const LAST_EXITS: Duration = Duration::from_millis(200);

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Notification {
    pub id: u64,
    pub pid: u32,
    pub flags: u32,
    pub number: i32,
    pub arch: u32,
    pub instruction_pointer: u64,
    pub args: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "k")]
pub enum Fact {
    #[serde(rename = "process.launch")]
    Launch {
        pid: i32,
        ppid: i32,
        path: String,
        digest: Option<String>,
        argv: Vec<String>,
        cwd: String,
        truncated: bool,
    },
    #[serde(rename = "process.exit")]
    Exit { pid: i32, code: Option<i32> },
    #[serde(rename = "file.hash")]
    Hash { path: String, size: u64, sha256: String },
}

/// An honest sensor stays far below these (process_memory.rs), also where each byte becomes three.
pub const LONGEST_PATH: usize = 32 << 10;
pub const LONGEST_ARGUMENT: usize = 4 << 10;
pub const MOST_ARGUMENTS: usize = 256;

impl Fact {
    /// One that somebody else tells, a guest or its kernel: a record that nobody can read would stand in the log as
    /// tampering. Only of launches and ends.
    pub fn as_told(self, hearing: &str) -> Result<Self, Failure> {
        let is_argv = |argv: &[String]| {
            argv.len() <= MOST_ARGUMENTS && argv.iter().all(|argument| argument.len() <= LONGEST_ARGUMENT)
        };
        match &self {
            Fact::Launch { pid: 1.., ppid: 0.., path, argv, cwd, .. }
                if path.len().max(cwd.len()) <= LONGEST_PATH && is_argv(argv) =>
            {
                Ok(self)
            }
            Fact::Exit { pid: 1.., .. } => Ok(self),
            _ => Err(Failure::new(hearing, "it told of a process what no sensor tells")),
        }
    }
}

/// Where the sensor's facts go.
pub trait Records {
    /// An exec goes on when its fact has been taken.
    fn append(&mut self, fact: &Fact) -> std::io::Result<()>;
    /// SHA-256 of a file that is about to run, where it is known.
    fn digest_of(&mut self, file: &File, path: &str) -> Option<String>;
    /// No more facts will come.
    fn finish(&mut self);
}

/// The session's own journal, on this host.
pub struct Journaled {
    journal: Arc<Journal>,
    digests: Digests,
}

impl Journaled {
    /// `view`: its device.
    pub fn new(journal: Arc<Journal>, bell: Bell, view: u64) -> Self {
        Self { digests: Digests::new(journal.clone(), bell, Lasting::View(view)), journal }
    }
}

impl Records for Journaled {
    fn append(&mut self, fact: &Fact) -> std::io::Result<()> {
        self.journal.append(fact)
    }

    fn digest_of(&mut self, file: &File, path: &str) -> Option<String> {
        self.digests.of(file, path)
    }

    fn finish(&mut self) {
        self.digests.finish();
    }
}

pub struct Sensor<R> {
    listener: OwnedFd,
    records: R,
    bell: Bell,
    watched: HashMap<i32, Watched>,
    epoll: OwnedFd,
}

impl<R: Records> Sensor<R> {
    pub fn new(listener: OwnedFd, records: R, bell: Bell) -> std::io::Result<Self> {
        // SAFETY: plain numbers; older kernels refuse the flag, which only costs speed.
        let epoll = unsafe {
            libc::ioctl(listener.as_raw_fd(), SET_FLAGS as _, SYNCHRONOUS_WAKE_UP);
            sys::owned(sys::check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?)
        };
        pidfd::watch(&epoll, listener.as_raw_fd(), libc::EPOLLIN as u32, LISTENER)?;
        Ok(Self { listener, records, bell, watched: HashMap::new(), epoll })
    }

    /// Runs until the last process that the filter holds is gone. If the journal fails the cell is not answered but
    /// killed: what is not recorded does not happen.
    pub fn run(mut self) {
        if let Err(failure) = self.follow() {
            self.bell.ring(Alarm::Failed(failure));
        }
    }

    fn follow(&mut self) -> Result<(), Failure> {
        loop {
            let ready = pidfd::wait(&self.epoll, -1);
            for (key, _) in ready.iter().filter(|(key, _)| *key != LISTENER) {
                self.note_exit(*key as i32)?;
            }
            match ready.iter().find(|(key, _)| *key == LISTENER) {
                Some((_, events)) if events & libc::EPOLLIN as u32 != 0 => self.answer_one()?,
                Some(_) => return self.last_exits(),
                None => {}
            }
        }
    }

    fn answer_one(&mut self) -> Result<(), Failure> {
        let mut notification = Notification::default();
        let listener = self.listener.as_raw_fd();
        // SAFETY: the kernel writes one seccomp_notif. It fails when the process died meanwhile: nothing to answer.
        if unsafe { libc::ioctl(listener, RECEIVE as _, &mut notification) } < 0 {
            return Ok(());
        }
        let asked = read_launch(&notification);
        // SAFETY: reads the id. After this check the pid that was read belonged to the waiting caller.
        let waits = unsafe { libc::ioctl(listener, ID_VALID as _, &notification.id) } == 0;
        let (error, flags) = match asked {
            Asked::Launch(launch) if waits => {
                self.note_launch(launch)?;
                (0, CONTINUE)
            }
            Asked::Refused(errno) => (-errno, 0),
            Asked::Launch(_) | Asked::Nobody => (-libc::EAGAIN, 0),
        };
        let answer = Answer { id: notification.id, value: 0, error, flags };
        // SAFETY: the kernel reads one seccomp_notif_resp; a caller that is gone needs no answer.
        unsafe { libc::ioctl(listener, SEND as _, &answer) };
        Ok(())
    }

    fn note_launch(&mut self, launch: Launch) -> Result<(), Failure> {
        let digest = launch.file.as_ref().and_then(|file| self.records.digest_of(file, &launch.path));
        let outer = launch.outer_pid;
        let fact = Fact::Launch {
            pid: launch.pid,
            ppid: launch.ppid,
            path: launch.path,
            digest,
            argv: redact(launch.argv),
            cwd: launch.cwd,
            truncated: launch.truncated,
        };
        self.append(&fact)?;
        self.watch(outer, launch.pid)
    }

    /// A process that execs twice is watched once; a number that came back belongs to a new process.
    fn watch(&mut self, outer: i32, pid: i32) -> Result<(), Failure> {
        if self.watched.get(&outer).is_some_and(Watched::is_running) {
            return Ok(());
        }
        self.note_exit(outer)?;
        let watched = match Watched::new(outer, pid) {
            // Killed while it waited: nothing ran, and nothing is left to watch.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                return self.append(&Fact::Exit { pid, code: None });
            }
            other => other,
        };
        let watched = watched.and_then(|watched| {
            pidfd::watch(&self.epoll, watched.fd(), libc::EPOLLIN as u32, outer as u64).map(|()| watched)
        });
        self.watched.insert(outer, watched.map_err(|error| Failure::new("watching a process", error))?);
        Ok(())
    }

    /// Exit codes are known once the process is reaped; until then its descriptor is asked to report only that.
    fn note_exit(&mut self, outer: i32) -> Result<(), Failure> {
        let Some(watched) = self.watched.get(&outer) else { return Ok(()) };
        if pidfd::tells_exit_codes() && !watched.is_reaped() {
            let _ = pidfd::rewatch(&self.epoll, watched.fd(), 0, outer as u64);
            return Ok(());
        }
        let fact = Fact::Exit { pid: watched.pid, code: watched.exit_code() };
        self.watched.remove(&outer);
        self.append(&fact)
    }

    /// The cell is gone: whatever is not reaped yet will be in a moment.
    fn last_exits(&mut self) -> Result<(), Failure> {
        for (key, _) in pidfd::wait(&self.epoll, 50).iter().filter(|(key, _)| *key != LISTENER) {
            self.note_exit(*key as i32)?;
        }
        let rest: Vec<Watched> = self.watched.drain().map(|(_, watched)| watched).collect();
        let patience = std::time::Instant::now();
        for watched in rest {
            while !watched.is_reaped() && patience.elapsed() < LAST_EXITS {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.append(&Fact::Exit { pid: watched.pid, code: watched.exit_code() })?;
        }
        self.records.finish();
        Ok(())
    }

    fn append(&mut self, fact: &Fact) -> Result<(), Failure> {
        self.records.append(fact).map_err(|error| Failure::new("recording a process", error))
    }
}

/// The listener's key in the epoll set; no pid has it.
const LISTENER: u64 = u64::MAX;
