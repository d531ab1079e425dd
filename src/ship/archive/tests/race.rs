//! Two publishers at once: an old leader that lives on, and new ones.

use super::super::fake::Turns;
use super::*;
use crate::error::Kind;
use crate::ship::SegmentName;

/// A zombie that appended on in epoch 1, and `count` others that took over from before that.
fn branches(count: usize) -> (Stage, Stage, Vec<Stage>) {
    let sim = Sim::new(11);
    let log = options(&sim).open(LEADER).unwrap();
    append(&sim, &log, 4, 3000);
    let shared = Stage { disk: sim.deep_copy(), end: log.durable_end() };
    let others = (0..count).map(|i| {
        let copy = sim.deep_copy();
        let copy = copy.process();
        reseed(&copy, i + 1);
        copy.unlink(&Path::new(LEADER).join("LOCK")).unwrap();
        let file = copy.open(&Path::new(LEADER).join("LOCK"), crate::fs::Open::Create).unwrap();
        drop(file);
        let log = options(&copy).identity(Identity::NewNode).open(LEADER).unwrap();
        append(&copy, &log, 3 + i as u64, 500);
        Stage { disk: copy.deep_copy(), end: log.durable_end() }
    });
    let others = others.collect();
    append(&sim, &log, 14, 4000);
    (shared, Stage { disk: sim.deep_copy(), end: log.durable_end() }, others)
}

/// Runs publishers in an order that the seed decides; what each ended with.
fn race(fake: &Fake, seed: u64, shaky: u64, stages: &[&Stage]) -> Vec<(Result<Pushed>, State)> {
    let turns = Turns::new(seed, stages.len());
    let stores: Vec<Arc<dyn Store>> = (0..stages.len() as u64)
        .map(|i| Arc::new(fake.shaky(seed * 7 + i, shaky).in_turn(&turns)) as Arc<dyn Store>)
        .collect();
    std::thread::scope(|scope| {
        let racers: Vec<_> = stores
            .into_iter()
            .zip(stages)
            .enumerate()
            .map(|(i, (store, stage))| {
                let disk = stage.disk.deep_copy();
                reseed(&disk, i + 5);
                scope.spawn(move || {
                    let options = PublishOptions { accept_loss: true, ..small() };
                    let mut publisher = loop {
                        match publisher(Arc::clone(&store), &disk, options) {
                            Ok(publisher) => break publisher,
                            Err(e) => assert_eq!(e.kind(), Kind::Io, "{e}"),
                        }
                    };
                    let mut outcome = publisher.push();
                    for _ in 0..30 {
                        match &outcome {
                            Err(e) if matches!(e.kind(), Kind::Io | Kind::Unknown) => {}
                            _ => break,
                        }
                        outcome = publisher.push();
                    }
                    if outcome.as_ref().is_err_and(|e| e.kind() == Kind::Fenced) {
                        stays_fenced(&mut publisher);
                    }
                    (outcome, publisher.state().clone())
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    })
}

/// Racing leaders in real stores found it: one that met the fence when it appended, and was then asked
/// for no more than it had published before, said that all was well.
fn stays_fenced(publisher: &mut Publisher) {
    let there = (publisher.state().end, publisher.state().end_offset);
    let again = publisher.push_to(there);
    assert!(again.is_err(), "fenced, and then {again:?}");
}

/// What a publisher believed to be in the archive is there, under its n.
fn believed(fake: &Fake, state: &State, what: &str) {
    if state.n == 0 {
        return;
    }
    let bytes = fake.object(&ObjectName::Log(state.n)).unwrap_or_else(|| panic!("{what}"));
    assert_eq!(EntryHead::decode(&bytes).unwrap().hash(), state.hash, "{what}: an entry was lost");
}

#[test]
fn an_old_leader_and_a_new_one_race_and_no_acknowledged_entry_is_lost() {
    let (shared, zombie, others) = branches(1);
    let (mut fenced, mut first) = (0, 0);
    for seed in 0..200 {
        let what = format!("seed {seed}");
        let fake = Fake::new();
        push(&fake, &shared).unwrap();
        let shaky = if seed % 2 == 0 { 0 } else { 120 };
        let outcomes = race(&fake, seed, shaky, &[&zombie, &others[0]]);
        fake.settle();
        for (_, state) in &outcomes {
            believed(&fake, state, &what);
        }
        match &outcomes[0].0 {
            Ok(_) => first += 1,
            Err(e) => {
                assert_eq!(e.kind(), Kind::Fenced, "{what}: {e}");
                fenced += 1;
            }
        }
        let pushed = outcomes[1].0.as_ref().unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(pushed.end, others[0].end, "{what}");
        let state = sound(&fake, &what);
        assert_eq!(state.epoch.number, 2, "{what}");
        follow(&fake, &Sim::new(2), &others[0], &what);
        // The old one stays fenced, whatever it tries.
        let again = push(&fake, &zombie).unwrap_err();
        assert_eq!(again.kind(), Kind::Fenced, "{what}");
    }
    assert!(fenced > 20 && first > 0, "fenced {fenced}, first {first}: the race is none");
}

#[test]
fn of_two_that_chose_the_same_epoch_number_one_leads() {
    let (shared, _, others) = branches(2);
    let mut wins = [0; 2];
    for seed in 0..100 {
        let what = format!("seed {seed}");
        let fake = Fake::new();
        push(&fake, &shared).unwrap();
        let shaky = if seed % 2 == 0 { 0 } else { 120 };
        let outcomes = race(&fake, seed, shaky, &[&others[0], &others[1]]);
        fake.settle();
        let won: Vec<usize> = (0..2).filter(|i| outcomes[*i].0.is_ok()).collect();
        let [winner] = won[..] else { panic!("{what}: {outcomes:?}") };
        wins[winner] += 1;
        let lost = outcomes[1 - winner].0.as_ref().unwrap_err();
        assert_eq!(lost.kind(), Kind::Fenced, "{what}: {lost}");
        for (_, state) in &outcomes {
            believed(&fake, state, &what);
        }
        sound(&fake, &what);
        follow(&fake, &Sim::new(2), &others[winner], &what);
    }
    assert!(wins[0] > 10 && wins[1] > 10, "{wins:?}");
}

#[test]
fn two_processes_of_one_leader_publish_without_harm() {
    let stages = stages();
    for seed in 0..60 {
        let what = format!("seed {seed}");
        let fake = Fake::new();
        let outcomes = race(&fake, seed, 0, &[&stages[2], &stages[2]]);
        for (outcome, state) in &outcomes {
            believed(&fake, state, &what);
            if let Err(e) = outcome {
                assert_eq!(e.kind(), Kind::Locked, "{what}: {e}");
            }
        }
        push(&fake, &stages[2]).unwrap();
        sound(&fake, &what);
        follow(&fake, &Sim::new(2), &stages[2], &what);
    }
}

#[test]
fn a_fork_below_the_end_needs_consent_and_what_it_cuts_stays_readable() {
    let (shared, zombie, others) = branches(1);
    let fake = Fake::new();
    push(&fake, &shared).unwrap();
    push(&fake, &zombie).unwrap();
    let error = push(&fake, &others[0]).unwrap_err();
    assert_eq!(error.kind(), Kind::NotInHistory, "{error}");
    assert!(error.to_string().contains("--accept-loss"), "{error}");
    assert_eq!(sound(&fake, "refused").epoch.number, 1);

    let options = PublishOptions { accept_loss: true, ..small() };
    let store = Arc::new(fake.client());
    publisher(store.clone(), &others[0].disk, options).unwrap().push().unwrap();
    let state = sound(&fake, "cut");
    assert!(!state.cut.is_empty());
    for cut in &state.cut {
        match cut {
            Cut::Sealed(held) => assert!(fake.object(&held.sealed.name()).is_some()),
            Cut::Tail(tail) => {
                walk::entry(&*store, tail.n, tail.hash).unwrap();
            }
        }
    }
    follow(&fake, &Sim::new(2), &others[0], "behind a fork");
}

/// Found by the simulation: what is in the archive is published whatever is committed, and the end of the history that
/// was just cut off there counted as that: in the middle of a frame, or behind what may be shown.
#[test]
fn what_a_fence_cuts_off_says_nothing_of_how_far_its_leader_may_publish() {
    let (shared, zombie, others) = branches(1);
    let fake = Fake::new();
    push(&fake, &shared).unwrap();
    let before = sound(&fake, "what both have");
    let committed = (before.end, before.end_offset);
    push(&fake, &zombie).unwrap();
    assert!(sound(&fake, "what goes").end > committed.0);

    let options = PublishOptions { accept_loss: true, ..small() };
    let mut publisher = publisher(Arc::new(fake.client()), &others[0].disk, options).unwrap();
    let pushed = publisher.push_to(committed).unwrap();
    assert_eq!(pushed.end, committed.1);
    let after = sound(&fake, "cut");
    assert_eq!((after.end, after.end_offset), committed);
    assert!(!after.cut.is_empty());
}

/// A candidate fences before its epoch has a frame: at the end, so that nothing is cut, and nobody older goes on.
#[cfg(feature = "wire")]
#[test]
fn who_takes_over_before_its_epoch_cuts_nothing_and_shuts_out_the_old_leader() {
    use crate::position::{Epoch, Id, LogByte};

    let (shared, zombie, _) = branches(0);
    for seed in 0..60 {
        let fake = Fake::new();
        let shaky = if seed % 2 == 0 { 0 } else { 120 };
        let store: Arc<dyn Store> = Arc::new(fake.shaky(seed, shaky));
        let fs = Sim::new(seed).shared();
        let owner =
            |log, number| Owner { log, epoch: Epoch { number, nonce: seed }, node: Id([7; 16]) };
        let take = |me: &Owner| loop {
            match take_over(&*store, me, &fs, (LogByte(0), Offset(0))) {
                Err(e) if matches!(e.kind(), Kind::Io | Kind::Unknown) => {}
                outcome => break outcome.map(|state| (state.end, state.end_offset)),
            }
        };
        push(&fake, &shared).unwrap();
        let before = sound(&fake, "pushed");
        let me = owner(before.log, 9);
        let end = (before.end, before.end_offset);
        assert_eq!(take(&me).unwrap(), end);
        fake.settle();
        let fenced = sound(&fake, "taken over");
        assert_eq!((fenced.epoch, fenced.end, fenced.cut.len()), (me.epoch, before.end, 0));
        assert_eq!(take(&me).unwrap(), end, "done again");
        fake.settle();
        assert_eq!(sound(&fake, "again").n, fenced.n, "nothing more was said");
        assert_eq!(push(&fake, &zombie).unwrap_err().kind(), Kind::Fenced);
        for late in [8, 9] {
            let late = Owner { node: Id([8; 16]), ..owner(before.log, late) };
            assert_eq!(take(&late).unwrap_err().kind(), Kind::Fenced);
        }
        let other = owner(Id([1; 16]), 10);
        assert_eq!(take(&other).unwrap_err().kind(), Kind::WrongLog);
    }
}

/// The simulation of roles found it (seed 188 over 4,000 steps): a leader that was cut back while it was down ended
/// an epoch, and its segment, earlier than the copy that led next. That SEAL was taken for a part of both histories,
/// the fork was put behind it, and nothing more could be published.
#[test]
fn a_fork_lies_before_a_seal_that_only_one_history_has() {
    let sim = Sim::new(13);
    let log = options(&sim).open(LEADER).unwrap();
    append(&sim, &log, 2, 3000);
    let less = sim.deep_copy();
    append(&sim, &log, 2, 2000);
    let more = sim.deep_copy();
    std::mem::forget(log);
    // Each goes on as another node does, in an epoch of its own.
    let lead = |disk: &Sim, number: u64, by: usize| {
        let disk = disk.process();
        reseed(&disk, by);
        disk.unlink(&Path::new(LEADER).join("LOCK")).unwrap();
        drop(disk.open(&Path::new(LEADER).join("LOCK"), crate::fs::Open::Create).unwrap());
        let mut log = options(&disk).identity(Identity::NewNode).open(LEADER).unwrap();
        while log.stats().epoch.number < number {
            disk.kill();
            std::mem::forget(log);
            log = options(&disk.process()).open(LEADER).unwrap();
        }
        append(&disk, &log, 3, 500);
        Stage { disk: disk.deep_copy(), end: log.durable_end() }
    };
    let (less, more) = (lead(&less, 2, 1), lead(&more, 3, 2));

    let fake = Fake::new();
    push(&fake, &less).unwrap();
    let before = sound(&fake, "the shorter one");
    let (base, piece) = before.pieces.first_key_value().unwrap();
    let seal = piece.sealed().expect("the segment that its epoch ended with").end;
    let other = bytes(&*more.disk.shared(), LEADER, &SegmentName(*base).to_string());
    assert!(other.len() as u64 > seal.0, "the other copy of it is longer");

    let options = PublishOptions { accept_loss: true, ..small() };
    let store = Arc::new(fake.client());
    publisher(store, &more.disk, options).unwrap().push().unwrap();
    let after = sound(&fake, "the longer one");
    assert_eq!(after.end_offset, more.end);
    assert!(!after.cut.is_empty());
    follow(&fake, &Sim::new(2), &more, "behind the fork");
}

/// Where nothing was published yet the fence is the first entry: an old leader that comes later finds it, and its own
/// publisher goes on behind it.
#[cfg(feature = "wire")]
#[test]
fn who_takes_over_an_archive_that_is_empty_shuts_out_the_old_leader_too() {
    use crate::position::LogByte;

    let (_, zombie, others) = branches(1);
    let from = Directory::open_in(others[0].disk.shared(), LEADER).unwrap().leadership().unwrap();
    let epoch = from.epochs.last().unwrap().epoch;
    let me = Owner { log: from.log, epoch, node: from.node.unwrap() };
    for seed in 0..60 {
        let what = format!("seed {seed}");
        let fake = Fake::new();
        let shaky = if seed % 2 == 0 { 0 } else { 120 };
        let (store, fs) = (fake.shaky(seed, shaky), Sim::new(seed).shared());
        let state = loop {
            match take_over(&store, &me, &fs, (LogByte(0), Offset(0))) {
                Err(e) if matches!(e.kind(), Kind::Io | Kind::Unknown) => {}
                outcome => break outcome.unwrap(),
            }
        };
        assert_eq!((state.n, state.epoch, state.end), (1, epoch, LogByte(0)), "{what}");
        assert_eq!(push(&fake, &zombie).unwrap_err().kind(), Kind::Fenced, "{what}");
        push(&fake, &others[0]).unwrap();
        fake.settle();
        assert_eq!(sound(&fake, &what).end_offset, others[0].end, "{what}");
        follow(&fake, &Sim::new(2), &others[0], &what);
    }
}
