//! Log entries of the facts that come by the thousand a second, from a journal's bytes at once. What is not exactly as
//! our writers leave it is not taken: src/audit/parse-fact.ts judges that and src/audit/ocsf.ts encodes it. A test
//! holds both ways to the same bytes.

mod event;
mod fact;
mod json;

use napi::Result;
use napi::bindgen_prelude::Uint8ArraySlice;
use napi_derive::napi;

use crate::failed;
use event::{Frame, Room, write};
use fact::{Fact, KINDS};

/// Longest payload of a journal's record, bytes.
const MAX_PAYLOAD: usize = 1 << 20;
/// Length and CRC-32 before each payload.
const HEAD: usize = 8;
/// The kinds of fact that `FactEncoder` takes.
#[napi]
pub fn frequent_kinds() -> Vec<&'static str> {
    KINDS.to_vec()
}

/// What one call took.
#[napi(object)]
#[derive(Default)]
pub struct Run {
    /// Facts, each one an entry now.
    pub count: u32,
    /// Bytes of records.
    pub read: u32,
    /// Bytes of framed entries.
    pub written: u32,
    /// The entry that comes next needs more room.
    pub full: bool,
    /// Facts of each kind, in the order of `frequentKinds`.
    pub kinds: Vec<u32>,
    /// Clocks of the last one.
    pub t: f64,
    pub m: f64,
    /// Monotonic clock of the first that was not taken, where it is a frequent one.
    pub next: Option<f64>,
}

#[napi]
pub struct FactEncoder {
    frame: Frame,
}

#[napi]
impl FactEncoder {
    #[napi(constructor)]
    pub fn new(frame: Frame) -> Self {
        Self { frame }
    }

    /// Frames (u16be length, bytes) the events of the records that begin `records`, which lie at `offset` of their
    /// journal, into `room` from byte `used` on: at most `most`, none later than `until`, the first as entry `index`.
    /// Stops at a record that is not whole, not sound, or not a frequent fact in its usual form.
    #[napi]
    #[allow(clippy::too_many_arguments)] // an object for each call would cost as much as a fact
    pub fn encode(
        &self,
        records: Uint8ArraySlice,
        offset: i64,
        mut room: Uint8ArraySlice,
        used: u32,
        index: i64,
        most: u32,
        until: f64,
    ) -> Result<Run> {
        let (Ok(offset), Ok(index)) = (u64::try_from(offset), u64::try_from(index)) else {
            return Err(failed("encode", "not a place"));
        };
        // SAFETY: JavaScript waits for this call, and its caller gives two buffers that do not overlap.
        let bytes = unsafe { room.as_mut() };
        let mut room = Room { bytes, at: used as usize };
        let mut run = Run { kinds: vec![0; KINDS.len()], ..Run::default() };
        while let Some((fact, length)) = records.get(run.read as usize..).and_then(frequent) {
            if run.count == most || fact.m as f64 > until {
                run.next = Some(fact.m as f64);
                break;
            }
            let (offset, index) = (offset + u64::from(run.read), index + u64::from(run.count));
            match self.add(&mut room, &fact, offset, index) {
                Added::Entry(written) => run.note(&fact, length, written),
                Added::Full => {
                    run.full = true;
                    break;
                }
                Added::Unusual => break,
            }
        }
        Ok(run)
    }

    fn add(&self, room: &mut Room, fact: &Fact, offset: u64, index: u64) -> Added {
        let start = room.at;
        room.put([0; 2]);
        let usual = write(room, fact, &self.frame, offset, index);
        let Ok(length) = u16::try_from(room.at - start - 2) else { return Added::Unusual };
        if usual.is_none() {
            return Added::Unusual;
        }
        if room.at > room.bytes.len() {
            return Added::Full;
        }
        let end = std::mem::replace(&mut room.at, start);
        room.put(length.to_be_bytes());
        room.at = end;
        Added::Entry(end - start)
    }
}

enum Added {
    /// Bytes, its length included.
    Entry(usize),
    Full,
    Unusual,
}

impl Run {
    fn note(&mut self, fact: &Fact, read: usize, written: usize) {
        self.count += 1;
        self.read += read as u32;
        self.written += written as u32;
        (self.t, self.m) = (fact.t as f64, fact.m as f64);
        if let Some(count) = self.kinds.get_mut(fact.kind) {
            *count += 1;
        }
    }
}

/// The fact of the record that begins `records`, and the record's bytes.
fn frequent(records: &[u8]) -> Option<(Fact<'_>, usize)> {
    let (length, rest) = records.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let payload = rest.get(..length).filter(|_| (1..=MAX_PAYLOAD).contains(&length))?;
    if crc32fast::hash(payload) != u32::from_le_bytes(*sum) {
        return None;
    }
    Some((Fact::read(payload)?, HEAD + length))
}
