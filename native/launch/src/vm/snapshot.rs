//! A warm snapshot: QEMU's own form of a machine that has booted and holds nothing of a session. Whoever starts from it
//! verified it (src/runtime/microvm-image/snapshot.ts). QEMU has a monitor for as long as it writes one, and runs no
//! command then.
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::failure::{Context, Failure, Result};
use crate::spec::Snapshot;
use crate::sys;
use crate::tpm::measure::identity;
use crate::vm::guest::words;
use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(10);
/// Of what QEMU says at once; it is bounded whoever has taken it over.
const LONGEST: u64 = 1 << 20;
const WHAT: &str = "taking the snapshot";
/// By which QEMU knows the file.
const NAME: &str = "snapshot";

/// Opened while the caller's own rights still stand.
pub fn open(snapshot: &Snapshot) -> Result<OwnedFd> {
    let mut options = OpenOptions::new();
    let (path, options) = match snapshot {
        Snapshot::Take { path } => (path, options.write(true).create_new(true).mode(0o600)),
        Snapshot::Resume { path, .. } => (path, options.read(true)),
    };
    let what = "opening the snapshot";
    let file = options.custom_flags(libc::O_NOFOLLOW).open(path).context(what)?;
    if let Snapshot::Resume { verified, .. } = snapshot
        && identity(&file.metadata().context(what)?) != verified.identity
    {
        return Err(Failure::new(what, "it has changed since it was verified"));
    }
    Ok(file.into())
}

/// What a snapshot is written with: QEMU's monitor, and the file.
pub struct Taking {
    monitor: OwnedFd,
    file: OwnedFd,
}

/// What QEMU gets, and what is done with it.
pub fn ends(world: &mut World) -> Result<(Option<OwnedFd>, Option<Taking>)> {
    let takes = matches!(
        world.spec.cell.machine().and_then(|machine| machine.snapshot.as_ref()),
        Some(Snapshot::Take { .. })
    );
    match world.machine.as_mut().and_then(|wires| wires.snapshot.take()) {
        Some(file) if takes => {
            let (monitor, theirs) = sys::socketpair(libc::SOCK_STREAM).context("making QEMU's monitor")?;
            Ok((Some(theirs), Some(Taking { monitor, file })))
        }
        file => Ok((file, None)),
    }
}

impl Taking {
    /// Has QEMU write its machine to `file`; the machine stands still afterwards.
    pub fn save(self) -> Result<()> {
        let Taking { monitor, file } = self;
        let mut monitor = Monitor::new(monitor)?;
        monitor.ask("qmp_capabilities", json!({}), None)?;
        monitor.ask("getfd", json!({ "fdname": NAME }), Some(&file))?;
        monitor.ask("migrate-set-parameters", json!({ "max-bandwidth": 1_u64 << 36 }), None)?;
        monitor.ask("migrate", json!({ "uri": format!("fd:{NAME}") }), None)?;
        let until = Instant::now() + PATIENCE;
        loop {
            let state = monitor.ask("query-migrate", json!({}), None)?;
            match state["status"].as_str() {
                Some("completed") => return File::from(file).sync_all().context(WHAT),
                Some("failed" | "cancelled") => {
                    return Err(refused(state["error-desc"].as_str().unwrap_or("QEMU gave up")));
                }
                _ if Instant::now() > until => return Err(refused("it takes too long")),
                _ => std::thread::sleep(PAUSE),
            }
        }
    }
}

/// QEMU's machine protocol (docs/interop/qmp-spec.txt): one JSON object a line.
struct Monitor {
    socket: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Monitor {
    fn new(socket: OwnedFd) -> Result<Self> {
        let socket = UnixStream::from(socket);
        socket.set_read_timeout(Some(PATIENCE)).context(WHAT)?;
        let lines = BufReader::new(socket.try_clone().context(WHAT)?);
        Ok(Self { socket, lines })
    }

    fn ask(&mut self, execute: &str, arguments: Value, fd: Option<&OwnedFd>) -> Result<Value> {
        let line = format!("{}\n", json!({ "execute": execute, "arguments": arguments }));
        match fd {
            Some(fd) => sys::send_with_fds(self.socket.as_fd(), line.as_bytes(), &[fd.as_raw_fd()]),
            None => self.socket.write_all(line.as_bytes()),
        }
        .context(WHAT)?;
        loop {
            let mut line = String::new();
            if (&mut self.lines).take(LONGEST).read_line(&mut line).context(WHAT)? == 0 {
                return Err(refused("QEMU ended"));
            }
            let mut said: Value = serde_json::from_str(&line).map_err(|error| Failure::new(WHAT, error))?;
            if let Some(error) = said.get("error") {
                return Err(refused(error["desc"].as_str().unwrap_or(execute)));
            }
            // Else a greeting or an event.
            if let Some(answer) = said.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }
}

fn refused(why: &str) -> Failure {
    Failure::new(WHAT, words(why))
}
