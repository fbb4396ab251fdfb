//! FUSE requests as they arrive. The kernel sends well-formed ones; a microVM's guest may send any bytes. What is not
//! exactly a request goes no further than here: the library would drop it without an answer.

/// `struct fuse_in_header`.
const HEAD: usize = 40;

/// Why a message is not handed on.
#[derive(Debug, PartialEq)]
pub enum Fault {
    /// Not even its head and length are right: the other side does not speak FUSE.
    Foreign,
    /// Answered with this error.
    Refused { unique: u64, error: i32 },
    /// Of a kind that has no answer.
    Silent,
}

/// What follows the header of the requests that the view serves: bytes of fixed fields, then texts that end with NUL.
fn form(opcode: u32) -> Option<(usize, usize)> {
    Some(match opcode {
        1 => (0, 1),             // LOOKUP
        2 => (8, 0),             // FORGET
        3 => (16, 0),            // GETATTR
        4 => (88, 0),            // SETATTR
        5 => (0, 0),             // READLINK
        6 => (0, 2),             // SYMLINK
        8 => (16, 1),            // MKNOD
        9 => (8, 1),             // MKDIR
        10 | 11 => (0, 1),       // UNLINK, RMDIR
        12 => (8, 2),            // RENAME
        13 => (8, 1),            // LINK
        OPEN | 27 => (8, 0),     // OPEN, OPENDIR
        15 | 28 | 44 => (40, 0), // READ, READDIR, READDIRPLUS
        WRITE => (40, 0),
        17 => (0, 0),       // STATFS
        18 | 29 => (24, 0), // RELEASE, RELEASEDIR
        20 | 30 => (16, 0), // FSYNC, FSYNCDIR
        SETXATTR => (8, 1),
        22 => (8, 1),  // GETXATTR
        23 => (8, 0),  // LISTXATTR
        24 => (0, 1),  // REMOVEXATTR
        25 => (24, 0), // FLUSH
        INIT => (16, 0),
        35 => (16, 1), // CREATE
        36 => (8, 0),  // INTERRUPT
        38 => (0, 0),  // DESTROY
        42 => (8, 0),  // BATCH_FORGET
        43 => (32, 0), // FALLOCATE
        45 => (16, 2), // RENAME2
        46 => (24, 0), // LSEEK
        _ => return None,
    })
}

const OPEN: u32 = 14;
const WRITE: u32 = 16;
const SETXATTR: u32 = 21;
const INIT: u32 = 26;
/// In INIT's flags: `struct fuse_init_in` goes on by 48 bytes.
const INIT_EXT: u32 = 1 << 30;

/// FORGET, INTERRUPT, NOTIFY_REPLY, BATCH_FORGET.
const WITHOUT_ANSWER: [u32; 4] = [2, 36, 41, 42];

/// SETATTR, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, WRITE, SETXATTR, REMOVEXATTR, CREATE, FALLOCATE,
/// RENAME2.
const CHANGES: [u32; 14] = [4, 6, 8, 9, 10, 11, 12, 13, WRITE, SETXATTR, 24, 35, 43, 45];

fn word(message: &[u8], at: usize) -> u32 {
    message.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

/// True when the request may change something, or open a way to. The opcode follows the length in the header; the
/// flags of OPEN follow the header.
pub fn changes(request: &[u8]) -> bool {
    let writing = word(request, HEAD) as i32 & (libc::O_ACCMODE | libc::O_TRUNC) != libc::O_RDONLY;
    let opcode = word(request, 4);
    CHANGES.contains(&opcode) || (opcode == OPEN && writing)
}

/// Admits a message whose form is that of a request which the view serves.
pub fn check(message: &[u8]) -> Result<(), Fault> {
    if message.len() < HEAD || word(message, 0) as usize != message.len() {
        return Err(Fault::Foreign);
    }
    let (opcode, body) = (word(message, 4), &message[HEAD..]);
    let fits = form(opcode).map(|(fixed, texts)| has_form(opcode, body, fixed, texts));
    let error = match fits {
        Some(true) => return Ok(()),
        Some(false) => libc::EINVAL,
        None => libc::ENOSYS,
    };
    if WITHOUT_ANSWER.contains(&opcode) {
        return Err(Fault::Silent);
    }
    let unique = u64::from(word(message, 8)) | u64::from(word(message, 12)) << 32;
    Err(Fault::Refused { unique, error })
}

fn has_form(opcode: u32, body: &[u8], fixed: usize, texts: usize) -> bool {
    let Some(rest) = body.get(fixed..) else { return false };
    match opcode {
        // Offset, handle and size come first.
        WRITE => rest.len() == word(body, 16) as usize,
        // The value's size is the first field.
        SETXATTR => rest
            .iter()
            .position(|b| *b == 0)
            .is_some_and(|end| rest.len() - end - 1 == word(body, 0) as usize),
        INIT => word(body, 12) & INIT_EXT == 0 || rest.len() >= 48,
        // The fields of later protocol versions may follow.
        _ if texts == 0 => true,
        _ => rest.last() == Some(&0) && rest.iter().filter(|b| **b == 0).count() == texts,
    }
}

/// The message that says so: `struct fuse_out_header`.
pub fn refusal(unique: u64, error: i32) -> [u8; 16] {
    let mut reply = [0; 16];
    reply[..4].copy_from_slice(&16u32.to_ne_bytes());
    reply[4..8].copy_from_slice(&(-error).to_ne_bytes());
    reply[8..].copy_from_slice(&unique.to_ne_bytes());
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(opcode: u32, body: &[u8]) -> Vec<u8> {
        let length = (HEAD + body.len()) as u32;
        [&length.to_ne_bytes()[..], &opcode.to_ne_bytes(), &7u64.to_ne_bytes(), &[0; 24], body].concat()
    }

    #[test]
    fn only_whole_requests_pass() {
        let refused = |error| Err(Fault::Refused { unique: 7, error });
        let write =
            |size: u32| message(WRITE, &[&[0; 16], &size.to_ne_bytes()[..], &[0; 20], b"abc"].concat());
        let set = |size: u32| message(SETXATTR, &[&size.to_ne_bytes()[..], &[0; 4], b"user.a\0abc"].concat());
        for (bytes, want) in [
            (message(1, b"name\0"), Ok(())),
            (message(1, b"name"), refused(libc::EINVAL)),
            (message(1, b"na\0me\0"), refused(libc::EINVAL)),
            (message(1, b""), refused(libc::EINVAL)),
            (message(6, b"name\0target\0"), Ok(())),
            (message(6, b"name\0target"), refused(libc::EINVAL)),
            (message(12, &[&[0; 8], &b"a\0b\0"[..]].concat()), Ok(())),
            (message(12, b"a\0b\0"), refused(libc::EINVAL)),
            (write(3), Ok(())),
            (write(1 << 30), refused(libc::EINVAL)),
            (set(3), Ok(())),
            (set(4), refused(libc::EINVAL)),
            (message(0, b""), refused(libc::ENOSYS)),
            (message(7, b""), refused(libc::ENOSYS)),
            (message(47, &[0; 56]), refused(libc::ENOSYS)),
            (message(u32::MAX, b""), refused(libc::ENOSYS)),
            (message(2, b"1"), Err(Fault::Silent)),
            (message(41, &[0; 40]), Err(Fault::Silent)),
            (message(5, b"")[..39].to_vec(), Err(Fault::Foreign)),
            ([message(5, b""), vec![0]].concat(), Err(Fault::Foreign)),
            (Vec::new(), Err(Fault::Foreign)),
        ] {
            assert_eq!(check(&bytes), want, "{}", bytes.escape_ascii());
        }
    }
}
