//! The machine boots on its first processor alone: where every instruction is emulated, two that wait for each other
//! boot a second slower.
use std::fs;

use ambit_launch::failure::{Context, Result};

const PLACE: &str = "/sys/devices/system/cpu";

/// Brings up all that there are.
pub fn start() -> Result<()> {
    let what = "starting the processors";
    for entry in fs::read_dir(PLACE).context(what)?.flatten() {
        let switch = entry.path().join("online");
        if fs::read_to_string(&switch).is_ok_and(|state| state.trim_end() == "0") {
            fs::write(switch, "1").context(what)?;
        }
    }
    Ok(())
}
