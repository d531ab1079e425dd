//! Holding apply back: what arrived is kept and acknowledged at once, and applied only later.
//!
//! A [`Hold`] remembers when the copy had reached which offset, by a clock of this machine that
//! never jumps, and says up to where the delay is over. Pure; the follower asks it once a round.
//!
//! Invariants:
//! - nothing is let go early: after a restart everything counts as arrived then, and when marks are
//!   thinned out, what stood at one goes with a later one;
//! - at most [`MARKS`] are kept.

use std::collections::VecDeque;
use std::time::Duration;

use crate::position::Offset;

const MARKS: usize = 4096;

/// What is held, and since when.
#[derive(Debug)]
pub(super) struct Hold {
    delay: u64,
    /// When the copy had reached which offset; both rise.
    marks: VecDeque<(u64, Offset)>,
    due: Offset,
}

impl Hold {
    pub(super) fn new(delay: Duration) -> Self {
        let delay = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        Hold { delay, marks: VecDeque::new(), due: Offset(0) }
    }

    /// Notes that everything before `end` is here at `now`, in nanoseconds.
    pub(super) fn arrived(&mut self, now: u64, end: Offset) {
        if self.marks.back().map_or(self.due, |(_, known)| *known) >= end {
            return;
        }
        if self.marks.len() == MARKS {
            let mut keep = false;
            self.marks.retain(|_| {
                keep = !keep;
                !keep
            });
        }
        self.marks.push_back((now, end));
    }

    /// Everything before this offset may be applied at `now`.
    pub(super) fn due(&mut self, now: u64) -> Offset {
        while let Some((since, end)) = self.marks.front().copied()
            && now.saturating_sub(since) >= self.delay
        {
            self.due = end;
            self.marks.pop_front();
        }
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_let_go_when_their_delay_is_over_and_never_before() {
        let mut hold = Hold::new(Duration::from_nanos(10));
        hold.arrived(100, Offset(3));
        hold.arrived(105, Offset(3));
        hold.arrived(105, Offset(7));
        assert_eq!(hold.due(109), Offset(0));
        assert_eq!(hold.due(110), Offset(3));
        assert_eq!(hold.due(114), Offset(3));
        assert_eq!(hold.due(200), Offset(7));
        hold.arrived(201, Offset(7));
        assert_eq!(hold.due(1000), Offset(7));
    }

    #[test]
    fn thinned_out_marks_let_go_later_and_never_earlier() {
        let mut hold = Hold::new(Duration::from_nanos(10));
        let arrived = |offset: u64| 100 + offset;
        for offset in 1..=20_000 {
            hold.arrived(arrived(offset), Offset(offset));
            assert!(hold.marks.len() <= MARKS);
        }
        for now in (0..30_000).step_by(7) {
            let due = hold.due(now).0;
            assert!(due == 0 || arrived(due) + 10 <= now, "{due} at {now}");
        }
        assert_eq!(hold.due(30_000), Offset(20_000));
    }
}
