//! Whether a store is what everything rests on: a create succeeds for one of several at once.
//!
//! Called before anything is published. A test can show that a store is not atomic, never that it
//! is: the word of whoever runs it stays necessary, and this finds those that ignore conditions.

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::position::Id;

use super::name::ObjectName;
use super::store::{Create, Store};

/// Names raced for.
const ROUNDS: usize = 3;
/// Racers for each.
const RACERS: u8 = 8;

/// Races for a few names; [`Kind::StoreNotAtomic`] when two win, or the winner's bytes do not stay.
pub fn probe(store: &dyn Store, fs: &Arc<dyn Fs>) -> Result<()> {
    for _ in 0..ROUNDS {
        let mut id = [0; 16];
        fs.random(&mut id).map_err(|e| Error::new(Kind::Io, format!("no randomness: {e}")))?;
        let name = ObjectName::Probe(Id(id));
        let outcome = race(store, &name);
        // Of no meaning to anybody if it stays. What others left, or race for just now, is left alone: a
        // name that goes during a race would look as if two had won it.
        let _ = store.delete(&name);
        outcome?;
    }
    Ok(())
}

fn race(store: &dyn Store, name: &ObjectName) -> Result<()> {
    let outcomes: Vec<(u8, Create)> = std::thread::scope(|scope| {
        let racer = |i: u8| scope.spawn(move || (i, store.create(name, &[i; 64])));
        let racers: Vec<_> = (0..RACERS).map(racer).collect();
        racers.into_iter().filter_map(|racer| racer.join().ok()).collect()
    });
    let won = |outcome: &&(u8, Create)| matches!(outcome.1, Create::Created);
    let winners: Vec<u8> = outcomes.iter().filter(won).map(|(i, _)| *i).collect();
    let trouble = outcomes.iter().find_map(|(_, outcome)| match outcome {
        Create::Unknown(error) => Some(error.clone()),
        _ => None,
    });
    if winners.len() > 1 {
        return Err(not_atomic(store, &format!("{} of {RACERS}", winners.len())));
    }
    let there = store.get(name, 64)?;
    let Some(there) = there else {
        // Nobody got through: the store's trouble is the answer.
        return match trouble {
            Some(error) => Err(error),
            None => Err(not_atomic(store, "none that can be read")),
        };
    };
    if let [winner] = winners[..]
        && there != [winner; 64]
    {
        return Err(not_atomic(store, "a winner whose bytes were replaced"));
    }
    match store.create(name, &[RACERS; 64]) {
        Create::Created => return Err(not_atomic(store, "one more, long after the race")),
        Create::Exists | Create::Unknown(_) => {}
    }
    match store.get(name, 64)? == Some(there) {
        true => Ok(()),
        false => Err(not_atomic(store, "a winner whose bytes were replaced")),
    }
}

fn not_atomic(store: &dyn Store, found: &str) -> Error {
    Error::new(
        Kind::StoreNotAtomic,
        format!("expected one of {RACERS} racing creates of a name to win, found {found}"),
    )
    .in_file(std::path::Path::new(&store.place()))
    .help(
        "two leaders could both believe that they lead: nothing is published there. Use a store \
         with conditional creates (If-None-Match on S3), without a proxy that drops them",
    )
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, StoreFault};
    use super::*;
    use crate::fs::Os;

    #[test]
    fn a_store_that_lets_both_win_is_refused_and_a_good_one_is_left_clean() {
        let fake = Fake::new();
        probe(&fake.client(), &Os::shared()).unwrap();
        assert_eq!(fake.names(), []);
        fake.let_both_win();
        let error = probe(&fake.client(), &Os::shared()).unwrap_err();
        assert_eq!(error.kind(), Kind::StoreNotAtomic, "{error}");
    }

    /// Each probe took away whatever lay under `probe/`: of several at once, some saw a store that broke
    /// its word.
    #[test]
    fn probes_at_the_same_time_leave_each_other_alone() {
        let fake = Fake::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        probe(&fake.client(), &Os::shared()).unwrap();
                    }
                });
            }
        });
        assert_eq!(fake.names(), []);
    }

    #[test]
    fn trouble_of_the_store_is_not_taken_for_a_broken_promise() {
        for fault in StoreFault::ALL {
            for call in 1..=9 {
                let fake = Fake::new();
                let outcome = probe(&fake.failing(call, fault), &Os::shared());
                if let Err(error) = outcome {
                    assert_ne!(error.kind(), Kind::StoreNotAtomic, "call {call}, {fault:?}");
                }
            }
        }
    }
}
