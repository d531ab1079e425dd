//! Planted bugs: they test the tests, and are never for production.
//!
//! The torture programme must find each of them. They are compiled only with the feature
//! `mutants`, and one is active only once [`plant`] was called with its name, before any log was
//! opened. Invariant: without the feature `on` is a constant `false`, so nothing of a mutant is
//! left in the program; with the feature and nothing planted it costs one relaxed load.

macro_rules! mutants {
    ($($variant:ident $name:literal,)*) => {
        /// A planted bug, named for what it leaves out or does wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(not(feature = "wire"), allow(dead_code, reason = "some are in what needs the feature"))]
        pub(crate) enum Mutant {
            $($variant,)*
        }

        /// The names of all planted bugs.
        #[cfg(feature = "mutants")]
        pub const NAMES: &[&str] = &[$($name,)*];
    };
}

mutants! {
    // Group commit and the writer.
    SkipDataSync "skip-data-sync",
    SkipRolledSync "skip-rolled-sync",
    SkipDirectorySync "skip-directory-sync",
    SkipHeaderSync "skip-header-sync",
    AckBeforeSync "ack-before-sync",
    RetryFailedSync "retry-failed-sync",
    WatermarkTooHigh "watermark-too-high",
    StateAhead "state-ahead",
    KeepCleanMark "keep-clean-mark",
    // Sealing.
    FooterBeforeData "footer-before-data",
    SkipFirstSealSync "skip-first-seal-sync",
    SealClaims "seal-claims-durability",
    SealUnnamed "seal-before-names",
    // Recovery.
    ZeroIsEnd "zero-is-end",
    CutOnAnyCrc "cut-on-any-crc",
    RefuseFrameBehind "refuse-frame-behind",
    IgnoreState "ignore-state",
    TrustAnyState "trust-any-state",
    SkipSettle "skip-settle",
    KeepEpoch "keep-epoch",
    QuarantineUnsynced "quarantine-unsynced",
    ForgetProducers "forget-producers",
    NoSalt "no-salt",
    // Small files, retention, repair.
    SkipSmallFileSync "skip-small-file-sync",
    SkipRenameSync "skip-rename-sync",
    UnlinkBeforeFloor "unlink-before-floor",
    RepairNotedLate "repair-noted-late",
    MoveUnsynced "move-unsynced",
    // Reading.
    IndexByLength "index-by-length",
    SkipBodyCheck "skip-body-check",
    // The table.
    SkipRunSync "skip-run-sync",
    SkipRunNames "skip-run-names",
    TrustAnyCheckpoint "trust-any-checkpoint",
    UnlinkNamedRun "unlink-named-run",
    MarkAhead "mark-ahead",
    ReviveDeletes "revive-deletes",
    MergeKeepsOlder "merge-keeps-older",
    FilterSaysNo "filter-says-no",
    ReplayPastCheckpoint "replay-past-checkpoint",
    SkipTableName "skip-table-name",
    ManifestBeforeRuns "manifest-before-runs",
    TrustResumedCopy "trust-resumed-copy",
    RunFooterByLength "run-footer-by-length",
    SkipBlockCheck "skip-block-check",
    // Followers.
    SkipFollowerSync "skip-follower-sync",
    ShipUnproven "ship-unproven",
    CountReceived "count-received",
    // The leader and its archive.
    ShowUncommitted "show-uncommitted",
    AckUncounted "ack-uncounted",
    SkipFenceCheck "skip-fence-check",
    PublishUncommitted "publish-uncommitted",
    // Who leads.
    ForgetPromise "forget-promise",
    PromiseTwice "promise-twice",
    PromiseInMemory "promise-in-memory",
    TooFewPromises "too-few-promises",
    CountAnswers "count-answers",
    SkipTail "skip-tail",
    SkipReplay "skip-replay",
    FurthestByBytes "furthest-by-bytes",
    ZombieAcks "zombie-acks",
    IgnoreLease "ignore-lease",
    IgnoreMaxLoss "ignore-max-loss",
    IgnoreVeto "ignore-veto",
    IgnorePause "ignore-pause",
    IgnoreGap "ignore-gap",
    ForgetSeen "forget-seen",
    HideSpell "hide-spell",
    SkipArchive "skip-archive",
    ThrowTailAway "throw-tail-away",
    FollowOlder "follow-older",
    // The contested sequence.
    CreateOverwrites "create-overwrites",
    ForgetPutId "forget-put-id",
    UnknownIsMine "unknown-is-mine",
    IgnoreFence "ignore-fence",
}

/// Whether this bug is planted.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub(crate) const fn on(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub(crate) use planted::on;
#[cfg(feature = "mutants")]
pub use planted::plant;

#[cfg(feature = "mutants")]
mod planted {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::{Mutant, NAMES};

    /// Number of the planted bug, from 1; 0 for none. Set before anything else runs.
    static PLANTED: AtomicUsize = AtomicUsize::new(0);

    /// Whether this bug is planted.
    #[inline]
    pub(crate) fn on(mutant: Mutant) -> bool {
        PLANTED.load(Relaxed) == mutant as usize + 1
    }

    /// Plants the bug of this name, for the rest of the process; `false` if there is none.
    pub fn plant(name: &str) -> bool {
        let found = NAMES.iter().position(|known| *known == name);
        if let Some(number) = found {
            PLANTED.store(number + 1, Relaxed);
        }
        found.is_some()
    }
}
