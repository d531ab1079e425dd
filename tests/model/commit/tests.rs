//! Each scope explored whole, then each rule switched off.

use super::guards::{Guards, Scope, SyncSet};
use super::{Commit, LOST, PROMISE_FELL, TWO_LEADERS, WRONG_READ};
use crate::{breaks, holds};

const ALL_OF_3: SyncSet = SyncSet { members: 0b111, k: 1 };
const EACH_OF_3: SyncSet = SyncSet { members: 0b111, k: 2 };
const PAIR: SyncSet = SyncSet { members: 0b011, k: 1 };

const FIXED: Scope = Scope {
    name: "3 members, k = 1",
    sets: &[ALL_OF_3],
    max_epoch: 2,
    max_frames: 4,
    followers_learn: false,
    losses: 0,
    forgets: 0,
};

#[test]
fn a_fixed_set_loses_nothing() {
    holds(FIXED.name, Commit::<3> { scope: FIXED, guards: Guards::ALL });
}

#[test]
fn probe() {
    let scope = |v: &str| std::env::var(v).ok().and_then(|v| v.parse().ok());
    let mut s = FIXED;
    s.sets = match std::env::var("SETS").as_deref() { Ok("2") => &[EACH_OF_3], Ok("c") => &[ALL_OF_3, PAIR], Ok("d") => &[ALL_OF_3, PAIR, EACH_OF_3], _ => &[ALL_OF_3] };
    s.max_epoch = scope("E").unwrap_or(2);
    s.max_frames = scope("F").unwrap_or(4);
    s.followers_learn = std::env::var("LEARN").is_ok();
    s.losses = scope("L").unwrap_or(0);
    s.forgets = scope("P").unwrap_or(0);
    let mut g = Guards::ALL;
    let prop = match std::env::var("PROP").as_deref() { Ok("two") => TWO_LEADERS, Ok("fell") => PROMISE_FELL, Ok("read") => WRONG_READ, _ => LOST };
    let Ok(off) = std::env::var("OFF") else { holds("probe", Commit::<3> { scope: s, guards: g }); return };
    for off in off.split(',') {
        match off {
            "k_others" => g.k_others = false, "own_epoch" => g.own_epoch = false, "report_promise" => g.report_promise = false,
            "refuse" => g.refuse_other_epoch = false, "step_down" => g.step_down = false, "leader_durable" => g.leader_durable = false,
            "member_durable" => g.member_durable = false, "rising" => g.rising = false, "nonce" => g.nonce = false,
            "enough" => g.enough_promises = false, "after" => g.positions_after = false, "epoch_first" => g.epoch_first = false,
            "fetch_tail" => g.fetch_tail = false, "look_again" => g.look_again = false, "previous" => g.previous_set = false,
            "both" => g.both_rules = false, "one" => g.one_at_a_time = false, "start" => g.after_start = false, "members" => g.members_only = false,
            "unclean" => g.unclean = false, "readmit" => g.readmit = false, "held" => g.promise_held = false, "matched" => g.matched_end = false,
            "reads" => g.reads_committed = false, _ => panic!("{off}"),
        }
    }
    breaks("probe", &off, Commit::<3> { scope: s, guards: g }, prop);
}
