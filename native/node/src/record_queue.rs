//! What `src/audit/journal.ts` has queued: stamps, frames, checksums and one write for all of it.
//!
//! In JavaScript a record is a copy of its fact, four buffers and three calls, which was a sixth of what a small request
//! cost the gate. Whether a journal lives, where it ends and how long it may get is the writer's to say, over there.

use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;

use ambit_shared::journal::{MAX_PAYLOAD, clocks, frame_end, frame_start};
use napi::{JsString, Result};
use napi_derive::napi;

use crate::failed;

/// A burst of longer records than usual is not kept for ever.
const MOST_KEPT: usize = 1 << 18;

/// Records that count as written and are not yet in the kernel.
#[napi]
pub struct RecordQueue {
    fd: i32,
    pending: Vec<u8>,
}

#[napi]
impl RecordQueue {
    /// `fd` stays the caller's and open as long as this is used.
    #[napi(constructor)]
    pub fn new(fd: i32) -> Self {
        Self { fd, pending: Vec::new() }
    }

    /// Adds one fact, the text of a JSON object with at least one field, stamped with both clocks. Returns the bytes of
    /// its record.
    #[napi]
    pub fn add(&mut self, fact: JsString) -> Result<u32> {
        let text = fact.into_utf8()?;
        let Some(body) = text.as_slice().strip_suffix(b"}") else {
            return Err(failed("add", "not the text of a fact"));
        };
        if body.len() > MAX_PAYLOAD {
            return Err(failed("add", "fact too large for the journal"));
        }
        let (t, m) = clocks();
        let head = frame_start(&mut self.pending);
        self.pending.extend_from_slice(body);
        self.pending.extend_from_slice(format!(",\"t\":{t},\"m\":{m}}}").as_bytes());
        match frame_end(&mut self.pending, head) {
            Ok(()) => Ok((self.pending.len() - head) as u32),
            Err(error) => {
                self.pending.truncate(head);
                Err(failed("add", error))
            }
        }
    }

    /// Hands all of it to the kernel at byte `at` of the file. 0, or the number of the error; the queue is empty either way.
    #[napi]
    pub fn write(&mut self, at: i64) -> i32 {
        // SAFETY: the caller keeps `fd` open; it is not closed here.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(self.fd) });
        let done = file.write_all_at(&self.pending, at as u64);
        self.pending.clear();
        self.pending.shrink_to(MOST_KEPT);
        done.err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO))
    }
}
