//! What the guest is told of its session. The host's own files come through the view; of binds only the session's
//! small /etc is left, which travels as it is.
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::failure::{Context, Failure, Result};
use crate::spec::{Ids, LaunchSpec, Limits, Mount};
use crate::{pty, tap};

pub const VERSION: u32 = 1;
/// Of what a bind holds. The guest takes 16 MiB in all.
const MOST_BYTES: u64 = 4 << 20;
const MOST_FILES: usize = 1000;
const DEEPEST: usize = 16;

#[derive(Serialize)]
pub struct Start<'a> {
    v: u32,
    session: &'a str,
    hostname: &'a str,
    inside: Ids,
    mounts: Vec<Mount>,
    argv: &'a [String],
    env: &'a BTreeMap<String, String>,
    cwd: &'a Path,
    terminal: bool,
    window: Option<[u16; 2]>,
    limits: Limits,
    entropy: String,
    time: u64,
    net: Net,
}

#[derive(Serialize)]
pub struct Net {
    address: Ipv4Addr,
    prefix: u8,
    gateway: Ipv4Addr,
}

/// The same in every machine.
pub const NET: Net = Net { address: tap::GUEST, prefix: tap::PREFIX, gateway: tap::GATEWAY };

/// `mounts`: the session's, as staged.
pub fn describe<'a>(spec: &'a LaunchSpec, mounts: &[Mount]) -> Result<Start<'a>> {
    let mut all = Vec::new();
    let shown: Vec<&Path> =
        mounts.iter().filter(|mount| matches!(mount, Mount::View { .. })).map(Mount::target).collect();
    for mount in mounts {
        match mount {
            Mount::Bind { source, target, write: false } => {
                copy(source, target, DEEPEST, &shown, &mut all)
                    .context(&format!("reading {}", target.display()))?;
            }
            Mount::Bind { target, .. } | Mount::Plain { target, .. } => {
                let why = format!("{} would have to come through the view", target.display());
                return Err(Failure::new("describing the session", why));
            }
            mount => all.push(mount.clone()),
        }
    }
    Ok(Start {
        v: VERSION,
        session: &spec.session,
        hostname: &spec.hostname,
        inside: spec.inside,
        mounts: all,
        argv: &spec.argv,
        env: &spec.env,
        cwd: &spec.cwd,
        terminal: spec.terminal,
        window: spec.terminal.then(|| pty::size(0)).flatten(),
        limits: spec.limits,
        entropy: entropy().context("drawing random numbers")?,
        time: now(),
        net: NET,
    })
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn entropy() -> io::Result<String> {
    let mut bytes = [0; 64];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A small tree as mounts of its files and links, without what of it the view shows.
fn copy(source: &Path, target: &Path, depth: usize, shown: &[&Path], all: &mut Vec<Mount>) -> io::Result<()> {
    if shown.contains(&target) {
        return Ok(());
    }
    let found = fs::symlink_metadata(source)?;
    if all.len() > MOST_FILES || depth == 0 || found.len() > MOST_BYTES {
        return Err(io::Error::other("too much for a machine"));
    }
    if found.is_symlink() {
        let link = fs::read_link(source)?.to_string_lossy().into_owned();
        all.push(Mount::Symlink { target: target.into(), link });
    } else if found.is_file() {
        all.push(Mount::File { target: target.into(), content: fs::read_to_string(source)?, mode: 0o644 });
    } else if found.is_dir() {
        let mut entries = fs::read_dir(source)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            copy(&entry.path(), &target.join(entry.file_name()), depth - 1, shown, all)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_view_shows_is_not_copied() {
        let dir = std::env::temp_dir().join(format!("ambit-start-{}", std::process::id()));
        fs::create_dir_all(dir.join("ssl")).unwrap();
        fs::write(dir.join("ssl/roots.pem"), "many").unwrap();
        fs::write(dir.join("ssl/one.pem"), "one").unwrap();
        let copied = |shown: &[&Path]| {
            let mut all = Vec::new();
            copy(&dir, Path::new("/etc"), DEEPEST, shown, &mut all).unwrap();
            all.iter().map(|mount| mount.target().display().to_string()).collect::<Vec<_>>()
        };
        let (whole, shown) = (copied(&[]), copied(&[Path::new("/etc/ssl/roots.pem")]));
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(whole, ["/etc/ssl/one.pem", "/etc/ssl/roots.pem"]);
        assert_eq!(shown, ["/etc/ssl/one.pem"]);
    }
}
