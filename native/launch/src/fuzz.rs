//! Parsers of bytes that come from outside, fuzzed a moment in every run and longer by `./dev fuzz NAME`.
use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use ambit_shared::fuzz::fuzz;

use crate::control::Orders;
use crate::spec::LaunchSpec;
use crate::sys;
use crate::termfilter::Filter;
use crate::vm::facts::as_recorded;
use crate::vm::guest::{Guest, News};
use crate::vm::streams;

fn filtered(pieces: &[&[u8]]) -> Vec<u8> {
    let (mut filter, mut out) = (Filter::default(), Vec::new());
    pieces.iter().for_each(|piece| filter.pass(piece, &mut out));
    out
}

/// The grammar of what may reach a terminal, written down a second time: the filter decides byte by byte, this looks
/// at whole output.
fn is_harmless(mut rest: &[u8]) -> bool {
    while let Some((&byte, after)) = rest.split_first() {
        rest = match byte {
            0x07..=0x0f | 0x20..=0x7e => after,
            0x1b => match escape_length(after) {
                Some(length) => &after[length..],
                None => return false,
            },
            0x80.. => {
                let length = (2..=4).find(|&length| rest.get(..length).is_some_and(is_one_character));
                match length {
                    Some(length) => &rest[length..],
                    None => return false,
                }
            }
            _ => return false,
        }
    }
    true
}

fn is_one_character(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| text.chars().all(|c| !('\u{80}'..='\u{9f}').contains(&c)))
}

/// How many bytes after ESC belong to a sequence that is allowed.
fn escape_length(after: &[u8]) -> Option<usize> {
    match after {
        [b'7' | b'8' | b'=' | b'>' | b'D' | b'E' | b'H' | b'M' | b'c', ..] => Some(1),
        [b'(' | b')' | b'*' | b'+', set, ..] if set.is_ascii_alphanumeric() => Some(2),
        [b'[', control @ ..] => {
            let last = control.iter().position(|byte| (0x40..=0x7e).contains(byte))?;
            let body = &control[..last];
            // Nothing that asks (n, c, p with $, t, u with ?), prints (i), or speaks a language of its own.
            let asks = matches!(control[last], b'n' | b'c' | b't' | b'i' | b'x' | b'y' | b'w')
                || body.contains(&b'$')
                || (control[last] == b'u'
                    && !body.iter().all(|byte| matches!(byte, b'0'..=b'9' | b':' | b';')))
                || (control[last] == b'q' && body.first().is_some_and(|mark| (b'<'..=b'?').contains(mark)));
            let formed = body.iter().all(|byte| (0x20..=0x3f).contains(byte));
            (formed && !asks).then_some(last + 2)
        }
        _ => None,
    }
}

#[test]
fn fuzz_terminal_filter() {
    let seeds: [&[u8]; 10] = [
        b"plain\r\n\x1b[31;1mred\x1b[0m\x1b[2J\x1b[H",
        b"\x1b]52;c;ZXZpbA==\x07\x1b]0;t\x1b\\x",
        b"\x1bP$q\"p\x1b\\\x1b_Gi=1\x1b\\\x1b^x\x1b\\\x1bXy\x1b\\",
        b"\x1b[?1049h\x1b[?25l\x1b[?2004$p\x1b[>c\x1b[6n",
        "caf\u{e9} \u{1f600}\u{9b}31m\u{90}\u{9d}52;c;x\u{9c}".as_bytes(),
        b"\x9b6n\x9d52;c;AA\x07\x90q\x9c\x05",
        b"\x1b(0\x1b[4h\x1b[5;6r\x1b=\x1b[>4;2m\x1b[u\x1b[?u\x1b[4 q",
        b"\x1b[\x1b]52\x18;\x1a\x1b\x1b[c\xe2\x1b[0c\xf0\x9f",
        b"\x1b]never ends",
        b"\x1b[;u\x1b[1:2u",
    ];
    fuzz("terminal-filter", &seeds, |input| {
        let whole = filtered(&[input]);
        assert!(is_harmless(&whole), "passes {}", whole.escape_ascii());
        // Wherever it is cut, the same comes out; what came out passes again unchanged.
        let half = input.len() / 2;
        assert_eq!(filtered(&[&input[..half], &input[half..]]), whole);
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(filtered(&bytes), whole);
        assert_eq!(filtered(&[&whole]), whole);
        // Text without controls is not touched, and nothing is held back for ever: CAN ends whatever is open.
        if input.iter().all(|byte| (0x20..0x7f).contains(byte)) {
            assert_eq!(whole, input);
        }
        assert!(filtered(&[input, b"\x18after"]).ends_with(b"after"), "text behind it is swallowed");
    });
}

#[test]
fn fuzz_launch_orders() {
    let seeds: [&[u8]; 3] =
        [b"{\"op\":\"build\"}\n{\"op\":\"exec\"}\n", b"{\"op\":\"signal\",\"signal\":15}\n", b"{\"op\":\"ki"];
    fuzz("launch-orders", &seeds, |input| {
        let Ok((read, write)) = sys::pipe() else { return };
        std::fs::File::from(write).write_all(input).unwrap();
        let mut orders = Orders::default();
        while orders.read(read.as_fd()).is_ok() {}
        // Each line is an order or ends the session; there are never more orders than lines.
        let lines = input.iter().filter(|byte| **byte == b'\n').count();
        let taken = std::iter::from_fn(|| orders.take().transpose()).take_while(Result::is_ok).count();
        assert!(taken <= lines);
    });
}

#[test]
fn fuzz_launch_spec() {
    let seed = br#"{"version":2,"session":"s1","tools":{"bwrap":"/usr/bin/bwrap"},"cell":{"kind":"gvisor","runsc":"/usr/bin/runsc","helpers":null,"directfs":false,"platform":null},"host":{"uid":1000,"gid":1000},"inside":{"uid":1000,"gid":1000},"hostname":"h","mounts":[{"kind":"tmpfs","target":"/tmp","size":1,"mode":511},{"kind":"view","root":0,"target":"/p"},{"kind":"bind","source":"/usr","target":"/usr","write":false}],"argv":["true"],"env":{"A":"b"},"cwd":"/p","terminal":false,"ports":{"tcp":1,"dns":2,"proxy":3},"limits":{"memory":1,"processes":1,"cpus":1,"wallclock":1,"openFiles":1,"disk":1},"journal":"/j"}"#;
    assert!(LaunchSpec::parse(seed).is_ok(), "the seed is a spec");
    fuzz("launch-spec", &[seed], |input| {
        let Ok(spec) = LaunchSpec::parse(input) else { return };
        assert!(spec.host.uid != 0 && spec.host.gid != 0 && !spec.argv.is_empty());
        for mount in &spec.mounts {
            let target = mount.target();
            assert!(target.is_absolute() && !target.starts_with("/proc") && !target.starts_with("/dev"));
            assert!(!target.components().any(|part| part == std::path::Component::ParentDir));
        }
        let texts = spec.argv.iter().chain(spec.env.keys()).chain(spec.env.values());
        assert!(!texts.into_iter().any(|text| text.contains('\0')));
    });
}

/// What a guest may say on `ambit.control`, whole and in pieces.
#[test]
fn fuzz_machine_news() {
    let seeds: [&[u8]; 9] = [
        b"{\"ev\":\"hello\",\"v\":1}\n{\"ev\":\"ready\",\"controls\":[{\"control\":\"landlock\",\"state\":\"fully\",\"detail\":\"d\"}]}\n",
        b"{\"ev\":\"running\",\"pid\":4}\n{\"ev\":\"ended\",\"code\":0}\n{\"ev\":\"ended\",\"signal\":9}\n",
        b"{\"ev\":\"launch\",\"n\":1,\"fact\":{\"k\":\"process.launch\",\"pid\":7,\"ppid\":1,\"path\":\"/usr/bin/id\",\"digest\":null,\"argv\":[\"id\",\"--token\",\"sk-aaaaaaaaaaaaaaaaaaaa\"],\"cwd\":\"/\",\"truncated\":false}}\n",
        b"{\"ev\":\"exit\",\"fact\":{\"k\":\"process.exit\",\"pid\":7,\"code\":-2147483648}}\n",
        b"{\"ev\":\"launch\",\"n\":18446744073709551615,\"fact\":{\"k\":\"file.hash\",\"path\":\"/\",\"size\":0,\"sha256\":\"\"}}\n",
        b"{\"ev\":\"failed\",\"what\":\"a\\u001b[2J\\u202e\",\"why\":\"b\\n\",\"remedy\":null}\n",
        b"{\"ev\":\"over-limit\",\"limit\":\"processes\"}\n{\"ev\":\"over-limit\",\"limit\":\"\\u0000\"}\n",
        b"{\"ev\":\"ended\",\"code\":1,\"signal\":64}\n{\"ev\":\"ended\",\"signal\":-9}\n",
        b"{\"ev\":\"ready\",\"controls\":[[[[[[[[[[[[[[[[[[",
    ];
    fuzz("machine-news", &seeds, |input| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut guest = Guest::new(ours.into()).unwrap();
        let (mut taken, programs) = (0, BTreeMap::from([("/usr/bin/id".into(), "digest".into())]));
        let lines = input.iter().filter(|byte| **byte == b'\n').count();
        for piece in input.chunks(input.len() / 3 + 1) {
            theirs.write_all(piece).unwrap();
            guest.read().unwrap();
            assert!(guest.held() <= input.len());
            loop {
                match guest.take() {
                    Ok(None) => break,
                    Ok(Some(news)) => heard(news, &programs),
                    Err(failure) => {
                        let said = format!("{} {}", failure.what, failure.why);
                        assert!(said.len() < 4096 && !said.contains(char::is_control), "{said:?}");
                        return;
                    }
                }
                taken += 1;
            }
        }
        assert!(taken <= lines);
    });
}

fn heard(news: News, programs: &BTreeMap<String, String>) {
    let (News::Launch { fact, .. } | News::Exit { fact }) = news else { return };
    let Ok(fact) = as_recorded(fact, programs) else { return };
    let text = serde_json::to_string(&fact).unwrap();
    assert!(text.len() < 1 << 20 && !text.contains("sk-aaaaaaaaaaaaaaaaaaaa"), "{text}");
}

/// What a guest may say on `ambit.io`: nothing comes out that was not in a frame, and nothing piles up.
#[test]
fn fuzz_machine_frames() {
    let seeds: [&[u8]; 6] = [
        b"\x01\x03\0\0\0out\x02\x03\0\0\0err\x01\0\0\0\0\x02\0\0\0\0",
        b"\x01\0\0\x01\0",
        b"\x01\x01\0\x01\0",
        b"\0\x01\0\0\0x",
        b"\x02\xff\xff\xff\xff",
        b"\x02\0\0\0\0\x02\x02\0\0\0no\x01\x03\0\0\0yes",
    ];
    fuzz("machine-frames", &seeds, |input| {
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let done = streams::receive(input, &mut [Some(&mut one), Some(&mut two)]);
        assert!(one.len() + two.len() <= input.len());
        // Cut short anywhere, what came before is the same.
        let half = &input[..input.len() / 2];
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let cut = streams::receive(half, &mut [Some(&mut first), Some(&mut second)]);
        assert!(one.starts_with(&first) && two.starts_with(&second));
        assert!(cut.is_err() || done.is_ok());
    });
}
