//! What the launcher is told: twin of src/runtime/launch-spec.ts. Unknown fields and other versions are refused, so
//! that a newer supervisor can never believe in a control that this binary does not know.
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure, Result};

const VERSION: u32 = 2;
const MAX_SPEC: u64 = 64 << 20;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchSpec {
    pub version: u32,
    pub session: String,
    pub tools: Tools,
    pub cell: Cell,
    pub host: Ids,
    pub inside: Ids,
    pub hostname: String,
    pub mounts: Vec<Mount>,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: PathBuf,
    pub terminal: bool,
    pub ports: Ports,
    pub limits: Limits,
    pub journal: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tools {
    pub bwrap: PathBuf,
}

/// What stands inside the outer world.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Cell {
    /// Namespaces, Landlock and seccomp on the host's kernel.
    Bubblewrap {},
    /// The same namespaces around gVisor, whose Sentry is the agent's kernel.
    Gvisor {
        runsc: PathBuf,
        /// Directory of programs that it starts, if it has any.
        helpers: Option<PathBuf>,
        /// It has the flag of this name.
        directfs: bool,
        /// `None`: what this runsc takes by itself.
        platform: Option<String>,
    },
    /// The same around QEMU, whose guest's kernel is the agent's.
    Vm(Box<Machine>),
}

/// A machine and what it starts from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    pub qemu: PathBuf,
    pub accelerator: Accelerator,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    pub root: PathBuf,
    #[serde(rename = "commandLine")]
    pub command_line: String,
    /// Bytes of the guest's memory.
    pub memory: u64,
    pub processors: u64,
    pub snapshot: Option<Snapshot>,
    /// Path in the root image → SHA-256.
    pub programs: BTreeMap<String, String>,
    pub measured: Measured,
}

/// What goes into the machine's TPM. SHA-256, hex: `image` of the signed manifest, `profile` of the plan.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    pub swtpm: PathBuf,
    pub image: String,
    pub profile: String,
    pub kernel: Verified,
    pub initramfs: Verified,
    pub root: Verified,
}

/// A file that was read and found to be what was signed. `identity`: `device:inode:size:mtime:ctime`, in
/// nanoseconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verified {
    pub sha256: String,
    pub identity: String,
}

/// A file that holds a machine which has booted.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "use", rename_all = "lowercase", deny_unknown_fields)]
pub enum Snapshot {
    /// It is made, and nothing else happens.
    Take { path: PathBuf },
    /// The machine goes on from it; the caller verified it.
    Resume { path: PathBuf, verified: Verified },
}

impl Snapshot {
    pub fn path(&self) -> &Path {
        match self {
            Snapshot::Take { path } | Snapshot::Resume { path, .. } => path,
        }
    }
}

/// What carries the guest's instructions out. KVM only where somebody saw a guest boot with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    Kvm,
    Tcg,
}

impl Cell {
    pub fn machine(&self) -> Option<&Machine> {
        match self {
            Cell::Bubblewrap {} | Cell::Gvisor { .. } => None,
            Cell::Vm(machine) => Some(machine),
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Ids {
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    pub tcp: u16,
    pub dns: u16,
    pub proxy: u16,
}

/// Bytes, milliseconds, counts.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Limits {
    pub processes: u64,
    pub memory: u64,
    pub cpus: f64,
    pub wallclock: u64,
    /// Bytes that may be added to writable binds.
    pub disk: u64,
    pub open_files: u64,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Mount {
    View {
        root: u32,
        target: PathBuf,
    },
    Bind {
        source: PathBuf,
        target: PathBuf,
        write: bool,
    },
    /// A read-only root as it is on the host, but for what listens under it.
    Plain {
        source: PathBuf,
        target: PathBuf,
    },
    Tmpfs {
        target: PathBuf,
        size: u64,
        mode: u32,
    },
    Dir {
        target: PathBuf,
        mode: u32,
    },
    /// `target` is where the link stands, `link` what it says.
    Symlink {
        target: PathBuf,
        link: String,
    },
    File {
        target: PathBuf,
        content: String,
        mode: u32,
    },
}

impl Mount {
    /// The same thing elsewhere.
    pub fn at(&self, place: PathBuf) -> Self {
        let mut moved = self.clone();
        match &mut moved {
            Mount::View { target, .. }
            | Mount::Bind { target, .. }
            | Mount::Plain { target, .. }
            | Mount::Tmpfs { target, .. }
            | Mount::Dir { target, .. }
            | Mount::Symlink { target, .. }
            | Mount::File { target, .. } => *target = place,
        }
        moved
    }

    pub fn target(&self) -> &Path {
        match self {
            Mount::View { target, .. }
            | Mount::Bind { target, .. }
            | Mount::Plain { target, .. }
            | Mount::Tmpfs { target, .. }
            | Mount::Dir { target, .. }
            | Mount::Symlink { target, .. }
            | Mount::File { target, .. } => target,
        }
    }
}

impl LaunchSpec {
    pub fn read(path: &Path) -> Result<Self> {
        let what = "reading the launch spec";
        let size = std::fs::metadata(path).context(what)?.len();
        if size > MAX_SPEC {
            return Err(Failure::new(what, "larger than 64 MiB"));
        }
        Self::parse(&std::fs::read(path).context(what)?)
    }

    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let spec: Self =
            serde_json::from_slice(bytes).map_err(|error| Failure::new("parsing the launch spec", error))?;
        spec.reason_to_refuse()
            .map_or(Ok(spec.clone()), |why| Err(Failure::new("checking the launch spec", why)))
    }

    fn reason_to_refuse(&self) -> Option<String> {
        let foreign = |path: &Path| !is_plain(path);
        if self.version != VERSION {
            return Some(format!("version {} is not {VERSION}", self.version));
        }
        if self.host.uid == 0 || self.host.gid == 0 {
            return Some("host uid and gid 0 are never given to an agent".into());
        }
        if self.argv.first().is_none_or(String::is_empty) {
            return Some("argv is empty".into());
        }
        if let Cell::Gvisor { runsc, helpers, platform, .. } = &self.cell {
            let known =
                |name: &String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase());
            let programs = [runsc].into_iter().chain(helpers);
            if !programs.map(PathBuf::as_path).all(is_plain) || !platform.as_ref().is_none_or(known) {
                return Some("the cell's program or platform is not allowed".into());
            }
        }
        if let Some(machine) = self.cell.machine() {
            let files =
                [&machine.qemu, &machine.measured.swtpm, &machine.kernel, &machine.initramfs, &machine.root];
            let snapshot = machine.snapshot.as_ref().map(Snapshot::path);
            if !files.into_iter().map(PathBuf::as_path).chain(snapshot).all(is_plain)
                || machine.command_line.contains('\0')
            {
                return Some("the machine's files must be absolute paths without ..".into());
            }
        }
        if !is_plain(&self.cwd) || !is_plain(&self.journal) {
            return Some("cwd and journal must be absolute paths without ..".into());
        }
        if let Some(mount) =
            self.mounts.iter().find(|mount| foreign(mount.target()) || is_ours(mount.target()))
        {
            return Some(format!("mount target {:?} is not allowed", mount.target()));
        }
        let texts = self.argv.iter().chain(self.env.keys()).chain(self.env.values()).chain([&self.hostname]);
        if texts.into_iter().any(|text| text.contains('\0'))
            || self.env.keys().any(|key| key.is_empty() || key.contains('='))
        {
            return Some("NUL or = where it cannot be".into());
        }
        None
    }
}

/// Absolute, without `.`, `..` or NUL.
fn is_plain(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    path.is_absolute()
        && !path.as_os_str().as_bytes().contains(&0)
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

/// Places that only the launcher fills.
fn is_ours(target: &Path) -> bool {
    target == Path::new("/") || ["/proc", "/dev", "/.ambit"].iter().any(|ours| target.starts_with(ours))
}
