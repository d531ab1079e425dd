//! Leaders that give up what they alone had, and lead again before they have anything of who led meanwhile.

use super::*;
use crate::frame::{EpochStart, GaveUp};

/// A leads again where B's history leaves it, without a frame of B's.
fn leads_again(a: &Sim, b: &Sim, label: &str) -> Sim {
    let follower = open(a, b).unwrap();
    assert!(follower.report().rejoined.is_some(), "{:?}", follower.report());
    follower.close().unwrap();
    take_over(a, label, 1, 100)
}

/// A led alone, four batches of which C has, and B leads by now without them.
fn replaced(clean: bool) -> (Sim, Sim, Sim) {
    let (a, c) = (Sim::new(1), Sim::new(3));
    let a = lead(&a, "shared", 5, 1000, clean);
    follow(&c, &a).unwrap();
    let b = take_over(&c.deep_copy(), "later", 2, 100);
    let a = lead(&a, "alone", 4, 1000, true);
    follow(&c, &a).unwrap();
    (a, b, c)
}

/// Found by the simulation: who still held what such a leader had given up saw its writer begin the next epoch without it,
/// took that for a disk that had lost it, and halted until an operator came.
#[test]
fn what_a_leader_gave_up_before_it_led_again_is_no_loss() {
    let (a, b, c) = replaced(false);
    let a = leads_again(&a, &b, "again");
    let rejoined = follow(&c, &a).unwrap().rejoined.unwrap();
    assert_eq!(rejoined.records, 12);
    same(&c, &a, "given up");
    assert_eq!(kept(&c), values("alone", 4, 1000));
}

/// The same where one epoch of that leader went as a whole, and what came before it in another rejoin.
#[test]
fn what_it_gave_up_in_two_steps_is_no_loss_either() {
    let (a, c) = (Sim::new(1), Sim::new(3));
    let a = lead(&a, "shared", 5, 1000, false);
    follow(&c, &a).unwrap();
    let first = c.deep_copy();
    let a = lead(&a, "alone", 4, 1000, true);
    follow(&c, &a).unwrap();
    let second = take_over(&c.deep_copy(), "later", 2, 100);
    // A goes on in an epoch of its own, which goes as a whole; C has that, too.
    let a = lead(&a, "", 0, 0, false);
    let a = lead(&a, "own", 3, 1000, true);
    follow(&c, &a).unwrap();
    open(&a, &second).unwrap().close().unwrap();
    assert_eq!(kept(&a), values("own", 3, 1000));
    // Then it is cut back further, by who never had what it led alone.
    let mut first = take_over(&first, "earlier", 1, 100);
    for _ in 0..4 {
        first = lead(&first, "", 0, 0, false);
    }
    let a = leads_again(&a, &first, "again");
    let a = take_over(&a, "once more", 1, 100);
    assert_eq!(follow(&c, &a).unwrap().rejoined.unwrap().records, 21);
    same(&c, &a, "given up twice");
}

/// What is given up is remembered for so many epochs, the newest ones, each once.
#[test]
fn no_more_epochs_are_named_than_a_start_may_name() {
    let (mut a, mut b) = (Sim::new(1), Sim::new(2));
    let mut given_up = Vec::new();
    lead(&a, "shared", 1, 100, true);
    follow(&b, &a).unwrap();
    for _ in 0..EpochStart::GAVE_UP + 3 {
        a = lead(&a, "alone", 1, 100, true);
        b = take_over(&b, "later", 1, 100);
        follow(&a, &b).unwrap();
        let control = Control::need(&*a.shared(), &layout()).unwrap();
        given_up.extend(control.gave_up.last());
        assert!(given_up.ends_with(&control.gave_up), "{:?}", control.gave_up);
        assert_eq!(control.gave_up.len(), given_up.len().min(EpochStart::GAVE_UP));
        a = take_over(&a, "again", 1, 100);
        follow(&b, &a).unwrap();
    }
}

/// What stayed below the place from which a leader gave up its frames may still be lost by its disk.
#[test]
fn what_lay_below_what_was_given_up_is_a_loss_all_the_same() {
    for (given_up_there, halts) in [(true, false), (false, true)] {
        let (a, c) = (Sim::new(1), Sim::new(3));
        let a = lead(&a, "shared", 5, 1000, false);
        let yesterday = a.deep_copy();
        // So that its epochs get nonces of their own.
        yesterday.shared().random(&mut [0; 8]).unwrap();
        let log = options(&a).create(false).read_only(true).open(NODE).unwrap();
        let end = log.durable_position();
        drop(log);
        let a = lead(&a, "more", 5, 1000, true);
        follow(&c, &a).unwrap();
        let epochs = crate::log::files::Epochs::read(&*c.shared(), &layout()).unwrap().0;
        let fs = yesterday.shared();
        let mut control = Control::need(&*fs, &layout()).unwrap();
        // "more" is of an epoch of its own, or of this one: both are named, from here on or from further up.
        let from = if given_up_there { end.log_byte.0 } else { u64::MAX };
        control.gave_up = epochs.iter().map(|e| GaveUp { epoch: e.epoch, from }).collect();
        control.write(&*fs, &layout()).unwrap();
        let mut b = yesterday;
        for _ in 0..3 {
            b = lead(&b, "new", 2, 100, false);
        }
        match open(&c, &b) {
            Err(e) if halts => assert_eq!(e.kind(), Kind::CommittedDataLoss, "{e}"),
            Ok(follower) if !halts => assert!(follower.report().rejoined.is_some()),
            other => panic!("{halts}: {other:?}"),
        }
    }
}

/// A directory that led and follows again was taken for a leader that had lost what it had shipped, whatever was said.
#[test]
fn who_led_and_follows_again_is_merely_behind() {
    let (a, b, c) = replaced(true);
    open(&a, &b).unwrap().close().unwrap();
    let before = image(&c, "segments");
    let mut follower = open(&c, &a).unwrap();
    let error = follower.catch_up().unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    assert!(error.to_string().contains("it is behind"), "{error}");
    drop(follower);
    assert!(image(&c, "segments") == before && image(&c, "diverged").is_empty());
}

/// It was named for ever, also when its node had fetched all of it again, and then lost it.
#[test]
fn what_is_here_again_is_not_given_up_any_more() {
    let (a, short, long) = (Sim::new(1), Sim::new(2), Sim::new(3));
    let a = lead(&a, "shared", 5, 1000, true);
    follow(&short, &a).unwrap();
    let a = lead(&a, "alone", 4, 1000, true);
    follow(&long, &a).unwrap();
    let short = take_over(&short, "later", 1, 100);
    open(&a, &short).unwrap().close().unwrap();
    let gave_up = |sim: &Sim| Control::need(&*sim.shared(), &layout()).unwrap().gave_up.len();
    assert_eq!(gave_up(&a), 1);
    // Who has all of it comes to lead by a later epoch.
    let long = take_over(&take_over(&long, "", 0, 0), "last", 1, 100);
    follow(&a, &long).unwrap();
    same(&a, &long, "fetched again");
    assert_eq!(gave_up(&a), 0);
}
