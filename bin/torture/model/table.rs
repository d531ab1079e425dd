//! The steps on a table: checkpoints, views that are held, snapshots, restores.
//!
//! The model's rows are made of the book, so they hold even where retention has dropped the log's
//! front. Invariants: a checkpoint that was confirmed is found by every later open, whatever
//! happens in between; a view shows the same for as long as it is held.

use std::path::{Path, PathBuf};

use tidelog::table::{RestoreAt, Row, Snapshots, TableOptions, View, restore_on};
use tidelog::{Kind, Log, Offset, Op as RecordOp, Table};

use crate::dice::Dice;
use crate::rows::{self, Rows};

use super::book::Book;
use super::op::Op;
use super::run::{DIR, Run, same};

/// Where snapshots are: where a restore looks for them.
const SNAPSHOTS: &str = "/log/snapshots";

/// A table, and what its clients know.
#[derive(Default)]
pub struct Kept {
    table: Option<Table>,
    held: Vec<(View, Rows)>,
    /// Everything below it is in a checkpoint, as was confirmed.
    pub checkpoint: Option<u64>,
    /// Where snapshots stand.
    published: Vec<u64>,
    restores: u64,
}

impl Kept {
    /// Its process ends, or its log.
    pub fn let_go(&mut self) {
        self.held.clear();
        self.table = None;
    }
}

fn options() -> TableOptions {
    Table::options().delta_bytes(4 << 10).checkpoint_bytes(24 << 10).fan_in(2)
}

impl Run {
    pub(super) fn on_table(&mut self, dice: &mut Dice, op: Op) -> Result<(), String> {
        if op == Op::TableReopen {
            self.rows.table = None;
        }
        if !self.open_table()? {
            return Ok(());
        }
        match op {
            Op::Table | Op::TableReopen => self.hold(),
            Op::Checkpoint => self.checkpoint().map(drop),
            Op::HoldView => {
                let view = self.table().view();
                let rows = rows_of(&self.book, applied(&view));
                self.rows.held.push((view, rows));
                Ok(())
            }
            Op::CompareViews => self.compare(),
            Op::Publish { digest } => self.publish(digest),
            Op::RestoreAt => self.restore(dice),
            other => unreachable!("{other:?} needs no table"),
        }
    }

    fn table(&self) -> &Table {
        self.rows.table.as_ref().expect("opened before")
    }

    /// Whether this log has, or had, a table, which may have made checkpoints by itself.
    pub(super) fn has_table(&self) -> bool {
        self.sim.exists(Path::new(DIR).join("table"))
    }

    /// Whether there is one: not when the log's front is gone and no checkpoint holds it.
    fn open_table(&mut self) -> Result<bool, String> {
        if self.rows.table.is_none() {
            let table = match options().open(self.log()) {
                Err(e) if e.kind() == Kind::Gone && self.lacks_front() => return Ok(false),
                table => table.map_err(|e| format!("open table: {e}"))?,
            };
            let report = table.report();
            let found = report.checkpoint.map(|(_, offset)| offset.0);
            if !report.writes || !report.findings.is_empty() || found < self.rows.checkpoint {
                return Err(format!(
                    "a checkpoint at {:?} was confirmed: {report:?}",
                    self.rows.checkpoint
                ));
            }
            self.rows.table = Some(table);
        }
        // A checkpoint that it makes on the way may bring more records into sight.
        for _ in 0..2 {
            self.table().catch_up(self.log()).map_err(|e| format!("apply: {e}"))?;
        }
        // Every record's timestamp is known from here on.
        self.read_all()?;
        same("applied", applied(&self.table().view()), self.log().end().0)?;
        Ok(true)
    }

    fn lacks_front(&self) -> bool {
        self.book.start > self.rows.checkpoint.unwrap_or(0)
    }

    fn hold(&mut self) -> Result<(), String> {
        let view = self.table().view();
        let rows = rows_of(&self.book, applied(&view));
        self.stats.records_checked += rows.len() as u64;
        rows::hold(&view, &rows).map_err(|amiss| amiss.said())
    }

    /// Returns where it stands.
    fn checkpoint(&mut self) -> Result<u64, String> {
        let end = applied(&self.table().view());
        match self.table().checkpoint() {
            Ok(true) => {}
            other => return Err(format!("checkpoint: {other:?}")),
        }
        if end > 0 {
            self.rows.checkpoint = Some(end);
            self.book.is_durable(end);
        }
        Ok(end)
    }

    fn compare(&mut self) -> Result<(), String> {
        for (view, rows) in &self.rows.held {
            self.stats.records_checked += rows.len() as u64;
            rows::hold(view, rows).map_err(|amiss| format!("a held view: {}", amiss.said()))?;
        }
        Ok(())
    }

    fn publish(&mut self, digest: bool) -> Result<(), String> {
        let end = self.checkpoint()?;
        if end == 0 {
            return Ok(());
        }
        let snapshots = Snapshots::at_on(self.sim.shared(), Path::new(SNAPSHOTS));
        let published =
            snapshots.publish(self.table(), digest).map_err(|e| format!("publish: {e}"))?;
        let snapshot = published.snapshot;
        same("publish", snapshot.position.offset.0, end)?;
        if !self.rows.published.contains(&end) {
            self.rows.published.push(end);
        }
        let problems = snapshots.verify(&snapshot).map_err(|e| format!("verify: {e}"))?;
        if !problems.is_empty() {
            return Err(format!("verify finds {problems:?}"));
        }
        let listed = snapshots.list().map_err(|e| format!("list: {e}"))?;
        let at = |offset: &u64| listed.iter().any(|s| s.position.offset.0 == *offset);
        match self.rows.published.iter().find(|offset| !at(offset)) {
            Some(lost) => Err(format!("a snapshot at {lost} was published, and is gone")),
            None => Ok(()),
        }
    }

    fn restore(&mut self, dice: &mut Dice) -> Result<(), String> {
        // It reads the log as another process does, and so no further than it proves.
        let beside = self.options().read_only(true).fs(self.sim.process().shared());
        let reader = beside.open(DIR).map_err(|e| format!("reader: {e}"))?;
        let target = dice.below(reader.confirmed_end().0 + 1);
        drop(reader);
        self.rows.restores += 1;
        let to = PathBuf::from(format!("/restored{}", self.rows.restores));
        let fs = self.sim.shared();
        let at = RestoreAt::Offset(Offset(target));
        let restored = match restore_on(&fs, Path::new(DIR), &to, at) {
            Err(e) if e.kind() == Kind::Gone && self.book.start > 0 => return Ok(()),
            restored => restored.map_err(|e| format!("restore at {target}: {e}"))?,
        };
        let end = restored.end.0;
        let ends = self.book.ends.iter().filter(|end| **end <= target);
        same("restored", end, ends.max().copied().unwrap_or(0))?;
        let said = |e: tidelog::Error| format!("restored at {target}: {e}");
        let log: Log = self.options().create(false).open(&to).map_err(said)?;
        same("restored log", log.end().0, end)?;
        let table = match options().open(&log) {
            Err(e) if e.kind() == Kind::Gone && log.start().0 > 0 => return Ok(()),
            table => table.map_err(said)?,
        };
        let view = table.view();
        same("restored table", applied(&view), end)?;
        rows::hold(&view, &rows_of(&self.book, end)).map_err(|a| format!("restored: {}", a.said()))
    }

    /// The end of a sequence that had a table: everything held, once more.
    pub(super) fn finish_table(&mut self) -> Result<(), String> {
        self.compare()?;
        self.rows.held.clear();
        if self.rows.checkpoint.is_some() {
            self.rows.table = None;
            if self.open_table()? {
                self.hold()?;
            }
        }
        self.rows.let_go();
        Ok(())
    }
}

fn applied(view: &View) -> u64 {
    view.applied().map_or(0, |position| position.offset.0)
}

/// The rows of everything below `end`.
fn rows_of(book: &Book, end: u64) -> Rows {
    let mut rows = Rows::new();
    for offset in 0..end {
        let told = book.at(offset).expect("sent");
        let Some(key) = &told.key else { continue };
        match told.op {
            RecordOp::Event => {}
            RecordOp::Delete => drop(rows.remove(key)),
            RecordOp::Put => {
                let timestamp = told.timestamp.expect("all were read");
                let row = Row { value: told.value.clone(), offset: Offset(offset), timestamp };
                rows.insert(key.clone(), row);
            }
        }
    }
    rows
}
