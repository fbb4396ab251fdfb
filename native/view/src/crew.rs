//! The threads that answer requests. One is enough while clients take turns: it stays warm, and looks for the next
//! request for a moment before it sleeps, since waking it on another processor costs both sides more than that. When
//! it finds requests waiting again and again, others join, as many as there are processors beside the client's: with two
//! of them a second thread only takes the client's place and sleeps where the first would have been awake. While one
//! waits for a disk or for another thread, a reserve takes its place.
use std::io;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// Threads in all: so many requests may wait for a disk at once.
pub const THREADS: usize = 8;
/// Requests found waiting, beyond twice those waited for, that make one thread too few.
const CROWD: isize = 6;
/// The same the other way: clients take turns again.
const TURNS: isize = -24;

pub struct Crew {
    /// Most threads that wait for requests while none is busy, for want of speed.
    most: isize,
    /// Fewest.
    least: AtomicIsize,
    /// Threads that do.
    size: AtomicIsize,
    /// Up with each request that was found waiting, down with each that was waited for.
    crowd: AtomicIsize,
    /// Threads that take requests, without those that are held up.
    active: AtomicIsize,
    /// Of those, waiting for a request.
    idle: AtomicUsize,
    calls: Mutex<usize>,
    called: Condvar,
}

impl Default for Crew {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let most = processors.saturating_sub(1).clamp(1, 4);
        Crew {
            most: most as isize,
            least: AtomicIsize::new(1),
            size: AtomicIsize::new(1),
            crowd: AtomicIsize::new(0),
            active: AtomicIsize::new(0),
            idle: AtomicUsize::new(0),
            calls: Mutex::new(1),
            called: Condvar::new(),
        }
    }
}

impl Crew {
    /// Waits until the calling thread is needed.
    pub fn join(&self) {
        let calls = self.calls.lock().unwrap();
        *self.called.wait_while(calls, |calls| *calls == 0).unwrap() -= 1;
        self.active.fetch_add(1, Ordering::AcqRel);
    }

    /// Between two requests: a thread that was needed only for a while goes back.
    pub fn rejoin(&self) {
        let active = self.active.load(Ordering::Acquire);
        if active > self.size.load(Ordering::Acquire)
            && self.active.compare_exchange(active, active - 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            self.join();
        }
    }

    /// The next request: what `take` gives, which does not wait, if need be after `wait`. None where another thread was
    /// quicker.
    pub fn next<T>(
        &self,
        patience: &mut Patience,
        mut take: impl FnMut() -> io::Result<Option<T>>,
        wait: impl Fn() -> io::Result<()>,
    ) -> io::Result<Option<T>> {
        if let Some(request) = take()? {
            self.found();
            return Ok(Some(request));
        }
        self.idle.fetch_add(1, Ordering::AcqRel);
        let alone = self.waited();
        let mut next = || {
            if alone && let Some(request) = patience.look(&mut take)? {
                return Ok(Some(request));
            }
            wait()?;
            take()
        };
        let request = next();
        self.idle.fetch_sub(1, Ordering::AcqRel);
        request
    }

    /// A request was there already.
    fn found(&self) {
        if self.crowd.fetch_add(1, Ordering::AcqRel) + 1 >= CROWD {
            self.crowd.store(0, Ordering::Release);
            let size = self.size.load(Ordering::Acquire);
            if size < self.most
                && self.size.compare_exchange(size, size + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                self.call();
            }
        }
    }

    /// There is none; true when one thread serves all.
    fn waited(&self) -> bool {
        let size = self.size.load(Ordering::Acquire);
        let crowd = self.crowd.fetch_sub(2, Ordering::AcqRel) - 2;
        if crowd <= TURNS {
            self.crowd.store(0, Ordering::Release);
            if size > self.least.load(Ordering::Acquire) {
                let _ = self.size.compare_exchange(size, size - 1, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
        size == 1
    }

    /// From now on one that waits for its host never holds up all others: there is a file system that may hang.
    pub fn never_alone(&self) {
        let several = self.most.max(2);
        if self.least.swap(several, Ordering::AcqRel) < several {
            let size = self.size.fetch_max(several, Ordering::AcqRel);
            (size..several).for_each(|_| self.call());
        }
    }

    fn call(&self) {
        let mut calls = self.calls.lock().unwrap();
        *calls = (*calls + 1).min(THREADS);
        self.called.notify_one();
    }

    /// Does something that may take long; others answer meanwhile.
    pub fn held_up<T>(&self, act: impl FnOnce() -> T) -> T {
        self.active.fetch_sub(1, Ordering::AcqRel);
        if self.idle.load(Ordering::Acquire) == 0 {
            self.call();
        }
        let done = act();
        self.active.fetch_add(1, Ordering::AcqRel);
        done
    }
}

/// How long a thread looks for a request before it sleeps: not at all where that rarely helps, because clients are busy
/// with something else or because the processors are.
#[derive(Default)]
pub struct Patience {
    failed: u32,
    skip: u32,
}

impl Patience {
    /// About what a client takes to be woken and to ask again.
    const LOOK: Duration = Duration::from_micros(60);
    /// Between two looks: longer means that something else ran on this processor.
    const DISTURBED: Duration = Duration::from_micros(40);
    /// Waits without a look after the processor was wanted by others.
    const BUSY: u32 = 256;

    fn look<T>(&mut self, mut take: impl FnMut() -> io::Result<Option<T>>) -> io::Result<Option<T>> {
        if self.skip > 0 {
            self.skip -= 1;
            return Ok(None);
        }
        let began = Instant::now();
        let mut last = began;
        loop {
            (0..16).for_each(|_| std::hint::spin_loop());
            if let Some(request) = take()? {
                self.failed = 0;
                return Ok(Some(request));
            }
            let now = Instant::now();
            if now - last > Self::DISTURBED {
                self.skip = Self::BUSY;
                return Ok(None);
            }
            if now - began > Self::LOOK {
                self.failed = (self.failed + 1).min(8);
                self.skip = (1 << self.failed) - 1;
                return Ok(None);
            }
            last = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};

    #[test]
    fn a_reserve_answers_while_all_others_are_held_up() {
        let crew = Arc::new(Crew::default());
        let (ask, requests) = mpsc::channel::<mpsc::Receiver<()>>();
        let (tell, answers) = mpsc::channel();
        let requests = Arc::new(Mutex::new(requests));
        for _ in 0..THREADS {
            let (crew, requests, tell) = (crew.clone(), requests.clone(), tell.clone());
            std::thread::spawn(move || {
                crew.join();
                let mut patience = Patience::default();
                loop {
                    crew.rejoin();
                    let take = || match requests.lock().unwrap().try_recv() {
                        Ok(request) => Ok(Some(request)),
                        Err(mpsc::TryRecvError::Empty) => Ok(None),
                        Err(gone) => Err(io::Error::other(gone)),
                    };
                    let wait = || {
                        std::thread::sleep(Duration::from_millis(1));
                        Ok(())
                    };
                    let Ok(next) = crew.next(&mut patience, take, wait) else { return };
                    let Some(wait) = next else { continue };
                    crew.held_up(|| wait.recv()).ok();
                    let _ = tell.send(());
                }
            });
        }
        for _ in 0..50 {
            let stuck: Vec<_> = (0..THREADS - 1)
                .map(|_| {
                    let (go, wait) = mpsc::channel();
                    ask.send(wait).unwrap();
                    go
                })
                .collect();
            let (go, wait) = mpsc::channel();
            go.send(()).unwrap();
            ask.send(wait).unwrap();
            // The one that is not stuck is answered although all before it are.
            answers.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
            drop(stuck);
            (0..THREADS - 1).for_each(|_| answers.recv_timeout(std::time::Duration::from_secs(10)).unwrap());
        }
    }
}
