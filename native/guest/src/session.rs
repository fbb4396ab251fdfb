//! The session: hello, start, ready, exec, and then obey, carry and watch until the command ends.
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use ambit_launch::alarm::{Alarm, Alarms, Bell, alarms};
use ambit_launch::cell::{Config, ToCell, USUAL_UMASK};
use ambit_launch::cell_end::{self, Cell, Stdio, Stood};
use ambit_launch::control::{ControlState, Ending, State};
use ambit_launch::failure::{Context, Failure, Result};
use ambit_launch::limits;
use ambit_launch::sensor::{Fact, Records, Sensor};
use ambit_launch::sys;
use ambit_launch::watchdog::Watchdog;

use crate::cell::Waiting;
use crate::channel::{Channel, Event};
use crate::spec::{Net, Order, Shape, Start, VERSION};
use crate::streams::Streams;
use crate::{cell, network, port, processors, seed, tpm, verity, view, warm};

/// How the command's part came to its end.
enum End {
    Command(Ending),
    OverLimit(&'static str),
}

pub fn run(_: ()) -> Result<()> {
    let channel = Channel::new(port::open("ambit.control")?)?;
    let ports = (port::open("ambit.io")?, port::open("ambit.view")?);
    live(&channel, ports).inspect_err(|failure| channel.fail(failure))
}

fn live(channel: &Channel, (streams, view): (File, File)) -> Result<()> {
    processors::keep_to_first().context("keeping to one processor")?;
    view::prepare()?;
    let waiting = cell::prepare()?;
    let (bell, alarms) = alarms()?;
    verity::watch(bell.clone())?;
    channel.tell(&Event::Hello { v: VERSION });
    let (start, warm) = await_start(channel)?;
    seed::clock(start.time)?;
    seed::random(&start.entropy)?;
    // A snapshot has them.
    let processors = warm.is_none().then(|| std::thread::spawn(processors::start));
    let registers = std::thread::spawn(tpm::registers); // it mostly waits for the TPM
    if warm != Some(start.net) {
        network::raise(start.net)?;
    }
    view::mount(view, start.inside, &bell)?;
    let Stood { mut cell, stdio, listener } = build(&start, waiting)?;
    let listener =
        listener.ok_or_else(|| Failure::new("building the cell", "it came without its exec sensor"))?;
    let records = Told { channel: channel.clone(), launches: 0 };
    let sensor = Sensor::new(listener, records, bell.clone()).context("starting the exec sensor")?;
    let sensor = std::thread::spawn(move || sensor.run());
    cell.controls.extend(controls(&start));
    if let Some(processors) = processors {
        processors.join().map_err(|_| Failure::new("starting the processors", "it broke off"))??;
    }
    let registers = registers.join().map_err(|_| Failure::new("reading the TPM", "it broke off"))?;
    channel.tell(&Event::Ready { controls: &cell.controls, registers });
    // While the host puts that on record.
    watch_limits(&start, &cell, &bell)?;
    for pid in [cell.init_pid, cell.main_pid, std::process::id().cast_signed()] {
        processors::allow_all(pid).context("giving the command its processors")?;
    }
    match channel.wait()? {
        Order::Exec => {}
        order => return Err(out_of_turn(&order)),
    }
    let terminal = master(&stdio, start.window)?;
    let streams = Streams::start(streams, stdio).context("starting the streams")?;
    cell.exec()?;
    channel.tell(&Event::Running { pid: cell.main_pid });
    let end = watch(channel, &alarms, &cell, terminal.as_ref());
    cell.kill();
    cell.bury(|| {});
    let _ = sensor.join();
    streams.drain();
    match (late(&alarms), end?) {
        (Some(failure), _) => return Err(failure),
        (None, End::Command(ending)) => channel.tell(&Event::Ended(ending.into())),
        (None, End::OverLimit(limit)) => channel.tell(&Event::OverLimit { limit }),
    }
    // The host switches the machine off when it has read everything.
    loop {
        std::thread::park();
    }
}

/// What to start; and of a machine that goes on from a snapshot, the network that it was given before.
fn await_start(channel: &Channel) -> Result<(Box<Start>, Option<Option<Net>>)> {
    let mut warm = None;
    loop {
        match channel.wait()? {
            Order::Warm { net } if warm.is_none() => {
                warm::up(net)?;
                warm = Some(net);
                channel.tell(&Event::Warm {});
            }
            Order::Start { spec } if spec.v == VERSION => return Ok((spec, warm)),
            order => return Err(out_of_turn(&order)),
        }
    }
}

fn out_of_turn(order: &Order) -> Failure {
    Failure::new("reading an order", format!("{order:.60?} came out of turn"))
}

fn build(start: &Start, waiting: Waiting) -> Result<Stood> {
    let shape = Shape {
        hostname: start.hostname.clone(),
        uid: start.inside.uid,
        gid: start.inside.gid,
        mounts: start.mounts.clone(),
        shared_memory: (start.limits.memory / 4).max(1 << 20),
    };
    let config = Config {
        argv: start.argv.clone(),
        env: start.env.clone(),
        cwd: start.cwd.clone(),
        terminal: start.terminal,
        tasks: limits::tasks(start.limits),
        open_files: start.limits.open_files,
        umask: USUAL_UMASK,
        pinned: limits::pinned(start.limits),
        runsc: None,
        writable: Config::writable(&start.mounts),
        handed: 0,
        interfaces: network::devices(start.net),
        outer: Config::namespaces(),
    };
    cell_end::stand(&config, |fds| waiting.start(&shape, fds), None)
}

fn watch_limits(start: &Start, cell: &Cell, bell: &Bell) -> Result<()> {
    let kind = ambit_launch::spec::Cell::Bubblewrap {};
    let watchdog = Watchdog::new(&start.mounts, start.limits, &kind, cell.init_pid, Vec::new())
        .context("starting the watchdog")?;
    let bell = bell.clone();
    std::thread::spawn(move || watchdog.run(&bell));
    Ok(())
}

/// The host adds what it enforces: time, the machine's memory and processors.
fn controls(start: &Start) -> Vec<ControlState> {
    let sensor = ControlState::new("exec-sensor", State::Fully, "every execve waits until it is recorded");
    limits::controls(start.limits, Err("no cgroup in the guest")).into_iter().chain([sensor]).collect()
}

fn master(stdio: &Stdio, window: Option<[u16; 2]>) -> Result<Option<File>> {
    let Stdio::Terminal(master) = stdio else { return Ok(None) };
    let master = File::from(master.try_clone().context("keeping the terminal")?);
    window.iter().for_each(|window| resize(&master, *window));
    Ok(Some(master))
}

fn resize(master: &File, [rows, columns]: [u16; 2]) {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: size is a valid winsize; a failure leaves the old one.
    unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &size) };
}

fn watch(channel: &Channel, alarms: &Alarms, cell: &Cell, terminal: Option<&File>) -> Result<End> {
    loop {
        let fds: [RawFd; 3] = [channel.fd(), cell.fd(), alarms.fd()];
        let ready = sys::poll(&fds, None).context("watching")?;
        if let Some(alarm) = alarms.next() {
            return match alarm {
                Alarm::OverLimit(limit) => Ok(End::OverLimit(limit)),
                Alarm::Ended(ending) => Ok(End::Command(ending)),
                Alarm::Failed(failure) => Err(failure),
            };
        }
        if ready[1] != 0 {
            let ending = cell.ending().unwrap_or(Ending::Signal(libc::SIGKILL));
            return Ok(End::Command(ending));
        }
        while let Some(order) = channel.next() {
            match order {
                Order::Signal { signal } => cell.order(&ToCell::Signal(signal)),
                Order::Freeze => cell.order(&ToCell::Freeze),
                Order::Thaw => cell.order(&ToCell::Thaw),
                Order::Time { time } => seed::clock(time)?,
                Order::Resize { window } => terminal.into_iter().for_each(|master| resize(master, window)),
                order => return Err(out_of_turn(&order)),
            }
        }
    }
}

/// A failure that came after the end, such as a launch that could not be told.
fn late(alarms: &Alarms) -> Option<Failure> {
    std::iter::from_fn(|| alarms.next()).find_map(|alarm| match alarm {
        Alarm::Failed(failure) => Some(failure),
        Alarm::OverLimit(_) | Alarm::Ended(_) => None,
    })
}

/// The sensor's facts go to the host. Digests are its own business: it has the files.
struct Told {
    channel: Channel,
    launches: u64,
}

impl Records for Told {
    fn append(&mut self, fact: &Fact) -> std::io::Result<()> {
        match fact {
            Fact::Launch { .. } => {
                self.launches += 1;
                self.channel.launch(self.launches, fact)
            }
            Fact::Exit { .. } | Fact::Hash { .. } => {
                self.channel.tell(&Event::Exit { fact });
                Ok(())
            }
        }
    }

    fn digest_of(&mut self, _: &File, _: &str) -> Option<String> {
        None
    }

    fn finish(&mut self) {}
}
