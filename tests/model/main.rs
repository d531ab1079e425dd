//! The rules of replication as small models, explored whole: docs/REPLICATION.md names each rule
//! beside its test.
//!
//! A model's `Guards` switches single rules off. With all of them on, no step at its scope breaks a
//! property, and what must be possible happens; with one off, the checker must find how.

mod archive;
mod commit;
mod cut;
mod failover;
mod log;
mod promise;

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

/// Explores every state, and prints how many those were.
fn holds<M>(scope: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let started = Instant::now();
    let checker = model.checker().spawn_bfs().join();
    println!(
        "{scope}: {} unique states of {} generated, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f32()
    );
    checker.assert_properties();
}

/// Finds the shortest way to break `property`.
fn breaks<M>(scope: &str, off: &str, model: M, property: &'static str)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let started = Instant::now();
    let wanted = HasDiscoveries::AnyOf([property].into());
    let checker = model.checker().finish_when(wanted).spawn_bfs().join();
    let found = checker.discovery(property);
    let states = checker.unique_state_count();
    let Some(path) = found else {
        panic!("{scope} without {off}: {property:?} holds in all {states} states");
    };
    println!(
        "{scope} without {off}: {property:?} breaks after {states} states, {:.1} s, by {:?}",
        started.elapsed().as_secs_f32(),
        path.into_actions()
    );
}
