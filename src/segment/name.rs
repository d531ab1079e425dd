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
        segments.join(self.to_string())
    }
}

impl std::fmt::Display for SegmentName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:020}.seg", self.0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_names_are_read() {
        let name = SegmentName(LogByte(123));
        assert_eq!(SegmentName::parse(&name.to_string()), Some(name));
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
