//! QEMU and its cell: a bubblewrap cell like an agent's, in which there is nothing but QEMU's own files and the
//! image's. No user network, no disk that can be written to, no device beyond those of the contract; a monitor only
//! for the snapshot (snapshot.rs), and closed before the guest runs.
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::bwrap;
use crate::cell::{Config, PRIVATE_UMASK};
use crate::cell_end::{self, Begun};
use crate::failure::{Failure, Result};
use crate::sensor::{Fact, Records};
use crate::spec::{Accelerator, Limits, Machine, Mount, Snapshot};
use crate::tpm::swtpm::Swtpm;
use crate::tsc::Counting;
use crate::vm::guest::Ends;
use crate::vm::guest::words;
use crate::vm::loaded::Copying;
use crate::world::{Wires, World};
use crate::{limits, tap};

/// Where the image's files stand in QEMU's cell; no mount of a session may lie there.
const PLACE: &str = "/.ambit/machine";
const FILES: [&str; 3] = ["kernel", "initramfs", "root"];
/// And the loader.
const LIBRARIES: [&str; 4] = ["/usr/lib", "/usr/lib64", "/lib", "/lib64"];
const FIRMWARE: [&str; 3] = ["/usr/share/qemu", "/usr/share/seabios", "/usr/share/qboot"];
/// What QEMU may use beside the guest's memory: itself, translated code, queues.
const OVERHEAD: u64 = 256 << 20;
/// Of translated code, MiB. Its default is an eighth of this machine. docs/decisions/0007-a-machines-memory.md.
const TRANSLATED: u64 = 17;
const THREADS: u64 = 64;

/// Where it looks for its modules and firmware from.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// The image, for the stage.
pub fn mounts(machine: &Machine) -> Vec<Mount> {
    let files = [(&machine.kernel, "kernel"), (&machine.initramfs, "initramfs"), (&machine.root, "root")];
    files
        .map(|(source, name)| bind(source, &place(name)))
        .into_iter()
        .chain([Swtpm::mount(machine)])
        .collect()
}

/// The image's mounts as staged, and the session's.
pub fn split(mounts: &[Mount]) -> (Vec<Mount>, Vec<Mount>) {
    mounts.iter().cloned().partition(|mount| mount.target().starts_with(PLACE))
}

/// All that there is in QEMU's cell.
pub fn mounts_of_cell(machine: &Machine, staged: &[Mount]) -> Vec<Mount> {
    let (image, _) = split(staged);
    let image = image.into_iter().filter(|mount| FILES.iter().any(|name| mount.target() == place(name)));
    libraries().chain(system(&FIRMWARE)).chain([bind(&machine.qemu, Path::new(QEMU))]).chain(image).collect()
}

/// The file of the image as staged.
pub fn staged<'a>(mounts: &'a [Mount], name: &str) -> Option<&'a Path> {
    mounts.iter().find_map(|mount| match mount {
        Mount::Bind { source, target, .. } if *target == place(name) => Some(source.as_path()),
        _ => None,
    })
}

/// Of a file of the image.
pub fn place(name: &str) -> PathBuf {
    Path::new(PLACE).join(name)
}

pub fn bind(source: &Path, target: &Path) -> Mount {
    Mount::Bind { source: source.into(), target: target.into(), write: false }
}

/// What any program of this system needs.
pub fn libraries() -> impl Iterator<Item = Mount> {
    system(&LIBRARIES)
}

fn system(places: &[&'static str]) -> impl Iterator<Item = Mount> {
    places.iter().map(Path::new).filter_map(|path| {
        let found = fs::symlink_metadata(path).ok()?;
        Some(match found.is_symlink() {
            true => {
                let link = fs::read_link(path).ok()?.to_string_lossy().into_owned();
                Mount::Symlink { target: path.into(), link }
            }
            false => bind(path, path),
        })
    })
}

/// Begins the cell, in which QEMU waits for `exec`.
pub fn begin(world: &World, ends: Ends, line: &str, copies: &Copying) -> Result<Begun> {
    let (Some(machine), Some(Wires { tap, view, .. })) = (world.spec.cell.machine(), &world.machine) else {
        return Err(Failure::new("building the machine", "the session has none"));
    };
    let stage = world.stage.with(copies.put(mounts_of_cell(machine, &world.stage.mounts)));
    let fds = [&ends.control, &ends.io, view, tap.fd(), &ends.tpm].into_iter().chain(&ends.snapshot);
    let handed: Vec<_> = fds.map(AsRawFd::as_raw_fd).collect();
    let config = Config {
        argv: command(machine, line),
        // An arena for each of its threads would cost more than they ever wait for each other.
        env: BTreeMap::from([("MALLOC_ARENA_MAX".into(), "1".into())]),
        cwd: "/".into(),
        terminal: false,
        tasks: THREADS,
        open_files: 1024,
        umask: PRIVATE_UMASK,
        pinned: limits::pinned(world.spec.limits),
        runsc: None,
        writable: Vec::new(),
        handed: handed.len(),
        interfaces: vec!["lo".into(), tap::NAME.into()],
        outer: Config::namespaces(),
    };
    let start = |fds: &[i32]| bwrap::start(&world.spec, &stage, &world.tools, &[fds, &handed].concat());
    cell_end::begin(&config, start)
}

/// What the watchdog holds QEMU to.
pub fn limits_of_qemu(machine: &Machine, limits: Limits) -> Limits {
    Limits { processes: 2, memory: machine.memory.saturating_add(OVERHEAD), disk: u64::MAX, ..limits }
}

fn accelerator(chosen: Accelerator) -> String {
    match chosen {
        Accelerator::Kvm => "kvm".into(),
        Accelerator::Tcg => format!("tcg,tb-size={TRANSLATED}"),
    }
}

/// A translated `rep stosb` stores byte by byte: without ERMS a kernel clears and copies by words.
fn cpu(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "max",
        Accelerator::Tcg => "max,-erms",
    }
}

/// A guest whose instructions are translated speculates on nothing: what it would do about that only costs.
fn mitigations(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "",
        Accelerator::Tcg => " mitigations=off",
    }
}

/// What else of the host's devices QEMU needs; only ever in its own cell.
pub fn device(machine: Option<&Machine>) -> Option<&'static Path> {
    machine.filter(|machine| machine.accelerator == Accelerator::Kvm).map(|_| Path::new("/dev/kvm"))
}

/// What the guest's kernel is told: the image's line, and what only the host knows. The machine's ACPI tables have no
/// `TPM2`, without which the kernel asks no TPM that is not forced on it.
pub fn kernel_line(machine: &Machine, counting: Option<Counting>) -> Result<String> {
    let kilohertz = counting
        .and_then(Counting::finish)
        .ok_or_else(|| Failure::new("starting the machine", "it needs an x86-64 processor"))?;
    let own = format!("tsc_early_khz={kilohertz}{}", mitigations(machine.accelerator));
    Ok(format!("{} {own} tpm_tis.force=1 tpm_tis.interrupts=0", machine.command_line))
}

/// The command line. Descriptors 3 to 7 are `ambit.control`, `ambit.io`, `ambit.view`, the tap and the TPM; 8 to 10 the
/// monitor, the memory and the stream of a snapshot.
fn command(machine: &Machine, line: &str) -> Vec<String> {
    let file = |name: &str| place(name).display().to_string();
    let mut all = vec![QEMU.to_string()];
    let mut add = |words: &[&str]| all.extend(words.iter().map(|word| word.to_string()));
    let memory = machine.snapshot.as_ref().map_or("", |_| ",memory-backend=memory");
    add(&["-M", &format!("microvm,rtc=on,isa-serial=off{memory}"), "-cpu", cpu(machine.accelerator)]);
    add(&["-accel", &accelerator(machine.accelerator)]);
    add(&["-m", &format!("{}M", machine.memory >> 20), "-smp", &machine.processors.to_string()]);
    add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-L", "/usr/share/qemu"]);
    add(&["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    add(&["-kernel", &file("kernel"), "-initrd", &file("initramfs"), "-append", line]);
    let root = file("root");
    add(&["-blockdev", &format!("driver=file,filename={root},node-name=root,read-only=on")]);
    add(&["-device", "virtio-blk-device,drive=root", "-device", "virtio-rng-device"]);
    // Pages that the guest frees go back to the host; nobody can ask it for more.
    add(&["-device", "virtio-balloon-device,free-page-reporting=on"]);
    add(&["-device", "virtio-serial-device"]);
    for (name, fd) in [("control", 3), ("io", 4), ("view", 5)] {
        add(&["-chardev", &format!("socket,id={name},fd={fd}")]);
        add(&["-device", &format!("virtserialport,chardev={name},name=ambit.{name}")]);
    }
    add(&["-netdev", "tap,id=net,fd=6", "-device", "virtio-net-device,netdev=net"]);
    add(&["-chardev", "socket,id=tpm,fd=7", "-tpmdev", "emulator,id=tpm,chardev=tpm"]);
    add(&["-device", "tpm-tis,tpmdev=tpm"]);
    if let Some(snapshot) = &machine.snapshot {
        add(&["-chardev", "socket,id=monitor,fd=8", "-mon", "chardev=monitor,mode=control"]);
        let size = machine.memory >> 20;
        let memory = format!("memory-backend-file,id=memory,size={size}M,mem-path=/proc/self/fd/9,share=on");
        add(&["-object", &memory]);
        if let Snapshot::Resume { .. } = snapshot {
            add(&["-incoming", "defer"]);
        }
    }
    all
}

/// QEMU, or the TPM, is the one program of its cell. A second one is an escape that went this far.
pub struct OneProgram {
    name: &'static str,
    started: bool,
}

impl OneProgram {
    pub fn of(name: &'static str) -> Self {
        Self { name, started: false }
    }
}

impl Records for OneProgram {
    fn append(&mut self, fact: &Fact) -> std::io::Result<()> {
        let first = !std::mem::replace(&mut self.started, true);
        match fact {
            Fact::Launch { path, .. } if !first => {
                Err(std::io::Error::other(format!("{} tried to start {}", self.name, words(path))))
            }
            _ => Ok(()),
        }
    }

    fn digest_of(&mut self, _: &std::fs::File, _: &str) -> Option<String> {
        None
    }

    fn finish(&mut self) {}
}
