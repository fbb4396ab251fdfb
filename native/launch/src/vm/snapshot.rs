//! A warm snapshot: QEMU's own form of a machine that has booted and holds nothing of a session, and its memory. Whoever
//! starts from it verified it (src/runtime/microvm-image/snapshot.ts). QEMU has a monitor, whose other end is here and
//! nowhere else: for as long as it writes a snapshot, and runs no command; and until it has been told to read one.
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::alarm::{Alarm, Bell};
use crate::failure::{Context, Failure, Result};
use crate::spec::{Machine, Snapshot};
use crate::sys;
use crate::tpm::measure::identity;
use crate::vm::guest::words;
use crate::vm::memory::{self, Filling};

const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(10);
const WHAT: &str = "asking QEMU's monitor";
/// Of what QEMU says at once; it is bounded whoever has taken it over.
const LONGEST: u64 = 1 << 20;
/// The memory is not in QEMU's stream, but a file of its own that it has mapped.
const APART: &str = "x-ignore-shared";
/// By which QEMU knows the file.
const NAME: &str = "snapshot";
/// Its number in QEMU that goes on from it (src/vm/machine.rs).
const STREAM: u32 = 10;

/// Opened while the caller's own rights still stand.
pub fn open(snapshot: &Snapshot) -> Result<OwnedFd> {
    let mut options = OpenOptions::new();
    let (path, options) = match snapshot {
        Snapshot::Take { path } => (path, options.write(true).create_new(true).mode(0o600)),
        Snapshot::Resume { path, .. } => (path, options.read(true)),
    };
    let what = "opening the snapshot";
    let file = options.custom_flags(libc::O_NOFOLLOW).open(path).context(what)?;
    if let Snapshot::Resume { verified, .. } = snapshot {
        unchanged(&file, &verified.identity)?;
    }
    Ok(file.into())
}

fn unchanged(file: &File, verified: &str) -> Result<()> {
    let what = "reading the snapshot";
    if identity(&file.metadata().context(what)?) == verified {
        return Ok(());
    }
    Err(Failure::new(what, "it has changed since it was verified"))
}

/// What is done with the snapshot of a session's machine.
pub enum Warm {
    Take(Taking),
    Resume(Resuming),
}

pub struct Taking {
    monitor: OwnedFd,
    memory: OwnedFd,
    file: OwnedFd,
}

pub struct Resuming {
    monitor: OwnedFd,
    filling: Filling,
    file: File,
    identity: String,
}

/// What QEMU gets, and what is done here.
pub type Prepared = (Vec<OwnedFd>, Option<Warm>);

/// Memory begins to be filled, if there is any to fill it with.
pub fn prepare(machine: &Machine, file: Option<OwnedFd>) -> Result<Prepared> {
    let Some(file) = file else { return Ok((Vec::new(), None)) };
    let (monitor, theirs) = sys::socketpair(libc::SOCK_STREAM).context("making QEMU's monitor")?;
    let size = machine.memory;
    let memory = memory::empty(size)?;
    let mapped = memory.try_clone().context("making the machine's memory")?;
    let Some(Snapshot::Resume { verified, .. }) = &machine.snapshot else {
        return Ok((vec![theirs, mapped], Some(Warm::Take(Taking { monitor, memory, file }))));
    };
    let own = || file.try_clone().map(File::from).context("opening the snapshot");
    let filling = Filling::begin(own()?, &memory, size)?;
    let resuming = Resuming { monitor, filling, file: own()?, identity: verified.identity.clone() };
    Ok((vec![theirs, mapped, file], Some(Warm::Resume(resuming))))
}

impl Taking {
    /// Has QEMU write its machine; it stands still afterwards.
    pub fn save(self) -> Result<()> {
        let mut monitor = Monitor::new(self.monitor)?;
        monitor.ask("getfd", json!({ "fdname": NAME }), Some(&self.file))?;
        monitor.ask("migrate-set-parameters", json!({ "max-bandwidth": 1_u64 << 36 }), None)?;
        monitor.ask("migrate", json!({ "uri": format!("fd:{NAME}") }), None)?;
        let until = Instant::now() + PATIENCE;
        loop {
            let state = monitor.ask("query-migrate", json!({}), None)?;
            match state["status"].as_str() {
                Some("completed") => break,
                Some("failed" | "cancelled") => {
                    return Err(refused(state["error-desc"].as_str().unwrap_or("QEMU gave up")));
                }
                _ if Instant::now() > until => return Err(refused("it takes too long")),
                _ => std::thread::sleep(PAUSE),
            }
        }
        let mut file = File::from(self.file);
        let saved = memory::save(&self.memory, &mut file).and_then(|()| file.sync_all());
        saved.context("writing the machine's memory")
    }
}

impl Resuming {
    /// Has QEMU read it once its memory is there, and lets go of the monitor. A failure is an alarm.
    pub fn begin(self, bell: &Bell) {
        let bell = bell.clone();
        std::thread::spawn(move || match self.tell() {
            Ok(()) | Err(Silence::Gone(_)) => {} // whoever listens to the machine says what became of it
            Err(Silence::Refused(failure)) => {
                bell.ring(Alarm::Failed(failure.remedy("make the snapshot anew: ambit image warm")));
            }
        });
    }

    fn tell(self) -> std::result::Result<(), Silence> {
        self.filling.finish()?;
        unchanged(&self.file, &self.identity)?;
        let mut monitor = Monitor::new(self.monitor)?;
        monitor.ask("migrate-incoming", json!({ "uri": format!("fd:{STREAM}") }), None).map(drop)
    }
}

/// Why QEMU gave no answer.
enum Silence {
    /// It ended, or takes too long.
    Gone(Failure),
    Refused(Failure),
}

impl From<Failure> for Silence {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

impl From<Silence> for Failure {
    fn from(silence: Silence) -> Self {
        let (Silence::Gone(failure) | Silence::Refused(failure)) = silence;
        failure
    }
}

/// QEMU's machine protocol (docs/interop/qmp-spec.txt): one JSON object a line.
struct Monitor {
    socket: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Monitor {
    fn new(socket: OwnedFd) -> std::result::Result<Self, Silence> {
        let socket = UnixStream::from(socket);
        socket.set_read_timeout(Some(PATIENCE)).context(WHAT)?;
        let lines = BufReader::new(socket.try_clone().context(WHAT)?);
        let mut monitor = Self { socket, lines };
        monitor.ask("qmp_capabilities", json!({}), None)?;
        let apart = json!([{ "capability": APART, "state": true }]);
        monitor.ask("migrate-set-capabilities", json!({ "capabilities": apart }), None)?;
        Ok(monitor)
    }

    fn ask(
        &mut self,
        execute: &str,
        arguments: Value,
        fd: Option<&OwnedFd>,
    ) -> std::result::Result<Value, Silence> {
        let gone = |error: io::Error| Silence::Gone(Failure::new(WHAT, error));
        let line = format!("{}\n", json!({ "execute": execute, "arguments": arguments }));
        match fd {
            Some(fd) => sys::send_with_fds(self.socket.as_fd(), line.as_bytes(), &[fd.as_raw_fd()]),
            None => self.socket.write_all(line.as_bytes()),
        }
        .map_err(gone)?;
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let mut line = String::new();
            if (&mut self.lines).take(LONGEST).read_line(&mut line).map_err(gone)? == 0 {
                return Err(Silence::Gone(refused("QEMU ended")));
            }
            let mut said: Value = serde_json::from_str(&line).map_err(|error| Failure::new(WHAT, error))?;
            if let Some(error) = said.get("error") {
                return Err(refused(error["desc"].as_str().unwrap_or(execute)).into());
            }
            // Else a greeting or an event.
            if let Some(answer) = said.get_mut("return") {
                return Ok(answer.take());
            }
        }
        Err(Silence::Gone(refused("it takes too long")))
    }
}

fn refused(why: &str) -> Failure {
    Failure::new(WHAT, words(why))
}
