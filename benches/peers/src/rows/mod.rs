//! The rows: what is asked of the contestants, and how it is measured side by side.

mod append;
mod durable;
mod open;
mod read;
#[cfg(feature = "servers")]
mod replicate;
#[cfg(feature = "tidelog")]
mod roll;
#[cfg(feature = "servers")]
mod ship;
mod table;

use std::cell::RefCell;

use anyhow::Result;

use crate::contestant::{Contestant, Game};
use crate::machine::{Elsewhere, Workplace};
use crate::measure::Figures;
use crate::report::Report;
use crate::tables;

pub use open::fill_and_die;

/// Segments of contestants that have them.
const SEGMENT_BYTES: u64 = 64 << 20;

/// A group of rows, as named on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Rows {
    /// Appends that are not synced.
    Append,
    /// Appends that are.
    Durable,
    /// Scans and reads by number.
    Read,
    /// Opening after a kill.
    Open,
    /// Durable appends while segments roll; tidelog only.
    Roll,
    /// All of the rows about tables, which follow.
    Table,
    /// Upserts over few keys.
    TableUpserts,
    /// Upserts while a snapshot is taken.
    TableSnapshotStall,
    /// Reads of single rows, and scans.
    TableRead,
    /// Snapshots of a table that stands still; tidelog only.
    TableSnapshot,
    /// Opening a large table whose checkpoint is behind its log; tidelog only.
    TableRestart,
    /// Upserts over far more keys than memory would hold for long.
    TableSustained,
    /// Records appended on a leader until a reader of its copy sees them: many.
    ReplicateStream,
    /// The same, one at a time.
    ReplicateLatency,
    /// What waiting for the copy adds to waiting for the leader.
    ReplicateSync,
    /// Leader and copy with nothing to do.
    ReplicateIdle,
    /// A new follower of a log that is there; tidelog only.
    ShipCatchUp,
    /// Sealed segments, beside `cp`; tidelog only.
    ShipSealed,
    /// Followers that cost their leader; tidelog only.
    ShipFollowers,
    /// A follower that joins while the leader is written to; tidelog only.
    ShipJoin,
}

/// What a run has at hand.
pub struct Bench {
    pub workplace: Workplace,
    pub contestants: Vec<Box<dyn Contestant>>,
    /// Those of the rows about tables.
    pub tables: Vec<Box<dyn tables::Contestant>>,
    /// Those of the rows about replication.
    #[cfg(feature = "servers")]
    pub pairs: Vec<Box<dyn crate::pairs::Contestant>>,
    /// The program that nodes are run with.
    #[cfg(feature = "servers")]
    pub tidelog: std::path::PathBuf,
    /// Rounds that count; one more warms up.
    pub rounds: u32,
    /// Shrinks sizes and times.
    pub scale: f64,
    pub report: RefCell<Report>,
}

impl Bench {
    /// Runs a group of rows.
    pub fn run(&self, rows: Rows) -> Result<()> {
        match rows {
            Rows::Append => append::run(self),
            Rows::Durable => durable::run(self),
            Rows::Read => read::run(self),
            Rows::Open => open::run(self),
            #[cfg(feature = "tidelog")]
            Rows::Roll => roll::run(self),
            #[cfg(not(feature = "tidelog"))]
            Rows::Roll => Ok(()),
            Rows::Table => table::run(self),
            Rows::TableUpserts => table::upserts(self),
            Rows::TableSnapshotStall => table::snapshot_stall(self),
            Rows::TableRead => table::read(self),
            Rows::TableSnapshot => table::snapshot(self),
            Rows::TableRestart => table::restart(self),
            Rows::TableSustained => table::sustained(self),
            #[cfg(feature = "servers")]
            Rows::ReplicateStream => replicate::stream(self),
            #[cfg(feature = "servers")]
            Rows::ReplicateLatency => replicate::latency(self),
            #[cfg(feature = "servers")]
            Rows::ReplicateSync => replicate::sync(self),
            #[cfg(feature = "servers")]
            Rows::ReplicateIdle => replicate::idle(self),
            #[cfg(feature = "servers")]
            Rows::ShipCatchUp => ship::catch_up(self),
            #[cfg(feature = "servers")]
            Rows::ShipSealed => ship::sealed(self),
            #[cfg(feature = "servers")]
            Rows::ShipFollowers => ship::followers(self),
            #[cfg(feature = "servers")]
            Rows::ShipJoin => ship::join(self),
            #[cfg(not(feature = "servers"))]
            rows => anyhow::bail!("{rows:?} needs a build with --features servers"),
        }
    }

    /// Those who can play `game`.
    fn playing(&self, game: Game) -> Vec<&dyn Contestant> {
        self.contestants.iter().map(|c| &**c).filter(|c| c.plays(game)).collect()
    }

    fn scaled(&self, amount: u64) -> u64 {
        (amount as f64 * self.scale) as u64
    }

    fn seconds(&self, seconds: f64) -> std::time::Duration {
        std::time::Duration::from_secs_f64((seconds * self.scale).max(0.1))
    }

    /// Measures everyone once per round, in turn; who begins changes with the round. Who fails
    /// is out of the row.
    fn interleave<T>(
        &self,
        row: &'static str,
        entrants: &mut Vec<T>,
        name: impl Fn(&T) -> &'static str,
        measure: impl FnMut(&mut T, u32) -> Result<Figures>,
    ) -> Result<()> {
        self.interleave_rounds(self.rounds, row, entrants, name, measure)
    }

    /// The same, for rows that take too long for as many rounds as others.
    fn interleave_rounds<T>(
        &self,
        rounds: u32,
        row: &'static str,
        entrants: &mut Vec<T>,
        name: impl Fn(&T) -> &'static str,
        mut measure: impl FnMut(&mut T, u32) -> Result<Figures>,
    ) -> Result<()> {
        let elsewhere = Elsewhere::watch();
        for round in 0..=rounds {
            let set = self.report.borrow_mut().next_set(round);
            let mut out = Vec::new();
            for turn in 0..entrants.len() {
                let place = (turn + round as usize) % entrants.len();
                let entrant = &mut entrants[place];
                let measured = measure(entrant, round);
                let mut report = self.report.borrow_mut();
                match measured {
                    Ok(figures) => report.add(row, name(entrant), set, figures)?,
                    Err(error) => {
                        report.failed(row, name(entrant), &error)?;
                        out.push(place);
                    }
                }
            }
            out.sort_unstable();
            for place in out.into_iter().rev() {
                entrants.remove(place);
            }
        }
        self.report.borrow_mut().disturbed(row, elsewhere.cores());
        Ok(())
    }
}
