//! What the guest says of its processes, as it goes on record: its word, in no other form than the sensor's own would
//! have. A record that nobody can read would stand in the log as tampering.
use std::collections::BTreeMap;

use ambit_shared::redact::redact;

use crate::failure::Result;
use crate::sensor::Fact;

/// Redacted here, too; the digest is the image's, which its kernel checks.
pub fn as_recorded(fact: Fact, programs: &BTreeMap<String, String>) -> Result<Fact> {
    let fact = fact.as_told("hearing the guest")?;
    Ok(match fact {
        Fact::Launch { argv, pid, ppid, path, cwd, truncated, .. } => {
            let digest = programs.get(&path).cloned();
            Fact::Launch { digest, argv: redact(argv), pid, ppid, path, cwd, truncated }
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::{LONGEST_ARGUMENT, LONGEST_PATH, MOST_ARGUMENTS};

    fn launch(pid: i32, path: &str, argv: &[&str]) -> Result<Fact> {
        let argv = argv.iter().map(|argument| argument.to_string()).collect();
        let (path, cwd, digest) = (path.to_string(), "/".to_string(), Some("its own".to_string()));
        let fact = Fact::Launch { pid, ppid: 1, path, digest, argv, cwd, truncated: false };
        as_recorded(fact, &BTreeMap::from([("/usr/bin/id".into(), "the image's".into())]))
    }

    #[test]
    fn digests_are_the_images_and_secrets_are_redacted() {
        let Ok(Fact::Launch { digest, argv, .. }) = launch(5, "/usr/bin/id", &["id", "--token", "abc"])
        else {
            panic!("it is refused")
        };
        assert_eq!((digest.as_deref(), &argv[2][..]), (Some("the image's"), "[redacted]"));
        assert!(matches!(launch(5, "/x", &[]), Ok(Fact::Launch { digest: None, .. })));
    }

    #[test]
    fn what_no_sensor_tells_is_refused() {
        let long = "x".repeat(LONGEST_PATH + 1);
        for refused in [launch(0, "/x", &[]), launch(-1, "/x", &[]), launch(5, &long, &[])] {
            assert!(refused.is_err());
        }
        assert!(launch(5, "/x", &vec!["a"; MOST_ARGUMENTS + 1]).is_err());
        assert!(launch(5, "/x", &[&long[..LONGEST_ARGUMENT + 1]]).is_err());
        let none = BTreeMap::new();
        assert!(as_recorded(Fact::Exit { pid: 0, code: Some(1) }, &none).is_err());
        assert!(as_recorded(Fact::Exit { pid: 1, code: None }, &none).is_ok());
        let hash = Fact::Hash { path: "/x".into(), size: 1, sha256: String::new() };
        assert!(as_recorded(hash, &none).is_err());
    }
}
