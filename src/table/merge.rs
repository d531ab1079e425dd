//! Several ordered sources as one: the newest version of every key, in key order.
//!
//! Used by scans (which leave deletes out) and by the merging of runs (which keeps them unless
//! nothing older is left). Sources come newest first; among equal keys the first one wins and the
//! others are passed over. There are few sources, so the smallest key is found by looking at all
//! of them; the first eight bytes of each are kept at hand.

use std::cmp::Ordering;

use crate::error::Result;

use super::delta;
use super::row::Version;
use super::run;

/// An ordered source.
#[derive(Debug)]
pub(super) enum Source {
    Delta(delta::Cursor),
    Run(run::Cursor),
}

impl Source {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        match self {
            Source::Delta(cursor) => cursor.seek(key),
            Source::Run(cursor) => cursor.seek(key),
        }
    }

    #[inline]
    fn current(&self) -> Option<(&[u8], Version<'_>)> {
        match self {
            Source::Delta(cursor) => cursor.current(),
            Source::Run(cursor) => cursor.current(),
        }
    }

    #[inline]
    fn key(&self) -> Option<&[u8]> {
        self.current().map(|(key, _)| key)
    }

    #[inline]
    fn advance(&mut self) -> Result<()> {
        match self {
            Source::Delta(cursor) => cursor.advance(),
            Source::Run(cursor) => cursor.advance(),
        }
    }
}

/// The first eight bytes of a key, as a number that orders like them.
#[inline]
fn prefix(key: &[u8]) -> u64 {
    match key.first_chunk::<8>() {
        Some(first) => u64::from_be_bytes(*first),
        None => {
            let mut bytes = [0; 8];
            bytes[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(bytes)
        }
    }
}

/// All sources as one.
#[derive(Debug)]
pub(super) struct Merge {
    /// Those with a row left, newest first, each with its key's first bytes.
    heads: Vec<(u64, Source)>,
    /// Those without.
    done: Vec<Source>,
    /// The source of the current row.
    winner: Option<usize>,
    /// Others that stand on the same key.
    equal: Vec<usize>,
    reverse: bool,
}

impl Merge {
    /// Sources, newest first, all in the same direction. It stands nowhere until it is told.
    pub(super) fn new(sources: Vec<Source>, reverse: bool) -> Self {
        Merge { heads: Vec::new(), done: sources, winner: None, equal: Vec::new(), reverse }
    }

    /// Goes to the first key at or behind `key`; in reverse, to the last before it. `None` is the
    /// first, or the last, of all.
    pub(super) fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        // Their age is their order, and it is lost once some are done.
        assert!(self.heads.is_empty() && self.winner.is_none(), "a merge is sought once");
        for mut source in self.done.drain(..) {
            source.seek(key)?;
            if let Some(first) = source.key().map(prefix) {
                self.heads.push((first, source));
            }
        }
        self.choose();
        Ok(())
    }

    /// The newest version of the key it stands on; `None` behind the end.
    #[inline]
    pub(super) fn current(&self) -> Option<(&[u8], Version<'_>)> {
        self.heads[self.winner?].1.current()
    }

    /// Goes on by one key.
    #[inline]
    pub(super) fn advance(&mut self) -> Result<()> {
        let Some(winner) = self.winner else { return Ok(()) };
        if let [(_, only)] = &mut self.heads[..] {
            // Nothing to compare with.
            only.advance()?;
            if only.current().is_none() {
                self.heads.clear();
                self.winner = None;
            }
            return Ok(());
        }
        let mut ended = false;
        for i in self.equal.drain(..).chain(std::iter::once(winner)) {
            let (first, source) = &mut self.heads[i];
            source.advance()?;
            match source.key() {
                Some(key) => *first = prefix(key),
                None => ended = true,
            }
        }
        if ended {
            self.heads.retain(|(_, source)| source.key().is_some());
        }
        self.choose();
        Ok(())
    }

    /// Finds the source to go on with.
    #[inline]
    fn choose(&mut self) {
        self.equal.clear();
        let mut heads = self.heads.iter().enumerate();
        let Some((mut winner, &(mut least, _))) = heads.next() else {
            self.winner = None;
            return;
        };
        for (i, (first, source)) in heads {
            let order =
                first.cmp(&least).then_with(|| source.key().cmp(&self.heads[winner].1.key()));
            match if self.reverse { order.reverse() } else { order } {
                Ordering::Less => {
                    (winner, least) = (i, *first);
                    self.equal.clear();
                }
                Ordering::Equal => self.equal.push(i),
                Ordering::Greater => {}
            }
        }
        self.winner = Some(winner);
    }
}
