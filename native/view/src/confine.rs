//! What `ambit-view` takes from itself: it speaks to the agent's kernel, so a flaw in it must not reach further than
//! its roots.
use std::os::fd::AsFd;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus,
};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use crate::spec::{Access, ViewSpec};
use crate::view::View;

/// Dies with the session's supervisor: a view without a monitor must not serve.
pub fn die_with_parent() {
    let parent = rustix::process::getppid();
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    if rustix::process::getppid() != parent {
        std::process::exit(1);
    }
}

/// It starts nothing and speaks to nobody but the kernel and its supervisor, and nobody looks into it.
pub fn lock() -> Result<(), String> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| format!("dumpable: {e}"))?;
    ambit_shared::lockdown::lock().map_err(|e| format!("lockdown: {e}"))
}

/// A guest's kernel checks permissions for itself, and whoever is root in it does not care. So here the session's own
/// uid serves, and the host's kernel checks: root gives itself up, for good. Where root is itself the owner, it keeps
/// its uid and loses what makes that more than a name: then only what root owns, or what is open to all, is its own.
pub fn become_owner(spec: &ViewSpec) -> Result<(), String> {
    let owner = spec.owner;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    if owner.host_uid == 0 {
        return drop_capabilities().map_err(|e| format!("serving without capabilities: {e}"));
    }
    let say = |e: &dyn std::fmt::Display| format!("serving as {}: {e}", owner.host_uid);
    for upper in spec.roots.iter().filter_map(|root| root.upper.as_deref()) {
        give(upper, owner.host_uid, owner.host_gid).map_err(|e| say(&e))?;
    }
    let (uid, gid) = (Uid::from_raw(owner.host_uid), Gid::from_raw(owner.host_gid));
    set_thread_groups(&[]).map_err(|e| say(&e))?;
    set_thread_res_gid(gid, gid, gid).map_err(|e| say(&e))?;
    set_thread_res_uid(uid, uid, uid).map_err(|e| say(&e))?;
    // The kernel forgets both when the uid changes.
    die_with_parent();
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| say(&e))
}

fn drop_capabilities() -> rustix::io::Result<()> {
    set_thread_groups(&[])?;
    for (_, capability) in CapabilitySet::all().iter_names() {
        // EINVAL: a kernel that knows fewer.
        match remove_capability_from_bounding_set(capability) {
            Err(Errno::INVAL) | Ok(()) => {}
            Err(error) => return Err(error),
        }
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

/// Links are given, not followed.
fn give(path: &Path, uid: u32, gid: u32) -> std::io::Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
    if path.symlink_metadata()?.is_dir() {
        std::fs::read_dir(path)?.try_for_each(|entry| give(&entry?.path(), uid, gid))?;
    }
    Ok(())
}

/// Raises the descriptor limit as far as allowed and returns it.
pub fn raise_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20).min(1 << 20) as usize
}

/// Landlock: the host's tree beneath roots (only to read where changes go to the upper layer), the upper layers, and
/// nothing else. Returns what was enforced.
pub fn restrict(spec: &ViewSpec, view: &View) -> Result<&'static str, String> {
    rustix::thread::set_no_new_privs(true).map_err(|e| format!("no_new_privs: {e}"))?;
    let abi = ABI::V5;
    let say = |e: &dyn std::fmt::Display| format!("landlock: {e}");
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))
        .and_then(|r| r.create())
        .map_err(|e| say(&e))?;
    let read = AccessFs::from_read(abi) & !AccessFs::Execute;
    let write = AccessFs::from_all(abi)
        & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
    for (root, view_root) in spec.roots.iter().zip(&view.roots) {
        let access: BitFlags<AccessFs> = if root.access == Access::Write { write } else { read };
        let stat = rustix::fs::fstat(&view_root.fd).map_err(|e| say(&e))?;
        let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
        let access = if is_file { access & AccessFs::from_file(abi) } else { access };
        rules = rules.add_rule(PathBeneath::new(view_root.fd.as_fd(), access)).map_err(|e| say(&e))?;
        if let Some(upper) = root.upper.as_ref().filter(|_| view_root.overlay.is_some()) {
            let fd = PathFd::new(upper).map_err(|e| say(&e))?;
            rules = rules.add_rule(PathBeneath::new(fd, write)).map_err(|e| say(&e))?;
        }
    }
    let status = rules.restrict_self().map_err(|e| say(&e))?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => "fully",
        RulesetStatus::PartiallyEnforced => "partly",
        RulesetStatus::NotEnforced => "not",
    })
}
