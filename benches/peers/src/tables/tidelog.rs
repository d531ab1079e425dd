//! tidelog's table. Its upserts are real frames of a log that was written before, decoded and
//! checked while they are applied.
//!
//! What depends on where the table keeps its rows stands in the functions at the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tidelog::table::{Applier, Frames, Scan, Snapshots, View};
use tidelog::{Apply, Batch, Durability, Log, Offset, Position, Record, Table, Verification};

use super::{Contestant, Job, Key, Load, Reader, Setup, Shape, Store, Tally, stamp};

pub(super) struct Tidelog;

impl Contestant for Tidelog {
    fn name(&self) -> &'static str {
        crate::peers::TIDELOG
    }

    fn prepare(&self, source: &Path, load: &Load) -> Result<()> {
        let log = Log::options().create(true).durability(Durability::Buffered).open(source)?;
        let mut batch = Batch::new();
        for numbers in load.batches() {
            batch.clear();
            for n in numbers {
                let (key, value) = load.upsert(n);
                batch.push(&Record::put(&key, &value))?;
            }
            log.append_batch(&batch)?;
        }
        Ok(log.close()?)
    }

    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Store>> {
        let files = self.files(setup);
        if setup.fresh && files.exists() {
            fs::remove_dir_all(files)?;
        }
        // Every frame is checked when it is applied, also one that was read before.
        let log = Log::options().verification(Verification::Always).open(setup.source)?;
        let table = open_table(&log, setup)?;
        Ok(Box::new(Open { log, table }))
    }

    fn files(&self, setup: &Setup<'_>) -> PathBuf {
        setup.source.join("table")
    }
}

struct Open {
    log: Log,
    table: Table,
}

impl Open {
    /// Applies the log, one batch at a time, and tells `each` how long each took.
    fn apply(&self, load: &Load, each: &mut dyn FnMut(Duration) -> Result<()>) -> Result<()> {
        let mut timed = Timed { table: self.table.clone(), each, failed: Ok(()) };
        let applied = Applier::new(&self.log, &timed)?.run(&mut timed)?;
        timed.failed?;
        let Offset(to) = applied.to;
        ensure!(to == load.upserts, "expected {} records applied, found {to}", load.upserts);
        Ok(())
    }
}

/// Times what goes through it. A batch of these rows is larger than one apply asks for, so each
/// apply is one batch.
struct Timed<'a> {
    table: Table,
    each: &'a mut dyn FnMut(Duration) -> Result<()>,
    failed: Result<()>,
}

impl Apply for Timed<'_> {
    fn applied(&self) -> Option<Position> {
        self.table.applied()
    }

    fn apply(&mut self, frames: &mut Frames<'_>) -> tidelog::Result<()> {
        let start = Instant::now();
        self.table.apply(frames)?;
        // The last apply finds the end of the log and nothing else.
        if frames.position().is_some() && self.failed.is_ok() {
            self.failed = (self.each)(start.elapsed());
        }
        Ok(())
    }
}

impl Store for Open {
    fn upserts(&self, load: &Load, each: &mut dyn FnMut(Duration)) -> Result<()> {
        self.apply(load, &mut |took| {
            each(took);
            Ok(())
        })
    }

    fn settle(&self) -> Result<()> {
        settle(&self.table)
    }

    fn fill(&self, load: &Load, shape: Shape) -> Result<()> {
        let part = load.batches().len().div_ceil(4);
        let mut batches = 0;
        self.apply(load, &mut |_| {
            batches += 1;
            if shape == Shape::SeveralRuns && batches % part == 0 {
                write_a_run(&self.table)?;
            }
            Ok(())
        })?;
        match shape {
            Shape::Delta => {
                let runs = self.table.stats().runs;
                ensure!(runs == 0, "expected all rows in memory, found {runs} runs");
                Ok(())
            }
            // What is being written is there soon, and does not disturb reads any more.
            Shape::Applied => Ok(self.table.settle()?),
            Shape::SeveralRuns => write_a_run(&self.table),
            Shape::OneRun => merge_into_one_run(&self.table),
        }
    }

    fn snapshot(&self, to: &Path) -> Result<()> {
        snapshot(&self.table, to)
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Read(self.table.view())))
    }
}

struct Read(View);

impl Reader for Read {
    fn get(&mut self, key: &Key) -> Result<Option<u64>> {
        Ok(self.0.get(key)?.map(|row| stamp(&row.value)))
    }

    fn scan(&mut self, tally: &mut Tally<'_>) -> Result<()> {
        let mut rows = self.0.scan(&Scan::all())?;
        while let Some(row) = rows.next()? {
            tally.visit(row.key, row.value);
        }
        Ok(())
    }
}

/// The table of `log` as it was left; when `fresh`, without rows, to be filled by who asked.
fn open_table(log: &Log, setup: &Setup<'_>) -> Result<Table> {
    let options = Table::options()
        // As in a process that has run for a while.
        .warm(setup.job != Job::Restart)
        // What is not kept on disk stays in memory up to the delta's bound.
        .persist(setup.job != Job::Read(Shape::Delta));
    if setup.fresh {
        Ok(options.open_at_checkpoint(log)?)
    } else {
        options.open(log).context("go on from the checkpoint")
    }
}

/// Waits for runs being written and for merges.
fn settle(table: &Table) -> Result<()> {
    table.checkpoint()?;
    Ok(table.settle()?)
}

/// Moves what is in memory into a run and keeps it apart from the others.
fn write_a_run(table: &Table) -> Result<()> {
    table.checkpoint()?;
    Ok(())
}

/// Moves everything into a single run.
fn merge_into_one_run(table: &Table) -> Result<()> {
    table.compact()?;
    Ok(())
}

/// What is consistent at one offset, as files in `to`.
fn snapshot(table: &Table, to: &Path) -> Result<()> {
    Snapshots::at(to).publish(table, false)?;
    Ok(())
}
