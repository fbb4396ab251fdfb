//! Answers as servers nearly always send small ones: whole in one piece, a head without surprises and a body of
//! declared length. Whatever is any other way is not read here: src/gate/link.ts and its llhttp have it, untouched.

use httparse::{EMPTY_HEADER, Response, Status};

/// What the clients of src/gate may be told: names that stay between us and the server, in lower case, and the words
/// for a status, by its number.
pub struct Rules {
    pub dropped: Vec<String>,
    pub titles: Vec<String>,
}

/// What an answer was, as src/gate counts it.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    pub status: u16,
    /// Bytes of all fields that came, as `name: value` lines.
    pub head: usize,
    pub body: usize,
}

/// Servers that send more are read by llhttp.
const MOST_FIELDS: usize = 64;
/// The digits that src/gate takes for a length.
const MOST_DIGITS: usize = 15;
/// What tells of another framing, another protocol or the end of the connection.
const UNUSUAL: [&str; 5] = ["transfer-encoding", "connection", "proxy-connection", "upgrade", "trailer"];
const KEPT: &[u8] = b"Connection: keep-alive\r\nKeep-Alive: timeout=60\r\n\r\n";

impl Rules {
    /// Writes what the client gets instead of `bytes`, which must be one answer and nothing more. None: it is not a
    /// usual one, and `out` is of no use.
    pub fn rewrite(&self, bytes: &[u8], out: &mut Vec<u8>) -> Option<Told> {
        let mut fields = [EMPTY_HEADER; MOST_FIELDS];
        let mut answer = Response::new(&mut fields);
        let Ok(Status::Complete(end)) = answer.parse(bytes) else { return None };
        let (head, body) = bytes.split_at_checked(end)?;
        let status = answer.code.filter(|code| (200..600).contains(code) && ![204, 304].contains(code))?;
        // One line each, ended as it should be: nothing folded, skipped or ended by half.
        let lines = head.iter().filter(|&&byte| byte == b'\n').count();
        if answer.version != Some(1) || lines != answer.headers.len() + 2 || !ends_well(head) {
            return None;
        }
        let title = self.titles.get(usize::from(status)).filter(|title| !title.is_empty())?;
        out.clear();
        out.extend_from_slice(format!("HTTP/1.1 {status} {title}\r\n").as_bytes());
        let (mut length, mut size) = (None, 0);
        for field in &*answer.headers {
            size += field.name.len() + field.value.len() + 4;
            if is_any(&UNUSUAL, field.name) {
                return None;
            }
            if field.name.eq_ignore_ascii_case("content-length")
                && length.replace(length_of(field.value)?).is_some()
            {
                return None;
            }
            if !is_any(&self.dropped, field.name) {
                for part in [field.name.as_bytes(), b": ", field.value, b"\r\n"] {
                    out.extend_from_slice(part);
                }
            }
        }
        if length? != body.len() {
            return None;
        }
        out.extend_from_slice(KEPT);
        out.extend_from_slice(body);
        Some(Told { status, head: size, body: body.len() })
    }
}

/// No end of a line but CR LF, and no CR elsewhere.
fn ends_well(head: &[u8]) -> bool {
    let pairs = head.windows(2).filter(|pair| *pair == b"\r\n").count();
    let single = |end| head.iter().filter(|&&byte| byte == end).count();
    pairs == single(b'\n') && pairs == single(b'\r')
}

fn is_any(names: &[impl AsRef<str>], name: &str) -> bool {
    names.iter().any(|one| one.as_ref().eq_ignore_ascii_case(name))
}

fn length_of(value: &[u8]) -> Option<usize> {
    let digits = (1..=MOST_DIGITS).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}
