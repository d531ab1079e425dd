//! Pruning frees room and no name.

use super::*;
use crate::error::Kind;
use crate::table::SnapshotName;

#[test]
fn pruning_takes_what_nobody_needs_and_followers_see_no_difference() {
    let stages = stages();
    let fake = Fake::new();
    let store = fake.client();
    for (i, stage) in stages.iter().enumerate() {
        push(&fake, stage).unwrap();
        let plan = plan_prune(&store).unwrap();
        let before = fake.names();
        prune(&store, &plan).unwrap();
        assert_eq!(fake.names(), before, "no name is freed");
        assert_eq!(plan_prune(&store).unwrap(), PrunePlan::default());
        let report = verify_archive(&store).unwrap();
        assert_eq!(report.problems, [], "stage {i}");
        if i == 4 {
            assert!(report.tombstones > 4, "{report:?}");
        }
        follow(&fake, &Sim::new(2), stage, &format!("pruned after stage {i}"));
    }
}

#[test]
fn a_reader_that_pruning_overtakes_begins_anew() {
    let stages = stages();
    let fake = Fake::new();
    push(&fake, &stages[1]).unwrap();
    let mut archive = Archive::open(Arc::new(fake.client())).unwrap();
    for stage in &stages[2..] {
        push(&fake, stage).unwrap();
    }
    let store = fake.client();
    prune(&store, &plan_prune(&store).unwrap()).unwrap();
    let offer = crate::ship::Source::look(&mut archive, &crate::ship::Report::default()).unwrap();
    assert_eq!(offer.durable_offset, stages[4].end);
}

#[test]
fn a_writer_that_stalled_before_its_create_cannot_write_what_was_pruned() {
    // Scenario 10: the entry was chosen, then pruning passed it.
    let stages = stages();
    let fake = Fake::new();
    push(&fake, &stages[0]).unwrap();
    let stalled = load(&fake.client()).unwrap();
    for stage in &stages[1..] {
        push(&fake, stage).unwrap();
    }
    let store = fake.client();
    prune(&store, &plan_prune(&store).unwrap()).unwrap();
    let n = stalled.n + 1;
    let there = walk::head(&store, n).unwrap().unwrap();
    assert!(matches!(there.what, What::Tombstone { .. }), "{there:?}");
    let head = EntryHead {
        n,
        put_id: crate::position::Id([1; 16]),
        payload_bytes: 0,
        payload_hash: Hash([0; 32]),
        what: What::Snapshot(SnapshotRef {
            name: SnapshotName { offset: Offset(1), epoch: there.epoch },
            log_byte: crate::position::LogByte(1),
            bytes: 0,
            manifest: Hash([0; 32]),
        }),
        ..there.clone()
    };
    let (head, bytes) = head.with_payload(&[]);
    let mut contest = sequence::Contest::new(head, bytes);
    let error = sequence::run(&store, &mut contest).unwrap_err();
    assert_eq!(error.kind(), Kind::Locked, "{error}");
    assert_eq!(walk::head(&store, n).unwrap().unwrap(), there);
}

#[test]
fn unnamed_objects_go_only_when_named_segments_cover_them_and_pins_keep_all() {
    let stages = stages();
    let fake = Fake::new();
    for stage in &stages[..3] {
        push(&fake, stage).unwrap();
    }
    let state = load(&fake.client()).unwrap();
    let sealed: Vec<Sealed> =
        state.pieces.values().filter_map(|piece| piece.sealed().copied()).collect();
    assert!(sealed.len() >= 2);
    let covered = ObjectName::Data(sealed[0].base, Hash([1; 32]));
    let ahead = ObjectName::Data(state.end, Hash([2; 32]));
    fake.plant(covered, Some(vec![1; 100]));
    fake.plant(ahead, Some(vec![1; 100]));
    let pin = ObjectName::Pin(crate::position::Id([3; 16]));
    fake.plant(pin, Some(vec![]));
    let store = fake.client();
    let plan = plan_prune(&store).unwrap();
    assert!(plan.is_empty() && plan.pins == 1, "{plan:?}");
    fake.plant(pin, None);
    let plan = plan_prune(&store).unwrap();
    assert_eq!(plan.data, [(covered, 100)]);
    assert_eq!(plan.bytes(), 100 + plan.entries.iter().map(|(_, bytes)| bytes).sum::<u64>());
    prune(&store, &plan).unwrap();
    assert!(fake.object(&covered).is_none() && fake.object(&ahead).is_some());
    follow(&fake, &Sim::new(2), &stages[2], "after pruning");
}
