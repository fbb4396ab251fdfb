//! `ambit.control`: JSON lines both ways. A thread reads; orders queue up for the session's loop, except that
//! `recorded` goes straight to the exec that waits for it.
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex};

use ambit_launch::control::{ControlState, ExitBody};
use ambit_launch::failure::{Context, Failure, Result};
use ambit_launch::sensor::Fact;
use ambit_launch::sys;
use serde::Serialize;

use crate::boot;
use crate::spec::Order;

const LONGEST: u64 = 16 << 20;

#[derive(Serialize)]
#[serde(tag = "ev", rename_all = "kebab-case")]
pub enum Event<'a> {
    Hello {
        v: u32,
    },
    /// Here a snapshot is taken.
    Warm {},
    Ready {
        controls: &'a [ControlState],
        registers: BTreeMap<u32, String>,
    },
    Running {
        pid: i32,
    },
    Launch {
        n: u64,
        fact: &'a Fact,
    },
    Exit {
        fact: &'a Fact,
    },
    Ended(ExitBody),
    OverLimit {
        limit: &'a str,
    },
    Failed {
        what: &'a str,
        why: &'a str,
        remedy: Option<&'a str>,
    },
}

#[derive(Default)]
struct Heard {
    orders: VecDeque<Order>,
    /// Number of the last launch that the host has recorded.
    recorded: u64,
}

struct Shared {
    port: Mutex<File>,
    heard: Mutex<Heard>,
    recorded: Condvar,
    wake: OwnedFd,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Channel(Arc<Shared>);

impl Channel {
    pub fn new(port: File) -> Result<Self> {
        let what = "opening the control channel";
        // SAFETY: plain flags.
        let wake =
            sys::check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }).context(what)?;
        let reader = port.try_clone().context(what)?;
        let shared = Shared {
            port: Mutex::new(port),
            heard: Mutex::default(),
            recorded: Condvar::new(),
            wake: sys::owned(wake),
        };
        let channel = Self(Arc::new(shared));
        let hears = channel.clone();
        std::thread::spawn(move || hears.listen(reader));
        Ok(channel)
    }

    pub fn tell(&self, event: &Event) {
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        if let Ok(mut port) = self.0.port.lock() {
            let _ = port.write_all(&line);
        }
    }

    pub fn fail(&self, failure: &Failure) {
        let Failure { what, why, remedy } = failure;
        self.tell(&Event::Failed { what, why, remedy: remedy.as_deref() });
    }

    /// Tells of a launch and returns when the host has it on record.
    pub fn launch(&self, n: u64, fact: &Fact) -> io::Result<()> {
        self.tell(&Event::Launch { n, fact });
        let heard = self.0.heard.lock().map_err(|_| io::Error::other("the control channel broke"))?;
        let waited = self.0.recorded.wait_while(heard, |heard| heard.recorded < n);
        waited.map(drop).map_err(|_| io::Error::other("the control channel broke"))
    }

    /// Readable when there may be an order.
    pub fn fd(&self) -> RawFd {
        self.0.wake.as_raw_fd()
    }

    pub fn next(&self) -> Option<Order> {
        let mut count = 0;
        // SAFETY: count is a valid u64; an empty eventfd says EAGAIN.
        unsafe { libc::eventfd_read(self.0.wake.as_raw_fd(), &mut count) };
        self.0.heard.lock().ok()?.orders.pop_front()
    }

    /// Waits for an order.
    pub fn wait(&self) -> Result<Order> {
        loop {
            if let Some(order) = self.next() {
                return Ok(order);
            }
            sys::poll(&[self.fd()], None).context("waiting for an order")?;
        }
    }

    /// A host that is gone, or that says what is no order, ends the guest.
    fn listen(&self, port: File) {
        let mut reader = BufReader::with_capacity(64 << 10, port);
        let mut started = false;
        loop {
            let mut line = Vec::new();
            let read = (&mut reader).take(LONGEST).read_until(b'\n', &mut line);
            if !matches!(read, Ok(length) if length > 0) {
                // Nobody there yet, or the one who took a snapshot has gone.
                if started {
                    boot::restart();
                }
                crate::port::wait_for_host(reader.get_ref());
                continue;
            }
            match serde_json::from_slice(&line) {
                Ok(order) => {
                    started |= matches!(order, Order::Start { .. });
                    self.take(order);
                }
                Err(error) => {
                    self.fail(&Failure::new("reading an order", error));
                    boot::restart();
                }
            }
        }
    }

    fn take(&self, order: Order) {
        let Ok(mut heard) = self.0.heard.lock() else { return };
        match order {
            Order::Recorded { n } => {
                heard.recorded = n;
                self.0.recorded.notify_all();
            }
            order => {
                heard.orders.push_back(order);
                // SAFETY: the eventfd lives as long as self.
                unsafe { libc::eventfd_write(self.0.wake.as_raw_fd(), 1) };
            }
        }
    }
}
