//! What `ambitd` and `ambit run` give up (native/shared/src/lockdown.rs).

use ambit_shared::lockdown;
use napi::Result;
use napi_derive::napi;

use crate::failed;

/// For good: starts no program, makes no namespace, opens no socket but AF_UNIX, looks into no other process.
#[napi]
pub fn lock_down() -> Result<()> {
    lockdown::lock().map_err(|error| failed("lockDown", error))
}

/// For good, children included: no new privileges and no core file.
#[napi]
pub fn no_new_privileges() -> Result<()> {
    lockdown::no_new_privileges().map_err(|error| failed("noNewPrivileges", error))
}
