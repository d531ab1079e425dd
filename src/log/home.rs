//! What a table needs of its log: where it lives, whose it is, and what is proven durable.
//!
//! Called by `table`, also from its threads; holds the log's memory, not its lock.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;

use crate::error::Result;
use crate::fs::Fs;
use crate::position::{Id, LogByte, Offset, Position};
use crate::segment::HEADER_BYTES;

use super::files::{Control, EpochEntry, Epochs, SetLine};
use super::{Log, Shared};

/// A log, as its table sees it.
#[derive(Clone, Debug)]
pub(crate) struct Home(Arc<Shared>);

impl Log {
    pub(crate) fn home(&self) -> Home {
        Home(Arc::clone(&self.shared))
    }
}

impl Home {
    pub(crate) fn fs(&self) -> &Arc<dyn Fs> {
        &self.0.fs
    }

    /// Whether the log is open for writing.
    pub(crate) fn may_write(&self) -> bool {
        self.0.refuses.is_none()
    }

    /// The table's directory.
    pub(crate) fn table(&self) -> PathBuf {
        self.0.layout.table()
    }

    pub(crate) fn log(&self) -> Id {
        self.0.log.id
    }

    /// Whether files that never change are mapped.
    pub(crate) fn maps(&self) -> bool {
        self.0.options.map
    }

    /// Whether threads may be started.
    pub(crate) fn has_threads(&self) -> bool {
        self.0.options.worker
    }

    /// Everything below is proven durable.
    pub(crate) fn confirmed(&self) -> Offset {
        self.0.confirmed()
    }

    /// Makes everything below `position` durable, if this process may; whether it is.
    pub(crate) fn confirm(&self, position: Position) -> Result<bool> {
        if self.confirmed() < position.offset && self.0.refuses.is_none() {
            self.0.wait_durable(position.log_byte, position.offset)?;
        }
        Ok(self.confirmed() >= position.offset)
    }

    /// Whether its epoch was won before it was opened.
    pub(crate) fn was_won(&self) -> bool {
        self.0.options.lead.is_some()
    }

    /// The epochs that began at or below `end`, oldest first.
    pub(crate) fn history(&self, end: LogByte) -> Result<Vec<EpochEntry>> {
        let Epochs(mut epochs) = Epochs::read(&**self.fs(), &self.0.layout)?;
        epochs.retain(|entry| entry.start <= end);
        Ok(epochs)
    }

    /// The newest synchronous sets whose frames stand at or below `end`.
    pub(crate) fn sets_below(&self, end: LogByte) -> Result<Vec<SetLine>> {
        let mut control = Control::read(&**self.fs(), &self.0.layout)?.unwrap_or_default();
        control.cut_sets(end);
        Ok(control.sets.into_iter().filter(|line| line.there).collect())
    }

    /// The segment that holds the frame before `end`: its log byte, and the byte of the file
    /// that `end` is.
    pub(crate) fn place(&self, end: LogByte) -> Option<(LogByte, u64)> {
        let list = self.0.catalog.list();
        let after = list.partition_point(|segment| segment.header.base < end);
        let header = list[after.checked_sub(1)?].header;
        Some((header.base, HEADER_BYTES + (end.0 - header.base.0)))
    }
}

/// What who leads a log or serves it to others needs of it.
impl Home {
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// The segments, oldest first.
    pub(crate) fn segments(&self) -> super::catalog::List {
        self.0.catalog.list()
    }

    /// Log byte and offset that reads see.
    pub(crate) fn visible(&self) -> (LogByte, Offset) {
        self.0.visible()
    }

    /// What `CONTROL` says now.
    pub(crate) fn control(&self) -> Result<Control> {
        if self.may_write() {
            // Nobody else writes it, and every fetch asks.
            return Ok(self.0.control().clone());
        }
        Ok(Control::read(&**self.fs(), &self.0.layout)?.unwrap_or_default())
    }
}

/// What who serves a log to others needs of it.
#[cfg(feature = "wire")]
impl Home {
    /// Sees that what recovery found is durable, where a full disk kept it from that: an error says
    /// that it still does.
    pub(crate) fn settle(&self) -> crate::error::Result<()> {
        if !self.0.unsettled.load(Acquire) {
            return Ok(());
        }
        let ready = self.0.writer().ready(&self.0);
        if self.0.unsettled.load(Acquire) { ready } else { Ok(()) }
    }
}

#[cfg(feature = "server")]
impl Home {
    /// Waits until more is visible than up to `seen`, at most `timeout`; returns what is.
    pub(crate) fn wait_beyond(
        &self,
        seen: LogByte,
        timeout: std::time::Duration,
    ) -> (LogByte, Offset) {
        let sleeper = self.0.visible_wake.register();
        let visible = self.0.visible();
        if visible.0 > seen {
            return visible;
        }
        sleeper.sleep(Some(timeout));
        self.0.visible()
    }

    /// Waits until more is durable or visible than was seen, at most `timeout`; returns both.
    pub(crate) fn wait_change(
        &self,
        seen: (LogByte, LogByte),
        timeout: std::time::Duration,
    ) -> (super::commit::End, super::commit::End) {
        let ends = || (self.durable(), self.visible());
        let sleeper = self.0.visible_wake.register();
        let now = ends();
        if now.0.0 > seen.0 || now.1.0 > seen.1 {
            return now;
        }
        sleeper.sleep(Some(timeout));
        ends()
    }

    /// Sets who hears how far the log is durable and visible whenever that changes, at once: see `ear`.
    pub(crate) fn set_ear(&self, hears: Box<super::ear::Hears>) {
        self.0.ear.set(hears);
    }

    /// The log's directory.
    pub(crate) fn dir(&self) -> PathBuf {
        self.0.layout.root.clone()
    }

    /// The epoch that appended the record at `offset`.
    pub(crate) fn epoch_at(&self, offset: Offset) -> crate::position::Epoch {
        self.0.epoch_at(offset)
    }

    /// The failure after which a log takes no more appends.
    pub(crate) fn poison(&self) -> Option<crate::error::Error> {
        self.0.poison.get().cloned()
    }

    /// Wakes whoever waits, so that it looks whether to stop.
    pub(crate) fn wake(&self) {
        self.0.visible_wake.all();
    }
}

impl Shared {
    /// Below this, records are proven durable.
    pub(super) fn confirmed(&self) -> Offset {
        match self.refuses {
            // Who writes knows: what readers see may be written and no more.
            None => self.ends.durable().1,
            Some(_) => Offset(self.confirmed.load(Acquire)).min(self.visible().1),
        }
    }
}
