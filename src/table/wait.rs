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
            let sleeper = self.handle.core.shown_wake.register();
            let view = self.view();
            let applied = view.applied().map_or(Offset(0), |position| position.offset);
            // After the look at the table: what it has applied, the log knows the epoch of.
            let here = match log.check_token(token) {
                Err(e) if e.kind() == Kind::NotInHistory => return Ok(AtLeast::NotInHistory),
                // What is applied there is another history's: the token's is still to come.
                Err(e) if e.kind() == Kind::Stale => false,
                checked => checked.map(|()| true)?,
            };
            if here && applied > token.offset {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Epoch, Id};
    use crate::record::Record;

    const LONG: Duration = Duration::from_secs(20);

    fn log() -> (tempfile::TempDir, Log) {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::options().create(true).open(directory.path().join("log")).unwrap();
        // An epoch begins with its first record.
        log.append(&Record::event(b"begin")).unwrap();
        (directory, log)
    }

    /// The token of the record at `offset`, there or still to come.
    fn token(log: &Log, offset: u64) -> Token {
        Token { log: log.id(), epoch: log.stats().epoch, offset: Offset(offset) }
    }

    #[test]
    fn a_read_of_a_write_waits_until_another_thread_has_applied_it() {
        const RECORDS: u64 = 100;
        let (_directory, log) = log();
        let table = Table::new();
        let started = Instant::now();
        std::thread::scope(|scope| {
            let (log, table) = (&log, &table);
            let reader = scope.spawn(move || {
                for i in 1..=RECORDS {
                    let found = table.get_at_least(log, b"k", &token(log, i), LONG).unwrap();
                    let AtLeast::Found(Some(row)) = found else { panic!("{i}: {found:?}") };
                    assert!(row.offset >= Offset(i), "asked for {i}, found {}", row.offset);
                    assert_eq!(*row.value, row.offset.0.to_le_bytes());
                }
            });
            for i in 1..=RECORDS {
                // Nothing is applied before somebody waits for it.
                while table.handle.core.shown_wake.sleepers() == 0 && !reader.is_finished() {
                    std::thread::yield_now();
                }
                log.append(&Record::put(b"k", &i.to_le_bytes())).unwrap();
                table.catch_up(log).unwrap();
            }
            reader.join().unwrap();
        });
        assert_eq!(table.handle.core.shown_wake.sleepers(), 0);
        assert!(started.elapsed() < LONG, "a wake was lost: a read slept its whole time");
    }

    #[test]
    fn what_is_not_applied_in_time_was_lost_or_is_another_logs_is_told_apart() {
        let (_directory, log) = log();
        let table = Table::new();
        let now = Duration::ZERO;
        let get = |token: &Token| table.get_at_least(&log, b"k", token, now);
        let timed_out = |applied| AtLeast::TimedOut { applied: Offset(applied) };
        assert_eq!(get(&token(&log, 1)).unwrap(), timed_out(0));
        log.append(&Record::put(b"k", b"v")).unwrap();
        assert_eq!(get(&token(&log, 1)).unwrap(), timed_out(0), "there, and not applied");
        table.catch_up(&log).unwrap();
        let AtLeast::Found(Some(row)) = get(&token(&log, 1)).unwrap() else { panic!("applied") };
        assert_eq!(*row.value, *b"v");
        assert_eq!(get(&token(&log, 2)).unwrap(), timed_out(2));
        log.append(&Record::delete(b"k")).unwrap();
        table.catch_up(&log).unwrap();
        assert_eq!(get(&token(&log, 2)).unwrap(), AtLeast::Found(None));

        // A leader that was replaced unheard has records of its own where the next one has others: that is not
        // for it to say of a write that it has not met yet.
        let later = token(&log, 1).epoch.number + 1;
        let unmet = Token { epoch: Epoch { number: later, nonce: 1 }, ..token(&log, 1) };
        assert_eq!(get(&unmet).unwrap(), timed_out(3));
        assert_eq!(log.check_token(&unmet).unwrap_err().kind(), Kind::Stale);

        let lost = Token { epoch: Epoch { number: 1, nonce: 1 }, ..token(&log, 1) };
        assert_eq!(get(&lost).unwrap(), AtLeast::NotInHistory);
        let foreign = Token { log: Id([1; 16]), ..token(&log, 1) };
        assert_eq!(get(&foreign).unwrap_err().kind(), Kind::WrongLog);
    }
}
