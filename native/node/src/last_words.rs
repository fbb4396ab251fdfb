//! The end inside V8, its runtime or an allocator: one line and 125 in place of a trace and a signal.
use std::ffi::{c_char, c_int, c_void};
use std::io;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::Relaxed};

use ambit_shared::sys::check;
use napi::Result;
use napi_derive::napi;

use crate::failed;

/// How V8 (a trap), the C library and Rust (abort), and a stack that cannot grow end a process.
const ENDS: [c_int; 5] = [libc::SIGABRT, libc::SIGTRAP, libc::SIGILL, libc::SIGSEGV, libc::SIGBUS];
const STACK: usize = 64 << 10;
const MEMORY: &str = "ambit: no memory was left for it, and it ended; nothing that it had started goes on: free some memory, or raise the limit that it has (ulimit -a), and start again [ERR_RUNTIME_FAILED]\n";
const OTHER: &str = "ambit: it failed inside and ended; nothing that it had started goes on: if memory is short, free some; else see what it says with AMBIT_DEBUG=1 [ERR_INTERNAL]\n";

/// What was written to C's stderr: Node's own words at its end. JavaScript and Rust write to the descriptor.
static WORDS: [AtomicU8; 8 << 10] = [const { AtomicU8::new(0) }; 8 << 10];
static KEPT: AtomicUsize = AtomicUsize::new(0);
static SAID: AtomicBool = AtomicBool::new(false);

#[repr(C)]
struct Stream {
    read: *const c_void,
    write: extern "C" fn(*mut c_void, *const c_char, usize) -> isize,
    seek: *const c_void,
    close: *const c_void,
}

unsafe extern "C" {
    static mut stderr: *mut libc::FILE;
    fn fopencookie(cookie: *mut c_void, mode: *const c_char, stream: Stream) -> *mut libc::FILE;
}

/// From now on. What Node says and survives is said when it exits.
#[napi]
pub fn keep_last_words() -> Result<()> {
    install().map_err(|error| failed("keepLastWords", error))
}

fn install() -> io::Result<()> {
    // SAFETY: plain C calls. The main thread alone runs JavaScript, and it is here; whoever holds the old stream may
    // go on with it.
    unsafe {
        let stream = Stream { read: null(), write: keep, seek: null(), close: null() };
        let file = fopencookie(null_mut(), c"w".as_ptr(), stream);
        if file.is_null() || libc::setvbuf(file, null_mut(), libc::_IONBF, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        check(libc::atexit(tell))?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let stack = libc::mmap(null_mut(), STACK, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        if stack == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        check(libc::sigaltstack(&libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: STACK }, null_mut()))?;
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = end as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK;
        for signal in ENDS {
            check(libc::sigaction(signal, &action, null_mut()))?;
        }
        stderr = file;
    }
    Ok(())
}

/// Without malloc: there may be no memory.
extern "C" fn keep(_: *mut c_void, bytes: *const c_char, size: usize) -> isize {
    let from = KEPT.load(Relaxed).min(WORDS.len());
    for (n, word) in WORDS.iter().skip(from).take(size).enumerate() {
        // SAFETY: n < size, which is what the C library gives.
        word.store(unsafe { *bytes.add(n) } as u8, Relaxed);
    }
    KEPT.store((from + size).min(WORDS.len()), Relaxed);
    size as isize
}

/// An exit that is none of ours to explain: an exception that nobody caught.
extern "C" fn tell() {
    let words: Vec<u8> = WORDS.iter().take(KEPT.load(Relaxed)).map(|byte| byte.load(Relaxed)).collect();
    write(&words);
}

/// Async-signal-safe.
extern "C" fn end(_: c_int) {
    if !SAID.swap(true, Relaxed) {
        let memory = [b"emory".as_slice(), b"alloc"].into_iter().any(says);
        write(if memory { MEMORY } else { OTHER }.as_bytes());
    }
    // SAFETY: ends the process.
    unsafe { libc::_exit(125) }
}

fn says(word: &[u8]) -> bool {
    let kept = KEPT.load(Relaxed);
    let begins = |from: usize| {
        let mut own = WORDS.iter().take(kept).skip(from).map(|byte| byte.load(Relaxed));
        word.iter().all(|byte| own.next() == Some(*byte))
    };
    (0..kept).any(begins)
}

fn write(bytes: &[u8]) {
    // SAFETY: the buffer has the length that is given.
    unsafe { libc::write(2, bytes.as_ptr().cast(), bytes.len()) };
}
