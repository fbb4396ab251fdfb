//! What was extended, and why, in the form of the TCG (PC Client Platform Firmware Profile, "crypto agile" log), which
//! `tpm2_eventlog` reads. All numbers little-endian.
use sha2::{Digest, Sha256};

const EV_NO_ACTION: u32 = 0x03;
/// What a boot loader measures (GRUB and systemd-stub use it, too).
const EV_IPL: u32 = 0x0d;
const SHA256: u16 = 0x000b;

/// One thing that was extended into a register.
pub struct Event {
    pub register: u32,
    pub digest: [u8; 32],
    /// For whoever reads the log. A verifier that trusts it compares it with the digest.
    pub text: String,
}

impl Event {
    /// `digest` is that of what the text names.
    pub fn named(register: u32, text: impl Into<String>, digest: [u8; 32]) -> Self {
        Self { register, digest, text: text.into() }
    }

    /// The digest is that of `content`, which stands in the log after the name of its kind, as GRUB has it.
    pub fn told(register: u32, kind: &str, content: &str) -> Self {
        Self::named(register, format!("{kind}: {content}"), Sha256::digest(content).into())
    }
}

/// The log of `events`, in the order in which they were extended.
pub fn log(events: &[Event]) -> Vec<u8> {
    let mut log = header();
    for Event { register, digest, text } in events {
        log.extend([register.to_le_bytes(), EV_IPL.to_le_bytes(), 1u32.to_le_bytes()].concat());
        log.extend(SHA256.to_le_bytes());
        log.extend(digest);
        log.extend((text.len() as u32 + 1).to_le_bytes());
        log.extend(text.as_bytes());
        log.push(0);
    }
    log
}

/// `TCG_EfiSpecIDEvent`: which digests the log has. It is in the old form, with a SHA-1 of zeros.
fn header() -> Vec<u8> {
    const PLATFORM_CLIENT: u32 = 0;
    const VERSION_2_0_WORDS_OF_8: [u8; 4] = [0, 2, 0, 2];
    let mut event = b"Spec ID Event03\0".to_vec();
    event.extend(PLATFORM_CLIENT.to_le_bytes());
    event.extend(VERSION_2_0_WORDS_OF_8);
    event.extend(1u32.to_le_bytes());
    event.extend([SHA256.to_le_bytes(), 32u16.to_le_bytes()].concat());
    event.push(0);
    let mut header = [0u32.to_le_bytes(), EV_NO_ACTION.to_le_bytes()].concat();
    header.extend([0; 20]);
    header.extend((event.len() as u32).to_le_bytes());
    header.extend(event);
    header
}

/// The registers' values after `events`, where all begin with zeros.
pub fn replay(events: &[Event], register: u32) -> [u8; 32] {
    let own = events.iter().filter(|event| event.register == register);
    own.fold([0; 32], |value, event| Sha256::digest([value, event.digest].concat()).into())
}
