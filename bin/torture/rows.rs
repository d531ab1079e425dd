//! The rows that a table must show: a plain map, made from the log by reading it.
//!
//! The oracle of tables in every part of this programme. It knows no deltas, runs or checkpoints:
//! only records, in order. Invariant: a read that fails and a row that is wrong are two things,
//! for damage may cost the first and never allows the second.

use std::collections::BTreeMap;

use tidelog::table::{Row, Scan, View};
use tidelog::{Error, Kind, Log, Offset, Op};

/// Key → latest record.
pub type Rows = BTreeMap<Vec<u8>, Row>;

/// Why a table is not as it should be.
#[derive(Debug)]
pub enum Amiss {
    /// It says so itself.
    Error(Error),
    /// It shows something else.
    Wrong(String),
}

impl Amiss {
    /// In words.
    pub fn said(&self) -> String {
        match self {
            Amiss::Error(error) => format!("the table cannot be read: {error}"),
            Amiss::Wrong(found) => format!("the table is wrong: {found}"),
        }
    }
}

impl From<Error> for Amiss {
    fn from(error: Error) -> Self {
        Amiss::Error(error)
    }
}

/// The rows of everything in `log` below `end`; what a repair noted as lost is passed over.
pub fn of_log(log: &Log, end: Offset) -> tidelog::Result<Rows> {
    let mut rows = Rows::new();
    let mut cursor = log.read_range(log.start()..end)?;
    loop {
        let entry = match cursor.next() {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(rows),
            Err(error) if error.kind() == Kind::Lost => continue,
            Err(error) => return Err(error),
        };
        let Some(key) = entry.record.key else { continue };
        match entry.record.op {
            Op::Event => {}
            Op::Delete => drop(rows.remove(key)),
            Op::Put => {
                let value = entry.record.value.to_vec();
                let row = Row { value, offset: entry.offset, timestamp: entry.timestamp };
                rows.insert(key.to_vec(), row);
            }
        }
    }
}

/// Holds a view against the rows it must show, read forward, backward, and one by one.
pub fn hold(view: &View, rows: &Rows) -> Result<(), Amiss> {
    for reverse in [false, true] {
        let mut found = view.collect(&Scan::all().reverse(reverse))?;
        if reverse {
            found.reverse();
        }
        for ((key, row), (found_key, found_row)) in rows.iter().zip(&found) {
            if key != found_key || row != found_row {
                return wrong(format!(
                    "a scan (reverse: {reverse}) expects {}, finds {}",
                    describe(key, Some(row)),
                    describe(found_key, Some(found_row))
                ));
            }
        }
        if rows.len() != found.len() {
            return wrong(format!("expected {} rows, found {}", rows.len(), found.len()));
        }
    }
    if view.len()? != rows.len() as u64 {
        return wrong(format!("expected {} rows, counted {}", rows.len(), view.len()?));
    }
    for (key, row) in rows {
        hold_key(view, key, Some(row))?;
        // Next to it is none, unless there is.
        let beside = [key.as_slice(), b"\0"].concat();
        hold_key(view, &beside, rows.get(&beside))?;
    }
    Ok(())
}

/// Holds one key.
pub fn hold_key(view: &View, key: &[u8], row: Option<&Row>) -> Result<(), Amiss> {
    let found = view.get(key)?;
    match found.as_ref() == row {
        true => Ok(()),
        false => wrong(format!(
            "expected {}, found {}",
            describe(key, row),
            describe(key, found.as_ref())
        )),
    }
}

fn wrong<T>(found: String) -> Result<T, Amiss> {
    Err(Amiss::Wrong(found))
}

fn describe(key: &[u8], row: Option<&Row>) -> String {
    let key = String::from_utf8_lossy(key);
    match row {
        Some(row) => format!("{key:?} of offset {} ({} bytes)", row.offset, row.value.len()),
        None => format!("no {key:?}"),
    }
}
