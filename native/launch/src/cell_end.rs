//! The outer launcher's end of the cell: builds it, waits until it stands, and holds what reaches into it.
use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process::Child;

use crate::bwrap;
use crate::cell::{Config, FromCell, FromCommand, ToCell, USUAL_UMASK};
use crate::control::{Control, ControlState, Ending, Orders};
use crate::failure::{Context, Failure, Result};
use crate::gvisor::report::GO;
use crate::gvisor::trace::Trace;
use crate::gvisor::{bundle, outside};
use crate::limits;
use crate::spec::{self, LaunchSpec};
use crate::sys;
use crate::world::World;

/// From SIGKILL on. With what `session::DRAIN` grants it is less than the supervisor's patience
/// (src/runtime/os-sandbox.ts).
const STUCK_MS: u64 = 1_000;

/// Our ends of the agent's stdin, stdout and stderr.
pub enum Stdio {
    Terminal(OwnedFd),
    Pipes { input: OwnedFd, output: OwnedFd, errors: OwnedFd },
}

/// A cell whose command waits for `exec`.
pub struct Cell {
    outer: Child,
    control: OwnedFd,
    /// Until it is said: a guest's standard input ends only when nobody holds it any more.
    waiting: RefCell<Option<Waiting>>,
    init: OwnedFd,
    pub init_pid: libc::pid_t,
    pub main_pid: libc::pid_t,
    pub controls: Vec<ControlState>,
}

/// Where the word to start goes.
enum Waiting {
    Command(OwnedFd),
    Guest(OwnedFd),
}

/// Where the record of what runs comes from.
pub enum Evidence {
    /// The exec sensor's listener.
    Calls(OwnedFd),
    Guest(Trace),
}

/// What comes with a new cell: taken apart by whoever runs the session.
pub struct Built {
    pub cell: Cell,
    pub stdio: Stdio,
    pub evidence: Evidence,
}

/// `orders` are heard meanwhile: a view that hangs must not make the session deaf.
pub fn build(world: &World, supervisor: &Control, orders: &mut Orders) -> Result<Built> {
    let World { spec, stage, tools, .. } = world;
    let trace = match spec.cell {
        spec::Cell::Bubblewrap {} | spec::Cell::Vm(_) => None,
        spec::Cell::Gvisor { .. } => {
            Some(Trace::listen(&stage.trace(), world.journal.clone(), world.bell.clone())?)
        }
    };
    let start = |fds: &[RawFd]| bwrap::start(spec, stage, tools, fds);
    let Stood { mut cell, stdio, listener } = stand(&config(spec), start, Some((supervisor, &mut *orders)))?;
    let evidence = match trace {
        None => Evidence::Calls(listener.ok_or_else(incomplete)?),
        Some(trace) => {
            cell.waiting.replace(Some(Waiting::Guest(stdio.input().context("building the cell")?)));
            match outside::stand(&cell, &stdio, &trace, supervisor, orders) {
                Ok(controls) => cell.controls = controls,
                Err(failure) => {
                    cell.kill();
                    cell.bury(|| crate::fuse::abort(&stage.fuse()));
                    return Err(failure);
                }
            }
            Evidence::Guest(trace)
        }
    };
    Ok(Built { cell, stdio, evidence })
}

/// A cell whose PID 1 and command are there, and the exec sensor's listener where there is one.
pub struct Stood {
    pub cell: Cell,
    pub stdio: Stdio,
    pub listener: Option<OwnedFd>,
}

/// A cell that is being made. Who drops it must end: the cell dies with its parent.
pub struct Begun {
    outer: Child,
    control: OwnedFd,
    command: OwnedFd,
    pipes: Option<Stdio>,
    /// Its command has the exec sensor.
    listens: bool,
}

/// A cell, from its first process until its command waits. The supervisor's orders are heard meanwhile.
pub fn stand(
    config: &Config,
    start: impl FnOnce(&[RawFd]) -> Result<Child>,
    supervisor: Option<(&Control, &mut Orders)>,
) -> Result<Stood> {
    begin(config, start)?.finish(supervisor)
}

/// `start` makes the process that becomes PID 1 of a cell (`cell::run`), with these descriptors.
pub fn begin(config: &Config, start: impl FnOnce(&[RawFd]) -> Result<Child>) -> Result<Begun> {
    let what = "building the cell";
    let (control, control_inside) = sys::socketpair(libc::SOCK_SEQPACKET).context(what)?;
    let (command, command_inside) = sys::socketpair(libc::SOCK_SEQPACKET).context(what)?;
    pass_credentials(&command).context(what)?;
    let text = serde_json::to_vec(config).map_err(|e| Failure::new(what, e))?;
    let mut inside = vec![control_inside, command_inside, sys::memfd(c"ambit-cell", &text).context(what)?];
    let pipes = if config.terminal { None } else { Some(pipes(&mut inside).context(what)?) };
    let numbers: Vec<_> = inside.iter().map(AsRawFd::as_raw_fd).collect();
    let outer = start(&numbers)?;
    Ok(Begun { outer, control, command, pipes, listens: config.runsc.is_none() })
}

impl Begun {
    pub fn finish(mut self, supervisor: Option<(&Control, &mut Orders)>) -> Result<Stood> {
        let what = "building the cell";
        let (news, mut fds, main_pid) = first_news(&self.command, &mut self.outer, supervisor)?;
        let controls = match news {
            FromCommand::Failed { what, why } => return Err(Failure::new(&what, why)),
            FromCommand::Ready(controls) => controls,
        };
        let listener = if self.listens && !fds.is_empty() { Some(fds.remove(0)) } else { None };
        let stdio = match self.pipes {
            Some(pipes) => pipes,
            None => Stdio::Terminal(fds.pop().ok_or_else(incomplete)?),
        };
        let init_pid = parent_of(main_pid).ok_or_else(|| Failure::new(what, "PID 1 is gone"))?;
        let init = sys::pidfd_open(init_pid).context(what)?;
        let waiting = RefCell::new(Some(Waiting::Command(self.command)));
        let (outer, control) = (self.outer, self.control);
        Ok(Stood {
            cell: Cell { outer, control, waiting, init, init_pid, main_pid, controls },
            stdio,
            listener,
        })
    }
}

fn incomplete() -> Failure {
    Failure::new("building the cell", "the cell's report came without its descriptors")
}

impl Stdio {
    /// A further descriptor of what the agent reads from.
    fn input(&self) -> std::io::Result<OwnedFd> {
        match self {
            Stdio::Terminal(master) => master.try_clone(),
            Stdio::Pipes { input, .. } => input.try_clone(),
        }
    }
}

fn config(spec: &LaunchSpec) -> Config {
    Config {
        argv: spec.argv.clone(),
        env: spec.env.clone(),
        cwd: spec.cwd.clone(),
        terminal: spec.terminal,
        tasks: limits::tasks(spec.limits),
        open_files: spec.limits.open_files,
        umask: USUAL_UMASK,
        pinned: limits::pinned(spec.limits),
        runsc: match &spec.cell {
            spec::Cell::Bubblewrap {} | spec::Cell::Vm(_) => None,
            spec::Cell::Gvisor { platform, directfs, .. } => {
                Some(bundle::command(platform.as_deref(), *directfs))
            }
        },
        writable: Config::writable(&spec.mounts),
        handed: 0,
        interfaces: vec!["lo".into()],
        outer: Config::namespaces(),
    }
}

/// Three pipes of our own: the user's descriptors never enter, where /proc/self/fd/N would reopen them.
fn pipes(inside: &mut Vec<OwnedFd>) -> std::io::Result<Stdio> {
    let (stdin, input) = sys::pipe()?;
    let (output, stdout) = sys::pipe()?;
    let (errors, stderr) = sys::pipe()?;
    inside.extend([stdin, stdout, stderr]);
    Ok(Stdio::Pipes { input, output, errors })
}

fn pass_credentials(socket: &OwnedFd) -> std::io::Result<()> {
    let on: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: on is a valid int of that length.
    sys::check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PASSCRED,
            (&raw const on).cast(),
            length,
        )
    })?;
    Ok(())
}

/// The command's process reports, or whoever makes the cell dies and says why on its stderr.
fn first_news(
    command: &OwnedFd,
    outer: &mut Child,
    supervisor: Option<(&Control, &mut Orders)>,
) -> Result<(FromCommand, Vec<OwnedFd>, libc::pid_t)> {
    let what = "building the cell";
    if let Some((control, orders)) = supervisor {
        orders.until_readable(command.as_raw_fd(), control, what)?;
    }
    let message = sys::receive(command.as_fd()).context(what)?;
    if message.bytes.is_empty() {
        let mut said = String::new();
        if let Some(stderr) = outer.stderr.take() {
            let _ = stderr.take(4096).read_to_string(&mut said);
        }
        let why = if said.trim().is_empty() { "the cell ended before it reported" } else { said.trim() };
        return Err(Failure::new(what, why));
    }
    let news = serde_json::from_slice(&message.bytes).map_err(|error| Failure::new(what, error))?;
    let sender = message.sender.ok_or_else(|| Failure::new(what, "nobody signed the cell's report"))?;
    Ok((news, message.fds, sender))
}

fn parent_of(pid: libc::pid_t) -> Option<libc::pid_t> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

impl Cell {
    pub fn exec(&self) -> Result<()> {
        let what = "starting the command";
        match self.waiting.take() {
            Some(Waiting::Command(channel)) => {
                sys::send_with_fds(channel.as_fd(), b"exec", &[]).context(what)
            }
            Some(Waiting::Guest(input)) => File::from(input).write_all(GO).context(what),
            None => Err(Failure::new(what, "it was started before")),
        }
    }

    pub fn order(&self, order: &ToCell) {
        let bytes = serde_json::to_vec(order).unwrap_or_default();
        let _ = sys::send_with_fds(self.control.as_fd(), &bytes, &[]);
    }

    /// Readable when PID 1 has news or is gone.
    pub fn fd(&self) -> libc::c_int {
        self.control.as_raw_fd()
    }

    /// How the command ended; `None` when PID 1 was killed.
    pub fn ending(&self) -> Option<Ending> {
        let message = sys::receive(self.control.as_fd()).ok()?;
        serde_json::from_slice(&message.bytes).ok().map(|FromCell::Ended(ending)| ending)
    }

    /// Kills PID 1: the kernel kills everything in its pid namespace before it lets go of it.
    pub fn kill(&self) {
        let _ = sys::pidfd_kill(self.init.as_fd(), libc::SIGKILL);
    }

    /// Waits until all that was killed is dead. `release` is called when something does not die: it waits in the kernel
    /// for a view that is no more.
    pub fn fall(&self, release: impl FnOnce()) {
        if sys::poll(&[self.init.as_raw_fd()], Some(STUCK_MS)).is_ok_and(|ready| ready[0] == 0) {
            release();
        }
    }

    /// Waits until nothing of the cell is left.
    pub fn bury(&mut self, release: impl FnOnce()) {
        self.fall(release);
        let _ = self.outer.wait();
    }
}
