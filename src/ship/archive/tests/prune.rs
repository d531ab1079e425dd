//! Pruning frees room and no name.

use super::*;
use crate::error::Kind;
use crate::table::SnapshotName;

/// Any time will do where there are no pins.
const NOW: i64 = 1_700_000_000_000_000_000;

#[test]
fn pruning_takes_what_nobody_needs_and_followers_see_no_difference() {
    let stages = stages();
    let fake = Fake::new();
    let store = fake.client();
    for (i, stage) in stages.iter().enumerate() {
        push(&fake, stage).unwrap();
        let plan = plan_prune(&store, NOW, None).unwrap();
        let before = fake.names();
        prune(&store, &plan, NOW).unwrap();
        assert_eq!(fake.names(), before, "no name is freed");
        assert_eq!(plan_prune(&store, NOW, None).unwrap(), PrunePlan::default());
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
    prune(&store, &plan_prune(&store, NOW, None).unwrap(), NOW).unwrap();
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
    prune(&store, &plan_prune(&store, NOW, None).unwrap(), NOW).unwrap();
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
    let plan = plan_prune(&store, NOW, None).unwrap();
    assert!(plan.is_empty() && plan.pins == 1, "{plan:?}");
    fake.plant(pin, None);
    let plan = plan_prune(&store, NOW, None).unwrap();
    assert_eq!(plan.data, [(covered, 100)]);
    assert_eq!(plan.bytes(), 100 + plan.entries.iter().map(|(_, bytes)| bytes).sum::<u64>());
    prune(&store, &plan, NOW).unwrap();
    assert!(fake.object(&covered).is_none() && fake.object(&ahead).is_some());
    follow(&fake, &Sim::new(2), &stages[2], "after pruning");
}

#[test]
fn a_pin_counts_until_it_has_ended_and_one_that_cannot_be_read_always() {
    let stages = stages();
    let fake = Fake::new();
    for stage in &stages {
        push(&fake, stage).unwrap();
    }
    let store = fake.client();
    let hour = i64::try_from(GRACE.as_nanos()).unwrap();
    let sim = Sim::new(3);
    let (id, pin) = set_pin(&store, &sim, "a restore on host b", 2 * GRACE).unwrap();
    assert_eq!(pins(&store).unwrap(), [(id, Some(pin.clone()))]);
    assert_eq!(pin.expires, pin.made + 2 * hour);
    let end = pin.expires + hour;
    for (now, counts) in [(pin.made, 1), (end, 1), (end + 1, 0)] {
        let plan = plan_prune(&store, now, None).unwrap();
        assert_eq!((plan.pins, plan.ended.len()), (counts, 1 - counts), "{now}");
        assert_eq!(plan.entries.is_empty(), counts == 1, "{plan:?}");
    }
    let other = ObjectName::Pin(crate::position::Id([8; 16]));
    fake.plant(other, Some(b"tidelog pin 9".to_vec()));
    let plan = plan_prune(&store, i64::MAX, None).unwrap();
    assert_eq!((plan.pins, plan.entries.len()), (1, 0), "{plan:?}");
    // What has ended goes all the same.
    prune(&store, &plan, NOW).unwrap();
    assert!(fake.object(&ObjectName::Pin(id)).is_none() && fake.object(&other).is_some());
    assert!(drop_pin(&store, crate::position::Id([8; 16])).unwrap());
    assert!(!drop_pin(&store, crate::position::Id([8; 16])).unwrap());
    assert!(!plan_prune(&store, NOW, None).unwrap().is_empty());
    for owner in ["", "two\nlines", &"x".repeat(300)] {
        let error = set_pin(&store, &sim, owner, GRACE).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidInput, "{error}");
    }
}

#[test]
fn the_documented_pin_is_what_the_code_writes() {
    let document = include_str!("../../../../docs/FORMAT.md");
    let start = document.find("tidelog pin 1\n").expect("an example in docs/FORMAT.md");
    let example = document[start..].split_once("```").unwrap().0;
    let pin = Pin { owner: "restore on b".into(), made: NOW, expires: NOW + 3_600_000_000_000 };
    assert_eq!(example, String::from_utf8(pin.encode()).unwrap());
    assert_eq!(Pin::decode(example.as_bytes()).unwrap(), pin);
}
