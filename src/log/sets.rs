//! The synchronous sets that CONTROL remembers: the newest, the one before it, and all before those.
//!
//! Used by whoever appends sets, copies them, or cuts a log. A log may be cut behind any of its frames. Then the
//! newest set below the cut rules again, however many were above it: a node that forgot it would take itself
//! for free, and lead without anybody's promise.
//!
//! Invariants:
//! - `sets` is never empty where a set stands in the log;
//! - a set of which it is not known whether it is there never pushes out the one before it;
//! - what lies below the log's first segment is remembered by its newest set.

use crate::frame::SyncSet;
use crate::position::LogByte;

use super::files::{Control, SetLine};

impl SetLine {
    /// What rules before the first set of a log.
    pub(crate) fn nobody() -> Self {
        SetLine { end: LogByte(0), there: true, set: SyncSet::default() }
    }
}

impl Control {
    /// From here on these are the newest ones.
    pub(crate) fn rule_by(&mut self, sets: Vec<SetLine>) {
        let before = std::mem::replace(&mut self.sets, sets);
        let gone = before.into_iter().filter(|line| line.there && !self.sets.contains(line));
        self.past.extend(gone);
        // No cut goes below the log's start.
        let low = self.past.iter().rposition(|line| line.end <= self.floor).unwrap_or(0);
        self.past.drain(..low);
    }

    /// Another set's frame is about to be here, behind all others.
    pub(crate) fn add_set(&mut self, newest: SetLine) {
        if self.sets.is_empty() {
            self.sets.push(SetLine::nobody());
        }
        let from = self.sets.iter().rposition(|line| line.there).unwrap_or(0);
        let kept = self.sets[from..].iter().cloned();
        self.rule_by(kept.chain([newest]).collect());
    }

    /// The log ends at `end`: what stands above it is not there.
    pub(crate) fn cut_sets(&mut self, end: LogByte) {
        let stays = |line: &SetLine| line.end < end || line.there && line.end == end;
        self.sets.retain(stays);
        self.past.retain(stays);
        if !self.sets.iter().any(|line| line.there)
            && let Some(newest) = self.past.pop()
        {
            self.sets.insert(0, newest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Mode;
    use crate::position::Id;

    fn line(end: u64, there: bool) -> SetLine {
        let k = u32::try_from(end).unwrap();
        let members = (0..=end).map(|n| Id([u8::try_from(n).unwrap(); 16]));
        let set = SyncSet::new(Mode::Sync { k }, members).unwrap();
        SetLine { end: LogByte(end), there, set }
    }

    fn ends(control: &Control) -> Vec<u64> {
        control.sets.iter().map(|line| line.end.0).collect()
    }

    /// A log was cut behind its first set and before two others, which were all that CONTROL knew of: its node
    /// knew no set then, led without any promise, and what the others had acknowledged was lost.
    #[test]
    fn a_cut_brings_back_the_set_that_rules_there() {
        let mut control = Control::default();
        for end in [2, 4, 6, 8] {
            control.add_set(line(end, true));
        }
        assert_eq!(ends(&control), [6, 8]);
        for (at, rule) in [(9, &[6, 8][..]), (7, &[6]), (6, &[6]), (5, &[4]), (3, &[2]), (1, &[0])]
        {
            let mut cut = control.clone();
            cut.cut_sets(LogByte(at));
            assert_eq!(ends(&cut), rule, "cut at {at}");
            assert!(cut.past.iter().all(|line| line.end.0 < rule[0]));
        }
        // One after the other, as a node is cut that comes back twice.
        control.cut_sets(LogByte(5));
        control.add_set(line(7, true));
        assert_eq!(ends(&control), [4, 7]);
        control.cut_sets(LogByte(3));
        assert_eq!(ends(&control), [2]);
    }

    #[test]
    fn a_set_that_may_not_be_there_leaves_the_one_before_it_in_force() {
        let mut control = Control::default();
        control.rule_by(vec![line(2, true), line(3, false)]);
        control.add_set(line(6, true));
        assert_eq!(ends(&control), [2, 3, 6]);
        // It was to stand behind log byte 3, and nothing does.
        control.cut_sets(LogByte(3));
        assert_eq!(ends(&control), [2]);
    }

    #[test]
    fn sets_below_the_logs_start_are_forgotten_but_for_the_newest() {
        let mut control = Control { floor: LogByte(5), ..Control::default() };
        for end in [1, 2, 4, 6, 8, 10] {
            control.add_set(line(end, true));
        }
        let past: Vec<u64> = control.past.iter().map(|line| line.end.0).collect();
        assert_eq!((past, ends(&control)), (vec![4, 6], vec![8, 10]));
    }
}
