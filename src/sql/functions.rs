//! `rfc3339(ts)` and `ns(text)`: timestamps as people write them, and back.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, Error as SqliteError};

use crate::text::{TimeFormat, format_time, parse_time};

/// Adds the functions to a connection.
pub(super) fn add(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function("rfc3339", 1, flags, rfc3339)?;
    connection.create_scalar_function("ns", 1, flags, ns)
}

fn rfc3339(context: &mut Context<'_>) -> rusqlite::Result<Option<String>> {
    match context.get_raw(0) {
        ValueRef::Null => Ok(None),
        ValueRef::Integer(timestamp) => Ok(Some(format_time(timestamp))),
        other => {
            refuse("rfc3339: expected nanoseconds since 1970 as an integer", other.data_type())
        }
    }
}

fn ns(context: &mut Context<'_>) -> rusqlite::Result<Option<i64>> {
    let text = match context.get_raw(0) {
        ValueRef::Null => return Ok(None),
        ValueRef::Text(text) => String::from_utf8_lossy(text),
        other => return refuse("ns: expected a time as text", other.data_type()),
    };
    parse(&text)
        .map(Some)
        .map_err(|message| SqliteError::UserFunctionError(format!("ns: {message}").into()))
}

/// A time with its zone, or a date or date and time in UTC.
fn parse(text: &str) -> Result<i64, String> {
    let outcome = parse_time(text, TimeFormat::Rfc3339);
    if outcome.is_err()
        && let Ok(time) = text.trim().parse::<DateTime>()
        && let Ok(time) = time.to_zoned(TimeZone::UTC)
        && let Ok(timestamp) = i64::try_from(time.timestamp().as_nanosecond())
    {
        return Ok(timestamp);
    }
    outcome
}

fn refuse<T>(expected: &str, found: Type) -> rusqlite::Result<T> {
    let found = match found {
        Type::Null => "NULL",
        Type::Integer => "an integer",
        Type::Real => "a fraction",
        Type::Text => "text",
        Type::Blob => "a blob",
    };
    Err(SqliteError::UserFunctionError(format!("{expected}, found {found}").into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_a_zone_and_dates_as_utc() {
        assert_eq!(parse("1970-01-01T00:00:01Z"), Ok(1_000_000_000));
        assert_eq!(parse("1970-01-01T01:00:01+01:00"), Ok(1_000_000_000));
        assert_eq!(parse("1970-01-02"), Ok(86_400_000_000_000));
        assert_eq!(parse("1970-01-01 00:00:00.5"), Ok(500_000_000));
        for bad in ["", "yesterday", "1500-01-01"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
