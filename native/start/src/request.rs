//! What a session host must know to act for this process. Where it could not act just like it, there is no request.
use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::sys;

/// Variables that Node, its libraries or the loader read for themselves when they start: a host started without them.
const READ_AT_START: [&str; 6] = ["NODE_", "LD_", "OPENSSL_", "UV_", "MALLOC_", "GLIBC_"];
/// Of those, what a session does not use: the gate trusts Node's own roots, the system's, and those it is given.
const UNUSED: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "NODE_ENV"];

#[derive(Serialize)]
pub struct Request {
    v: u32,
    /// The installation: a host of another one is not ours.
    root: String,
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    cwd: String,
    umask: u32,
    /// Which of fds 0 to 2 are terminals.
    tty: [bool; 3],
}

impl Request {
    /// None for anything but `ambit run` from an ordinary surrounding.
    pub fn of(root: &Path, words: &[OsString]) -> Option<Self> {
        if words.first()? != "run" {
            return None;
        }
        // The text of help is the command line's, which a host does not have.
        if words.iter().take_while(|word| *word != "--").any(|word| word == "--help" || word == "-h") {
            return None;
        }
        let tty = sys::terminals()?;
        let env = env::vars_os()
            .map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect::<Option<Vec<(String, String)>>>()?;
        let named = env.len();
        let env: BTreeMap<_, _> = env.into_iter().collect();
        // A name that stands there twice: which one counts is getenv(3)'s to say.
        if env.len() != named {
            return None;
        }
        let read = |name: &String| READ_AT_START.iter().any(|prefix| name.starts_with(prefix));
        if env.keys().any(|name| read(name) && !UNUSED.contains(&name.as_str())) {
            return None;
        }
        Some(Self {
            v: 1,
            root: root.to_str()?.to_owned(),
            argv: words.iter().map(|word| word.to_str().map(str::to_owned)).collect::<Option<_>>()?,
            env,
            cwd: env::current_dir().ok()?.to_str()?.to_owned(),
            umask: sys::umask(),
            tty,
        })
    }

    /// The directory of Ambit's sockets; the twin of `resolvePaths` in src/lib/paths.ts. A wrong answer finds no host.
    pub fn run_dir(&self) -> Option<PathBuf> {
        let set = |name: &str| self.env.get(name).filter(|value| !value.is_empty());
        let dir = if let Some(home) = set("AMBIT_HOME") {
            Path::new(&self.cwd).join(home).join("run")
        } else if let Some(runtime) = set("XDG_RUNTIME_DIR") {
            Path::new(runtime).join("ambit")
        } else if let Some(state) = set("XDG_STATE_HOME") {
            Path::new(state).join("ambit/run")
        } else {
            Path::new(set("HOME")?).join(".local/state/ambit/run")
        };
        dir.is_absolute().then_some(dir)
    }
}
