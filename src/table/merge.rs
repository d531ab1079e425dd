//! Several ordered sources as one: the newest version of every key, in key order.
//!
//! Used by scans (which leave deletes out) and by the merging of runs (which keeps them unless
//! nothing older is left). Sources come newest first; among equal keys the first one wins and the
//! others are passed over. There are few sources, so the smallest key is found by looking at all
//! of them; the first eight bytes of each are kept at hand.

use std::cmp::Ordering;

use crate::error::Result;
use crate::mutant::{self, Mutant};

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
    fn delete(&self) -> Option<bool> {
        match self {
            Source::Delta(cursor) => cursor.delete(),
            Source::Run(cursor) => cursor.delete(),
        }
    }

    #[inline]
    fn key(&self) -> Option<&[u8]> {
        self.current().map(|(key, _)| key)
    }

    #[inline(always)]
    fn advance(&mut self) -> Result<()> {
        match self {
            Source::Delta(cursor) => cursor.advance(),
            Source::Run(cursor) => cursor.advance(),
        }
    }
}

/// The first eight bytes of a key, as a number that orders like them; in reverse, against them.
#[inline]
fn first(key: &[u8], reverse: bool) -> u64 {
    let first = match key.first_chunk::<8>() {
        Some(first) => u64::from_be_bytes(*first),
        None => {
            let mut bytes = [0; 8];
            bytes[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(bytes)
        }
    };
    if reverse { !first } else { first }
}

/// All sources as one.
#[derive(Debug)]
pub(super) struct Merge {
    /// Those with a row left, newest first.
    heads: Vec<Source>,
    /// The first bytes of each one's key, in reverse inverted: the smallest comes next.
    firsts: Vec<u64>,
    /// Those without.
    done: Vec<Source>,
    /// The source of the current row.
    winner: usize,
    /// Others that stand on the same key.
    equal: Vec<usize>,
    reverse: bool,
}

impl Merge {
    /// Sources, newest first, all in the same direction. It stands nowhere until it is told.
    pub(super) fn new(sources: Vec<Source>, reverse: bool) -> Self {
        let (heads, firsts, equal) = (Vec::new(), Vec::new(), Vec::new());
        Merge { heads, firsts, done: sources, winner: 0, equal, reverse }
    }

    /// Goes to the first key at or behind `key`; in reverse, to the last before it. `None` is the
    /// first, or the last, of all.
    pub(super) fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        // Their age is their order, and it is lost once some are done.
        assert!(self.heads.is_empty(), "a merge is sought once");
        for mut source in self.done.drain(..) {
            source.seek(key)?;
            if let Some(key) = source.key() {
                self.firsts.push(first(key, self.reverse));
                self.heads.push(source);
            }
        }
        self.choose();
        Ok(())
    }

    /// The newest version of the key it stands on; `None` behind the end.
    #[inline]
    pub(super) fn current(&self) -> Option<(&[u8], Version<'_>)> {
        self.heads.get(self.winner)?.current()
    }

    /// Whether it stands on a row, and if so, whether that is a delete: for less than all of it.
    #[inline]
    pub(super) fn delete(&self) -> Option<bool> {
        self.heads.get(self.winner)?.delete()
    }

    /// Goes on by one key.
    #[inline]
    pub(super) fn advance(&mut self) -> Result<()> {
        if let [only] = &mut self.heads[..] {
            // Nothing to compare with.
            only.advance()?;
            if only.delete().is_none() {
                self.heads.clear();
            }
            return Ok(());
        }
        if self.heads.is_empty() {
            return Ok(());
        }
        let mut ended = !self.step(self.winner)?;
        while let Some(i) = self.equal.pop() {
            ended |= !self.step(i)?;
        }
        if ended {
            self.drop_ended();
        }
        self.choose();
        Ok(())
    }

    /// Advances one source; whether it has a row left.
    #[inline]
    fn step(&mut self, i: usize) -> Result<bool> {
        let source = &mut self.heads[i];
        source.advance()?;
        let Some(key) = source.key() else { return Ok(false) };
        self.firsts[i] = first(key, self.reverse);
        Ok(true)
    }

    #[cold]
    fn drop_ended(&mut self) {
        self.heads.retain(|source| source.delete().is_some());
        let firsts = self.heads.iter().filter_map(Source::key).map(|key| first(key, self.reverse));
        self.firsts = firsts.collect();
    }

    /// Finds the source to go on with.
    #[inline]
    fn choose(&mut self) {
        self.winner = 0;
        let Some(&(mut least)) = self.firsts.first() else { return };
        // Which one it will be nobody can foresee, so nothing here is to be a jump.
        let mut ties = 0;
        for (i, &first) in self.firsts.iter().enumerate() {
            self.winner = if first < least { i } else { self.winner };
            ties = if first < least { 0 } else { ties };
            least = least.min(first);
            ties += usize::from(first == least);
        }
        if ties > 1 {
            self.choose_among(least);
        }
    }

    /// The same among those whose keys begin with the same bytes.
    fn choose_among(&mut self, least: u64) {
        for i in self.winner + 1..self.heads.len() {
            if self.firsts[i] != least {
                continue;
            }
            let order = self.heads[i].key().cmp(&self.heads[self.winner].key());
            match if self.reverse { order.reverse() } else { order } {
                Ordering::Less => {
                    self.winner = i;
                    self.equal.clear();
                }
                Ordering::Equal if mutant::on(Mutant::MergeKeepsOlder) => {
                    self.equal.push(std::mem::replace(&mut self.winner, i));
                }
                Ordering::Equal => self.equal.push(i),
                Ordering::Greater => {}
            }
        }
    }
}
