//! What the guest and the launcher say to each other before the command starts, by the command's own descriptors:
//! gVisor lets no other through.
use std::io::Write;

use serde::{Deserialize, Serialize};

use crate::control::ControlState;

/// Begins the guest's one line: gVisor's own complaints come out of the same descriptors.
pub const MARK: &str = "AMBIT-GUEST ";
/// Longest line.
pub const MAX_LINE: usize = 64 << 10;
/// The launcher's answer.
pub const GO: &[u8] = b"go\n";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Report {
    Ready {
        /// The command's process, as the guest counts.
        main: i32,
        /// Its /proc/version.
        kernel: String,
        controls: Vec<ControlState>,
    },
    Failed {
        what: String,
        why: String,
    },
}

impl Report {
    pub fn say(&self) {
        let line = format!("{MARK}{}\n", serde_json::to_string(self).unwrap_or_default());
        let _ = crate::relay::user(1).write_all(line.as_bytes());
    }

    /// The report among the lines of `said`, once it is whole; what else stands there is gVisor's.
    pub fn find(said: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(said);
        let whole = &text[..text.rfind('\n')? + 1];
        let line = whole.lines().find_map(|line| line.strip_prefix(MARK))?;
        Some(serde_json::from_str(line).unwrap_or_else(|error| Self::Failed {
            what: "reading the guest's report".into(),
            why: error.to_string(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_report_behind_complaints_and_waits_until_it_is_whole() {
        let line = br#"AMBIT-GUEST {"ready":{"main":2,"kernel":"k","controls":[]}}"#;
        assert!(Report::find(line).is_none());
        let all = [b"W1122 noise\r\n", &line[..], b"\n"].concat();
        assert!(matches!(Report::find(&all), Some(Report::Ready { main: 2, .. })));
        assert!(matches!(Report::find(b"AMBIT-GUEST {}\n"), Some(Report::Failed { .. })));
        assert!(Report::find(b"AMBIT-GUEST").is_none());
    }
}
