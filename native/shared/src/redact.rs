//! Secrets never enter a record: values that follow a telling name, and tokens that are known by their shape.
const MARK: &str = "[redacted]";

/// Parts of option, variable and header names whose value is a secret.
const NAMES: [&str; 15] = [
    "token",
    "password",
    "passwd",
    "passphrase",
    "secret",
    "apikey",
    "api-key",
    "api_key",
    "credential",
    "authorization",
    "bearer",
    "private-key",
    "private_key",
    "access-key",
    "access_key",
];

/// Prefix and least length of what follows.
const SHAPES: [(&str, usize); 18] = [
    ("sk-", 16),
    ("sk_live_", 16),
    ("rk_live_", 16),
    ("ghp_", 20),
    ("gho_", 20),
    ("ghu_", 20),
    ("ghs_", 20),
    ("ghr_", 20),
    ("github_pat_", 20),
    ("glpat-", 16),
    ("AKIA", 12),
    ("ASIA", 12),
    ("xoxb-", 10),
    ("xoxp-", 10),
    ("npm_", 20),
    ("AIza", 30),
    ("hf_", 20),
    ("eyJ", 20),
];

/// Redacts a command line. An option such as `--token` hides the argument after it.
pub fn redact(argv: Vec<String>) -> Vec<String> {
    let mut hide_next = false;
    argv.into_iter()
        .map(|argument| {
            let hidden = std::mem::replace(&mut hide_next, announces_secret(&argument));
            if hidden { MARK.into() } else { redact_argument(&argument) }
        })
        .collect()
}

fn is_telling(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    NAMES.iter().any(|part| name.contains(part))
}

/// `--api-key`, `-password`, without a value of its own.
fn announces_secret(argument: &str) -> bool {
    argument.starts_with('-') && !argument.contains(['=', ' ', ':']) && is_telling(argument)
}

fn redact_argument(argument: &str) -> String {
    if argument.contains("-----BEGIN") && argument.contains("PRIVATE KEY") {
        return MARK.into();
    }
    let argument = redact_named(&redact_options(argument));
    redact_userinfo(&redact_shapes(&argument))
}

/// `--token V` in the middle of a shell's command line.
fn redact_options(argument: &str) -> String {
    let mut hide_next = false;
    let words = argument.split(' ').map(|word| {
        let hidden = std::mem::replace(&mut hide_next, announces_secret(word));
        if hidden && !word.is_empty() { MARK } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// `--token=V`, `TOKEN=V`, `Authorization: V`, `x-api-key: V`, also in the middle of a shell's command line.
fn redact_named(argument: &str) -> String {
    let mut out = String::new();
    let mut rest = argument;
    while let Some(at) = rest.find(['=', ':']) {
        let (before, after) = rest.split_at(at + 1);
        out.push_str(before);
        let name =
            before[..at].rsplit(|c: char| !(c.is_alphanumeric() || "-_.".contains(c))).next().unwrap_or("");
        rest = after;
        if is_telling(name) && !after.starts_with("//") {
            let value = secret_length(before.ends_with(':'), after);
            if value > 0 {
                out.push_str(MARK);
                rest = &after[value..];
            }
        }
    }
    out + rest
}

/// A header's value goes to the end of its quoted string, a variable's to the next blank.
fn secret_length(is_header: bool, after: &str) -> usize {
    let quote = after.chars().next().filter(|c| "'\"".contains(*c));
    if let Some(quote) = quote {
        return after[1..].find(quote).map_or(after.len(), |end| end + 2);
    }
    let ends =
        |c: char| if is_header { "'\"\n".contains(c) } else { c.is_whitespace() || "'\"&;".contains(c) };
    after.find(ends).unwrap_or(after.len())
}

fn redact_shapes(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let mut out = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let start = rest.find(is_part).unwrap_or(rest.len());
        let (gap, from_word) = rest.split_at(start);
        let (word, after) = from_word.split_at(from_word.find(|c| !is_part(c)).unwrap_or(from_word.len()));
        out.push_str(gap);
        out.push_str(if is_key_shaped(word) { MARK } else { word });
        rest = after;
    }
    out
}

fn is_key_shaped(word: &str) -> bool {
    SHAPES.iter().any(|(prefix, length)| word.strip_prefix(prefix).is_some_and(|rest| rest.len() >= *length))
}

/// `https://user:secret@host`.
fn redact_userinfo(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.into() };
    let authority = &rest[..rest.find(['/', '?', '#', ' ', '\'', '"']).unwrap_or(rest.len())];
    match authority.rsplit_once('@') {
        Some((userinfo, _)) => format!("{scheme}://{MARK}{}", redact_userinfo(&rest[userinfo.len()..])),
        None => format!("{scheme}://{}", redact_userinfo(rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::redact;

    fn line(text: &[&str]) -> String {
        redact(text.iter().map(|part| part.to_string()).collect()).join(" ")
    }

    #[test]
    fn hides_the_value_after_a_telling_option() {
        assert_eq!(line(&["x", "--token", "abc", "--other", "abc"]), "x --token [redacted] --other abc");
        assert_eq!(line(&["x", "--password=abc", "y"]), "x --password=[redacted] y");
        assert_eq!(line(&["env", "MY_SECRET=abc", "PLAIN=abc"]), "env MY_SECRET=[redacted] PLAIN=abc");
    }

    #[test]
    fn hides_headers_and_shell_lines() {
        assert_eq!(line(&["curl", "-H", "Authorization: Bearer abc"]), "curl -H Authorization:[redacted]");
        assert_eq!(
            line(&["sh", "-c", "curl -H 'x-api-key: abc' https://a.example/b"]),
            "sh -c curl -H 'x-api-key:[redacted]' https://a.example/b"
        );
        assert_eq!(line(&["sh", "-c", "x --token abc; y"]), "sh -c x --token [redacted] y");
        assert_eq!(line(&["sh", "-c", "API_KEY='a b' run it"]), "sh -c API_KEY=[redacted] run it");
    }

    #[test]
    fn hides_keys_by_their_shape() {
        // Built here, so that no scanner takes this file for a leak.
        for (prefix, length) in super::SHAPES {
            let key = format!("{prefix}{}", "a1".repeat(length));
            assert_eq!(line(&["echo", &format!("x,{key};y")]), "echo x,[redacted];y");
        }
        assert_eq!(
            line(&["ls", "sk-short", "skeleton-key-of-great-length"]),
            "ls sk-short skeleton-key-of-great-length"
        );
    }

    #[test]
    fn hides_the_user_part_of_an_address() {
        assert_eq!(
            line(&["git", "clone", "https://me:pw@h.example/x"]),
            "git clone https://[redacted]@h.example/x"
        );
        assert_eq!(line(&["git", "clone", "https://h.example/@x"]), "git clone https://h.example/@x");
    }
}
