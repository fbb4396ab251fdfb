//! The upper layer of a root with files under review.
//!
//! `files/` holds what the agent wrote, at the same relative paths. `meta/changes.jsonl` says, one JSON object a line,
//! the last of a path holding, what of the host's tree a path stands against:
//! `{"path","hidden","base"}` — `hidden`: the host's object is not seen here any more (deleted or replaced);
//! `base`: what the host's object was when the agent first changed it, for the three-way apply. Marks belong to paths
//! of the host's tree and never move. `meta/tmp/` holds copies under way.
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::hash::{digest, hex};
use crate::record::{path_bytes, path_text};
use crate::sys;

/// Files up to this size are hashed when the agent deletes them; larger ones are compared by size and mtime.
const MAX_HASHED_AT_DELETE: u64 = 4 << 20;

/// The host's object at a path when the agent first changed it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    #[serde(rename = "type")]
    pub kind: String,
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Seconds and nanoseconds, as text: `1700000000.000000001`.
    pub mtime: String,
    /// Of the content, or of a link's target. Null for directories and for large deleted files.
    pub sha256: Option<String>,
}

/// What a path of the host's tree stands for.
#[derive(Debug, Clone, Default)]
pub struct Mark {
    pub hidden: bool,
    pub base: Option<Base>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    path: String,
    hidden: bool,
    base: Option<Base>,
}

pub struct Overlay {
    pub files: Arc<OwnedFd>,
    tmp: OwnedFd,
    counter: AtomicU64,
    state: Mutex<State>,
    /// One copy-up at a time per root: two writers must not copy the same file twice.
    pub copying: Mutex<()>,
}

struct State {
    marks: HashMap<Vec<u8>, Mark>,
    log: File,
}

pub fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "file",
        FileType::Directory => "dir",
        FileType::Symlink => "link",
        _ => "other",
    }
}

pub fn mtime_text(stat: &Stat) -> String {
    format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec)
}

impl Overlay {
    /// Opens or creates the upper layer at `dir`.
    pub fn open(dir: &Path) -> io::Result<Self> {
        for name in ["files", "meta/tmp"] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir.join(name))?;
        }
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |name: &str| fs::open(dir.join(name), directory, Mode::empty());
        let path = dir.join("meta/changes.jsonl");
        let log = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(&path)?;
        let marks = read_marks(&path)?;
        Ok(Overlay {
            files: Arc::new(open("files")?),
            tmp: open("meta/tmp")?,
            counter: AtomicU64::new(0),
            state: Mutex::new(State { marks, log }),
            copying: Mutex::new(()),
        })
    }

    pub fn hides(&self, path: &[u8]) -> bool {
        self.state.lock().unwrap().marks.get(path).is_some_and(|mark| mark.hidden)
    }

    pub fn has_base(&self, path: &[u8]) -> bool {
        self.state.lock().unwrap().marks.get(path).is_some_and(|mark| mark.base.is_some())
    }

    /// Hides the host's object at `path` from now on.
    pub fn hide(&self, path: &[u8], base: Base) -> io::Result<()> {
        self.mark(path, true, base)
    }

    /// Notes what the host's object was; an earlier base stays.
    pub fn note(&self, path: &[u8], base: Base) -> io::Result<()> {
        self.mark(path, false, base)
    }

    fn mark(&self, path: &[u8], hidden: bool, base: Base) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let mut mark = state.marks.get(path).cloned().unwrap_or_default();
        mark.hidden |= hidden;
        mark.base.get_or_insert(base);
        state.log.write_all(&line(path, &mark)?)?;
        state.marks.insert(path.to_vec(), mark);
        Ok(())
    }

    /// Copies a regular file into `dir` under `name`; the base is what was copied.
    pub fn copy_file(&self, source: &File, stat: &Stat, dir: impl AsFd, name: &[u8]) -> io::Result<Base> {
        let temporary = format!("{}-{}", std::process::id(), self.counter.fetch_add(1, Ordering::Relaxed));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let target = File::from(sys::open(&self.tmp, temporary.as_bytes(), flags, 0o600)?);
        let base = copy_content(source, stat, &target)
            .and_then(|base| Ok(fs::renameat(&self.tmp, &temporary, dir, name).map(|()| base)?));
        if base.is_err() {
            let _ = fs::unlinkat(&self.tmp, &temporary, AtFlags::empty());
        }
        base
    }
}

/// Starts with a line break: a torn line before it then spoils only itself.
fn line(path: &[u8], mark: &Mark) -> io::Result<Vec<u8>> {
    let line = Line { path: path_text(path), hidden: mark.hidden, base: mark.base.clone() };
    let mut text = serde_json::to_vec(&line)?;
    text.insert(0, b'\n');
    text.push(b'\n');
    Ok(text)
}

/// Appends a mark to the file of a view that no longer runs.
pub fn write_mark(path: &Path, of: &[u8], mark: &Mark) -> io::Result<()> {
    OpenOptions::new().append(true).custom_flags(libc::O_NOFOLLOW).open(path)?.write_all(&line(of, mark)?)
}

/// Copies content, permissions and times; returns what the source was.
pub fn copy_content(source: &File, stat: &Stat, target: &File) -> io::Result<Base> {
    use std::os::unix::fs::FileExt;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    let mut at = 0;
    loop {
        let read = source.read_at(&mut buffer, at)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        target.write_all_at(&buffer[..read], at)?;
        at += read as u64;
    }
    fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o777))?;
    fs::futimens(target, &times(stat))?;
    Ok(Base { size: at, sha256: Some(hex(&hash.finalize())), ..base_of(stat) })
}

pub fn times(stat: &Stat) -> fs::Timestamps {
    let time = |sec, nsec| fs::Timespec { tv_sec: sec, tv_nsec: nsec };
    fs::Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec as _),
    }
}

fn base_of(stat: &Stat) -> Base {
    Base {
        kind: kind_name(sys::kind(stat)).to_owned(),
        size: stat.st_size as u64,
        mode: stat.st_mode & 0o777,
        mtime: mtime_text(stat),
        sha256: None,
    }
}

/// What the object `name` in `dir` is, for a later comparison.
pub fn describe(dir: impl AsFd, name: &[u8], stat: &Stat) -> io::Result<Base> {
    describe_up_to(dir, name, stat, MAX_HASHED_AT_DELETE)
}

/// The same with the digest whatever the size.
pub fn describe_fully(dir: impl AsFd, name: &[u8], stat: &Stat) -> io::Result<Base> {
    describe_up_to(dir, name, stat, u64::MAX)
}

/// True for a file that claims far more than it holds: `truncate -s 4T` costs its maker nothing, and whoever reads it
/// hours.
pub fn is_hollow(stat: &Stat) -> bool {
    let (size, held) = (stat.st_size as u64, stat.st_blocks as u64 * 512);
    sys::kind(stat).is_file() && size > 1 << 20 && size / 16 > held
}

fn describe_up_to(dir: impl AsFd, name: &[u8], stat: &Stat, limit: u64) -> io::Result<Base> {
    let sha256 = match sys::kind(stat) {
        FileType::RegularFile if stat.st_size as u64 <= limit && !is_hollow(stat) => {
            let file = sys::open(&dir, name, OFlags::RDONLY, 0);
            file.ok().and_then(|file| digest(&File::from(file), stat.st_size as u64).ok())
        }
        FileType::Symlink => Some(hex(&Sha256::digest(fs::readlinkat(&dir, name, Vec::new())?.to_bytes()))),
        _ => None,
    };
    Ok(Base { sha256, ..base_of(stat) })
}

/// The marks, the last of a path holding; paths without any say are left out.
pub fn read_marks(path: &Path) -> io::Result<HashMap<Vec<u8>, Mark>> {
    let mut marks = HashMap::new();
    for line in BufReader::new(File::open(path)?).lines() {
        // A torn last line is a change whose effect was not released.
        let Ok(line) = serde_json::from_str::<Line>(&line?) else { continue };
        let path = path_bytes(&line.path);
        match line {
            Line { hidden: false, base: None, .. } => drop(marks.remove(&path)),
            Line { hidden, base, .. } => drop(marks.insert(path, Mark { hidden, base })),
        }
    }
    Ok(marks)
}
