//! What an agent may say to the user's terminal: an allowlist of control sequences, as a state machine that may be
//! cut anywhere. Colours, cursor, erasing, scrolling, the alternate screen, mouse and paste modes pass. What writes
//! the clipboard (OSC 52), sets titles or links, makes the terminal answer (DA, DSR, DECRQM, ENQ: the answer would be
//! typed into the next shell), prints, or speaks DCS, APC, PM or SOS does not; neither does what is unknown.
//!
//! ECMA-48 and xterm's ctlseqs.
use std::collections::BTreeMap;

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
const CANCEL: u8 = 0x18;
const SUBSTITUTE: u8 = 0x1a;
/// Longest control sequence that passes.
const LONGEST: usize = 128;

/// Private modes that may be switched: cursor keys, reverse, origin, wrap, blink, cursor, alternate screens, keypad,
/// mouse, focus, bracketed paste, synchronised output.
const MODES: [u32; 22] = [
    1, 5, 6, 7, 12, 25, 47, 66, 1000, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016, 1047, 1048, 1049, 2004,
    2026,
];
/// Setting margins moves the cursor, so that is saved around it.
const DEFAULTS: &str = "\x1b[0m\x1b[4l\x0f\x1b(B\x1b)B\x1b>\x1b7\x1b[r\x1b8\x1b[>4;0m";
/// Of these, what a terminal starts with.
const ON_AT_FIRST: [u32; 3] = [7, 25, 1007];

#[derive(Default)]
enum State {
    #[default]
    Ground,
    Escape,
    /// After `ESC (` and its kin: one more byte names the character set.
    CharacterSet(u8),
    /// After ESC and an intermediate that we do not know.
    Unknown,
    Control(Vec<u8>),
    /// Inside OSC, DCS, SOS, PM, APC or a title: nothing passes until it ends. True when BEL ends it, too.
    Text(bool),
    TextEscape(bool),
    /// Part of a UTF-8 character, and how many bytes it wants.
    Character(Vec<u8>, usize),
}

#[derive(Default)]
pub struct Filter {
    state: State,
    /// Private modes as the agent last set them.
    modes: BTreeMap<u32, bool>,
    /// True once a sequence passed that a terminal may remember.
    drew: bool,
}

impl Filter {
    /// Appends to `out` what of `bytes` may pass.
    pub fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if matches!(self.state, State::Ground) {
                let plain = rest.iter().position(|&byte| !is_plain(byte)).unwrap_or(rest.len());
                out.extend_from_slice(&rest[..plain]);
                rest = &rest[plain..];
            }
            if let Some((&byte, after)) = rest.split_first() {
                self.step(byte, out);
                rest = after;
            }
        }
    }

    /// What puts the terminal back when the agent is gone: the modes that it left changed, colours, insertion,
    /// character sets, keypad, scrolling region and key encoding. What Ambit prints next must be seen as it is.
    pub fn restore(&self) -> Vec<u8> {
        let mut out = String::new();
        for (mode, _) in self.modes.iter().filter(|(mode, on)| **on != ON_AT_FIRST.contains(mode)) {
            out += &format!("\x1b[?{mode}{}", if ON_AT_FIRST.contains(mode) { 'h' } else { 'l' });
        }
        if matches!(self.state, State::Character(..)) {
            out.insert(0, '\u{fffd}');
        }
        if self.drew {
            out += DEFAULTS;
        }
        out.into_bytes()
    }

    fn step(&mut self, byte: u8, out: &mut Vec<u8>) {
        self.state = match std::mem::take(&mut self.state) {
            State::Ground => ground(byte, out),
            State::Escape => self.escape(byte, out),
            State::CharacterSet(_) | State::Unknown | State::Control(_) if byte == ESC => State::Escape,
            State::CharacterSet(set) => {
                if byte.is_ascii_alphanumeric() {
                    self.drew = true;
                    out.extend([ESC, set, byte]);
                }
                State::Ground
            }
            State::Unknown => {
                if (0x20..0x30).contains(&byte) {
                    State::Unknown
                } else {
                    State::Ground
                }
            }
            State::Control(sequence) => self.control(sequence, byte, out),
            State::Text(bell) => text(byte, bell),
            State::TextEscape(bell) => match byte {
                b'\\' => State::Ground,
                ESC => State::TextEscape(bell),
                // The escape ended the string and began another sequence.
                _ => self.escape(byte, out),
            },
            State::Character(part, wanted) => self.character(part, wanted, byte, out),
        };
    }

    fn escape(&mut self, byte: u8, out: &mut Vec<u8>) -> State {
        // The keypad's other mode stays until it is taken back.
        self.drew |= byte == b'=';
        escape(byte, out)
    }

    fn control(&mut self, mut sequence: Vec<u8>, byte: u8, out: &mut Vec<u8>) -> State {
        match byte {
            CANCEL | SUBSTITUTE => State::Ground,
            0x40..=0x7e => {
                if sequence.len() < LONGEST {
                    self.judge(&sequence, byte, out);
                }
                State::Ground
            }
            0x20..=0x3f => {
                if sequence.len() < LONGEST {
                    sequence.push(byte);
                }
                State::Control(sequence)
            }
            // Controls inside a sequence, and what no sequence holds.
            _ => State::Control(sequence),
        }
    }

    fn judge(&mut self, sequence: &[u8], last: u8, out: &mut Vec<u8>) {
        let (prefix, rest) = match sequence.first() {
            Some(&mark @ b'<'..=b'?') => (Some(mark), &sequence[1..]),
            _ => (None, sequence),
        };
        let cut = rest.iter().position(|byte| *byte < 0x30).unwrap_or(rest.len());
        let (parameters, intermediates) = rest.split_at(cut);
        if !parameters.iter().all(|byte| byte.is_ascii_digit() || b";:".contains(byte)) {
            return;
        }
        let passes = match (prefix, intermediates, last) {
            (None, [], b'h' | b'l') => parameters == b"4",
            (None, [], b'T') => !parameters.contains(&b';'),
            (None, [], last) => b"@ABCDEFGHIJKLMPSXZ`abdefgmrsu".contains(&last),
            (None, [b' '], b'q') | (None, [b'!'], b'p') => true,
            (Some(b'?'), [], b'J' | b'K') => true,
            (Some(b'>'), [], b'm') => true,
            (Some(b'?'), [], b'h' | b'l') => return self.switch(parameters, last, out),
            _ => false,
        };
        if passes {
            self.drew = true;
            out.extend([ESC, b'[']);
            out.extend_from_slice(sequence);
            out.push(last);
        }
    }

    fn switch(&mut self, parameters: &[u8], last: u8, out: &mut Vec<u8>) {
        let numbers =
            std::str::from_utf8(parameters).unwrap_or_default().split(';').filter_map(|n| n.parse().ok());
        for mode in numbers.filter(|mode| MODES.contains(mode)) {
            self.modes.insert(mode, last == b'h');
            out.extend(format!("\x1b[?{mode}{}", last as char).bytes());
        }
    }

    fn character(&mut self, mut part: Vec<u8>, wanted: usize, byte: u8, out: &mut Vec<u8>) -> State {
        if !(0x80..0xc0).contains(&byte) {
            out.extend_from_slice(REPLACEMENT);
            self.state = State::Ground;
            if is_plain(byte) {
                out.push(byte);
                return State::Ground;
            }
            return ground(byte, out);
        }
        part.push(byte);
        if part.len() < wanted {
            return State::Character(part, wanted);
        }
        match std::str::from_utf8(&part) {
            Ok(text) if text.chars().all(|c| !('\u{80}'..='\u{9f}').contains(&c)) => {
                out.extend_from_slice(&part)
            }
            Ok(_) => {}
            Err(_) => out.extend_from_slice(REPLACEMENT),
        }
        State::Ground
    }
}

/// Printable ASCII and the controls that only move or ring.
fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e | BEL..=0x0f)
}

/// A byte in the ground state that is not plain.
fn ground(byte: u8, out: &mut Vec<u8>) -> State {
    match byte {
        ESC => State::Escape,
        0xc2..=0xdf => State::Character(vec![byte], 2),
        0xe0..=0xef => State::Character(vec![byte], 3),
        0xf0..=0xf4 => State::Character(vec![byte], 4),
        0xa0.. => {
            out.extend_from_slice(REPLACEMENT);
            State::Ground
        }
        // ENQ asks for an answer; bare C1 bytes are sequences to an 8-bit terminal; the rest says nothing.
        _ => State::Ground,
    }
}

fn escape(byte: u8, out: &mut Vec<u8>) -> State {
    match byte {
        ESC => State::Escape,
        b'[' => State::Control(Vec::new()),
        b']' => State::Text(true),
        b'P' | b'X' | b'^' | b'_' | b'k' => State::Text(false),
        b'(' | b')' | b'*' | b'+' => State::CharacterSet(byte),
        b'7' | b'8' | b'=' | b'>' | b'D' | b'E' | b'H' | b'M' | b'c' => {
            out.extend([ESC, byte]);
            State::Ground
        }
        0x20..=0x2f => State::Unknown,
        _ => State::Ground,
    }
}

fn text(byte: u8, bell: bool) -> State {
    match byte {
        BEL if bell => State::Ground,
        CANCEL | SUBSTITUTE => State::Ground,
        ESC => State::TextEscape(bell),
        _ => State::Text(bell),
    }
}

/// What is no UTF-8 shows as such, as a terminal would show it; what goes out is always whole.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

#[cfg(test)]
mod tests {
    use super::{DEFAULTS, Filter};

    fn pass(input: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Filter::default().pass(input, &mut out);
        out
    }

    fn cut_everywhere(input: &[u8]) -> Vec<u8> {
        let (mut filter, mut out) = (Filter::default(), Vec::new());
        input.iter().for_each(|byte| filter.pass(&[*byte], &mut out));
        out
    }

    #[test]
    fn passes_what_programs_draw_with() {
        let good: [&[u8]; 13] = [
            b"plain text\r\n\ttab\x08\x07",
            "caf\u{e9} \u{2713} \u{1f600}".as_bytes(),
            b"\x1b[31;1mred\x1b[0m\x1b[38;2;1;2;3m\x1b[4:3m",
            b"\x1b[2J\x1b[H\x1b[10;20H\x1b[K\x1b[3A\x1b[5d\x1b[2;20r",
            b"\x1b[?1049h\x1b[?25l\x1b[?2004h\x1b[?1006h\x1b[?1049l",
            b"\x1b(0\x1b(B\x1b7\x1b8\x1bM\x1b=\x1b>",
            b"\x1b[4 q\x1b[!p\x1b[?2026h",
            b"\x1b[1S\x1b[1T\x1b[4h\x1b[4l\x1b[>4;1m",
            b"\x1b[3g\x1bH\x1b[5X\x1b[2P\x1b[2@\x1b[2L\x1b[2M",
            b"\x1b[s\x1b[u\x1b[6b\x1b[2Z\x1b[2I\x1b[1G\x1b[1`",
            b"\x1b[?5h\x1b[?7l\x1b[?1h",
            b"\x1b[?2K\x1b[?0J",
            b"\x1bc",
        ];
        for text in good {
            assert_eq!(pass(text), text, "{text:?}");
            assert_eq!(cut_everywhere(text), text, "{text:?}");
        }
    }

    #[test]
    fn drops_clipboard_titles_links_and_whatever_makes_the_terminal_answer() {
        let bad: [&[u8]; 31] = [
            b"\x1b]52;c;ZXZpbA==\x07",
            b"\x1b]52;c;ZXZpbA==\x1b\\",
            b"\x1b]0;title\x07",
            b"\x1b]2;title\x1b\\",
            b"\x1b]8;;http://evil\x1b\\",
            b"\x1b]11;?\x07",
            b"\x1b]1337;File=x\x07",
            b"\x1bP$q\"p\x1b\\",
            b"\x1bPtmux;\x1b\\",
            b"\x1b_Gi=1;AAAA\x1b\\",
            b"\x1b^pm\x1b\\",
            b"\x1bXsos\x1b\\",
            b"\x1bktitle\x1b\\",
            b"\x1b[c",
            b"\x1b[>c",
            b"\x1b[=c",
            b"\x1b[6n",
            b"\x1b[?6n",
            b"\x1b[?2004$p",
            b"\x1b[21t",
            b"\x1b[8;1;1t",
            b"\x1b[5i",
            b"\x1b[?u",
            b"\x1b[>q",
            b"\x1b[x",
            b"\x1bZ",
            b"\x05",
            b"\x1b G",
            b"\x9b",
            "\u{9b}\u{9d}".as_bytes(),
            b"\x1b[?31337h",
        ];
        for text in bad {
            let mut around = b"<".to_vec();
            around.extend_from_slice(text);
            around.push(b'>');
            assert_eq!(pass(&around), b"<>", "{text:?}");
            assert_eq!(cut_everywhere(&around), b"<>", "{text:?}");
        }
    }

    #[test]
    fn one_sequence_cannot_hide_in_another() {
        assert_eq!(pass(b"\x1b[\x1b]52;c;AA\x07ok"), b"ok");
        assert_eq!(pass(b"\x1b\x1b]52;c;AA\x07ok"), b"ok");
        assert_eq!(pass(b"\x1b]0;a\x1b]52;c;AA\x07ok"), b"ok");
        assert_eq!(pass(b"\xc2\x1b]0;x\x07\x9bc"), "\u{fffd}c".as_bytes());
        assert_eq!(pass(b"caf\xe9 latin-1 \xff"), "caf\u{fffd} latin-1 \u{fffd}".as_bytes());
        assert_eq!(pass(b"\x1b[6\x00n."), b".");
        assert_eq!(pass(b"\x1b[?25;31337;1h"), b"\x1b[?25h\x1b[?1h");
    }

    #[test]
    fn an_endless_string_or_sequence_costs_no_memory() {
        let mut filter = Filter::default();
        let mut out = Vec::new();
        filter.pass(b"\x1b]", &mut out);
        (0..1000).for_each(|_| filter.pass(&[b'a'; 1000], &mut out));
        filter.pass(b"\x07\x1b[", &mut out);
        (0..1000).for_each(|_| filter.pass(&[b'1'; 1000], &mut out));
        filter.pass(b"mend", &mut out);
        assert_eq!(out, b"end");
    }

    /// What came through is harmless by itself: a second filter finds nothing left to drop, wherever the first was cut.
    #[test]
    fn whatever_comes_in_what_goes_out_is_clean() {
        let alphabet =
            b"\x1b\x1b[]PX^_k\\?;:0125hlmncq\x07\x18\x05\xc2\x9b\x9d\xe2\x82\xac\xf0\x9f\x98\x80 ($!a";
        let mut seed = 7u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        for _ in 0..50_000 {
            let input: Vec<u8> = (0..random(24)).map(|_| alphabet[random(alphabet.len())]).collect();
            let once = pass(&input);
            assert_eq!(pass(&once), once, "{input:?}");
            assert_eq!(cut_everywhere(&input), once, "{input:?}");
        }
    }

    #[test]
    fn restores_the_modes_that_were_left_changed() {
        let mut filter = Filter::default();
        filter.pass(b"\x1b[?1049h\x1b[?25l\x1b[?1000h\x1b[?1000l\x1b[?2004h", &mut Vec::new());
        assert_eq!(filter.restore(), b"\x1b[?25h\x1b[?1049l\x1b[?2004l");
        filter.pass(b"\x1b[?25h\x1b[?1049l\x1b[?2004l\x1b[31m", &mut Vec::new());
        assert_eq!(filter.restore(), DEFAULTS.as_bytes());
        assert_eq!(Filter::default().restore(), b"");
    }

    /// A summary printed into a scrolling region, line-drawing characters or insert mode would be the agent's to shape.
    #[test]
    fn restores_what_would_shape_the_text_that_comes_next() {
        for left in ["\x1b[5;6r", "\x1b[4h", "\x1b(0", "\x1b=", "\x1b[8m", "\x1b]x\x1b="] {
            let mut filter = Filter::default();
            filter.pass(left.as_bytes(), &mut Vec::new());
            assert_eq!(filter.restore(), DEFAULTS.as_bytes(), "{left:?}");
        }
        let mut cut = Filter::default();
        cut.pass(b"caf\xc3", &mut Vec::new());
        assert_eq!(cut.restore(), "\u{fffd}".as_bytes());
    }
}
