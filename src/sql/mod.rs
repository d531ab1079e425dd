//! SQL over a table and its log, read-only, by SQLite's virtual tables.
//!
//! ```text
//! Database::query ── SQLite ── vtab ─┬─ kv       ── View     kv(key, value, offset, ts)
//!                    guard, functions └─ records ── Cursor   log(offset, epoch, ts, op, key, value)
//! ```
//!
//! Used by callers and the command line; uses `table` and `log`. [`SqliteSink`] is the other half:
//! it writes rows and the applied position into a SQLite file of the caller's.
//!
//! Invariants:
//! - both tables show one moment, the view's: `log` ends where the view stands;
//! - what is pushed down into a table gives the rows that SQLite alone would (`plan`);
//! - a statement reads or is refused (`guard`).
//!
//! # Columns
//!
//! Keys and values are TEXT when they are UTF-8, so that `json_extract(value, '$.x')` works, and
//! BLOB when not. As always in SQLite, TEXT and BLOB are never equal and every TEXT sorts before
//! every BLOB: a key that is not text is looked up as `key = x'ff00'`, and `CAST(key AS BLOB)`
//! gives any key's bytes. An absent key and a delete's value are NULL; empty ones are not. `ts` is
//! in nanoseconds since 1970; `rfc3339(ts)` and `ns('2026-11-23T04:00:00Z')` convert, the latter
//! taking `2026-11-23` and `2026-11-23 04:00` as UTC.
//!
//! # What is fast
//!
//! On `kv`: `key =`, `key IN`, ranges and BETWEEN, `key GLOB 'prefix*'`, `ORDER BY key` both ways.
//! On `log`: `offset` by value and range, `ORDER BY offset` both ways; `ts >=` to start from; keys are
//! compared before records are copied. LIKE is only narrowed by what comes before its first letter
//! since it takes either case: use GLOB. `EXPLAIN QUERY PLAN` names what was taken.

mod bounds;
mod functions;
mod guard;
mod kv;
mod plan;
mod records;
mod sink;
#[cfg(test)]
mod tests;
mod vtab;

pub use sink::SqliteSink;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Error as SqliteError, ErrorCode, Statement};

use crate::error::{Error, Kind, Result};
use crate::log::Log;
use crate::position::{Offset, Position};
use crate::table::View;

use kv::Kv;
use records::Records;

/// Instructions of SQLite's between two looks at whether to stop.
const STOP_EVERY: i32 = 1000;

/// SQL over one moment of a table and its log.
///
/// ```
/// use std::sync::Arc;
/// use tidelog::{Log, Record, Table, sql::{Database, Value}};
/// # fn main() -> tidelog::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("log");
/// let log = Arc::new(Log::options().create(true).open(path)?);
/// log.append(&Record::put(b"gate", br#"{"open": true, "by": "ann"}"#))?;
/// let table = Table::from_log(&log)?;
/// let database = Database::open(table.view(), Arc::clone(&log))?;
/// database.query("SELECT key, json_extract(value, '$.by') AS who FROM kv", |row| {
///     assert_eq!(row.columns(), ["key", "who"]);
///     assert_eq!(row.get(1), Some(Value::Text("ann")));
///     Ok(())
/// })?;
/// # Ok(())
/// # }
/// ```
pub struct Database {
    connection: Connection,
    state: Arc<State>,
    applied: Option<Position>,
    lost: Vec<Range<Offset>>,
}

/// What SQLite's callbacks share with the call that waits for them.
#[derive(Debug, Default)]
struct State {
    /// The error behind the one that SQLite reports.
    kept: Mutex<Option<Error>>,
    /// What a statement wanted beyond reading.
    refused: Mutex<Option<String>>,
    stop: AtomicBool,
    /// A flag of the caller's that means the same.
    stop_on: OnceLock<&'static AtomicBool>,
}

/// Ends a query from another thread. Made by [`Database::interrupt_handle`].
#[derive(Clone, Debug)]
pub struct InterruptHandle(Arc<State>);

/// One row of a result.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    names: &'a [String],
    row: &'a rusqlite::Row<'a>,
}

/// One value of a result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// INTEGER.
    Integer(i64),
    /// REAL.
    Real(f64),
    /// TEXT.
    Text(&'a str),
    /// BLOB, or a TEXT that is not UTF-8, as a cast can make one.
    Blob(&'a [u8]),
}

impl Database {
    /// SQL over what `view` shows and over `log` up to there; `log` is the log that the view's
    /// table was built from. [`Kind::NotInHistory`] when it cannot be.
    pub fn open(view: View, log: Arc<Log>) -> Result<Self> {
        let state = Arc::new(State::default());
        let (applied, lost) = (view.applied(), view.lost().to_vec());
        if let Some(applied) = applied {
            belongs(&log, applied)?;
        }
        let end = applied.map_or(Offset(0), |applied| applied.offset);
        let open = || {
            let mut connection = Connection::open_in_memory()?;
            functions::add(&connection)?;
            let kv = Kv::new(view, Arc::clone(&state));
            vtab::create(&connection, "kv", kv, &state)?;
            let records = Records::new(log, end, Arc::clone(&state));
            vtab::create(&connection, "log", records, &state)?;
            let watched = Arc::clone(&state);
            connection.progress_handler(STOP_EVERY, Some(move || watched.is_stopped()))?;
            connection.authorizer(Some(guard::authorizer(Arc::clone(&state))))?;
            Ok(connection)
        };
        let connection = open().map_err(|e: SqliteError| {
            Error::new(Kind::Io, format!("cannot open SQLite in memory: {e}"))
        })?;
        Ok(Database { connection, state, applied, lost })
    }

    /// Runs one statement that reads, and hands over its rows one after another; an error from
    /// `each` ends it. Returns the columns' names, which an empty result has, too.
    ///
    /// [`Kind::InvalidInput`] says what SQLite has against the statement, or that it does more
    /// than read. Errors of the table and the log come as they are. [`Kind::Interrupted`] follows
    /// an [`interrupt`](InterruptHandle::interrupt).
    pub fn query(
        &self,
        sql: &str,
        mut each: impl FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<Vec<String>> {
        self.state.clear();
        let mut statement = self.prepare(sql)?;
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut rows = statement.query([]).map_err(|e| self.explain(sql, e))?;
        while let Some(row) = rows.next().map_err(|e| self.explain(sql, e))? {
            each(&Row { names: &names, row })?;
        }
        drop(rows);
        Ok(names)
    }

    /// Where the view stands: `log` ends there. `None` for a view of an empty table.
    pub fn applied(&self) -> Option<Position> {
        self.applied
    }

    /// Ranges of offsets that were lost to damage: `log` has no rows for them, and `kv` may lack
    /// what they set.
    pub fn lost(&self) -> &[Range<Offset>] {
        &self.lost
    }

    /// What ends a query from another thread.
    pub fn interrupt_handle(&self) -> InterruptHandle {
        InterruptHandle(Arc::clone(&self.state))
    }

    /// Ends queries, too, while `flag` is set: for a flag that a signal sets. The first flag
    /// given is the one that is watched.
    pub fn interrupt_on(&self, flag: &'static AtomicBool) {
        let _ = self.state.stop_on.set(flag);
    }

    fn prepare(&self, sql: &str) -> Result<Statement<'_>> {
        let invalid = |message: &str| Err(Error::new(Kind::InvalidInput, message));
        if sql.contains('\0') {
            return invalid("expected SQL, found a NUL character in it");
        }
        let statement = self.connection.prepare(sql).map_err(|e| self.explain(sql, e))?;
        // Whatever reads has columns; nothing, or a comment, has none.
        if statement.column_count() == 0 {
            return invalid("expected a statement that reads, such as SELECT; found none");
        }
        if !statement.readonly() {
            return Err(writes("one that writes"));
        }
        Ok(statement)
    }

    /// The error behind SQLite's.
    fn explain(&self, sql: &str, error: SqliteError) -> Error {
        if let Some(kept) = take(&self.state.kept) {
            if kept.kind() == Kind::Interrupted {
                self.state.stop.store(false, Release);
            }
            return kept;
        }
        if let Some(what) = take(&self.state.refused) {
            return writes(&what);
        }
        let (kind, message) = match &error {
            SqliteError::SqliteFailure(failure, message) => {
                let kind = match failure.code {
                    ErrorCode::OperationInterrupted => {
                        self.state.stop.store(false, Release);
                        return interrupted();
                    }
                    ErrorCode::DiskFull => Kind::DiskFull,
                    ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::OutOfMemory => {
                        Kind::Io
                    }
                    _ => Kind::InvalidInput,
                };
                (kind, message.clone().unwrap_or_else(|| failure.to_string()))
            }
            SqliteError::SqlInputError { msg, sql: part, offset, .. } => {
                // SQLite counts from the start of the statement that it was reading.
                let at = usize::try_from(*offset)
                    .ok()
                    .and_then(|offset| sql.len().checked_sub(part.len())?.checked_add(offset));
                (
                    Kind::InvalidInput,
                    at.map_or(msg.clone(), |at| format!("{msg}{}", place(sql, at))),
                )
            }
            SqliteError::MultipleStatement => {
                (Kind::InvalidInput, "expected one statement, found several".into())
            }
            SqliteError::InvalidParameterCount(..) => (
                Kind::InvalidInput,
                "expected a statement without parameters, found some to bind".into(),
            ),
            other => (Kind::InvalidInput, other.to_string()),
        };
        // SQLite finds by itself that a table takes no writes, before it asks.
        match message.ends_with("may not be modified") {
            true => writes("one that writes"),
            false => Error::new(kind, format!("SQL: {message}")),
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("applied", &self.applied).finish_non_exhaustive()
    }
}

/// Whether a view at `applied` can be of this log.
fn belongs(log: &Log, applied: Position) -> Result<()> {
    let known = applied.offset > log.start();
    if applied.offset > log.end()
        || known && log.epoch_at(Offset(applied.offset.0 - 1)) != applied.epoch.number
    {
        return Err(Error::new(
            Kind::NotInHistory,
            format!(
                "expected a view of this log, found one at offset {} of epoch {}; the log ends \
                 at {}",
                applied.offset,
                applied.epoch.number,
                log.end()
            ),
        ));
    }
    Ok(())
}

fn writes(found: &str) -> Error {
    Error::new(Kind::InvalidInput, format!("expected a statement that reads, found {found}"))
        .help("kv and log can be read alone; records are changed by appending to the log")
}

/// ` at line 2, column 7`, of a byte.
fn place(sql: &str, byte: usize) -> String {
    let before = sql.get(..byte).unwrap_or(sql);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!(" at line {line}, column {column}")
}

fn interrupted() -> Error {
    Error::new(Kind::Interrupted, "the query was stopped")
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl State {
    fn clear(&self) {
        take(&self.kept);
        take(&self.refused);
    }

    /// Keeps an error until SQLite has come back; what SQLite is told instead.
    fn keep(&self, error: Error) -> SqliteError {
        let told = SqliteError::ModuleError(error.to_string());
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        told
    }

    fn refuse(&self, what: String) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Acquire) || self.stop_on.get().is_some_and(|flag| flag.load(Acquire))
    }

    fn check_stop(&self) -> Result<()> {
        if self.is_stopped() { Err(interrupted()) } else { Ok(()) }
    }
}

impl InterruptHandle {
    /// Ends the query that runs, or else the next one, with [`Kind::Interrupted`].
    pub fn interrupt(&self) {
        self.0.stop.store(true, Release);
    }
}

impl<'a> Row<'a> {
    /// The columns' names, in order. Two may be the same.
    pub fn columns(&self) -> &'a [String] {
        self.names
    }

    /// The value of a column, from 0; `None` behind the last.
    pub fn get(&self, column: usize) -> Option<Value<'a>> {
        Some(match self.row.get_ref(column).ok()? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(n) => Value::Integer(n),
            ValueRef::Real(n) => Value::Real(n),
            ValueRef::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => Value::Text(text),
                Err(_) => Value::Blob(text),
            },
            ValueRef::Blob(bytes) => Value::Blob(bytes),
        })
    }

    /// The values in the columns' order.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let row = *self;
        (0..self.names.len()).map_while(move |column| row.get(column))
    }
}

/// Bytes as SQL shows them.
fn text_or_blob(bytes: &[u8]) -> ValueRef<'_> {
    match std::str::from_utf8(bytes) {
        Ok(_) => ValueRef::Text(bytes),
        Err(_) => ValueRef::Blob(bytes),
    }
}

/// A count as SQL shows it. No log gets that long.
fn integer(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The guide, so that its example is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../docs/sqlite-sink.md")]
struct Guide;
