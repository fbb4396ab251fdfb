//! Mutation fuzzing for tests, repeatable by its seed: the twin of fuzz/fuzz.ts. `./dev fuzz NAME` sets how long; what
//! it finds is kept under fuzz/crashes/NAME and tried again ever after.
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// In every test run, where nobody says how long.
const BRIEFLY: Duration = Duration::from_millis(400);
const LONGEST: usize = 1 << 14;
const SPICE: [&[u8]; 14] = [
    b"\0",
    b"\n",
    b"\"",
    b"{",
    b"[",
    b"\x1b",
    b"\x1b[",
    b"\x1b]",
    b"\x07",
    b"\xc2\x9b",
    b"\xff\xff\xff\xff",
    b"\xe2\x80",
    b";?",
    b"999999999999",
];

/// The same for inputs that are made of a number, of which there may be few a second.
const A_WHILE: Duration = Duration::from_secs(1);

/// What `./dev fuzz` asks for, if it does.
fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs one input. What breaks a promise is kept where somebody looks for such.
fn attempt(name: &str, input: &[u8], told: &str, run: impl FnOnce()) {
    if let Err(broken) = catch_unwind(AssertUnwindSafe(run)) {
        eprintln!("{name}: {told}");
        if asked("AMBIT_FUZZ_SECONDS").is_some() {
            keep(name, input);
        }
        resume_unwind(broken);
    }
}

/// Calls `act` with numbers of which it makes what it tries; those of which it broke before come first. It panics when a
/// promise is broken.
pub fn fuzz_by_number(name: &str, mut act: impl FnMut(u64)) {
    let seed = asked("AMBIT_FUZZ_SEED").unwrap_or(0x5eed);
    let mut once = |number: u64| {
        // Before it: it may end the process.
        println!("{name}: AMBIT_FUZZ_SEED={number}");
        attempt(name, &number.to_le_bytes(), &format!("AMBIT_FUZZ_SEED={number}"), || act(number));
    };
    let known = found_before(name).into_iter().filter_map(|found| found.try_into().ok());
    known.map(u64::from_le_bytes).for_each(&mut once);
    let end = Instant::now() + asked("AMBIT_FUZZ_SECONDS").map_or(A_WHILE, Duration::from_secs);
    let mut runs = 0;
    while Instant::now() < end {
        once(seed + runs);
        runs += 1;
    }
    assert!(runs > 3, "{name}: {runs} runs");
}

/// Calls `check` with the seeds, what was found before, then mutations of them. It panics when a promise is broken.
pub fn fuzz(name: &str, seeds: &[&[u8]], check: impl Fn(&[u8])) {
    let time = asked("AMBIT_FUZZ_SECONDS");
    // A brief run is the same run every time: what it finds belongs to the change that is tested.
    let seed = asked("AMBIT_FUZZ_SEED").unwrap_or_else(|| if time.is_some() { now() } else { 7 });
    let mut corpus: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.to_vec()).chain(found_before(name)).collect();
    let mut random = Random(seed | 1);
    let mut runs = 0u64;
    let once = |input: &[u8], runs: u64| {
        attempt(name, input, &format!("seed {seed}, input {runs}: {}", input.escape_ascii()), || {
            check(input)
        });
    };
    corpus.iter().for_each(|input| once(input, 0));
    let end = Instant::now() + time.map_or(BRIEFLY, Duration::from_secs);
    while Instant::now() < end {
        let input = mutate(&corpus, &mut random);
        once(&input, runs);
        runs += 1;
        // A little drift away from the seeds; old inputs stay likely.
        if runs.is_multiple_of(64) && corpus.len() < 4096 {
            corpus.push(input);
        }
    }
    println!("{name}: {runs} inputs, seed {seed}");
}

fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().map_or(8, |since| since.as_nanos() as u64)
}

fn crashes(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/crashes").join(name)
}

fn found_before(name: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(crashes(name)).into_iter().flatten().flatten();
    entries.filter_map(|entry| std::fs::read(entry.path()).ok()).collect()
}

fn keep(name: &str, input: &[u8]) {
    let file = crashes(name).join(format!("{:08x}-{}", crc32fast::hash(input), input.len()));
    let _ = std::fs::create_dir_all(crashes(name));
    let _ = std::fs::write(&file, input);
    eprintln!("kept as {}", file.display());
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit.max(1)
    }
}

fn mutate(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..1 + random.below(6) {
        step(&mut bytes, corpus, random);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn step(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let end = at + random.below((bytes.len() - at).min(32) + 1);
    match random.below(7) {
        0 => drop(bytes.drain(at..end)),
        1 => {
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        2 => bytes.insert(at, random.below(256) as u8),
        3 => drop(bytes.splice(at..end, SPICE[random.below(SPICE.len())].iter().copied())),
        4 => {
            let other = &corpus[random.below(corpus.len())];
            bytes.truncate(at);
            bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
        }
        5 => drop(bytes.splice(at..at, vec![random.below(256) as u8; 1 + random.below(300)])),
        _ if !bytes.is_empty() => {
            let place = random.below(bytes.len());
            bytes[place] ^= 1 << random.below(8);
        }
        _ => {}
    }
}
