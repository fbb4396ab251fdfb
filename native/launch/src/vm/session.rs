//! A session whose agent has a machine: build it, have it run (running.rs), and bury it. Whatever the end, QEMU does not
//! outlive it.
use std::io::Read;
use std::sync::{Arc, Mutex};

use crate::cell_end::{Stdio, Stood};
use crate::control::{Control, Orders};
use crate::failure::{Context, Failure, Result};
use crate::sensor::Sensor;
use crate::session::announce;
use crate::spec::Machine;
use crate::sys;
use crate::tpm::measure::{self, Measurement};
use crate::tpm::port;
use crate::tpm::swtpm::Swtpm;
use crate::vm::guest::{Ends, Guest};
use crate::vm::loaded::Copying;
use crate::vm::machine;
use crate::vm::running::Running;
use crate::vm::snapshot::Warm;
use crate::world::World;

pub fn run(mut world: World, control: &Control, mut orders: Orders) -> Result<()> {
    let what = "making the machine's ports";
    let (ours, theirs) = sys::socketpair(libc::SOCK_STREAM).context(what)?;
    let (port, io) = sys::socketpair(libc::SOCK_STREAM).context(what)?;
    let Some(machine) = world.spec.cell.machine().cloned() else {
        return Err(Failure::new("building the machine", "the session has none"));
    };
    let line = machine::kernel_line(&machine, world.counting.take())?;
    let wires = world.machine.as_mut();
    let (snapshot, warm) = wires.map(|wires| std::mem::take(&mut wires.snapshot)).unwrap_or_default();
    let copying = Copying::begin(&world.stage, &machine)?;
    // Both cells side by side: each takes some 30 ms.
    let swtpm = Swtpm::begin(&world)?;
    let (tpm, qemus) = sys::socketpair(libc::SOCK_STREAM).context(what)?;
    let ends = Ends { control: theirs, io, tpm: qemus, snapshot };
    let qemu = machine::begin(&world, ends, &line, &copying)?;
    // QEMU has its own by now: its end must be the end of the view's stream.
    world.machine = None;
    let swtpm = swtpm.finish(&world, control, &mut orders)?;
    let Stood { cell, stdio, listener } = qemu.finish(Some((control, &mut orders)))?;
    let listener =
        listener.ok_or_else(|| Failure::new("building the machine", "it came without its sensor"))?;
    let sensor = Sensor::new(listener, machine::OneProgram::of("QEMU"), world.bell.clone())
        .context("starting the exec sensor")?;
    let sensor = std::thread::spawn(move || sensor.run());
    let guest = Guest::new(ours)?;
    let complaint = listen_to_qemu(stdio);
    // QEMU asks its TPM what it can while it makes the machine, and waits for the answer, which nobody gives before what
    // starts is measured and on record: so no instruction of the guest's runs before, and QEMU loads meanwhile.
    // What was copied is what is measured: its source is compared afterwards.
    let loaded = copying.finish()?;
    cell.exec()?;
    let measurement = Arc::new(measure(&world, &machine, &line, &swtpm)?);
    port::serve(tpm, swtpm.tpm.clone(), world.bell.clone());
    let mut running = Running {
        world: &world,
        machine: &machine,
        control,
        orders,
        cell,
        guest,
        started: false,
        loaded,
        measurement,
        complaint,
    };
    let ended = match warm {
        Some(Warm::Take(taking)) => running.take_snapshot(taking),
        Some(Warm::Resume(resuming)) => {
            resuming.begin(&world.bell);
            running.live(port)
        }
        None => running.live(port),
    };
    running.cell.kill();
    // Nothing in it waits for the view: QEMU has a stream.
    running.cell.bury(|| {});
    let _ = sensor.join();
    let ended = ended.and_then(|end| running.last_quote(&end).map(|()| end));
    swtpm.end();
    announce(control, &world, ended)
}

/// What starts goes into the TPM and on record, durably, before the first instruction.
fn measure(world: &World, machine: &Machine, line: &str, swtpm: &Swtpm) -> Result<Measurement> {
    let staged = |name| {
        machine::staged(&world.stage.mounts, name)
            .ok_or_else(|| Failure::new("measuring the start", format!("its {name} was not staged")))
    };
    let start = measure::Start {
        machine,
        kernel: staged("kernel")?,
        initramfs: staged("initramfs")?,
        root: staged("root")?,
        command_line: line,
        session: &world.spec.session,
    };
    let measurement = measure::measure(swtpm.tpm.clone(), &start)?;
    let recorded = world.journal.append(&measurement.fact()).and_then(|()| world.journal.sync());
    recorded.context("recording what the machine starts from")?;
    Ok(measurement)
}

/// QEMU takes nothing on its own streams; what it says last is kept.
fn listen_to_qemu(stdio: Stdio) -> Arc<Mutex<String>> {
    let complaint = Arc::new(Mutex::new(String::new()));
    if let Stdio::Pipes { errors, .. } = stdio {
        let kept = complaint.clone();
        std::thread::spawn(move || {
            let (mut from, mut chunk) = (std::fs::File::from(errors), [0; 4096]);
            while let Ok(length @ 1..) = from.read(&mut chunk) {
                if let Ok(mut kept) = kept.lock() {
                    *kept = String::from_utf8_lossy(&chunk[..length]).into_owned();
                }
            }
        });
    }
    complaint
}
