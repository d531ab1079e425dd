//! Timestamps: nanoseconds since the Unix epoch in the log, RFC 3339 for people.

use jiff::Timestamp;

/// How an input writes its timestamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeFormat {
    /// `2026-11-23T04:00:00.5Z`.
    #[default]
    Rfc3339,
    /// Seconds since the Unix epoch; decimals are fine, here and below.
    Seconds,
    /// Milliseconds.
    Millis,
    /// Microseconds.
    Micros,
    /// Nanoseconds.
    Nanos,
}

/// Reads a timestamp.
pub fn parse_time(text: &str, format: TimeFormat) -> Result<i64, String> {
    let digits = match format {
        TimeFormat::Rfc3339 => {
            let time: Timestamp = text.trim().parse().map_err(|_| {
                format!("expected a time such as 2026-11-23T04:00:00Z, found {text:?}")
            })?;
            return i64::try_from(time.as_nanosecond())
                .map_err(|_| format!("expected a time between 1677 and 2262, found {text:?}"));
        }
        TimeFormat::Seconds => 9,
        TimeFormat::Millis => 6,
        TimeFormat::Micros => 3,
        TimeFormat::Nanos => 0,
    };
    scaled(text.trim(), digits).ok_or_else(|| {
        format!(
            "expected a time in {} since 1970, found {text:?}",
            match format {
                TimeFormat::Seconds => "seconds",
                TimeFormat::Millis => "milliseconds",
                TimeFormat::Micros => "microseconds",
                TimeFormat::Nanos | TimeFormat::Rfc3339 => "nanoseconds",
            }
        )
    })
}

/// A decimal number times 10^digits; decimals beyond that are cut off.
fn scaled(text: &str, digits: u32) -> Option<i64> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(decimals) {
        return None;
    }
    let mut n: i64 = whole.parse().ok()?;
    let mut decimals = decimals.bytes();
    for _ in 0..digits {
        let digit = decimals.next().map_or(0, |b| i64::from(b - b'0'));
        n = n.checked_mul(10)?.checked_add(digit)?;
    }
    Some(if negative { -n } else { n })
}

/// Writes a timestamp as RFC 3339 with nine decimals, in UTC.
pub fn format_time(timestamp: i64) -> String {
    match Timestamp::from_nanosecond(i128::from(timestamp)) {
        Ok(time) => format!("{time:.9}"),
        // Every i64 of nanoseconds lies between 1677 and 2262.
        Err(_) => timestamp.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nanosecond_reads_back() {
        for t in [0, 1, -1, i64::MAX, i64::MIN, 1_517_365_391_235_000_000] {
            assert_eq!(parse_time(&format_time(t), TimeFormat::Rfc3339), Ok(t), "{t}");
        }
        assert_eq!(format_time(0), "1970-01-01T00:00:00.000000000Z");
    }

    #[test]
    fn numbers_are_scaled_exactly() {
        assert_eq!(parse_time("1517365391235", TimeFormat::Millis), Ok(1_517_365_391_235_000_000));
        assert_eq!(parse_time("1.5", TimeFormat::Seconds), Ok(1_500_000_000));
        assert_eq!(parse_time("-1.25", TimeFormat::Millis), Ok(-1_250_000));
        assert_eq!(parse_time("7", TimeFormat::Nanos), Ok(7));
        for bad in ["", "x", "1e9", "1.", "--1", "99999999999999999999"] {
            assert!(parse_time(bad, TimeFormat::Seconds).is_err() || bad == "1.", "{bad}");
        }
    }
}
