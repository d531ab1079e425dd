//! How old what a follower shows may be: since when its source had more.
//!
//! A [`Fresh`] remembers what was committed at the source at which moment. Once everything of such a
//! moment is applied here, reads are as fresh as that moment. Pure; the follower tells it of every
//! look and of every apply.
//!
//! Invariants:
//! - it is never too young: a moment counts only when all that was committed then is applied, and
//!   when marks are thinned out, what stood at one counts from an earlier one;
//! - at most [`MARKS`] are kept.

use std::collections::VecDeque;

use crate::position::Offset;

const MARKS: usize = 4096;

/// Moments of the source, on a clock that never jumps, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    /// When which offset was the end of what was committed; both rise.
    marks: VecDeque<(u64, Offset)>,
    since: Option<u64>,
}

impl Fresh {
    /// Everything before `end` was committed at the source at `at`, and nothing more.
    pub(super) fn told(&mut self, at: u64, end: Offset) {
        if self.marks.back().is_some_and(|(_, known)| *known > end) {
            // The source was changed for one that knows less: that one is measured anew.
            self.marks.clear();
        }
        if let Some((known_at, known)) = self.marks.back_mut()
            && *known == end
        {
            *known_at = (*known_at).max(at);
            return;
        }
        if self.marks.len() == MARKS {
            let mut keep = false;
            self.marks.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.marks.push_back((at, end));
    }

    /// Everything before `end` is applied here.
    pub(super) fn applied(&mut self, end: Offset) {
        while let Some((at, _)) = self.marks.front().filter(|(_, known)| *known <= end) {
            self.since = self.since.max(Some(*at));
            self.marks.pop_front();
        }
    }

    /// The latest moment of the source that reads here show all of; `None` before the first.
    pub(super) fn since(&self) -> Option<u64> {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_as_fresh_as_the_last_moment_that_is_applied_whole() {
        let mut fresh = Fresh::default();
        assert_eq!(fresh.since(), None);
        fresh.told(100, Offset(5));
        fresh.applied(Offset(4));
        assert_eq!(fresh.since(), None);
        fresh.told(110, Offset(7));
        fresh.applied(Offset(6));
        assert_eq!(fresh.since(), Some(100));
        fresh.applied(Offset(7));
        assert_eq!(fresh.since(), Some(110));
        // An idle source that says so again makes it younger; silence does not.
        fresh.told(200, Offset(7));
        fresh.applied(Offset(7));
        assert_eq!(fresh.since(), Some(200));
        // Nor does what is not applied, however often it is said.
        fresh.told(300, Offset(9));
        fresh.told(310, Offset(9));
        fresh.applied(Offset(8));
        assert_eq!(fresh.since(), Some(200));
        fresh.applied(Offset(9));
        assert_eq!(fresh.since(), Some(310));
        // A source that knows less says nothing of what another one knew.
        fresh.told(400, Offset(20));
        fresh.told(410, Offset(9));
        fresh.applied(Offset(9));
        assert_eq!(fresh.since(), Some(410));
    }

    #[test]
    fn thinned_out_marks_make_it_older_and_never_younger() {
        let mut fresh = Fresh::default();
        for offset in 1..=20_000 {
            fresh.told(100 + offset, Offset(offset));
            assert!(fresh.marks.len() <= MARKS);
        }
        for end in (0..20_000).step_by(7) {
            fresh.applied(Offset(end));
            assert!(fresh.since().is_none_or(|since| since <= 100 + end), "{end}");
        }
        fresh.applied(Offset(20_000));
        assert_eq!(fresh.since(), Some(20_100));
    }
}
