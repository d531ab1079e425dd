//! The rules of failover that can be switched off one by one, and the scopes.

use crate::log::SyncSet;

/// Each field is one rule; `true` keeps it.
#[derive(Clone, Copy, Debug)]
pub struct Guards {
    /// A number won is above what the candidate has seen, whatever the coordinator says.
    pub above_seen: bool,
    /// Epochs are one if number and nonce are.
    pub nonce: bool,
    /// A nonce is drawn for each epoch that is won, not once for a node.
    pub fresh_nonce: bool,
    /// A member promises only what is above its promise.
    pub rising: bool,
    /// N - k promises, not N - k - 1.
    pub enough: bool,
    /// A position is told with the promise, not before.
    pub positions_after: bool,
    /// The best position that was told is reached before leading.
    pub fetch_best: bool,
    /// A tail is taken only from a node that still holds the candidate's promise.
    pub tail_of_promiser: bool,
    /// A follower answers those alone that have promised what it has, and are less up to date.
    pub serve_ahead: bool,
    /// An inherited tail is committed through a frame of the leader's own epoch only.
    pub own_epoch: bool,
    /// Reads and writes begin when the leader's first frame is committed.
    pub open_after_start: bool,
    /// Whether it leads is looked at after copies are counted, before the reply.
    pub gate: bool,
    /// Linearizable reads ask N - k members whether the leader's epoch is still promised.
    pub confirm: bool,
    /// A set with k = 0 is left only once all of its members hold the next one.
    pub all_leave_zero: bool,
    /// A set without members is left, for one with k > 0, only once all members of that hold it.
    pub all_leave_none: bool,
    /// What is asked for leaving a set is asked whatever the next one promises.
    pub leave_always: bool,
    /// A set with k > 0 adds only members that hold the set before.
    pub known_members: bool,
    /// A set with k > 0 is left only once k + 1 of its members hold the next one, even if it commits
    /// with fewer.
    pub leave_by_k: bool,
    /// A node keeps what it has until it is answered where to cut; it does not begin anew at its own
    /// committed end.
    pub cut_at_end: bool,
    /// Histories part where their epochs do, also behind the source's end: it is not waited for until
    /// there is a frame to compare.
    pub compare_epochs: bool,
    /// The epoch answered must be one of the follower's own; otherwise it asks for an earlier one.
    pub ask_again: bool,
    /// A cut below what is known to be committed on k others halts.
    pub halt_below_commit: bool,
    /// A follower that is ahead in the leader's own epoch is never cut.
    pub ahead_halts: bool,
    /// Equal epoch, nonce and place with other bytes stops; nothing is taken and nothing counts.
    pub fingerprint: bool,
    /// An epoch is continued only if no peer is ahead in it.
    pub peers_not_ahead: bool,
}

impl Guards {
    pub const ALL: Guards = Guards {
        above_seen: true,
        nonce: true,
        fresh_nonce: true,
        rising: true,
        enough: true,
        positions_after: true,
        fetch_best: true,
        tail_of_promiser: true,
        serve_ahead: true,
        own_epoch: true,
        open_after_start: true,
        gate: true,
        confirm: true,
        all_leave_zero: true,
        all_leave_none: true,
        leave_always: true,
        known_members: true,
        leave_by_k: true,
        cut_at_end: true,
        compare_epochs: true,
        ask_again: true,
        halt_below_commit: true,
        ahead_halts: true,
        fingerprint: true,
        peers_not_ahead: true,
    };
}

/// How far a model goes.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    pub name: &'static str,
    /// The first is in force at the start.
    pub sets: &'static [SyncSet],
    pub max_epoch: u8,
    pub max_frames: u8,
    /// Does a coordinator hand out numbers, each once? Without one, two operators may win the same.
    pub coordinated: bool,
    /// Do followers serve followers?
    pub cascades: bool,
    /// May a leader pause between counting copies and replying?
    pub replies: bool,
    /// How often the coordinator falls back to its first state.
    pub forgets: u8,
    /// How often a node is replaced by an old copy of itself and does not know it. More than any
    /// rule can bear: what a promise is worth then is another property.
    pub restores: u8,
}
