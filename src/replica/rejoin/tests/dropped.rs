//! Rejoining where retention has dropped something.

use super::*;

/// Found by the simulation: whose own tail goes on where the leader has dropped all before its epoch was told that the log
/// it needs is gone, and would have begun anew.
#[test]
fn a_running_follower_can_rejoin_where_the_leader_has_dropped_what_they_share() {
    meets_another_history(true);
}

/// Retention takes everything that the table holds, and a checkpoint is all that is left of it.
fn forget(sim: &Sim) -> Offset {
    forget_below(sim, Offset(u64::MAX))
}

pub(super) fn forget_below(sim: &Sim, keep: Offset) -> Offset {
    let log = options(sim).create(false).open(NODE).unwrap();
    let table = rows().open(&log).unwrap();
    table.catch_up(&log).unwrap();
    table.checkpoint().unwrap();
    let mut policy = Retention::default();
    (policy.keep_from, policy.table_is_only_copy) = (Some(keep), true);
    let start = log.retain(&policy).unwrap().start;
    drop(table);
    log.close().unwrap();
    start
}

#[test]
fn where_the_log_behind_the_fork_is_gone_the_copy_begins_anew_and_its_tail_is_kept() {
    // Gone at the source; gone here, with the only checkpoint above the fork; gone at both.
    for (there, here) in [(true, false), (false, true), (true, true)] {
        let (a, b) = parted(6, 20, 25, 8000, true);
        let what = format!("gone there {there}, here {here}");
        if there {
            assert!(forget(&b) > Offset(18), "{what}");
        } else {
            // There must be a snapshot to begin with.
            let log = options(&b).create(false).open(NODE).unwrap();
            let table = rows().open(&log).unwrap();
            table.catch_up(&log).unwrap();
            table.checkpoint().unwrap();
            drop(table);
            log.close().unwrap();
        }
        let start = if here { forget(&a) } else { Offset(0) };
        if here {
            assert!(start > Offset(18), "{what}");
        }
        let report = follow(&a, &b).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(report.snapshot.is_some(), "{what}: {report:?}");
        let all = values("alone", 20, 8000);
        let from = usize::try_from(start.0.saturating_sub(18)).unwrap();
        assert_eq!(kept(&a), all[from..], "{what}");
        let log = |sim: &Sim| options(sim).create(false).read_only(true).open(NODE).unwrap();
        let rows_of = |sim: &Sim| rows().open(&log(sim)).unwrap().digest().unwrap();
        assert_eq!(rows_of(&a), rows_of(&b), "{what}");
        assert_eq!(log(&a).end(), log(&b).end(), "{what}");
        // That it gave up what it led is not forgotten with the rest.
        let gave_up = Control::need(&*a.shared(), &layout()).unwrap().gave_up;
        assert!(!gave_up.is_empty(), "{what}");
    }
}

/// Found by the simulation: what a leader had dropped, and a power cut brought back, stayed for ever where that node
/// followed from then on.
#[test]
fn what_was_dropped_and_came_back_goes_when_the_node_follows() {
    let (a, b) = (Sim::new(1), Sim::new(2));
    let mut a = lead(&a, "shared", 20, 8000, true);
    follow(&b, &a).unwrap();
    promote(&b);
    let first = SegmentName(crate::LogByte(0)).path(&layout().segments());
    let bytes = read(&b, &first);
    assert!(forget(&b) > Offset(0));
    b.shared().open(&first, crate::fs::Open::Create).unwrap().write_all_at(&bytes, 0).unwrap();
    // The other one comes to lead by a later epoch.
    for _ in 0..4 {
        a = lead(&a, "later", 1, 100, false);
    }
    follow(&b, &a).unwrap();
    assert!(!b.exists(&first));
}
