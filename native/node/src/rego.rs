//! Rego in-process: regorus with the built-ins that neither reach out nor depend on the moment.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use napi::Result;
use napi_derive::napi;
use regorus::unstable::{Rule, RuleHead};
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};

use crate::failed;

/// The parser tries `[` and `{` as comprehension and as literal at each level: the time doubles with every one
/// (16 cost 0.3 s, 20 five seconds). Real modules have four or five.
const MAX_NESTING: usize = 12;

/// A decision that takes longer than this is no decision; the caller then denies.
const TIME_LIMIT: Duration = Duration::from_secs(2);

#[napi]
pub struct RegoEngine {
    engine: Engine,
    /// Parts of the input that stay the same, parsed once.
    kept: Vec<(Value, Value)>,
}

#[napi]
impl RegoEngine {
    #[napi(constructor)]
    #[allow(clippy::new_without_default)] // napi wants a constructor, nothing else makes one
    pub fn new() -> Self {
        let mut engine = Engine::new();
        // OPA would make a failing built-in undefined, and `not f(x)` true with it. Here it is an error: denied.
        engine.set_strict_builtin_errors(true);
        let check_interval = NonZeroU32::MIN.saturating_add(255);
        engine.set_execution_timer_config(ExecutionTimerConfig { limit: TIME_LIMIT, check_interval });
        Self { engine, kept: Vec::new() }
    }

    /// Throws with file, line and column when the module does not parse.
    #[napi]
    pub fn add_policy(&mut self, path: String, text: String) -> Result<()> {
        if let Some(line) = nested_too_deeply(&text) {
            return Err(failed(
                "rego",
                format!("--> {path}:{line}:1\nerror: brackets nested more than {MAX_NESTING} deep"),
            ));
        }
        self.engine.add_policy(path, text).map(drop).map_err(wrong)
    }

    /// Merged into `data`; a value that contradicts an earlier one is an error.
    #[napi]
    pub fn add_data_json(&mut self, json: String) -> Result<()> {
        self.engine.add_data_json(&json).map_err(wrong)
    }

    /// From now on `key` of every input, which must be an object, has this value.
    #[napi]
    pub fn keep_input(&mut self, key: String, json: String) -> Result<()> {
        self.kept.push((Value::from(key), Value::from_json_str(&json).map_err(wrong)?));
        Ok(())
    }

    /// The rule's value as JSON; null when undefined. Throws when there is no such rule or evaluation fails.
    #[napi]
    pub fn eval_rule(&mut self, rule: String, input_json: String) -> Result<Option<String>> {
        let mut input = Value::from_json_str(&input_json).map_err(wrong)?;
        for (key, value) in &self.kept {
            input.as_object_mut().map_err(wrong)?.insert(key.clone(), value.clone());
        }
        self.engine.set_input(input);
        match self.engine.eval_rule(rule).map_err(wrong)? {
            Value::Undefined => Ok(None),
            value => value.to_json_str().map(Some).map_err(wrong),
        }
    }

    /// Every rule that the loaded modules declare, e.g. `data.ambit.admission.decision`; sorted, each once.
    #[napi]
    pub fn rules(&mut self) -> Vec<String> {
        let mut names = BTreeSet::new();
        for module in self.engine.get_modules() {
            let package = module.package.refr.span().text().to_owned();
            for rule in &module.policy {
                names.insert(format!("data.{package}.{}", head_of(rule)));
            }
        }
        names.into_iter().collect()
    }
}

/// The line, from 1, where `[` and `{` first nest too deeply outside of strings and comments.
fn nested_too_deeply(text: &str) -> Option<usize> {
    let (mut line, mut depth) = (1, 0usize);
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\n' => line += 1,
            '#' => line += usize::from(chars.by_ref().any(|c| c == '\n')),
            '`' => line += chars.by_ref().take_while(|c| *c != '`').filter(|c| *c == '\n').count(),
            '"' => skip_string(&mut chars),
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_NESTING {
            return Some(line);
        }
    }
    None
}

/// The rest of a `"…"` string, which has no line breaks.
fn skip_string(chars: &mut std::str::Chars) {
    while let Some(char) = chars.next() {
        match char {
            '"' | '\n' => return,
            '\\' => {
                chars.next();
            }
            _ => {}
        }
    }
}

fn head_of(rule: &Rule) -> String {
    let refr = match rule {
        Rule::Default { refr, .. } => refr,
        Rule::Spec { head, .. } => match head {
            RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. } => refr,
        },
    };
    refr.span().text().to_owned()
}

fn wrong(error: impl std::fmt::Display) -> napi::Error {
    failed("rego", error)
}
