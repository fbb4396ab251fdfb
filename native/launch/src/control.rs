//! The channel to `ambit run`: JSON lines both ways on fd 3 (docs/architecture.md, "Launch protocol").
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure};
use crate::sys;
use crate::tpm::measure;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Fully,
    Partly,
    Not,
}

/// One control and what was found when it was tried from the inside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ControlState {
    pub control: String,
    pub state: State,
    pub detail: String,
}

impl ControlState {
    pub fn new(control: &str, state: State, detail: impl Into<String>) -> Self {
        Self { control: control.into(), state, detail: detail.into() }
    }
}

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    Code(i32),
    Signal(i32),
}

#[derive(Debug, Serialize)]
#[serde(tag = "ev", rename_all = "kebab-case")]
pub enum Event<'a> {
    World,
    Ready { controls: &'a [ControlState] },
    Running { pid: i32 },
    Exit(ExitBody),
    Timeout,
    OverLimit { limit: &'a str },
    Quote { nonce: &'a str, fact: &'a measure::Fact, measured: &'a measure::Fact },
    NoQuote { nonce: &'a str, why: &'a str },
    Failed { what: &'a str, why: &'a str, remedy: Option<&'a str> },
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum ExitBody {
    Code { code: i32 },
    Signal { signal: i32 },
}

impl From<Ending> for ExitBody {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Code(code) => Self::Code { code },
            Ending::Signal(signal) => Self::Signal { signal },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Order {
    Build,
    Exec,
    Freeze,
    Thaw,
    Kill,
    Signal {
        signal: i32,
    },
    /// `nonce` in hex; `by`: who asked.
    Quote {
        nonce: String,
        by: String,
    },
}

/// Longest order line, bytes.
const MAX_LINE: usize = 4096;

/// Cheap to clone.
#[derive(Clone)]
pub struct Control {
    fd: Arc<OwnedFd>,
    writing: Arc<Mutex<()>>,
}

impl Control {
    /// Takes over fd 3.
    pub fn inherited(fd: RawFd) -> std::io::Result<Self> {
        sys::set_cloexec(fd)?;
        Ok(Self { fd: Arc::new(sys::owned(fd)), writing: Arc::default() })
    }

    /// Tells the supervisor. A supervisor that is gone is noticed on the reading side.
    pub fn emit(&self, event: &Event) {
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        let _turn = self.writing.lock();
        let mut rest = &line[..];
        while !rest.is_empty() {
            // SAFETY: rest is a valid slice. SIGPIPE is ignored (std does so at start).
            let sent = unsafe { libc::write(self.fd.as_raw_fd(), rest.as_ptr().cast(), rest.len()) };
            match sent {
                n if n > 0 => rest = &rest[n as usize..],
                _ if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    }

    pub fn fail(&self, failure: &Failure) {
        self.emit(&Event::Failed {
            what: &failure.what,
            why: &failure.why,
            remedy: failure.remedy.as_deref(),
        });
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Cuts what arrives on the control channel into orders.
#[derive(Default)]
pub struct Orders {
    buffer: Vec<u8>,
}

impl Orders {
    /// Reads once (the descriptor is readable). `Err` at end of file or on an endless line: either kills.
    pub fn read(&mut self, fd: BorrowedFd) -> Result<(), Failure> {
        let mut chunk = [0u8; MAX_LINE];
        // SAFETY: chunk is a valid buffer of its own length.
        let length = unsafe { libc::read(fd.as_raw_fd(), chunk.as_mut_ptr().cast(), chunk.len()) };
        if length <= 0 {
            return Err(Failure::new("listening to the supervisor", "it is gone"));
        }
        self.buffer.extend_from_slice(&chunk[..length as usize]);
        if self.buffer.len() > 16 * MAX_LINE {
            return Err(Failure::new("reading an order", "too much at once"));
        }
        Ok(())
    }

    /// Waits until `fd` is readable; the supervisor is heard meanwhile, and may call it off.
    pub fn until_readable(&mut self, fd: RawFd, control: &Control, what: &str) -> Result<(), Failure> {
        let fds = [fd, control.as_fd().as_raw_fd()];
        while let ready = sys::poll(&fds, None).context(what)?
            && ready[0] == 0
        {
            if ready[1] != 0 {
                self.read(control.as_fd())?;
                if self.kills() {
                    return Err(Failure::new(what, "the supervisor called it off"));
                }
            }
        }
        Ok(())
    }

    /// True when, of what was read, something orders to kill or is no order.
    pub fn kills(&mut self) -> bool {
        std::iter::from_fn(|| self.take().transpose())
            .any(|order| order.map_or(true, |order| order == Order::Kill))
    }

    /// The next whole order of what was read.
    pub fn take(&mut self) -> Result<Option<Order>, Failure> {
        let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
        let line: Vec<u8> = self.buffer.drain(..=end).collect();
        serde_json::from_slice(&line).map(Some).map_err(|error| Failure::new("reading an order", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn orders(text: &[u8]) -> Result<Vec<Order>, Failure> {
        let (read, write) = sys::pipe().unwrap();
        std::fs::File::from(write).write_all(text).unwrap();
        let mut orders = Orders::default();
        orders.read(read.as_fd())?;
        std::iter::from_fn(|| orders.take().transpose()).collect()
    }

    #[test]
    fn takes_orders_one_by_one_however_they_arrive() {
        let all = orders(b"{\"op\":\"build\"}\n{\"op\":\"signal\",\"signal\":15}\n{\"op\":\"ex").unwrap();
        assert_eq!(all, [Order::Build, Order::Signal { signal: 15 }]);
    }

    #[test]
    fn refuses_what_is_no_order() {
        for text in ["\n", "{}\n", "{\"op\":\"open\"}\n", "{\"op\":\"signal\",\"signal\":15,\"x\":1}\n"] {
            assert!(orders(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(orders(b"").is_err(), "end of file");
    }
}
