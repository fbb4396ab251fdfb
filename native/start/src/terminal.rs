//! The user's terminal, as it was: whoever had it in raw mode may have been killed.
use std::mem::zeroed;

pub struct Terminal {
    before: Option<libc::termios>,
}

impl Terminal {
    /// The settings of the one at fd 0, if it is one.
    pub fn now() -> Self {
        // SAFETY: termios is plain data, which the call fills.
        unsafe {
            let mut before: libc::termios = zeroed();
            Self { before: (libc::tcgetattr(0, &mut before) == 0).then_some(before) }
        }
    }

    pub fn restore(&self) {
        let Some(before) = &self.before else { return };
        // SAFETY: `before` was filled by tcgetattr. Asked from the background, a terminal stops who does not ignore it.
        unsafe {
            libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            libc::tcsetattr(0, libc::TCSANOW, before);
        }
    }
}
