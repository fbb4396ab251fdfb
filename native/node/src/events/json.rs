//! Reads JSON exactly as our writers leave it (`JSON.stringify`, serde_json): one line, no spaces, each character in
//! its only form. Such a text is its own encoding, so that it passes into an event as it lies.

/// The largest whole number that JavaScript tells from its neighbours.
const MAX_SAFE: u64 = (1 << 53) - 1;

/// A place in one line of JSON that is known to be UTF-8.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(line: &'a str) -> Self {
        Self { rest: line.as_bytes() }
    }

    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Passes exactly `bytes`.
    pub fn literal(&mut self, bytes: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(bytes)?;
        Some(())
    }

    /// Passes one of `words`, a string without escapes.
    pub fn word<'w>(&mut self, words: &[&'w str]) -> Option<&'w str> {
        let Text { raw, .. } = self.text()?;
        words.iter().copied().find(|word| word.as_bytes() == raw)
    }

    /// Passes a whole number that JavaScript holds exactly.
    pub fn number(&mut self) -> Option<u64> {
        let count = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.rest.split_at_checked(count)?;
        if matches!(digits, [] | [b'0', _, ..]) || count > 16 {
            return None;
        }
        let value = digits.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
        self.rest = rest;
        (value <= MAX_SAFE).then_some(value)
    }

    /// Passes a string.
    pub fn text(&mut self) -> Option<Text<'a>> {
        self.literal(b"\"")?;
        let (mut at, mut units) = (0, 0);
        loop {
            let rest = self.rest.get(at..)?;
            if rest.first() == Some(&b'"') {
                break;
            }
            let (length, wide) = character(rest)?;
            at += length;
            units += wide;
        }
        let (raw, rest) = self.rest.split_at_checked(at)?;
        self.rest = rest.get(1..)?;
        Some(Text { raw, units })
    }

    /// Passes a string, or `null`.
    pub fn nullable(&mut self) -> Option<Option<Text<'a>>> {
        if self.literal(b"null").is_some() { Some(None) } else { self.text().map(Some) }
    }
}

/// A string of JSON without its quotes.
#[derive(Clone, Copy)]
pub struct Text<'a> {
    pub raw: &'a [u8],
    /// Its length as JavaScript counts, in UTF-16 units.
    pub units: usize,
}

impl<'a> Text<'a> {
    /// Text of ours: plain ASCII.
    pub const fn plain(text: &'static str) -> Text<'static> {
        Text { raw: text.as_bytes(), units: text.len() }
    }

    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// Before and behind the first `mark`, which is ASCII and never escaped.
    pub fn split_once(&self, mark: u8) -> Option<(&'a [u8], &'a [u8])> {
        let at = self.raw.iter().position(|byte| *byte == mark)?;
        Some((self.raw.get(..at)?, self.raw.get(at + 1..)?))
    }

    /// Its first `units`; none where that is between the halves of a character.
    pub fn start(&self, units: usize) -> Option<&'a [u8]> {
        let (mut at, mut seen) = (0, 0);
        while seen < units {
            let (length, wide) = character(self.raw.get(at..)?)?;
            at += length;
            seen += wide;
        }
        if seen == units { self.raw.get(..at) } else { None }
    }
}

/// Bytes and UTF-16 units of the first character; none for a form that our writers do not use.
fn character(rest: &[u8]) -> Option<(usize, usize)> {
    match rest.first()? {
        b'\\' => Some((escape(rest)?, 1)),
        0x00..0x20 | b'"' => None,
        0x20..0x80 => Some((1, 1)),
        0x80..0xe0 => Some((2, 1)),
        0xe0..0xf0 => Some((3, 1)),
        0xf0.. => Some((4, 2)),
    }
}

/// Length of an escape: the short form where there is one, lower-case hex for the other control characters.
fn escape(rest: &[u8]) -> Option<usize> {
    match rest {
        [_, b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't', ..] => Some(2),
        [_, b'u', b'0', b'0', b'0', b'0'..=b'7' | b'b' | b'e' | b'f', ..] => Some(6),
        [_, b'u', b'0', b'0', b'1', b'0'..=b'9' | b'a'..=b'f', ..] => Some(6),
        _ => None,
    }
}
