//! The threads that answer requests. As few as there are processors wait for requests: the kernel hands each to the
//! next thread in turn, and every thread more is one more to wake on a cold processor. While one of them waits for a
//! disk or for another thread, a reserve takes its place.
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

/// Threads in all: so many requests may wait for a disk at once.
pub const THREADS: usize = 8;

pub struct Crew {
    /// Threads that wait for requests while none is busy.
    size: isize,
    /// Threads that take requests, without those that are held up.
    active: AtomicIsize,
    /// Of those, waiting for a request.
    idle: AtomicUsize,
    calls: Mutex<usize>,
    called: Condvar,
}

impl Default for Crew {
    fn default() -> Self {
        let size = std::thread::available_parallelism().map_or(2, |n| n.get()).clamp(2, 4);
        Crew {
            size: size as isize,
            active: AtomicIsize::new(0),
            idle: AtomicUsize::new(0),
            calls: Mutex::new(size),
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
        if active > self.size
            && self.active.compare_exchange(active, active - 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            self.join();
        }
    }

    /// Waits for a request by `wait`.
    pub fn idle<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.idle.fetch_add(1, Ordering::AcqRel);
        let request = wait();
        self.idle.fetch_sub(1, Ordering::AcqRel);
        request
    }

    /// Does something that may take long; others answer meanwhile.
    pub fn held_up<T>(&self, act: impl FnOnce() -> T) -> T {
        self.active.fetch_sub(1, Ordering::AcqRel);
        if self.idle.load(Ordering::Acquire) == 0 {
            let mut calls = self.calls.lock().unwrap();
            *calls = (*calls + 1).min(THREADS);
            self.called.notify_one();
        }
        let done = act();
        self.active.fetch_add(1, Ordering::AcqRel);
        done
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
                loop {
                    crew.rejoin();
                    let Ok(wait) = crew.idle(|| requests.lock().unwrap().recv()) else { return };
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
