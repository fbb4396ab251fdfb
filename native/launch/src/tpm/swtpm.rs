//! `swtpm` in a cell of its own: no file but its libraries and a small memory of its own, and one socket. An escape from
//! the guest into QEMU's cell does not reach it, nor the key in it.
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::bwrap;
use crate::cell::{Config, PRIVATE_UMASK};
use crate::cell_end::{self, Begun, Cell, Stood};
use crate::control::{Control, Orders};
use crate::failure::{Context, Failure, Result};
use crate::sensor::Sensor;
use crate::spec::{self, LaunchSpec, Machine, Mount};
use crate::sys;
use crate::tap;
use crate::tpm::wire::Tpm;
use crate::vm::machine::{self, OneProgram};
use crate::world::World;

const WHAT: &str = "starting the TPM";
const PROGRAM: &str = "/usr/bin/swtpm";
/// Its state. It goes with the cell.
const STATE: &str = "/state";
const STATE_BYTES: u64 = 4 << 20;
const THREADS: u64 = 16;
/// Of its end of the socket.
const SOCKET: usize = 3;

/// A TPM that has been started, and powered on.
pub struct Swtpm {
    pub tpm: Arc<Tpm>,
    cell: Cell,
    sensor: JoinHandle<()>,
}

impl Swtpm {
    /// Where it stands as staged, for the stage.
    pub fn mount(machine: &Machine) -> Mount {
        machine::bind(&machine.measured.swtpm, Path::new(PLACE))
    }

    pub fn begin(world: &World) -> Result<Starting> {
        let (socket, theirs) = sys::socketpair(libc::SOCK_STREAM).context(WHAT)?;
        Ok(Starting { cell: build(world, &theirs)?, socket })
    }

    pub fn end(mut self) {
        self.cell.kill();
        self.cell.bury(|| {});
        let _ = self.sensor.join();
    }
}

/// One whose cell is being made.
pub struct Starting {
    cell: Begun,
    socket: OwnedFd,
}

impl Starting {
    pub fn finish(self, world: &World, control: &Control, orders: &mut Orders) -> Result<Swtpm> {
        let what = WHAT;
        let Stood { cell, listener, .. } = self.cell.finish(Some((control, orders)))?;
        let listener = listener.ok_or_else(|| Failure::new(what, "it came without its sensor"))?;
        let sensor = Sensor::new(listener, OneProgram::of("the TPM"), world.bell.clone()).context(what)?;
        let sensor = std::thread::spawn(move || sensor.run());
        cell.exec()?;
        let tpm = Arc::new(Tpm::new(UnixStream::from(self.socket)).context(what)?);
        Ok(Swtpm { tpm, cell, sensor })
    }
}

/// Where `swtpm` waits on the stage; no mount of a session may lie there.
const PLACE: &str = "/.ambit/machine/swtpm";

fn build(world: &World, socket: &OwnedFd) -> Result<Begun> {
    let staged = world.stage.mounts.iter().find(|mount| mount.target() == Path::new(PLACE));
    let program = staged.ok_or_else(|| Failure::new(WHAT, "it was not staged"))?;
    let state = Mount::Tmpfs { target: STATE.into(), size: STATE_BYTES, mode: 0o700 };
    let mounts: Vec<Mount> = machine::libraries().chain([program.at(PROGRAM.into()), state]).collect();
    let config = Config {
        argv: command(),
        env: BTreeMap::new(),
        cwd: "/".into(),
        terminal: false,
        tasks: THREADS,
        open_files: 64,
        umask: PRIVATE_UMASK,
        pinned: crate::limits::pinned(world.spec.limits),
        runsc: None,
        writable: Config::writable(&mounts),
        handed: 1,
        interfaces: vec!["lo".into(), tap::NAME.into()],
        outer: Config::namespaces(),
    };
    let stage = world.stage.with(mounts);
    // What QEMU's cell has beside its files, such as /dev/kvm, is not for this one.
    let spec = LaunchSpec { cell: spec::Cell::Bubblewrap {}, ..world.spec.clone() };
    let start =
        |fds: &[i32]| bwrap::start(&spec, &stage, &world.tools, &[fds, &[socket.as_raw_fd()]].concat());
    cell_end::begin(&config, start)
}

/// No control channel: it begins, powered on and started up, with an empty state, and ends with its socket.
fn command() -> Vec<String> {
    let state = format!("dir={STATE},mode=0600");
    let socket = SOCKET.to_string();
    let words = [PROGRAM, "socket", "--tpm2", "--tpmstate", &state, "--fd", &socket, "--terminate"];
    let flags = ["--flags", "not-need-init,startup-clear", "--log", "file=-"];
    words.into_iter().chain(flags).map(String::from).collect()
}
