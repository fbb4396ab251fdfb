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
    ARCHITECTURE, Instruction, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, JUMP_SET, NUMBER, and, answer, argument, jump,
    load,
};
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

/// NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWNS.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// CLONE_NEWTIME: to clone() this bit is part of the exit signal.
const NEW_TIME: u32 = 0x80;
const SOCKET_TYPE: u32 = 0xf;

pub const fn errno(error: i32) -> u32 {
    ERRNO | error as u32
}

const EPERM: u32 = errno(libc::EPERM);
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
    for &call in ABSENT {
        program.extend([jump(JUMP_EQUAL, call, 0, 1), answer(ENOSYS)]);
    }
    program.extend([jump(JUMP_GREATER_EQUAL, *UNASSIGNED.start(), 0, 2), jump(JUMP_GREATER, *UNASSIGNED.end(), 1, 0)]);
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

type Rule = Vec<Instruction>;

/// Calls whose arguments decide. Each rule ends in an answer on every path.
fn rules(pinned: bool) -> Vec<(libc::c_long, Rule)> {
    let affinity = if pinned { EPERM } else { ALLOW };
    let mut rules = vec![
        (libc::SYS_ioctl, refuse_values(1, &TERMINAL_INJECTION, EPERM)),
        (libc::SYS_clone, refuse_bits(0, NEW_NAMESPACES)),
        (libc::SYS_unshare, refuse_bits(0, NEW_NAMESPACES | NEW_TIME)),
        (libc::SYS_socket, sockets()),
        (libc::SYS_socketpair, admit_values(0, &[libc::AF_UNIX as u32], errno(libc::EAFNOSUPPORT))),
        (libc::SYS_prctl, admit_values(0, PROCESS_CONTROLS, errno(libc::EINVAL))),
        (libc::SYS_personality, admit_values(0, &PERSONALITIES, EPERM)),
        (libc::SYS_mknodat, no_devices(2)),
        (libc::SYS_sched_setaffinity, vec![answer(affinity)]),
    ];
    #[cfg(target_arch = "x86_64")]
    rules.push((libc::SYS_mknod, no_devices(1)));
    rules
}

/// TIOCSTI types into the terminal (CVE-2017-5226), TIOCLINUX pastes into it (CVE-2023-28100), TIOCCONS takes the
/// console's output, TIOCSETD loads line disciplines.
const TERMINAL_INJECTION: [u32; 4] = [0x5412, 0x541c, 0x541d, 0x5423];

/// PER_LINUX, ADDR_NO_RANDOMIZE (SBCL, gcc's precompiled headers), both, and the query.
const PERSONALITIES: [u32; 3] = [0, 0x0004_0000, 0xffff_ffff];

/// prctl options that concern the caller alone. Not: PR_SET_MM (its own exe link), PR_SCHED_CORE, MCE, io flusher,
/// syscall user dispatch.
const PROCESS_CONTROLS: &[u32] = &[
    1, 2, 3, 4, 7, 8, // death signal, dumpable, keepcaps
    15, 16, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, // name, seccomp, bounding set, TSC, securebits, timer slack
    36, 37, 38, 39, 40, 41, 42, // child subreaper, no_new_privs, tid address, THP
    47, 50, 51, 52, 53, 54, 55, 56, // ambient set, vector lengths, speculation, pointer authentication, tags
    60, 61, 65, 66, 71, 72, 74, 75, 76, 78, // PAC keys, MDWE, RISC-V, shadow stack, futex hash
    0x4155_5856, 0x5356_4d41, 0x5961_6d61, // auxv, VMA names, ptracer
];

fn refuse_values(index: u32, values: &[u32], refusal: u32) -> Rule {
    let mut rule = vec![load(argument(index))];
    values.iter().for_each(|&value| rule.extend([jump(JUMP_EQUAL, value, 0, 1), answer(refusal)]));
    rule.push(answer(ALLOW));
    rule
}

fn admit_values(index: u32, values: &[u32], refusal: u32) -> Rule {
    let mut rule = vec![load(argument(index))];
    values.iter().for_each(|&value| rule.extend([jump(JUMP_EQUAL, value, 0, 1), answer(ALLOW)]));
    rule.push(answer(refusal));
    rule
}

/// Masks, never compares: further bits must not open the door.
fn refuse_bits(index: u32, bits: u32) -> Rule {
    vec![load(argument(index)), jump(JUMP_SET, bits, 0, 1), answer(EPERM), answer(ALLOW)]
}

/// Regular files, FIFOs and sockets.
fn no_devices(index: u32) -> Rule {
    vec![
        load(argument(index)),
        and(libc::S_IFMT),
        jump(JUMP_EQUAL, libc::S_IFCHR, 1, 0),
        jump(JUMP_EQUAL, libc::S_IFBLK, 0, 1),
        answer(EPERM),
        answer(ALLOW),
    ]
}

/// AF_UNIX; AF_INET and AF_INET6 as TCP or UDP; AF_NETLINK for routing questions (getifaddrs). Nothing else.
fn sockets() -> Rule {
    let (stream, datagram) = (libc::SOCK_STREAM as u32, libc::SOCK_DGRAM as u32);
    let mut internet = vec![load(argument(1)), and(SOCKET_TYPE), jump(JUMP_EQUAL, stream, 2, 0)];
    internet.extend([jump(JUMP_EQUAL, datagram, 1, 0), answer(EPERM)]);
    let protocols = [0, libc::IPPROTO_TCP as u32, libc::IPPROTO_UDP as u32];
    internet.extend(admit_values(2, &protocols, errno(libc::EPROTONOSUPPORT)));
    let netlink = admit_values(2, &[libc::NETLINK_ROUTE as u32], errno(libc::EPROTONOSUPPORT));

    let mut rule = vec![load(argument(0))];
    rule.extend([jump(JUMP_EQUAL, libc::AF_UNIX as u32, 0, 1), answer(ALLOW)]);
    rule.push(jump(JUMP_EQUAL, libc::AF_NETLINK as u32, 0, netlink.len() as u8));
    rule.extend(&netlink);
    rule.push(jump(JUMP_EQUAL, libc::AF_INET as u32, 1, 0));
    rule.push(jump(JUMP_EQUAL, libc::AF_INET6 as u32, 0, internet.len() as u8));
    rule.extend(internet);
    rule.push(answer(errno(libc::EAFNOSUPPORT)));
    rule
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
