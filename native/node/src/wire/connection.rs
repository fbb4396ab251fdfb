//! One TLS connection on a non-blocking socket. Nothing here waits, and nothing moves on by itself: what was decrypted
//! is held until somebody takes it.

use std::io::{Error as IoError, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use libc::{c_int, c_void};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncryptError, UnbufferedStatus};
use rustls::{AlertDescription, CertificateError, Error};

use super::records::{append, drive, seal};

/// Sent bytes that wait for the peer; with more, whoever writes should wait.
pub const MOST_WAITING: usize = 64 << 10;
/// Read at once of what JavaScript gets: a reader that pauses has no more than this held for it.
const MOST_READ: usize = 64 << 10;
/// What TLS adds to a piece of 16 KiB, and messages of its own that may go out with it.
const RECORD: usize = 16_384;
const RECORD_OVERHEAD: usize = 32;
const OWN_MESSAGES: usize = 1024;
/// A buffer that was larger is given back once it is empty.
const KEPT_CAPACITY: usize = 32 << 10;

pub enum Tls {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The TCP connection is being made.
    Connecting,
    Handshake,
    Open,
}

/// Why a connection is over; the numbers are known to src/gate/wire.ts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Both sides have said so.
    Closed = 0,
    /// The peer looked at our certificate and said no.
    Distrusted = 1,
    /// It spoke no TLS that we understand.
    Tls = 2,
    /// The socket broke.
    Broken = 3,
    /// The server showed a certificate that is not among those verified.
    Unknown = 4,
}

/// Buffers that one connection after the other works in.
pub struct Scratch {
    pub input: Vec<u8>,
    pub output: Vec<u8>,
}

pub struct Connection {
    pub fd: OwnedFd,
    tls: Tls,
    pub stage: Stage,
    /// The beginning of a record whose rest has not come.
    partial: Vec<u8>,
    /// Decrypted and not taken yet, from `taken` on.
    held: Vec<u8>,
    taken: usize,
    /// Encrypted and not sent yet, from `sent` on.
    waiting: Vec<u8>,
    sent: usize,
    pub paused: bool,
    /// The peer's side has ended.
    pub ended: bool,
    pub end_told: bool,
    pub finish_told: bool,
    /// Our side shall end once all is sent, or has.
    closing: bool,
    shut: bool,
    /// What comes is passed on as it is: worth larger pieces.
    bulk: bool,
    /// A writer was told to wait.
    pub crowded: bool,
    /// What epoll was last told to watch for; none: it does not know this socket.
    pub watched: Option<u32>,
}

/// What came of looking at the socket.
#[derive(Default)]
pub struct News {
    /// The handshake is done with this.
    pub established: bool,
    pub ending: Option<Ending>,
}

impl Connection {
    pub fn new(fd: OwnedFd, tls: Tls, stage: Stage) -> Self {
        Self {
            fd,
            tls,
            stage,
            partial: Vec::new(),
            held: Vec::new(),
            taken: 0,
            waiting: Vec::new(),
            sent: 0,
            paused: false,
            ended: false,
            end_told: false,
            finish_told: false,
            closing: false,
            shut: false,
            bulk: false,
            crowded: false,
            watched: None,
        }
    }

    pub fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Decrypted bytes that can be taken.
    pub fn available(&self) -> usize {
        self.held.len() - self.taken
    }

    /// The decrypted bytes themselves.
    pub fn held(&self) -> &[u8] {
        self.held.get(self.taken..).unwrap_or_default()
    }

    /// Encrypted bytes that wait for the peer.
    pub fn backlog(&self) -> usize {
        self.waiting.len() - self.sent
    }

    /// Our side has ended, and all is sent.
    pub fn finished(&self) -> bool {
        self.shut
    }

    /// Both sides have ended, and all is sent.
    pub fn over(&self) -> bool {
        self.ended && self.shut && self.available() == 0
    }

    /// What epoll should watch for.
    pub fn interest(&self) -> u32 {
        let reads = self.stage != Stage::Connecting && !self.paused && !self.ended && self.available() == 0;
        let writes = self.stage == Stage::Connecting || self.backlog() > 0;
        (if reads { libc::EPOLLIN as u32 } else { 0 }) | (if writes { libc::EPOLLOUT as u32 } else { 0 })
    }

    /// The TCP connection is made, or was refused.
    pub fn connected(&mut self, scratch: &mut Scratch) -> News {
        let mut error: c_int = 0;
        let mut size = size_of::<c_int>() as libc::socklen_t;
        let target: *mut c_void = (&raw mut error).cast();
        // SAFETY: the kernel writes one int into `error`.
        let got =
            unsafe { libc::getsockopt(self.raw(), libc::SOL_SOCKET, libc::SO_ERROR, target, &raw mut size) };
        if got != 0 || error != 0 {
            return News { ending: Some(Ending::Broken), ..News::default() };
        }
        self.stage = Stage::Handshake;
        self.digest(scratch, 0)
    }

    /// Reads what the socket has, up to the size of the buffer, and decrypts it.
    pub fn receive(&mut self, scratch: &mut Scratch) -> News {
        let before = self.partial.len();
        let most = if self.bulk { scratch.input.len() } else { before + MOST_READ };
        let Some(room) = scratch.input.get_mut(before..most) else {
            return News { ending: Some(Ending::Tls), ..News::default() };
        };
        // SAFETY: `room` is a live buffer of the stated length.
        let got = unsafe { libc::recv(self.raw(), room.as_mut_ptr().cast(), room.len(), libc::MSG_DONTWAIT) };
        match usize::try_from(got) {
            Ok(0) => {
                // Without a close_notify as well, as OpenSSL is told to take it: many servers never send one.
                self.ended = true;
                let ending = (self.stage != Stage::Open).then_some(Ending::Broken);
                News { ending, ..News::default() }
            }
            Ok(size) => self.digest(scratch, size),
            Err(_) => match IoError::last_os_error().kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => News::default(),
                _ => News { ending: Some(Ending::Broken), ..News::default() },
            },
        }
    }

    /// Decrypts bytes that somebody else has read.
    pub fn feed(&mut self, scratch: &mut Scratch, bytes: &[u8]) -> News {
        match scratch.input.get_mut(..bytes.len()) {
            Some(room) => room.copy_from_slice(bytes),
            None => return News { ending: Some(Ending::Tls), ..News::default() },
        }
        self.digest(scratch, bytes.len())
    }

    /// `size` new bytes lie in the input behind room for the partial record.
    fn digest(&mut self, scratch: &mut Scratch, size: usize) -> News {
        let before = self.partial.len();
        let end = before + size;
        let Some(bytes) = scratch.input.get_mut(..end) else {
            return News { ending: Some(Ending::Tls), ..News::default() };
        };
        if let Some(front) = bytes.get_mut(..before) {
            front.copy_from_slice(&self.partial);
        }
        let mut step = Step::default();
        let done = match &mut self.tls {
            Tls::Server(tls) => drive!(tls, bytes, &mut self.held, &mut self.waiting, step),
            Tls::Client(tls) => drive!(tls, bytes, &mut self.held, &mut self.waiting, step),
        };
        self.partial.clear();
        if let Some(rest) = bytes.get(step.used..) {
            self.partial.extend_from_slice(rest);
        }
        if self.partial.is_empty() && !self.bulk && self.partial.capacity() > 0 {
            self.partial = Vec::new();
        }
        self.ended |= step.closed;
        let mut news = News::default();
        if step.established && self.stage == Stage::Handshake {
            self.stage = Stage::Open;
            news.established = true;
        }
        let sent = self.send();
        news.ending = match done {
            Err(error) => Some(ending_of(&error)),
            Ok(()) if sent.is_err() => Some(Ending::Broken),
            Ok(()) => None,
        };
        news
    }

    /// Copies decrypted bytes out; how many.
    pub fn take(&mut self, into: &mut [u8]) -> usize {
        let held = self.held.get(self.taken..).unwrap_or_default();
        let size = held.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..size), held.get(..size)) {
            to.copy_from_slice(from);
        }
        self.drop_taken(size);
        self.bulk = false;
        self.give_back();
        size
    }

    /// Hands `size` decrypted bytes to another connection, which encrypts and sends them. False: it is over.
    pub fn pass(&mut self, size: usize, to: &mut Self, scratch: &mut Scratch) -> bool {
        let end = self.taken + size;
        let Some(bytes) = self.held.get(self.taken..end) else { return false };
        let sent = to.write(scratch, bytes, false);
        self.bulk = true;
        self.drop_taken(size);
        sent
    }

    /// Forgets decrypted bytes. False: nobody has them.
    pub fn skip(&mut self, size: usize) -> bool {
        self.drop_taken(size);
        self.give_back();
        false
    }

    fn give_back(&mut self) {
        if self.held.is_empty() && self.held.capacity() > KEPT_CAPACITY {
            self.held = Vec::new();
        }
    }

    fn drop_taken(&mut self, size: usize) {
        self.taken += size;
        if self.taken >= self.held.len() {
            self.held.clear();
            self.taken = 0;
        }
    }

    /// Encrypts and sends; `more` keeps it until the next write or `flush`. False: the connection is over.
    pub fn write(&mut self, scratch: &mut Scratch, bytes: &[u8], more: bool) -> bool {
        if self.stage != Stage::Open || self.closing {
            return false;
        }
        let need = bytes.len() + (bytes.len() / RECORD + 1) * RECORD_OVERHEAD + OWN_MESSAGES;
        if scratch.output.len() < need {
            scratch.output.resize(need, 0);
        }
        let (size, partial) = (&mut scratch.output, &mut self.partial);
        let written = match &mut self.tls {
            Tls::Server(tls) => seal!(tls, partial, &mut self.waiting, |w| w.encrypt(bytes, size)),
            Tls::Client(tls) => seal!(tls, partial, &mut self.waiting, |w| w.encrypt(bytes, size)),
        };
        let Some(sealed) = written.and_then(|size| scratch.output.get(..size)) else { return false };
        if more || self.backlog() > 0 {
            self.waiting.extend_from_slice(sealed);
            return more || self.send().is_ok();
        }
        match send_some(self.fd.as_raw_fd(), sealed) {
            Ok(size) => {
                self.waiting.extend_from_slice(sealed.get(size..).unwrap_or_default());
                true
            }
            Err(_) => false,
        }
    }

    /// Ends our side once all is sent.
    pub fn end(&mut self) -> bool {
        if self.closing {
            return true;
        }
        self.closing = true;
        if self.stage == Stage::Open {
            let mut note = [0; 128];
            let partial = &mut self.partial;
            let size = match &mut self.tls {
                Tls::Server(tls) => {
                    seal!(tls, partial, &mut self.waiting, |w| w.queue_close_notify(&mut note))
                }
                Tls::Client(tls) => {
                    seal!(tls, partial, &mut self.waiting, |w| w.queue_close_notify(&mut note))
                }
            };
            self.waiting.extend_from_slice(size.and_then(|size| note.get(..size)).unwrap_or_default());
        }
        self.send().is_ok()
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn send(&mut self) -> Result<(), IoError> {
        if self.backlog() > 0 {
            self.sent += send_some(self.raw(), self.waiting.get(self.sent..).unwrap_or_default())?;
        }
        if self.backlog() > 0 {
            if self.sent > MOST_WAITING {
                self.waiting.drain(..self.sent);
                self.sent = 0;
            }
            return Ok(());
        }
        self.waiting.clear();
        self.sent = 0;
        if self.waiting.capacity() > KEPT_CAPACITY {
            self.waiting = Vec::new();
        }
        if self.closing && !self.shut {
            self.shut = true;
            // SAFETY: no memory is involved. It fails only when the peer has gone, which reading will tell.
            unsafe { libc::shutdown(self.raw(), libc::SHUT_WR) };
        }
        Ok(())
    }
}

/// What one pass over received bytes came to.
#[derive(Default)]
struct Step {
    used: usize,
    established: bool,
    closed: bool,
}

/// Sends what the socket takes at once; 0 when it takes nothing.
fn send_some(fd: RawFd, bytes: &[u8]) -> Result<usize, IoError> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: `bytes` is a live buffer of the stated length.
    let size = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(size).or_else(|_| {
        let error = IoError::last_os_error();
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(0),
            _ => Err(error),
        }
    })
}

fn ending_of(error: &Error) -> Ending {
    match error {
        Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown,
        ) => Ending::Distrusted,
        Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => Ending::Unknown,
        _ => Ending::Tls,
    }
}
