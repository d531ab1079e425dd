//! Segment file names: the one place that makes and reads them.
//!
//! A name is 20 decimal digits and `.seg`; anything else is none of ours and is never opened.

use std::path::{Path, PathBuf};

use crate::position::LogByte;

/// The name of a segment file: the log byte of its first frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName(pub LogByte);

impl SegmentName {
    /// Reads a file name; `None` unless it is exactly what [`Display`](std::fmt::Display) makes.
    pub fn parse(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(".seg")?;
        if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        digits.parse().ok().map(|byte| SegmentName(LogByte(byte)))
    }

    /// The file in `segments`, the directory of segment files.
    pub fn path(self, segments: &Path) -> PathBuf {
        let mut path = PathBuf::with_capacity(segments.as_os_str().len() + 1 + NAME_BYTES);
        path.push(segments);
        path.push(std::str::from_utf8(&self.text()).expect("digits"));
        path
    }

    fn text(self) -> [u8; NAME_BYTES] {
        let mut text = *b"00000000000000000000.seg";
        let (mut left, mut at) = (self.0.0, NAME_BYTES - 4);
        while left > 0 {
            at -= 1;
            text[at] += u8::try_from(left % 10).expect("a digit");
            left /= 10;
        }
        text
    }
}

/// A `u64` has twenty digits at most.
const NAME_BYTES: usize = 24;

impl std::fmt::Display for SegmentName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).expect("digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_names_are_read() {
        let name = SegmentName(LogByte(123));
        for name in [name, SegmentName(LogByte(0)), SegmentName(LogByte(u64::MAX))] {
            assert_eq!(name.to_string(), format!("{:020}.seg", name.0.0));
            assert_eq!(SegmentName::parse(&name.to_string()), Some(name));
        }
        assert_eq!(name.path(Path::new("/s")), Path::new("/s/00000000000000000123.seg"));
        for bad in [
            "",
            ".seg",
            "123.seg",
            "00000000000000000123",
            "00000000000000000123.seg.tmp",
            "+0000000000000000123.seg",
            "99999999999999999999.seg",
            "../00000000000000123.seg",
        ] {
            assert_eq!(SegmentName::parse(bad), None, "{bad}");
        }
    }
}
