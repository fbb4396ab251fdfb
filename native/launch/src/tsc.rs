//! `ambit-launch tsc`: how fast this host's time stamp counter runs, in kHz. A guest without KVM reads the same
//! counter, and the microvm machine has nothing else to measure it by (`tsc_early_khz` on its command line).
use std::time::{Duration, Instant};

const MEASURED: Duration = Duration::from_millis(10);
const STALE: Duration = Duration::from_secs(1);
/// A pair of readings between which the process was not running is off: the tightest of some is taken.
const READINGS: usize = 5;

pub fn run() -> i32 {
    let Some(found) = kilohertz() else {
        eprintln!("ambit-launch: no such counter here");
        return 1;
    };
    println!("{found}");
    0
}

pub fn kilohertz() -> Option<u128> {
    Counting::begin()?.finish()
}

/// A first reading. What is done until the second is asked for need not be waited for.
pub struct Counting {
    ticks: u64,
    time: Instant,
}

impl Counting {
    pub fn begin() -> Option<Self> {
        let (ticks, time) = reading()?;
        Some(Self { ticks, time })
    }

    /// In a long time the machine may have slept, with or without its counter: it counts anew.
    pub fn finish(self) -> Option<u128> {
        let begun = if self.time.elapsed() < STALE { self } else { Self::begin()? };
        std::thread::sleep(MEASURED.saturating_sub(begun.time.elapsed()));
        let (ticks, time) = reading()?;
        let microseconds = time.duration_since(begun.time).as_nanos() / 1000;
        Some(u128::from(ticks.checked_sub(begun.ticks)?) * 1000 / microseconds.max(1))
    }
}

#[cfg(target_arch = "x86_64")]
fn reading() -> Option<(u64, Instant)> {
    // SAFETY: reads a counter.
    let ticks = || unsafe { std::arch::x86_64::_rdtsc() };
    let tries = (0..READINGS).map(|_| {
        let (before, time, after) = (ticks(), Instant::now(), ticks());
        (after.wrapping_sub(before), before, time)
    });
    tries.min_by_key(|(width, ..)| *width).map(|(_, at, time)| (at, time))
}

#[cfg(not(target_arch = "x86_64"))]
fn reading() -> Option<(u64, Instant)> {
    let _ = READINGS;
    None
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn however_long_it_counts_it_finds_the_same() {
        let long = Counting::begin().unwrap();
        std::thread::sleep(5 * MEASURED);
        let (long, short) = (long.finish().unwrap(), kilohertz().unwrap());
        assert!(long.abs_diff(short) * 100 < long, "{long} and {short}");
    }
}
