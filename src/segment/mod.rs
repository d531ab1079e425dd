//! Segments: files of consecutive frames of one epoch, active first, then sealed for good.
//!
//! Called by `log`, `ship` and `table`; uses `frame` and `fs`.
//!
//! ```text
//! 0          4096                        data end                              file end
//! | header   | frames …        | SEAL     | zeros | producers | index | footer |
//!                                         ^ page                      ^ last 256 bytes
//! ```
//!
//! Invariants:
//! - a segment's name is the log byte of its first frame; frames follow each other without gaps;
//! - SEAL, producers, index and footer are a pure function of header and frames, so every node
//!   that holds the frames seals to the same bytes;
//! - a sealed segment never changes again; only sealed segments are mapped.

mod dump;
mod footer;
mod header;
mod index;
mod name;
mod producers;
mod seal;
mod walk;
mod window;

pub use dump::{DumpLine, dump};
pub use footer::{FOOTER_BYTES, Footer};
pub use header::{HEADER_BYTES, Link, SegmentHeader};
pub use index::{Index, IndexEntry, STEP_BYTES};
pub use name::SegmentName;
pub use producers::{ProducerState, Producers};
pub(crate) use seal::{Hashing, hash as hash_of, seal_frame, seal_with};
pub use seal::{Sealed, seal};
pub use walk::{End, Tally, search, walk};
pub use window::Window;

/// The format version that headers and footers carry.
pub const FORMAT_VERSION: u32 = 1;
/// Page size that tail writes and the index are aligned to.
pub const PAGE_BYTES: u64 = 4096;
/// Bytes of a SEAL frame.
pub const SEAL_BYTES: u64 = 40;

#[cfg(test)]
mod tests;
