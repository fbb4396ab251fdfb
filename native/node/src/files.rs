//! Facts about files that Node tells at a cost: `fs.fstat` fills an object of eighteen numbers each time.

use std::mem::zeroed;

use napi::Result;
use napi_derive::napi;

use crate::errno;

/// Size of a regular file in bytes; -1 when its last name is gone.
#[napi]
pub fn file_size(fd: i32) -> Result<i64> {
    let mut facts: libc::stat = unsafe { zeroed() };
    // SAFETY: fstat writes one `stat` into `facts`.
    match unsafe { libc::fstat(fd, &raw mut facts) } {
        0 if facts.st_nlink == 0 => Ok(-1),
        0 => Ok(facts.st_size),
        _ => Err(errno("fileSize")),
    }
}
