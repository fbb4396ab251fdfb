//! `ambit-launch tsc`: how fast this host's time stamp counter runs, in kHz. A guest without KVM reads the same
//! counter, and the microvm machine has nothing else to measure it by (`tsc_early_khz` on its command line).
use std::time::{Duration, Instant};

const MEASURED: Duration = Duration::from_millis(10);
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

#[cfg(target_arch = "x86_64")]
pub fn kilohertz() -> Option<u128> {
    let (ticks, time) = reading();
    std::thread::sleep(MEASURED);
    let (later_ticks, later_time) = reading();
    let microseconds = later_time.duration_since(time).as_nanos() / 1000;
    Some(u128::from(later_ticks - ticks) * 1000 / microseconds.max(1))
}

#[cfg(target_arch = "x86_64")]
fn reading() -> (u64, Instant) {
    // SAFETY: reads a counter.
    let ticks = || unsafe { std::arch::x86_64::_rdtsc() };
    let tries = (0..READINGS).map(|_| {
        let (before, time, after) = (ticks(), Instant::now(), ticks());
        (after.wrapping_sub(before), before, time)
    });
    tries
        .min_by_key(|(width, ..)| *width)
        .map_or_else(|| (ticks(), Instant::now()), |(_, at, time)| (at, time))
}

#[cfg(not(target_arch = "x86_64"))]
pub fn kilohertz() -> Option<u128> {
    let _ = (MEASURED, READINGS, Instant::now());
    None
}
