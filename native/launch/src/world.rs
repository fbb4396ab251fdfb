//! `ambit-launch world SPEC`: the outer world of one session, in the order of its life.
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use ambit_shared::journal::Journal;

use crate::alarm::{Alarms, Bell, alarms};
use crate::cgroup::{self, Group};
use crate::control::{Control, Event};
use crate::failure::{Context, Failure, Result};
use crate::net::GateSockets;
use crate::spec::LaunchSpec;
use crate::stage::{Stage, Tools};
use crate::tap::Tap;
use crate::tsc::Counting;
use crate::{fuse, namespaces, net, relay, rlimits, session, stage, sys, vm};

/// Of the protocol with `ambit run`.
const CONTROL: RawFd = 3;
const SOCKETS: RawFd = 4;

/// An outer world whose view mount and sockets stand; nothing runs in it yet.
pub struct World {
    pub spec: LaunchSpec,
    /// Or why there is none.
    pub group: std::result::Result<Group, String>,
    pub tools: Tools,
    pub stage: Stage,
    pub journal: Arc<Journal>,
    pub signals: OwnedFd,
    pub bell: Bell,
    pub alarms: Alarms,
    /// Where the agent's kernel is a machine's.
    pub machine: Option<Wires>,
    /// For such a kernel, which is told how fast the counter runs.
    pub counting: Option<Counting>,
}

/// What a machine is connected by.
pub struct Wires {
    pub tap: Tap,
    /// Its end of the view's stream.
    pub view: OwnedFd,
    /// What it is to be written to, or goes on from.
    pub snapshot: vm::snapshot::Prepared,
}

pub fn run(path: &Path) -> i32 {
    close_strays();
    relay::fill_missing_stdio();
    let control = match Control::inherited(CONTROL) {
        Ok(control) => control,
        Err(error) => {
            eprintln!("ambit-launch: no control channel on fd 3: {error}; it is started by `ambit run`");
            return 125;
        }
    };
    match open(path, &control).and_then(|world| session::run(world, &control)) {
        Ok(()) => 0,
        Err(failure) => {
            control.fail(&failure);
            125
        }
    }
}

fn open(path: &Path, control: &Control) -> Result<World> {
    die_with_parent()?;
    rlimits::raise_open_files().context("raising the limit of open files")?;
    // Whatever it starts inherits that: gVisor and QEMU, too, which a guest may bring to a crash.
    ambit_shared::lockdown::no_core().context("limiting core files")?;
    // Blocked from here on in every thread; children get fresh masks at exec.
    let signals = sys::signal_fd(&session::SIGNALS).context("taking signals")?;
    let spec = LaunchSpec::read(path)?;
    let counting = spec.cell.machine().and_then(|_| Counting::begin());
    let journal = Arc::new(Journal::open(&spec.journal).context("opening the launch journal")?);
    let group = cgroup::make(&spec);
    let tools = stage::open_tools(&spec, group.as_ref().ok())?;
    let snapshot = spec.cell.machine().and_then(|machine| machine.snapshot.as_ref());
    let snapshot = snapshot.map(vm::snapshot::open).transpose()?;
    let staged = if stage::is_privileged() { Some(leave_root(&spec)?) } else { None };
    leave_keyring();
    namespaces::enter(spec.host)?;
    let privileged = staged.is_some();
    let stage = staged.map_or_else(|| stage::as_user(&spec), Ok)?.seal(privileged)?;
    let (sockets, fuse, machine) = match spec.cell.machine() {
        None => (net::wire(spec.ports)?, mount_view(&stage, &spec)?, None),
        Some(machine) => {
            // A thread, which earlier would have kept the namespaces from being made.
            let snapshot = vm::snapshot::prepare(machine, snapshot)?;
            let (sockets, tap) = net::wire_machine(spec.ports)?;
            let (outside, view) = sys::socketpair(libc::SOCK_STREAM).context("making the view's stream")?;
            (sockets, outside, Some(Wires { tap, view, snapshot }))
        }
    };
    // Off only now: an undumpable process could not have written its own uid map.
    sys::prctl(libc::PR_SET_DUMPABLE, 0).context("making the launcher undumpable")?;
    hand_out(control, &sockets, &fuse)?;
    let (bell, alarms) = alarms()?;
    Ok(World { spec, group, tools, stage, journal, signals, bell, alarms, machine, counting })
}

fn mount_view(stage: &Stage, spec: &LaunchSpec) -> Result<OwnedFd> {
    fuse::mount(&stage.fuse_device(), &stage.fuse(), &spec.session)
}

/// Descriptors that the caller let through by mistake would otherwise travel up to the cell (C-36).
fn close_strays() {
    // SAFETY: this early nothing of ours is open above the protocol's descriptors.
    unsafe { libc::syscall(libc::SYS_close_range, SOCKETS + 1, libc::c_uint::MAX, 0) };
}

/// As root: sources are staged while they can be reached, then host uid 0 is gone from this process for good, and
/// with it from everything that it starts.
fn leave_root(spec: &LaunchSpec) -> Result<Stage> {
    let staged = stage::as_root(spec)?;
    stage::become_user(spec.host)?;
    die_with_parent()?; // The change of uid cleared it.
    Ok(staged)
}

/// End of file on fd 3 ends the session, too; this also covers a launcher that is stuck.
fn die_with_parent() -> Result<()> {
    // SAFETY: always succeeds.
    let parent = unsafe { libc::getppid() };
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as _).context("dying with the supervisor")?;
    // SAFETY: always succeeds.
    if unsafe { libc::getppid() } != parent {
        return Err(Failure::new("dying with the supervisor", "it is gone already"));
    }
    Ok(())
}

/// The caller's session keyring would otherwise be the agent's (C-24). Fails only where the kernel has no keys.
fn leave_keyring() {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name makes an anonymous keyring.
    unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
}

/// One message with all descriptors, then the event. Ours are closed on return: only the gate and the view hold them.
fn hand_out(control: &Control, sockets: &GateSockets, fuse: &OwnedFd) -> Result<()> {
    let channel = sys::owned(SOCKETS);
    let fds = [&sockets.tcp, &sockets.dns, &sockets.dns_tcp, &sockets.proxy, fuse].map(AsRawFd::as_raw_fd);
    let names = br#"{"fds":["tcp","dns","dns-tcp","proxy","fuse"]}"#;
    sys::send_with_fds(channel.as_fd(), names, &fds).context("handing out the sockets")?;
    control.emit(&Event::World);
    Ok(())
}
