//! Which launches gVisor did not report, told from the raw trace of the calls: pure.
//!
//! Of a launch there are the call's beginning, its return and, where its words can be sent, a report. They belong
//! together by thread: what a process's other threads do in between is the agent's choice.
use std::collections::BTreeSet;

/// Who makes a call, as the guest counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caller {
    pub process: i32,
    pub thread: i32,
}

impl Caller {
    /// All threads that a process may have.
    fn any_of(process: i32) -> std::ops::RangeInclusive<Self> {
        let of = |thread| Self { process, thread };
        of(i32::MIN)..=of(i32::MAX)
    }
}

/// What comes first when a program is launched.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    /// In 2022: the launch's report. A return without error is a launch.
    Report,
    /// Since: the call's return, before the program is even looked for. Whether there is one shows when it starts.
    Return,
}

#[derive(Default)]
pub struct Launches {
    /// Once a launch has shown it: of the first one, which is ours, and then for ever.
    order: Option<Order>,
    /// Whose launch was reported and whose call has not returned yet.
    reported: BTreeSet<Caller>,
    /// Whose call has returned without error and whose launch was not reported.
    returned: BTreeSet<Caller>,
}

impl Launches {
    /// A call that launches begins: the caller's one before is over, and if it was not reported has found no program.
    pub fn begins(&mut self, caller: Caller) {
        self.reported.remove(&caller);
        self.returned.remove(&caller);
    }

    pub fn is_reported(&mut self, caller: Caller) {
        if self.returned.remove(&caller) {
            self.order.get_or_insert(Order::Return);
        } else if self.order != Some(Order::Return) {
            self.reported.insert(caller);
        }
    }

    /// `errno`: 0 where the call did not fail. True when that is a launch that was not reported.
    pub fn returns(&mut self, caller: Caller, errno: u64) -> bool {
        if self.reported.remove(&caller) {
            self.order.get_or_insert(Order::Report);
            return false;
        }
        if errno == 0 && self.order != Some(Order::Report) {
            self.returned.insert(caller);
            return false;
        }
        errno == 0
    }

    /// What programs begin with, by whichever thread: one that launches becomes the first of its process. True when
    /// that is a launch that was not reported.
    pub fn starts(&mut self, process: i32) -> bool {
        forget(&mut self.returned, process)
    }

    pub fn ends(&mut self, process: i32) {
        forget(&mut self.reported, process);
        forget(&mut self.returned, process);
    }

    /// Callers of which something is still to come.
    pub fn waiting(&self) -> usize {
        self.reported.len() + self.returned.len()
    }
}

/// False when there was nothing of the process.
fn forget(callers: &mut BTreeSet<Caller>, process: i32) -> bool {
    let found: Vec<Caller> = callers.range(Caller::any_of(process)).copied().collect();
    for caller in &found {
        callers.remove(caller);
    }
    !found.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a process and its thread.
    enum Told {
        Begins(i32, i32),
        Reported(i32, i32),
        Returns(i32, i32, u64),
        Starts(i32),
        Ends(i32),
    }
    use Told::*;

    /// For each launch that would be on record, whether it is one that was not reported.
    fn recorded(launches: &mut Launches, told: &[Told]) -> Vec<bool> {
        let unreported = |found: bool| found.then_some(true);
        told.iter()
            .filter_map(|told| match *told {
                Begins(process, thread) => {
                    launches.begins(Caller { process, thread });
                    None
                }
                Reported(process, thread) => {
                    launches.is_reported(Caller { process, thread });
                    Some(false)
                }
                Returns(process, thread, errno) => {
                    unreported(launches.returns(Caller { process, thread }, errno))
                }
                Starts(process) => unreported(launches.starts(process)),
                Ends(process) => {
                    launches.ends(process);
                    None
                }
            })
            .collect()
    }

    /// What a session's own first launch leaves behind, where the return comes first.
    fn newer() -> Launches {
        let mut launches = Launches::default();
        let first = [Begins(2, 2), Returns(2, 2, 0), Reported(2, 2), Starts(2)];
        assert_eq!(recorded(&mut launches, &first), [false]);
        launches
    }

    #[test]
    fn a_launch_without_words_is_recorded_where_the_report_comes_first() {
        let mut launches = Launches::default();
        let told = [
            Begins(5, 5),
            Reported(5, 5),
            Returns(5, 5, 0),
            Starts(5),
            Begins(5, 5),
            Returns(5, 5, 2),
            Begins(5, 5),
            Returns(5, 5, 0),
        ];
        assert_eq!(recorded(&mut launches, &told), [false, true]);
    }

    #[test]
    fn a_launch_without_words_is_recorded_where_the_return_comes_first() {
        let told = [
            // Before the order is known, too; a shell looks in each place of its PATH.
            Begins(4, 4),
            Returns(4, 4, 0),
            Begins(4, 4),
            Returns(4, 4, 0),
            Starts(4),
            Begins(5, 5),
            Returns(5, 5, 0),
            Reported(5, 5),
            Starts(5),
            Begins(5, 5),
            Returns(5, 5, 0),
            Ends(5),
            Begins(6, 6),
            Returns(6, 6, 0),
            Starts(6),
        ];
        assert_eq!(recorded(&mut Launches::default(), &told), [true, false, true]);
    }

    #[test]
    fn a_start_that_another_thread_pretends_does_not_turn_the_order() {
        let attack = [Begins(5, 5), Returns(5, 5, 0), Starts(5), Reported(5, 5), Starts(5)];
        let hidden = [Begins(5, 5), Returns(5, 5, 0), Starts(5)];
        for mut launches in [Launches::default(), newer()] {
            assert_eq!(recorded(&mut launches, &attack), [true, false]);
            assert_eq!(recorded(&mut launches, &hidden), [true]);
        }
    }

    #[test]
    fn a_launch_of_another_thread_that_finds_nothing_does_not_hide_this_ones() {
        let told = [Begins(5, 7), Returns(5, 7, 0), Begins(5, 6), Returns(5, 6, 0), Begins(5, 6), Starts(5)];
        assert_eq!(recorded(&mut newer(), &told), [true]);
        let told = [Begins(5, 7), Returns(5, 7, 0), Begins(5, 6), Reported(5, 7), Starts(5)];
        assert_eq!(recorded(&mut newer(), &told), [false], "control: one with its words is told once");
    }

    #[test]
    fn nothing_is_kept_of_a_process_that_ended() {
        let mut launches = newer();
        let told = [Returns(5, 5, 0), Returns(5, 7, 0), Returns(6, 6, 0), Ends(5)];
        assert!(recorded(&mut launches, &told).is_empty());
        assert_eq!(launches.waiting(), 1);
    }
}
