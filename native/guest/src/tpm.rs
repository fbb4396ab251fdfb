//! The machine's TPM, as its kernel has it.
use std::collections::BTreeMap;
use std::fs;

use ambit_launch::tpm::measure::REGISTERS;

const BANK: &str = "/sys/class/tpm/tpm0/pcr-sha256";

/// What stands in the registers that the host measures into; nothing where there is no TPM.
pub fn registers() -> BTreeMap<u32, String> {
    let read = |register: &u32| fs::read_to_string(format!("{BANK}/{register}")).ok();
    let known = REGISTERS.iter().filter_map(|register| Some((*register, read(register)?)));
    known.map(|(register, value)| (register, value.trim().to_ascii_lowercase())).collect()
}
