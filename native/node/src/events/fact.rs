//! The kinds of fact that come by the thousand a second, in the order in which their writers put the fields. Takes
//! nothing that the schema in src/audit/parse-fact.ts would refuse.

use super::json::{Reader, Text};

/// Their names; the place of a kind in this list is its number.
pub const KINDS: [&str; 8] = [
    "http.request",
    "http.response",
    "file.open",
    "file.write",
    "file.create",
    "file.delete",
    "file.attributes",
    "credential.injected",
];

const LABELS: [&str; 4] = ["public", "internal", "confidential", "regulated"];
/// Methods that OCSF has a number for, from 1 (src/audit/ocsf-classes.ts).
pub const METHODS: [&str; 9] =
    ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT", "TRACE", "PATCH"];

pub struct Fact<'a> {
    /// Number in `KINDS`.
    pub kind: usize,
    pub body: Body<'a>,
    /// Wall clock, milliseconds.
    pub t: u64,
    /// Monotonic clock, microseconds.
    pub m: u64,
}

pub enum Body<'a> {
    Request(Request<'a>),
    Response(Response),
    File(File<'a>),
    Credential { name: Text<'a>, host: Text<'a>, request: u64 },
}

pub struct Request<'a> {
    pub flow: u64,
    pub request: u64,
    pub method: &'static str,
    pub host: Text<'a>,
    pub port: u64,
    pub path: Text<'a>,
    pub rule: Text<'a>,
    pub credential: Option<Text<'a>>,
    pub label: &'static str,
    pub bytes: u64,
}

pub struct Response {
    pub flow: u64,
    pub request: u64,
    pub status: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
    pub ms: u64,
    pub scrubbed: u64,
}

pub struct File<'a> {
    pub path: Text<'a>,
    pub what: FileFact<'a>,
}

pub enum FileFact<'a> {
    Open { mode: &'static str, content: Content<'a> },
    Write(Content<'a>),
    Create { kind: &'static str },
    Delete,
    Attributes,
}

pub struct Content<'a> {
    pub size: u64,
    pub sha256: Option<&'a [u8]>,
    pub label: &'static str,
}

impl<'a> Fact<'a> {
    /// The fact in `payload`; none for another kind, another form or another value than the usual.
    pub fn read(payload: &'a [u8]) -> Option<Self> {
        let read = &mut Reader::new(std::str::from_utf8(payload).ok()?);
        read.literal(b"{\"k\":")?;
        let name = read.word(&KINDS)?;
        let kind = KINDS.iter().position(|known| *known == name)?;
        let body = match name {
            "http.request" => Body::Request(request(read)?),
            "http.response" => Body::Response(response(read)?),
            "credential.injected" => credential(read)?,
            _ => Body::File(file(read, name)?),
        };
        read.literal(b",\"t\":")?;
        let t = read.number()?;
        read.literal(b",\"m\":")?;
        let m = read.number()?;
        read.literal(b"}")?;
        read.is_at_end().then_some(Self { kind, body, t, m })
    }
}

/// Passes `,"key":`.
macro_rules! key {
    ($read:ident, $name:literal) => {
        $read.literal(concat!(",\"", $name, "\":").as_bytes())?
    };
}

fn request<'a>(read: &mut Reader<'a>) -> Option<Request<'a>> {
    key!(read, "flow");
    let flow = read.number()?;
    key!(read, "request");
    let request = read.number()?;
    key!(read, "method");
    let method = read.word(&METHODS)?;
    key!(read, "host");
    let host = read.text()?;
    key!(read, "port");
    let port = read.number()?;
    key!(read, "path");
    let path = read.text()?;
    key!(read, "rule");
    let rule = read.text()?;
    key!(read, "credential");
    let credential = read.nullable()?;
    key!(read, "label");
    let label = read.word(&LABELS)?;
    key!(read, "bytes");
    let bytes = read.number()?;
    let usual = port <= 65_535 && !host.is_empty() && !rule.is_empty();
    usual.then_some(Request { flow, request, method, host, port, path, rule, credential, label, bytes })
}

fn response(read: &mut Reader) -> Option<Response> {
    key!(read, "flow");
    let flow = read.number()?;
    key!(read, "request");
    let request = read.number()?;
    key!(read, "status");
    let status = read.number()?;
    key!(read, "bytesOut");
    let bytes_out = read.number()?;
    key!(read, "bytesIn");
    let bytes_in = read.number()?;
    key!(read, "ms");
    let ms = read.number()?;
    key!(read, "scrubbed");
    let scrubbed = read.number()?;
    // Their sum is in the event, and JavaScript would round it.
    let exact = bytes_out + bytes_in < 1 << 53;
    exact.then_some(Response { flow, request, status, bytes_out, bytes_in, ms, scrubbed })
}

fn credential<'a>(read: &mut Reader<'a>) -> Option<Body<'a>> {
    key!(read, "name");
    let name = read.text()?;
    key!(read, "host");
    let host = read.text()?;
    key!(read, "request");
    Some(Body::Credential { name, host, request: read.number()? })
}

fn file<'a>(read: &mut Reader<'a>, kind: &str) -> Option<File<'a>> {
    key!(read, "path");
    let path = read.text()?;
    // Its last part is the file's name.
    if path.is_empty() || path.raw.ends_with(b"/") {
        return None;
    }
    let what = match kind {
        "file.open" => {
            key!(read, "mode");
            FileFact::Open { mode: read.word(&["read", "write"])?, content: content(read)? }
        }
        "file.write" => FileFact::Write(content(read)?),
        "file.create" => {
            key!(read, "type");
            FileFact::Create { kind: read.word(&["file", "dir", "link", "other"])? }
        }
        "file.delete" => FileFact::Delete,
        "file.attributes" => FileFact::Attributes,
        _ => return None,
    };
    Some(File { path, what })
}

fn content<'a>(read: &mut Reader<'a>) -> Option<Content<'a>> {
    key!(read, "size");
    let size = read.number()?;
    key!(read, "sha256");
    let sha256 = read.nullable()?.map(|text| text.raw);
    key!(read, "label");
    let label = read.word(&LABELS)?;
    let digest = |hex: &[u8]| hex.len() == 64 && hex.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    sha256.is_none_or(digest).then_some(Content { size, sha256, label })
}
