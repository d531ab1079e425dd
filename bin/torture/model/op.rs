//! What a sequence does: operations as data, made from a seed, so that they can be taken out again.
//!
//! Invariant: an operation carries its own seed for everything it chooses; taking one out of a
//! sequence changes no other.

use tidelog::{Compression, Durability, Preallocate, Visibility};

use crate::dice::Dice;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub op: Op,
    /// For keys, values, places: whatever the operation leaves open.
    pub seed: u64,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    AppendOne,
    AppendBatch {
        durability: Durability,
        timed: bool,
    },
    /// Submits a batch, and perhaps waits for it.
    Submit {
        wait: Option<Durability>,
    },
    /// Waits for every ticket that is still held.
    WaitAll,
    Sync,
    Produce {
        durability: Durability,
    },
    /// The last batch of a producer, sent again.
    Retry,
    /// An older sequence of a producer, which must be refused.
    Stale,
    ExpectEnd {
        right: bool,
    },
    ExpectKey {
        right: bool,
    },
    Read,
    ReadRange,
    Get,
    SeekTime,
    Tail,
    RetainBytes {
        dry: bool,
    },
    RetainAfter {
        dry: bool,
    },
    RetainFrom {
        dry: bool,
    },
    Verify,
    /// Reads from another process, perhaps right after a sync.
    OtherProcess {
        sync: bool,
    },
    Reopen,
    Kill,
    PowerCut {
        cut: Cut,
    },
    /// The power fails after so many operations on the disk, in the middle of an append.
    CutInAppend {
        after: usize,
        durability: Durability,
        cut: Cut,
    },
    /// The same, in the middle of a clean close.
    CutInClose {
        after: usize,
        cut: Cut,
    },
    /// The process is killed, and the power fails in the middle of the recovery.
    CutInOpen {
        after: usize,
        cut: Cut,
    },
    /// Repairs a closed log that has nothing to repair.
    Repair,
    /// Opens the table, or brings it up to date and holds all of it against the model.
    Table,
    Checkpoint,
    TableReopen,
    /// Keeps a view; later it must show what it showed.
    HoldView,
    /// Looks at the views that are held.
    CompareViews,
    Publish {
        digest: bool,
    },
    /// Restores the log as it was at some offset into a new directory.
    RestoreAt,
}

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Nothing,
    Everything,
    Torn,
}

impl Op {
    /// Its name in the counts.
    pub fn name(&self) -> &'static str {
        match self {
            Op::AppendOne => "append",
            Op::AppendBatch { .. } => "append_batch",
            Op::Submit { .. } => "submit",
            Op::WaitAll => "wait",
            Op::Sync => "sync",
            Op::Produce { .. } => "produce",
            Op::Retry => "retry",
            Op::Stale => "stale",
            Op::ExpectEnd { .. } => "expect_end",
            Op::ExpectKey { .. } => "expect_key",
            Op::Read => "read",
            Op::ReadRange => "read_range",
            Op::Get => "get",
            Op::SeekTime => "seek_time",
            Op::Tail => "tail",
            Op::RetainBytes { .. } | Op::RetainAfter { .. } | Op::RetainFrom { .. } => "retain",
            Op::Verify => "verify",
            Op::OtherProcess { .. } => "other_process",
            Op::Reopen => "reopen",
            Op::Kill => "kill",
            Op::PowerCut { .. } => "power_cut",
            Op::CutInAppend { .. } => "power_cut_in_append",
            Op::CutInClose { .. } => "power_cut_in_close",
            Op::CutInOpen { .. } => "power_cut_in_open",
            Op::Repair => "repair",
            Op::Table => "table",
            Op::Checkpoint => "checkpoint",
            Op::TableReopen => "table_reopen",
            Op::HoldView => "hold_view",
            Op::CompareViews => "compare_views",
            Op::Publish { .. } => "publish",
            Op::RestoreAt => "restore_at",
        }
    }
}

/// How a log is opened, and how large its values are.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub preallocate: Preallocate,
    pub compression: Compression,
    pub visibility: Visibility,
    pub isolate: bool,
    pub map: bool,
    pub segment_bytes: u64,
    /// Values are shorter than this.
    pub value_bytes: u64,
}

impl Setup {
    /// What a sequence's seed says.
    pub fn new(dice: &mut Dice) -> Self {
        let compressions =
            [Compression::None, Compression::None, Compression::None, Compression::Lz4];
        let rare = dice.chance(1, 20);
        Setup {
            preallocate: dice.pick(&[Preallocate::Auto, Preallocate::Zero, Preallocate::Grow]),
            compression: if rare { Compression::Zstd } else { dice.pick(&compressions) },
            visibility: dice.pick(&[Visibility::Durable, Visibility::Durable, Visibility::Written]),
            isolate: dice.chance(1, 4),
            map: dice.chance(1, 2),
            segment_bytes: dice.pick(&[64 << 10, 64 << 10, 128 << 10]),
            value_bytes: dice.pick(&[40, 400, 4000, 12_000]),
        }
    }
}

/// The steps of a sequence.
pub fn steps(dice: &mut Dice, count: usize) -> Vec<Step> {
    (0..count).map(|_| Step { op: op(dice), seed: dice.next() }).collect()
}

fn op(dice: &mut Dice) -> Op {
    let durabilities = [Durability::Buffered, Durability::Written, Durability::Durable];
    let durability = dice.pick(&durabilities);
    let cut = dice.pick(&[Cut::Nothing, Cut::Everything, Cut::Torn, Cut::Torn]);
    let right = dice.chance(2, 3);
    let dry = dice.chance(1, 4);
    // A cut in an append comes early or late in it; recoveries and closes take more operations.
    let after = usize::try_from(dice.below(40)).expect("small");
    match dice.below(116) {
        0..8 => Op::AppendOne,
        8..28 => Op::AppendBatch { durability, timed: dice.chance(1, 2) },
        28..34 => {
            let wait = dice.chance(1, 2).then_some(durability);
            Op::Submit { wait }
        }
        34..36 => Op::WaitAll,
        36..41 => Op::Sync,
        41..48 => Op::Produce { durability },
        48..51 => Op::Retry,
        51..52 => Op::Stale,
        52..55 => Op::ExpectEnd { right },
        55..58 => Op::ExpectKey { right },
        58..63 => Op::Read,
        63..66 => Op::ReadRange,
        66..70 => Op::Get,
        70..73 => Op::SeekTime,
        73..76 => Op::Tail,
        76..77 => Op::RetainBytes { dry },
        77..78 => Op::RetainAfter { dry },
        78..79 => Op::RetainFrom { dry },
        79..81 => Op::Verify,
        81..84 => Op::OtherProcess { sync: dice.chance(1, 2) },
        84..87 => Op::Reopen,
        87..90 => Op::Kill,
        90..94 => Op::PowerCut { cut },
        94..96 => Op::CutInAppend { after: after / 3, durability, cut },
        96..97 => Op::CutInClose { after, cut },
        97..99 => Op::CutInOpen { after, cut },
        99 => Op::Repair,
        100..103 => Op::Table,
        103..107 => Op::Checkpoint,
        107..109 => Op::TableReopen,
        109..111 => Op::HoldView,
        111..112 => Op::CompareViews,
        112..114 => Op::Publish { digest: right },
        _ => Op::RestoreAt,
    }
}
