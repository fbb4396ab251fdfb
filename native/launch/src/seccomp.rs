//! The system call filter: an allowlist with argument checks.
//!
//! Known and refused: EPERM. Newer than the table, or clone3 (whose flags lie in memory that a filter cannot read,
//! CVE-2021-41133): ENOSYS, so that libc falls back. Another ABI (ia32 through int 0x80, x32 numbers): death.
//!
//! A program is evaluated in full only for calls with argument rules, which stand first; for all others the kernel's
//! bitmap knows that the answer is constant.
use std::io;
use std::os::fd::OwnedFd;

use crate::bpf::{
    ARCHITECTURE, Instruction, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, NUMBER, answer, jump, load,
};
use crate::rules::rules;
use crate::sys;
use crate::syscalls::{ABSENT, COMMON, NEWER, NEWEST_KNOWN, OLDER, UNASSIGNED};

pub const ALLOW: u32 = 0x7fff_0000;
pub const KILL: u32 = 0x8000_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const ERRNO: u32 = 0x0005_0000;

#[cfg(target_arch = "x86_64")]
pub const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub const NATIVE: u32 = 0xc000_00b7;

/// Numbers with this bit are x32's, under x86-64's architecture value.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

pub const fn errno(error: i32) -> u32 {
    ERRNO | error as u32
}

pub const EPERM: u32 = errno(libc::EPERM);
const ENOSYS: u32 = errno(libc::ENOSYS);

/// The agent's filter. `pinned`: it may not choose its CPUs.
pub fn allowlist(pinned: bool) -> Vec<Instruction> {
    let mut program = prologue();
    for (call, rule) in rules(pinned) {
        program.push(jump(JUMP_EQUAL, call as u32, 0, rule.len() as u8));
        program.extend(rule);
    }
    for (first, last) in ranges(allowed()) {
        program.push(jump(JUMP_GREATER_EQUAL, first, 0, 2));
        program.push(jump(JUMP_GREATER, last, 1, 0));
        program.push(answer(ALLOW));
    }
    program.extend([jump(JUMP_EQUAL, libc::SYS_clone3 as u32, 0, 1), answer(ENOSYS)]);
    program.extend([jump(JUMP_EQUAL, libc::SYS_timer_create as u32, 0, 1), answer(ENOSYS)]);
    for &call in ABSENT {
        program.extend([jump(JUMP_EQUAL, call, 0, 1), answer(ENOSYS)]);
    }
    program.extend([
        jump(JUMP_GREATER_EQUAL, *UNASSIGNED.start(), 0, 2),
        jump(JUMP_GREATER, *UNASSIGNED.end(), 1, 0),
    ]);
    program.push(answer(ENOSYS));
    program.extend([jump(JUMP_GREATER, NEWEST_KNOWN, 0, 1), answer(ENOSYS), answer(EPERM)]);
    program
}

/// The exec sensor's filter: stands on top, so nothing that the agent loads later can hide an exec from it.
pub fn exec_sensor() -> Vec<Instruction> {
    vec![
        load(NUMBER),
        jump(JUMP_EQUAL, libc::SYS_execve as u32, 1, 0),
        jump(JUMP_EQUAL, libc::SYS_execveat as u32, 0, 1),
        answer(NOTIFY),
        answer(ALLOW),
    ]
}

/// gVisor's own processes. Each of the five asks at its start to be told of by other processors at once, which the kernel
/// grants after a grace period of RCU: 5 to 15 ms, for a call that only few programs of its guest would make.
pub fn no_membarrier() -> Vec<Instruction> {
    vec![load(NUMBER), jump(JUMP_EQUAL, libc::SYS_membarrier as u32, 0, 1), answer(ENOSYS), answer(ALLOW)]
}

fn prologue() -> Vec<Instruction> {
    let mut program = vec![load(ARCHITECTURE), jump(JUMP_EQUAL, NATIVE, 1, 0), answer(KILL), load(NUMBER)];
    #[cfg(target_arch = "x86_64")]
    program.extend([jump(JUMP_GREATER_EQUAL, X32, 0, 1), answer(KILL)]);
    program
}

fn allowed() -> Vec<u32> {
    let mut all: Vec<u32> = [COMMON, OLDER, NEWER].concat().into_iter().map(|call| call as u32).collect();
    all.sort_unstable();
    all
}

/// Runs of consecutive numbers.
fn ranges(sorted: Vec<u32>) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for call in sorted {
        match runs.last_mut() {
            Some((_, last)) if call <= *last + 1 => *last = call,
            _ => runs.push((call, call)),
        }
    }
    runs
}

#[repr(C)]
struct Program {
    length: u16,
    filter: *const Instruction,
}

const SET_MODE_FILTER: u32 = 1;
const FLAG_NEW_LISTENER: libc::c_ulong = 1 << 3;
/// Once the sensor has the notification, only a fatal signal interrupts the exec: Go's preemption signals would
/// restart it for ever otherwise (Linux 5.19).
const FLAG_WAIT_KILLABLE: libc::c_ulong = 1 << 5;

pub fn install(program: &[Instruction]) -> io::Result<()> {
    load_filter(program, 0).map(drop)
}

/// Loads a filter that notifies, and returns the listener.
pub fn install_with_listener(program: &[Instruction]) -> io::Result<OwnedFd> {
    let fd = load_filter(program, FLAG_NEW_LISTENER | FLAG_WAIT_KILLABLE)?;
    Ok(sys::owned(fd))
}

fn load_filter(program: &[Instruction], flags: libc::c_ulong) -> io::Result<i32> {
    let program = Program { length: program.len() as u16, filter: program.as_ptr() };
    // SAFETY: program points to a valid sock_fprog for the duration of the call.
    let fd = sys::check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &program) })?;
    Ok(fd as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::interpret;

    fn ask_as(arch: u32, number: u32, args: &[u64], pinned: bool) -> u32 {
        let mut data = [0u8; 64];
        data[0..4].copy_from_slice(&number.to_ne_bytes());
        data[4..8].copy_from_slice(&arch.to_ne_bytes());
        for (index, arg) in args.iter().enumerate() {
            data[16 + 8 * index..24 + 8 * index].copy_from_slice(&arg.to_ne_bytes());
        }
        interpret(&allowlist(pinned), &data)
    }

    fn ask(call: libc::c_long, args: &[u64]) -> u32 {
        ask_as(NATIVE, call as u32, args, false)
    }

    #[test]
    fn kills_foreign_abis() {
        assert_eq!(ask_as(0x4000_0003, 1, &[], false), KILL, "ia32");
        assert_eq!(ask_as(0x4000_0028, 1, &[], false), KILL, "arm");
        #[cfg(target_arch = "x86_64")]
        assert_eq!(ask_as(NATIVE, libc::SYS_read as u32 | X32, &[], false), KILL, "x32");
    }

    #[test]
    fn refuses_every_new_namespace_whatever_else_is_asked() {
        for bit in [0x20000u64, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000]
        {
            for more in [0, 1 << 40, libc::CLONE_FS as u64, libc::SIGCHLD as u64] {
                assert_eq!(ask(libc::SYS_clone, &[bit | more]), EPERM, "clone {bit:#x} {more:#x}");
                assert_eq!(ask(libc::SYS_unshare, &[bit | more]), EPERM, "unshare {bit:#x} {more:#x}");
            }
        }
        assert_eq!(ask(libc::SYS_unshare, &[0x80]), EPERM, "time namespace");
        assert_eq!(ask(libc::SYS_unshare, &[(libc::CLONE_FS | libc::CLONE_FILES) as u64]), ALLOW);
        let thread =
            libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
        assert_eq!(ask(libc::SYS_clone, &[thread as u64]), ALLOW);
        assert_eq!(ask(libc::SYS_clone, &[libc::SIGCHLD as u64]), ALLOW);
        assert_eq!(ask(libc::SYS_clone3, &[]), ENOSYS);
    }

    #[test]
    fn refuses_terminal_injection_by_the_low_half() {
        for request in [0x5412u64, 0x541c, 0x541d, 0x5423] {
            assert_eq!(ask(libc::SYS_ioctl, &[0, request]), EPERM);
            assert_eq!(ask(libc::SYS_ioctl, &[0, request | 1 << 40]), EPERM);
        }
        for request in [0x5422u64, 0x5401, 0x5413, 0x5411] {
            assert_eq!(ask(libc::SYS_ioctl, &[0, request]), ALLOW, "{request:#x}");
        }
    }

    #[test]
    fn admits_only_four_socket_families() {
        let socket = |family: i32, kind: i32, protocol: i32| {
            ask(libc::SYS_socket, &[family as u64, kind as u64, protocol as u64])
        };
        for family in [libc::AF_INET, libc::AF_INET6] {
            assert_eq!(socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0), ALLOW);
            assert_eq!(socket(family, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, libc::IPPROTO_UDP), ALLOW);
            assert_eq!(socket(family, libc::SOCK_RAW, libc::IPPROTO_ICMP), EPERM);
            assert_eq!(socket(family, libc::SOCK_DGRAM, libc::IPPROTO_ICMP), errno(libc::EPROTONOSUPPORT));
            assert_eq!(socket(family, libc::SOCK_STREAM, 262), errno(libc::EPROTONOSUPPORT), "MPTCP");
        }
        assert_eq!(socket(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0), ALLOW);
        assert_eq!(socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE), ALLOW);
        for protocol in [libc::NETLINK_AUDIT, libc::NETLINK_NETFILTER, libc::NETLINK_KOBJECT_UEVENT] {
            assert_eq!(socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol), errno(libc::EPROTONOSUPPORT));
        }
        let admitted = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
        for family in (0..64).filter(|family| !admitted.contains(family)) {
            assert_eq!(socket(family, libc::SOCK_STREAM, 0), errno(libc::EAFNOSUPPORT), "family {family}");
        }
    }

    #[test]
    fn refuses_devices_but_not_fifos() {
        let mknod = |mode: u32| ask(libc::SYS_mknodat, &[0, 0, u64::from(mode)]);
        assert_eq!((mknod(libc::S_IFCHR | 0o666), mknod(libc::S_IFBLK)), (EPERM, EPERM));
        assert_eq!((mknod(libc::S_IFIFO | 0o600), mknod(0o600)), (ALLOW, ALLOW));
    }

    #[test]
    fn leaves_prctl_to_what_concerns_the_caller() {
        for option in
            [libc::PR_SET_NAME, libc::PR_SET_NO_NEW_PRIVS, libc::PR_SET_SECCOMP, libc::PR_GET_CHILD_SUBREAPER]
        {
            assert_eq!(ask(libc::SYS_prctl, &[option as u64]), ALLOW, "{option}");
        }
        for option in [libc::PR_SET_MM, 57, libc::PR_MCE_KILL, 59, 62] {
            assert_eq!(ask(libc::SYS_prctl, &[option as u64]), errno(libc::EINVAL), "{option}");
        }
    }

    #[test]
    fn keeps_the_core_limit_whatever_is_asked() {
        let core = u64::from(libc::RLIMIT_CORE);
        for new in [8u64, 1 << 32] {
            assert_eq!(ask(libc::SYS_prlimit64, &[0, core, new, 0]), errno(0), "said to be done");
            assert_eq!(ask(libc::SYS_prlimit64, &[7, core | 1 << 40, new, 0]), errno(0));
            assert_eq!(ask(libc::SYS_prlimit64, &[0, core, new, 1 << 32]), EPERM);
            assert_eq!(ask(libc::SYS_prlimit64, &[0, core, new, 8]), EPERM);
            assert_eq!(ask(libc::SYS_prlimit64, &[0, u64::from(libc::RLIMIT_STACK), new, 0]), ALLOW);
        }
        assert_eq!(ask(libc::SYS_prlimit64, &[0, core, 0, 8]), ALLOW, "asking");
        assert_eq!(ask(libc::SYS_setrlimit, &[core, 8]), errno(0));
        assert_eq!(ask(libc::SYS_setrlimit, &[u64::from(libc::RLIMIT_NOFILE), 8]), ALLOW);
    }

    #[test]
    fn keeps_pinned_sessions_on_their_cpus() {
        let number = libc::SYS_sched_setaffinity as u32;
        assert_eq!((ask_as(NATIVE, number, &[], false), ask_as(NATIVE, number, &[], true)), (ALLOW, EPERM));
    }

    #[test]
    fn says_enosys_to_what_is_newer_than_the_table() {
        for number in [470, 500, 1000, 0x3fff_ffff] {
            assert_eq!(ask_as(NATIVE, number, &[], false), ENOSYS, "{number}");
        }
    }

    /// The golden list: every number below the newest known one that is not plainly allowed. A change here is a
    /// change of what an agent may ask the kernel, and is reviewed as such.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn blocks_exactly_the_golden_list() {
        let blocked = |number: &u32| ask_as(NATIVE, *number, &[0; 6], false) != ALLOW;
        let list: Vec<String> = (0..=NEWEST_KNOWN)
            .filter(|n| !UNASSIGNED.contains(n))
            .filter(blocked)
            .map(|n| n.to_string())
            .collect();
        let golden = include_str!("blocked-x86_64.txt");
        let golden: Vec<&str> = golden.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(list, golden);
    }

    #[test]
    fn gvisor_makes_every_call_but_one() {
        let ask = |call: libc::c_long| {
            let mut data = [0u8; 64];
            data[0..4].copy_from_slice(&(call as u32).to_ne_bytes());
            interpret(&no_membarrier(), &data)
        };
        assert_eq!((ask(libc::SYS_membarrier), ask(libc::SYS_ptrace)), (ENOSYS, ALLOW));
    }

    #[test]
    fn the_exec_sensor_sees_both_calls_and_nothing_else() {
        let ask = |call: libc::c_long| {
            let mut data = [0u8; 64];
            data[0..4].copy_from_slice(&(call as u32).to_ne_bytes());
            interpret(&exec_sensor(), &data)
        };
        assert_eq!((ask(libc::SYS_execve), ask(libc::SYS_execveat)), (NOTIFY, NOTIFY));
        assert_eq!((ask(libc::SYS_clone), ask(libc::SYS_openat)), (ALLOW, ALLOW));
    }
}
