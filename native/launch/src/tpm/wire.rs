//! TPM 2.0 commands and responses as bytes (TPM 2.0 Library, part 3; all numbers big-endian).
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::Duration;

/// Tag, size, code.
const HEADER: usize = 10;
/// `MAX_COMMAND_SIZE` and `MAX_RESPONSE_SIZE` of libtpms.
const LONGEST: usize = 4096;
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
const PASSWORD: u32 = 0x4000_0009;
/// The longest command makes an RSA key.
const PATIENCE: Duration = Duration::from_secs(60);

/// The one connection to a TPM. The guest's commands and the host's take turns.
pub struct Tpm(Mutex<UnixStream>);

impl Tpm {
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(Mutex::new(stream)))
    }

    /// A whole command for a whole response.
    pub fn exchange(&self, command: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = self.0.lock().map_err(|_| io::Error::other("it broke earlier"))?;
        stream.write_all(command)?;
        read_message(&mut *stream)?.ok_or_else(|| io::Error::other("it is gone"))
    }

    /// Runs `command`; gives what follows the response's header.
    pub fn run(&self, command: Command) -> io::Result<Vec<u8>> {
        let code = command.code;
        let response = self.exchange(&command.into_bytes())?;
        match Reader(&response[6..]).u32()? {
            0 => Ok(response[HEADER..].to_vec()),
            refusal => Err(io::Error::other(format!("it answers {code:#x} with {refusal:#x}"))),
        }
    }
}

/// The next command or response; `None` at a clean end. Its length is the sender's word and is held to its bounds.
pub fn read_message(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut message = vec![0; HEADER];
    if from.read(&mut message[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut message[1..])?;
    let length = Reader(&message[2..]).u32()? as usize;
    if !(HEADER..=LONGEST).contains(&length) {
        return Err(io::Error::other("a TPM message of no possible length"));
    }
    message.resize(length, 0);
    from.read_exact(&mut message[HEADER..])?;
    Ok(Some(message))
}

/// What stands behind a command's header.
pub struct Command {
    code: u32,
    handles: Vec<u8>,
    password: Option<Vec<u8>>,
    parameters: Writer,
}

impl Command {
    pub fn new(code: u32, handles: &[u32]) -> Self {
        let handles = handles.iter().flat_map(|handle| handle.to_be_bytes()).collect();
        Self { code, handles, password: None, parameters: Writer::default() }
    }

    /// Of the first handle.
    pub fn password(mut self, password: &[u8]) -> Self {
        self.password = Some(password.into());
        self
    }

    pub fn with(mut self, write: impl FnOnce(Writer) -> Writer) -> Self {
        self.parameters = write(self.parameters);
        self
    }

    fn into_bytes(self) -> Vec<u8> {
        let tag = if self.password.is_some() { SESSIONS } else { NO_SESSIONS };
        let mut body = Writer(self.handles);
        if let Some(password) = self.password {
            let session = Writer::default().u32(PASSWORD).sized(&[]).u8(0).sized(&password);
            body = body.u32(session.0.len() as u32).bytes(&session.0);
        }
        let body = body.bytes(&self.parameters.0).0;
        Writer::default().u16(tag).u32((HEADER + body.len()) as u32).u32(self.code).bytes(&body).0
    }
}

/// Numbers and sized buffers, one after the other.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn u8(self, value: u8) -> Self {
        self.bytes(&[value])
    }

    pub fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    pub fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// A `TPM2B`.
    pub fn sized(self, bytes: &[u8]) -> Self {
        self.u16(bytes.len() as u16).bytes(bytes)
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// Takes bytes apart; fails at their end.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) =
            self.0.split_at_checked(length).ok_or_else(|| io::Error::other("its answer is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn u16(&mut self) -> io::Result<u16> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub fn u32(&mut self) -> io::Result<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub fn sized(&mut self) -> io::Result<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_its_length_and_its_password() {
        let command = Command::new(0x129, &[7]).password(b"pw").with(|parameters| parameters.sized(b"new"));
        let expected = [
            &[0x80, 2, 0, 0, 0, 34, 0, 0, 1, 0x29, 0, 0, 0, 7][..],
            &[0, 0, 0, 11, 0x40, 0, 0, 9, 0, 0, 0, 0, 2, b'p', b'w', 0, 3],
            b"new",
        ]
        .concat();
        assert_eq!(command.into_bytes(), expected);
    }

    #[test]
    fn fuzz_tpm() {
        let two =
            [&[0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7a, 1, 2][..], &[0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0]].concat();
        ambit_shared::fuzz::fuzz("tpm", &[&two, &[0x80, 1, 0, 0, 16]], |input| {
            let mut rest = input;
            while let Ok(Some(message)) = read_message(&mut rest) {
                assert!((HEADER..=LONGEST).contains(&message.len()));
                let mut reader = Reader(&message[HEADER..]);
                while reader.u32().and_then(|_| reader.sized().map(<[u8]>::len)).is_ok() {}
            }
        });
    }

    #[test]
    fn refuses_messages_of_no_possible_length() {
        let message = |length: u32| [&[0x80, 1][..], &length.to_be_bytes(), &[0; 4]].concat();
        assert_eq!(read_message(&mut &message(10)[..]).unwrap().unwrap().len(), 10);
        assert!(read_message(&mut &b""[..]).unwrap().is_none());
        for length in [0, 9, 11, 4097, u32::MAX] {
            assert!(read_message(&mut &message(length)[..]).is_err(), "{length}");
        }
        let mut reader = Reader(&[0, 5, 1]);
        assert!(reader.sized().is_err());
    }
}
