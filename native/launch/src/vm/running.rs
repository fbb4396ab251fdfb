//! A session's machine from its first word on: start the command when told, then obey, carry, record and watch until the
//! command, the clock, an order or a fault ends it.
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::alarm::Alarm;
use crate::cell::ToCell;
use crate::cell_end::Cell;
use crate::control::{Control, ControlState, Ending, Event, Order, Orders, State};
use crate::failure::{Context, Failure, Result};
use crate::pty::{self, RawTerminal};
use crate::relay::Relay;
use crate::sensor::Fact;
use crate::session::{DRAIN, End, drain, wait_for};
use crate::spec::{Accelerator, Machine, Snapshot};
use crate::sys;
use crate::tpm::measure::Measurement;
use crate::vm::facts::as_recorded;
use crate::vm::guest::{self, Guest, News, words};
use crate::vm::loaded::Loaded;
use crate::vm::snapshot::Taking;
use crate::vm::{machine, start, streams};
use crate::watchdog::Watchdog;
use crate::world::World;

/// From QEMU's start until the guest has looked at every control. Without KVM some two seconds on a machine at rest, and
/// many times that beside others that keep every processor.
const BOOT: Duration = Duration::from_secs(60);

/// A guest may have left its TPM at a long task; then the session ends without a last quote.
const LAST_QUOTE: Duration = Duration::from_secs(1);

/// A session's machine while it runs.
pub struct Running<'a> {
    pub world: &'a World,
    pub machine: &'a Machine,
    pub control: &'a Control,
    pub orders: Orders,
    pub cell: Cell,
    pub guest: Guest,
    /// The guest said so.
    pub started: bool,
    pub loaded: Loaded,
    pub measurement: Arc<Measurement>,
    /// What QEMU says when it cannot go on.
    pub complaint: Arc<Mutex<String>>,
}

impl Running<'_> {
    /// The machine boots, is written to the file, and ends. `ready` tells of it; there is nothing to start.
    pub fn take_snapshot(&mut self, taking: Taking) -> Result<End> {
        let until = Instant::now() + BOOT;
        if !self.hello(until)? {
            return Ok(End::Killed);
        }
        self.guest.tell(&guest::Order::Warm { net: start::NET })?;
        match self.next(until)? {
            Some(News::Warm {}) => taking.save()?,
            Some(news) => return Err(out_of_turn(&news)),
            None => return Ok(End::Killed),
        }
        self.control.emit(&Event::Ready { controls: &self.cell.controls });
        wait_for(Order::Kill, self.world, self.control, &mut self.orders).map(|_| End::Killed)
    }

    pub fn live(&mut self, port: OwnedFd) -> Result<End> {
        self.watch_limits()?;
        let Some(controls) = self.boot()? else { return Ok(End::Killed) };
        self.control.emit(&Event::Ready { controls: &controls });
        if !wait_for(Order::Exec, self.world, self.control, &mut self.orders)? {
            return Ok(End::Killed);
        }
        let terminal = self.world.spec.terminal;
        let _raw = terminal.then(|| RawTerminal::enter(0)).transpose().context("taking the terminal")?;
        let stdio =
            streams::carry(port, terminal, self.world.bell.clone()).context("carrying the streams")?;
        let relay = Relay::start(stdio).context("starting the relay")?;
        self.guest.tell(&guest::Order::Exec)?;
        let deadline = Instant::now() + Duration::from_millis(self.world.spec.limits.wallclock);
        let end = self.watch(deadline);
        self.cell.kill();
        let patience = if matches!(end, Ok(End::Command(_))) { None } else { Some(Instant::now() + DRAIN) };
        drain(&relay, self.control, &mut self.orders, patience);
        end
    }

    fn watch_limits(&self) -> Result<()> {
        let limits = machine::limits_of_qemu(self.machine, self.world.spec.limits);
        let watchdog = Watchdog::new(&[], limits, &self.world.spec.cell, self.cell.init_pid, Vec::new())
            .context("starting the watchdog")?;
        let bell = self.world.bell.clone();
        std::thread::spawn(move || watchdog.run(&bell));
        Ok(())
    }

    /// Up to `ready`. `None` when it was called off.
    fn boot(&mut self) -> Result<Option<Vec<ControlState>>> {
        let until = Instant::now() + BOOT;
        // One that goes on from a snapshot said it before.
        if self.machine.snapshot.is_none() && !self.hello(until)? {
            return Ok(None);
        }
        let (_, mounts) = machine::split(&self.world.stage.mounts);
        let spec = start::describe(&self.world.spec, &mounts)?;
        self.guest.tell(&guest::Order::Start { spec: &spec })?;
        match self.next(until)? {
            Some(News::Ready { controls, registers }) => {
                self.measurement.compare(&registers)?;
                Ok(Some(self.controls(controls)))
            }
            Some(news) => Err(out_of_turn(&news)),
            None => Ok(None),
        }
    }

    /// False when it was called off.
    fn hello(&mut self, until: Instant) -> Result<bool> {
        match self.next(until)? {
            Some(News::Hello { v: start::VERSION }) => self.loaded.release().map(|()| true),
            Some(news) => Err(out_of_turn(&news)),
            None => Ok(false),
        }
    }

    /// The host's own findings under their usual names: they hold whatever the guest is. Its word stands beside them.
    fn controls(&self, inside: Vec<ControlState>) -> Vec<ControlState> {
        let limits = self.world.spec.limits;
        let mut all = self.cell.controls.clone();
        let held = |name: &str, detail: String| ControlState::new(name, State::Fully, detail);
        let guests = inside.iter().find(|control| control.control == "process-limit");
        let processes = guests.map_or(State::Not, |control| control.state);
        all.extend([
            held("own-kernel", own_kernel(self.machine.accelerator)),
            held(
                "measured-start",
                "what starts was recorded and extended into the guest's TPM, which is software on this host"
                    .into(),
            ),
            held("memory-limit", format!("the machine has {} MiB", self.machine.memory >> 20)),
            held("cpu-limit", format!("the machine has {} processors", self.machine.processors)),
            held("disk-limit", "every file that outlives the session goes through the view's quota".into()),
            held("time-limit", format!("{} s, then the machine is killed", limits.wallclock / 1000)),
            held(
                "exec-sensor",
                "every execve in the guest waits until it is recorded, by its kernel's word".into(),
            ),
            ControlState::new("process-limit", processes, "the guest's own watchdog counts"),
        ]);
        let told = inside.into_iter().take(32).map(|control| ControlState {
            control: format!("guest-{:.100}", words(&control.control)),
            detail: words(&control.detail),
            ..control
        });
        all.extend(told.filter(|control| !control.control.ends_with("-limit")));
        all
    }

    /// The guest's next word; `None` when the session was called off.
    fn next(&mut self, until: Instant) -> Result<Option<News>> {
        loop {
            if let Some(news) = self.guest.take()? {
                return Ok(Some(news));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::new(
                    "booting the machine",
                    format!("no answer within {} s", BOOT.as_secs()),
                ));
            }
            let ready = self.poll(left)?;
            self.heed_alarms()?.map_or(Ok(()), |limit| Err(Failure::new("booting the machine", limit)))?;
            while let Some(signal) = sys::next_signal(self.world.signals.as_fd()) {
                if signal != libc::SIGWINCH {
                    return Ok(None);
                }
            }
            self.hear(&ready)?;
            if ready[0] != 0 {
                self.orders.read(self.control.as_fd())?;
                if self.orders.kills() {
                    return Ok(None);
                }
            }
        }
    }

    fn poll(&self, patience: Duration) -> Result<Vec<libc::c_short>> {
        let fds = [
            self.control.as_fd().as_raw_fd(),
            self.world.signals.as_raw_fd(),
            self.cell.fd(),
            self.world.alarms.fd(),
            self.guest.fd(),
        ];
        sys::poll(&fds, Some(patience.as_millis() as u64 + 1)).context("watching")
    }

    /// Reads the guest's port; an end without a last word is QEMU's failure.
    fn hear(&mut self, ready: &[libc::c_short]) -> Result<()> {
        let gone = ready[2] != 0;
        if !gone && ready[4] == 0 {
            return Ok(());
        }
        let more = self.guest.read()?;
        if (more && !gone) || self.guest.has_news() {
            return Ok(());
        }
        // Its complaint may still be on the way.
        std::thread::sleep(Duration::from_millis(50));
        let said = self.complaint.lock().map(|said| words(said.trim())).unwrap_or_default();
        let why = if said.is_empty() { "it ended before the command did".into() } else { said };
        let failure = Failure::new("the machine", why);
        Err(match self.machine.snapshot {
            Some(Snapshot::Resume { .. }) if !self.started => {
                failure.remedy("make the snapshot anew: ambit image warm")
            }
            _ => failure,
        })
    }

    fn heed_alarms(&self) -> Result<Option<&'static str>> {
        match self.world.alarms.next() {
            Some(Alarm::Failed(failure)) => Err(failure),
            Some(Alarm::OverLimit(limit)) => Ok(Some(limit)),
            // Of gVisor's guests.
            Some(Alarm::Ended(_)) | None => Ok(None),
        }
    }

    fn watch(&mut self, deadline: Instant) -> Result<End> {
        loop {
            while let Some(news) = self.guest.take()? {
                if let Some(end) = self.take(news)? {
                    return Ok(end);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(End::Timeout);
            }
            let ready = self.poll(left)?;
            if let Some(limit) = self.heed_alarms()? {
                return Ok(End::OverLimit(limit));
            }
            while let Some(signal) = sys::next_signal(self.world.signals.as_fd()) {
                match (signal, pty::size(0)) {
                    (libc::SIGWINCH, Some(window)) => self.guest.tell(&guest::Order::Resize { window })?,
                    (libc::SIGWINCH, None) => {}
                    _ => self.guest.tell(&guest::Order::Signal { signal })?,
                }
            }
            self.hear(&ready)?;
            if ready[0] != 0 {
                self.orders.read(self.control.as_fd())?;
            }
            while let Some(order) = self.orders.take()? {
                match order {
                    Order::Kill => return Ok(End::Killed),
                    Order::Freeze => self.cell.order(&ToCell::Freeze),
                    Order::Thaw => {
                        self.cell.order(&ToCell::Thaw);
                        self.guest.tell(&guest::Order::Time { time: start::now() })?;
                    }
                    Order::Signal { signal } => self.guest.tell(&guest::Order::Signal { signal })?,
                    Order::Quote { nonce, by } => self.quote(nonce, by),
                    Order::Build | Order::Exec => {
                        return Err(Failure::new("reading an order", "out of turn"));
                    }
                }
            }
        }
    }

    /// Of a session that ended by itself: the others have no time to lose.
    pub fn last_quote(&self, end: &End) -> Result<()> {
        let End::Command(_) = end else { return Ok(()) };
        let quote = self.measurement.last_quote(&self.world.spec.session, LAST_QUOTE);
        quote.map_or(Ok(()), |quote| self.world.journal.append(&quote)).context("recording the last quote")
    }

    /// A TPM may be busy with its guest: nobody waits for it here.
    fn quote(&self, nonce: String, by: String) {
        let (measurement, control) = (self.measurement.clone(), self.control.clone());
        let journal = self.world.journal.clone();
        std::thread::spawn(move || {
            let quoted = measurement
                .quote(&nonce, &by)
                .and_then(|fact| journal.append(&fact).context("recording a quote").map(|()| fact));
            match quoted {
                Ok(fact) => {
                    control.emit(&Event::Quote { nonce: &nonce, fact: &fact, measured: &measurement.fact() })
                }
                Err(failure) => control.emit(&Event::NoQuote { nonce: &nonce, why: &failure.to_string() }),
            }
        });
    }

    fn take(&mut self, news: News) -> Result<Option<End>> {
        match news {
            News::Running {} if !std::mem::replace(&mut self.started, true) => {
                self.control.emit(&Event::Running { pid: self.cell.main_pid });
            }
            News::Launch { n, fact: fact @ Fact::Launch { .. } } => {
                self.record(fact)?;
                self.guest.tell(&guest::Order::Recorded { n })?;
            }
            News::Exit { fact: fact @ Fact::Exit { .. } } => self.record(fact)?,
            News::Ended { code: Some(code), signal: None } => {
                return Ok(Some(End::Command(Ending::Code(code & 0xff))));
            }
            News::Ended { code: None, signal: Some(signal @ 1..=64) } => {
                return Ok(Some(End::Command(Ending::Signal(signal))));
            }
            News::OverLimit { limit } => {
                return Ok(Some(End::OverLimit(if limit == "processes" { "processes" } else { "memory" })));
            }
            news => return Err(out_of_turn(&news)),
        }
        Ok(None)
    }

    fn record(&self, fact: Fact) -> Result<()> {
        let fact = as_recorded(fact, &self.machine.programs)?;
        self.world.journal.append(&fact).context("recording a process")
    }
}

fn own_kernel(accelerator: Accelerator) -> String {
    let by = match accelerator {
        Accelerator::Kvm => "with KVM",
        Accelerator::Tcg => "with TCG (no KVM)",
    };
    format!("the agent's kernel runs in QEMU, {by}, which stands in a cell of its own")
}

fn out_of_turn(news: &News) -> Failure {
    Failure::new("hearing the guest", words(&format!("{news:.60?} came out of turn")))
}
