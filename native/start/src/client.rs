//! The session's end at the user's terminal: starts the launcher as its own child, so that terminal, job control,
//! limits and signals are this process's, passes signals on, and says what the host has to say.
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ambit_shared::lockdown::no_new_privileges;
use serde::Deserialize;
use serde_json::json;

use crate::request::Request;
use crate::sys::{self, Ended};
use crate::terminal::Terminal;
use crate::{cold, room};

/// A host answers at once that it takes the session; one that is stuck must not keep the user waiting.
const TAKEN_MS: libc::c_int = 500;
const SIGNALS: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD];

/// What the host says.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Order {
    Taken,
    Decline,
    Launch { spec: PathBuf },
    Kill,
    Err { text: String },
    Exit { code: i32 },
}

/// None: the host did not take the session, and nothing of it has happened.
pub fn run(root: &Path, request: &Request, host: UnixStream) -> Option<i32> {
    let (control, launch_control) = sys::socketpair(libc::SOCK_STREAM).ok()?;
    let (sockets, launch_sockets) = sys::socketpair(libc::SOCK_SEQPACKET).ok()?;
    let text = sys::memfd(c"ambit-request", &serde_json::to_vec(request).ok()?).ok()?;
    let fds = [&text, &control, &sockets].map(AsRawFd::as_raw_fd);
    sys::send_with_fds(&host, br#"{"v":1}"#, &fds).ok()?;
    drop((text, control, sockets));
    sys::poll([host.as_raw_fd()], TAKEN_MS)?;
    let mut client = Client {
        launcher: root.join(".build/bin/ambit-launch"),
        host,
        unread: Vec::new(),
        inside: Some((launch_control, launch_sockets)),
        signals: None,
        child: None,
        told: false,
        signalled: None,
        terminal: Terminal::now(),
        kills: room::kills(),
    };
    match client.next() {
        Some(Order::Taken) => {
            // As `ambit run` does: we hold the user's credentials, and what we start gains no rights.
            no_new_privileges().ok()?;
            sys::ignore_broken_pipes();
            // A host that was too slow, and whose session is a cold one by now, never hears this: it does nothing.
            client.tell(&json!({"ev": "go"}));
            client.serve()
        }
        _ => None,
    }
}

struct Client {
    launcher: PathBuf,
    host: UnixStream,
    unread: Vec<u8>,
    /// The launcher's ends of its channels.
    inside: Option<(OwnedFd, OwnedFd)>,
    signals: Option<OwnedFd>,
    child: Option<u32>,
    told: bool,
    signalled: Option<libc::c_int>,
    /// From before the session.
    terminal: Terminal,
    kills: u64,
}

impl Client {
    fn serve(&mut self) -> Option<i32> {
        loop {
            match self.next() {
                Some(Order::Decline) => return None,
                Some(Order::Launch { spec }) => self.launch(&spec),
                Some(Order::Kill) => self.child.into_iter().for_each(sys::kill),
                Some(Order::Err { text }) => drop(io::stderr().write_all(text.as_bytes())),
                Some(Order::Exit { code }) => return Some(code),
                Some(Order::Taken) => {}
                None => return Some(self.abandoned()),
            }
        }
    }

    /// The next order; passes on meanwhile what happens here. None when the host is gone or speaks nonsense.
    fn next(&mut self) -> Option<Order> {
        loop {
            if let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return serde_json::from_slice(&line).ok();
            }
            let signals = self.signals.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            let ready = sys::poll([self.host.as_raw_fd(), signals], -1)?;
            if ready[1] {
                self.pass_signals();
            }
            if ready[0] {
                let mut chunk = [0u8; 16 << 10];
                match self.host.read(&mut chunk) {
                    Ok(length @ 1..) => self.unread.extend_from_slice(&chunk[..length]),
                    _ => return None,
                }
            }
        }
    }

    fn launch(&mut self, spec: &Path) {
        // From here on the session has a say in what a signal does.
        self.signals = sys::signal_fd(&SIGNALS).ok();
        let Some((control, sockets)) = self.inside.take() else { return };
        let places = [control.as_raw_fd(), sockets.as_raw_fd()];
        let mut command = Command::new(&self.launcher);
        command.arg("world").arg(spec).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        // SAFETY: async-signal-safe calls only.
        unsafe {
            command.pre_exec(move || {
                sys::default_signals();
                sys::take_places(places)
            })
        };
        match command.spawn() {
            Ok(child) => self.child = Some(child.id()),
            Err(error) => self.tell(&json!({"ev": "launcher", "error": error.to_string()})),
        }
    }

    fn pass_signals(&mut self) {
        while let Some(signal) = self.signals.as_ref().and_then(sys::next_signal) {
            if signal == libc::SIGCHLD {
                self.tell_end();
            } else {
                self.signalled = Some(signal);
                self.tell(&json!({"ev": "signal", "signal": signal}));
            }
        }
    }

    fn tell_end(&mut self) {
        let Some(end) = self.child.and_then(sys::ended).filter(|_| !self.told) else { return };
        self.told = true;
        match end {
            Ended::Code(code) => self.tell(&json!({"ev": "launcher", "code": code})),
            Ended::Signal(signal) => self.tell(&json!({"ev": "launcher", "signal": signal})),
        }
    }

    /// A host that is gone is found out by reading.
    fn tell(&mut self, news: &serde_json::Value) {
        let _ = sys::send(&self.host, format!("{news}\n").as_bytes());
    }

    /// The host ended without a word: killed, or told by a signal before there was a session to end.
    fn abandoned(&mut self) -> i32 {
        self.child.into_iter().for_each(sys::kill);
        if let Some(signal) = self.signalled {
            sys::die_of(signal);
        }
        self.terminal.restore();
        eprintln!("{}", cold::words("its host", self.kills));
        125
    }
}
