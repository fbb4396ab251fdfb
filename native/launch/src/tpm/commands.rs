//! The few commands that the host gives.
use std::fs::File;
use std::io::{self, Read};

use crate::tpm::wire::{Command, Reader, Tpm, Writer};

const HIERARCHY_CHANGE_AUTH: u32 = 0x129;
const CREATE_PRIMARY: u32 = 0x131;
const EVICT_CONTROL: u32 = 0x120;
const FLUSH_CONTEXT: u32 = 0x165;
const PCR_EXTEND: u32 = 0x182;
const PCR_READ: u32 = 0x17e;
const QUOTE: u32 = 0x158;

const PLATFORM: u32 = 0x4000_000c;
const SHA256: u16 = 0x000b;
const ECC: u16 = 0x0023;
const ECDSA: u16 = 0x0018;
const NIST_P256: u16 = 0x0003;
const NULL: u16 = 0x0010;
/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign: it signs what the TPM made, no
/// more.
const ATTESTATION_KEY: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 16 | 1 << 18;
/// Of the platform's range: without its password no one takes the key away.
const PLACE: u32 = 0x8180_0001;
/// `TPMS_PCR_SELECT` of 24 registers.
const REGISTER_BYTES: usize = 3;

/// The host's own: the guest has the TPM, but not these.
pub struct Owner {
    key: [u8; 32],
    /// `TPM2B_PUBLIC` of the attestation key.
    pub public: Vec<u8>,
}

/// What `TPM2_Quote` gives: `TPMS_ATTEST` and `TPMT_SIGNATURE`.
pub struct Quote {
    pub attest: Vec<u8>,
    pub signature: Vec<u8>,
}

/// Takes the platform hierarchy, which a machine's firmware would, and makes the attestation key in it. The guest can
/// use everything else of its TPM, and clear it: neither reaches this key.
pub fn own(tpm: &Tpm) -> io::Result<Owner> {
    let (platform, key) = (random()?, random()?);
    tpm.run(Command::new(HIERARCHY_CHANGE_AUTH, &[PLATFORM]).password(&[]).with(|to| to.sized(&platform)))?;
    let sensitive = Writer::default().sized(&key).sized(&[]).0;
    let made = tpm.run(
        Command::new(CREATE_PRIMARY, &[PLATFORM])
            .password(&platform)
            .with(|to| to.sized(&sensitive).sized(&template()).sized(&[]).u32(0)),
    )?;
    let mut made = Reader(&made);
    let handle = made.u32()?;
    made.u32()?;
    let public = Writer::default().sized(made.sized()?).0;
    tpm.run(Command::new(EVICT_CONTROL, &[PLATFORM, handle]).password(&platform).with(|to| to.u32(PLACE)))?;
    tpm.run(Command::new(FLUSH_CONTEXT, &[]).with(|to| to.u32(handle)))?;
    Ok(Owner { key, public })
}

/// `TPMT_PUBLIC`: ECDSA on P-256 with SHA-256.
fn template() -> Vec<u8> {
    let kind = Writer::default().u16(ECC).u16(SHA256).u32(ATTESTATION_KEY).sized(&[]);
    kind.u16(NULL).u16(ECDSA).u16(SHA256).u16(NIST_P256).u16(NULL).sized(&[]).sized(&[]).0
}

pub fn extend(tpm: &Tpm, register: u32, digest: &[u8; 32]) -> io::Result<()> {
    let command = Command::new(PCR_EXTEND, &[register]).password(&[]);
    tpm.run(command.with(|to| to.u32(1).u16(SHA256).bytes(digest))).map(drop)
}

pub fn read(tpm: &Tpm, register: u32) -> io::Result<Vec<u8>> {
    let answer = tpm.run(Command::new(PCR_READ, &[]).with(|to| select(to, &[register])))?;
    let mut answer = Reader(&answer);
    // Update counter, selection of one bank, count of one.
    answer.take(4 + 4 + 2 + 1 + REGISTER_BYTES + 4)?;
    Ok(answer.sized()?.to_vec())
}

pub fn quote(tpm: &Tpm, owner: &Owner, nonce: &[u8], registers: &[u32]) -> io::Result<Quote> {
    let command = Command::new(QUOTE, &[PLACE]).password(&owner.key);
    let answer = tpm.run(command.with(|to| select(to.sized(nonce).u16(NULL), registers)))?;
    let mut answer = Reader(&answer);
    let length = answer.u32()? as usize;
    let mut parameters = Reader(answer.take(length)?);
    let attest = parameters.sized()?.to_vec();
    Ok(Quote { attest, signature: parameters.0.to_vec() })
}

/// `TPML_PCR_SELECTION` of the SHA-256 bank.
fn select(to: Writer, registers: &[u32]) -> Writer {
    let mut bits = [0; REGISTER_BYTES];
    registers.iter().for_each(|register| bits[*register as usize / 8] |= 1 << (register % 8));
    to.u32(1).u16(SHA256).u8(REGISTER_BYTES as u8).bytes(&bits)
}

fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::{Child, Stdio};

    use sha2::{Digest, Sha256};

    use crate::sys;

    /// swtpm as `tpm::swtpm` starts it, but for the cell.
    fn swtpm(name: &str) -> Option<(Tpm, Child, std::path::PathBuf)> {
        let program = Path::new("/usr/bin/swtpm");
        if !program.exists() {
            eprintln!("skipped: swtpm is not installed");
            return None;
        }
        let state = std::env::temp_dir().join(format!("ambit-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&state).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let fd = theirs.as_raw_fd();
        let dir = format!("dir={}", state.display());
        let mut command = std::process::Command::new(program);
        command.args(["socket", "--tpm2", "--tpmstate", &dir, "--fd", &fd.to_string(), "--terminate"]);
        command.args(["--flags", "not-need-init,startup-clear"]).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: one async-signal-safe call between fork and exec.
        unsafe { command.pre_exec(move || sys::inherit(fd)) };
        let child = command.spawn().unwrap();
        Some((Tpm::new(ours).unwrap(), child, state))
    }

    #[test]
    fn a_guest_with_its_tpm_reaches_neither_the_key_nor_what_was_measured() {
        let Some((tpm, mut child, state)) = swtpm("guest-tpm") else { return };
        let owner = own(&tpm).unwrap();
        let digest: [u8; 32] = Sha256::digest("kernel").into();
        extend(&tpm, 9, &digest).unwrap();
        let value = Sha256::digest([[0; 32], digest].concat()).to_vec();
        assert_eq!(read(&tpm, 9).unwrap(), value);

        const LOCKOUT: u32 = 0x4000_000a;
        let (clear, startup, reset, evict_at) = (0x126, 0x144, 0x13d, PLACE);
        let plain = |code, handles: &[u32]| Command::new(code, handles).password(&[]);
        let guess = |handle| plain(QUOTE, &[handle]).with(|to| select(to.sized(b"n").u16(NULL), &[9]));
        let refused = [
            ("quotes with the host's key", guess(PLACE)),
            ("takes the platform", plain(HIERARCHY_CHANGE_AUTH, &[PLATFORM]).with(|to| to.sized(b"mine"))),
            ("clears by the platform", plain(clear, &[PLATFORM])),
            ("removes the key", plain(EVICT_CONTROL, &[PLATFORM, PLACE]).with(|to| to.u32(evict_at))),
            ("resets the register", plain(reset, &[9])),
            ("starts it anew", Command::new(startup, &[]).with(|to| to.u16(0))),
        ];
        for (what, command) in refused {
            assert!(tpm.run(command).is_err(), "{what}");
        }
        tpm.run(plain(clear, &[LOCKOUT])).expect("control: what is the guest's it can clear");
        assert_eq!(read(&tpm, 9).unwrap(), value);
        let quote = quote(&tpm, &owner, b"a nonce of the host's", &[9]).unwrap();
        assert!(quote.attest.windows(21).any(|part| part == b"a nonce of the host's"));
        assert_eq!(quote.attest[quote.attest.len() - 32..], Sha256::digest(&value)[..]);
        drop(tpm);
        assert!(child.wait().unwrap().success(), "it ends with its socket");
        std::fs::remove_dir_all(state).unwrap();
    }
}
