//! The rules of commit and promotion that can be switched off one by one, and the scopes.

use crate::log::SyncSet;

/// Each field is one rule; `true` keeps it.
#[derive(Clone, Copy, Debug)]
pub struct Guards {
    /// Committed is what the leader and k others hold, not k - 1 others.
    pub k_others: bool,
    /// A report counts only if its last frame is of this leader's epoch.
    pub own_epoch: bool,
    /// A report counts only if its node's promise is this leader's epoch.
    pub report_promise: bool,
    /// A follower takes frames only from the epoch that it promised.
    pub refuse_other_epoch: bool,
    /// A leader that promises a higher epoch leads no more.
    pub step_down: bool,
    /// The leader counts its own durable end, not its written end, and ships no more than that.
    pub leader_durable: bool,
    /// A member reports its durable end, not its written end.
    pub member_durable: bool,
    /// A promise is never lowered.
    pub rising: bool,
    /// Epochs are compared by number and nonce, not by number alone.
    pub nonce: bool,
    /// A promotion needs N - k promises, not N - k - 1.
    pub enough_promises: bool,
    /// Positions are read after the promises, not before.
    pub positions_after: bool,
    /// More up to date is (epoch of the last frame, log byte), not the log byte alone.
    pub epoch_first: bool,
    /// The candidate fetches the tail of a promiser that has more than it.
    pub fetch_tail: bool,
    /// After fetching a tail, the candidate looks again which sets must promise.
    pub look_again: bool,
    /// The set before an uncommitted newest one must promise, too.
    pub previous_set: bool,
    /// The set before an uncommitted newest one must hold what is committed, too.
    pub both_rules: bool,
    /// A set is changed only when the one before is committed.
    pub one_at_a_time: bool,
    /// A set is changed only when the leader's `epoch_start` is committed.
    pub after_start: bool,
    /// Reports and promises count only from members of the set.
    pub members_only: bool,
    /// A node that lost frames neither votes, leads nor acks until it has refetched.
    pub unclean: bool,
    /// A node that lost its promise counts only after a later frame was committed without it.
    pub readmit: bool,
    /// A promiser's position counts only while it is clean and holds the promise still.
    pub promise_held: bool,
    /// A follower's committed end is at most its own end that matches the leader's.
    pub matched_end: bool,
    /// Reads see at most `committed`, on the leader as well.
    pub reads_committed: bool,
}

impl Guards {
    pub const ALL: Guards = Guards {
        k_others: true,
        own_epoch: true,
        report_promise: true,
        refuse_other_epoch: true,
        step_down: true,
        leader_durable: true,
        member_durable: true,
        rising: true,
        nonce: true,
        enough_promises: true,
        positions_after: true,
        epoch_first: true,
        fetch_tail: true,
        look_again: true,
        previous_set: true,
        both_rules: true,
        one_at_a_time: true,
        after_start: true,
        members_only: true,
        unclean: true,
        readmit: true,
        promise_held: true,
        matched_end: true,
        reads_committed: true,
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
    /// Do followers learn what is committed? A promotion asks only while sets change.
    pub followers_learn: bool,
    /// How often a node loses its last frame although it acked it.
    pub losses: u8,
    /// How often a node loses its promise.
    pub forgets: u8,
}
