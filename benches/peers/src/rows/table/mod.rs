//! Tables: key → latest value, upserted in batches that bring the applied offset along.

mod read;
mod restart;
mod snapshot;
mod stall;
mod sustained;
mod upserts;

use std::time::Instant;

use anyhow::Result;

use super::Bench;
use crate::machine::{Place, quiesce, warm, warm_cache};
use crate::tables::{Contestant, Expected, Job, Load, Setup, Store, Tally};

pub(super) use read::run as read;
pub(super) use restart::run as restart;
pub(super) use snapshot::run as snapshot;
pub(super) use stall::run as snapshot_stall;
pub(super) use sustained::run as sustained;
pub(super) use upserts::run as upserts;

/// Memory that is touched before a measurement: what the largest contestant keeps.
const FOOTPRINT_BYTES: u64 = 1 << 30;
/// The same for files, at most.
const CACHE_BYTES: u64 = 8 << 30;

pub(super) fn run(bench: &Bench) -> Result<()> {
    upserts(bench)?;
    snapshot_stall(bench)?;
    read(bench)?;
    snapshot(bench)?;
    restart(bench)?;
    sustained(bench)
}

/// A contestant with what it prepared.
struct Entrant<'a> {
    contestant: &'a dyn Contestant,
    source: Place,
}

impl Entrant<'_> {
    fn name(&self) -> &'static str {
        self.contestant.name()
    }

    fn setup<'s>(&'s self, place: &'s Place, fresh: bool, job: Job) -> Setup<'s> {
        Setup { dir: place.path(), source: self.source.path(), fresh, job }
    }
}

impl Bench {
    /// Those who play by rules that `plays` knows, each prepared for `load`. Who fails is out.
    fn prepared<'a>(
        &'a self,
        row: &'static str,
        load: &Load,
        plays: impl Fn(&dyn Contestant) -> bool,
    ) -> Result<Vec<Entrant<'a>>> {
        let mut entrants = Vec::new();
        for contestant in self.tables.iter().map(|table| &**table).filter(|table| plays(*table)) {
            let source = self.workplace.place(contestant.name())?;
            match contestant.prepare(source.path(), load) {
                Ok(()) => entrants.push(Entrant { contestant, source }),
                Err(error) => self.report.borrow_mut().failed(row, contestant.name(), &error)?,
            }
        }
        Ok(entrants)
    }

    /// What comes right before a measurement that writes: memory for it and for its files, which
    /// are written more than once.
    fn clear_the_way(&self, place: &Place, load: &Load) -> Result<()> {
        warm(self.scaled(FOOTPRINT_BYTES));
        warm_cache(place.path(), (load.bytes() * 2).min(CACHE_BYTES))?;
        quiesce(self.workplace.root())
    }
}

/// Fails unless `store` holds what its load leaves.
fn check(store: &dyn Store, expected: &Expected) -> Result<()> {
    let mut tally = Tally::new(Some(expected));
    store.reader()?.scan(&mut tally)?;
    tally.check(expected.rows())
}

fn per_s(count: u64, since: Instant) -> Option<f64> {
    Some(count as f64 / since.elapsed().as_secs_f64())
}

fn ms(since: Instant) -> Option<f64> {
    Some(since.elapsed().as_secs_f64() * 1e3)
}
