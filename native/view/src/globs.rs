//! `ambit-view globs`, for tests: one JSON object a line, `{"globs", "paths"}`, answered by a list of booleans, or null
//! where a pattern is refused. test/lib/glob-twins.test.ts compares the answers with TypeScript's.
use std::io::BufRead;

use ambit_shared::glob::Globs;
use serde::Deserialize;

#[derive(Deserialize)]
struct Question {
    globs: Vec<String>,
    paths: Vec<String>,
}

pub fn run() -> i32 {
    for line in std::io::stdin().lock().lines() {
        let Ok(question) =
            line.map_err(drop).and_then(|l| serde_json::from_str::<Question>(&l).map_err(drop))
        else {
            return 2;
        };
        let answer: Option<Vec<bool>> = Globs::compile(&question.globs)
            .ok()
            .map(|globs| question.paths.iter().map(|path| globs.matches(path.as_bytes())).collect());
        println!("{}", serde_json::json!(answer));
    }
    0
}
