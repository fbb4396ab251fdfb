//! `ambit.control`, the host's end. Each line has a bound, and so has what waits to be written; a guest that keeps to
//! neither ends its session.
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{SyncSender, sync_channel};

use serde::{Deserialize, Serialize};

use crate::control::ControlState;
use crate::failure::{Context, Failure, Result};
use crate::sensor::Fact;
use crate::sys;
use crate::vm::start::{Net, Start};

const LONGEST: usize = 256 << 10;
/// Orders that may wait for the guest to read.
const WAITING: usize = 4096;
/// Of a guest's own words in a message.
const WORDS: usize = 300;

/// The guest's ends of two of its ports, and of its TPM.
pub struct Ends {
    pub control: OwnedFd,
    pub io: OwnedFd,
    pub tpm: OwnedFd,
    /// Of a machine that is written down or goes on: monitor, memory, and the snapshot that it goes on from.
    pub snapshot: Vec<OwnedFd>,
}

#[derive(Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Order<'a> {
    Warm { net: Net },
    Start { spec: &'a Start<'a> },
    Exec,
    Recorded { n: u64 },
    Signal { signal: i32 },
    Resize { window: [u16; 2] },
    Time { time: u64 },
}

#[derive(Debug, Deserialize)]
#[serde(tag = "ev", rename_all = "kebab-case")]
pub enum News {
    Hello {
        v: u32,
    },
    Warm {},
    /// `registers`: of its TPM's SHA-256 bank, by number, in hex.
    Ready {
        controls: Vec<ControlState>,
        registers: BTreeMap<String, String>,
    },
    Running {},
    Launch {
        n: u64,
        fact: Fact,
    },
    Exit {
        fact: Fact,
    },
    Ended {
        code: Option<i32>,
        signal: Option<i32>,
    },
    OverLimit {
        limit: String,
    },
    Failed {
        what: String,
        why: String,
    },
}

pub struct Guest {
    socket: UnixStream,
    orders: SyncSender<Vec<u8>>,
    buffer: Vec<u8>,
    /// Where in it the next line begins.
    at: usize,
    ended: bool,
}

impl Guest {
    pub fn new(socket: OwnedFd) -> Result<Self> {
        let what = "opening the control port";
        let socket = UnixStream::from(socket);
        let mut writing = socket.try_clone().context(what)?;
        let (orders, waiting) = sync_channel::<Vec<u8>>(WAITING);
        std::thread::spawn(move || waiting.iter().all(|line| writing.write_all(&line).is_ok()));
        Ok(Self { socket, orders, buffer: Vec::new(), at: 0, ended: false })
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    pub fn tell(&self, order: &Order) -> Result<()> {
        let what = "telling the guest";
        let mut line = serde_json::to_vec(order).map_err(|error| Failure::new(what, error))?;
        line.push(b'\n');
        self.orders.try_send(line).map_err(|_| Failure::new(what, "it does not listen"))
    }

    /// Bytes that were read and are no news yet.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    /// Reads what is there, without waiting. False once nothing more will come.
    pub fn read(&mut self) -> Result<bool> {
        self.buffer.drain(..std::mem::take(&mut self.at));
        let mut chunk = [0; 64 << 10];
        while !self.ended && self.buffer.len() <= LONGEST {
            if sys::poll(&[self.fd()], Some(0)).context("hearing the guest")?[0] == 0 {
                break;
            }
            match self.socket.read(&mut chunk) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) | Ok(0) => self.ended = true,
                Ok(length) => self.buffer.extend(&chunk[..length]),
            }
        }
        Ok(!self.ended)
    }

    pub fn has_news(&self) -> bool {
        self.buffer[self.at..].contains(&b'\n')
    }

    /// The next whole line of what was read.
    pub fn take(&mut self) -> Result<Option<News>> {
        let what = "hearing the guest";
        let waiting = &self.buffer[self.at..];
        let end = waiting.iter().position(|&byte| byte == b'\n');
        if end.unwrap_or(waiting.len()) > LONGEST {
            return Err(Failure::new(what, "it sent a line without end"));
        }
        let Some(end) = end else { return Ok(None) };
        self.at += end + 1;
        let news = serde_json::from_slice(&waiting[..end])
            .map_err(|error| Failure::new(what, words(&format!("it sent what is no event: {error}"))))?;
        match news {
            News::Failed { what, why } => {
                Err(Failure::new(&format!("the guest: {}", words(&what)), words(&why)))
            }
            news => Ok(Some(news)),
        }
    }
}

/// A guest's words as a person may see them.
pub fn words(text: &str) -> String {
    text.chars().take(WORDS).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(bytes: &[u8]) -> (Guest, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(bytes).unwrap();
        let mut guest = Guest::new(ours.into()).unwrap();
        guest.read().unwrap();
        (guest, theirs)
    }

    #[test]
    fn takes_lines_one_by_one_and_refuses_what_is_no_event() {
        let (mut guest, _there) =
            hear(b"{\"ev\":\"hello\",\"v\":1}\n{\"ev\":\"ended\",\"code\":3}\n{\"ev\":\"n");
        assert!(matches!(guest.take(), Ok(Some(News::Hello { v: 1 }))));
        assert!(matches!(guest.take(), Ok(Some(News::Ended { code: Some(3), signal: None }))));
        assert!(matches!(guest.take(), Ok(None)));
        for text in ["\n", "{}\n", "{\"ev\":\"open\"}\n", "{\"ev\":\"hello\"}\n"] {
            assert!(hear(text.as_bytes()).0.take().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_failure_comes_without_control_characters() {
        let (mut guest, _there) =
            hear(b"{\"ev\":\"failed\",\"what\":\"x\\u001b[2J\",\"why\":\"y\",\"remedy\":null}\n");
        let failure = guest.take().unwrap_err();
        assert_eq!((failure.what.as_str(), failure.why.as_str()), ("the guest: x?[2J", "y"));
    }

    #[test]
    fn a_line_without_end_ends_it() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || {
            let _ = theirs.write_all(&vec![b'x'; LONGEST + (128 << 10)]);
        });
        let mut guest = Guest::new(ours.into()).unwrap();
        while guest.buffer.len() <= LONGEST {
            guest.read().unwrap();
        }
        assert!(guest.take().is_err());
        drop(guest);
        writer.join().unwrap();
    }
}
