//! What constraints leave of the keys, the offsets and the times, by SQLite's rules of comparing.
//!
//! A key that is UTF-8 is TEXT for SQLite, any other is a BLOB, and every TEXT sorts before every
//! BLOB, while tables and logs order keys as bytes. So there are two spans of bytes, one for keys
//! that are text and one for the rest:
//!
//! ```text
//! constraint        text keys            other keys
//! key >= 'b'        from b on            all
//! key <  'b'        before b             none
//! key >= x'80'      none                 from 80 on
//! key <  x'80'      all                  before 80
//! key GLOB 'b*'     from b, before c     from b, before c
//! ```
//!
//! Invariant: too much may be left, never too little. What is unclear (numbers against keys, text
//! against offsets: SQLite converts by affinity, which is not known here) leaves everything.

use std::ops::RangeInclusive;

use rusqlite::types::ValueRef;

use super::plan::Test;

/// Keys from `start` to before `end`, in the order of bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: Vec<u8>,
    pub(super) end: Option<Vec<u8>>,
}

impl Span {
    const fn empty() -> Self {
        Span { start: Vec::new(), end: Some(Vec::new()) }
    }

    fn from(&mut self, start: &[u8]) {
        if *start > *self.start {
            self.start = start.to_vec();
        }
    }

    fn before(&mut self, end: Vec<u8>) {
        if self.end.as_ref().is_none_or(|old| end < *old) {
            self.end = Some(end);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// Whether every key is in it.
    pub(super) fn is_everything(&self) -> bool {
        self.start.is_empty() && self.end.is_none()
    }

    /// The one key in it, if there is room for one alone.
    pub(super) fn only(&self) -> Option<&[u8]> {
        let (last, rest) = self.end.as_ref()?.split_last()?;
        (*last == 0 && rest == self.start).then_some(rest)
    }

    /// Whether all of `other` is in it.
    pub(super) fn covers(&self, other: &Span) -> bool {
        self.start <= other.start
            && match (&self.end, &other.end) {
                (None, _) => true,
                (Some(end), Some(other)) => other <= end,
                (Some(_), None) => false,
            }
    }

    fn holds(&self, key: &[u8]) -> bool {
        *key >= *self.start && self.end.as_ref().is_none_or(|end| *key < **end)
    }
}

/// The first key behind `key`.
pub(super) fn behind(key: &[u8]) -> Vec<u8> {
    let mut behind = Vec::with_capacity(key.len() + 1);
    behind.extend_from_slice(key);
    behind.push(0);
    behind
}

/// Which keys are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) text: Span,
    pub(super) blob: Span,
}

impl Keys {
    fn nothing() -> Self {
        Keys { text: Span::empty(), blob: Span::empty() }
    }

    /// Whether no key is left.
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.blob.is_empty()
    }

    /// Whether `key` may be wanted.
    pub(super) fn holds(&self, key: &[u8]) -> bool {
        // Cheap comparisons first: most keys fail them.
        match (self.text.holds(key), self.blob.holds(key)) {
            (false, false) => false,
            (true, true) => true,
            (text, _) => std::str::from_utf8(key).is_ok() == text,
        }
    }

    /// Leaves the keys for which `test` against `value` may hold. `pattern`: the same query has
    /// a LIKE or GLOB on the key. From one SQLite derives `key < 'b'` by itself, and means other
    /// keys' bytes by it, too.
    pub(super) fn narrow(&mut self, test: Test, value: ValueRef<'_>, pattern: bool) {
        match (test, value) {
            // Nothing compares with NULL.
            (_, ValueRef::Null) => *self = Keys::nothing(),
            (Test::Glob, ValueRef::Text(glob)) => self.begin(prefix(glob, b"*?[", false)),
            (Test::Like, ValueRef::Text(like)) => self.begin(prefix(like, b"%_", true)),
            (Test::Eq, ValueRef::Text(key)) => {
                self.text.from(key);
                self.text.before(behind(key));
                self.blob = Span::empty();
            }
            (Test::Eq, ValueRef::Blob(key)) => {
                self.blob.from(key);
                self.blob.before(behind(key));
                self.text = Span::empty();
            }
            (Test::Gt | Test::Ge, ValueRef::Text(key)) => self.text.from(key),
            (Test::Lt | Test::Le, ValueRef::Text(key)) => {
                self.text.before(upper(test, key));
                if !pattern {
                    self.blob = Span::empty();
                }
            }
            (Test::Gt | Test::Ge, ValueRef::Blob(key)) => {
                self.blob.from(key);
                self.text = Span::empty();
            }
            (Test::Lt | Test::Le, ValueRef::Blob(key)) => self.blob.before(upper(test, key)),
            _ => {}
        }
    }

    /// Leaves the keys that begin with `prefix`.
    fn begin(&mut self, prefix: &[u8]) {
        // A prefix is ASCII: its last byte has one above it.
        let Some((last, rest)) = prefix.split_last() else { return };
        let mut end = rest.to_vec();
        end.push(last + 1);
        for span in [&mut self.text, &mut self.blob] {
            span.from(prefix);
            span.before(end.clone());
        }
    }
}

fn upper(test: Test, key: &[u8]) -> Vec<u8> {
    if test == Test::Le { behind(key) } else { key.to_vec() }
}

/// The bytes that everything matching a pattern begins with. Stops at the first wildcard, at NUL,
/// where SQLite ends a pattern, and at the first byte that is not ASCII: there SQLite compares
/// code points, and bytes that are not UTF-8 all read as U+FFFD. LIKE takes either case of a
/// letter, so there it stops at letters, too.
fn prefix<'a>(pattern: &'a [u8], wildcards: &[u8], caseless: bool) -> &'a [u8] {
    let stops = |byte: &u8| {
        *byte == 0
            || !byte.is_ascii()
            || wildcards.contains(byte)
            || (caseless && byte.is_ascii_alphabetic())
    };
    &pattern[..pattern.iter().position(stops).unwrap_or(pattern.len())]
}

/// Which integers are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Integers {
    pub(super) low: i64,
    pub(super) high: i64,
}

impl Default for Integers {
    fn default() -> Self {
        Integers { low: i64::MIN, high: i64::MAX }
    }
}

impl Integers {
    pub(super) fn is_empty(&self) -> bool {
        self.low > self.high
    }

    pub(super) fn range(&self) -> RangeInclusive<i64> {
        self.low..=self.high
    }

    /// Leaves the integers for which `test` against `value` may hold.
    pub(super) fn narrow(&mut self, test: Test, value: ValueRef<'_>) {
        let (low, high) = match value {
            ValueRef::Null => return *self = Integers { low: 1, high: 0 },
            ValueRef::Integer(n) => (n, n),
            // Conversions from f64 saturate.
            #[expect(clippy::cast_possible_truncation, reason = "saturating is what bounds want")]
            ValueRef::Real(n) => (n.floor() as i64, n.ceil() as i64),
            ValueRef::Text(_) | ValueRef::Blob(_) => return,
        };
        if matches!(test, Test::Eq | Test::Gt | Test::Ge) {
            self.low = self.low.max(low);
        }
        if matches!(test, Test::Eq | Test::Lt | Test::Le) {
            self.high = self.high.min(high);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(constraints: &[(Test, ValueRef<'_>)]) -> Keys {
        let mut keys = Keys::default();
        let pattern = constraints.iter().any(|(test, _)| matches!(test, Test::Glob | Test::Like));
        for (test, value) in constraints {
            keys.narrow(*test, *value, pattern);
        }
        keys
    }

    #[test]
    fn text_sorts_before_blobs_whatever_its_bytes() {
        let from_b = keys(&[(Test::Ge, ValueRef::Text(b"b"))]);
        assert!(from_b.holds(b"c") && !from_b.holds(b"a") && from_b.holds(b"\x01\xff"));
        let to_b = keys(&[(Test::Lt, ValueRef::Text(b"b"))]);
        assert!(to_b.holds(b"a") && !to_b.holds(b"b") && !to_b.holds(b"a\xff"));
        let blobs = keys(&[(Test::Gt, ValueRef::Blob(b"b"))]);
        assert!(!blobs.holds(b"c") && blobs.holds(b"c\xff"));
        assert_eq!(keys(&[(Test::Eq, ValueRef::Text(b"b"))]).text.only(), Some(&b"b"[..]));
        assert!(keys(&[(Test::Eq, ValueRef::Null)]).is_empty());
    }

    #[test]
    fn prefixes_stop_where_a_pattern_stops_being_plain_bytes() {
        let span = |test, text: &'static [u8]| keys(&[(test, ValueRef::Text(text))]).text;
        assert_eq!(span(Test::Glob, b"ab*c").start, b"ab");
        assert_eq!(span(Test::Glob, b"ab*c").end.unwrap(), b"ac");
        assert_eq!(span(Test::Glob, "a\u{f6}*".as_bytes()).start, b"a");
        assert_eq!(span(Test::Glob, b"ab\0c").start, b"ab");
        assert!(span(Test::Glob, b"*").is_everything());
        assert!(span(Test::Like, b"abc%").is_everything());
        assert_eq!(span(Test::Like, b"12/a%").start, b"12/");
        // What SQLite derives from a pattern does not hide keys that are not text.
        let derived = [(Test::Glob, ValueRef::Text(b"a*")), (Test::Lt, ValueRef::Text(b"b"))];
        assert!(keys(&derived).holds(b"a\xff"));
    }

    #[test]
    fn fractions_widen_bounds() {
        let mut integers = Integers::default();
        integers.narrow(Test::Gt, ValueRef::Real(1.5));
        integers.narrow(Test::Lt, ValueRef::Real(1e300));
        integers.narrow(Test::Le, ValueRef::Integer(7));
        integers.narrow(Test::Le, ValueRef::Text(b"3"));
        assert_eq!(integers.range(), 1..=7);
        integers.narrow(Test::Eq, ValueRef::Null);
        assert!(integers.is_empty());
    }
}
