//! Copies whose small files were lost and made again: what they held is not known any more, and must not be made up.

use super::*;
use crate::log::files::{EpochEntry, Epochs, Promise};
use crate::log::repair_on;
use crate::position::Epoch;

fn repair(sim: &Sim, lost: &str) {
    sim.remove(Path::new(NODE).join(lost));
    repair_on(&sim.shared(), Path::new(NODE), false).unwrap();
}

/// A member that had lost what it had acknowledged came back from a repair as one that had not.
#[test]
fn a_copy_that_forgot_what_it_promised_or_lost_counts_for_nothing_until_it_has_fetched_something() {
    for lost in ["CONTROL", "PROMISE"] {
        let (a, b) = (Sim::new(1), Sim::new(2));
        let a = lead(&a, "shared", 5, 1000, false);
        follow(&b, &a).unwrap();
        repair(&b, lost);
        let mut follower = open(&b, &a).unwrap();
        // There is nothing to fetch; and whom it has promised to may be somebody else.
        let refused = follower.catch_up().err().map(|e| e.kind());
        assert_eq!(refused, (lost == "PROMISE").then_some(Kind::NotLeader));
        assert!(follower.report_now().unclean, "{lost}");
        follower.close().unwrap();
        // The next number is the one that was promised, of another nonce.
        let a = lead(&lead(&a, "more", 1, 100, false), "again", 1, 100, true);
        let mut follower = open(&b, &a).unwrap();
        assert!(follower.report_now().unclean, "{lost}");
        follower.catch_up().unwrap();
        assert!(!follower.report_now().unclean, "{lost}");
        follower.close().unwrap();
        same(&b, &a, lost);
    }
}

/// It named itself as the leader of every epoch, and took its leader's word of that one's disk for proof of its own.
#[test]
fn epochs_that_are_made_again_name_who_led_them() {
    let (a, b) = (Sim::new(1), Sim::new(2));
    let a = lead(&a, "shared", 5, 1000, false);
    let a = lead(&a, "more", 5, 8000, true);
    follow(&b, &a).unwrap();
    let read = |sim: &Sim| Epochs::read(&*sim.shared(), &layout()).unwrap();
    let before = read(&b);
    assert!(before.0.len() > 1 && before == read(&a));
    repair(&b, "EPOCHS");
    assert_eq!(read(&b), before);
}

/// The promise was made of what the segments show, and was lower than an epoch that this node knew.
#[test]
fn a_promise_that_is_made_again_is_above_all_that_is_known() {
    let a = lead(&Sim::new(1), "shared", 5, 1000, true);
    let fs = a.shared();
    let mut epochs = Epochs::read(&*fs, &layout()).unwrap();
    let last = *epochs.0.last().unwrap();
    epochs.push(EpochEntry { epoch: Epoch { number: 9, nonce: 1 }, ..last });
    epochs.write(&*fs, &layout()).unwrap();
    repair(&a, "PROMISE");
    assert_eq!(Promise::read(&*fs, &layout()).unwrap().unwrap().epoch.number, 10);
}

/// A repair that was cut short had made one of them again, and the next one took it for what had been there.
#[test]
fn a_repair_that_is_cut_anywhere_leaves_no_copy_that_counts_before_it_has_fetched_something() {
    for lost in ["CONTROL", "PROMISE"] {
        let (a, b) = (Sim::new(1), Sim::new(2));
        let a = lead(&a, "shared", 5, 1000, false);
        follow(&b, &a).unwrap();
        let mut cuts = 0;
        for crash in [Crash::KeepAll, Crash::DropAll] {
            for stop in 0.. {
                let disk = b.deep_copy();
                disk.remove(Path::new(NODE).join(lost));
                disk.stop_after(disk.operations() + stop);
                let whole = repair_on(&disk.shared(), Path::new(NODE), false).is_ok();
                let disk = disk.crash(&crash);
                if open(&disk, &a).is_err() {
                    repair_on(&disk.shared(), Path::new(NODE), false).unwrap();
                }
                let follower = open(&disk, &a).unwrap();
                assert!(follower.report_now().unclean, "{lost}, {crash:?} after {stop} operations");
                cuts += 1;
                if whole {
                    break;
                }
            }
        }
        assert!(cuts > 6, "only {cuts} cuts");
    }
}

/// The new CONTROL knew of no set: what was committed under one was nobody's promise, and nobody was asked for promises.
#[test]
fn the_sets_in_the_segments_are_known_again() {
    let (a, b) = (Sim::new(1), Sim::new(2));
    let log = options(&a).open(NODE).unwrap();
    append(&a, &log, "shared", 2, 100);
    let set = SyncSet::new(Mode::Sync { k: 1 }, [Id([1; 16]), Id([2; 16])]).unwrap();
    let home = log.home();
    let end = home.append_control(crate::frame::FrameKind::SyncSet, &set.encode()).unwrap();
    home.sync_to(end).unwrap();
    home.note_sets(&[SetLine { end, there: true, set }], None).unwrap();
    append(&a, &log, "more", 2, 100);
    log.close().unwrap();
    follow(&b, &a).unwrap();
    let control = |sim: &Sim| Control::need(&*sim.shared(), &layout()).unwrap();
    let before = control(&b);
    assert_eq!(before.sets.last().map(|line| line.end), Some(end));
    repair(&b, "CONTROL");
    assert_eq!(control(&b).sets, before.sets);
}
