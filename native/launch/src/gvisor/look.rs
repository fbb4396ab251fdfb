//! A look from the inside of the guest: what os-sandbox tries too, as far as this kernel has it.
use std::fs;

use crate::control::ControlState;
use crate::inside::{capabilities, read_only_root, seen, system_calls};

pub fn look() -> Vec<ControlState> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    // SAFETY: plain numbers. gVisor's status has no such line.
    let no_new_privileges = unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) } == 1;
    vec![
        seen("no-new-privileges", no_new_privileges, "PR_GET_NO_NEW_PRIVS: 1"),
        // gVisor keeps no ambient set apart.
        capabilities(&status, &["CapInh", "CapPrm", "CapEff", "CapBnd"]),
        system_calls(&status),
        read_only_root(),
    ]
}
