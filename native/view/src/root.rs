//! A root of the profile, held open for the whole session.
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};

use crate::overlay::Overlay;
use crate::rules::Rules;
use crate::spec::{Access, RootSpec};

pub struct Root {
    pub path: PathBuf,
    pub label: String,
    pub access: Access,
    pub rules: Rules,
    pub fd: Arc<OwnedFd>,
    pub overlay: Option<Overlay>,
    /// Place in the profile's plan, for refusals.
    pub rule: String,
}

impl Root {
    pub fn open(spec: &RootSpec) -> Result<Self, String> {
        let say = |what: &str| format!("root {} ({}): {what}", spec.index, spec.path.display());
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // A link on the way to a root would let whoever may replace it choose what the session sees (F-05).
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let fd = fs::openat2(fs::CWD, &spec.path, flags, Mode::empty(), resolve)
            .map_err(|e| say(&e.to_string()))?;
        let kind = FileType::from_raw_mode(fs::fstat(&fd).map_err(|e| say(&e.to_string()))?.st_mode);
        if !kind.is_dir() && !kind.is_file() {
            return Err(say("neither a directory nor a file"));
        }
        let reviewed =
            spec.access != Access::Read && (spec.access == Access::Review || !spec.review.is_empty());
        let overlay = match &spec.upper {
            Some(upper) if reviewed => {
                Some(Overlay::open(upper).map_err(|e| say(&format!("upper layer: {e}")))?)
            }
            _ => None,
        };
        if overlay.is_some() && !kind.is_dir() {
            return Err(say("a single file cannot be under review; name its directory"));
        }
        Ok(Root {
            path: spec.path.clone(),
            label: spec.label.clone(),
            access: spec.access,
            rules: Rules::new(spec).map_err(|e| say(&e.to_string()))?,
            fd: Arc::new(fd),
            overlay,
            rule: spec.rule.clone().unwrap_or_else(|| format!("root {}", spec.index)),
        })
    }
}
