//! One publisher: whatever happens at whatever call, pushing again ends in the same archive.

use std::sync::{Condvar, Mutex};

use super::super::fake::{self, StoreFault};
use super::*;
use crate::error::Kind;
use crate::log::files::{Control, Layout};

#[test]
fn a_follower_of_the_archive_gets_the_leaders_files() {
    let fake = Fake::new();
    // Lists are late and out of order, and nobody notices.
    fake.make_lists_stale();
    let along = Sim::new(3);
    for (i, stage) in stages().iter().enumerate() {
        let pushed = push(&fake, stage).unwrap();
        assert_eq!(pushed.end, stage.end);
        let state = sound(&fake, &format!("stage {i}"));
        assert_eq!(state.end_offset, stage.end);
        follow(&fake, &along, stage, &format!("stage {i}, along"));
        follow(&fake, &Sim::new(4), stage, &format!("stage {i}, fresh"));
    }
    let state = load(&fake.client()).unwrap();
    assert!(state.rollup > 8, "{} entries", state.n);
    assert_eq!(state.epoch.number, 2);
    assert!(state.pieces.values().filter(|piece| piece.sealed().is_some()).count() >= 4);
}

#[test]
fn pushing_again_with_nothing_new_asks_the_store_for_nothing() {
    let fake = Fake::new();
    let stage = &stages()[2];
    let store = Arc::new(fake.client());
    let mut publisher = publisher(store.clone(), &stage.disk, small()).unwrap();
    assert!(publisher.push().unwrap().entries > 4);
    let calls = store.calls();
    let again = publisher.push().unwrap();
    assert_eq!((again.entries, again.end), (0, stage.end));
    assert_eq!(store.calls(), calls, "idle costs nothing");
    // And by another process: a look, and no entry.
    assert_eq!(push(&fake, stage).unwrap().entries, 0);
}

#[test]
fn any_fault_at_any_call_changes_nothing_in_the_end() {
    let stages = stages();
    // How many calls a whole life takes.
    let fake = Fake::new();
    let store = Arc::new(fake.client());
    for stage in &stages {
        publisher(store.clone(), &stage.disk, small()).unwrap().push().unwrap();
    }
    let calls = store.calls();
    assert!(calls > 60, "only {calls} calls");
    let (mut told, mut runs) = (0, 0);
    for fault in StoreFault::ALL {
        for call in 1..=calls {
            let what = format!("{fault:?} at call {call}");
            let fake = Fake::new();
            let mut store = Arc::new(fake.failing(call, fault));
            for stage in &stages {
                let outcome = publisher(store.clone(), &stage.disk, small())
                    .and_then(|mut publisher| publisher.push().or_else(|_| publisher.push()));
                if let Err(error) = outcome {
                    // A fault that passes by itself is met once, so only a kill ends a push.
                    told += 1;
                    assert_ne!(error.kind(), Kind::Corrupt, "{what}: {error}");
                    store = Arc::new(fake.client());
                    let pushed = publisher(store.clone(), &stage.disk, small()).unwrap().push();
                    assert_eq!(pushed.unwrap_or_else(|e| panic!("{what}: {e}")).end, stage.end);
                }
            }
            fake.settle();
            let state = sound(&fake, &what);
            assert_eq!(state.end_offset, stages[stages.len() - 1].end, "{what}");
            if call % 3 == 0 {
                follow(&fake, &Sim::new(4), &stages[stages.len() - 1], &what);
            }
            runs += 1;
        }
    }
    assert!(told >= 2 * calls - 10, "{told} of {runs} runs were told of a fault");
}

#[test]
fn a_long_store_outage_leaves_the_entry_open_and_nothing_else_is_appended() {
    let stages = stages();
    for fault in [StoreFault::TimeoutAfter, StoreFault::TimeoutBefore, StoreFault::Late(30)] {
        let fake = Fake::new();
        push(&fake, &stages[0]).unwrap();
        let before = load(&fake.client()).unwrap().n;
        // Every call from the first create on fails; it happened, or will, or not.
        let quiet = {
            let store = Arc::new(fake.deep_copy().client());
            let mut publisher = publisher(store.clone(), &stages[1].disk, small()).unwrap();
            let opening = store.calls();
            publisher.push().unwrap();
            opening + 1
        };
        let store = Arc::new(fake.failing(quiet + 1, fault));
        for call in quiet + 2..quiet + 40 {
            store.fail_at(call, StoreFault::TimeoutBefore);
        }
        let mut publisher = publisher(store, &stages[1].disk, small()).unwrap();
        let error = publisher.push().unwrap_err();
        assert_eq!(error.kind(), Kind::Unknown, "{fault:?}: {error}");
        let there = fake.object(&ObjectName::Log(before + 1)).is_some();
        assert_eq!(there, fault == StoreFault::TimeoutAfter, "{fault:?}");
        // The store is back: the same entry first, under its own n.
        let pushed = (0..10).find_map(|_| publisher.push().ok()).unwrap();
        assert_eq!(pushed.end, stages[1].end, "{fault:?}");
        fake.settle();
        sound(&fake, &format!("{fault:?}"));
        follow(&fake, &Sim::new(2), &stages[1], "after the outage");
    }
}

#[test]
fn another_logs_archive_and_a_followers_directory_are_refused() {
    let fake = Fake::new();
    let stages = stages();
    push(&fake, &stages[1]).unwrap();
    let other = Sim::new(99);
    let log = options(&other).open(LEADER).unwrap();
    append(&other, &log, 1, 10);
    let error = push(&fake, &Stage { disk: other, end: Offset(3) }).unwrap_err();
    assert_eq!(error.kind(), Kind::WrongLog, "{error}");

    let copy = Sim::new(3);
    follow(&fake, &copy, &stages[1], "a copy");
    let directory = Directory::open_in(copy.shared(), COPY).unwrap();
    let refused = Publisher::open(Arc::new(fake.client()), directory, small()).unwrap_err();
    assert_eq!(refused.kind(), Kind::NotLeader, "{refused}");
}

#[test]
fn a_directory_that_lost_what_it_published_is_refused() {
    let fake = Fake::new();
    let stages = stages();
    push(&fake, &stages[1]).unwrap();
    let before = fake.names();
    // Restored from an older copy: the same epoch, and shorter.
    let error = push(&fake, &stages[0]).unwrap_err();
    assert_eq!(error.kind(), Kind::NotInHistory, "{error}");
    assert_eq!(fake.names(), before);
}

#[test]
fn a_log_whose_front_is_gone_starts_its_archive_there_and_a_gap_is_refused() {
    let stages = stages();
    let disk = stages[4].disk.process();
    let log = options(&disk).create(false).open(LEADER).unwrap();
    let kept = log.segments()[2].base_offset;
    let policy = crate::log::Retention { keep_from: Some(kept), ..Default::default() };
    assert!(!log.retain(&policy).unwrap().files.is_empty());
    append(&disk, &log, 1, 10);
    let stage = Stage { end: log.durable_end(), disk: disk.deep_copy() };
    let fake = Fake::new();
    assert_eq!(push(&fake, &stage).unwrap().end, stage.end);
    let state = sound(&fake, "begun late");
    assert_eq!(state.floor_offset, log.start());
    // An archive that ends before what is left cannot go on.
    let fake = Fake::new();
    push(&fake, &stages[0]).unwrap();
    let error = push(&fake, &stage).unwrap_err();
    assert_eq!(error.kind(), Kind::Gone, "{error}");
    assert_eq!(load(&fake.client()).unwrap().epoch.number, 1, "nothing was fenced for nothing");
}

#[test]
fn a_store_that_is_not_atomic_is_refused_for_anything_but_reading() {
    let fake = Fake::new();
    let stages = stages();
    push(&fake, &stages[1]).unwrap();
    let before = fake.names();
    fake.let_both_win();
    let options = PublishOptions { probe: true, ..small() };
    let mut publisher = publisher(Arc::new(fake.client()), &stages[2].disk, options).unwrap();
    for _ in 0..2 {
        let error = publisher.push().unwrap_err();
        assert_eq!(error.kind(), Kind::StoreNotAtomic, "{error}");
    }
    assert_eq!(fake.names(), before, "nothing was published");
    follow(&fake, &Sim::new(2), &stages[1], "reading");
}

/// A publisher dropped its entry when what stood at n could not be read, and went on with another
/// one at the same n. The first could still arrive: its writer then took its own success for
/// another process and halted.
#[test]
fn what_cannot_be_read_back_is_tried_again_with_the_same_bytes() {
    let stage = stages().remove(0);
    let fake = Fake::new();
    // The call that creates the fence is done; from then on nothing is answered.
    let fence = ObjectName::Log(1);
    let mut call = 0;
    loop {
        call += 1;
        let fresh = Fake::new();
        let store = fresh.failing(call, StoreFault::KilledAfter);
        let _ = publisher(Arc::new(store), &stage.disk, small()).and_then(|mut to| to.push());
        if fresh.object(&fence).is_some() {
            break;
        }
    }
    let store = Arc::new(fake.client());
    store.fail_at(call, StoreFault::TimeoutAfter);
    for read in 1..=u64::from(sequence::ATTEMPTS) {
        store.fail_at(call + read, StoreFault::ServerError);
    }
    let mut to = publisher(Arc::clone(&store) as Arc<dyn Store>, &stage.disk, small()).unwrap();
    assert_eq!(to.push().unwrap_err().kind(), Kind::Unknown);
    let sent = fake.object(&fence).unwrap();
    fake.plant(fence, Some(b"not an entry".to_vec()));
    assert_eq!(to.push().unwrap_err().kind(), Kind::Corrupt);
    // It was not there yet after all, and is still on its way.
    fake.plant(fence, None);
    assert_eq!(to.push().unwrap().end, stage.end);
    assert_eq!(fake.object(&fence), Some(sent), "the same n, the same bytes");
}

#[test]
fn a_leader_that_knows_of_less_than_the_archive_holds_has_lost_nothing() {
    // Opened anew under a synchronous set, a leader calls little committed until its members report;
    // being told to publish only that, the publisher took the archive's end for lost records.
    let sim = Sim::new(3);
    let log = options(&sim).open(LEADER).unwrap();
    log.append(&Record::put(b"k", b"v")).unwrap();
    log.close().unwrap();
    let fake = Fake::new();
    let open = || {
        let from = Directory::open_in(sim.shared(), LEADER).unwrap();
        Publisher::open(Arc::new(fake.client()), from, PublishOptions::default()).unwrap()
    };
    open().push().unwrap();
    let mut publisher = open();
    let end = (publisher.state().end, publisher.state().end_offset);
    assert_eq!(end.1, Offset(1));
    publisher.push_to(Default::default()).unwrap();
    assert_eq!(publisher.held(), Some(end));
}

/// Found by the simulation: a leader went on where it was closed, and a power cut had taken `STATE`. Until that was written
/// again its files showed less than was published, and it said that its directory had lost it.
#[test]
fn what_the_files_do_not_show_yet_is_no_loss_to_who_knows_that_it_is_durable() {
    let stages = stages();
    let (fake, sim) = (Fake::new(), stages[0].disk.deep_copy());
    push(&fake, &stages[0]).unwrap();
    let there = load(&fake.client()).unwrap();
    let layout = Layout::new(Path::new(LEADER));
    let fs = sim.shared();
    let mut control = Control::need(&*fs, &layout).unwrap();
    control.clean = None;
    control.write(&*fs, &layout).unwrap();
    sim.remove(layout.state());
    let open = || publisher(Arc::new(fake.client()), &sim, small()).unwrap();
    let error = open().push_to(Default::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::NotInHistory, "{error}");
    let mut publisher = open();
    publisher.knows_durable((there.end, there.end_offset));
    publisher.push_to(Default::default()).unwrap();
    assert_eq!(publisher.held(), Some((publisher.state().end, publisher.state().end_offset)));
}

#[test]
fn an_entry_that_turns_out_to_be_there_is_no_loss_when_less_is_to_be_published_by_then() {
    // The archive's mode was given up for one that calls less committed while it was not known what had become
    // of the last entry. It was there, and the publisher took the archive's end for records it had lost.
    let stages = stages();
    let fake = Fake::new();
    push(&fake, &stages[0]).unwrap();
    let (before, end) = {
        let state = load(&fake.client()).unwrap();
        (state.n, (state.end, state.end_offset))
    };
    // The call that creates the entry is done; from then on nothing is answered.
    let entry = ObjectName::Log(before + 1);
    let creates = |call: &u64| {
        let fake = fake.deep_copy();
        let store = fake.failing(*call, StoreFault::KilledAfter);
        let _ = publisher(Arc::new(store), &stages[1].disk, small()).and_then(|mut to| to.push());
        fake.object(&entry).is_some()
    };
    let call = (1..).find(creates).expect("some call creates it");
    let store = Arc::new(fake.failing(call, StoreFault::TimeoutAfter));
    for read in 1..=u64::from(sequence::ATTEMPTS) {
        store.fail_at(call + read, StoreFault::ServerError);
    }
    let mut publisher = publisher(store, &stages[1].disk, small()).unwrap();
    assert_eq!(publisher.push().unwrap_err().kind(), Kind::Unknown);
    let pushed = publisher.push_to(end).unwrap();
    assert!(pushed.end > end.1, "what is there is there");
    assert_eq!(publisher.held(), Some((publisher.state().end, publisher.state().end_offset)));
    sound(&fake, "an entry that was there");
}

/// A store that is slow, and answers several requests as fast as one: each for an entry's head waits a moment for others.
#[derive(Debug)]
struct Wide {
    store: fake::FakeStore,
    /// Requests that are there, and the most that there were.
    asked: Mutex<(usize, usize)>,
    moved: Condvar,
}

impl Store for Wide {
    fn place(&self) -> String {
        self.store.place()
    }
    fn get_range(&self, name: &ObjectName, from: u64, len: usize) -> Result<Option<Vec<u8>>> {
        if len == HEAD_BYTES {
            let mut asked = self.asked.lock().unwrap();
            asked.0 += 1;
            asked.1 = asked.1.max(asked.0);
            self.moved.notify_all();
            let wait = Duration::from_millis(20);
            let waited = self.moved.wait_timeout_while(asked, wait, |asked| asked.1 < self.width());
            waited.unwrap().0.0 -= 1;
        }
        self.store.get_range(name, from, len)
    }
    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.store.put(name, bytes)
    }
    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Create {
        self.store.create(name, bytes)
    }
    fn list(&self, prefix: Prefix) -> Result<Vec<(ObjectName, u64)>> {
        self.store.list(prefix)
    }
    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.store.delete(name)
    }
    fn width(&self) -> usize {
        8
    }
}

/// A leader read up to a thousand entries one behind the other before it published anything, and a candidate twice before
/// it led: with a store that takes a second for an answer a change to the mode `archive` was not committed in a minute.
#[test]
fn a_slow_store_is_asked_for_several_entries_at_a_time() {
    let fake = Fake::new();
    let sim = Sim::new(5);
    let log = options(&sim).open(LEADER).unwrap();
    let options = PublishOptions { rollup_every: 1000, ..small() };
    let mut publisher = publisher(Arc::new(fake.client()), &sim, options).unwrap();
    for _ in 0..20 {
        append(&sim, &log, 1, 100);
        publisher.push().unwrap();
    }
    let stage = Stage { disk: sim.deep_copy(), end: log.durable_end() };
    let state = load(&fake.client()).unwrap();
    assert!(state.n > 16 && state.rollup == 0, "{} entries", state.n);
    let wide = Wide { store: fake.client(), asked: Mutex::default(), moved: Condvar::new() };
    assert_eq!(load(&wide).unwrap(), state);
    assert_eq!(wide.asked.lock().unwrap().1, 8, "at most so many, and so many");
    follow(&fake, &Sim::new(4), &stage, "read by a reader that asks for one at a time");
    // The epoch alone is had for less.
    #[cfg(feature = "wire")]
    {
        let store = fake.client();
        assert_eq!(walk::newest_epoch(&store).unwrap(), Some(state.epoch));
        assert!(store.calls() < 8, "{} calls", store.calls());
        assert_eq!(walk::newest_epoch(&Fake::new().client()).unwrap(), None);
    }
    // What fails is an error, as of one at a time.
    let calls = wide.store.calls();
    for call in calls..calls + 20 {
        wide.store.fail_at(call, StoreFault::ServerError);
    }
    assert_eq!(load(&wide).unwrap_err().kind(), Kind::Io);
}
