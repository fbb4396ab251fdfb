//! Preloaded in guests of gVisor: versions before February 2023 refuse AT_NO_AUTOMOUNT, which coreutils send with each
//! look at a file and which means nothing there. Asked as the program asks; again without the flag, if it was refused.
//!
//! It needs no library: what it takes from libc, libc already has in every process.
#![no_std]
use core::arch::asm;
use core::ffi::{c_char, c_int, c_uint, c_void};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

const AT_NO_AUTOMOUNT: c_int = 0x800;
const EINVAL: isize = 22;

#[cfg(target_arch = "x86_64")]
const SYS: (usize, usize) = (332, 262);
#[cfg(target_arch = "aarch64")]
const SYS: (usize, usize) = (291, 79);
const STATX: usize = SYS.0;
const NEWFSTATAT: usize = SYS.1;

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
