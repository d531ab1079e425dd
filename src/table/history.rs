//! The history of a key: every record of it, puts, deletes and events, out of the log.
//!
//! Called by users and the command line. The log is walked segment by segment; a sealed segment
//! whose key filter (`keys`) says that it cannot hold the key is passed over. A history that
//! reads a sealed segment from end to end leaves a filter behind for the next.
//!
//! Invariants:
//! - the records are those that a scan of the log would show, whatever filters there are;
//! - a filter is made only of a segment that was read whole, with every body checked, and that
//!   still has the seal it had; never of one with lost records, so that a loss is told each time;
//! - an error leaves it where it is: asking again gives the same error, never a gap.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};

use super::filter;
use super::keys::{Filters, Hashes, Sealed};
use crate::error::{Error, Kind, Result};
use crate::fs::{Fs, Open};
use crate::log::{Cursor, Log, OwnedEntry};
use crate::position::Offset;
use crate::segment::Footer;

/// Which records of a key a history shows, and in which order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Their offsets. What the log does not hold, at either end, is left out:
    /// [`History::range`] says what remains.
    pub range: Range<Offset>,
    /// Only records at least as new as this (nanoseconds since the Unix epoch), wherever they stand.
    pub from_time: Option<i64>,
    /// Only records older than this.
    pub to_time: Option<i64>,
    /// The newest first, instead of the oldest.
    pub newest_first: bool,
    /// At most so many.
    pub limit: Option<u64>,
}

impl Default for HistoryQuery {
    fn default() -> Self {
        HistoryQuery {
            range: Offset(0)..Offset(u64::MAX),
            from_time: None,
            to_time: None,
            newest_first: false,
            limit: None,
        }
    }
}

impl HistoryQuery {
    fn admits(&self, timestamp: i64) -> bool {
        self.from_time.is_none_or(|from| timestamp >= from)
            && self.to_time.is_none_or(|to| timestamp < to)
    }
}

/// What a history has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Segments that were read, in part at least.
    pub segments_read: u64,
    /// Segments that a key filter let it pass over.
    pub segments_skipped: u64,
    /// Key filters that it made and kept.
    pub filters_kept: u64,
    /// Records that it looked at.
    pub records_read: u64,
}

/// The records of one key, as the log stood when it was made. Made by [`history`].
#[derive(Debug)]
pub struct History {
    key: Box<[u8]>,
    hash: u64,
    query: HistoryQuery,
    /// As many may still be shown.
    left: u64,
    range: Range<Offset>,
    fs: Arc<dyn Fs>,
    filters: Filters,
    cursor: Cursor,
    /// What has not been looked at, in log order; taken from the end that the order begins at.
    pieces: VecDeque<Piece>,
    walk: Option<Walk>,
    /// Found and not shown yet, oldest first.
    found: VecDeque<OwnedEntry>,
    /// The same, newest last, when the newest come first: places, since they may be a whole
    /// segment's.
    places: VecDeque<Offset>,
    lost: Vec<Range<Offset>>,
    walked: Walked,
}

/// The part of a segment that is asked for.
#[derive(Debug)]
struct Piece {
    path: PathBuf,
    range: Range<Offset>,
    /// Of a sealed segment, asked for as a whole or not.
    sealed: Option<Sealed>,
    whole: bool,
}

/// A piece that is being read.
#[derive(Debug)]
struct Walk {
    piece: Piece,
    /// While they may become a filter.
    hashes: Option<Hashes>,
}

/// Every record of `key` in `log`, as `query` asks for them.
///
/// Filters that this makes on its way are kept in `<log>/table/`, if that takes files; it never
/// fails because it does not.
///
/// ```
/// use tidelog::{Log, Record};
/// use tidelog::table::{HistoryQuery, history};
/// # fn main() -> tidelog::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("log");
/// let log = Log::options().create(true).open(path)?;
/// log.append(&Record::put(b"gate", b"open"))?;
/// log.append(&Record::put(b"door", b"shut"))?;
/// log.append(&Record::delete(b"gate"))?;
/// let last = HistoryQuery { newest_first: true, limit: Some(1), ..HistoryQuery::default() };
/// let mut history = history(&log, b"gate", &last)?;
/// assert_eq!(history.next()?.unwrap().offset, 2.into());
/// assert!(history.next()?.is_none());
/// # drop(history);
/// # log.close()
/// # }
/// ```
pub fn history(log: &Log, key: &[u8], query: &HistoryQuery) -> Result<History> {
    let end = log.end();
    let segments = log.segments();
    let start = segments.first().map_or(end, |first| first.base_offset);
    let to = query.range.end.min(end);
    let from = query.range.start.max(start).min(to);
    let mut pieces = VecDeque::new();
    for (i, segment) in segments.iter().enumerate() {
        let next = segments.get(i + 1);
        let base = segment.base_offset;
        let behind = segment.end_offset.or(next.map(|next| next.base_offset)).unwrap_or(end);
        if let Some(next) = next.filter(|next| next.base_offset != behind) {
            return Err(Error::new(
                Kind::Corrupt,
                format!(
                    "expected a segment that starts at offset {behind}, found one that starts \
                     at {}",
                    next.base_offset
                ),
            )
            .in_file(&next.path)
            .help("run `tidelog verify` to see all damage"));
        }
        let range = base.max(from)..behind.min(to);
        if range.is_empty() {
            continue;
        }
        let whole = range == (base..behind);
        let records = behind.0 - base.0;
        let sealed = segment.hash.map(|hash| Sealed { base: segment.base, hash, records });
        pieces.push_back(Piece { path: segment.path.clone(), range, sealed, whole });
    }
    let home = log.home();
    let fs = Arc::clone(home.fs());
    // Of records that nobody checked, nothing may be said to those who come later. And whoever
    // only reads makes no directory: it would not be its owner's.
    let keeps = log.checks_bodies() && (home.may_write() || fs.list(&home.table()).is_ok());
    let filters = Filters::new(Arc::clone(&fs), home.table(), log.id(), keeps);
    filters.sweep(&segments.iter().map(|segment| segment.base).collect());
    Ok(History {
        key: key.into(),
        hash: filter::hash(key),
        query: query.clone(),
        left: query.limit.unwrap_or(u64::MAX),
        range: from..to,
        fs,
        filters,
        cursor: log.read_range(from.max(start)..to)?,
        pieces,
        walk: None,
        found: VecDeque::new(),
        places: VecDeque::new(),
        lost: Vec::new(),
        walked: Walked::default(),
    })
}

impl History {
    /// The next record; `None` when there are no more. An error of [`Kind::Gone`] when retention
    /// has dropped, since this was made, what comes next.
    #[expect(clippy::should_implement_trait, reason = "fails, and may be asked again")]
    pub fn next(&mut self) -> Result<Option<OwnedEntry>> {
        self.next_unless(&AtomicBool::new(false))
    }

    /// The same, and `None` soon after `stop` was set: a rare key may be far away.
    pub fn next_unless(&mut self, stop: &AtomicBool) -> Result<Option<OwnedEntry>> {
        while self.left > 0 && !stop.load(Relaxed) {
            if let Some(entry) = self.take()? {
                self.left -= 1;
                return Ok(Some(entry));
            }
            match self.walk.take() {
                Some(walk) => self.step(walk)?,
                None if self.pieces.is_empty() => return Ok(None),
                None => self.begin()?,
            }
        }
        Ok(None)
    }

    /// The offsets that it covers: what was asked for and the log holds.
    pub fn range(&self) -> Range<Offset> {
        self.range.clone()
    }

    /// Offsets on its way so far that a repair recorded as lost: there may have been records of
    /// the key among them.
    pub fn lost(&self) -> &[Range<Offset>] {
        &self.lost
    }

    /// What it has done so far.
    pub fn walked(&self) -> Walked {
        self.walked
    }

    /// What was found and is to be shown next.
    fn take(&mut self) -> Result<Option<OwnedEntry>> {
        if let Some(entry) = self.found.pop_front() {
            return Ok(Some(entry));
        }
        // The places of a piece are in order once it is read to its end.
        if self.walk.is_some() {
            return Ok(None);
        }
        let Some(&offset) = self.places.back() else { return Ok(None) };
        self.cursor.seek(offset)?;
        let entry = self.cursor.next()?.filter(|entry| entry.offset == offset);
        let Some(entry) = entry else {
            return Err(Error::new(
                Kind::Corrupt,
                format!("expected the record of offset {offset} where it was before, found none"),
            )
            .at_offset(offset.0));
        };
        let entry = entry.to_owned();
        self.places.pop_back();
        Ok(Some(entry))
    }

    /// Enters the next piece, or passes over it.
    fn begin(&mut self) -> Result<()> {
        let piece = if self.query.newest_first { self.pieces.back() } else { self.pieces.front() };
        let Some(piece) = piece else { return Ok(()) };
        let filter = piece.sealed.as_ref().and_then(|sealed| self.filters.load(sealed));
        let skip = filter.as_ref().is_some_and(|lines| !filter::may_hold(lines, self.hash));
        if !skip {
            self.cursor.seek(piece.range.start)?;
        }
        let piece =
            if self.query.newest_first { self.pieces.pop_back() } else { self.pieces.pop_front() };
        let Some(piece) = piece else { return Ok(()) };
        if skip {
            self.walked.segments_skipped += 1;
            return Ok(());
        }
        self.walked.segments_read += 1;
        let makes = filter.is_none() && piece.sealed.is_some() && piece.whole;
        let hashes = (makes && self.filters.keeps()).then(Hashes::default);
        self.walk = Some(Walk { piece, hashes });
        Ok(())
    }

    /// Reads one batch of the piece, or ends it.
    fn step(&mut self, mut walk: Walk) -> Result<()> {
        if self.cursor.offset() >= walk.piece.range.end {
            self.end(walk);
            return Ok(());
        }
        let outcome = self.batch(&mut walk);
        // Kept when it failed, too: the cursor stands where it stood.
        self.walk = Some(walk);
        outcome
    }

    fn batch(&mut self, walk: &mut Walk) -> Result<()> {
        let from = self.cursor.offset();
        let entries = match self.cursor.next_batch() {
            Ok(Some(entries)) => entries,
            // Cut off, since it was visible before.
            Ok(None) => {
                walk.hashes = None;
                walk.piece.range.end = from;
                return Ok(());
            }
            Err(e) if e.kind() == Kind::Lost => {
                walk.hashes = None;
                self.lost.push(from..self.cursor.offset());
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let records = entries.len() as u64;
        let (mut found, mut places) = (Vec::new(), Vec::new());
        let outcome = entries.iter().try_for_each(|entry| {
            let entry = entry?;
            let Some(key) = entry.record.key else { return Ok(()) };
            if let Some(hashes) = &mut walk.hashes {
                hashes.add(key);
            }
            if key == &*self.key && self.query.admits(entry.timestamp) {
                match self.query.newest_first {
                    true => places.push(entry.offset),
                    false => found.push(entry.to_owned()),
                }
            }
            Ok(())
        });
        if let Err(error) = outcome {
            let error: Error = error;
            self.cursor.seek(from)?;
            return Err(error.in_file(&walk.piece.path));
        }
        self.walked.records_read += records;
        self.found.extend(found);
        self.places.extend(places);
        // What is too old to be shown need not be remembered.
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        self.places.drain(..self.places.len().saturating_sub(most));
        Ok(())
    }

    /// A piece was read to its end.
    fn end(&mut self, walk: Walk) {
        let Some((hashes, sealed)) = walk.hashes.zip(walk.piece.sealed) else { return };
        // A repair, or a follower that fetched it again, may have put another file in its place
        // while it was read: what was seen is then none of this seal's.
        let file = self.fs.open(&walk.piece.path, Open::Read);
        let footer = file.ok().and_then(|file| Footer::read(&*file).ok().flatten());
        if footer.is_some_and(|footer| footer.hash == sealed.hash)
            && self.filters.keep(&sealed, &hashes.distinct())
        {
            self.walked.filters_kept += 1;
        }
    }
}
