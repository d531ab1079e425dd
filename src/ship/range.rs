//! Ranges of a file, as a request's header asks for them. Pure; the server's, and the fuzzer's.

/// What a `Range` header comes to, for a file of so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranged {
    /// The header is none that is understood: the whole file is the answer, as the standard says.
    Whole,
    /// One range: its first byte, and how many; at least one, and none behind the end.
    Part {
        /// The first byte.
        from: u64,
        /// How many.
        bytes: u64,
    },
    /// Nothing of it is in the file.
    Outside,
}

/// Reads `bytes=10-19`, `bytes=10-` or `bytes=-10`. Several ranges at once are not served: the
/// whole is.
pub fn parse_range(header: &str, file_bytes: u64) -> Ranged {
    let Some((unit, range)) = header.split_once('=') else { return Ranged::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Ranged::Whole;
    }
    let Some((first, last)) = range.trim().split_once('-') else { return Ranged::Whole };
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // A number too large to be told is behind every file's end.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (first, last) = (first.trim(), last.trim());
    match (number(first), number(last)) {
        (Some(from), to) if to.is_some() || last.is_empty() => {
            if to.is_some_and(|to| to < from) {
                return Ranged::Whole;
            }
            if from >= file_bytes {
                return Ranged::Outside;
            }
            let to = to.unwrap_or(u64::MAX).min(file_bytes - 1);
            Ranged::Part { from, bytes: to - from + 1 }
        }
        (None, Some(0)) if first.is_empty() => Ranged::Outside,
        (None, Some(last)) if first.is_empty() => {
            if file_bytes == 0 {
                return Ranged::Outside;
            }
            let bytes = last.min(file_bytes);
            Ranged::Part { from: file_bytes - bytes, bytes }
        }
        _ => Ranged::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_range_is_read_and_kept_inside_the_file() {
        let part = |from, bytes| Ranged::Part { from, bytes };
        for (header, expected) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=10-19", part(10, 10)),
            ("bytes=90-", part(90, 10)),
            ("bytes=90-200", part(90, 10)),
            ("bytes=99-99999999999999999999999", part(99, 1)),
            ("bytes=-10", part(90, 10)),
            ("bytes=-1000", part(0, 100)),
            ("Bytes = 5-6", part(5, 2)),
            ("bytes=100-", Ranged::Outside),
            ("bytes=-0", Ranged::Outside),
            ("bytes=99999999999999999999-", Ranged::Outside),
            ("bytes=20-10", Ranged::Whole),
            ("bytes=0-1,5-6", Ranged::Whole),
            ("bytes=-", Ranged::Whole),
            ("bytes=+1-2", Ranged::Whole),
            ("bytes=--2", Ranged::Whole),
            ("bytes", Ranged::Whole),
            ("items=0-1", Ranged::Whole),
            ("", Ranged::Whole),
        ] {
            assert_eq!(parse_range(header, 100), expected, "{header}");
        }
        assert_eq!(parse_range("bytes=-1", 0), Ranged::Outside);
        assert_eq!(parse_range("bytes=0-", 0), Ranged::Outside);
    }
}
