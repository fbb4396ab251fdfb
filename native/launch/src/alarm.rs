//! How the launcher's threads tell its main loop that the session must end.
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::control::Ending;
use crate::failure::{Context, Failure, Result};
use crate::sys;

#[derive(Debug)]
pub enum Alarm {
    OverLimit(&'static str),
    /// The command of a guest, by gVisor's word.
    Ended(Ending),
    Failed(Failure),
}

/// The ringing side; cheap to clone.
#[derive(Clone)]
pub struct Bell {
    sender: Sender<Alarm>,
    wake: RawFd,
}

impl Bell {
    pub fn ring(&self, alarm: Alarm) {
        let _ = self.sender.send(alarm);
        // SAFETY: the eventfd lives as long as the process' Alarms, which outlive every thread that rings.
        unsafe { libc::eventfd_write(self.wake, 1) };
    }
}

/// The listening side.
pub struct Alarms {
    receiver: Receiver<Alarm>,
    wake: OwnedFd,
}

impl Alarms {
    pub fn fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    pub fn next(&self) -> Option<Alarm> {
        self.receiver.try_recv().ok()
    }
}

pub fn alarms() -> Result<(Bell, Alarms)> {
    // SAFETY: plain flags.
    let wake = sys::check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }).context("making an eventfd")?;
    let (sender, receiver) = channel();
    let alarms = Alarms { receiver, wake: sys::owned(wake) };
    Ok((Bell { sender, wake: alarms.fd() }, alarms))
}
