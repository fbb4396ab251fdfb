//! Waits for the guest, and looks at it from outside: what its own kernel says of itself, and what the host's kernel
//! says of the Sentry and the Gofer (C-49).
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use super::report::{MAX_LINE, Report};
use super::trace::Trace;
use crate::cell_end::{Cell, Stdio};
use crate::control::{Control, ControlState, Orders};
use crate::failure::{Context, Failure, Result};
use crate::inside::{field, seen};
use crate::namespaces;
use crate::sys;

const WHAT: &str = "starting gVisor";

/// Returns what is enforced when the guest's command waits for the word to start.
pub fn stand(
    cell: &Cell,
    stdio: &Stdio,
    trace: &Trace,
    supervisor: &Control,
    orders: &mut Orders,
) -> Result<Vec<ControlState>> {
    match listen(cell, stdio, supervisor, orders)? {
        Report::Failed { what, why } => Err(Failure::new(&what, why)),
        Report::Ready { main, kernel, controls } => {
            trace.stands(cell.init_pid, main)?;
            namespaces::end_user_namespaces(cell.init_pid)
                .context("leaving no user namespaces in the cell")?;
            Ok(look(cell.init_pid, &kernel)?.into_iter().chain(controls).collect())
        }
    }
}

/// The guest's report, or what gVisor said instead of it.
fn listen(cell: &Cell, stdio: &Stdio, supervisor: &Control, orders: &mut Orders) -> Result<Report> {
    let sources: Vec<RawFd> = match stdio {
        Stdio::Terminal(master) => vec![master.as_raw_fd()],
        Stdio::Pipes { output, errors, .. } => vec![output.as_raw_fd(), errors.as_raw_fd()],
    };
    let mut said = vec![Vec::new(); sources.len()];
    loop {
        let watched = [&[supervisor.as_fd().as_raw_fd(), cell.fd()], &sources[..]].concat();
        let ready = sys::poll(&watched, None).context(WHAT)?;
        let mut news = false;
        for (index, source) in sources.iter().enumerate() {
            if ready[index + 2] & libc::POLLIN != 0 && said[index].len() < MAX_LINE {
                news |= read_some(*source, &mut said[index]);
            }
        }
        if let Some(report) = Report::find(&said[0]) {
            return Ok(report);
        }
        if said[0].len() >= MAX_LINE || (ready[1] != 0 && !news) {
            return Err(Failure::new(WHAT, complaint(&said)));
        }
        if ready[0] != 0 {
            orders.read(supervisor.as_fd())?;
            if orders.kills() {
                return Err(Failure::new(WHAT, "the supervisor called it off"));
            }
        }
    }
}

/// False at its end.
fn read_some(fd: RawFd, into: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 4096];
    match crate::relay::user(fd).read(&mut chunk) {
        Ok(length) if length > 0 => {
            into.extend_from_slice(&chunk[..length]);
            true
        }
        _ => false,
    }
}

fn complaint(said: &[Vec<u8>]) -> String {
    let text: Vec<_> = said.iter().map(|said| String::from_utf8_lossy(said).trim().to_string()).collect();
    let text = text.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() {
        "it ended before the guest reported".into()
    } else {
        text.chars().take(500).collect()
    }
}

/// What the host's kernel says. `init`: PID 1 of the cell, as we count.
fn look(init: libc::pid_t, guest_kernel: &str) -> Result<Vec<ControlState>> {
    let own = fs::read_to_string("/proc/version").context(WHAT)?;
    let processes = PathBuf::from(format!("/proc/{init}/root/proc"));
    let sentry = find(&processes, SENTRY)?;
    let gofer = find(&processes, "runsc-gofer")?;
    let mut controls: Vec<ControlState> = ["user", "mnt", "ipc", "pid", "net"]
        .iter()
        .map(|kind| {
            let (theirs, ours) = (namespace(&sentry, kind), namespaces::identity(kind));
            let holds = !theirs.is_empty() && !ours.is_empty() && ((theirs == ours) == (*kind == "net"));
            let names = [("mnt", "mount"), ("net", "network")];
            let name = names.iter().find(|(short, _)| short == kind).map_or(*kind, |(_, long)| *long);
            seen(&format!("{name}-namespace"), holds, &format!("of the Sentry: {theirs}"))
        })
        .collect();
    let version = guest_kernel.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    controls.extend([
        seen(
            "own-kernel",
            !guest_kernel.is_empty() && guest_kernel != own,
            &format!("the agent's is {version}"),
        ),
        sentry_confined(&sentry, &[processes.join("1"), gofer.clone()]),
        gofer_confined(&gofer, &sentry),
        seen("unix-sockets", true, "gVisor hands none of the host's through"),
    ]);
    Ok(controls)
}

/// The file that is the guest's memory. Much of it is mapped by nobody at a given moment, so that no process' size
/// tells how large it is.
pub fn memory(processes: &Path) -> Result<fs::File> {
    let sentry = find(processes, SENTRY)?;
    let descriptors = fs::read_dir(sentry.join("fd")).context(WHAT)?.flatten().map(|entry| entry.path());
    let is_memory = |path: &PathBuf| {
        fs::read_link(path).is_ok_and(|link| link.to_string_lossy().starts_with("/memfd:runsc-memory"))
    };
    let path = descriptors.into_iter().find(is_memory);
    fs::File::open(path.ok_or_else(|| Failure::new(WHAT, "the guest's memory was not found"))?).context(WHAT)
}

const SENTRY: &str = "runsc-sandbox";

/// The process directory of the one that goes by this name.
fn find(processes: &Path, name: &str) -> Result<PathBuf> {
    let named = |directory: &PathBuf| {
        let line = fs::read(directory.join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).next() == Some(name.as_bytes())
    };
    let all = fs::read_dir(processes).context(WHAT)?.flatten().map(|entry| entry.path());
    all.filter(|path| path.join("cmdline").exists())
        .find(named)
        .ok_or_else(|| Failure::new(WHAT, format!("no process is named {name}")))
}

/// Empty when it cannot be read.
fn namespace(process: &Path, kind: &str) -> String {
    fs::read_link(process.join("ns").join(kind))
        .map(|link| link.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Two namespaces, each of which is known.
fn differ(one: &str, other: &str) -> bool {
    !one.is_empty() && !other.is_empty() && one != other
}

fn status(process: &Path) -> String {
    fs::read_to_string(process.join("status")).unwrap_or_default()
}

/// By a filter of its own: one is ours, which every process of gVisor's has from its start (seccomp.rs).
fn filters_itself(status: &str) -> bool {
    field(status, "Seccomp_filters").parse().is_ok_and(|count: u32| count > 1)
}

/// Every thread under a filter, no rights, nothing of the host in its root, and `others` out of its reach: where it
/// stands in their pid namespace (the ptrace platform), it would have the right to trace them in their user namespace.
fn sentry_confined(sentry: &Path, others: &[PathBuf]) -> ControlState {
    let threads: Vec<String> = fs::read_dir(sentry.join("task"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|task| status(&task.path()))
        .collect();
    let filtered = !threads.is_empty() && threads.iter().all(|status| filters_itself(status));
    let powerless = threads.iter().all(|status| {
        ["CapEff", "CapPrm"]
            .iter()
            .all(|set| u64::from_str_radix(field(status, set), 16).is_ok_and(|held| held & !OVER_NOBODY == 0))
    });
    let names = fs::read_dir(sentry.join("root"));
    let bare = names.is_ok_and(|names| {
        names
            .flatten()
            .all(|entry| ["proc", "etc", "runsc", "dev"].iter().any(|known| entry.file_name() == *known))
    });
    let own = namespace(sentry, "user");
    let apart = others.iter().all(|other| differ(&own, &namespace(other, "user")));
    let detail = format!(
        "seccomp on {} threads: {filtered}; bare root: {bare}; a user namespace of its own: {apart}, and capabilities over nobody else: {powerless}",
        threads.len()
    );
    seen("sentry-confined", filtered && powerless && bare && apart, &detail)
}

/// What a Sentry may hold in a user namespace in which nobody else is and which owns no network: CAP_SYS_PTRACE, which
/// the ptrace platform needs; CAP_SETFCAP, which it is given because its guest is (bundle.rs); CAP_NET_BIND_SERVICE and
/// CAP_NET_ADMIN, which newer versions keep for the host's network.
const OVER_NOBODY: u64 = 1 << 10 | 1 << 12 | 1 << 19 | 1 << 31;

fn gofer_confined(gofer: &Path, sentry: &Path) -> ControlState {
    let filtered = filters_itself(&status(gofer));
    let apart =
        ["mnt", "net", "pid"].iter().all(|kind| differ(&namespace(gofer, kind), &namespace(sentry, kind)));
    let detail = format!("a process of its own under seccomp: {filtered}; without a network: {apart}");
    seen("gofer-confined", filtered && apart, &detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::State;

    /// What /proc would hold of a confined process in these namespaces.
    fn process(name: &str, namespaces: &[(&str, &str)]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ambit-outside-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("ns")).unwrap();
        fs::write(path.join("status"), "Seccomp:\t2\nSeccomp_filters:\t2\n").unwrap();
        for (kind, which) in namespaces {
            std::os::unix::fs::symlink(format!("{kind}:[{which}]"), path.join("ns").join(kind)).unwrap();
        }
        path
    }

    #[test]
    fn a_namespace_that_cannot_be_read_is_not_apart() {
        let gofer = process("gofer", &[("mnt", "1"), ("net", "1"), ("pid", "1")]);
        let sentry = process("sentry", &[("mnt", "2"), ("net", "2"), ("pid", "2")]);
        assert!(gofer_confined(&gofer, &sentry).state == State::Fully, "control");
        fs::remove_file(sentry.join("ns/net")).unwrap();
        assert!(gofer_confined(&gofer, &sentry).state == State::Not);
        [gofer, sentry].iter().for_each(|path| fs::remove_dir_all(path).unwrap());
    }
}
