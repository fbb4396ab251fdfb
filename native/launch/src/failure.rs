//! One way to fail: what was attempted, why it failed, what a person can do. Becomes the protocol's `failed` event.
use std::fmt;
use std::io;

#[derive(Debug, Clone)]
pub struct Failure {
    pub what: String,
    pub why: String,
    pub remedy: Option<String>,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(what: &str, why: impl fmt::Display) -> Self {
        Self { what: what.into(), why: why.to_string(), remedy: None }
    }

    pub fn remedy(mut self, remedy: &str) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)?;
        self.remedy.as_ref().map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

/// Says what an I/O call was for.
pub trait Context<T> {
    fn context(self, what: &str) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: &str) -> Result<T> {
        self.map_err(|error| Failure::new(what, error))
    }
}
