//! Where two histories part, found by question and answer, and what is done about it.

use super::Failover;
use crate::log::{Epoch, Log};

/// What a node does with what another one offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// It holds a beginning of the other's history: the next frame may come.
    GoesOn,
    /// It holds frames that are not of that history: they end here.
    Cut(u8),
    /// Something that no failover makes: an operator decides.
    Halt,
}

impl<const N: usize> Failover<N> {
    /// Are two epochs the same leadership?
    pub fn same(&self, one: Epoch, other: Epoch) -> bool {
        if self.guards.nonce { one == other } else { one.number() == other.number() }
    }

    /// The largest epoch of a history at or below `asked`, and where it ends there. Another nonce
    /// of the same number is not at or below.
    fn at_or_below(&self, log: Log, asked: Epoch) -> Option<(Epoch, u8)> {
        log.epochs().find(|(epoch, _)| self.same(*epoch, asked) || epoch.number() < asked.number())
    }

    pub fn meet(&self, own: Log, source: Log) -> Meeting {
        let (last, end) = own.epochs().next().expect("every log begins with a frame");
        let (newest, source_end) = source.epochs().next().expect("the source's, too");
        if self.same(last, newest) && end > source_end && self.guards.ahead_halts {
            return Meeting::Halt;
        }
        if !self.guards.compare_epochs && end > source_end {
            return Meeting::GoesOn;
        }
        let cut = self.fork(own, source);
        if cut < end {
            return Meeting::Cut(cut);
        }
        let holds = source.frame(end - 1) == own.frame(end - 1);
        if self.guards.fingerprint && !holds { Meeting::Halt } else { Meeting::GoesOn }
    }

    /// The last epoch in common, and the shorter of its two ends.
    fn fork(&self, own: Log, source: Log) -> u8 {
        let (mut asked, mut end) = own.epochs().next().expect("every log begins with a frame");
        loop {
            let Some((answer, there)) = self.at_or_below(source, asked) else { return 0 };
            if self.same(answer, asked) || !self.guards.ask_again {
                return end.min(there);
            }
            let Some(next) = self.at_or_below(own, answer) else { return 0 };
            (asked, end) = next;
        }
    }
}
