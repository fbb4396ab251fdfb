//! Preloaded in guests of gVisor, where two answers of its kernel's mislead a program:
//!
//! * Versions before February 2023 refuse AT_NO_AUTOMOUNT, which coreutils send with each look at a file and which means
//!   nothing there. Asked as the program asks; again without the flag, if it was refused.
//! * On files that the host may change, gVisor (to this day) drops the host's refusal of a new mode, size or time and
//!   says that it is done. A look before and after tells; what was asked and did not happen is EACCES.
//!
//! It needs no library: what it takes from libc, libc already has in every process.
#![no_std]
use core::arch::asm;
use core::ffi::{c_char, c_int, c_uint, c_void};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

const AT_NO_AUTOMOUNT: c_int = 0x800;
const AT_SYMLINK_NOFOLLOW: c_int = 0x100;
const AT_EMPTY_PATH: c_int = 0x1000;
const AT_FDCWD: c_int = -100;
const EACCES: isize = 13;
const EINVAL: isize = 22;
const EOPNOTSUPP: isize = 95;

#[cfg(target_arch = "x86_64")]
const SYS: [usize; 7] = [332, 262, 268, 91, 76, 77, 280];
#[cfg(target_arch = "aarch64")]
const SYS: [usize; 7] = [291, 79, 53, 52, 45, 46, 88];
const STATX: usize = SYS[0];
const NEWFSTATAT: usize = SYS[1];
const FCHMODAT: usize = SYS[2];
const FCHMOD: usize = SYS[3];
const TRUNCATE: usize = SYS[4];
const FTRUNCATE: usize = SYS[5];
const UTIMENSAT: usize = SYS[6];

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

/// Statx of libc.
#[unsafe(no_mangle)]
extern "C" fn statx(at: c_int, path: *const c_char, flags: c_int, mask: c_uint, found: *mut c_void) -> c_int {
    look(flags, |flags| {
        call(STATX, [at as usize, path as usize, flags as usize, mask as usize, found as usize])
    })
}

/// Fstatat of libc, whose structure is the kernel's on these machines.
#[unsafe(no_mangle)]
extern "C" fn fstatat(at: c_int, path: *const c_char, found: *mut c_void, flags: c_int) -> c_int {
    look(flags, |flags| call(NEWFSTATAT, [at as usize, path as usize, found as usize, flags as usize, 0]))
}

/// The same by its other name.
#[unsafe(no_mangle)]
extern "C" fn fstatat64(at: c_int, path: *const c_char, found: *mut c_void, flags: c_int) -> c_int {
    fstatat(at, path, found, flags)
}

/// Chmod of libc.
#[unsafe(no_mangle)]
extern "C" fn chmod(path: *const c_char, mode: c_uint) -> c_int {
    fchmodat(AT_FDCWD, path, mode, 0)
}

/// Fchmodat of libc: a link that is not to be followed has no mode of its own.
#[unsafe(no_mangle)]
extern "C" fn fchmodat(at: c_int, path: *const c_char, mode: c_uint, flags: c_int) -> c_int {
    let file = Place { at, path, flags: flags & AT_SYMLINK_NOFOLLOW };
    if flags & !AT_SYMLINK_NOFOLLOW != 0 {
        return told(-EINVAL);
    }
    if flags != 0 && file.seen().is_some_and(|seen| seen.mode & 0o170_000 == 0o120_000) {
        return told(-EOPNOTSUPP);
    }
    file.change(
        || call(FCHMODAT, [at as usize, path as usize, mode as usize, 0, 0]),
        |seen| seen.mode & 0o777 == mode & 0o777,
    )
}

/// Fchmod of libc.
#[unsafe(no_mangle)]
extern "C" fn fchmod(fd: c_int, mode: c_uint) -> c_int {
    Place::of(fd).change(
        || call(FCHMOD, [fd as usize, mode as usize, 0, 0, 0]),
        |seen| seen.mode & 0o777 == mode & 0o777,
    )
}

/// Truncate of libc.
#[unsafe(no_mangle)]
extern "C" fn truncate(path: *const c_char, size: i64) -> c_int {
    let file = Place { at: AT_FDCWD, path, flags: 0 };
    file.change(|| call(TRUNCATE, [path as usize, size as usize, 0, 0, 0]), |seen| seen.size == size)
}

/// The same by its other name.
#[unsafe(no_mangle)]
extern "C" fn truncate64(path: *const c_char, size: i64) -> c_int {
    truncate(path, size)
}

/// Ftruncate of libc.
#[unsafe(no_mangle)]
extern "C" fn ftruncate(fd: c_int, size: i64) -> c_int {
    Place::of(fd).change(|| call(FTRUNCATE, [fd as usize, size as usize, 0, 0, 0]), |seen| seen.size == size)
}

/// The same by its other name.
#[unsafe(no_mangle)]
extern "C" fn ftruncate64(fd: c_int, size: i64) -> c_int {
    ftruncate(fd, size)
}

/// Utimensat of libc. Access and modification; without a pointer, or with the words for *now* and *as it is*, nobody can
/// tell whether it was done.
#[unsafe(no_mangle)]
extern "C" fn utimensat(at: c_int, path: *const c_char, times: *const [[i64; 2]; 2], flags: c_int) -> c_int {
    let place = Place { at, path, flags };
    place.change(
        || call(UTIMENSAT, [at as usize, path as usize, times as usize, flags as usize, 0]),
        wanted(times),
    )
}

/// Futimens of libc.
#[unsafe(no_mangle)]
extern "C" fn futimens(fd: c_int, times: *const [[i64; 2]; 2]) -> c_int {
    Place::of(fd).change(|| call(UTIMENSAT, [fd as usize, 0, times as usize, 0, 0]), wanted(times))
}

fn wanted(times: *const [[i64; 2]; 2]) -> impl Fn(&Seen) -> bool {
    // SAFETY: two times, as the caller gave them to the kernel, which has read them by then.
    let wanted = if times.is_null() { None } else { Some(unsafe { (*times)[1] }) };
    let plain = wanted.filter(|[_, nanoseconds]| (0..1_000_000_000).contains(nanoseconds));
    move |seen| plain.is_none_or(|[seconds, _]| seen.changed == seconds)
}

/// A file, as a call names it.
struct Place {
    at: c_int,
    path: *const c_char,
    flags: c_int,
}

#[derive(PartialEq)]
struct Seen {
    mode: u32,
    size: i64,
    changed: i64,
}

impl Place {
    fn of(fd: c_int) -> Self {
        static NO_NAME: c_char = 0;
        Self { at: fd, path: &raw const NO_NAME, flags: AT_EMPTY_PATH }
    }

    fn seen(&self) -> Option<Seen> {
        // As statx(2) describes it: mode at 28, size at 40, seconds of the last change of content at 112.
        let mut room = [0u64; 32];
        const BASIC: usize = 0x7ff;
        let words =
            [self.at as usize, self.path as usize, self.flags as usize, BASIC, room.as_mut_ptr() as usize];
        let answer = call(STATX, words);
        (answer == 0).then(|| Seen {
            mode: (room[3] >> 32) as u32 & 0xffff,
            size: room[5] as i64,
            changed: room[14] as i64,
        })
    }

    /// Makes a change, and believes that it was made only if it shows, or if something else did.
    fn change(&self, act: impl FnOnce() -> isize, done: impl Fn(&Seen) -> bool) -> c_int {
        let before = self.seen();
        let answer = act();
        let after = if answer == 0 { self.seen() } else { None };
        let refused =
            after.is_some_and(|after| !done(&after) && before.is_some_and(|before| before == after));
        told(if refused { -EACCES } else { answer })
    }
}

fn look(flags: c_int, ask: impl Fn(c_int) -> isize) -> c_int {
    static REFUSED: AtomicBool = AtomicBool::new(false);
    let without = flags & !AT_NO_AUTOMOUNT;
    let mut answer = ask(if REFUSED.load(Relaxed) { without } else { flags });
    if answer == -EINVAL && without != flags {
        answer = ask(without);
        if answer != -EINVAL {
            REFUSED.store(true, Relaxed);
        }
    }
    told(answer)
}

/// An answer of the kernel's in libc's form.
fn told(answer: isize) -> c_int {
    if answer < 0 {
        // SAFETY: libc's errno of this thread.
        unsafe { *__errno_location() = -answer as c_int };
        return -1;
    }
    answer as c_int
}

fn call(number: usize, words: [usize; 5]) -> isize {
    let answer: isize;
    // SAFETY: the caller's own words, as libc would pass them on.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => answer, in("rdi") words[0], in("rsi") words[1],
            in("rdx") words[2], in("r10") words[3], in("r8") words[4], lateout("rcx") _, lateout("r11") _);
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") words[0] as isize => answer, in("x1") words[1],
            in("x2") words[2], in("x3") words[3], in("x4") words[4]);
    }
    answer
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
