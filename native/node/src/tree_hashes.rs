//! RFC 6962 hashes by the batch: a call into Node's crypto for each costs more than the hash itself.

use napi::Result;
use napi::bindgen_prelude::Uint8Array;
use napi_derive::napi;
use sha2::{Digest, Sha256};

use crate::failed;

const HASH: usize = 32;

/// Leaf hashes, 32 bytes each, of entries that lie framed (u16be length, bytes) one after the other.
#[napi]
pub fn leaf_hashes(framed: Uint8Array) -> Result<Uint8Array> {
    let mut rest: &[u8] = &framed;
    let mut hashes = Vec::with_capacity(rest.len() / 16);
    while let Some((head, tail)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*head));
        let (entry, tail) =
            tail.split_at_checked(length).ok_or_else(|| failed("leafHashes", "half an entry"))?;
        hashes.extend_from_slice(&Sha256::new().chain_update([0]).chain_update(entry).finalize());
        rest = tail;
    }
    if rest.is_empty() { Ok(hashes.into()) } else { Err(failed("leafHashes", "half a length")) }
}

/// The root of a complete subtree over its 2^n hashes, 32 bytes each.
#[napi]
pub fn subtree_root(hashes: Uint8Array) -> Result<Uint8Array> {
    let count = hashes.len() / HASH;
    if !hashes.len().is_multiple_of(HASH) || !count.is_power_of_two() {
        return Err(failed("subtreeRoot", "not 2^n hashes"));
    }
    let mut row = hashes.to_vec();
    while row.len() > HASH {
        let mut above = Vec::with_capacity(row.len() / 2);
        for pair in row.chunks(2 * HASH) {
            above.extend_from_slice(&Sha256::new().chain_update([1]).chain_update(pair).finalize());
        }
        row = above;
    }
    Ok(row.into())
}
