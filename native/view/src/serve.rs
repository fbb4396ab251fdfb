//! `ambit-view serve SPEC`: fd 3 is the mounted `/dev/fuse`, or a stream to a guest's; fd 4 the control channel
//! (docs/architecture.md, "View protocol").
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock, RwLock, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ambit_shared::journal::Journal;
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{FuseBuf, FuseDevWriter, Reader};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use serde_json::json;

use crate::channel::{Channel, Outbox};
use crate::confine;
use crate::crew::{Patience, THREADS};
use crate::hash::Hasher;
use crate::notify::Notifier;
use crate::order::Order;
use crate::request::{self, Fault};
use crate::search;
use crate::spec::ViewSpec;
use crate::sys::errno;
use crate::view::View;

/// One request: 1 MiB of data and its header.
const REQUEST: usize = (1 << 20) + 4096;

/// How long the words of a failure may take to be said, on a machine that is very busy.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A view that serves: its parts are running.
pub struct Serving {
    pub view: Arc<View>,
    /// Held for reading while a request is answered: who holds it for writing knows that none is under way.
    answering: Arc<RwLock<()>>,
    hasher_thread: JoinHandle<()>,
    stopping: Arc<AtomicBool>,
}

/// Opens the view, confines this process and starts the threads. `complain` is told, once, why a guest is not served
/// any more.
pub fn start(
    spec: &ViewSpec,
    fuse: File,
    complain: impl Fn(String) + Send + Sync + 'static,
) -> Result<Serving, String> {
    let descriptors = confine::raise_descriptors();
    rustix::process::umask(rustix::fs::Mode::empty());
    let journal =
        Journal::open(&spec.journal).map_err(|e| format!("journal {}: {e}", spec.journal.display()))?;
    let (hasher, worker) = Hasher::new();
    let hasher = Arc::new(hasher);
    let channel = Arc::new(Channel::new(fuse).map_err(|e| format!("fuse: {e}"))?);
    let mut view = View::open(spec, journal, hasher.clone(), descriptors)?;
    if channel.is_stream() {
        view.acts_for_owner = false;
        confine::become_owner(spec)?;
    }
    let view = Arc::new(view);
    confine::restrict(spec, &view)?;
    let stopping = Arc::new(AtomicBool::new(false));
    let server = Arc::new(Server::new(view.clone()));
    let answering = Arc::new(RwLock::new(()));
    let searched = Arc::new(OnceLock::new());
    let complaint = Arc::new(Complaint { complain, made: Once::new() });
    let _ = view.watch.kernel.set(Notifier::new(channel.clone()));
    for _ in 0..THREADS {
        let channel = channel.clone();
        let (server, view, stopping) = (server.clone(), view.clone(), stopping.clone());
        let (answering, searched, complaint) = (answering.clone(), searched.clone(), complaint.clone());
        std::thread::spawn(move || {
            let ended = work(&server, &view, &channel, &answering, &searched);
            if let Err(why) = &ended
                && channel.is_stream()
            {
                complaint.make(format!("the guest spoke no FUSE: {why}"));
            }
            if !stopping.load(Ordering::Acquire) {
                leave(&view, &answering, i32::from(ended.is_err()));
            }
        });
    }
    let watching = view.clone();
    std::thread::spawn(move || watching.watch_host());
    let stale = view.clone();
    std::thread::spawn(move || stale.forget_stale());
    let record = view.record.clone();
    std::thread::spawn(move || record.run());
    let (looking, all_answered) = (view.clone(), answering.clone());
    std::thread::spawn(move || {
        search::run(&looking);
        let none_under_way = all_answered.write().unwrap();
        looking.reclassify();
        drop(none_under_way);
        let _ = searched.set(());
    });
    let hashed = view.clone();
    let hasher_thread = std::thread::spawn(move || worker.run(&hasher, &hashed.record, &hashed.quota));
    Ok(Serving { view, answering, hasher_thread, stopping })
}

/// Of several threads, the first to see it says so.
struct Complaint<C> {
    complain: C,
    made: Once,
}

impl<C: Fn(String)> Complaint<C> {
    fn make(&self, why: String) {
        self.made.call_once(|| (self.complain)(why));
    }
}

/// Answers requests until the mount is gone. Changes wait until the roots are looked through (search.rs).
fn work(
    server: &Server<Arc<View>>,
    view: &View,
    channel: &Channel,
    answering: &RwLock<()>,
    searched: &OnceLock<()>,
) -> std::io::Result<()> {
    let crew = &view.crew;
    let arrival = Arrival::of(channel)?;
    crew.join();
    let (mut request, mut reply) = (vec![0; REQUEST], vec![0; REQUEST]);
    let mut outbox = Outbox::new(channel)?;
    let mut patience = Patience::default();
    loop {
        crew.rejoin();
        let length = match crew.next(&mut patience, || channel.take(&mut request), || arrival.wait()) {
            Ok(Some(length)) => length,
            Ok(None) => continue,
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::ENOENT) => continue,
                Some(libc::ENODEV | libc::ECONNABORTED) => return Ok(()),
                _ => return Err(error),
            },
        };
        if !channel.expires_names() {
            view.watch.go_blind();
        }
        if searched.get().is_none() && request::changes(&request[..length]) {
            crew.held_up(|| searched.wait());
        }
        let _answering = answering.read().unwrap();
        answer(server, &mut request[..length], &outbox, &mut reply)?;
        match outbox.send(&mut request) {
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => return Ok(()),
            sent => sent?,
        }
    }
}

/// Answers one message on `to`. An error: whoever sent it does not speak FUSE.
pub fn answer(
    server: &Server<Arc<View>>,
    message: &mut [u8],
    to: &impl AsFd,
    reply: &mut [u8],
) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    match request::check(message) {
        Ok(()) => {}
        Err(Fault::Foreign) => return Err(errno(libc::EPROTO)),
        Err(Fault::Silent) => return Ok(()),
        Err(Fault::Refused { unique, error }) => {
            let _ = rustix::io::write(to, &request::refusal(unique, error));
            return Ok(());
        }
    }
    let reader = Reader::<()>::from_fuse_buffer(FuseBuf::new(message));
    let writer = FuseDevWriter::<()>::new(to.as_fd().as_raw_fd(), reply);
    if let (Ok(reader), Ok(writer)) = (reader, writer) {
        // An answer that nobody waits for any more (interrupted) concerns only its caller.
        let _ = server.handle_message(reader, writer.into(), None, None);
    }
    Ok(())
}

/// Wakes one thread for a request.
struct Arrival(OwnedFd);

impl Arrival {
    fn of(fuse: &impl AsFd) -> std::io::Result<Self> {
        let events = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&events, fuse, EventData::new_u64(0), EventFlags::IN | EventFlags::EXCLUSIVE)?;
        Ok(Arrival(events))
    }

    fn wait(&self) -> std::io::Result<()> {
        let mut event = [const { MaybeUninit::uninit() }; 1];
        match epoll::wait(&self.0, &mut event, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Held to the end by whoever ends the view.
static ENDING: Mutex<()> = Mutex::new(());
/// How long an end waits for answers under way; a file system that hangs must not keep the record from the disk.
const ANSWERS: Duration = Duration::from_secs(2);

fn wait_for_answers(answering: &RwLock<()>) -> Option<RwLockWriteGuard<'_, ()>> {
    let until = Instant::now() + ANSWERS;
    loop {
        match answering.try_write() {
            Ok(guard) => return Some(guard),
            Err(_) if Instant::now() >= until => return None,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// The mount went away: what is recorded is made durable, then the process ends.
fn leave(view: &View, answering: &RwLock<()>, code: i32) -> ! {
    let _only_one = ENDING.lock().unwrap();
    let _none_under_way = wait_for_answers(answering);
    view.record_open();
    if view.record.write_counted().and_then(|()| view.record.sync()).is_err() {
        end_unrecorded();
    }
    std::process::exit(code)
}

/// The journal is dead, and with it a good end: who waits for its death says why and ends this process, but may not have
/// had its turn yet.
fn end_unrecorded() -> ! {
    std::thread::sleep(LAST_WORDS);
    std::process::exit(1)
}

impl Serving {
    /// The end of the mount does not end the process: whoever started it has something left to say.
    pub fn stay(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Records what is open, drains the digests, makes the journal durable.
    pub fn finish(self) -> std::io::Result<()> {
        self.stopping.store(true, Ordering::Release);
        let _only_one = ENDING.lock().unwrap();
        let _none_under_way = wait_for_answers(&self.answering);
        self.view.record_open();
        self.view.hasher.stop();
        let _ = self.hasher_thread.join();
        self.view.record.write_counted()?;
        self.view.record.sync()
    }

    /// Hides and protects more from now on. When this returns, nothing that is hidden now can be read through a
    /// name, an open handle, a mapping or the kernel's cache, and nothing that is protected now can be written.
    fn narrow(&self, root: usize, hide: &[String], protect: &[String]) -> Result<(), String> {
        let changed = {
            let _none_under_way = self.answering.write().unwrap();
            self.view.narrow(root, hide, protect)?
        };
        // Not under the lock: to drop a page the kernel may wait for a read of it, which the workers must answer.
        self.view.kernel(|kernel| kernel.forget_content(&changed));
        self.view.forget_listings();
        let settled = self.view.watch.kernel.get().map_or(Ok(()), Notifier::settle);
        settled.map_err(|why| format!("the guest did not drop what it remembers: {why}"))
    }

    fn stats(&self) -> serde_json::Value {
        let stats = &self.view.record.stats;
        let (bytes, inodes) = self.view.quota.added();
        json!({
            "ev": "stats",
            "opens": stats.opens.load(Ordering::Relaxed),
            "reads": stats.reads.load(Ordering::Relaxed),
            "writes": stats.writes.load(Ordering::Relaxed),
            "denied": stats.denied.load(Ordering::Relaxed),
            "bytesAdded": bytes,
            "inodesAdded": inodes,
        })
    }
}

/// Runs until told to stop, the control channel closes, the mount goes or the journal fails. Returns the exit code.
pub fn serve(spec: &Path, fuse: File, control: File) -> i32 {
    confine::die_with_parent();
    let say = Arc::new(Mutex::new(match control.try_clone() {
        Ok(control) => control,
        Err(_) => return 1,
    }));
    let tell = |line: serde_json::Value| writeln!(say.lock().unwrap(), "{line}").is_ok();
    let failed = |why: String| json!({ "ev": "failed", "what": "the file view", "why": why, "remedy": null });
    let out = say.clone();
    let complain = move |why| drop(writeln!(out.lock().unwrap(), "{}", failed(why)));
    let locked = confine::lock();
    let serving =
        match locked.and_then(|()| ViewSpec::read(spec)).and_then(|spec| start(&spec, fuse, complain)) {
            Ok(serving) => serving,
            Err(why) => {
                tell(failed(why));
                return 1;
            }
        };
    let (record, out) = (serving.view.record.clone(), say.clone());
    std::thread::spawn(move || {
        let why = format!("its journal cannot be written: {}", record.wait_for_death());
        let _ = writeln!(out.lock().unwrap(), "{}", failed(why));
        std::process::exit(1);
    });
    if !tell(json!({ "ev": "ready" })) {
        return 1;
    }
    for line in BufReader::new(control).lines() {
        // A channel that breaks and an order that cannot be read end the view alike: it never serves unled.
        let Some(order) = line.ok().and_then(|line| Order::parse(&line)) else { break };
        match order {
            Order::Stats => drop(tell(serving.stats())),
            Order::Stop => break,
            Order::Narrow { root, hide, protect } => match serving.narrow(root, &hide, &protect) {
                Ok(()) => drop(tell(json!({ "ev": "narrowed" }))),
                Err(why) => drop(tell(failed(why))),
            },
        }
    }
    if serving.finish().is_err() {
        end_unrecorded();
    }
    0
}

/// The descriptor that the supervisor passes under a fixed number.
pub fn inherited(number: i32) -> Result<File, String> {
    let path = format!("/proc/self/fd/{number}");
    if !Path::new(&path).exists() {
        return Err(format!("fd {number} is not open"));
    }
    // SAFETY: the supervisor passes fds 3 and 4 to `serve` and nothing else in this process owns them.
    #[allow(unsafe_code)]
    let file = unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(number) };
    rustix::io::fcntl_setfd(file.as_fd(), rustix::io::FdFlags::CLOEXEC).map_err(|e| e.to_string())?;
    Ok(file)
}
