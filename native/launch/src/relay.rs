//! Bytes between the user and the agent. One thread a direction, each with one fixed buffer: a reader that stops
//! reading stops the writer, and nothing piles up.
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, RawFd};
use std::thread::JoinHandle;

use crate::cell_end::Stdio;
use crate::pty::is_terminal;
use crate::termfilter::Filter;

const CHUNK: usize = 64 << 10;

/// A running relay. `output` threads end by themselves once everything inside is dead.
pub struct Relay {
    output: Vec<JoinHandle<()>>,
}

impl Relay {
    pub fn start(stdio: Stdio) -> io::Result<Self> {
        let mut output = Vec::new();
        match stdio {
            Stdio::Terminal(master) => {
                let input = master.try_clone()?;
                spawn(move || copy(user(0), File::from(input), None));
                output.push(spawn(move || copy(&mut File::from(master), user(1), Some(Filter::default()))));
            }
            Stdio::Pipes { input, output: out, errors } => {
                spawn(move || copy(user(0), File::from(input), None));
                output.push(spawn(move || copy(&mut File::from(out), user(1), filter_for(1))));
                output.push(spawn(move || copy(&mut File::from(errors), user(2), filter_for(2))));
            }
        }
        Ok(Self { output })
    }

    /// True once all output has been passed on.
    pub fn is_drained(&self) -> bool {
        self.output.iter().all(JoinHandle::is_finished)
    }
}

/// A terminal obeys what it is shown; a file does not.
fn filter_for(fd: RawFd) -> Option<Filter> {
    is_terminal(fd).then(Filter::default)
}

/// One of the user's own descriptors, never closed by us.
fn user(fd: RawFd) -> UserFd {
    // SAFETY: fds 0 to 2 stay open for the life of the process; ManuallyDrop keeps File from closing them.
    UserFd(ManuallyDrop::new(unsafe { File::from_raw_fd(fd) }))
}

struct UserFd(ManuallyDrop<File>);

impl Read for UserFd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for UserFd {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.write(buffer)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(work)
}

/// Until end of file, an error (EIO is a pty's end of file) or a reader that is gone. Closing both ends on return
/// is what tells the other side.
fn copy(mut from: impl Read, mut to: impl Write, mut filter: Option<Filter>) {
    let mut buffer = vec![0u8; CHUNK];
    let mut clean = Vec::with_capacity(CHUNK);
    loop {
        let length = match from.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        let bytes = match &mut filter {
            None => &buffer[..length],
            Some(filter) => {
                clean.clear();
                filter.pass(&buffer[..length], &mut clean);
                &clean[..]
            }
        };
        if to.write_all(bytes).is_err() {
            return;
        }
    }
    if let Some(filter) = filter {
        let _ = to.write_all(&filter.restore());
    }
}

/// Keeps descriptors 0 to 2 occupied, so that none of ours ever takes their place.
pub fn fill_missing_stdio() {
    for fd in 0..3 {
        // SAFETY: plain numbers; open takes the lowest free number, which is fd.
        unsafe {
            if libc::fcntl(fd, libc::F_GETFD) < 0 {
                libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
            }
        }
    }
}
