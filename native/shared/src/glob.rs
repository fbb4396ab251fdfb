//! The one glob language, twin of src/lib/glob.ts; test/fixtures/glob-vectors.json holds both to the same answers.
//!
//! A list is read like a `.gitignore`: the last match wins, `!` re-admits, and what a directory's match says holds for
//! everything beneath it. Patterns are relative to their root; `*` and `?` stay within a segment, `**` is any number
//! of segments, a trailing `/**` is everything beneath and not the directory itself. Names are compared folded
//! (`fold_name`), so that every spelling of a protected name gets one decision (F-12).
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use unicode_normalization::UnicodeNormalization;

/// Longest pattern, bytes.
pub const MAX_PATTERN: usize = 1024;

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadGlob {
    pub pattern: String,
    pub why: &'static str,
}

impl fmt::Display for BadGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad pattern {:?}: {}", self.pattern, self.why)
    }
}
impl std::error::Error for BadGlob {}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Text(String),
    One,
    Many,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// `**`: zero or more segments.
    Deep,
    Literal(String),
    Wild(Vec<Token>),
}

/// One parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    negated: bool,
    segments: Vec<Segment>,
}

/// A compiled list.
#[derive(Debug, Default, Clone)]
pub struct Globs {
    rules: Vec<Glob>,
    /// Rules whose last segment is a name, by that name, folded: what most lists consist of.
    by_name: HashMap<String, Vec<usize>>,
    /// Those whose last segment has wildcards.
    wild: Vec<usize>,
}

/// Parses one pattern.
pub fn parse_glob(pattern: &str) -> Result<Glob, BadGlob> {
    let bad = |why| BadGlob { pattern: pattern.to_owned(), why };
    if pattern.len() > MAX_PATTERN {
        return Err(bad("longer than 1024 bytes"));
    }
    let (negated, body) = match pattern.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let body = body.strip_prefix('/').unwrap_or(body);
    if body.is_empty() {
        return Err(bad("empty"));
    }
    if body.chars().any(|c| c.is_control()) {
        return Err(bad("control characters"));
    }
    let mut segments =
        body.split('/').map(|text| parse_segment(text).map_err(bad)).collect::<Result<Vec<_>, _>>()?;
    segments.dedup_by(|a, b| *a == Segment::Deep && *b == Segment::Deep);
    if segments.last() == Some(&Segment::Deep) {
        segments.insert(segments.len() - 1, Segment::Wild(vec![Token::Many]));
    }
    Ok(Glob { negated, segments })
}

fn parse_segment(text: &str) -> Result<Segment, &'static str> {
    match text {
        "" => return Err("empty segment (write dir/** for what is beneath a directory)"),
        "." | ".." => return Err("`.` and `..` are not names"),
        "**" => return Ok(Segment::Deep),
        _ if text.contains("**") => return Err("`**` must be a whole segment"),
        _ => {}
    }
    let mut tokens = Vec::new();
    let mut literal = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => literal.push(chars.next().ok_or("ends in a backslash")?),
            '[' | ']' | '{' | '}' => {
                return Err("brackets have no meaning here; write \\[ for the character");
            }
            '*' | '?' => {
                if !literal.is_empty() {
                    tokens.push(Token::Text(fold_text(&std::mem::take(&mut literal))));
                }
                tokens.push(if char == '*' { Token::Many } else { Token::One });
            }
            other => literal.push(other),
        }
    }
    if tokens.is_empty() {
        return Ok(Segment::Literal(fold_name(literal.as_bytes()).into_owned()));
    }
    if literal.ends_with(['.', ' ']) {
        return Err("a wildcard segment that ends in a dot or space matches nothing");
    }
    if !literal.is_empty() {
        tokens.push(Token::Text(fold_text(&literal)));
    }
    Ok(Segment::Wild(tokens))
}

/// The form in which names are compared: case-folded, NFC, without trailing dots and spaces and without the
/// characters that HFS+ ignores.
pub fn fold_name(name: &[u8]) -> Cow<'_, str> {
    let trimmed = {
        let mut end = name.len();
        while end > 0 && matches!(name[end - 1], b'.' | b' ') {
            end -= 1;
        }
        if end == 0 { name } else { &name[..end] }
    };
    if trimmed.is_ascii() && !trimmed.iter().any(u8::is_ascii_uppercase) {
        return String::from_utf8_lossy(trimmed);
    }
    Cow::Owned(fold_text(&String::from_utf8_lossy(trimmed)))
}

fn fold_text(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    // Lower, upper, lower: joins what only case-folding joins (long s, final sigma, both sharp s).
    text.chars()
        .filter(|c| !ignorable(*c))
        .nfd()
        .flat_map(char::to_lowercase)
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .nfc()
        .collect()
}

/// What HFS+ drops when it compares names; git refuses the same in `.git`.
fn ignorable(c: char) -> bool {
    matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}')
}

impl Segment {
    fn matches(&self, name: &str) -> bool {
        match self {
            Segment::Deep => true,
            Segment::Literal(literal) => literal == name,
            Segment::Wild(tokens) if tokens.as_slice() == [Token::Many] => true,
            Segment::Wild(tokens) => wild_matches(tokens, name),
        }
    }
}

/// Greedy with one point of return: correct for a pattern whose only unbounded part is `*`. Steps are bytes; each is
/// whole characters.
fn wild_matches(tokens: &[Token], name: &str) -> bool {
    // What a name does not end in is most often what tells that it does not match.
    if let Some(Token::Text(end)) = tokens.last()
        && !name.ends_with(end.as_str())
    {
        return false;
    }
    let first = |at: usize| name[at..].chars().next().map(char::len_utf8);
    let (mut token, mut at) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    loop {
        let step = match tokens.get(token) {
            Some(Token::Many) => {
                back = Some((token, at));
                token += 1;
                continue;
            }
            Some(Token::One) => first(at),
            Some(Token::Text(text)) if name[at..].starts_with(text.as_str()) => Some(text.len()),
            None if at == name.len() => return true,
            _ => None,
        };
        match (step, back.and_then(|(many, from)| Some((many, from + first(from)?)))) {
            (Some(length), _) => {
                token += 1;
                at += length;
            }
            (None, Some((many, from))) => {
                back = Some((many, from));
                token = many + 1;
                at = from;
            }
            _ => return false,
        }
    }
}

impl Glob {
    fn matches(&self, path: &[&str]) -> bool {
        let pattern = &self.segments;
        if let (Some(last), Some(name)) = (pattern.last(), path.last())
            && !last.matches(name)
        {
            return false;
        }
        let (mut p, mut i) = (0, 0);
        let mut back: Option<(usize, usize)> = None;
        while i < path.len() {
            match pattern.get(p) {
                Some(Segment::Deep) => {
                    back = Some((p, i));
                    p += 1;
                }
                Some(segment) if segment.matches(path[i]) => {
                    p += 1;
                    i += 1;
                }
                _ => match back {
                    Some((deep, from)) => {
                        back = Some((deep, from + 1));
                        p = deep + 1;
                        i = from + 1;
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|segment| *segment == Segment::Deep)
    }
}

impl Globs {
    /// Compiles a list.
    pub fn compile<S: AsRef<str>>(list: &[S]) -> Result<Self, BadGlob> {
        Ok(Self::from_rules(
            list.iter().map(|text| parse_glob(text.as_ref())).collect::<Result<Vec<_>, _>>()?,
        ))
    }

    fn from_rules(rules: Vec<Glob>) -> Self {
        let mut globs = Globs { rules, ..Globs::default() };
        for (index, rule) in globs.rules.iter().enumerate() {
            match rule.segments.last() {
                Some(Segment::Literal(name)) => globs.by_name.entry(name.clone()).or_default().push(index),
                _ => globs.wild.push(index),
            }
        }
        globs
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What the list says of this very path, its ancestors not considered. `path` is folded names, at least one.
    pub fn decides(&self, path: &[&str]) -> bool {
        let Some(name) = path.last() else { return false };
        // The last that matches; both lists ascend.
        let last = |rules: &[usize]| rules.iter().rev().copied().find(|at| self.rules[*at].matches(path));
        let named = self.by_name.get(*name).and_then(|rules| last(rules));
        named.max(last(&self.wild)).is_some_and(|at| !self.rules[at].negated)
    }

    /// True when the path or one of its ancestors is matched. `path` is relative, not folded.
    pub fn matches(&self, path: &[u8]) -> bool {
        let names: Vec<Cow<'_, str>> =
            path.split(|b| *b == b'/').filter(|s| !s.is_empty()).map(fold_name).collect();
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        (1..=names.len()).any(|length| self.decides(&names[..length]))
    }

    /// The directories that must exist before a name of this list can: each named prefix of each pattern.
    /// A link, file or fresh directory there would decide what the names beneath mean (F-09, F-10, F-14).
    pub fn parents(&self) -> Globs {
        let mut parents = Vec::new();
        for rule in self.rules.iter().filter(|rule| !rule.negated) {
            for length in 1..rule.segments.len() {
                let prefix = &rule.segments[..length];
                let named = match prefix.last() {
                    Some(Segment::Literal(_)) => true,
                    Some(Segment::Wild(tokens)) => tokens.iter().any(|t| matches!(t, Token::Text(_))),
                    _ => false,
                };
                if named {
                    parents.push(Glob { negated: false, segments: prefix.to_vec() });
                }
            }
        }
        parents.dedup();
        Globs::from_rules(parents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Vectors {
        cases: Vec<Case>,
        invalid: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Case {
        globs: Vec<String>,
        #[serde(default)]
        matches: Vec<String>,
        #[serde(default)]
        misses: Vec<String>,
    }

    #[test]
    fn answers_the_shared_vectors() {
        let text = include_str!("../../../test/fixtures/glob-vectors.json");
        let vectors: Vectors = serde_json::from_str(text).unwrap();
        let mut count = 0;
        for case in &vectors.cases {
            let globs = Globs::compile(&case.globs).unwrap();
            for (paths, want) in [(&case.matches, true), (&case.misses, false)] {
                for path in paths {
                    assert_eq!(globs.matches(path.as_bytes()), want, "{:?} on {path:?}", case.globs);
                    count += 1;
                }
            }
        }
        assert!(count >= 80, "only {count} cases");
        for pattern in &vectors.invalid {
            assert!(parse_glob(pattern).is_err(), "{pattern:?} should be refused");
        }
    }

    #[test]
    fn names_the_parents_of_protected_names() {
        let globs = Globs::compile(&["**/.git/hooks/**", "**/.claude/settings*.json", "**/.bashrc"]).unwrap();
        let parents = globs.parents();
        for path in [".git", "a/.git", ".GIT", ".git/hooks", "x/y/.claude"] {
            assert!(parents.matches(path.as_bytes()), "{path}");
        }
        for path in ["a", "src/git", ".bashrc"] {
            assert!(!parents.matches(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_still_get_a_decision() {
        let globs = Globs::compile(&["**/.env", "secret/**"]).unwrap();
        assert!(globs.matches(b"secret/\xff\xfe"));
        assert!(!globs.matches(b"\xff/.envx"));
        assert!(globs.matches(b"\xff/.env"));
    }
}
