//! Calls of the filter whose arguments decide. The kernel takes flags, commands and families as 32-bit values, so the
//! rules look at low halves (CVE-2019-10063).
use crate::bpf::{Instruction, JUMP_EQUAL, JUMP_SET, and, answer, argument, high_half, jump, load};
use crate::seccomp::{ALLOW, EPERM, errno};

/// NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWNS.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// CLONE_NEWTIME: to clone() this bit is part of the exit signal.
const NEW_TIME: u32 = 0x80;
const SOCKET_TYPE: u32 = 0xf;

pub type Rule = Vec<Instruction>;

/// Calls whose arguments decide. Each rule ends in an answer on every path.
pub fn rules(pinned: bool) -> Vec<(libc::c_long, Rule)> {
    let affinity = if pinned { EPERM } else { ALLOW };
    let mut rules = vec![
        (libc::SYS_ioctl, refuse_values(1, &TERMINAL_INJECTION, EPERM)),
        (libc::SYS_fcntl, refuse_values(1, &[F_SETSIG], errno(libc::EINVAL))),
        (libc::SYS_clone, refuse_bits(0, NEW_NAMESPACES)),
        (libc::SYS_unshare, refuse_bits(0, NEW_NAMESPACES | NEW_TIME)),
        (libc::SYS_socket, sockets()),
        (libc::SYS_socketpair, admit_values(0, &[libc::AF_UNIX as u32], errno(libc::EAFNOSUPPORT))),
        (libc::SYS_prctl, admit_values(0, PROCESS_CONTROLS, errno(libc::EINVAL))),
        (libc::SYS_personality, admit_values(0, &PERSONALITIES, EPERM)),
        (libc::SYS_mknodat, no_devices(2)),
        (libc::SYS_prlimit64, keep_core_limit()),
        (libc::SYS_setrlimit, admit_others(0, libc::RLIMIT_CORE, DONE)),
        (libc::SYS_sched_setaffinity, vec![answer(affinity)]),
    ];
    #[cfg(target_arch = "x86_64")]
    rules.push((libc::SYS_mknod, no_devices(1)));
    rules
}

/// TIOCSTI types into the terminal (CVE-2017-5226), TIOCLINUX pastes into it (CVE-2023-28100), TIOCCONS takes the
/// console's output, TIOCSETD loads line disciplines.
const TERMINAL_INJECTION: [u32; 4] = [0x5412, 0x541c, 0x541d, 0x5423];

/// A file that announces itself by SIGCONT would wake its process out of a freeze, as would a timer of
/// timer_create(2), which is absent: its callers fall back to setitimer(2) and alarm(2), whose signals wake nobody.
const F_SETSIG: u32 = 10;

/// PER_LINUX, ADDR_NO_RANDOMIZE (SBCL, gcc's precompiled headers), both, and the query.
const PERSONALITIES: [u32; 3] = [0, 0x0004_0000, 0xffff_ffff];

/// prctl options that concern the caller alone. Not: PR_SET_MM (its own exe link), PR_SCHED_CORE, MCE, io flusher,
/// syscall user dispatch.
const PROCESS_CONTROLS: &[u32] = &[
    1,
    2,
    3,
    4,
    7,
    8, // death signal, dumpable, keepcaps
    15,
    16,
    21,
    22,
    23,
    24,
    25,
    26,
    27,
    28,
    29,
    30, // name, seccomp, bounding set, TSC, securebits, timer slack
    36,
    37,
    38,
    39,
    40,
    41,
    42, // child subreaper, no_new_privs, tid address, THP
    47,
    50,
    51,
    52,
    53,
    54,
    55,
    56, // ambient set, vector lengths, speculation, pointer authentication, tags
    60,
    61,
    65,
    66,
    71,
    72,
    74,
    75,
    76,
    78, // PAC keys, MDWE, RISC-V, shadow stack, futex hash
    0x4155_5856,
    0x5356_4d41,
    0x5961_6d61, // auxv, VMA names, ptracer
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

/// The call is not made, and says that it was.
const DONE: u32 = errno(0);

fn admit_others(index: u32, value: u32, instead: u32) -> Rule {
    vec![load(argument(index)), jump(JUMP_EQUAL, value, 0, 1), answer(instead), answer(ALLOW)]
}

/// A program that lowers its core limit to 0, as many do, would have the host's crash handler run on it where
/// `core_pattern` is a pipe (ambit_shared::lockdown::no_core). It is told that it did: that no core is written is true.
/// Who also asks for the old limit must get an answer, so EPERM, as for a limit that may not be raised.
fn keep_core_limit() -> Rule {
    let is_null = |index: u32, null: Rule, other: Rule| -> Rule {
        let mut rule = vec![load(argument(index)), jump(JUMP_EQUAL, 0, 0, 2 + null.len() as u8)];
        rule.extend([load(high_half(index)), jump(JUMP_EQUAL, 0, 0, null.len() as u8)]);
        rule.extend(null);
        rule.extend(other);
        rule
    };
    let set = is_null(3, vec![answer(DONE)], vec![answer(EPERM)]);
    let mut rule = vec![load(argument(1)), jump(JUMP_EQUAL, libc::RLIMIT_CORE, 1, 0), answer(ALLOW)];
    rule.extend(is_null(2, vec![answer(ALLOW)], set));
    rule
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
