//! The connections themselves, behind what src/gate calls: which there are, what epoll watches for, and what is told.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use napi::Env;
use napi::bindgen_prelude::{FunctionRef, Int32Array};
use rustls::{ClientConfig, ServerConfig};

use super::answer::Rules;
use super::connection::{Connection, Ending, MOST_WAITING, News, Scratch, Stage};
use super::poll::Epoll;

/// What JavaScript is told about a connection; the numbers are known to src/gate/wire.ts.
#[derive(Clone, Copy)]
enum Event {
    /// The handshake is done.
    Secure = 1,
    /// Decrypted bytes are there: how many.
    Data = 2,
    /// The peer sends nothing more.
    End = 3,
    /// Who was told to wait need not any more.
    Drain = 4,
    /// It is gone, and why.
    Close = 5,
    /// All that was written is sent, and our side has ended.
    Finish = 6,
}

pub struct Inner {
    pub connections: HashMap<u32, Connection>,
    pub next: u32,
    pub scratch: Scratch,
    pub epoll: Epoll,
    pub servers: HashMap<u32, Arc<ServerConfig>>,
    pub targets: HashMap<u32, Arc<ClientConfig>>,
    pub events: Vec<[i32; 3]>,
    pub rules: Rules,
    /// What a client gets instead of an answer, while it is made.
    pub rewritten: Vec<u8>,
    /// Looked at in this turn. What to watch for is settled when JavaScript has taken what it was told of: nearly
    /// always it is the same as before.
    pub touched: Vec<u32>,
}

/// The answer to a write, known to src/gate/wire.ts.
pub const GONE: i32 = -1;
pub const GO_ON: i32 = 0;
pub const WAIT: i32 = 1;
/// Nothing was done.
pub const UNUSUAL: i32 = -2;

impl Inner {
    pub fn number(&mut self) -> u32 {
        // Beyond 2^31 numbers would be read as negative, and an old one could be taken for a new one.
        self.next = (self.next + 1) & 0x7fff_ffff;
        while self.connections.contains_key(&self.next) {
            self.next = (self.next + 1) & 0x7fff_ffff;
        }
        self.next
    }

    pub fn close(&mut self, id: u32) {
        if let Some(one) = self.connections.remove(&id) {
            // The socket may have another descriptor, with which epoll would still know it.
            self.epoll.watch(one.raw(), id, one.watched, None);
        }
    }

    pub fn write(&mut self, id: u32, bytes: &[u8], more: bool) -> i32 {
        let Some(one) = self.connections.get_mut(&id) else { return GONE };
        let sent = one.write(&mut self.scratch, bytes, more);
        self.written(id, sent)
    }

    pub fn written(&mut self, id: u32, sent: bool) -> i32 {
        let Some(one) = self.connections.get_mut(&id) else { return GONE };
        if !sent {
            return GONE;
        }
        let crowded = one.backlog() > MOST_WAITING;
        one.crowded |= crowded;
        self.watch(id);
        if crowded { WAIT } else { GO_ON }
    }

    /// Has epoll watch for what this connection wants now.
    pub fn watch(&mut self, id: u32) {
        let Some(one) = self.connections.get_mut(&id) else { return };
        let wanted = one.interest();
        // Without interest epoll would still tell of a peer that is gone, again and again.
        let events = (wanted != 0).then_some(wanted);
        if one.watched == events {
            return;
        }
        self.epoll.watch(one.raw(), id, one.watched, events);
        one.watched = events;
    }

    /// Tells what happened; the connection is removed with its end.
    pub fn tell(&mut self, id: u32, news: &News) {
        let Some(one) = self.connections.get_mut(&id) else { return };
        let number = id as i32;
        if news.established {
            self.events.push([number, Event::Secure as i32, 0]);
        }
        let available = one.available();
        if available > 0 && news.ending.is_none() {
            self.events.push([number, Event::Data as i32, i32::try_from(available).unwrap_or(i32::MAX)]);
        }
        if let Some(ending) = news.ending {
            self.events.push([number, Event::Close as i32, ending as i32]);
            self.close(id);
            return;
        }
        if one.ended && !one.end_told {
            one.end_told = true;
            self.events.push([number, Event::End as i32, 0]);
        }
        if one.finished() && !one.finish_told {
            one.finish_told = true;
            self.events.push([number, Event::Finish as i32, 0]);
        }
        if one.crowded && one.backlog() == 0 {
            one.crowded = false;
            self.events.push([number, Event::Drain as i32, 0]);
        }
        if one.over() {
            self.events.push([number, Event::Close as i32, Ending::Closed as i32]);
            self.close(id);
        }
    }

    /// Looks at every socket that is ready.
    pub fn look(&mut self) {
        for ready in self.epoll.ready() {
            let Some(one) = self.connections.get_mut(&ready.id) else { continue };
            let mut news = News::default();
            let wrong = ready.events & (libc::EPOLLERR | libc::EPOLLHUP) as u32 != 0;
            if one.stage == Stage::Connecting {
                news = one.connected(&mut self.scratch);
            } else {
                if ready.events & libc::EPOLLOUT as u32 != 0 && one.send().is_err() {
                    news.ending = Some(Ending::Broken);
                }
                let reads = one.interest() & libc::EPOLLIN as u32 != 0;
                if news.ending.is_none() && reads && (ready.events & libc::EPOLLIN as u32 != 0 || wrong) {
                    news = one.receive(&mut self.scratch);
                } else if wrong && ready.events & libc::EPOLLERR as u32 != 0 {
                    news.ending = Some(Ending::Broken);
                }
            }
            self.tell(ready.id, &news);
            self.touched.push(ready.id);
        }
    }
}

/// Calls JavaScript when something happened.
pub struct Caller {
    pub env: Env,
    pub turn: FunctionRef<u32, ()>,
    pub events: Int32Array,
}

impl Caller {
    pub fn run(&mut self, shared: &Rc<RefCell<Inner>>) {
        shared.borrow_mut().look();
        loop {
            // What JavaScript does may bring about more; it is not told of that while it works.
            let told = std::mem::take(&mut shared.borrow_mut().events);
            if told.is_empty() {
                break;
            }
            self.tell(&told);
        }
        let inner = &mut *shared.borrow_mut();
        for id in std::mem::take(&mut inner.touched) {
            inner.watch(id);
        }
    }

    /// An exception is caught over there: what can still arrive here is the end of the process.
    fn tell(&mut self, told: &[[i32; 3]]) {
        let Ok(turn) = self.turn.borrow_back(&self.env) else { return };
        // SAFETY: no JavaScript runs while it is written, and nothing else holds a slice of it.
        let most = unsafe { self.events.as_mut() }.len() / 3;
        for part in told.chunks(most.max(1)) {
            for (to, from) in unsafe { self.events.as_mut() }.chunks_mut(3).zip(part) {
                to.copy_from_slice(from);
            }
            let _ = turn.call(u32::try_from(part.len()).unwrap_or(0));
        }
    }
}
