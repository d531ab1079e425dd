//! What a program has seen: the newest epoch, and the highest token of its writes and reads. Pure.
//!
//! Invariants:
//! - an answer by an older epoch than one seen, or by another one of the same number, counts for nothing:
//!   whoever gave it leads no more, and may not know yet;
//! - a token is given up only for one of a history that holds it: of the same epoch, or of a later epoch once
//!   a node of that one was asked about the old token.

use crate::error::{Error, Kind, Result};
use crate::position::{Epoch, Id, Token};

/// Epochs and tokens seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Session {
    log: Option<Id>,
    epoch: Option<Epoch>,
    shown: Option<Token>,
    lost: Option<Token>,
}

impl Session {
    /// What reads must show, at least.
    pub(super) fn shown(&self) -> Option<Token> {
        self.shown
    }

    /// Something that was seen and is in no history any more.
    pub(super) fn lost(&self) -> Option<Token> {
        self.lost
    }

    /// The log and the newest epoch, as a leader is told them: an older one, or another log's, then appends
    /// nothing.
    pub(super) fn seen(&self) -> Option<String> {
        let (log, epoch) = (self.log?, self.epoch?);
        Some(format!("{log}.{epoch}"))
    }

    /// Whether an answer counts that was given under `epoch`.
    pub(super) fn admit(&self, log: Id, epoch: Epoch) -> Result<()> {
        if let Some(known) = self.log.filter(|known| *known != log) {
            return Err(Error::new(
                Kind::WrongLog,
                format!("expected an answer about log {known}, found one about log {log}"),
            )
            .help("that address belongs to another cluster: take it off the list"));
        }
        let older = |seen: &Epoch| {
            epoch.number < seen.number || epoch.number == seen.number && epoch.nonce != seen.nonce
        };
        match self.epoch.filter(older) {
            None => Ok(()),
            Some(seen) => Err(Error::new(
                Kind::Fenced,
                format!("expected an answer by epoch {seen} or a later one, found one by {epoch}"),
            )
            .help("that node was replaced and may not know it yet")),
        }
    }

    /// An answer counted.
    pub(super) fn saw(&mut self, log: Id, epoch: Epoch) {
        self.log = Some(log);
        if self.epoch.is_none_or(|seen| epoch.number > seen.number) {
            self.epoch = Some(epoch);
        }
    }

    /// The program wrote this. The old token, if it is of an earlier epoch and must be asked about before this
    /// one can stand for it.
    pub(super) fn wrote(&mut self, token: Token) -> Option<Token> {
        match self.shown {
            // Epochs only rise along a log: nothing of the earlier one lies behind this record.
            Some(old) if token.epoch.number > old.epoch.number && token.offset <= old.offset => {
                self.replace(token, false);
            }
            Some(old) if token.epoch.number > old.epoch.number => return Some(old),
            // A retry of what an earlier epoch appended: reads know of later things.
            Some(old) if token.epoch != old.epoch || token.offset <= old.offset => {}
            _ => self.shown = Some(token),
        }
        None
    }

    /// A history that goes on to `token` holds the old one, or does not.
    pub(super) fn replace(&mut self, token: Token, holds_old: bool) {
        if !holds_old {
            self.lost = self.lost.or(self.shown);
        }
        self.shown = Some(token);
    }

    /// A node that holds what was shown before has shown this; whether that can be.
    pub(super) fn read(&mut self, token: Token) -> bool {
        let goes_on = self
            .shown
            .is_none_or(|old| token.offset >= old.offset && token.epoch.number >= old.epoch.number);
        if goes_on {
            self.saw(token.log, token.epoch);
            self.shown = Some(token);
        }
        goes_on
    }

    /// What was seen so far binds nobody any more; epochs still do.
    pub(super) fn forget(&mut self) {
        (self.shown, self.lost) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Offset;

    fn epoch(number: u64, nonce: u64) -> Epoch {
        Epoch { number, nonce }
    }

    fn token(number: u64, offset: u64) -> Token {
        Token { log: Id([1; 16]), epoch: epoch(number, number), offset: Offset(offset) }
    }

    #[test]
    fn older_and_foreign_epochs_are_refused() {
        let log = Id([1; 16]);
        let mut session = Session::default();
        assert!(session.admit(log, epoch(5, 1)).is_ok());
        assert_eq!(session.seen(), None);
        session.saw(log, epoch(5, 1));
        let seen = "01010101-0101-0101-0101-010101010101.5.0000000000000001";
        assert_eq!(session.seen().as_deref(), Some(seen));
        assert!(session.admit(log, epoch(5, 1)).is_ok());
        assert!(session.admit(log, epoch(9, 3)).is_ok());
        assert_eq!(session.admit(log, epoch(4, 1)).unwrap_err().kind(), Kind::Fenced);
        assert_eq!(session.admit(log, epoch(5, 2)).unwrap_err().kind(), Kind::Fenced);
        assert_eq!(session.admit(Id([2; 16]), epoch(9, 3)).unwrap_err().kind(), Kind::WrongLog);
    }

    #[test]
    fn a_token_stands_until_a_later_history_was_asked_about_it() {
        let mut session = Session::default();
        assert_eq!(session.wrote(token(1, 10)), None);
        assert_eq!(session.wrote(token(1, 12)), None);
        assert_eq!(session.shown(), Some(token(1, 12)));
        // A retry's original position is no step back.
        assert_eq!(session.wrote(token(1, 11)), None);
        assert_eq!(session.shown(), Some(token(1, 12)));
        // Offsets of a later epoch may be higher though the old one was lost.
        assert_eq!(session.wrote(token(2, 40)), Some(token(1, 12)));
        assert_eq!(session.shown(), Some(token(1, 12)));
        session.replace(token(2, 40), false);
        assert_eq!((session.shown(), session.lost()), (Some(token(2, 40)), Some(token(1, 12))));
        session.forget();
        assert_eq!((session.shown(), session.lost()), (None, None));
        // Where a later epoch wrote before it, nobody needs to be asked.
        session.wrote(token(3, 50));
        assert_eq!(session.wrote(token(4, 50)), None);
        assert_eq!((session.shown(), session.lost()), (Some(token(4, 50)), Some(token(3, 50))));
    }

    #[test]
    fn reads_never_step_back() {
        let mut session = Session::default();
        assert!(session.read(token(1, 5)));
        assert!(!session.read(token(1, 4)));
        assert!(session.read(token(2, 5)));
        assert!(!session.read(token(1, 9)));
        assert_eq!(session.shown(), Some(token(2, 5)));
    }
}
