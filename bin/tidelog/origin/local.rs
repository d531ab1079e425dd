//! A log's directory, read here; its table is built from the log as it is opened.

use std::cell::OnceCell;
use std::ops::Range as Offsets;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidelog::log::NamedCursor;
use tidelog::sql::{Database, Value};
use tidelog::table::{self, AtLeast, HistoryQuery, Row, RowRef, Table, View, history};
use tidelog::text::{Bound, Range};
use tidelog::{Cursor, Entry, Error, Kind, Log, Offset, OwnedEntry, Record, Token};

use crate::exit::{Failure, Outcome};
use crate::output::say;
use crate::progress;

use super::{Entries, HistoryOf, Next, Origin, Rows, Seen, Span, TableHash, Tail, Visit, VisitRow};

/// Logs from this size on have a table that is kept on disk: reading less again takes no time.
const KEPT_FROM_BYTES: u64 = 64 << 20;
/// What a table may lack of its log before a checkpoint is worth writing.
const CHECKPOINT_BYTES: u64 = 64 << 20;
/// A tail looks so often whether it was told to stop.
const LOOK: Duration = Duration::from_millis(500);

/// The log, and its table at the log's end, kept on disk.
pub(crate) fn open_kept(dir: &Path) -> Result<(Log, Table), Failure> {
    let log = Log::options().read_only(true).open(dir)?;
    let table = open_table(&log, true)?;
    Ok((log, table))
}

/// Whether a log's table is taken from disk, and kept there: where there is one, and when making
/// it anew would take long.
fn is_kept(dir: &Path, log: &Log) -> bool {
    dir.join("table").is_dir() || log.stats().log_byte.0 >= KEPT_FROM_BYTES
}

fn open_table(log: &Log, keep: bool) -> Result<Table, Failure> {
    let spinner = progress::spinner("applying");
    let table = Table::options().persist(keep).open(log);
    spinner.finish_and_clear();
    let table = table?;
    for finding in &table.report().findings {
        say(format_args!("note: {finding}"));
    }
    let kept = table.stats().checkpoint_byte.0;
    let applied = table.applied().map_or(0, |position| position.log_byte.0);
    if keep && applied - kept >= CHECKPOINT_BYTES {
        // The next open is faster by it; the answer to this one is the same without.
        if let Err(e) = table.checkpoint() {
            say(format_args!("note: the table was not kept: {e}"));
        }
    }
    for lost in table.lost() {
        say(format_args!(
            "offsets {} to {} were lost to damage; keys may show older records",
            lost.start,
            lost.end.0 - 1
        ));
    }
    Ok(table)
}

/// A log's directory.
pub(super) struct Local {
    dir: PathBuf,
    log: Arc<Log>,
    /// Opened when somebody asks for it, and what of it everybody is shown.
    table: OnceCell<(Table, View)>,
}

impl Local {
    pub(super) fn open(dir: &Path, max_staleness: Option<Duration>) -> Result<Self, Failure> {
        let log = Log::options().read_only(true).open(dir)?;
        if let (Some(most), Some(source)) = (max_staleness, log.follows()) {
            let message = format!(
                "expected data at most {most:?} old, found a copy of {source} of unknown age"
            );
            return Err(Error::new(Kind::Stale, message)
                .in_file(dir)
                .help("ask the node that keeps this copy, or read the leader's directory")
                .into());
        }
        Ok(Local { dir: dir.to_owned(), log: Arc::new(log), table: OnceCell::new() })
    }

    fn table(&self) -> Result<&(Table, View), Failure> {
        if let Some(table) = self.table.get() {
            return Ok(table);
        }
        let table = open_table(&self.log, is_kept(&self.dir, &self.log))?;
        let view = table.view();
        Ok(self.table.get_or_init(|| (table, view)))
    }

    /// Says which records a power cut may take.
    fn warn_unconfirmed(&self) {
        let confirmed = self.log.confirmed_end();
        if confirmed < self.log.end() {
            say(format_args!(
                "records from offset {confirmed} on were read from a log whose writer is gone; \
                 until it is opened for writing again, a power cut may take them"
            ));
        }
    }

    /// The row, once the table holds what the token stands for.
    fn at_least(
        &self,
        table: &Table,
        key: &[u8],
        token: &Token,
        timeout: Duration,
    ) -> Result<Option<Row>, Failure> {
        let deadline = Instant::now() + timeout;
        loop {
            // Nobody else applies to this table: what it has not by now, waiting brings not.
            let answer = table.get_at_least(&self.log, key, token, Duration::ZERO);
            let applied = match answer.map_err(|e| match e.kind() {
                Kind::WrongLog => Failure::usage(e.to_string()),
                _ => e.into(),
            })? {
                AtLeast::Found(row) => return Ok(row),
                // The log says it with all it knows.
                AtLeast::NotInHistory => {
                    return Err(self.log.check_token(token).map_or_else(Failure::from, |()| {
                        Failure::no(format!("the write of token {token} was lost"))
                    }));
                }
                AtLeast::TimedOut { applied } => applied,
            };
            if progress::interrupted() {
                return Err(Failure::interrupted());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::no(format!(
                    "timed out: expected offset {} within {timeout:?}, found the log's end at \
                     {applied}",
                    token.offset
                )));
            }
            // A tail that stands where the table does: one left behind would never wait again.
            match self.log.tail(applied)?.wait_timeout(left.min(LOOK)) {
                Err(e) if e.kind() == Kind::Lost => {}
                more => {
                    more?;
                }
            }
            table.catch_up(&self.log)?;
        }
    }
}

/// A row as the record it came from.
fn entry<'a>(log: &Log, row: &RowRef<'a>) -> Entry<'a> {
    Entry {
        offset: row.offset,
        epoch: log.epoch_at(row.offset),
        timestamp: row.timestamp,
        record: Record::put(row.key, row.value).at(row.timestamp),
    }
}

impl Origin for Local {
    fn span(&self, range: &Range) -> Result<Span, Failure> {
        self.warn_unconfirmed();
        let (start, end) = (self.log.start(), self.log.end());
        Ok(Span { start, end, asked: range.resolve(&self.log)? })
    }

    fn read(&self, range: Offsets<Offset>) -> Result<Box<dyn Entries>, Failure> {
        Ok(Box::new(Records(self.log.read_range(range)?)))
    }

    fn tail(&self, from: Offset) -> Result<Box<dyn Tail>, Failure> {
        Ok(Box::new(Growing(self.log.tail(from)?)))
    }

    fn cursor(&self, name: &str) -> Result<NamedCursor, Failure> {
        Ok(self.log.cursor(name)?)
    }

    fn get(
        &self,
        key: &str,
        at_least: Option<(&Token, Duration)>,
    ) -> Result<Option<OwnedEntry>, Failure> {
        let (table, _) = self.table()?;
        let key = key.as_bytes();
        let row = match at_least {
            Some((token, timeout)) => self.at_least(table, key, token, timeout)?,
            None => table.get(key)?,
        };
        Ok(row.map(|row| entry(&self.log, &row.as_ref(key)).to_owned()))
    }

    fn scan(&self, rows: &Rows) -> Result<Box<dyn Entries>, Failure> {
        let rows = self.table()?.1.scan(&rows.scan())?;
        Ok(Box::new(TableRows { log: Arc::clone(&self.log), rows }))
    }

    fn history(&self, asked: HistoryOf<'_>, visit: &mut Visit<'_>) -> Result<Seen, Failure> {
        let mut query = HistoryQuery {
            newest_first: asked.last.is_some(),
            limit: asked.last,
            ..HistoryQuery::default()
        };
        if let Some(range) = asked.range {
            // A range that starts before the log does is an error, as it is to `tail`.
            query.range = range.resolve(&self.log)?;
            (query.from_time, query.to_time) = (range.from_time(), range.to_time());
            self.log.read(query.range.start.min(self.log.end()))?;
        }
        let mut history = history(&self.log, asked.key.as_bytes(), &query)?;
        let mut records = 0;
        while let Some(entry) = history.next_unless(progress::interrupt_flag())? {
            records += 1;
            visit(&entry.as_entry())?;
        }
        if progress::interrupted() {
            return Err(Failure::interrupted());
        }
        Ok(Seen { records, walked: history.walked(), lost: history.lost().to_vec() })
    }

    fn count(&self) -> Result<u64, Failure> {
        Ok(self.table()?.1.len()?)
    }

    fn sql(&self, query: &str, visit: &mut VisitRow<'_>) -> Result<Vec<String>, Failure> {
        let view = self.table()?.1.clone();
        let database = Database::open(view, Arc::clone(&self.log))?;
        database.interrupt_on(progress::interrupt_flag());
        let mut stopped = None;
        let outcome = database.query(query, |row| {
            let values: Vec<Value<'_>> = row.values().collect();
            visit(row.columns(), &values).map_err(|failure| {
                stopped = Some(failure);
                Error::new(Kind::Interrupted, "the output ended")
            })
        });
        match stopped {
            Some(failure) => Err(failure),
            None => Ok(outcome?),
        }
    }

    fn hash(&self, at: Option<Bound>) -> Result<TableHash, Failure> {
        let view = match at {
            None => self.table()?.1.clone(),
            Some(at) => {
                let end = at.resolve(&self.log, self.log.end())?;
                if end > self.log.end() {
                    return Err(super::behind_the_end(end, self.log.end()));
                }
                let table = table::Table::new();
                table.catch_up_to(&self.log, end)?;
                table.view()
            }
        };
        Ok(TableHash {
            offset: view.applied().map_or(0, |position| position.offset.0),
            epoch: view.applied().map(|position| position.epoch.number),
            rows: view.len()?,
            digest: view.digest()?.to_string(),
        })
    }
}

/// A range of the log.
struct Records(Cursor);

impl Entries for Records {
    fn next(&mut self) -> Result<Next<'_>, Failure> {
        found(self.0.next())
    }
}

/// The log as it grows.
struct Growing(tidelog::Tail);

impl Entries for Growing {
    fn next(&mut self) -> Result<Next<'_>, Failure> {
        found(self.0.next_timeout(Duration::ZERO))
    }
}

impl Tail for Growing {
    fn offset(&self) -> Offset {
        self.0.offset()
    }

    fn wait(&mut self) -> Outcome {
        self.0.wait_timeout(LOOK)?;
        Ok(())
    }
}

fn found(next: tidelog::Result<Option<Entry<'_>>>) -> Result<Next<'_>, Failure> {
    match next {
        Ok(Some(entry)) => Ok(Next::Entry(entry)),
        Ok(None) => Ok(Next::End),
        Err(e) if e.kind() == Kind::Lost => Ok(Next::Lost(e.to_string())),
        Err(e) => Err(e.into()),
    }
}

/// Rows of one view.
struct TableRows {
    log: Arc<Log>,
    rows: table::Rows,
}

impl Entries for TableRows {
    fn next(&mut self) -> Result<Next<'_>, Failure> {
        let row = self.rows.next()?;
        Ok(row.map_or(Next::End, |row| Next::Entry(entry(&self.log, &row))))
    }
}
