//! What the agent sees: the root image, on top of it the session's mounts, read-only at the end.
//!
//! Targets come from the host, but directories on the way may be the agent's own from an earlier session: no link is
//! followed on the way to any of them.
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

use ambit_launch::failure::{Context, Result};
use ambit_launch::spec::Mount;
use ambit_launch::sys;

use crate::boot::{IMAGE, LAYER};
use crate::spec::Shape;
use crate::view;

const ROOT: &str = "/layer/root";
const PLAIN: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// They name keyrings.
const SHUT: [&str; 2] = ["/proc/keys", "/proc/key-users"];

/// Builds what is the same in every session. Nothing of it shows outside this mount namespace; the view will show in it.
pub fn prepare() -> Result<()> {
    sys::mount(None, Path::new("/"), None, libc::MS_REC | libc::MS_SLAVE, None).context("keeping mounts")?;
    overlay().context("laying the session over the image")?;
    devices().context("making /dev")?;
    proc().context("making /proc")
}

/// Completes the tree and makes it the root of this mount namespace.
pub fn lay(shape: &Shape) -> Result<()> {
    sys::mount(None, Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE, None)
        .context("keeping mounts")?;
    shared_memory(shape.shared_memory).context("making /dev/shm")?;
    let mut places = Places::default();
    for mount in &shape.mounts {
        places.add(mount, shape).context(&format!("mounting {}", mount.target().display()))?;
    }
    let read_only = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | PLAIN;
    sys::mount(None, Path::new(ROOT), None, read_only, None).context("making / read-only")?;
    enter().context("entering the cell's root")
}

fn overlay() -> io::Result<()> {
    let place = |name: &str| Path::new(LAYER).join(name);
    ["upper", "work", "root", "files"].iter().try_for_each(|name| fs::create_dir(place(name)))?;
    let options = format!("lowerdir={IMAGE},upperdir={LAYER}/upper,workdir={LAYER}/work");
    sys::mount(None, Path::new(ROOT), Some("overlay"), PLAIN, Some(&options))
}

fn inside(path: &str) -> PathBuf {
    Path::new(ROOT).join(path.trim_start_matches('/'))
}

fn devices() -> io::Result<()> {
    let dev = inside("/dev");
    fs::create_dir_all(&dev)?;
    sys::mount(None, &dev, Some("tmpfs"), libc::MS_NOSUID | libc::MS_NOEXEC, Some("mode=755,size=64k"))?;
    for name in DEVICES {
        File::create(dev.join(name))?;
        let source = Path::new("/dev").join(name);
        sys::mount(Some(&source), &dev.join(name), None, libc::MS_BIND, None)?;
    }
    for (name, target) in LINKS {
        std::os::unix::fs::symlink(target, dev.join(name))?;
    }
    fs::create_dir(dev.join("pts"))?;
    let options = "newinstance,ptmxmode=0666,mode=620";
    sys::mount(None, &dev.join("pts"), Some("devpts"), libc::MS_NOSUID | libc::MS_NOEXEC, Some(options))?;
    fs::create_dir(dev.join("shm"))
}

/// The last that is made in /dev, which cannot be written to then.
fn shared_memory(size: u64) -> io::Result<()> {
    let dev = inside("/dev");
    let options = format!("mode=1777,size={size}");
    sys::mount(None, &dev.join("shm"), Some("tmpfs"), PLAIN, Some(&options))?;
    let read_only = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NOEXEC;
    sys::mount(None, &dev, None, read_only, None)
}

fn proc() -> io::Result<()> {
    let place = inside("/proc");
    fs::create_dir_all(&place)?;
    sys::mount(None, &place, Some("proc"), PLAIN | libc::MS_NOEXEC, None)?;
    for listing in SHUT.iter().map(|path| inside(path)).filter(|path| path.exists()) {
        sys::mount(Some(Path::new("/dev/null")), &listing, None, libc::MS_BIND, None)?;
    }
    Ok(())
}

/// Where mounts go. Most of them lie beside the one before, whose directory is kept until one is mounted.
#[derive(Default)]
struct Places {
    parent: Option<(PathBuf, OwnedFd)>,
}

impl Places {
    fn add(&mut self, mount: &Mount, shape: &Shape) -> io::Result<()> {
        let target = mount.target();
        match mount {
            Mount::View { root, .. } => {
                let source = Path::new(view::PLACE).join(root.to_string());
                let place = self.place(target, fs::metadata(&source)?.is_dir())?;
                bind(&source, &place, 0)?;
            }
            Mount::Tmpfs { size, mode, .. } => {
                let (uid, gid) = (shape.uid, shape.gid);
                let options = format!("mode={mode:o},size={size},uid={uid},gid={gid}");
                let place = self.place(target, true)?;
                sys::mount(None, &through(&place), Some("tmpfs"), PLAIN, Some(&options))?;
            }
            Mount::Dir { mode, .. } => {
                let held = self.place(target, true)?;
                let place = through(&held);
                fs::set_permissions(&place, fs::Permissions::from_mode(*mode))?;
                chown(&place, Some(shape.uid), Some(shape.gid))?;
            }
            Mount::Symlink { link, .. } => return self.symlink(target, link),
            Mount::File { content, mode, .. } => return self.file(target, content, *mode),
            Mount::Bind { .. } | Mount::Plain { .. } => {
                return Err(io::Error::other("the host's own files come through the view"));
            }
        }
        self.parent = None;
        Ok(())
    }

    fn file(&mut self, target: &Path, content: &str, mode: u32) -> io::Result<()> {
        let files = Path::new(LAYER).join("files");
        let source = files.join(fs::read_dir(&files)?.count().to_string());
        fs::write(&source, content)?;
        fs::set_permissions(&source, fs::Permissions::from_mode(mode))?;
        bind(&source, &self.place(target, false)?, libc::MS_RDONLY)
    }

    fn symlink(&mut self, target: &Path, link: &str) -> io::Result<()> {
        let (parent, name) = self.parent(target)?;
        match symlink_at(link, parent, &name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made,
        }
        let path = through(parent).join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        match fs::read_link(&path) {
            Ok(there) if there.as_os_str().as_bytes() == link.as_bytes() => return Ok(()),
            Ok(_) => fs::remove_file(&path)?,
            // An empty directory of the image makes room; anything else is in the way.
            Err(_) => drop(fs::remove_dir(&path)),
        }
        symlink_at(link, parent, &name)
    }

    /// The mount point at `target`, made where it is missing.
    fn place(&mut self, target: &Path, is_dir: bool) -> io::Result<OwnedFd> {
        let (parent, name) = self.parent(target)?;
        if let Some(found) = open(parent.as_fd(), &name, 0)? {
            let kind = File::from(found.try_clone()?).metadata()?.file_type();
            if kind.is_dir() == is_dir && !kind.is_symlink() {
                return Ok(found);
            }
            if !kind.is_symlink() {
                return Err(in_the_way(&name));
            }
            // SAFETY: a descriptor and a C string.
            sys::check(unsafe { libc::unlinkat(parent.as_raw_fd(), name.as_ptr(), 0) })?;
        }
        make(parent.as_fd(), &name, is_dir)?;
        open(parent.as_fd(), &name, libc::O_NOFOLLOW)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The directory that `target` lies in, made where it is missing, and its name there.
    fn parent(&mut self, target: &Path) -> io::Result<(&OwnedFd, CString)> {
        let (Some(above), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let kept = self.parent.take().filter(|(path, _)| path == above);
        let kept = kept.map_or_else(|| open_all(above).map(|found| (above.to_path_buf(), found)), Ok)?;
        Ok((&self.parent.insert(kept).1, CString::new(name.as_bytes())?))
    }
}

fn bind(source: &Path, place: &OwnedFd, flags: libc::c_ulong) -> io::Result<()> {
    sys::mount(Some(source), &through(place), None, libc::MS_BIND, None)?;
    // Not through the descriptor: that still means what lies beneath.
    let path = fs::read_link(through(place))?;
    sys::mount(None, &path, None, libc::MS_REMOUNT | libc::MS_BIND | PLAIN | flags, None)
}

/// Path of an O_PATH descriptor, for calls that take only paths. It leads to the object itself.
fn through(place: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()))
}

/// A directory of the cell's, made where it is missing.
fn open_all(path: &Path) -> io::Result<OwnedFd> {
    let opened = |at: BorrowedFd, name: &CStr| open(at, name, libc::O_DIRECTORY);
    let mut at =
        opened(File::open("/")?.as_fd(), &sys::cpath(Path::new(ROOT))?)?.ok_or(io::ErrorKind::NotFound)?;
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        let name = CString::new(name.as_bytes())?;
        let found = match opened(at.as_fd(), &name)? {
            Some(found) => found,
            None => {
                make(at.as_fd(), &name, true)?;
                opened(at.as_fd(), &name)?.ok_or(io::ErrorKind::NotFound)?
            }
        };
        at = found;
    }
    Ok(at)
}

/// `None` when there is nothing of that name. A link is opened as such, and is no directory.
fn open(parent: BorrowedFd, name: &CStr, flags: i32) -> io::Result<Option<OwnedFd>> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC | flags;
    // SAFETY: a descriptor, a C string and flags.
    match sys::check(unsafe { libc::openat(parent.as_raw_fd(), name.as_ptr(), flags) } as RawFd) {
        Ok(fd) => Ok(Some(sys::owned(fd))),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT) => Ok(None),
            Some(libc::ENOTDIR | libc::ELOOP) => Err(in_the_way(name)),
            _ => Err(error),
        },
    }
}

fn in_the_way(name: &CStr) -> io::Error {
    io::Error::other(format!("{name:?} stands in the way"))
}

fn make(parent: BorrowedFd, name: &CStr, is_dir: bool) -> io::Result<()> {
    // SAFETY: a descriptor, a C string and a mode.
    unsafe {
        let made = match is_dir {
            true => libc::mkdirat(parent.as_raw_fd(), name.as_ptr(), 0o755),
            false => libc::mknodat(parent.as_raw_fd(), name.as_ptr(), libc::S_IFREG | 0o644, 0),
        };
        sys::check(made).map(drop)
    }
}

fn symlink_at(link: &str, parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    let link = CString::new(link)?;
    // SAFETY: C strings and a descriptor.
    sys::check(unsafe { libc::symlinkat(link.as_ptr(), parent.as_raw_fd(), name.as_ptr()) }).map(drop)
}

/// The new root takes the old one's place; nothing that lies beneath has a path any more.
fn enter() -> io::Result<()> {
    std::env::set_current_dir(ROOT)?;
    sys::mount(Some(Path::new(".")), Path::new("/"), None, libc::MS_MOVE, None)?;
    // SAFETY: a C string.
    sys::check(unsafe { libc::chroot(c".".as_ptr()) })?;
    std::env::set_current_dir("/")
}
