//! What must happen while the caller's own rights still stand: open what the session's uid could not reach, and put
//! bind sources where it can. Afterwards nothing of host uid 0 is left (host uid 0 without any capability still
//! reads /etc/shadow, by owner).
use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::cgroup::Group;
use crate::failure::{Context, Failure, Result};
use crate::gvisor::bundle::{HELPERS, RUNSC};
use crate::spec::{Cell, Ids, LaunchSpec, Mount};
use crate::sys;
use crate::vm::{loaded, machine};

/// Directories that exist on every Linux and that a session can do without: one is covered by our private tmpfs.
const BASES: [&str; 5] = ["/sys", "/mnt", "/media", "/srv", "/opt"];

/// A tool by descriptor: its path may be out of reach, or another file, by the time it runs.
pub struct Tool(OwnedFd);

impl Tool {
    pub fn open(path: &Path) -> Result<Self> {
        fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
            .open(path)
            .map(|file| Self(file.into()))
            .context(&format!("opening {}", path.display()))
    }

    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

pub struct Tools {
    pub bwrap: Tool,
    /// Where what is started enters the session's cgroup, if it has one.
    pub entry: Option<OwnedFd>,
}

/// Bytes of it, beside a machine's.
const OWN_ROOM: u64 = 32 << 20;

/// Our private tmpfs inside the outer mount namespace.
pub struct Stage {
    base: PathBuf,
    /// The spec's mounts, bind sources replaced by staged ones where needed.
    pub mounts: Vec<Mount>,
}

impl Stage {
    pub fn fuse(&self) -> PathBuf {
        self.base.join("fuse")
    }

    /// What to open as /dev/fuse: for root a staged node.
    pub fn fuse_device(&self) -> PathBuf {
        let staged = self.base.join(FUSE_DEVICE);
        if staged.exists() { staged } else { PathBuf::from("/dev/fuse") }
    }

    /// Puts an overlay without an upper layer over each plain root: its sockets and FIFOs are then the overlay's own,
    /// and whoever listens on the host's, now or later, is not reached (C-42). Where the kernel cannot lay one
    /// over that file system, or something is mounted beneath the root, the session does not start.
    pub fn seal(mut self, privileged: bool) -> Result<Self> {
        let empty = self.base.join(EMPTY);
        for (index, mount) in self.mounts.iter_mut().enumerate() {
            let Mount::Plain { source, target } = mount else { continue };
            let what = format!("making the sockets under {} unreachable", target.display());
            // A name of ours: the option string of overlayfs gives `:`, `,` and `\\` a meaning.
            let lower = self.base.join(index.to_string());
            let mut sealed = lower.clone();
            if !privileged {
                bind(source, &lower).context(&what)?;
                make_seal(&self.base, index).context(&what)?;
            }
            if fs::metadata(&lower).context(&what)?.is_dir() {
                sealed = self.base.join(seal_name(index));
                let layers = format!("lowerdir={}:{}", lower.display(), empty.display());
                let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
                sys::mount(Some(Path::new("ambit")), &sealed, Some("overlay"), flags, Some(&layers))
                    .context(&what)?;
            }
            *mount = Mount::Bind { source: sealed, target: target.clone(), write: false };
        }
        Ok(self)
    }

    /// The same for a cell of our own: these files and nothing of the session's.
    pub fn with(&self, mounts: Vec<Mount>) -> Self {
        Self { base: self.base.clone(), mounts }
    }

    /// Where the guest's trace arrives, when there is one.
    pub fn trace(&self) -> PathBuf {
        self.base.join(TRACE).join("socket")
    }

    /// Where a copy of a machine's file may stand.
    pub fn copy(&self, name: &str) -> PathBuf {
        self.base.join(COPIES).join(name)
    }

    /// This very program, where bubblewrap can bind it from.
    pub fn launcher(&self) -> PathBuf {
        self.base.join("launch")
    }
}

/// The session's own directories here: root makes the others.
const TRACE: &str = "trace";
const COPIES: &str = "copies";
const EMPTY: &str = "empty";

fn seal_name(index: usize) -> String {
    format!("sealed-{index}")
}

/// The place of a seal, and the layer beneath it that overlayfs asks for.
fn make_seal(base: &Path, index: usize) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(base.join(seal_name(index)))?;
    DirBuilder::new().mode(0o755).recursive(true).create(base.join(EMPTY))
}

pub fn open_tools(spec: &LaunchSpec, group: Option<&Group>) -> Result<Tools> {
    let entry = group.map(Group::entry).transpose().context("keeping the way into the cgroup")?;
    Ok(Tools { bwrap: Tool::open(&spec.tools.bwrap)?, entry })
}

/// True when the caller may give its processes another uid.
pub fn is_privileged() -> bool {
    // SAFETY: always succeeds.
    unsafe { libc::geteuid() == 0 }
}

const FUSE_DEVICE: &str = "fuse-device";

/// For root: binds every source into the private tmpfs, in a mount namespace that the later ones copy.
pub fn as_root(spec: &LaunchSpec) -> Result<Stage> {
    // SAFETY: plain flags; this process has one thread.
    sys::check(unsafe { libc::unshare(libc::CLONE_NEWNS) }).context("making a mount namespace")?;
    let base = private_tmpfs(spec, 0)?;
    for name in [TRACE, COPIES] {
        std::os::unix::fs::chown(base.join(name), Some(spec.host.uid), Some(spec.host.gid))
            .context("staging the session's own directories")?;
    }
    stage_fuse_device(&base.join(FUSE_DEVICE)).context("staging /dev/fuse")?;
    let mut mounts = mounts_of(spec);
    for (index, mount) in mounts.iter_mut().enumerate() {
        if let Mount::Bind { source, .. } | Mount::Plain { source, .. } = mount {
            let staged = base.join(index.to_string());
            bind(source, &staged).context(&format!("binding {}", source.display()))?;
            *source = staged;
        }
        if let Mount::Plain { .. } = mount {
            make_seal(&base, index).context("making the private directory")?;
        }
    }
    Ok(Stage { base, mounts })
}

/// For an ordinary user, inside the outer namespaces: sources are reachable as they are.
pub fn as_user(spec: &LaunchSpec) -> Result<Stage> {
    Ok(Stage { base: private_tmpfs(spec, libc::MS_NODEV)?, mounts: mounts_of(spec) })
}

/// The spec's mounts, and what the cell itself needs.
fn mounts_of(spec: &LaunchSpec) -> Vec<Mount> {
    let own = match &spec.cell {
        Cell::Bubblewrap {} => Vec::new(),
        Cell::Gvisor { runsc, helpers, .. } => {
            let programs = [(Some(runsc), RUNSC), (helpers.as_ref(), HELPERS)].into_iter();
            let found = programs.filter_map(|(source, target)| Some((source?.clone(), target.into())));
            found.map(|(source, target)| Mount::Bind { source, target, write: false }).collect()
        }
        Cell::Vm(machine) => machine::mounts(machine),
    };
    spec.mounts.iter().cloned().chain(own).collect()
}

/// Gives up host uid 0 for good.
pub fn become_user(ids: Ids) -> Result<()> {
    let what = "giving up root";
    // SAFETY: plain numbers; one thread, so the raw per-thread calls of libc cover the process.
    unsafe {
        sys::check(libc::setgroups(0, std::ptr::null())).context(what)?;
        sys::check(libc::setresgid(ids.gid, ids.gid, ids.gid)).context(what)?;
        sys::check(libc::setresuid(ids.uid, ids.uid, ids.uid)).context(what)?;
    }
    // SAFETY: plain numbers.
    if unsafe { libc::setuid(0) } == 0 {
        return Err(Failure::new(what, "root could be taken back"));
    }
    // The change made this process undumpable, and so its own /proc/self/uid_map root's.
    sys::prctl(libc::PR_SET_DUMPABLE, 1).context(what)?;
    Ok(())
}

/// A node of our own that the dedicated uid may open. The kernel wants /dev/fuse opened in the user namespace that
/// mounts, so an open descriptor cannot be brought along, and many machines keep the real node for root alone.
fn stage_fuse_device(node: &Path) -> io::Result<()> {
    let device = fs::metadata("/dev/fuse")?.rdev();
    let name = CString::new(node.as_os_str().as_bytes())?;
    // SAFETY: name is NUL-terminated; chmod follows because mknod obeys the umask.
    sys::check(unsafe { libc::mknod(name.as_ptr(), libc::S_IFCHR | 0o666, device) })?;
    fs::set_permissions(node, fs::Permissions::from_mode(0o666))
}

fn private_tmpfs(spec: &LaunchSpec, more_flags: libc::c_ulong) -> Result<PathBuf> {
    let what = "making the private directory";
    sys::mount(None, Path::new("/"), None, libc::MS_REC | libc::MS_SLAVE, None).context(what)?;
    let base = free_base(spec).ok_or_else(|| Failure::new(what, format!("none of {BASES:?} is free")))?;
    let flags = libc::MS_NOSUID | more_flags;
    let options = format!("mode=0755,size={}", OWN_ROOM + loaded::room(spec));
    sys::mount(Some(Path::new("ambit")), &base, Some("tmpfs"), flags, Some(&options)).context(what)?;
    for name in ["fuse", TRACE, COPIES] {
        DirBuilder::new().mode(0o755).create(base.join(name)).context(what)?;
    }
    // A copy: a bind would show the place of the installation in the agent's /proc/self/mountinfo.
    fs::copy("/proc/self/exe", base.join("launch")).context("staging the launcher")?;
    Ok(base)
}

fn free_base(spec: &LaunchSpec) -> Option<PathBuf> {
    let used = |base: &Path| {
        mounts_of(spec).iter().any(|mount| matches!(mount, Mount::Bind { source, .. } | Mount::Plain { source, .. } if is_below(source, base)))
            || fs::read_link("/proc/self/exe").is_ok_and(|own| own.starts_with(base))
    };
    BASES.iter().map(PathBuf::from).find(|base| base.is_dir() && !used(base))
}

/// Also when only the resolved source lies there.
fn is_below(source: &Path, base: &Path) -> bool {
    source.starts_with(base) || fs::canonicalize(source).is_ok_and(|real| real.starts_with(base))
}

fn bind(source: &Path, staged: &Path) -> io::Result<()> {
    if fs::metadata(source)?.is_dir() {
        DirBuilder::new().mode(0o755).create(staged)?;
        sys::mount(Some(source), staged, None, libc::MS_BIND | libc::MS_REC, None)
    } else {
        bind_file(source, staged)
    }
}

fn bind_file(source: &Path, staged: &Path) -> io::Result<()> {
    File::create_new(staged)?;
    sys::mount(Some(source), staged, None, libc::MS_BIND, None)
}
