//! Bytes between the user and the agent. One thread a direction, each with one fixed buffer: a reader that stops
//! reading stops the writer, and nothing piles up.
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::cell_end::Stdio;
use crate::pty::is_terminal;
use crate::sys;
use crate::termfilter::Filter;

const CHUNK: usize = 64 << 10;

/// A running relay. Its threads end by themselves once everything inside is dead.
pub struct Relay {
    /// End of file once the last thread that passes on output has ended.
    drained: OwnedFd,
}

impl Relay {
    pub fn start(stdio: Stdio) -> io::Result<Self> {
        let (drained, passing) = sys::pipe()?;
        match stdio {
            Stdio::Terminal(master) => {
                let input = master.try_clone()?;
                spawn(move || copy(user(0), File::from(input), None));
                spawn(move || {
                    copy(&mut File::from(master), user(1), Some(Filter::default()));
                    drop(passing);
                });
            }
            Stdio::Pipes { input, output: out, errors } => {
                spawn(move || copy(user(0), File::from(input), None));
                for (from, to, passing) in [(out, 1, passing.try_clone()?), (errors, 2, passing)] {
                    spawn(move || {
                        copy(&mut File::from(from), user(to), filter_for(to));
                        drop(passing);
                    });
                }
            }
        }
        Ok(Self { drained })
    }

    /// Readable once all output has been passed on.
    pub fn drained(&self) -> RawFd {
        self.drained.as_raw_fd()
    }
}

/// A terminal obeys what it is shown; a file does not.
fn filter_for(fd: RawFd) -> Option<Filter> {
    is_terminal(fd).then(Filter::default)
}

/// One of the user's own descriptors, or another that its owner keeps open; never closed here.
pub fn user(fd: RawFd) -> UserFd {
    // SAFETY: fds 0 to 2 stay open for the life of the process; ManuallyDrop keeps File from closing them.
    UserFd(ManuallyDrop::new(unsafe { File::from_raw_fd(fd) }))
}

pub struct UserFd(ManuallyDrop<File>);

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

fn spawn(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
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

/// Lets go of descriptors 0 to 2.
pub fn leave_stdio() {
    // SAFETY: plain numbers; what cannot be opened leaves them as they are.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        (0..3).for_each(|fd| {
            libc::dup2(null, fd);
        });
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
