//! What the kernel holds after `load`, as `nft` lists it, is what it holds after the text below.
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use super::{batch, batch_for_machine, send};
use crate::spec::Ports;
use crate::sys;

const PORTS: Ports = Ports { tcp: 61_801, dns: 61_853, proxy: 61_880 };

const TEXT: &str = "table ip ambit {
  chain deliver {
    type nat hook output priority -100; policy accept;
    ip daddr 127.0.0.0/8 return
    udp dport 53 redirect to :61853
    tcp dport 53 redirect to :61853
    meta l4proto tcp redirect to :61801
  }
  chain refuse {
    type filter hook output priority 0; policy drop;
    ct state established,related accept
    ip daddr 127.0.0.0/8 accept
    meta l4proto udp reject with icmp type port-unreachable
    reject with icmp type admin-prohibited
  }
}
table ip6 ambit {
  chain refuse {
    type filter hook output priority 0; policy drop;
    ct state established,related accept
    ip6 daddr ::1 accept
    reject with icmpv6 type admin-prohibited
  }
}
";

const MACHINE: &str = "table ip6 ambit {
  chain refuse {
    type filter hook input priority 0; policy drop;
  }
  chain forward {
    type filter hook forward priority 0; policy drop;
  }
  chain answer {
    type filter hook output priority 0; policy drop;
  }
}
table ip ambit {
  chain deliver {
    type nat hook prerouting priority -100; policy accept;
    ip daddr 192.0.0.1 tcp dport 61880 return
    udp dport 53 redirect to :61853
    tcp dport 53 redirect to :61853
    meta l4proto tcp redirect to :61801
  }
  chain refuse {
    type filter hook input priority 0; policy drop;
    ct state established,related accept
    tcp dport 61801 accept
    tcp dport 61853 accept
    tcp dport 61880 accept
    udp dport 61853 accept
    meta l4proto udp reject with icmp type port-unreachable
    reject with icmp type admin-prohibited
  }
  chain forward {
    type filter hook forward priority 0; policy drop;
  }
  chain answer {
    type filter hook output priority 0; policy drop;
    ct state established,related accept
  }
}
";

#[test]
fn the_rules_are_those_of_the_text() {
    compare(&batch(PORTS), TEXT);
}

#[test]
fn a_machines_rules_are_those_of_its_text() {
    compare(&batch_for_machine(PORTS, crate::tap::GATEWAY), MACHINE);
}

fn compare(rules: &[u8], text: &str) {
    if Command::new("nft").arg("--version").output().is_err() {
        return eprintln!("skipped: nft, which only tests need, is not installed");
    }
    let ours = inside("nft list ruleset; nft --debug=netlink list ruleset >&2", rules, "");
    let theirs = inside("nft -f - && nft list ruleset; nft --debug=netlink list ruleset >&2", &[], text);
    assert!(ours.status.success() && theirs.status.success(), "{ours:?} {theirs:?}");
    assert!(String::from_utf8_lossy(&ours.stdout).contains("redirect to :61853"));
    assert_eq!(String::from_utf8_lossy(&ours.stdout), String::from_utf8_lossy(&theirs.stdout));
    assert_eq!(String::from_utf8_lossy(&ours.stderr), String::from_utf8_lossy(&theirs.stderr));
}

#[test]
fn a_batch_that_fails_is_an_error_and_leaves_nothing() {
    let mut twice = batch(PORTS);
    // An operator of the last comparison that no kernel knows.
    let at = twice.windows(4).rposition(|four| four == b"cmp\0").map(|at| at + 4 + 4 + 8 + 4);
    twice[at.unwrap()..][..4].copy_from_slice(&99_u32.to_be_bytes());
    let mut command = shell("nft list ruleset");
    enter_then(&mut command, move || match send(&twice) {
        Err(_) => Ok(()),
        Ok(()) => Err(io::Error::other("it was taken")),
    });
    match command.output() {
        Ok(listed) => assert_eq!(String::from_utf8_lossy(&listed.stdout), ""),
        Err(error) => panic!("{error}"),
    }
}

fn inside(script: &str, batch: &[u8], input: &str) -> Output {
    let mut command = shell(script);
    let batch = batch.to_vec();
    enter_then(&mut command, move || if batch.is_empty() { Ok(()) } else { send(&batch) });
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The child gets namespaces of its own, as root of them, and then does `work`.
fn enter_then(command: &mut Command, work: impl Fn() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: always succeed.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let maps = [("/proc/self/uid_map", format!("0 {uid} 1")), ("/proc/self/gid_map", format!("0 {gid} 1"))];
    // SAFETY: the child has one thread; it opens, writes and sends, with buffers made beforehand.
    unsafe {
        command.pre_exec(move || {
            sys::check(libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET))?;
            std::fs::write("/proc/self/setgroups", "deny")?;
            maps.iter().try_for_each(|(path, map)| std::fs::write(path, map))?;
            work()
        });
    }
}
