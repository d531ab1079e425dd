//! Power cuts: what may become of each pending change. `cut` makes disks of it.

use std::path::PathBuf;

use super::content::SECTOR_BYTES;
use super::disk::{Change, NameKind, Pending};
use super::world::SplitMix;

/// Which disk a power cut leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Only what was synced.
    DropAll,
    /// Everything that is still pending, too. What a failed sync dropped stays lost.
    KeepAll,
    /// Of the pending changes, in the order of [`Sim::pending`](super::Sim::pending), those that
    /// are `true`; those beyond the end of the list are lost.
    Subset(Vec<bool>),
    /// What becomes of each pending change; those beyond the end of the list are lost.
    Fates(Vec<Fate>),
    /// For each pending change, chosen by the seed: lost, kept or torn.
    Torn {
        /// The same seed and the same pending changes leave the same disk.
        seed: u64,
    },
}

impl Crash {
    /// The subset in which pending change `i` is kept if bit `i` is set, for up to 64 of them.
    pub fn mask(bits: u64) -> Self {
        Crash::Subset((0..64).map(|bit| bits >> bit & 1 == 1).collect())
    }

    pub(super) fn fates(&self, pending: usize) -> Vec<Fate> {
        let mut fates: Vec<Fate> = match self {
            Crash::DropAll => Vec::new(),
            Crash::KeepAll => vec![Fate::Kept; pending],
            Crash::Subset(kept) => {
                kept.iter().map(|&kept| if kept { Fate::Kept } else { Fate::Lost }).collect()
            }
            Crash::Fates(fates) => fates.clone(),
            Crash::Torn { seed } => {
                let mut random = SplitMix(*seed);
                let fate = |_| match random.next() % 3 {
                    0 => Fate::Lost,
                    1 => Fate::Kept,
                    _ => Fate::Torn(random.next()),
                };
                (0..pending).map(fate).collect()
            }
        };
        fates.resize(pending, Fate::Lost);
        fates
    }
}

/// What becomes of one pending change in a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It never reached the disk.
    Lost,
    /// It is there.
    Kept,
    /// Sector `i` of written data is there if bit `i % 64` is set; a longer length stops at one of
    /// the sectors on its way; anything else is atomic and is there if bit 0 is set.
    Torn(u64),
}

impl Fate {
    pub(super) fn sector(self, sector: usize) -> bool {
        match self {
            Fate::Lost => false,
            Fate::Kept => true,
            Fate::Torn(bits) => bits >> (sector % 64) & 1 == 1,
        }
    }

    pub(super) fn whole(self) -> bool {
        self.sector(0)
    }

    /// Where a length gets on its way; `None` if it stays.
    pub(super) fn length(self, from: u64, to: u64) -> Option<u64> {
        let sector = SECTOR_BYTES as u64;
        // Multiples of the sector strictly between the two.
        let stops =
            to.saturating_sub(1) / sector - (from / sector).min(to.saturating_sub(1) / sector);
        match self {
            Fate::Torn(bits) if from < to && stops > 0 => {
                Some((from / sector + 1 + bits % stops) * sector)
            }
            _ => self.whole().then_some(to),
        }
    }
}

/// A change that is not durable yet, as tests see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingOp {
    /// Number of the operation that made it: its place in the trace.
    pub operation: usize,
    /// What it changes; for a file the path it was opened with.
    pub path: PathBuf,
    /// What it does.
    pub change: PendingChange,
}

/// What a pending change does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PendingChange {
    /// Data written.
    Data {
        /// Where.
        byte: u64,
        /// How many bytes.
        len: u64,
        /// In how many sectors: bits that matter in [`Fate::Torn`].
        sectors: usize,
    },
    /// Another length, by a write at the end or by `set_len`.
    Length {
        /// Before.
        from: u64,
        /// After.
        to: u64,
    },
    /// The name of a new file.
    Create,
    /// The name of a new directory.
    CreateDir,
    /// A removed name.
    Unlink,
    /// A new name for a file or a directory.
    Rename {
        /// The new path.
        to: PathBuf,
    },
}

impl PendingOp {
    pub(super) fn of(pending: &Pending) -> Self {
        let change = match &pending.change {
            Change::Data { byte, len, patch, .. } => {
                PendingChange::Data { byte: *byte, len: *len, sectors: patch.sectors() }
            }
            Change::Length { from, to, .. } => PendingChange::Length { from: *from, to: *to },
            Change::Name(change) => match &change.kind {
                NameKind::Create => PendingChange::Create,
                NameKind::CreateDir => PendingChange::CreateDir,
                NameKind::Unlink => PendingChange::Unlink,
                NameKind::Rename { to } => PendingChange::Rename { to: to.to_path_buf() },
            },
        };
        PendingOp { operation: pending.operation, path: pending.path.to_path_buf(), change }
    }
}
