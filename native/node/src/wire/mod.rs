//! TLS connections of the gate: sockets are read, bytes decrypted, encrypted and written here; what they mean is decided
//! by src/gate, which is told of each batch and takes it, passes it on to another connection, or leaves it held.
//!
//! All of it runs on Node's main thread, from Node's own loop: no byte moves while JavaScript runs, other than by a
//! call of its own.

mod answer;
mod connection;
mod dial;
mod inner;
mod poll;
mod records;
mod tls;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use napi::bindgen_prelude::{Buffer, Function, Int32Array, Int32ArraySlice, Uint8ArraySlice};
use napi::{Env, Result};
use napi_derive::napi;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;

use crate::{errno, failed};
use answer::Rules;
use connection::{Connection, Scratch, Stage, Tls};
use dial::connecting;
use inner::{Caller, GO_ON, GONE, Inner, UNUSUAL, WAIT};
use poll::{Epoll, Watch};

/// Read from one socket in one turn, at most.
const INPUT: usize = 256 << 10;
/// Room for what is decrypted of a record that began earlier.
const MARGIN: usize = 64 << 10;

#[napi]
pub struct Wire {
    inner: Rc<RefCell<Inner>>,
    watch: RefCell<Option<Watch>>,
}

#[napi]
impl Wire {
    /// `turn` is called with a count of events; each is three numbers in `events`: connection, event, argument.
    #[napi(constructor)]
    pub fn new(env: Env, turn: Function<u32, ()>, events: Int32Array) -> Result<Self> {
        let inner = Rc::new(RefCell::new(Inner {
            connections: HashMap::new(),
            next: 0,
            scratch: Scratch { input: vec![0; INPUT + MARGIN], output: vec![0; MARGIN] },
            epoll: Epoll::new()?,
            servers: HashMap::new(),
            targets: HashMap::new(),
            events: Vec::new(),
            rules: Rules { dropped: Vec::new(), titles: Vec::new() },
            rewritten: Vec::new(),
            touched: Vec::new(),
        }));
        let fd = inner.borrow().epoll.raw();
        let mut caller = Caller { env, turn: turn.create_ref()?, events };
        let shared = Rc::clone(&inner);
        let watch = Watch::start(&env, fd, Box::new(move || caller.run(&shared)))?;
        Ok(Self { inner, watch: RefCell::new(Some(watch)) })
    }

    /// A certificate to show, with its key (PEM); its number for `accept`.
    #[napi]
    pub fn certificate(&self, certificate: String, key: String) -> Result<u32> {
        let config = tls::server_config(&certificate, &key).map_err(|e| failed("certificate", e))?;
        let mut inner = self.inner.borrow_mut();
        let number = inner.number();
        inner.servers.insert(number, config);
        Ok(number)
    }

    /// Shows this certificate to no further client.
    #[napi]
    pub fn forget_certificate(&self, certificate: u32) {
        self.inner.borrow_mut().servers.remove(&certificate);
    }

    /// A server that shows `leaf` (DER); its number for `connect`.
    #[napi]
    pub fn target(&self, leaf: &[u8]) -> Result<u32> {
        let config = tls::client_config(leaf).map_err(|e| failed("target", e))?;
        let mut inner = self.inner.borrow_mut();
        let number = inner.number();
        inner.targets.insert(number, config);
        Ok(number)
    }

    /// Connects to this server no more.
    #[napi]
    pub fn forget_target(&self, target: u32) {
        self.inner.borrow_mut().targets.remove(&target);
    }

    /// Serves TLS on an accepted socket, of which `first` was read already. The caller's descriptor stays its own.
    #[napi]
    pub fn accept(&self, fd: i32, certificate: u32, first: &[u8]) -> Result<u32> {
        // SAFETY: fcntl duplicates any descriptor number or fails with EBADF; the copy is ours alone.
        let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
        if copy < 0 {
            return Err(errno("accept"));
        }
        let fd = unsafe { OwnedFd::from_raw_fd(copy) };
        let inner = &mut *self.inner.borrow_mut();
        let config =
            inner.servers.get(&certificate).ok_or_else(|| failed("accept", "no such certificate"))?;
        let tls = UnbufferedServerConnection::new(Arc::clone(config)).map_err(|e| failed("accept", e))?;
        let mut connection = Connection::new(fd, Tls::Server(Box::new(tls)), Stage::Handshake);
        if connection.feed(&mut inner.scratch, first).ending.is_some() {
            return Err(failed("accept", "the handshake failed"));
        }
        let id = inner.number();
        inner.connections.insert(id, connection);
        inner.watch(id);
        Ok(id)
    }

    /// Connects to exactly this address; `host` is what the server is called.
    #[napi]
    pub fn connect(&self, address: String, port: u16, host: String, target: u32) -> Result<u32> {
        let address: IpAddr = address.parse().map_err(|e| failed("connect", e))?;
        let host = ServerName::try_from(host).map_err(|e| failed("connect", e))?;
        let inner = &mut *self.inner.borrow_mut();
        let config = inner.targets.get(&target).ok_or_else(|| failed("connect", "no such target"))?;
        let tls =
            UnbufferedClientConnection::new(Arc::clone(config), host).map_err(|e| failed("connect", e))?;
        let fd = connecting(SocketAddr::new(address, port))?;
        let id = inner.number();
        inner.connections.insert(id, Connection::new(fd, Tls::Client(Box::new(tls)), Stage::Connecting));
        inner.watch(id);
        Ok(id)
    }

    /// Copies decrypted bytes; 0: there are none.
    #[napi]
    pub fn read(&self, id: u32, mut into: Uint8ArraySlice<'_>) -> u32 {
        let inner = &mut *self.inner.borrow_mut();
        // SAFETY: no JavaScript runs during the call, so nobody else looks at these bytes.
        let into = unsafe { into.as_mut() };
        let size = inner.connections.get_mut(&id).map_or(0, |one| one.take(into));
        inner.watch(id);
        u32::try_from(size).unwrap_or(0)
    }

    /// Encrypts and sends; with `more`, at the latest with the next call that sends. 0: go on; 1: wait for the event
    /// that it drained; -1: it is gone.
    #[napi]
    pub fn write(&self, id: u32, bytes: &[u8], more: bool) -> i32 {
        self.inner.borrow_mut().write(id, bytes, more)
    }

    /// The same with text, each character one byte (Latin-1).
    #[napi]
    pub fn write_text(&self, id: u32, text: napi::JsString, more: bool) -> Result<i32> {
        let text = text.into_latin1()?;
        Ok(self.inner.borrow_mut().write(id, text.as_slice(), more))
    }

    /// Sends what was kept back.
    #[napi]
    pub fn flush(&self, id: u32) -> i32 {
        let inner = &mut *self.inner.borrow_mut();
        let Some(one) = inner.connections.get_mut(&id) else { return GONE };
        let sent = one.send().is_ok();
        inner.written(id, sent)
    }

    /// Passes decrypted bytes of one connection to another, without their passing through JavaScript. They are taken,
    /// whether or not the other one still is there.
    #[napi]
    pub fn pass(&self, from: u32, to: u32, size: u32) -> i32 {
        let inner = &mut *self.inner.borrow_mut();
        let Some(mut source) = inner.connections.remove(&from) else { return GONE };
        let passed = match inner.connections.get_mut(&to) {
            Some(to) => source.pass(size as usize, to, &mut inner.scratch),
            None => source.skip(size as usize),
        };
        inner.connections.insert(from, source);
        inner.watch(from);
        inner.written(to, passed)
    }

    /// What clients are told of answers: without which fields (lower case), and which words a status has.
    #[napi]
    pub fn answers(&self, dropped: Vec<String>, titles: Vec<String>) {
        self.inner.borrow_mut().rules = Rules { dropped, titles };
    }

    /// Passes the answer that lies whole in `from` on to a client as `answers` has it; `told` gets its status and the
    /// bytes of its fields and of its body. -2: it is not a usual one, and is where it was. Else as `write`.
    #[napi]
    pub fn answer(&self, from: u32, to: u32, mut told: Int32ArraySlice<'_>) -> i32 {
        let inner = &mut *self.inner.borrow_mut();
        let Some(source) = inner.connections.get_mut(&from) else { return UNUSUAL };
        let Some(news) = inner.rules.rewrite(source.held(), &mut inner.rewritten) else { return UNUSUAL };
        source.skip(source.available());
        let news = [usize::from(news.status), news.head, news.body];
        // SAFETY: no JavaScript runs during the call, so nobody else looks at these numbers.
        for (to, from) in unsafe { told.as_mut() }.iter_mut().zip(news) {
            *to = i32::try_from(from).unwrap_or(i32::MAX);
        }
        inner.watch(from);
        let Some(one) = inner.connections.get_mut(&to) else { return GONE };
        let sent = one.write(&mut inner.scratch, &inner.rewritten, false);
        inner.written(to, sent)
    }

    /// What `answer` would send instead of these bytes; null where it would do nothing. For whoever compares.
    #[napi]
    pub fn rewritten(&self, bytes: &[u8]) -> Option<Buffer> {
        let mut out = Vec::new();
        self.inner.borrow().rules.rewrite(bytes, &mut out).map(|_| Buffer::from(out))
    }

    /// Reads nothing more for now.
    #[napi]
    pub fn pause(&self, id: u32, paused: bool) {
        let inner = &mut *self.inner.borrow_mut();
        if let Some(one) = inner.connections.get_mut(&id) {
            one.paused = paused;
        }
        inner.watch(id);
    }

    /// Ends our side once all is sent: 0 now, 1 later, which is told. -1: both sides have ended, and it is gone.
    #[napi]
    pub fn end(&self, id: u32) -> i32 {
        let inner = &mut *self.inner.borrow_mut();
        let Some(one) = inner.connections.get_mut(&id) else { return GONE };
        if !one.end() || one.over() {
            inner.close(id);
            return GONE;
        }
        one.finish_told = one.finished();
        let answer = if one.finished() { GO_ON } else { WAIT };
        inner.watch(id);
        answer
    }

    /// Breaks it off. Nothing more is told about it.
    #[napi]
    pub fn close(&self, id: u32) {
        self.inner.borrow_mut().close(id);
    }

    /// Breaks all off, for good.
    #[napi]
    pub fn stop(&self) {
        let inner = &mut *self.inner.borrow_mut();
        let all: Vec<u32> = inner.connections.keys().copied().collect();
        for id in all {
            inner.close(id);
        }
        inner.servers.clear();
        inner.targets.clear();
        self.watch.borrow_mut().take();
    }
}
