//! What of a command line may be recorded (native/shared/src/redact.rs): the same for the command of a session, which
//! `ambit run` records, as for those inside, which the exec sensor does.

use napi_derive::napi;

/// Without the values that are secrets by their name or shape.
#[napi]
pub fn redact_words(words: Vec<String>) -> Vec<String> {
    ambit_shared::redact::redact(words)
}
