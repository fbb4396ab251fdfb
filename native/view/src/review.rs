//! `ambit-view review SPEC` (`-`: standard input): what the agent changed under review, and its way onto the host. Runs outside, as the
//! user; everything in the upper layer was written by the agent, so no link is ever followed and no path resolved but
//! beneath held directories (F-04). Three-way: a file that no longer is what the agent started from is a
//! conflict and stays as it is.
mod apply;
mod list;
mod object;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::overlay::{Base, Mark, read_marks};
use crate::record::path_bytes;
use crate::sys;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ReviewSpec {
    version: u32,
    op: Op,
    root: PathBuf,
    upper: PathBuf,
    /// Who owns what is written; null: the caller.
    owner: Option<OwnerIds>,
    /// Null: everything.
    paths: Option<Vec<String>>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
struct OwnerIds {
    uid: u32,
    gid: u32,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Op {
    List,
    Show,
    Apply,
    Drop,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    path: String,
    kind: &'static str,
    #[serde(rename = "type")]
    file_type: &'static str,
    size: u64,
    /// Permission bits; null when deleted.
    mode: Option<u32>,
    sha256: Option<String>,
    base: Option<Base>,
    /// Of a link.
    target: Option<String>,
    /// The link leads to something outside the root.
    leads_out: bool,
    /// The host's object is not what the agent started from.
    conflict: bool,
}

struct Review {
    root: OwnedFd,
    files: OwnedFd,
    upper: PathBuf,
    marks: BTreeMap<Vec<u8>, Mark>,
    owner: Option<OwnerIds>,
}

/// Prints one JSON document; the exit code says whether the question could be answered at all.
pub fn run(spec: &Path) -> i32 {
    match try_run(spec) {
        Ok(answer) => {
            println!("{answer}");
            0
        }
        Err(why) => {
            eprintln!("ambit-view: {why}");
            1
        }
    }
}

fn try_run(spec: &Path) -> Result<Value, String> {
    let text = match spec.as_os_str() == "-" {
        true => {
            let mut text = Vec::new();
            io::Read::read_to_end(&mut io::stdin().lock(), &mut text).map(|_| text)
        }
        false => std::fs::read(spec),
    };
    answer(&text.map_err(|e| format!("cannot read the review spec: {e}"))?)
}

/// Does what the spec in `text` asks for.
pub fn answer(text: &[u8]) -> Result<Value, String> {
    let spec: ReviewSpec = serde_json::from_slice(text).map_err(|e| format!("bad review spec: {e}"))?;
    if spec.version != 1 {
        return Err("review spec version is not 1".into());
    }
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat2(
            fs::CWD,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )
        .map_err(|e| format!("{}: {e}", path.display()))
    };
    let review = Review {
        root: open(&spec.root)?,
        files: open(&spec.upper.join("files"))?,
        marks: read_marks(&spec.upper.join("meta/changes.jsonl"))
            .map_err(|e| format!("marks: {e}"))?
            .into_iter()
            .collect(),
        upper: spec.upper,
        owner: spec.owner,
    };
    rustix::process::umask(Mode::empty());
    let wanted: Option<BTreeSet<Vec<u8>>> =
        spec.paths.map(|paths| paths.iter().map(|p| path_bytes(p)).collect());
    let paths = review.touched().map_err(|e| e.to_string())?;
    let paths: Vec<Vec<u8>> =
        paths.into_iter().filter(|p| wanted.as_ref().is_none_or(|w| w.contains(p))).collect();
    let answer = match spec.op {
        Op::List => review.list(&paths).map(|changes| json!({ "changes": changes })),
        Op::Show => review.show(&paths),
        Op::Apply => review.apply(&paths),
        Op::Drop => review.drop_all(&paths),
    };
    answer.map_err(|e| e.to_string())
}

impl Review {
    /// Every path that the upper layer says something of.
    fn touched(&self) -> io::Result<BTreeSet<Vec<u8>>> {
        let mut paths: BTreeSet<Vec<u8>> = self.marks.keys().cloned().collect();
        sys::walk(&self.files, false, &mut |path, _| {
            paths.insert(path.to_vec());
            Ok(true)
        })?;
        Ok(paths)
    }
}
