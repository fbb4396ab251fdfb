//! Where requests come from and replies go: the kernel's own device, or a stream that ends in a guest's kernel
//! (docs/architecture.md, "The view over a port").
//!
//! Whoever is root in the guest writes what it likes into the stream: lengths are bounded, INIT comes first and once,
//! and what follows is a request like any other, refused by the same rules.
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use rustix::fs::{FileType, MemfdFlags, OFlags};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::sys::errno;

/// `struct fuse_in_header`, and of `struct fuse_out_header`.
const REQUEST_HEADER: usize = 40;
const REPLY_HEADER: usize = 16;
const INIT: u32 = 26;
/// The guest's answer to a mark; no opcode of FUSE.
const MARK: u32 = 4096;
/// FUSE_HAS_EXPIRE_ONLY, bit 35 of the INIT flags; `flags2` stands behind the header and four words.
const EXPIRES_NAMES: u32 = 1 << (35 - 32);
const FLAGS2: usize = REQUEST_HEADER + 16;
/// How long a guest may take to drop what it was told to forget.
const PATIENCE: Duration = Duration::from_secs(3);

pub enum Channel {
    Device(File),
    Stream(Stream),
}

pub struct Stream {
    socket: UnixStream,
    /// What was read and not yet handed on.
    reading: Mutex<Vec<u8>>,
    writing: Mutex<()>,
    started: AtomicBool,
    expires_names: AtomicBool,
    marks: AtomicU64,
    answered: Mutex<u64>,
    answer: Condvar,
}

impl Channel {
    pub fn new(fuse: File) -> io::Result<Self> {
        let is_stream = FileType::from_raw_mode(rustix::fs::fstat(&fuse)?.st_mode).is_socket();
        // The workers wait in epoll_wait(2); to write into a stream they wait.
        let flags = rustix::fs::fcntl_getfl(&fuse)?;
        let flags = if is_stream { flags - OFlags::NONBLOCK } else { flags | OFlags::NONBLOCK };
        rustix::fs::fcntl_setfl(&fuse, flags)?;
        Ok(if is_stream { Channel::Stream(Stream::new(fuse.into())) } else { Channel::Device(fuse) })
    }

    pub fn is_stream(&self) -> bool {
        matches!(self, Channel::Stream(_))
    }

    /// One request, if there is one. ECONNABORTED or ENODEV: the other side is gone.
    pub fn take(&self, request: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Channel::Device(device) => match (&mut &*device).read(request) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                other => other.map(Some),
            },
            Channel::Stream(stream) => stream.take(request),
        }
    }

    /// One whole message to the kernel.
    pub fn tell(&self, message: &[u8]) -> io::Result<()> {
        match self {
            Channel::Device(device) => (&mut &*device).write(message).map(drop),
            Channel::Stream(stream) => {
                let _turn = stream.writing.lock().unwrap();
                (&stream.socket).write_all(message)
            }
        }
    }

    /// False where a name can only be thrown out together with what is mounted on it.
    pub fn expires_names(&self) -> bool {
        match self {
            Channel::Device(_) => true,
            Channel::Stream(stream) => stream.expires_names.load(Ordering::Acquire),
        }
    }

    /// Returns once the kernel has done all that it was told. On the device it has when `tell` returns.
    pub fn settle(&self) -> io::Result<()> {
        let Channel::Stream(stream) = self else { return Ok(()) };
        let number = stream.marks.fetch_add(1, Ordering::AcqRel) + 1;
        let length = (REPLY_HEADER + 8) as u32;
        self.tell(&[&length.to_ne_bytes()[..], &[0; 12], &number.to_ne_bytes()].concat())?;
        let answered = stream.answered.lock().unwrap();
        let late = |answered: &mut u64| *answered < number;
        let (_answered, waited) = stream.answer.wait_timeout_while(answered, PATIENCE, late).unwrap();
        if waited.timed_out() { Err(errno(libc::ETIMEDOUT)) } else { Ok(()) }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Channel::Device(device) => device.as_fd(),
            Channel::Stream(stream) => stream.socket.as_fd(),
        }
    }
}

fn word(message: &[u8], at: usize) -> u32 {
    message.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

fn nonsense(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Stream {
    fn new(socket: OwnedFd) -> Self {
        Stream {
            socket: socket.into(),
            reading: Mutex::default(),
            writing: Mutex::default(),
            started: AtomicBool::new(false),
            expires_names: AtomicBool::new(false),
            marks: AtomicU64::new(0),
            answered: Mutex::default(),
            answer: Condvar::new(),
        }
    }

    fn take(&self, request: &mut [u8]) -> io::Result<Option<usize>> {
        let mut held = self.reading.lock().unwrap();
        while let Some(length) = self.cut(&mut held, request)? {
            let message = &request[..length];
            match (word(message, 4), self.started.load(Ordering::Acquire)) {
                (MARK, true) => self.note_answer(message),
                (INIT, true) => return Err(nonsense("a second INIT")),
                (INIT, false) => {
                    let names = word(message, FLAGS2) & EXPIRES_NAMES != 0;
                    self.expires_names.store(names, Ordering::Release);
                    self.started.store(true, Ordering::Release);
                    return Ok(Some(length));
                }
                (_, false) => return Err(nonsense("a request before INIT")),
                (_, true) => return Ok(Some(length)),
            }
        }
        Ok(None)
    }

    /// The next message by its length, once it is whole. Never reads beyond it: what is left in the socket wakes
    /// another thread.
    fn cut(&self, held: &mut Vec<u8>, request: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            let length = if held.len() < REQUEST_HEADER { REQUEST_HEADER } else { word(held, 0) as usize };
            if !(REQUEST_HEADER..=request.len()).contains(&length) {
                return Err(nonsense("a length that no request has"));
            }
            if held.len() == length {
                request[..length].copy_from_slice(held);
                held.clear();
                return Ok(Some(length));
            }
            let from = held.len();
            held.resize(length, 0);
            let read = rustix::net::recv(&self.socket, &mut held[from..], RecvFlags::DONTWAIT);
            held.truncate(from + read.as_ref().map_or(0, |(_, read)| *read));
            match read {
                Ok((_, 0)) => return Err(errno(libc::ECONNABORTED)),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(_) => return Err(errno(libc::ECONNABORTED)),
            }
        }
    }

    fn note_answer(&self, message: &[u8]) {
        let number = u64::from(word(message, 8)) | u64::from(word(message, 12)) << 32;
        let mut answered = self.answered.lock().unwrap();
        // Never beyond what was asked: a guest does not settle what is still to come.
        *answered = number.min(self.marks.load(Ordering::Acquire)).max(*answered);
        self.answer.notify_all();
    }
}

/// Where the library writes a worker's replies. It wants to write each at once, which a stream that several share
/// does not promise: there a reply goes to memory first.
pub struct Outbox<'a> {
    channel: &'a Channel,
    memory: Option<File>,
}

impl<'a> Outbox<'a> {
    pub fn new(channel: &'a Channel) -> io::Result<Self> {
        let memory = match channel {
            Channel::Device(_) => None,
            Channel::Stream(_) => Some(rustix::fs::memfd_create("ambit-reply", MemfdFlags::CLOEXEC)?.into()),
        };
        Ok(Outbox { channel, memory })
    }

    /// Sends what was written since the last time; `scratch` has room for the longest reply.
    pub fn send(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        let Some(memory) = &mut self.memory else { return Ok(()) };
        let length = memory.stream_position()? as usize;
        if length == 0 {
            return Ok(());
        }
        memory.rewind()?;
        let reply = scratch.get_mut(..length).ok_or_else(|| nonsense("a reply that is too long"))?;
        memory.read_exact(reply)?;
        memory.rewind()?;
        if word(reply, 0) as usize != length {
            return Err(nonsense("a reply whose length is not its own"));
        }
        self.channel.tell(reply).map_err(|_| errno(libc::ECONNABORTED))
    }
}

impl AsFd for Outbox<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_ref().map_or_else(|| self.channel.as_fd(), AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, unique: u64, body: &[u8]) -> Vec<u8> {
        let mut message = vec![0; REQUEST_HEADER];
        message[..4].copy_from_slice(&((REQUEST_HEADER + body.len()) as u32).to_ne_bytes());
        message[4..8].copy_from_slice(&opcode.to_ne_bytes());
        message[8..16].copy_from_slice(&unique.to_ne_bytes());
        message.extend_from_slice(body);
        message
    }

    fn next(channel: &Channel, request: &mut [u8]) -> io::Result<usize> {
        loop {
            match channel.take(request)? {
                Some(length) => return Ok(length),
                None => std::thread::yield_now(),
            }
        }
    }

    fn channel() -> (Channel, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Channel::new(File::from(OwnedFd::from(ours))).unwrap(), theirs)
    }

    #[test]
    fn takes_requests_however_they_are_cut() {
        let (channel, mut guest) = channel();
        let all = [request(INIT, 1, &[7; 24]), request(1, 2, b"name\0"), request(16, 3, &[9; 200_000])];
        let bytes = all.concat();
        let writer = std::thread::spawn(move || {
            bytes.chunks(4093).for_each(|chunk| guest.write_all(chunk).unwrap());
            guest
        });
        let mut buffer = vec![0; 1 << 20];
        for wanted in &all {
            let length = next(&channel, &mut buffer).unwrap();
            assert!(&buffer[..length] == wanted.as_slice());
        }
        drop(writer.join().unwrap());
        assert_eq!(next(&channel, &mut buffer).unwrap_err().raw_os_error(), Some(libc::ECONNABORTED));
    }

    #[test]
    fn refuses_what_no_kernel_sends() {
        let too_long = [(1u32 << 31).to_ne_bytes().to_vec(), vec![0; 60]].concat();
        let too_short = [39u32.to_ne_bytes().to_vec(), vec![0; 60]].concat();
        let no_init = request(1, 1, b"name\0");
        let two = [request(INIT, 1, &[0; 24]), request(INIT, 2, &[0; 24])].concat();
        for (bytes, good) in [(too_long, 0), (too_short, 0), (no_init, 0), (two, 1)] {
            let (channel, mut guest) = channel();
            guest.write_all(&bytes).unwrap();
            let mut buffer = vec![0; 1 << 20];
            (0..good).for_each(|_| assert!(next(&channel, &mut buffer).is_ok()));
            assert_eq!(next(&channel, &mut buffer).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn a_mark_waits_for_its_answer_and_no_other() {
        let (channel, mut guest) = channel();
        let channel = std::sync::Arc::new(channel);
        let reader = channel.clone();
        std::thread::spawn(move || while next(&reader, &mut [0; 4096]).is_ok() {});
        guest.write_all(&request(INIT, 1, &[0; 24])).unwrap();
        // An answer to a mark that was never made counts for nothing.
        guest.write_all(&request(MARK, u64::MAX, &[])).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(
            *match &*channel {
                Channel::Stream(s) => s.answered.lock().unwrap(),
                _ => panic!(),
            },
            0
        );
        let settles = channel.clone();
        let settled = std::thread::spawn(move || settles.settle().is_ok());
        let mut mark = [0; 24];
        guest.read_exact(&mut mark).unwrap();
        assert_eq!((word(&mark, 0), word(&mark, 4), word(&mark, 16)), (24, 0, 1));
        guest.write_all(&request(MARK, 1, &[])).unwrap();
        assert!(settled.join().unwrap());
    }
}
