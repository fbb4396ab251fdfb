//! What `runsc` is given: an OCI bundle over mounts that bubblewrap has made.
//!
//! Read-only is a flag of the host's mounts, so that neither the guest's kernel nor its Gofer can lift it. The root
//! is served as one tree that only the session changes; what the host may change meanwhile (the view, plain roots) is
//! a mount of its own, which the Sentry asks about each time.
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::limits;
use crate::spec::{LaunchSpec, Mount};

/// Where the guest's root stands in bubblewrap's mount namespace.
pub const ROOT: &str = "/guest";
/// What is ours there, and what of it the guest sees.
pub const RUNSC: &str = "/.ambit/runsc";
/// Where newer versions look for what they start: beside themselves.
pub const HELPERS: &str = "/.ambit/gvisor-bin";
pub const BUNDLE: &str = "/.ambit/bundle";
pub const STATE: &str = "/.ambit/state";
pub const TRACE: &str = "/.ambit/trace.json";
pub const SOCKET: &str = "/.ambit/trace.sock";
pub const GUEST_LAUNCHER: &str = "/.ambit/launch";
pub const GUEST_CONFIG: &str = "/.ambit/guest.json";
/// The guest's /etc/ld.so.preload names it: src/runtime/prepare.ts.
pub const GUEST_COMPAT: &str = "/.ambit/compat.so";

/// What is preloaded there: compat/lib.rs.
pub const COMPAT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/compat.so"));

/// Capabilities in the cell's user namespace, which owns no network: runsc makes mounts, roots and namespaces with
/// them. Sentry and Gofer end up in user namespaces of their own, where what they keep concerns nobody else (outside.rs).
pub const CAPABILITIES: [&str; 12] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_SYS_CHROOT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_PTRACE",
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_SETPCAP",
    // To map uid 0 into the user namespaces of Sentry and Gofer (Linux 5.12).
    "CAP_SETFCAP",
];

/// A path of the guest's as the cell has it.
pub fn placed(target: &Path) -> PathBuf {
    Path::new(ROOT).join(target.strip_prefix("/").unwrap_or(target))
}

/// What `runsc` consists of, which its guest does not see.
pub fn is_program(target: &Path) -> bool {
    [RUNSC, HELPERS].iter().any(|own| target == Path::new(own))
}

/// Memory of the Sentry's own. Not where something else lies below: that is made before the guest runs.
pub fn is_internal(mount: &Mount, all: &[Mount]) -> bool {
    let below =
        |other: &&Mount| other.target() != mount.target() && other.target().starts_with(mount.target());
    matches!(mount, Mount::Tmpfs { .. }) && !all.iter().any(|other| below(&other))
}

/// `runsc` and its arguments. `directfs`: it has a flag of this name.
pub fn command(platform: Option<&str>, directfs: bool) -> Vec<String> {
    let root = format!("--root={STATE}");
    let trace = format!("--pod-init-config={TRACE}");
    let flags = [
        "runsc",
        &root,
        // Of this network namespace, which is the session's: its streams go where every program's go.
        "--network=host",
        "--ignore-cgroups",
        "--file-access=exclusive",
        "--file-access-mounts=shared",
        "--overlay2=none",
        "--host-uds=none",
        "--net-raw=false",
        &trace,
    ];
    let platform = platform.map(|name| format!("--platform={name}"));
    // Files are the Gofer's to open: with it the Sentry would have the host's trees, and the capabilities of one who
    // owns them.
    let gofer = directfs.then(|| "--directfs=false".to_string());
    let run = ["run", "--bundle", BUNDLE, "ambit"];
    flags.map(String::from).into_iter().chain(gofer).chain(platform).chain(run.map(String::from)).collect()
}

/// The OCI configuration.
pub fn config(spec: &LaunchSpec, mounts: &[Mount]) -> Value {
    // To map its uid 0 (guest.rs), and dropped before the command starts.
    let (mapping, none) = (json!(["CAP_SETFCAP"]), json!([]));
    let tasks = limits::tasks(spec.limits);
    // A user namespace of the Sentry's own, and one of the Gofer's: neither has a right over what else stands in the
    // cell, which on the ptrace platform shares a pid namespace with the Sentry.
    let namespaces = ["pid", "mount", "ipc", "uts", "user"].map(|kind| json!({ "type": kind }));
    let same = json!([{ "containerID": 0, "hostID": 0, "size": 1 }]);
    let limit = |kind: &str, value: u64| json!({ "type": kind, "soft": value, "hard": value });
    json!({
        "ociVersion": "1.0.2",
        "hostname": spec.hostname,
        "root": { "path": ROOT, "readonly": false },
        "process": {
            "terminal": spec.terminal,
            "user": { "uid": 0, "gid": 0 },
            "args": [GUEST_LAUNCHER, "guest"],
            "env": [],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": mapping, "effective": mapping, "permitted": mapping, "inheritable": none, "ambient": none,
            },
            "rlimits": [
                limit("RLIMIT_CORE", 0),
                limit("RLIMIT_NOFILE", spec.limits.open_files),
                limit("RLIMIT_NPROC", tasks),
            ],
        },
        "mounts": guest_mounts(spec, mounts),
        "linux": { "namespaces": namespaces, "uidMappings": same, "gidMappings": same },
    })
}

fn guest_mounts(spec: &LaunchSpec, mounts: &[Mount]) -> Vec<Value> {
    let memory = |target: &Path, size: u64, mode: u32| {
        let options = [format!("size={size}"), format!("mode={mode:o}")];
        json!({ "destination": target, "type": "tmpfs", "source": "tmpfs", "options": options })
    };
    let shared = |target: &Path, access: &str| json!({ "destination": target, "type": "bind", "source": placed(target), "options": ["rbind", access] });
    let plain = |target: &Path| {
        spec.mounts.iter().any(|mount| matches!(mount, Mount::Plain { .. }) && mount.target() == target)
    };
    let mut all = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
        memory(Path::new("/dev/shm"), (spec.limits.memory / 4).max(1 << 20), 0o1777),
    ];
    all.extend(mounts.iter().filter_map(|mount| match mount {
        Mount::Tmpfs { target, size, mode } if is_internal(mount, mounts) => {
            Some(memory(target, *size, *mode))
        }
        Mount::View { target, .. } | Mount::Bind { target, write: true, .. } => Some(shared(target, "rw")),
        Mount::Bind { target, .. } if plain(target) => Some(shared(target, "ro")),
        _ => None,
    }));
    all
}

/// The trace session: which commands run. Names of fields as `runsc trace metadata` lists them.
pub fn trace() -> Value {
    let point = |name: &str, fields: &[&str]| json!({ "name": name, "context_fields": fields });
    let mut points = vec![
        point("sentry/execve", &["group_id", "thread_id", "cwd"]),
        point("sentry/clone", &["group_id"]),
        point("sentry/exit_notify_parent", &["group_id"]),
    ];
    // Without text of the agent's choosing, so that they cannot be lost: a message that is not UTF-8 is. The version
    // of 2022 gives the end of a call the fields that its beginning asks for, so both are asked.
    for call in super::trace::EXEC_CALLS {
        points.extend(
            ["enter", "exit"]
                .map(|end| point(&format!("syscall/sysno/{call}/{end}"), &["group_id", "thread_id"])),
        );
    }
    let start = format!("syscall/sysno/{}/enter", super::trace::START_CALL);
    points.push(point(&start, &["group_id"]));
    let sink = json!({
        "name": "remote",
        "config": { "endpoint": SOCKET, "retries": 1_000_000_000, "backoff": "25us", "backoff_max": "5ms" },
    });
    json!({ "trace_session": { "name": "Default", "points": points, "sinks": [sink] } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tmpfs(target: &str) -> Mount {
        Mount::Tmpfs { target: target.into(), size: 1, mode: 0o755 }
    }

    #[test]
    fn memory_that_holds_something_of_ours_is_the_hosts() {
        let all = [tmpfs("/tmp"), tmpfs("/run"), Mount::Dir { target: "/run/ambit".into(), mode: 0o755 }];
        assert!(is_internal(&all[0], &all));
        assert!(!is_internal(&all[1], &all));
        assert_eq!(placed(Path::new("/run/ambit")), Path::new("/guest/run/ambit"));
    }
}
