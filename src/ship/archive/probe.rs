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
    let names: Vec<ObjectName> = (0..ROUNDS).map(|_| name(fs)).collect::<Result<_>>()?;
    // All at once: a store that is slow is asked for some time before anything is published.
    let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
        let round = |name: &ObjectName| {
            let outcome = race(store, name);
            // Of no meaning to anybody if it stays. What others left, or race for just now, is left alone: a
            // name that goes during a race would look as if two had won it.
            let _ = store.delete(name);
            outcome
        };
        let rounds: Vec<_> = names.iter().map(|name| scope.spawn(move || round(name))).collect();
        let joined = rounds.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.map(|round| round.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    outcomes.into_iter().collect()
}

/// The least of it, for who has no time for races: one create behind another of the same name does not win.
#[cfg(feature = "wire")]
pub(super) fn refuses_twice(store: &dyn Store, fs: &Arc<dyn Fs>) -> Result<()> {
    let name = name(fs)?;
    let outcomes = [store.create(&name, &[0; 64]), store.create(&name, &[1; 64])];
    let _ = store.delete(&name);
    match outcomes {
        [_, Create::Unknown(error)] => Err(error),
        // The first may have been, though nobody heard of it.
        [Create::Unknown(error), Create::Created] => Err(error),
        [_, Create::Created] => Err(not_atomic(store, "both, one behind the other")),
        [_, Create::Exists] => Ok(()),
    }
}

fn name(fs: &Arc<dyn Fs>) -> Result<ObjectName> {
    let mut id = [0; 16];
    fs.random(&mut id).map_err(|e| Error::new(Kind::Io, format!("no randomness: {e}")))?;
    Ok(ObjectName::Probe(Id(id)))
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

    #[cfg(feature = "wire")]
    #[test]
    fn a_store_that_overwrites_is_found_out_without_a_race_and_trouble_is_no_broken_promise() {
        let fake = Fake::new();
        refuses_twice(&fake.client(), &Os::shared()).unwrap();
        assert_eq!(fake.names(), []);
        for fault in StoreFault::ALL {
            for call in 1..=3 {
                let outcome = refuses_twice(&fake.failing(call, fault), &Os::shared());
                if let Err(error) = outcome {
                    assert_ne!(error.kind(), Kind::StoreNotAtomic, "call {call}, {fault:?}");
                }
            }
        }
        fake.let_both_win();
        let error = refuses_twice(&fake.client(), &Os::shared()).unwrap_err();
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
