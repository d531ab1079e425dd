//! Reading your own write: waiting until the table holds what a token stands for.
//!
//! The protocol of `log::wake`: register, look, sleep. Apply changes what is shown, then wakes;
//! that costs it one system call when somebody waits and none otherwise.

use std::time::{Duration, Instant};

use super::Table;
use super::row::Row;
use crate::error::{Kind, Result};
use crate::log::Log;
use crate::position::{Offset, Token};

/// What a read came to that was to show a certain write, or a later state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AtLeast {
    /// The write is applied; the key's latest record, unless there is none.
    Found(Option<Row>),
    /// It is not applied yet.
    TimedOut {
        /// Behind the last record that is.
        applied: Offset,
    },
    /// That write was lost: this history has another record at its offset.
    NotInHistory,
}

impl Table {
    /// The latest record of `key` as soon as the record of `token` is applied, or a later one.
    /// Waits for whoever applies, at most `timeout`; it does not apply anything itself.
    ///
    /// `log` is the log that this table is of: it knows which epoch appended what. An error of
    /// [`Kind::WrongLog`] when the token is another log's.
    pub fn get_at_least(
        &self,
        log: &Log,
        key: &[u8],
        token: &Token,
        timeout: Duration,
    ) -> Result<AtLeast> {
        // A time too far away to be told is none.
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let sleeper = self.inner.applied.register();
            let view = self.view();
            let applied = view.applied().map_or(Offset(0), |position| position.offset);
            // After the look at the table: what it has applied, the log knows the epoch of.
            match log.check_token(token) {
                Err(e) if e.kind() == Kind::NotInHistory => return Ok(AtLeast::NotInHistory),
                checked => checked?,
            }
            if applied > token.offset {
                return Ok(AtLeast::Found(view.get(key)?));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(AtLeast::TimedOut { applied });
            }
            sleeper.sleep(left);
        }
    }
}
