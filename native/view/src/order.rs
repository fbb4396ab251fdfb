//! What the supervisor may ask of a view that serves; one JSON object a line.
use serde::Deserialize;

#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Order {
    Stats,
    Stop,
    /// The grant of root `root` shrinks: patterns to hide and to protect from now on.
    Narrow {
        root: usize,
        hide: Vec<String>,
        protect: Vec<String>,
    },
}

/// Longest order, bytes.
const LONGEST: usize = 1 << 20;

impl Order {
    /// None for anything that is not exactly an order.
    pub fn parse(line: &str) -> Option<Self> {
        if line.len() > LONGEST { None } else { serde_json::from_str(line).ok() }
    }
}
