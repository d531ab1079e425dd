//! Leaders that give up what they alone had, and lead again before they have anything of who led meanwhile.

use super::*;
use crate::frame::EpochStart;

/// A leads again where B's history leaves it, without a frame of B's.
fn leads_again(a: &Sim, b: &Sim, label: &str) -> Sim {
    let follower = open(a, b).unwrap();
    assert!(follower.report().rejoined.is_some(), "{:?}", follower.report());
    follower.close().unwrap();
    take_over(a, label, 1, 100)
}

/// Found by the simulation: who still held what such a leader had given up saw its writer begin the next epoch without it,
/// took that for a disk that had lost it, and halted until an operator came.
#[test]
fn what_a_leader_gave_up_before_it_led_again_is_no_loss() {
    let (a, c) = (Sim::new(1), Sim::new(3));
    let a = lead(&a, "shared", 5, 1000, false);
    follow(&c, &a).unwrap();
    let b = take_over(&c.deep_copy(), "later", 2, 100);
    let a = lead(&a, "alone", 4, 1000, true);
    follow(&c, &a).unwrap();
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
