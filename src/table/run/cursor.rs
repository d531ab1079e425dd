//! A walk over a run's rows, in order or backwards.

use std::sync::Arc;

use crate::error::Result;
use crate::frame::Fault;

use super::block::{Block, RowAt};
use super::{Data, Run, range};
use crate::table::row::Version;

/// Walks in one direction. Made by [`Run::cursor`].
#[derive(Debug)]
pub(in crate::table) struct Cursor {
    run: Arc<Run>,
    reverse: bool,
    /// Section and block; behind the last section, or without one, there is no row.
    section: usize,
    block: usize,
    body: Body,
    count: u16,
    at: usize,
    row: Option<RowAt>,
}

/// The body of the block: a place in the map, or its bytes.
#[derive(Debug)]
enum Body {
    Mapped(u64, u64),
    Owned(Vec<u8>),
}

impl Run {
    /// All rows, deletes included; it stands nowhere until it is told.
    pub(in crate::table) fn cursor(self: &Arc<Self>, reverse: bool) -> Cursor {
        let body = Body::Owned(Vec::new());
        let run = Arc::clone(self);
        Cursor { run, reverse, section: 0, block: 0, body, count: 0, at: 0, row: None }
    }
}

impl Cursor {
    /// Goes to the first key at or behind `key`; backwards, to the last one before it. `None` is
    /// the first of all, or the last.
    pub(in crate::table) fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        let run = Arc::clone(&self.run);
        let Some(key) = key else {
            let s = if self.reverse { run.top.sections.len() - 1 } else { 0 };
            let b = if self.reverse { run.index(s)?.blocks() - 1 } else { 0 };
            self.enter(s, b)?;
            return self.stand(if self.reverse { usize::from(self.count) - 1 } else { 0 });
        };
        let Some(s) = run.section(key) else {
            // Before the first key.
            self.row = None;
            return if self.reverse { Ok(()) } else { self.seek(None) };
        };
        let b = run.index(s)?.find(key).unwrap_or(0);
        self.enter(s, b)?;
        let found = self.decoded(|block| block.lower_bound(key))?;
        if !self.reverse {
            return match found < usize::from(self.count) {
                true => self.stand(found),
                false => self.next_block(),
            };
        }
        match found.checked_sub(1) {
            Some(before) => self.stand(before),
            None => self.next_block(),
        }
    }

    /// The row it stands on.
    #[inline]
    pub(in crate::table) fn current(&self) -> Option<(&[u8], Version<'_>)> {
        let row = self.row.as_ref()?;
        let body = self.body();
        Some((row.key(body), row.version(body)))
    }

    /// Goes on by one row.
    #[inline]
    pub(in crate::table) fn advance(&mut self) -> Result<()> {
        if self.row.is_none() {
            return Ok(());
        }
        match self.reverse {
            false if self.at + 1 < usize::from(self.count) => self.stand(self.at + 1),
            true if self.at > 0 => self.stand(self.at - 1),
            _ => self.next_block(),
        }
    }

    #[inline]
    fn body(&self) -> &[u8] {
        match (&self.body, &self.run.data) {
            (Body::Mapped(at, len), Data::Mapped(map)) => range(map, *at, *len),
            (Body::Owned(bytes), _) => bytes,
            (Body::Mapped(..), Data::Read(_)) => &[],
        }
    }

    /// Stands on row `i` of the block.
    #[inline]
    fn stand(&mut self, i: usize) -> Result<()> {
        let row = Block::decode(self.body(), self.count).and_then(|block| block.row(i));
        match row {
            Ok(row) => {
                (self.at, self.row) = (i, Some(row));
                Ok(())
            }
            Err(fault) => Err(self.damaged(fault)),
        }
    }

    fn decoded<T>(&self, read: impl FnOnce(&Block<'_>) -> Result<T, Fault>) -> Result<T> {
        let read = Block::decode(self.body(), self.count).and_then(|block| read(&block));
        read.map_err(|fault| self.damaged(fault))
    }

    #[cold]
    fn damaged(&self, fault: Fault) -> crate::error::Error {
        match self.run.index(self.section) {
            Ok(index) => self.run.damaged(self.section, &index, self.block, fault),
            Err(e) => e,
        }
    }

    /// Checks a block and takes it as the current one.
    fn enter(&mut self, s: usize, b: usize) -> Result<()> {
        self.row = None;
        let run = Arc::clone(&self.run);
        let index = run.index(s)?;
        (self.section, self.block) = (s, b);
        let (body, count) = run.block(s, &index, b, true)?;
        self.count = count;
        self.body = match body {
            std::borrow::Cow::Owned(bytes) => Body::Owned(bytes),
            std::borrow::Cow::Borrowed(bytes) => {
                let at = run.top.sections[s].start + index.start(b);
                Body::Mapped(at + crate::frame::HEADER_BYTES as u64, bytes.len() as u64)
            }
        };
        Ok(())
    }

    /// Goes on to the first row of the block behind, or the last of the one before.
    fn next_block(&mut self) -> Result<()> {
        let run = Arc::clone(&self.run);
        let (s, b) = (self.section, self.block);
        let next = match self.reverse {
            false if b + 1 < run.index(s)?.blocks() => Some((s, b + 1)),
            false => (s + 1 < run.top.sections.len()).then_some((s + 1, 0)),
            true if b > 0 => Some((s, b - 1)),
            true if s > 0 => Some((s - 1, run.index(s - 1)?.blocks() - 1)),
            true => None,
        };
        let Some((s, b)) = next else {
            self.row = None;
            return Ok(());
        };
        self.enter(s, b)?;
        self.stand(if self.reverse { usize::from(self.count) - 1 } else { 0 })
    }
}
