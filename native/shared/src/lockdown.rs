//! What Ambit's own host processes give up for good. `ambit-view` speaks with the agent's kernel and starts no program:
//! a flaw in it must not become a program, a namespace, a socket to the network or a look into another process.
use std::io;

/// Refused with EPERM whatever the arguments.
const GIVEN_UP: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_personality,
];

const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const REFUSE: u32 = 0x0005_0000 | libc::EPERM as u32;
const KILL: u32 = 0x8000_0000;
/// Offsets in `struct seccomp_data`: number, architecture, low half of the first argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST: u32 = if cfg!(target_endian = "big") { 20 } else { 16 };
/// x86-64 and arm64; x32's numbers start at the bit.
const NATIVE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
const X32: u32 = 0x4000_0000;

const fn step(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

fn program() -> Vec<libc::sock_filter> {
    let mut all = vec![step(LOAD, 0, 0, ARCHITECTURE), step(EQUAL, 1, 0, NATIVE), step(RETURN, 0, 0, KILL)];
    all.extend([step(LOAD, 0, 0, NUMBER), step(AT_LEAST, 0, 1, X32), step(RETURN, 0, 0, KILL)]);
    for &call in GIVEN_UP {
        all.extend([step(EQUAL, 0, 1, call as u32), step(RETURN, 0, 0, REFUSE)]);
    }
    // socket(AF_UNIX) is left: how these processes speak with the rest of Ambit.
    all.extend([step(EQUAL, 0, 3, libc::SYS_socket as u32), step(LOAD, 0, 0, FIRST)]);
    all.extend([step(EQUAL, 1, 0, libc::AF_UNIX as u32), step(RETURN, 0, 0, REFUSE)]);
    all.push(step(RETURN, 0, 0, ALLOW));
    all
}

/// For every thread, until the process ends: no new privileges, and none of the calls above.
pub fn lock() -> io::Result<()> {
    const SET_MODE_FILTER: libc::c_ulong = 1;
    const EVERY_THREAD: libc::c_ulong = 1;
    no_new_privileges()?;
    let program = program();
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: filter points to a valid program for the duration of the call.
    match unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, EVERY_THREAD, &filter) } {
        0 => Ok(()),
        // A thread that has a filter of its own: its number comes back.
        thread if thread > 0 => Err(io::Error::other(format!("thread {thread} cannot be locked"))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Set-user-id programs gain nothing when this process starts them, and no memory of it is written to a core file.
pub fn no_new_privileges() -> io::Result<()> {
    // SAFETY: plain numbers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    no_core()
}

/// A crash leaves no core file and starts no handler. One byte is less than any core, and where `core_pattern` is a
/// pipe it is the one limit that the kernel obeys (fs/coredump.c); 0 would start the handler. Who had the hard limit 0
/// before keeps it.
pub fn no_core() -> io::Result<()> {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: valid structures.
    unsafe {
        let byte = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
        if libc::setrlimit(libc::RLIMIT_CORE, &byte) == 0 {
            return Ok(());
        }
        if libc::getrlimit(libc::RLIMIT_CORE, &mut old) == 0 && old.rlim_max == 0 {
            return Ok(());
        }
    }
    Err(io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a child: the lock is for good.
    #[test]
    fn a_locked_process_starts_nothing_and_dials_nowhere() {
        // SAFETY: the child only makes system calls and ends.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let refused = |returned: i64| returned == -1 && errno() == libc::EPERM;
            // SAFETY: calls that are refused, or that change nothing.
            let held = unsafe {
                libc::syscall(libc::SYS_execve, 0, 0, 0) == -1
                    && errno() == libc::EFAULT
                    && lock().is_ok()
                    && refused(libc::syscall(libc::SYS_execve, 0, 0, 0))
                    && refused(libc::syscall(libc::SYS_unshare, 0))
                    && refused(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0).into())
                    && libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) >= 0
            };
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(i32::from(!held)) };
        }
        let mut status = 0;
        // SAFETY: status is a valid int.
        unsafe { libc::waitpid(pid, &mut status, 0) };
        assert_eq!(status, 0);
    }

    fn errno() -> i32 {
        io::Error::last_os_error().raw_os_error().unwrap_or(0)
    }
}
