//! What a Sentry may send, which is the agent's where it has broken it.
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;

use ambit_shared::fuzz::fuzz;

use super::tests::{DONE, exec, follower, message, raw};
use super::{Launches, START_CALL, kind};
use crate::gvisor::proto::Fields;

/// Messages one after the other, each behind its length.
fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    messages.iter().flat_map(|told| [&(told.len() as u16).to_le_bytes()[..], told].concat()).collect()
}

fn messages(mut input: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk() {
        let (told, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        all.push(told);
        input = rest;
    }
    all
}

/// The texts of a piece of a journal that must be whole.
fn records(journal: &[u8]) -> Vec<&str> {
    let (mut rest, mut all) = (journal, Vec::new());
    while let Some((length, behind)) = rest.split_first_chunk() {
        let end = 4 + u32::from_le_bytes(*length) as usize;
        all.push(std::str::from_utf8(&behind[4..end]).expect("text"));
        rest = &behind[end..];
    }
    all
}

#[test]
fn fuzz_guest_trace() {
    let exit = |pid: u8| message(kind::EXIT, &[0x0a, 2, 4 << 3, pid, 2 << 3, 9]);
    let clone = message(kind::CLONE, &[0x0a, 2, 4 << 3, 5, 3 << 3, 6, 4 << 3, 6]);
    let told = [
        exec(5, "/usr/bin/id", &["id", "--token", "sk-aaaaaaaaaaaaaaaaaaaa"]),
        clone,
        raw(6, 6, libc::SYS_execve, None),
        raw(6, 6, libc::SYS_execve, DONE),
        raw(6, 6, START_CALL, None),
        exit(6),
        exit(5),
    ];
    let seed = framed(&told);
    let (follower, path) = follower();
    let (follower, journal) = (RefCell::new(follower), File::open(&path).unwrap());
    let _ = std::fs::remove_file(&path);
    let run = |input: &[u8]| {
        // One for all inputs, without what it knows: making one costs more than a hundred of them.
        let mut follower = follower.borrow_mut();
        follower.parents.clear();
        follower.launched.clear();
        follower.launches = Launches::default();
        let from = journal.metadata().unwrap().len();
        let all = messages(input);
        let taken = all.iter().map(|told| follower.note(told)).take_while(Result::is_ok).count();
        let left = follower.launched.len();
        let _ = follower.rest();
        let mut written = vec![0; (journal.metadata().unwrap().len() - from) as usize];
        journal.read_exact_at(&mut written, from).unwrap();
        (all.len(), taken, left, written)
    };
    let (_, taken, left, journal) = run(&seed);
    assert_eq!((taken, left, records(&journal).len()), (7, 0, 4), "the seed is a trace");
    fuzz("guest-trace", &[&seed], |input| {
        let (told, taken, left, journal) = run(input);
        let records = records(&journal);
        assert!(taken <= told && records.len() <= told + left, "one message, one record at most");
        for record in records {
            let fact: serde_json::Value = serde_json::from_str(record).expect("a fact");
            assert!(fact["pid"].as_i64().is_some_and(|pid| pid > 0), "{record}");
            assert!(record.len() < 1 << 20);
        }
        assert!(Fields(input).count() <= input.len());
    });
}
