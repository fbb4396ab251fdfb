//! What `ambitd` and `ambit run` give up (native/shared/src/lockdown.rs).

use ambit_shared::lockdown;
use napi::Result;
use napi_derive::napi;

use crate::failed;

/// For good, children included: no new privileges and no core file.
#[napi]
pub fn no_new_privileges() -> Result<()> {
    lockdown::no_new_privileges().map_err(|error| failed("noNewPrivileges", error))
}
