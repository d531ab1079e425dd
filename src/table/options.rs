//! How a table is opened.

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::log::Log;
use crate::position::Offset;

use super::Table;

/// Memory of a delta unless told otherwise.
pub const DEFAULT_DELTA_BYTES: usize = 256 << 20;
/// Log between two checkpoints unless told otherwise.
pub const DEFAULT_CHECKPOINT_BYTES: u64 = 512 << 20;
/// Runs of like size that are merged at once.
pub const DEFAULT_FAN_IN: usize = 6;
/// Checkpoints kept unless told otherwise.
pub const DEFAULT_KEEP_CHECKPOINTS: usize = 2;

/// Where a follower stops applying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseAt {
    /// Before the record at this offset.
    Offset(Offset),
    /// Before the first record at or behind which a timestamp is at least this (nanoseconds since
    /// the Unix epoch).
    Time(i64),
}

/// How to open a table. Made by [`Table::options`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableOptions {
    pub(super) delta_bytes: usize,
    pub(super) checkpoint_bytes: u64,
    pub(super) keep_checkpoints: usize,
    pub(super) fan_in: usize,
    pub(super) persist: bool,
    pub(super) warm: bool,
    pub(crate) apply_delay: Duration,
    pub(crate) pause_at: Option<PauseAt>,
    pub(super) begin: Beginning,
}

/// What a follower's copy begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Beginning {
    /// The log's first record, or not at all.
    Log,
    /// The log's first record; a snapshot where that is gone.
    #[default]
    Needed,
    /// The same, and a snapshot where it costs less than half of the bytes of a log of 64 MiB or more:
    /// the copy then lacks what lies before.
    Cheaper,
    /// A snapshot wherever there is one.
    Snapshot,
}

impl Default for TableOptions {
    fn default() -> Self {
        TableOptions {
            delta_bytes: DEFAULT_DELTA_BYTES,
            checkpoint_bytes: DEFAULT_CHECKPOINT_BYTES,
            keep_checkpoints: DEFAULT_KEEP_CHECKPOINTS,
            fan_in: DEFAULT_FAN_IN,
            persist: true,
            warm: false,
            apply_delay: Duration::ZERO,
            pause_at: None,
            begin: Beginning::default(),
        }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: $type) -> Self {
            self.$name = $name;
            self
        }
    )*};
}

impl TableOptions {
    setters! {
        /// Memory for recent keys; there are at most two such. A batch that needs more gets it.
        /// Half of it is written already when that can go on beside apply.
        /// Default: 256 MiB.
        delta_bytes: usize,
        /// After how many bytes of log a checkpoint is written: how much of the log is applied
        /// again after a crash, at most, beside one delta. Default: 512 MiB.
        checkpoint_bytes: u64,
        /// Checkpoints kept, at least two. Default: 2.
        keep_checkpoints: usize,
        /// How many runs of like size are merged at once, at least two: more write less and read
        /// slower. Default: 6.
        fan_in: usize,
        /// Whether the table is kept on disk, in the log's directory. Otherwise, or when another
        /// process keeps it or the directory takes no writes, what was applied since the newest
        /// checkpoint is in memory only. Default: yes.
        persist: bool,
        /// Whether the memory of both deltas is touched when the table is opened. Fresh memory is
        /// slow where a hypervisor has to find it first; this way the first records do not wait
        /// for it. Default: no, memory is touched as it fills.
        warm: bool,
        /// How long a follower keeps what has arrived before it applies it; after a restart it counts
        /// from then. Tables that are opened otherwise apply at once. Default: not at all.
        apply_delay: Duration,
        /// Where a follower stops applying, before the batch that reaches over that point, until its
        /// [`Pause`](crate::replica::Pause) lets it go on. Tables that are opened otherwise apply
        /// everything. Default: nowhere.
        pause_at: Option<PauseAt>,
        /// What a follower's copy begins with; a table that is not kept on disk always with the log. One
        /// whose apply is held back, by a delay or at a point, takes a snapshot, which shows what it
        /// shows at once, only where it must. Default: a snapshot where the log's beginning is gone.
        begin: Beginning,
    }

    /// The same, for this table.
    pub(crate) fn begins(&self) -> Beginning {
        let held_back = !self.apply_delay.is_zero() || self.pause_at.is_some();
        match self.begin {
            _ if !self.persist => Beginning::Log,
            Beginning::Cheaper if held_back => Beginning::Needed,
            begin => begin,
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let limits = [
            ("checkpoints kept", self.keep_checkpoints, 2),
            ("runs merged at once", self.fan_in, 2),
            ("bytes of a delta", self.delta_bytes, 4096),
        ];
        for (what, found, least) in limits {
            if found < least {
                return Err(Error::new(
                    Kind::InvalidInput,
                    format!("expected at least {least} {what}, found {found}"),
                ));
            }
        }
        Ok(())
    }

    /// Opens the table of `log`: takes its newest checkpoint that is whole and of this history,
    /// and applies what is visible behind it.
    ///
    /// [`Kind::Gone`] when the log's front was dropped and no checkpoint reaches behind it: a
    /// table of the rest would lack rows and not say so.
    pub fn open(self, log: &Log) -> Result<Table> {
        let table = self.open_at_checkpoint(log)?;
        table.catch_up(log)?;
        Ok(table)
    }

    /// The same, without applying anything: the table shows what the checkpoint holds, at once,
    /// and the caller applies the rest.
    pub fn open_at_checkpoint(self, log: &Log) -> Result<Table> {
        self.check()?;
        Table::open_with(self, log)
    }
}
