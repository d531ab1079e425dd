//! Followers that copied what a leader acknowledged alone, in a degraded spell that was given up later.

use super::*;
use crate::frame::{Degraded, FrameKind};
use crate::log::Append;
use crate::log::files::State;
use crate::replica::leader::{Leader, Level, Outcome};

const SEMI: Mode = Mode::Semi { k: 1, timeout: Duration::from_secs(1) };

/// What a leader does; records come in batches of three.
#[derive(Clone, Copy, Debug)]
enum Step {
    Set(Mode),
    Records(&'static str),
    /// A spell begins, goes on in the epoch that there is by now, or ends.
    Begins,
    GoesOn,
    Ends,
    /// It dies, and leads again by its next epoch.
    Restarts,
    /// B has copied until here, and C.
    BothHave,
    /// What follows is not committed.
    Committed,
}
use Step::*;

/// A led, B copied for a while, C copied all of it and what A called committed; then B was promoted. C comes back: by
/// itself, with so many records kept aside, or only by an operator's word.
fn comes_back(steps: &[Step], lacks: &[&str], by_itself: bool) {
    let what = format!("{steps:?}");
    let (mut a, b, c) = (Sim::new(1), Sim::new(2), Sim::new(3));
    let mut log = options(&a).open(NODE).unwrap();
    let (mut mark, mut committed, mut lines) = (LogByte(0), None, Vec::new());
    for step in steps {
        a.advance(Duration::from_millis(6));
        let say = |kind, body: &[u8]| {
            let home = log.home();
            let end = home.append_control(kind, body).unwrap();
            home.sync_to(end).unwrap();
            end
        };
        match *step {
            Set(mode) => {
                let set = SyncSet::new(mode, [Id([1; 16]), Id([2; 16])]).unwrap();
                let end = say(FrameKind::SyncSet, &set.encode());
                // The one before rules on until this one is committed.
                lines.retain(|_| committed.is_some());
                lines.push(SetLine { end, there: true, set });
                log.home().note_sets(&lines, None).unwrap();
            }
            Records(label) => append(&a, &log, label, 2, 100),
            Begins | GoesOn | Ends => {
                if matches!(step, Begins) {
                    mark = log.home().appended().0;
                }
                let begins = !matches!(step, Ends);
                say(FrameKind::Degraded, &Degraded { begins, at: mark }.encode());
            }
            Restarts => {
                a.kill();
                std::mem::forget(log);
                a = a.process();
                log = options(&a).open(NODE).unwrap();
            }
            BothHave => {
                log.close().unwrap();
                for copy in [&b, &c] {
                    follow(copy, &a).unwrap_or_else(|e| panic!("{what}: {e}"));
                }
                log = options(&a).open(NODE).unwrap();
            }
            Committed => {
                log.sync().unwrap();
                committed = Some(log.durable_position());
            }
        }
    }
    let end = committed.unwrap_or_else(|| log.durable_position());
    log.close().unwrap();
    // All of that is committed there, whoever had to agree.
    let fs = a.shared();
    let state = State::read(&*fs, &layout()).unwrap();
    let told = State { committed: end.log_byte, committed_offset: end.offset, ..state };
    told.write(&*State::file(&*fs, &layout()).unwrap()).unwrap();
    follow(&c, &a).unwrap();
    assert_eq!(State::read(&*c.shared(), &layout()).unwrap().committed, end.log_byte, "{what}");

    let b = take_over(&b, "later", 2, 100);
    let mut how = open(&c, &b);
    if !by_itself {
        let error = how.unwrap_err();
        assert_eq!(error.kind(), Kind::CommittedDataLoss, "{what}: {error}");
        assert!(error.to_string().contains("--accept-loss"), "{error}");
        assert!(image(&c, "diverged").is_empty(), "{what}");
        how = open_with(&c, &b, |options| options.accept_loss(true));
    }
    let mut follower = how.unwrap_or_else(|e| panic!("{what}: {e}"));
    let lost: Vec<Vec<u8>> = lacks.iter().flat_map(|label| values(label, 2, 100)).collect();
    let rejoined = follower.report().rejoined.clone().unwrap();
    assert_eq!(rejoined.records, lost.len() as u64, "{what}");
    follower.catch_up().unwrap();
    follower.close().unwrap();
    assert_eq!(kept(&c), lost, "{what}");
}

/// It halted with `committed data loss`: only the leader whose spell it was knew of the mark.
#[test]
fn a_follower_that_copied_what_a_given_up_spell_acknowledged_alone_rejoins_by_itself() {
    let alone = Records("alone");
    comes_back(&[Set(SEMI), Records("held"), BothHave, Begins, alone], &["alone"], true);
    // What B has of the spell stays; where it began does not matter then.
    let began = [Set(SEMI), Begins, Records("held"), BothHave, alone];
    comes_back(&began, &["alone"], true);
    // Its leader died, and went on in the same spell.
    let again = [Set(SEMI), BothHave, Begins, alone, Restarts, GoesOn, Records("more")];
    comes_back(&again, &["alone", "more"], true);
}

#[test]
fn what_was_promised_before_a_spell_behind_it_or_by_another_epoch_halts_and_an_operator_gives_it_up()
 {
    let (held, alone) = (Records("held"), Records("alone"));
    let sync = Mode::Sync { k: 1 };
    comes_back(&[Set(SEMI), BothHave, held], &["held"], false);
    comes_back(&[Set(SEMI), BothHave, held, Begins, alone], &["held", "alone"], false);
    comes_back(&[Set(SEMI), BothHave, Begins, alone, Ends], &["alone"], false);
    comes_back(&[Set(SEMI), BothHave, Begins, alone, Ends, held], &["alone", "held"], false);
    comes_back(&[Set(SEMI), BothHave, Begins, alone, Restarts, held], &["alone", "held"], false);
    comes_back(&[Set(sync), BothHave, Begins, alone], &["alone"], false);
}

/// A follower took the mode before the newest for one that still ruled, until an operator came: nobody had promised what
/// was acknowledged since.
#[test]
fn what_was_committed_under_a_mode_that_asks_for_no_copies_is_nobodys_promise_whatever_ruled_before()
 {
    let (held, alone, sync) = (Records("held"), Records("alone"), Mode::Sync { k: 1 });
    comes_back(&[Set(sync), held, Set(Mode::Async), BothHave, alone], &["alone"], true);
    comes_back(&[Set(SEMI), held, Set(Mode::Async), BothHave, alone], &["alone"], true);
    comes_back(&[Set(sync), held, Set(SEMI), BothHave, Begins, alone], &["alone"], true);
    // A set that is not committed promises nothing.
    comes_back(&[held, BothHave, alone, Committed, Set(sync)], &["alone"], true);
    let coming = [Set(sync), held, BothHave, Committed, alone, Set(Mode::Async)];
    comes_back(&coming, &["alone"], true);
}

#[test]
fn what_an_earlier_set_promised_halts_whatever_rules_now() {
    let (held, alone, sync) = (Records("held"), Records("alone"), Mode::Sync { k: 1 });
    comes_back(&[Set(sync), BothHave, held, Set(Mode::Async), alone], &["held", "alone"], false);
    comes_back(&[Set(sync), BothHave, held, Set(SEMI), Begins, alone], &["held", "alone"], false);
    let twice = [Set(sync), BothHave, held, Set(Mode::Async), alone, Set(Mode::Async)];
    comes_back(&twice, &["held", "alone"], false);
    // That it rules is promised by the set itself.
    comes_back(&[Set(Mode::Async), BothHave, held, Set(sync)], &["held"], false);
}

/// A batch that its leader acknowledges once it is durable there, as its member does not answer in time.
fn acked_alone(sim: &Sim, leader: &Leader, label: &str) {
    for three in values(label, 1, 100).chunks(3) {
        let mut batch = Batch::new();
        for (i, value) in three.iter().enumerate() {
            batch.push(&Record::put(format!("{label} {i}").as_bytes(), value)).unwrap();
        }
        let waiting = leader.begin(&batch, &Append::default(), None).unwrap().unwrap();
        sim.advance(Duration::from_secs(2));
        let outcome = leader.look(&waiting);
        assert!(
            matches!(outcome, Some(Outcome::Acked { level: Level::Durable, .. })),
            "{outcome:?}"
        );
    }
}

/// The same with a real leader: its log says of each acknowledgement that it was a lesser one before it is given, and in
/// each epoch by which it goes on so.
#[test]
fn the_log_of_a_leader_that_goes_on_alone_says_so_in_each_of_its_epochs() {
    for restarts in [false, true] {
        let (a, b, c) = (Sim::new(1), Sim::new(2), Sim::new(3));
        let log = std::sync::Arc::new(options(&a).open(NODE).unwrap());
        append(&a, &log, "held", 2, 100);
        let leader = Leader::lead(std::sync::Arc::clone(&log)).unwrap();
        let mut member = open(&b, &a).unwrap();
        let set = SyncSet::new(SEMI, [log.node(), member.node()]).unwrap();
        // STATE is rewritten at most every 5 ms, and here no worker does it later.
        a.advance(Duration::from_millis(6));
        leader.change(&set, Duration::ZERO).unwrap();
        a.advance(Duration::from_millis(6));
        member.catch_up().unwrap();
        leader.heard(&member.report_now()).unwrap();
        assert!(!leader.standing().changing);
        member.close().unwrap();
        acked_alone(&a, &leader, "alone");
        let mut lost = values("alone", 1, 100);
        let mut a = a;
        let mut log = log;
        if restarts {
            a.kill();
            std::mem::forget((leader, log));
            a = a.process();
            log = std::sync::Arc::new(options(&a).open(NODE).unwrap());
            let leader = Leader::lead(std::sync::Arc::clone(&log)).unwrap();
            acked_alone(&a, &leader, "alone again");
            lost.extend(values("alone again", 1, 100));
        } else {
            drop(leader);
        }
        // Whoever copies it now is told that all of it is committed.
        let end = log.durable_position().log_byte;
        std::sync::Arc::try_unwrap(log).unwrap().close().unwrap();
        follow(&c, &a).unwrap();
        assert_eq!(State::read(&*c.shared(), &layout()).unwrap().committed, end);
        let b = take_over(&b, "later", 2, 100);
        let mut follower = open(&c, &b).unwrap();
        follower.catch_up().unwrap();
        follower.close().unwrap();
        assert_eq!(kept(&c), lost, "restarts {restarts}");
    }
}
