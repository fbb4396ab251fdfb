//! What a fact is in OCSF's words: those of src/audit/ocsf-classes.ts, in the same order.

use napi_derive::napi;

use super::fact::{Body, Content, Fact, File, FileFact, KINDS, METHODS, Request, Response};
use super::json::Text;

/// Longest message, in UTF-16 units.
const MESSAGE: usize = 300;

/// The parts of an event that are the same for all facts of a journal; where each stands, `write` shows.
#[napi(object)]
pub struct Frame {
    pub party: String,
    pub origin: String,
    pub session: String,
    pub journal: String,
    pub profile: String,
}

/// Writes into the room that there is and counts what it would have taken.
pub struct Room<'a> {
    pub bytes: &'a mut [u8],
    pub at: usize,
}

impl Room<'_> {
    pub fn put(&mut self, part: impl AsRef<[u8]>) -> &mut Self {
        let part = part.as_ref();
        let end = self.at + part.len();
        if let Some(place) = self.bytes.get_mut(self.at..end) {
            place.copy_from_slice(part);
        }
        self.at = end;
        self
    }

    pub fn number(&mut self, value: u64) -> &mut Self {
        let (mut digits, mut first, mut rest) = ([b'0'; 20], 20, value);
        for digit in digits.iter_mut().rev() {
            *digit += (rest % 10) as u8;
            first -= 1;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.put(digits.get(first..).unwrap_or_default())
    }

    /// The message, cut as JavaScript cuts it; none where it cuts a character in two.
    fn message(&mut self, parts: &[Text]) -> Option<()> {
        let mut left = MESSAGE;
        for part in parts {
            self.put(if part.units <= left { part.raw } else { part.start(left)? });
            left -= part.units.min(left);
        }
        Some(())
    }
}

/// The event of `fact`, which lies at `offset` and will be entry `index`; none where it is not the usual one.
pub fn write(room: &mut Room, fact: &Fact, frame: &Frame, offset: u64, index: u64) -> Option<()> {
    let Frame { party, origin, session, journal, profile } = frame;
    match &fact.body {
        Body::Request(request) => write_request(room, request, fact.t)?,
        Body::Response(response) => write_response(room, response, fact.t),
        Body::File(file) => write_file(room, file, fact.t)?,
        Body::Credential { name, host, .. } => write_credential(room, *name, *host, fact.t)?,
    }
    room.put(party);
    if let Body::Request(request) = &fact.body {
        room.put("\"firewall_rule\":{\"uid\":\"").put(request.rule.raw).put("\"},");
    }
    room.put(origin).number(offset).put("\",\"sequence\":").number(index);
    room.put(session).put(KINDS.get(fact.kind)?).put(journal).number(offset);
    room.put(",\"monotonic\":").number(fact.m).put(profile);
    room.put(if matches!(fact.body, Body::Response(_)) { "null" } else { "\"allow\"" });
    own_words(room, &fact.body);
    room.put("}}");
    Some(())
}

fn write_request(room: &mut Room, request: &Request, t: u64) -> Option<()> {
    let Request { host, port, path, .. } = request;
    let activity = METHODS.iter().position(|method| *method == request.method)? as u64 + 1;
    room.put("{\"class_uid\":4002,\"category_uid\":4,\"activity_id\":").number(activity);
    room.put(",\"type_uid\":").number(400_200 + activity);
    room.put(",\"severity_id\":1,\"time\":").number(t).put(",\"message\":\"");
    room.message(&[Text::plain(request.method), Text::plain(" "), *host, *path])?;
    room.put("\",\"action_id\":1,\"disposition_id\":1,\"http_request\":{\"http_method\":\"");
    room.put(request.method).put("\",\"url\":{\"hostname\":\"").put(host.raw);
    room.put("\",\"port\":").number(*port).put(",\"path\":\"");
    match path.split_once(b'?') {
        Some((path, query)) => room.put(path).put("\",\"query_string\":\"").put(query),
        None => room.put(path.raw),
    };
    room.put("\"},\"uid\":\"").number(request.flow).put("/").number(request.request);
    room.put("\"},\"dst_endpoint\":{\"hostname\":\"").put(host.raw).put("\",\"port\":").number(*port);
    room.put("},\"src_endpoint\":{\"name\":\"session\"},\"traffic\":{\"bytes_out\":").number(request.bytes);
    room.put("}");
    Some(())
}

fn write_response(room: &mut Room, response: &Response, t: u64) {
    let Response { flow, request, status, bytes_out, bytes_in, ms, .. } = *response;
    room.put(
        "{\"class_uid\":4002,\"category_uid\":4,\"activity_id\":99,\"type_uid\":400299,\"severity_id\":1",
    );
    room.put(",\"time\":").number(t).put(",\"message\":\"HTTP ").number(status).put(", ");
    room.number(bytes_out).put(" bytes out, ").number(bytes_in).put(" in\",\"action_id\":0");
    room.put(",\"disposition_id\":17,\"activity_name\":\"Response\",\"http_request\":{\"uid\":\"");
    room.number(flow).put("/").number(request).put("\"},\"http_response\":{\"code\":").number(status);
    room.put(",\"latency\":")
        .number(ms)
        .put("},\"src_endpoint\":{\"name\":\"session\"},\"traffic\":{\"bytes_out\":");
    room.number(bytes_out).put(",\"bytes_in\":").number(bytes_in);
    room.put(",\"bytes\":").number(bytes_out + bytes_in).put("},\"duration\":").number(ms);
}

fn write_file(room: &mut Room, File { path, what }: &File, t: u64) -> Option<()> {
    let (activity, before, behind) = match what {
        FileFact::Open { mode: "read", .. } => (14, "open ", " for reading"),
        FileFact::Open { .. } => (14, "open ", " for writing"),
        FileFact::Write(_) => (3, "write ", ""),
        FileFact::Create { .. } => (1, "create ", ""),
        FileFact::Delete => (4, "delete ", ""),
        FileFact::Attributes => (6, "change attributes of ", ""),
    };
    let name = path.raw.rsplit(|byte| *byte == b'/').next()?;
    room.put("{\"class_uid\":1001,\"category_uid\":1,\"activity_id\":").number(activity);
    room.put(",\"type_uid\":").number(100_100 + activity);
    room.put(",\"severity_id\":1,\"time\":").number(t).put(",\"message\":\"");
    room.message(&[Text::plain(before), *path, Text::plain(behind)])?;
    room.put("\",\"action_id\":1,\"disposition_id\":1,\"file\":{\"name\":\"").put(name);
    room.put("\",\"path\":\"").put(path.raw).put("\",\"type_id\":");
    room.number(match what {
        FileFact::Create { kind: "dir" } => 2,
        FileFact::Create { kind: "link" } => 7,
        FileFact::Create { kind: "other" } => 99,
        _ => 1,
    });
    if let FileFact::Open { content, .. } | FileFact::Write(content) = what {
        room.put(",\"size\":").number(content.size);
        if let Some(sha256) = content.sha256 {
            room.put(",\"hashes\":[{\"algorithm_id\":3,\"value\":\"").put(sha256).put("\"}]");
        }
    }
    room.put("}");
    Some(())
}

fn write_credential(room: &mut Room, name: Text, host: Text, t: u64) -> Option<()> {
    room.put(
        "{\"class_uid\":6003,\"category_uid\":6,\"activity_id\":99,\"type_uid\":600399,\"severity_id\":1",
    );
    room.put(",\"time\":").number(t).put(",\"message\":\"");
    room.message(&[Text::plain("credential "), name, Text::plain(" used for "), host])?;
    room.put("\",\"action_id\":1,\"disposition_id\":1,\"activity_name\":\"Decide\"");
    room.put(",\"api\":{\"operation\":\"credential.inject\",\"service\":{\"name\":\"ambit\"}}");
    room.put(",\"src_endpoint\":{\"name\":\"session\"},\"resources\":[{\"name\":\"").put(name.raw);
    room.put("\",\"type\":\"credential\"}]");
    Some(())
}

/// What OCSF has no word for, behind the decision.
fn own_words(room: &mut Room, body: &Body) {
    match body {
        Body::Request(Request { flow, request, rule, credential, label, .. }) => {
            room.put(",\"flow\":").number(*flow).put(",\"request\":").number(*request);
            room.put(",\"rule\":\"").put(rule.raw).put("\",\"credential\":");
            match credential {
                Some(name) => room.put("\"").put(name.raw).put("\""),
                None => room.put("null"),
            };
            room.put(",\"label\":\"").put(label).put("\"");
        }
        Body::Response(Response { flow, request, scrubbed, .. }) => {
            room.put(",\"flow\":").number(*flow).put(",\"request\":").number(*request);
            room.put(",\"scrubbed\":").number(*scrubbed);
        }
        Body::Credential { name, host, request } => {
            room.put(",\"credential\":\"").put(name.raw).put("\",\"host\":\"").put(host.raw);
            room.put("\",\"request\":").number(*request);
        }
        Body::File(File { what, .. }) => {
            match what {
                FileFact::Open { mode, content: Content { label, .. } } => {
                    room.put(",\"mode\":\"").put(mode).put("\",\"label\":\"").put(label).put("\"")
                }
                FileFact::Write(Content { label, .. }) => room.put(",\"label\":\"").put(label).put("\""),
                FileFact::Create { kind } => room.put(",\"type\":\"").put(kind).put("\""),
                FileFact::Delete | FileFact::Attributes => room,
            };
        }
    }
}
