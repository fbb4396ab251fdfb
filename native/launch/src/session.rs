//! The session's life in the outer launcher: build when told, exec when told, then obey, relay and watch until the
//! command, the clock, an order or a fault ends it. Whatever the end, nothing inside survives it.
use std::os::fd::{AsFd, AsRawFd};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::alarm::Alarm;
use crate::cell::ToCell;
use crate::cell_end::{self, Built, Cell, Evidence, Stdio};
use crate::cgroup::Group;
use crate::control::{Control, ControlState, Ending, Event, Order, Orders, State};
use crate::disk::{Baseline, Disk};
use crate::failure::{Context, Failure, Result};
use crate::fuse;
use crate::gvisor::trace::Trace;
use crate::limits;
use crate::pty::{self, RawTerminal};
use crate::relay::Relay;
use crate::sensor::{Journaled, Sensor};
use crate::sys;
use crate::vm;
use crate::watchdog::Watchdog;
use crate::world::World;

/// Taken by the main loop instead of their default actions.
pub const SIGNALS: [libc::c_int; 5] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGWINCH];
/// How long output may still be passed on after an end that nobody asked the agent about.
pub const DRAIN: Duration = Duration::from_secs(2);

/// Why the session ended.
pub enum End {
    Command(Ending),
    Timeout,
    OverLimit(&'static str),
    Killed,
}

pub fn run(world: World, control: &Control) -> Result<()> {
    let mut orders = Orders::default();
    let homes = Baseline::begin(&world.stage.mounts, world.spec.limits.disk).context("measuring the home")?;
    if !wait_for(Order::Build, &world, control, &mut orders)? {
        return Ok(());
    }
    if world.machine.is_some() {
        return vm::session::run(world, control, orders);
    }
    let Built { mut cell, stdio, evidence } = cell_end::build(&world, control, &mut orders)?;
    let evidence = Recording::start(evidence, &world)?;
    cell.controls.extend(limits::controls(world.spec.limits, world.group.as_ref().map_err(String::as_str)));
    cell.controls.push(evidence.control());
    let ended = match ready(&world, control, &mut orders, &cell, homes) {
        Ok(true) => live(&world, control, &mut orders, &cell, stdio, &evidence),
        Ok(false) => Ok(End::Killed),
        Err(failure) => Err(failure),
    };
    cell.kill();
    cell.bury(|| fuse::abort(&world.stage.fuse()));
    evidence.finish();
    announce(control, &world, ended)
}

/// Up to the word to start the command. False when it was called off.
fn ready(
    world: &World,
    control: &Control,
    orders: &mut Orders,
    cell: &Cell,
    homes: Baseline,
) -> Result<bool> {
    let homes = homes.finish(control, orders)?;
    control.emit(&Event::Ready { controls: &cell.controls });
    // While the supervisor puts that on record. Without it the session fails, and nothing has run.
    watch_limits(world, cell, homes)?;
    wait_for(Order::Exec, world, control, orders)
}

fn watch_limits(world: &World, cell: &Cell, homes: Vec<Disk>) -> Result<()> {
    let World { spec, .. } = world;
    let watchdog = Watchdog::new(&spec.mounts, spec.limits, &spec.cell, cell.init_pid, homes)
        .context("starting the watchdog")?;
    let bell = world.bell.clone();
    std::thread::spawn(move || watchdog.run(&bell));
    Ok(())
}

/// The thread that records what runs.
enum Recording {
    Calls(JoinHandle<()>),
    Guest(Trace),
}

impl Recording {
    fn start(evidence: Evidence, world: &World) -> Result<Self> {
        match evidence {
            Evidence::Guest(trace) => Ok(Self::Guest(trace)),
            Evidence::Calls(listener) => {
                let view = fuse::device(&world.stage.fuse()).context("finding the view's device")?;
                let records = Journaled::new(world.journal.clone(), world.bell.clone(), view);
                let sensor =
                    Sensor::new(listener, records, world.bell.clone()).context("starting the exec sensor")?;
                Ok(Self::Calls(std::thread::spawn(move || sensor.run())))
            }
        }
    }

    fn control(&self) -> ControlState {
        let (state, detail) = match self {
            Self::Calls(_) => (State::Fully, "every execve waits until it is recorded"),
            Self::Guest(_) => (
                State::Partly,
                "gVisor tells of every execve before it happens, and does not wait until it is recorded",
            ),
        };
        ControlState::new("exec-sensor", state, detail)
    }

    /// How the command ended, given what the cell says. Of a guest the trace tells, which knows a signal from a code
    /// like it; without the command's end in it, the guest itself broke.
    fn ending(&self, seen: Ending) -> Result<End> {
        match (self, seen) {
            (Self::Calls(_), seen) => Ok(End::Command(seen)),
            (Self::Guest(_), Ending::Signal(_)) => Ok(End::Killed),
            (Self::Guest(trace), Ending::Code(code)) => trace.ending().map(End::Command).ok_or_else(|| {
                Failure::new("gVisor", format!("it ended with status {code} before the command did"))
            }),
        }
    }

    fn finish(self) {
        match self {
            Self::Calls(thread) => drop(thread.join()),
            Self::Guest(trace) => trace.finish(),
        }
    }
}

/// False when the order was to kill, or the supervisor is gone.
pub fn wait_for(wanted: Order, world: &World, control: &Control, orders: &mut Orders) -> Result<bool> {
    loop {
        match orders.take()? {
            Some(order) if order == wanted => return Ok(true),
            Some(Order::Kill | Order::Signal { .. }) => return Ok(false),
            Some(order) => {
                return Err(Failure::new("waiting for an order", format!("{order:?} came out of turn")));
            }
            None => {}
        }
        let fds = [control.as_fd().as_raw_fd(), world.signals.as_raw_fd()];
        let ready = sys::poll(&fds, None).context("waiting")?;
        while let Some(signal) = sys::next_signal(world.signals.as_fd()) {
            if signal != libc::SIGWINCH {
                return Ok(false);
            }
        }
        if ready[0] != 0 {
            orders.read(control.as_fd())?;
        }
    }
}

/// From `exec` to the end.
fn live(
    world: &World,
    control: &Control,
    orders: &mut Orders,
    cell: &Cell,
    stdio: Stdio,
    evidence: &Recording,
) -> Result<End> {
    let terminal = match &stdio {
        Stdio::Terminal(master) => Some(master.try_clone().context("keeping the terminal")?),
        Stdio::Pipes { .. } => None,
    };
    let _raw = terminal.as_ref().map(|_| RawTerminal::enter(0)).transpose().context("taking the terminal")?;
    let resize = || terminal.iter().for_each(|master| pty::copy_size(0, master.as_raw_fd()));
    resize();
    // Before the relay: nothing of the user's may come first where the word goes by the same descriptor.
    cell.exec()?;
    let relay = Relay::start(stdio).context("starting the relay")?;
    control.emit(&Event::Running { pid: cell.main_pid });
    let deadline = Instant::now() + Duration::from_millis(world.spec.limits.wallclock);
    let end = watch(world, control, orders, cell, evidence, deadline, &resize);
    cell.kill();
    // Before the streams: what hangs holds them, too.
    cell.fall(|| fuse::abort(&world.stage.fuse()));
    // What a command wrote before it ended is its user's, however slowly it is read; else only for a moment.
    let patience = if matches!(end, Ok(End::Command(_))) { None } else { Some(Instant::now() + DRAIN) };
    drain(&relay, control, orders, patience);
    end
}

fn watch(
    world: &World,
    control: &Control,
    orders: &mut Orders,
    cell: &Cell,
    evidence: &Recording,
    deadline: Instant,
    resize: &dyn Fn(),
) -> Result<End> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(End::Timeout);
        }
        let fds = [control.as_fd().as_raw_fd(), world.signals.as_raw_fd(), cell.fd(), world.alarms.fd()];
        let ready = sys::poll(&fds, Some(left.as_millis() as u64 + 1)).context("watching")?;
        if let Some(alarm) = world.alarms.next() {
            return match alarm {
                Alarm::OverLimit(limit) => Ok(End::OverLimit(limit)),
                Alarm::Ended(ending) => Ok(End::Command(ending)),
                Alarm::Failed(failure) => Err(failure),
            };
        }
        while let Some(signal) = sys::next_signal(world.signals.as_fd()) {
            if signal == libc::SIGWINCH { resize() } else { cell.order(&ToCell::Signal(signal)) }
        }
        if ready[2] != 0 {
            return cell.ending().map_or(Ok(End::Killed), |seen| evidence.ending(seen));
        }
        if ready[0] != 0 {
            orders.read(control.as_fd())?;
        }
        while let Some(order) = orders.take()? {
            match order {
                Order::Kill => return Ok(End::Killed),
                Order::Freeze => cell.order(&ToCell::Freeze),
                Order::Thaw => cell.order(&ToCell::Thaw),
                Order::Signal { signal } => cell.order(&ToCell::Signal(signal)),
                Order::Build | Order::Exec | Order::Quote { .. } => {
                    return Err(Failure::new("reading an order", "out of turn"));
                }
            }
        }
    }
}

/// Waits until all output is passed on, the patience ends, or the supervisor says kill or is gone.
pub fn drain(relay: &Relay, control: &Control, orders: &mut Orders, patience: Option<Instant>) {
    let fds = [relay.drained(), control.as_fd().as_raw_fd()];
    loop {
        let left = patience.map(|until| until.saturating_duration_since(Instant::now()).as_millis() as u64);
        let Ok(ready) = sys::poll(&fds, left) else { return };
        let called_off = ready[1] != 0 && (orders.read(control.as_fd()).is_err() || orders.kills());
        if ready[0] != 0 || called_off || left == Some(0) {
            return;
        }
    }
}

pub fn announce(control: &Control, world: &World, ended: Result<End>) -> Result<()> {
    // A journal that failed on the very last fact is a failure of the session, too.
    let late = std::iter::from_fn(|| world.alarms.next()).find_map(|alarm| match alarm {
        Alarm::Failed(failure) => Some(failure),
        Alarm::OverLimit(_) | Alarm::Ended(_) => None,
    });
    let over = world.group.as_ref().ok().and_then(Group::exceeded).map(End::OverLimit);
    world.group.iter().for_each(Group::end);
    let event = match (late, over.map_or(ended, Ok)?) {
        (Some(failure), _) => return Err(failure),
        (None, End::Command(ending)) => Event::Exit(ending.into()),
        (None, End::Timeout) => Event::Timeout,
        (None, End::OverLimit(limit)) => Event::OverLimit { limit },
        (None, End::Killed) => Event::Exit(Ending::Signal(libc::SIGKILL).into()),
    };
    control.emit(&event);
    Ok(())
}
