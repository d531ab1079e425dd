//! Archives that somebody has tampered with: an error or the truth, never a panic, never a lie.

use super::*;
use crate::error::Kind;

/// A whole archive, and the stage it is of.
fn archive() -> (Fake, Stage) {
    let fake = Fake::new();
    let mut stages = stages();
    for stage in &stages[..4] {
        push(&fake, stage).unwrap();
    }
    (fake, stages.swap_remove(3))
}

/// Follows what is there; an error is fine, other records are not.
fn try_to_follow(fake: &Fake, stage: &Stage, what: &str) -> bool {
    let copy = Sim::new(2);
    let Ok(archive) = Archive::open(Arc::new(fake.client())) else { return false };
    let options = Log::options().fs(copy.shared()).worker(false);
    let table = Table::options().persist(false);
    let Ok(mut follower) = Follower::open_with(options, table, COPY, archive) else { return false };
    let outcome = follower.catch_up();
    drop(follower);
    let (leader, mine) = (stage.disk.shared(), copy.shared());
    for name in mine.list(&Path::new(COPY).join("segments")).unwrap_or_default() {
        if name.ends_with(".tmp") {
            continue;
        }
        let (theirs, mine) = (bytes(&*leader, LEADER, &name), bytes(&*mine, COPY, &name));
        let end = mine.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
        assert!(theirs.starts_with(&mine[..end]), "{what}: {name} has other bytes");
    }
    outcome.is_ok_and(|progress| progress.to == stage.end)
}

#[test]
fn a_flipped_bit_anywhere_is_an_error_or_of_no_meaning() {
    let (fake, stage) = archive();
    let names: Vec<ObjectName> =
        fake.names().into_iter().filter(|name| !matches!(name, ObjectName::Head)).collect();
    let mut found = 0;
    for name in names {
        let whole = fake.object(&name).unwrap();
        let step = (whole.len() / 12).max(1);
        for at in (0..whole.len()).step_by(step).chain([whole.len() - 1]) {
            let what = format!("{name}, byte {at}");
            let mut bent = whole.clone();
            bent[at] ^= 1 << (at % 8);
            let copy = fake.deep_copy();
            copy.plant(name, Some(bent));
            let report = verify_archive(&copy.client()).unwrap();
            let whole = try_to_follow(&copy, &stage, &what);
            if report.problems.is_empty() {
                // Superseded tails and their like: nobody reads what they carry.
                assert!(whole, "{what}: verify found nothing, and following failed");
            } else {
                found += 1;
            }
        }
    }
    assert!(found > 100, "{found}");
}

#[test]
fn missing_short_and_swapped_objects_are_errors() {
    let (fake, stage) = archive();
    let names = fake.names();
    for (i, name) in names.iter().enumerate() {
        let bytes = fake.object(name).unwrap();
        let other = fake.object(&names[(i + 1) % names.len()]);
        for planted in [None, Some(bytes[..bytes.len() / 2].to_vec()), Some(vec![]), other] {
            let copy = fake.deep_copy();
            copy.plant(*name, planted);
            let followed = try_to_follow(&copy, &stage, &name.to_string());
            let sound = verify_archive(&copy.client()).unwrap().problems.is_empty();
            if matches!(name, ObjectName::Head) {
                assert!(followed && sound, "a hint is a hint");
            }
            // The last entries may be cut off without a trace: then there is just less.
            assert!(!followed || sound || !matches!(name, ObjectName::Data(..)), "{name}");
        }
    }
}

#[test]
fn claims_beyond_all_bounds_are_refused_before_anything_is_fetched() {
    let (fake, _) = archive();
    let state = load(&fake.client()).unwrap();
    let last = walk::head(&fake.client(), state.n).unwrap().unwrap();
    let next = |what: What, payload_bytes: u64| EntryHead {
        n: state.n + 1,
        rollup: state.rollup,
        previous: state.hash,
        payload_bytes,
        payload_hash: if payload_bytes > 0 { Hash([1; 32]) } else { Hash([0; 32]) },
        what,
        ..last.clone()
    };
    let base = state.next_base();
    let sealed = Sealed {
        base,
        base_offset: state.end_offset,
        epoch: state.epoch,
        end: crate::position::LogByte(u64::MAX),
        end_offset: Offset(u64::MAX),
        fingerprint: Default::default(),
        file_bytes: u64::MAX,
        hash: Hash([1; 32]),
        seal: Hash([2; 32]),
    };
    let huge = Tail {
        base,
        base_offset: state.end_offset,
        epoch: state.epoch,
        from: base,
        to: base.plus(1 << 40),
        to_offset: Offset(u64::MAX),
        fingerprint: Default::default(),
    };
    let heads = [
        next(What::Rollup, MAX_PAYLOAD_BYTES),
        next(What::Rollup, u64::MAX),
        next(What::Segment(sealed), 0),
        next(What::Tail(huge), huge.payload_bytes().unwrap()),
        EntryHead { n: u64::MAX, ..next(What::Rollup, 5) },
    ];
    for head in heads {
        let copy = fake.deep_copy();
        copy.plant(ObjectName::Log(state.n + 1), Some(head.encode().to_vec()));
        let store: Arc<dyn Store> = Arc::new(copy.client());
        if let Ok(mut archive) = Archive::open(store) {
            let offer =
                crate::ship::Source::look(&mut archive, &crate::ship::Report::default()).unwrap();
            for segment in offer.segments {
                let _ = crate::ship::Source::segment(&mut archive, segment);
                let mut buf = [0; 64];
                let _ = crate::ship::Source::read(&mut archive, segment, u64::MAX - 3, &mut buf);
                let _ = crate::ship::Source::read(&mut archive, segment, 4096, &mut buf);
            }
        }
        let _ = verify_archive(&copy.client());
    }
}

#[test]
fn an_empty_place_is_no_archive() {
    let error = Archive::open(Arc::new(Fake::new().client())).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}
