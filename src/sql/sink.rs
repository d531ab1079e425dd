//! A SQLite file that keeps a log's latest state: rows and the applied position in one
//! transaction.
//!
//! ```text
//! kv(key PRIMARY KEY, value, offset, ts)                       as in the virtual table of that name
//! tidelog(version, log, epoch, nonce, log_byte, offset)        one row: whose records, how far
//! tidelog_lost(start, "end")                                   offsets lost to damage
//! ```
//!
//! Driven like the table, by [`Applier`]; `docs/sqlite-sink.md` builds one like it step by step,
//! for those who bring their own store. Invariants:
//! - a transaction holds whole batches and the position behind them, or nothing of both: however
//!   a process ends, the next one goes on exactly behind what is stored, so that no record is
//!   applied twice or skipped;
//! - the position is looked at again inside the transaction: a second writer on the same file
//!   gets an error, not a hole;
//! - the file belongs to one log, and says which.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::{ToSql, ToSqlOutput};
use rusqlite::{
    Connection, Error as SqliteError, ErrorCode, OptionalExtension, Statement, Transaction,
    TransactionBehavior, params,
};

use crate::error::{Error, Kind, Result};
use crate::log::{Entries, Log};
use crate::position::{Epoch, Id, LogByte, Offset, Position};
use crate::record::Op;
use crate::table::{Applied, Applier, Apply, Frames};

use super::{belongs, integer, text_or_blob};

/// Version of the tables' form.
const VERSION: i64 = 1;

const TABLES: &str = "
    CREATE TABLE kv(key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL,
                    offset INTEGER NOT NULL, ts INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE tidelog(one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL,
                         log TEXT NOT NULL, epoch INTEGER, nonce TEXT, log_byte INTEGER,
                         offset INTEGER);
    CREATE TABLE tidelog_lost(start INTEGER NOT NULL, \"end\" INTEGER NOT NULL);";

const PUT: &str = "INSERT OR REPLACE INTO kv VALUES (?1, ?2, ?3, ?4)";
const DELETE: &str = "DELETE FROM kv WHERE key = ?1";

/// How long another process's transaction is waited for.
const BUSY: Duration = Duration::from_secs(5);

/// A SQLite file that follows a log.
///
/// ```
/// use tidelog::{Log, Record, sql::SqliteSink};
/// # fn main() -> tidelog::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("log");
/// # let file = directory.path().join("rows.db");
/// let log = Log::options().create(true).open(path)?;
/// log.append(&Record::put(b"gate", b"open"))?;
/// let mut sink = SqliteSink::open(&file, log.id())?;
/// assert_eq!(sink.catch_up(&log)?.records, 1);
/// drop(sink);
/// // Whoever opens it next goes on behind what is stored.
/// assert_eq!(SqliteSink::open(&file, log.id())?.catch_up(&log)?.records, 0);
/// # log.close()
/// # }
/// ```
#[derive(Debug)]
pub struct SqliteSink {
    connection: Connection,
    path: PathBuf,
    log: Id,
    applied: Option<Position>,
    /// Aborts the process when so many records were written, somewhere in a transaction.
    #[cfg(test)]
    pub(super) abort_after: Option<u64>,
}

impl SqliteSink {
    /// Opens the file at `path` for the records of the log `log`; makes it when it is not there.
    ///
    /// [`Kind::WrongLog`] when it keeps another log's records, [`Kind::AlreadyExists`] when it has
    /// a table `kv` of somebody else's, [`Kind::NotALog`] when it is no SQLite file.
    pub fn open(path: impl AsRef<Path>, log: Id) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open(&path)?;
            connection.busy_timeout(BUSY)?;
            // Readers go on while a transaction is written. Every commit is synced: one that a
            // power cut took back could need records that retention has dropped meanwhile.
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            Ok(connection)
        };
        let mut connection = open().map_err(|e| failed("open", &path, &e))?;
        let applied = prepare(&mut connection, &path, log)?;
        Ok(SqliteSink {
            connection,
            path,
            log,
            applied,
            #[cfg(test)]
            abort_after: None,
        })
    }

    /// Applies everything that is visible in `log` and not applied yet. [`Kind::WrongLog`] when
    /// it is another log, [`Kind::NotInHistory`] when its history does not hold what was applied.
    pub fn catch_up(&mut self, log: &Log) -> Result<Applied> {
        if log.id() != self.log {
            return Err(wrong_log(self.log, log.id(), &self.path));
        }
        if let Some(applied) = self.applied {
            belongs(log, applied).map_err(|e| e.in_file(&self.path))?;
        }
        Applier::new(log, self)?.run(self)
    }

    /// Behind the last record applied; `None` before the first.
    pub fn applied(&self) -> Option<Position> {
        self.applied
    }

    /// The log whose records it keeps.
    pub fn log(&self) -> Id {
        self.log
    }

    /// Ranges of offsets that were lost to damage in the log, as far as they were applied.
    pub fn lost(&self) -> Result<Vec<Range<Offset>>> {
        let read = || -> rusqlite::Result<Vec<Range<Offset>>> {
            let mut statement = self
                .connection
                .prepare("SELECT start, \"end\" FROM tidelog_lost ORDER BY start")?;
            statement.query_map([], |row| Ok(offset(row.get(0)?)..offset(row.get(1)?)))?.collect()
        };
        read().map_err(|e| failed("read", &self.path, &e))
    }
}

impl Apply for SqliteSink {
    fn applied(&self) -> Option<Position> {
        self.applied
    }

    fn apply(&mut self, frames: &mut Frames<'_>) -> Result<()> {
        let path = &self.path;
        let write = |e: SqliteError| failed("write", path, &e);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(write)?;
        let stored = position(&transaction).map_err(write)?;
        let at = stored.map_or(Offset(0), |position| position.offset);
        if frames.from() != at {
            self.applied = stored;
            return Err(Error::new(
                Kind::InvalidInput,
                format!("expected records from offset {at} on, found some from {}", frames.from()),
            )
            .in_file(path)
            .help("apply from where the file stands: somebody else has written to it"));
        }
        // What came whole before a failure to read is kept: it is true, and the next try goes on
        // behind it. A failure to write keeps nothing of this transaction.
        let mut reached = stored;
        #[cfg(test)]
        let mut left = self.abort_after;
        let mut put = transaction.prepare(PUT).map_err(write)?;
        let mut delete = transaction.prepare(DELETE).map_err(write)?;
        let outcome = loop {
            let entries = match frames.next() {
                Ok(Some(entries)) => entries,
                Ok(None) => {
                    reached = frames.position().or(reached);
                    break Ok(());
                }
                Err(error) => break Err(error),
            };
            #[cfg(test)]
            abort_among(&mut left, entries.len());
            write_batch(&mut put, &mut delete, &entries).map_err(|e| match e {
                Failed::Read(error) => error,
                Failed::Write(error) => failed("write", path, &error),
            })?;
            reached = frames.position();
        };
        drop((put, delete));
        if reached != stored {
            let lost = frames.lost();
            advance(&transaction, reached, lost).map_err(write)?;
        }
        transaction.commit().map_err(write)?;
        self.applied = reached;
        outcome
    }
}

#[cfg(test)]
fn abort_among(left: &mut Option<u64>, records: usize) {
    if let Some(left) = left {
        match left.checked_sub(records as u64) {
            Some(fewer) => *left = fewer,
            None => std::process::abort(),
        }
    }
}

/// What went wrong with a batch.
enum Failed {
    Read(Error),
    Write(SqliteError),
}

impl From<SqliteError> for Failed {
    fn from(error: SqliteError) -> Self {
        Failed::Write(error)
    }
}

fn write_batch(
    put: &mut Statement<'_>,
    delete: &mut Statement<'_>,
    entries: &Entries<'_>,
) -> Result<(), Failed> {
    for entry in entries.iter() {
        let entry = entry.map_err(Failed::Read)?;
        let Some(key) = entry.record.key.map(Bytes) else { continue };
        match entry.record.op {
            Op::Event => {}
            Op::Put => {
                let value = Bytes(entry.record.value);
                put.execute(params![key, value, integer(entry.offset.0), entry.timestamp])?;
            }
            Op::Delete => {
                delete.execute([key])?;
            }
        }
    }
    Ok(())
}

/// Bytes as SQL shows them: TEXT when they are.
struct Bytes<'a>(&'a [u8]);

impl ToSql for Bytes<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(text_or_blob(self.0)))
    }
}

/// Makes the tables, or holds those that are there against what is expected.
fn prepare(connection: &mut Connection, path: &Path, log: Id) -> Result<Option<Position>> {
    let write = |e: SqliteError| failed("prepare", path, &e);
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(write)?;
    let has = |name: &str| {
        let sql = "SELECT 1 FROM sqlite_schema WHERE name = ?1";
        transaction.query_row(sql, [name], |_| Ok(())).optional().map(|found| found.is_some())
    };
    if !has("tidelog").map_err(write)? {
        if has("kv").map_err(write)? {
            return Err(Error::new(
                Kind::AlreadyExists,
                "expected a file without a table kv, or one of tidelog's, found somebody else's",
            )
            .in_file(path)
            .help("choose another file"));
        }
        transaction.execute_batch(TABLES).map_err(write)?;
        let sql = "INSERT INTO tidelog(one, version, log) VALUES (1, ?1, ?2)";
        transaction.execute(sql, params![VERSION, log.to_string()]).map_err(write)?;
    }
    let (version, found): (i64, String) = transaction
        .query_row("SELECT version, log FROM tidelog", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .map_err(write)?;
    if version != VERSION {
        return Err(Error::new(
            Kind::NewerVersion,
            format!("expected tables of version {VERSION}, found version {version}"),
        )
        .in_file(path));
    }
    let found: Id = found.parse().map_err(|()| {
        Error::new(Kind::Corrupt, format!("expected a log's id, found {found:?}"))
            .in_file(path)
            .help("remove the file: it is made again from the log")
    })?;
    if found != log {
        return Err(wrong_log(found, log, path));
    }
    let applied = position(&transaction).map_err(write)?;
    transaction.commit().map_err(write)?;
    Ok(applied)
}

fn wrong_log(expected: Id, found: Id, path: &Path) -> Error {
    Error::new(Kind::WrongLog, format!("expected records of log {expected}, found log {found}"))
        .in_file(path)
        .help("give each log a file of its own")
}

/// The stored position.
fn position(connection: &Connection) -> rusqlite::Result<Option<Position>> {
    let sql = "SELECT offset, epoch, nonce, log_byte FROM tidelog";
    connection.query_row(sql, [], |row| {
        let Some(reached) = row.get::<_, Option<i64>>(0)? else { return Ok(None) };
        let nonce: String = row.get(2)?;
        let nonce = u64::from_str_radix(&nonce, 16).map_err(|e| {
            SqliteError::FromSqlConversionFailure(2, rusqlite::types::Type::Text, Box::new(e))
        })?;
        Ok(Some(Position {
            epoch: Epoch { number: offset(row.get(1)?).0, nonce },
            log_byte: LogByte(offset(row.get(3)?).0),
            offset: offset(reached),
        }))
    })
}

/// Writes where the rows stand, and what was lost on the way.
fn advance(
    transaction: &Transaction<'_>,
    reached: Option<Position>,
    lost: &[Range<Offset>],
) -> rusqlite::Result<()> {
    let Some(Position { epoch, log_byte, offset }) = reached else { return Ok(()) };
    for range in lost.iter().filter(|range| range.end <= offset) {
        transaction.execute(
            "INSERT INTO tidelog_lost VALUES (?1, ?2)",
            params![integer(range.start.0), integer(range.end.0)],
        )?;
    }
    transaction.execute(
        "UPDATE tidelog SET epoch = ?1, nonce = ?2, log_byte = ?3, offset = ?4",
        params![
            integer(epoch.number),
            format!("{:016x}", epoch.nonce),
            integer(log_byte.0),
            integer(offset.0)
        ],
    )?;
    Ok(())
}

/// A count as it is stored; nobody stores a negative one.
fn offset(stored: i64) -> Offset {
    Offset(u64::try_from(stored).unwrap_or(0))
}

/// A failure of SQLite's, by what the caller can do about it.
fn failed(what: &str, path: &Path, error: &SqliteError) -> Error {
    let (kind, help) = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            (Kind::DiskFull, Some("free space on this file system, then try again"))
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (Kind::Locked, Some("wait for the process that writes to it"))
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => (Kind::ReadOnly, None),
        Some(ErrorCode::NotADatabase) => (Kind::NotALog, None),
        Some(ErrorCode::DatabaseCorrupt) => {
            (Kind::Corrupt, Some("remove the file: it is made again from the log"))
        }
        _ => (Kind::Io, None),
    };
    let error = Error::new(kind, format!("cannot {what} SQLite's file: {error}")).in_file(path);
    match help {
        Some(help) => error.help(help),
        None => error,
    }
}

#[cfg(test)]
mod tests;
