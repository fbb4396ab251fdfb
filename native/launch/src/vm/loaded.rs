//! Kernel and initramfs of a machine that boots: copies of its own, in memory, for as long as it loads them. QEMU maps
//! what it loads for ever, for a reset that never comes: 40 MiB a machine.
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::thread::JoinHandle;

use crate::failure::{Context, Failure, Result};
use crate::spec::{LaunchSpec, Machine, Mount, Snapshot};
use crate::stage::Stage;
use crate::sys;
use crate::vm::machine;

const WHAT: &str = "copying what the machine loads";
const LOADED: [&str; 2] = ["kernel", "initramfs"];

/// Room that the stage needs for them, in bytes.
pub fn room(spec: &LaunchSpec) -> u64 {
    let files = spec.cell.machine().filter(|machine| boots(machine)).map(|m| [&m.kernel, &m.initramfs]);
    files.into_iter().flatten().filter_map(|path| fs::metadata(path).ok()).map(|found| found.len()).sum()
}

/// One that goes on from a snapshot never looks at them.
fn boots(machine: &Machine) -> bool {
    !matches!(machine.snapshot, Some(Snapshot::Resume { .. }))
}

/// Copies under way; nothing may read them before `finish`.
pub struct Copying {
    copies: Vec<(Mount, File)>,
    thread: JoinHandle<io::Result<()>>,
}

impl Copying {
    pub fn begin(stage: &Stage, machine: &Machine) -> Result<Self> {
        let names = LOADED.iter().filter(|_| boots(machine));
        let (mut copies, mut work) = (Vec::new(), Vec::new());
        for name in names {
            let missing = || Failure::new(WHAT, format!("its {name} was not staged"));
            let source = machine::staged(&stage.mounts, name).ok_or_else(missing)?;
            let place = stage.copy(name);
            let copy = File::create_new(&place).context(WHAT)?;
            work.push((File::open(source).context(WHAT)?, copy.try_clone().context(WHAT)?));
            copies.push((machine::bind(&place, &machine::place(name)), copy));
        }
        let copy = move || {
            work.into_iter().try_for_each(|(mut from, mut to)| io::copy(&mut from, &mut to).map(drop))
        };
        Ok(Self { copies, thread: std::thread::spawn(copy) })
    }

    /// The mounts with these in the place of the image's.
    pub fn put(&self, mounts: Vec<Mount>) -> Vec<Mount> {
        let of_ours = |mount: &Mount| self.copies.iter().find(|(copy, _)| copy.target() == mount.target());
        mounts.into_iter().map(|mount| of_ours(&mount).map_or(mount, |(copy, _)| copy.clone())).collect()
    }

    pub fn finish(self) -> Result<Loaded> {
        self.thread.join().map_err(|_| Failure::new(WHAT, "it broke off"))?.context(WHAT)?;
        Ok(Loaded(self.copies.into_iter().map(|(_, copy)| copy).collect()))
    }
}

/// What QEMU has mapped.
pub struct Loaded(Vec<File>);

impl Loaded {
    /// The guest runs, and has its own. The file keeps its length: a look at it finds zeros.
    pub fn release(&mut self) -> Result<()> {
        for copy in self.0.drain(..) {
            let length = copy.metadata().context(WHAT)?.len().cast_signed();
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            // SAFETY: plain numbers.
            sys::check(unsafe { libc::fallocate(copy.as_raw_fd(), mode, 0, length) }).context(WHAT)?;
        }
        Ok(())
    }
}
