//! Bubblewrap: the cell's user, pid, IPC, UTS and mount namespaces. Arguments travel through `--args FD`, separated
//! by NUL, each option followed by exactly the operands it takes, so that a path that begins with `--` is a path
//! (CVE-2024-32462).
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::cgroup;
use crate::failure::{Context, Result};
use crate::gvisor::{bundle, guest};
use crate::limits;
use crate::spec::{Cell, LaunchSpec, Mount};
use crate::stage::{Stage, Tools};
use crate::sys;
use crate::vm::machine;

/// Where the launcher stands inside.
const INSIDE: &str = "/.ambit/launch";

/// Arguments, and the descriptors that they name.
struct Arguments {
    list: Vec<Vec<u8>>,
    files: Vec<OwnedFd>,
}

impl Arguments {
    fn push(&mut self, parts: &[&str]) {
        self.list.extend(parts.iter().map(|part| part.as_bytes().to_vec()));
    }

    fn path(&mut self, path: &Path) {
        use std::os::unix::ffi::OsStrExt;
        self.list.push(path.as_os_str().as_bytes().to_vec());
    }

    fn mount(&mut self, option: &str, source: &Path, target: &Path) {
        self.push(&[option]);
        self.path(source);
        self.path(target);
    }

    fn cover_keyrings(&mut self) {
        for listing in KEYRING_LISTINGS {
            // A kernel without keyrings has no such file, and bubblewrap could not make one.
            if Path::new(listing).exists() {
                self.mount("--ro-bind", Path::new("/dev/null"), Path::new(listing));
            }
        }
    }

    fn add(&mut self, mount: &Mount, stage: &Stage) -> io::Result<()> {
        match mount {
            Mount::View { root, target } => {
                self.mount("--bind", &stage.fuse().join(root.to_string()), target)
            }
            Mount::Bind { source, target, write } => {
                self.mount(if *write { "--bind" } else { "--ro-bind" }, source, target);
            }
            Mount::Plain { source, .. } => {
                return Err(io::Error::other(format!("{} was not sealed", source.display())));
            }
            Mount::Tmpfs { target, size, mode } => {
                self.push(&["--perms", &format!("{mode:o}"), "--size", &size.to_string(), "--tmpfs"]);
                self.path(target);
            }
            Mount::Dir { target, mode } => {
                self.push(&["--perms", &format!("{mode:o}"), "--dir"]);
                self.path(target);
            }
            Mount::Symlink { target, link } => self.mount("--symlink", Path::new(link), target),
            Mount::File { target, content, mode } => self.file(target, content.as_bytes(), *mode)?,
        }
        Ok(())
    }

    fn file(&mut self, target: &Path, content: &[u8], mode: u32) -> io::Result<()> {
        self.data("--ro-bind-data", target, content, mode)
    }

    /// A file of the cell's root, and so read-only when that is: without a mount of its own.
    fn file_of_root(&mut self, target: &Path, content: &[u8], mode: u32) -> io::Result<()> {
        self.data("--file", target, content, mode)
    }

    fn data(&mut self, option: &str, target: &Path, content: &[u8], mode: u32) -> io::Result<()> {
        let file = sys::memfd(c"ambit-file", content)?;
        let fd = file.as_raw_fd().to_string();
        self.push(&["--perms", &format!("{mode:o}"), option, &fd]);
        self.path(target);
        self.files.push(file);
        Ok(())
    }
}

/// They name the keyrings of the host's user, which the filter keeps shut (C-24).
const KEYRING_LISTINGS: [&str; 2] = ["/proc/keys", "/proc/key-users"];

fn arguments(spec: &LaunchSpec, stage: &Stage) -> io::Result<Arguments> {
    let mut all = Arguments { list: Vec::new(), files: Vec::new() };
    all.push(&["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]);
    all.push(&["--die-with-parent", "--as-pid-1", "--clearenv", "--cap-drop", "ALL"]);
    let guest = matches!(spec.cell, Cell::Gvisor { .. });
    if !guest {
        all.push(&["--disable-userns"]);
    } else {
        // Sentry and Gofer get one each; there are no more once they stand (gvisor/outside.rs).
        bundle::CAPABILITIES.iter().for_each(|name| all.push(&["--cap-add", name]));
    }
    // gVisor wants to be uid 0 of its user namespace; what the agent sees is the guest's affair.
    let (uid, gid) = if guest { (0, 0) } else { (spec.inside.uid, spec.inside.gid) };
    all.push(&["--uid", &uid.to_string(), "--gid", &gid.to_string()]);
    all.push(&["--hostname", &spec.hostname]);
    all.push(&["--proc", "/proc", "--dev", "/dev"]);
    // bwrap's /dev/shm is a plain directory of an unbounded tmpfs; ours is bounded by the session's memory.
    all.push(&[
        "--perms",
        "1777",
        "--size",
        &(spec.limits.memory / 4).max(1 << 20).to_string(),
        "--tmpfs",
        "/dev/shm",
    ]);
    if let Some(device) = machine::device(spec.cell.machine()) {
        all.mount("--dev-bind", device, device);
    }
    all.push(&["--remount-ro", "/dev"]);
    if guest {
        guest_arguments(&mut all, spec, stage)?;
    } else {
        all.cover_keyrings();
        for mount in &stage.mounts {
            all.add(mount, stage)?;
        }
    }
    all.mount("--ro-bind", &stage.launcher(), Path::new(INSIDE));
    all.push(&["--remount-ro", "/", "--chdir", "/"]);
    Ok(all)
}

/// The guest's root below /guest, and beside it what only `runsc` sees. /proc is left as it is: the kernel lets
/// nobody mount one who cannot see all of his own.
fn guest_arguments(all: &mut Arguments, spec: &LaunchSpec, stage: &Stage) -> io::Result<()> {
    let (own, mounts): (Vec<Mount>, Vec<Mount>) =
        stage.mounts.iter().cloned().partition(|mount| bundle::is_program(mount.target()));
    for name in ["/proc", "/dev", "/sys"].map(Path::new) {
        all.push(&["--dir"]);
        all.path(&bundle::placed(name));
    }
    for mount in &mounts {
        let place = bundle::placed(mount.target());
        let made = match mount {
            Mount::Tmpfs { mode, .. } if bundle::is_internal(mount, &mounts) => {
                Mount::Dir { target: place, mode: *mode }
            }
            _ => mount.at(place),
        };
        all.add(&made, stage)?;
    }
    for mount in &own {
        all.add(mount, stage)?;
    }
    let guest = guest::Config {
        argv: spec.argv.clone(),
        env: spec.env.clone(),
        cwd: spec.cwd.clone(),
        terminal: spec.terminal,
        inside: spec.inside,
        pinned: limits::pinned(spec.limits),
    };
    let config = bundle::config(spec, &mounts);
    for (path, value) in [
        (bundle::placed(Path::new(bundle::GUEST_CONFIG)), serde_json::to_value(guest)?),
        (Path::new(bundle::BUNDLE).join("config.json"), config),
        (bundle::TRACE.into(), bundle::trace()),
    ] {
        all.file_of_root(&path, value.to_string().as_bytes(), 0o400)?;
    }
    all.mount("--ro-bind", &stage.launcher(), &bundle::placed(Path::new(bundle::GUEST_LAUNCHER)));
    all.file_of_root(&bundle::placed(Path::new(bundle::GUEST_COMPAT)), bundle::COMPAT, 0o444)?;
    all.mount("--ro-bind", &stage.trace(), Path::new(bundle::SOCKET));
    // Of runsc's own: the state of one container, and the place from which the Sentry takes its empty root.
    for (target, size) in [(bundle::STATE, 4 << 20), ("/tmp", 4 << 20)] {
        all.add(&Mount::Tmpfs { target: target.into(), size, mode: 0o700 }, stage)?;
    }
    Ok(())
}

/// Starts bubblewrap with the cell as PID 1. `fds` survive into the cell, which is told their numbers.
/// What bubblewrap has to say comes out of the returned child's stderr.
pub fn start(spec: &LaunchSpec, stage: &Stage, tools: &Tools, fds: &[RawFd]) -> Result<Child> {
    let what = "starting bubblewrap";
    let arguments = arguments(spec, stage).context(what)?;
    let mut text = arguments.list.join(&0);
    text.push(0);
    let args = sys::memfd(c"ambit-args", &text).context(what)?;
    let numbers = fds.iter().map(|fd| fd.to_string()).collect::<Vec<_>>().join(",");
    let survivors: Vec<RawFd> = fds
        .iter()
        .copied()
        .chain(arguments.files.iter().map(AsRawFd::as_raw_fd))
        .chain([args.as_raw_fd()])
        .collect();
    let mut command = Command::new(tools.bwrap.path());
    command.arg0("bwrap").args(["--args", &args.as_raw_fd().to_string(), "--", INSIDE, "cell", &numbers]);
    // Never the user's terminal: bwrap would bind it as /dev/console, and a shared one takes TIOCSTI.
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let limits = spec.limits;
    let entry = tools.entry.as_ref().map(AsRawFd::as_raw_fd);
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            sys::check(libc::setsid())?;
            entry.map_or(Ok(()), cgroup::enter)?;
            limits::pin(limits)?;
            survivors.iter().try_for_each(|&fd| sys::inherit(fd))
        });
    }
    command.spawn().context(what)
}
