//! What is done once for every session that starts from a snapshot: after this, the machine is as any of them wants it.
use std::fs::File;
use std::io;

use ambit_launch::failure::Result;

use crate::boot::IMAGE;
use crate::spec::Net;
use crate::{network, processors};

/// Read by nearly every command, and slow to check and unpack where every instruction is emulated.
const COMMON: [&str; 8] = [
    "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "usr/lib/x86_64-linux-gnu/libc.so.6",
    "usr/lib/x86_64-linux-gnu/libtinfo.so.6",
    "usr/bin/dash",
    "usr/bin/bash",
    "usr/bin/env",
    "usr/lib/locale/C.utf8/LC_CTYPE",
    "usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache",
];

/// Brings up all processors and the network, and reads what comes first.
pub fn up(net: Option<Net>) -> Result<()> {
    processors::start()?;
    network::raise(net)?;
    for path in COMMON {
        if let Ok(mut file) = File::open(format!("{IMAGE}/{path}")) {
            let _ = io::copy(&mut file, &mut io::sink());
        }
    }
    Ok(())
}
