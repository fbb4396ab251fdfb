//! Which registers hold what, and the record of it. The numbers are those of the Linux TPM PCR Registry: 8 the kernel's
//! command line and 9 the files that a loader reads (GRUB), 12 configuration (systemd-stub), 15 whose system it is.
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::failure::{Context, Failure, Result};
use crate::spec::{Machine, Measured, Snapshot, Verified};
use crate::tpm::commands::{self, Owner};
use crate::tpm::event_log::{self, Event};
use crate::tpm::wire::Tpm;

const COMMAND_LINE: u32 = 8;
const FILES: u32 = 9;
const CONFIGURATION: u32 = 12;
const SYSTEM: u32 = 15;
/// As a `TPM2B_DATA` takes it.
const LONGEST_NONCE: usize = 64;
pub const REGISTERS: [u32; 4] = [COMMAND_LINE, FILES, CONFIGURATION, SYSTEM];

/// A TPM that holds what starts.
pub struct Measurement {
    pub tpm: Arc<Tpm>,
    owner: Owner,
    log: Vec<u8>,
    /// Of `REGISTERS`, in their order.
    pub values: [[u8; 32]; 4],
}

/// What a machine is about to start from.
pub struct Start<'a> {
    pub machine: &'a Machine,
    /// As staged. QEMU reads copies, which were made before their change times are compared here (vm/loaded.rs).
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    pub root: &'a Path,
    /// As the guest kernel will read it.
    pub command_line: &'a str,
    pub session: &'a str,
}

/// Facts of the session's journal; all bytes in hex.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "k", rename_all_fields = "camelCase")]
pub enum Fact {
    /// Before the first instruction. `ak`: `TPM2B_PUBLIC` of the key that signs this TPM's quotes; `eventLog`: of the TCG.
    #[serde(rename = "machine.measured")]
    Measured { device: String, ak: String, event_log: String },
    #[serde(rename = "machine.quote")]
    Quote { nonce: String, quote: String, signature: String, by: String },
}

/// Measures `start` into `tpm`, which nobody has used before.
pub fn measure(tpm: Arc<Tpm>, start: &Start) -> Result<Measurement> {
    let what = "measuring the start";
    let events = events(start)?;
    let owner = commands::own(&tpm).context(what)?;
    for event in &events {
        commands::extend(&tpm, event.register, &event.digest).context(what)?;
    }
    let values = REGISTERS.map(|register| event_log::replay(&events, register));
    Ok(Measurement { tpm, owner, log: event_log::log(&events), values })
}

fn events(start: &Start) -> Result<Vec<Event>> {
    let Measured { image, kernel, initramfs, root, profile, .. } = &start.machine.measured;
    let mut events = vec![
        Event::told(COMMAND_LINE, "kernel_cmdline", start.command_line),
        Event::named(FILES, "kernel", checked("kernel", start.kernel, kernel)?),
        Event::named(FILES, "initramfs", checked("initramfs", start.initramfs, initramfs)?),
        // The guest checks it, too, block by block against the root hash, which stands in the command line.
        Event::named(FILES, "root", checked("root", start.root, root)?),
    ];
    if let Some(Snapshot::Resume { verified, .. }) = &start.machine.snapshot {
        events.push(Event::named(FILES, "snapshot", bytes(&verified.sha256)?));
    }
    events.extend([
        Event::named(CONFIGURATION, "ambit image manifest", bytes(image)?),
        Event::named(CONFIGURATION, "ambit profile", bytes(profile)?),
        Event::told(SYSTEM, "ambit session", start.session),
    ]);
    Ok(events)
}

/// The digest that was verified a moment ago, if this is still that file: reading it all again would cost more than the
/// rest of the start.
fn checked(name: &str, path: &Path, verified: &Verified) -> Result<[u8; 32]> {
    let what = "measuring the start";
    if identity(&fs::metadata(path).context(what)?) == verified.identity {
        return bytes(&verified.sha256);
    }
    let failure = Failure::new(what, format!("the {name} has changed since it was verified"));
    Err(failure.remedy("start again; if it stays so: ambit image build"))
}

/// As src/runtime/microvm-image/verify.ts writes it.
pub fn identity(found: &fs::Metadata) -> String {
    let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    let written = nanoseconds(found.mtime(), found.mtime_nsec());
    let changed = nanoseconds(found.ctime(), found.ctime_nsec());
    format!("{}:{}:{}:{written}:{changed}", found.dev(), found.ino(), found.len())
}

fn bytes(digest: &str) -> Result<[u8; 32]> {
    let all = unhex(digest).and_then(|bytes| bytes.try_into().ok());
    all.ok_or_else(|| Failure::new("measuring the start", "a digest is none"))
}

impl Measurement {
    /// Whether the guest's TPM is this one: it says what stands in the registers. Its word; it can only harm itself.
    pub fn compare(&self, registers: &BTreeMap<String, String>) -> Result<()> {
        let differs =
            |(register, value): (&u32, &[u8; 32])| registers.get(&register.to_string()) != Some(&hex(value));
        match REGISTERS.iter().zip(&self.values).find(|pair| differs(*pair)) {
            None => Ok(()),
            Some((register, _)) => Err(Failure::new(
                "measuring the start",
                format!("the guest does not find in its TPM what was put into register {register}"),
            )),
        }
    }

    /// For the record, before the start.
    pub fn fact(&self) -> Fact {
        Fact::Measured { device: "swtpm".into(), ak: hex(&self.owner.public), event_log: hex(&self.log) }
    }

    /// The last word of a session's TPM, over a nonce that follows from its name: the log, not the nonce, says when.
    pub fn last_quote(self: &Arc<Self>, session: &str, patience: Duration) -> Option<Fact> {
        let nonce = hex(&Sha256::digest(format!("end of {session}")));
        let (measurement, (sender, answer)) = (self.clone(), channel());
        std::thread::spawn(move || sender.send(measurement.quote(&nonce, "the session's end")));
        answer.recv_timeout(patience).ok()?.ok()
    }

    /// A quote of all registers over `nonce`. `by`: who asked.
    pub fn quote(&self, nonce: &str, by: &str) -> Result<Fact> {
        let what = "asking the TPM";
        let bytes = unhex(nonce).filter(|bytes| bytes.len() <= LONGEST_NONCE);
        let bytes = bytes.ok_or_else(|| Failure::new(what, "the nonce is none"))?;
        let quote = commands::quote(&self.tpm, &self.owner, &bytes, &REGISTERS).context(what)?;
        Ok(Fact::Quote {
            nonce: nonce.into(),
            quote: hex(&quote.attest),
            signature: hex(&quote.signature),
            by: by.into(),
        })
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    let pairs = digits.as_chunks::<2>();
    pairs.1.is_empty().then(|| pairs.0.iter().map(|[high, low]| (high << 4 | low) as u8).collect())
}
