//! The session's packet filter, said to the kernel as `nft -f` would say it (linux/netfilter/nf_tables.h), in one
//! message and without a process. `netfilter_test.rs` holds it to the text that a person reads.
use std::io;
use std::mem::{size_of, zeroed};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::spec::Ports;
use crate::sys;

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NF_TABLES: u16 = 10;
const NEW_TABLE: u16 = NF_TABLES << 8;
const NEW_CHAIN: u16 = NF_TABLES << 8 | 3;
const NEW_RULE: u16 = NF_TABLES << 8 | 6;

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const CREATE: u16 = REQUEST | libc::NLM_F_CREATE as u16;
const APPEND: u16 = CREATE | libc::NLM_F_APPEND as u16;
const ACKNOWLEDGE: u16 = libc::NLM_F_ACK as u16;

const IPV4: u8 = 2;
const IPV6: u8 = 10;
const UNSPECIFIED: u8 = 0;

const TABLE: &str = "ambit";
const DELIVER: &str = "deliver";
const REFUSE: &str = "refuse";
const FORWARD: &str = "forward";
const ANSWER: &str = "answer";

/// Hooks.
const BEFORE_ROUTING: u32 = 0;
const LOCAL_IN: u32 = 1;
const FORWARDED: u32 = 2;
const LOCAL_OUT: u32 = 3;

const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const RETURN: u32 = -5_i32 as u32;

const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;
const DNS: u16 = 53;
/// ICMP codes of type "destination unreachable".
const PORT_UNREACHABLE: u8 = 3;
const ADMIN_PROHIBITED: u8 = 13;
const ADMIN_PROHIBITED_V6: u8 = 1;

/// All rules of a (fresh) network namespace in one transaction.
///
/// NAT delivers; the filter behind it refuses, fast and audibly, whatever NAT does not deliver.
pub fn batch(ports: Ports) -> Vec<u8> {
    let mut all = Batch { bytes: Vec::with_capacity(4096), sequence: 0 };
    all.message(BATCH_BEGIN, REQUEST, UNSPECIFIED, NF_TABLES, |_| ());
    all.table(IPV4);
    all.chain(IPV4, DELIVER, "nat", -100, ACCEPT);
    all.chain(IPV4, REFUSE, "filter", 0, DROP);
    all.rule(IPV4, DELIVER, |rule| rule.if_loopback().verdict(RETURN));
    all.rule(IPV4, DELIVER, |rule| rule.if_protocol(UDP).if_port(DNS).redirect(ports.dns));
    all.rule(IPV4, DELIVER, |rule| rule.if_protocol(TCP).if_port(DNS).redirect(ports.dns));
    all.rule(IPV4, DELIVER, |rule| rule.if_protocol(TCP).redirect(ports.tcp));
    all.rule(IPV4, REFUSE, |rule| rule.if_known().verdict(ACCEPT));
    all.rule(IPV4, REFUSE, |rule| rule.if_loopback().verdict(ACCEPT));
    all.rule(IPV4, REFUSE, |rule| rule.if_protocol(UDP).reject(PORT_UNREACHABLE));
    all.rule(IPV4, REFUSE, |rule| rule.reject(ADMIN_PROHIBITED));
    all.table(IPV6);
    all.chain(IPV6, REFUSE, "filter", 0, DROP);
    all.rule(IPV6, REFUSE, |rule| rule.if_known().verdict(ACCEPT));
    all.rule(IPV6, REFUSE, |rule| rule.if_loopback6().verdict(ACCEPT));
    all.last_rule(IPV6, REFUSE, |rule| rule.reject(ADMIN_PROHIBITED_V6));
    all.message(BATCH_END, REQUEST, UNSPECIFIED, NF_TABLES, |_| ());
    all.bytes
}

/// For a namespace whose agent is a machine behind a tap. Its packets come in instead of going out; nothing is
/// forwarded, and no process in the namespace says anything but answers.
pub fn batch_for_machine(ports: Ports, gateway: Ipv4Addr) -> Vec<u8> {
    let mut all = Batch { bytes: Vec::with_capacity(4096), sequence: 0 };
    all.message(BATCH_BEGIN, REQUEST, UNSPECIFIED, NF_TABLES, |_| ());
    all.table(IPV6);
    for (name, hook) in [(REFUSE, LOCAL_IN), (FORWARD, FORWARDED), (ANSWER, LOCAL_OUT)] {
        all.chain_at(hook, IPV6, name, "filter", 0, DROP);
    }
    all.table(IPV4);
    all.chain_at(BEFORE_ROUTING, IPV4, DELIVER, "nat", -100, ACCEPT);
    all.chain_at(LOCAL_IN, IPV4, REFUSE, "filter", 0, DROP);
    all.chain_at(FORWARDED, IPV4, FORWARD, "filter", 0, DROP);
    all.chain_at(LOCAL_OUT, IPV4, ANSWER, "filter", 0, DROP);
    all.rule(IPV4, DELIVER, |rule| rule.if_to(gateway).if_protocol(TCP).if_port(ports.proxy).verdict(RETURN));
    all.rule(IPV4, DELIVER, |rule| rule.if_protocol(UDP).if_port(DNS).redirect(ports.dns));
    all.rule(IPV4, DELIVER, |rule| rule.if_protocol(TCP).if_port(DNS).redirect(ports.dns));
    all.rule(IPV4, DELIVER, |rule| rule.if_protocol(TCP).redirect(ports.tcp));
    all.rule(IPV4, REFUSE, |rule| rule.if_known().verdict(ACCEPT));
    for port in [ports.tcp, ports.dns, ports.proxy] {
        all.rule(IPV4, REFUSE, |rule| rule.if_protocol(TCP).if_port(port).verdict(ACCEPT));
    }
    all.rule(IPV4, REFUSE, |rule| rule.if_protocol(UDP).if_port(ports.dns).verdict(ACCEPT));
    all.rule(IPV4, REFUSE, |rule| rule.if_protocol(UDP).reject(PORT_UNREACHABLE));
    all.rule(IPV4, REFUSE, |rule| rule.reject(ADMIN_PROHIBITED));
    all.last_rule(IPV4, ANSWER, |rule| rule.if_known().verdict(ACCEPT));
    all.message(BATCH_END, REQUEST, UNSPECIFIED, NF_TABLES, |_| ());
    all.bytes
}

/// The kernel answers each message that fails, in order, and the last rule in any case: its acknowledgement coming
/// first means that all is committed. It works within send(2), so the answer is there at once.
pub fn send(batch: &[u8]) -> io::Result<()> {
    #[repr(C)]
    struct Answer {
        header: libc::nlmsghdr,
        error: i32,
        rest: [u8; 1024],
    }
    // SAFETY: batch and answer are plain bytes that outlive the calls.
    let answer = unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let socket: OwnedFd =
            sys::owned(sys::check(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER))?);
        sys::check(libc::send(socket.as_raw_fd(), batch.as_ptr().cast(), batch.len(), 0))?;
        let mut answer: Answer = zeroed();
        let room = size_of::<Answer>();
        sys::check(libc::recv(
            socket.as_raw_fd(),
            (&raw mut answer).cast(),
            room,
            libc::MSG_DONTWAIT | libc::MSG_TRUNC,
        ))?;
        answer
    };
    match (answer.header.nlmsg_type == libc::NLMSG_ERROR as u16, answer.error) {
        (true, 0) => Ok(()),
        (true, error) => Err(io::Error::from_raw_os_error(-error)),
        _ => Err(io::Error::other("nf_tables did not acknowledge")),
    }
}

/// Messages one behind the other, as nfnetlink takes them.
struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Batch {
    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        fill(&mut self.bytes);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.sequence += 1;
    }

    fn table(&mut self, family: u8) {
        self.message(NEW_TABLE, CREATE, family, 0, |out| text(out, 1, TABLE));
    }

    /// A base chain at the hook of outgoing packets.
    fn chain(&mut self, family: u8, name: &str, kind: &str, priority: i32, policy: u32) {
        self.chain_at(LOCAL_OUT, family, name, kind, priority, policy);
    }

    fn chain_at(&mut self, hook: u32, family: u8, name: &str, kind: &str, priority: i32, policy: u32) {
        self.message(NEW_CHAIN, CREATE, family, 0, |out| {
            text(out, 1, TABLE);
            text(out, 3, name);
            nest(out, 4, |out| {
                number(out, 1, hook);
                number(out, 2, priority as u32);
            });
            number(out, 5, policy);
            text(out, 7, kind);
        });
    }

    fn rule(&mut self, family: u8, chain: &str, build: impl FnOnce(Rule) -> Rule) {
        self.rule_with(APPEND, family, chain, build);
    }

    fn last_rule(&mut self, family: u8, chain: &str, build: impl FnOnce(Rule) -> Rule) {
        self.rule_with(APPEND | ACKNOWLEDGE, family, chain, build);
    }

    fn rule_with(&mut self, flags: u16, family: u8, chain: &str, build: impl FnOnce(Rule) -> Rule) {
        let expressions = build(Rule(Vec::new())).0;
        self.message(NEW_RULE, flags, family, 0, |out| {
            text(out, 1, TABLE);
            text(out, 2, chain);
            nest(out, 4, |out| out.extend(expressions));
        });
    }
}

const REGISTER: u32 = 1;
const VERDICT: u32 = 0;

/// The expressions of one rule, in order; each but the last says whether the rule goes on.
struct Rule(Vec<u8>);

impl Rule {
    fn expression(mut self, name: &str, fill: impl FnOnce(&mut Vec<u8>)) -> Self {
        nest(&mut self.0, 1, |out| {
            text(out, 1, name);
            nest(out, 2, fill);
        });
        self
    }

    fn payload(self, base: u32, offset: u32, length: u32) -> Self {
        let fields = [REGISTER, base, offset, length];
        self.expression("payload", |out| {
            (1..).zip(fields).for_each(|(kind, field)| number(out, kind, field));
        })
    }

    fn compare(self, operator: u32, with: &[u8]) -> Self {
        self.expression("cmp", |out| {
            number(out, 1, REGISTER);
            number(out, 2, operator);
            value(out, 3, with);
        })
    }

    /// To 127.0.0.0/8, by its first byte.
    fn if_loopback(self) -> Self {
        self.payload(NETWORK_HEADER, 16, 1).compare(EQUAL, &[127])
    }

    fn if_to(self, address: Ipv4Addr) -> Self {
        self.payload(NETWORK_HEADER, 16, 4).compare(EQUAL, &address.octets())
    }

    /// To ::1.
    fn if_loopback6(self) -> Self {
        self.payload(NETWORK_HEADER, 24, 16).compare(EQUAL, &std::net::Ipv6Addr::LOCALHOST.octets())
    }

    fn if_protocol(self, protocol: u8) -> Self {
        const LAYER_4: u32 = 16;
        let loaded = self.expression("meta", |out| {
            number(out, 1, REGISTER);
            number(out, 2, LAYER_4);
        });
        loaded.compare(EQUAL, &[protocol])
    }

    fn if_port(self, port: u16) -> Self {
        self.payload(TRANSPORT_HEADER, 2, 2).compare(EQUAL, &port.to_be_bytes())
    }

    /// Of a connection that is established, or related to one.
    fn if_known(self) -> Self {
        const STATE: u32 = 0;
        const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
        let loaded = self.expression("ct", |out| {
            number(out, 1, REGISTER);
            number(out, 2, STATE);
        });
        let masked = loaded.expression("bitwise", |out| {
            number(out, 1, REGISTER);
            number(out, 2, REGISTER);
            number(out, 3, 4);
            value(out, 4, &ESTABLISHED_OR_RELATED.to_ne_bytes());
            value(out, 5, &[0; 4]);
        });
        masked.compare(NOT_EQUAL, &[0; 4])
    }

    fn verdict(self, code: u32) -> Self {
        self.expression("immediate", |out| {
            number(out, 1, VERDICT);
            nest(out, 2, |out| nest(out, 2, |out| number(out, 1, code)));
        })
    }

    /// To this port of the host itself.
    fn redirect(self, port: u16) -> Self {
        const PORT_GIVEN: u32 = 2;
        let loaded = self.expression("immediate", |out| {
            number(out, 1, REGISTER);
            value(out, 2, &port.to_be_bytes());
        });
        loaded.expression("redir", |out| {
            number(out, 1, REGISTER);
            number(out, 3, PORT_GIVEN);
        })
    }

    /// Drops, and says so by ICMP.
    fn reject(self, code: u8) -> Self {
        const UNREACHABLE: u32 = 0;
        self.expression("reject", |out| {
            number(out, 1, UNREACHABLE);
            attribute(out, 2, &[code]);
        })
    }
}

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// Length, type, bytes, padding to four.
fn attribute(out: &mut Vec<u8>, kind: u16, bytes: &[u8]) {
    out.extend((4 + bytes.len() as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn number(out: &mut Vec<u8>, kind: u16, number: u32) {
    attribute(out, kind, &number.to_be_bytes());
}

fn text(out: &mut Vec<u8>, kind: u16, text: &str) {
    attribute(out, kind, &[text.as_bytes(), &[0]].concat());
}

/// A constant for a register.
fn value(out: &mut Vec<u8>, kind: u16, bytes: &[u8]) {
    nest(out, kind, |out| attribute(out, 1, bytes));
}

fn nest(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inside = Vec::new();
    fill(&mut inside);
    attribute(out, kind | libc::NLA_F_NESTED as u16, &inside);
}

#[cfg(test)]
#[path = "netfilter_test.rs"]
mod test;
