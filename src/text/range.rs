//! Ranges of a log: `10:20`, `:20`, `10:`, `-100`, `@2026-11-23T04:00:00Z:`, `@-48h:-24h`.
//!
//! Records need not be in the order of their times: those of a range of times are the ones that [`Range::admits`]
//! between the offsets of [`Range::resolve`], no more and no fewer. A time that stands alone, as a point
//! of the log, is its first record at least as new ([`Bound::resolve`]).

use std::fmt;

use crate::error::Result as Checked;
use crate::log::Log;
use crate::position::Offset;

use super::time::{TimeFormat, format_time, parse_time};
use super::units::parse_duration;

/// One end of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The log's own start or end.
    Open,
    /// An offset.
    Offset(u64),
    /// So many records before the end.
    Last(u64),
    /// The first record at or after this time, in nanoseconds since the Unix epoch.
    Time(i64),
}

/// A half-open range of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first record.
    pub from: Bound,
    /// The record behind the last.
    pub to: Bound,
}

impl Range {
    /// Everything.
    pub const ALL: Range = Range { from: Bound::Open, to: Bound::Open };

    /// Reads a range; `now` is what relative times count from.
    pub fn parse(text: &str, now: i64) -> Result<Self, String> {
        let wrong = || {
            format!(
                "expected a range such as 10:20, :20, 10:, -100, @2026-11-23T04:00:00Z:, @2026-11-23: or \
                 @-48h:-24h, found {text:?}"
            )
        };
        if let Some(last) = text.strip_prefix('-')
            && !last.contains(':')
        {
            let last = last.parse().map_err(|_| wrong())?;
            return Ok(Range { from: Bound::Last(last), to: Bound::Open });
        }
        // A time holds colons itself: the one that separates has a bound on either side.
        let mut found = None;
        for (at, _) in text.match_indices(':') {
            let (left, right) = (&text[..at], &text[at + 1..]);
            let Ok(from) = bound(left, now, false) else { continue };
            let Ok(to) = bound(right, now, matches!(from, Bound::Time(_))) else { continue };
            if found.is_some() {
                return Err(wrong());
            }
            found = Some(Range { from, to });
        }
        let range = found.ok_or_else(wrong)?;
        match (range.from, range.to) {
            (Bound::Offset(a), Bound::Offset(b)) if a > b => {
                Err(format!("expected a range that goes forward, found {text:?}"))
            }
            (Bound::Time(a), Bound::Time(b)) if a > b => {
                Err(format!("expected a range that goes forward, found {text:?}"))
            }
            _ => Ok(range),
        }
    }

    /// The offsets that it stands for in a log, as it is now. They may lie outside of what the log
    /// holds, when offsets were asked for that do. Of a range of times, not every record between them
    /// is part of it.
    pub fn resolve(&self, log: &Log) -> Checked<std::ops::Range<Offset>> {
        let from = self.from.resolve(log, log.start())?;
        let to = match self.to {
            // An older one may come behind the first that is too new.
            Bound::Time(_) => log.end(),
            to => to.resolve(log, log.end())?,
        };
        Ok(from..to)
    }

    /// Whether a record of this time is part of it, as far as its times say.
    pub fn admits(&self, timestamp: i64) -> bool {
        self.from_time().is_none_or(|from| timestamp >= from)
            && self.to_time().is_none_or(|to| timestamp < to)
    }

    /// The time at which it begins, if it is one of times.
    pub fn from_time(&self) -> Option<i64> {
        self.from.time()
    }

    /// The time before which it ends, if that is one.
    pub fn to_time(&self) -> Option<i64> {
        self.to.time()
    }
}

impl Bound {
    fn time(self) -> Option<i64> {
        match self {
            Bound::Time(time) => Some(time),
            Bound::Open | Bound::Offset(_) | Bound::Last(_) => None,
        }
    }

    /// The offset of this point in a log; `open` where it leaves it open.
    pub fn resolve(self, log: &Log, open: Offset) -> Checked<Offset> {
        Ok(match self {
            Bound::Open => open,
            Bound::Offset(offset) => Offset(offset),
            Bound::Last(n) => Offset(log.end().0.saturating_sub(n)).max(log.start()),
            Bound::Time(time) => log.seek_time(time)?,
        })
    }
}

/// As it is read, its times absolute.
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.from, self.to) {
            (Bound::Last(n), Bound::Open) => write!(f, "-{n}"),
            (from, to) => write!(f, "{from}:{to}"),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Open => Ok(()),
            Bound::Offset(offset) => offset.fmt(f),
            Bound::Last(n) => write!(f, "-{n}"),
            Bound::Time(time) => write!(f, "@{}", format_time(*time)),
        }
    }
}

/// Reads one point of a log: an offset, or a time as in ranges, with or without the `@`; `now` is
/// what relative times count from.
pub fn parse_at(text: &str, now: i64) -> Result<Bound, String> {
    let is_offset = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match bound(text, now, !is_offset) {
        Ok(at @ (Bound::Offset(_) | Bound::Time(_))) => Ok(at),
        _ => Err(format!(
            "expected an offset or a time such as 42, @2026-11-23T04:00:00Z or @-24h, found {text:?}"
        )),
    }
}

fn bound(text: &str, now: i64, after_time: bool) -> Result<Bound, ()> {
    if text.is_empty() {
        return Ok(Bound::Open);
    }
    let time = match text.strip_prefix('@') {
        Some(time) => time,
        None if after_time => text,
        None => {
            return if text.bytes().all(|b| b.is_ascii_digit()) {
                text.parse().map(Bound::Offset).map_err(drop)
            } else {
                Err(())
            };
        }
    };
    if let Some(ago) = time.strip_prefix('-').and_then(|ago| parse_duration(ago).ok()) {
        let ago = i64::try_from(ago.as_nanos()).map_err(drop)?;
        return Ok(Bound::Time(now.saturating_sub(ago)));
    }
    let midnight = || format!("{time}T00:00:00Z");
    let time = if time.len() == "2026-11-23".len() { &midnight() } else { time };
    parse_time(time, TimeFormat::Rfc3339).map(Bound::Time).map_err(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000_000;

    #[test]
    fn every_documented_form_is_read() {
        let parse = |text| {
            let range = Range::parse(text, 100 * HOUR).unwrap();
            assert_eq!(Range::parse(&range.to_string(), 0), Ok(range), "{text}: {range}");
            range
        };
        let range = |from, to| Range { from, to };
        assert_eq!(parse("10:20"), range(Bound::Offset(10), Bound::Offset(20)));
        assert_eq!(parse(":20"), range(Bound::Open, Bound::Offset(20)));
        assert_eq!(parse("10:"), range(Bound::Offset(10), Bound::Open));
        assert_eq!(parse(":"), Range::ALL);
        assert_eq!(parse("-100"), range(Bound::Last(100), Bound::Open));
        assert_eq!(parse("@-48h:-24h"), range(Bound::Time(52 * HOUR), Bound::Time(76 * HOUR)));
        assert_eq!(parse("@1970-01-01T01:00:00Z:"), range(Bound::Time(HOUR), Bound::Open));
        assert_eq!(
            parse("@1970-01-01T01:00:00Z:@1970-01-01T02:00:00Z"),
            range(Bound::Time(HOUR), Bound::Time(2 * HOUR))
        );
        assert_eq!(parse(":@1970-01-01T02:00:00Z"), range(Bound::Open, Bound::Time(2 * HOUR)));
        assert_eq!(
            parse("@1970-01-02:1970-01-03"),
            range(Bound::Time(24 * HOUR), Bound::Time(48 * HOUR))
        );
    }

    #[test]
    fn nonsense_is_refused_with_what_was_expected() {
        for bad in [
            "",
            "x",
            "10",
            "a:b",
            "20:10",
            "-",
            "--5",
            "@:",
            "@x:",
            "1:2:3",
            "+1:2",
            "-1:5",
            "@1970-1-2:",
        ] {
            let error = Range::parse(bad, 0).unwrap_err();
            assert!(error.starts_with("expected"), "{bad}: {error}");
        }
    }
}
