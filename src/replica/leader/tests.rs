//! A leader on a real log: gates, marks, changes, across restarts. Followers are reports made from
//! the log itself: what a follower that has copied everything durable would say.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::fs::Os;
use crate::log::Append;
use crate::log::files::{Control, Layout};
use crate::position::{LogByte, Position};
use crate::record::{Batch, Record};
use crate::ship::LastFrame;

pub(super) const A: Id = Id([2; 16]);
pub(super) const B: Id = Id([3; 16]);
pub(super) const SOON: Duration = Duration::from_millis(30);
pub(super) const LONG: Duration = Duration::from_secs(20);

pub(super) fn open(dir: &Path) -> Arc<Log> {
    Arc::new(Log::options().create(true).open(dir).unwrap())
}

pub(super) fn lead(dir: &Path) -> Leader {
    Leader::lead(open(dir)).unwrap()
}

pub(super) fn set(leader: &Leader, mode: &str, others: &[Id]) -> SyncSet {
    let members = others.iter().copied().chain([leader.log.node()]);
    SyncSet::new(mode.parse().unwrap(), members).unwrap()
}

/// What a node says that holds everything durable.
fn report(leader: &Leader, node: Id) -> Report {
    let home = &leader.home;
    let list = home.segments();
    let segment = list.last().unwrap();
    let (log_byte, offset) = home.durable();
    let mut window = crate::segment::Window::file(home.fs().open_plain(&segment.path).unwrap());
    let mut tally = crate::segment::Tally::default();
    let limit = segment.header.file_byte(log_byte.0);
    let mut last = 0;
    let header = segment.header;
    crate::segment::walk(&mut window, &header, limit, &mut tally, |_, byte| last = byte).unwrap();
    let durable = Position { epoch: segment.header.epoch, log_byte, offset };
    Report {
        log: Some(leader.log.id()),
        node: Some(node),
        promise: Some(segment.header.epoch),
        received: durable,
        durable,
        applied: durable,
        committed: None,
        last: Some(LastFrame {
            growing: Some(segment.header.base),
            start: LogByte(segment.header.log_byte(last)),
            fingerprint: tally.fingerprint,
        }),
        unclean: false,
    }
}

pub(super) fn hears(leader: &Leader, node: Id) {
    leader.heard(&report(leader, node)).unwrap();
}

/// What a node says that was emptied: nothing of it counts.
fn hears_nothing(leader: &Leader, node: Id) {
    leader
        .heard(&Report { node: Some(node), log: Some(leader.log.id()), ..Report::default() })
        .unwrap();
}

pub(super) fn append(leader: &Leader, level: Option<Level>, timeout: Duration) -> Outcome {
    let mut batch = Batch::new();
    batch.push(&Record::put(b"k", b"v")).unwrap();
    leader.append(&batch, &Append::default(), level, timeout, |_| {}).unwrap()
}

pub(super) fn control(dir: &Path) -> Control {
    Control::read(&Os, &Layout::new(dir)).unwrap().unwrap()
}

/// Appends on another thread while `node` reports, as a follower that pulls would.
fn append_with(leader: &Leader, node: Id, timeout: Duration) -> Outcome {
    std::thread::scope(|scope| {
        let appending = scope.spawn(|| append(leader, None, timeout));
        while !appending.is_finished() {
            hears(leader, node);
            std::thread::yield_now();
        }
        appending.join().unwrap()
    })
}

#[test]
fn async_shows_what_is_durable_and_counts_copies_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let leader = lead(dir.path());
    let outcome = append(&leader, None, LONG);
    assert!(matches!(outcome, Outcome::Acked { level: Level::Durable, copies: 1, .. }));
    assert_eq!(leader.log.end().0, 1);
    let outcome = append(&leader, Some(Level::Replicated(1)), SOON);
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
    assert_eq!(leader.log.end().0, 2, "it is no less shown for that");
    hears(&leader, A);
    let standing = leader.standing();
    assert_eq!((standing.mode, standing.started), (Mode::Async, true));
}

#[test]
fn under_sync_nothing_is_shown_or_acked_before_a_member_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let leader = lead(dir.path());
    append(&leader, None, LONG);
    let sync = set(&leader, "sync:k=1", &[A]);
    assert!(!leader.change(&sync, SOON).unwrap(), "the member does not hold the set yet");
    assert!(leader.standing().changing);
    hears(&leader, A);
    assert!(!leader.standing().changing);
    let Outcome::Unknown { appended, .. } = append(&leader, None, SOON) else { panic!() };
    assert_eq!((appended.first.0, leader.log.end().0), (1, 1), "durable, and not shown");
    assert_eq!(leader.log.durable_end().0, 2);
    // A stranger's copy is none of a member.
    hears(&leader, B);
    assert_eq!(leader.log.end().0, 1);
    hears(&leader, A);
    assert_eq!(leader.log.end().0, 2);
    let outcome = append_with(&leader, A, LONG);
    assert!(matches!(outcome, Outcome::Acked { level: Level::Replicated(1), .. }), "{outcome:?}");
}

#[test]
fn a_report_of_another_frame_or_another_place_counts_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let leader = lead(dir.path());
    let sync = set(&leader, "sync:k=1", &[A]);
    leader.change(&sync, Duration::ZERO).unwrap();
    let good = report(&leader, A);
    let last = good.last.unwrap();
    let spoil: [fn(&mut Report, LastFrame); 6] = [
        |r, last| {
            let fingerprint = crate::position::Fingerprint { head_crc: 1, ..last.fingerprint };
            r.last = Some(LastFrame { fingerprint, ..last });
        },
        |r, _| r.last = None,
        |r, last| r.last = Some(LastFrame { start: LogByte(last.start.0 + 8), ..last }),
        |r, last| r.last = Some(LastFrame { growing: None, ..last }),
        |r, _| r.durable.log_byte = LogByte(r.durable.log_byte.0 + 8),
        |r, _| r.log = Some(Id([7; 16])),
    ];
    for (i, spoil) in spoil.iter().enumerate() {
        let mut bad = good.clone();
        spoil(&mut bad, last);
        leader.heard(&bad).unwrap();
        assert!(leader.standing().changing, "spoilt by {i}");
    }
    leader.heard(&good).unwrap();
    assert!(!leader.standing().changing);
}

#[test]
fn a_restart_shows_what_was_committed_and_takes_appends_once_its_epoch_is() {
    let dir = tempfile::tempdir().unwrap();
    let leader = lead(dir.path());
    let sync = set(&leader, "sync:k=1", &[A]);
    leader.change(&sync, Duration::ZERO).unwrap();
    hears(&leader, A);
    append_with(&leader, A, LONG);
    append(&leader, None, SOON);
    assert_eq!((leader.log.end().0, leader.log.durable_end().0), (1, 2));
    leader.home.sync_to(leader.home.appended().0).unwrap();
    // Not closed: the next open begins an epoch.
    std::mem::forget(leader);
    let copy = tempfile::tempdir().unwrap();
    copy_log(dir.path(), copy.path());
    let log = Log::options().identity(crate::Identity::SameNode).open(copy.path()).unwrap();
    assert_eq!((log.end().0, log.durable_end().0), (1, 2), "committed, durable");
    let leader = Leader::lead(Arc::new(log)).unwrap();
    assert_eq!(leader.standing().mode, Mode::Sync { k: 1 });
    let outcome = append(&leader, None, SOON);
    assert!(matches!(outcome, Outcome::Rejected { .. }), "{outcome:?}");
    assert_eq!(leader.log.durable_end().0, 2, "nothing was appended");
    hears(&leader, A);
    assert_eq!(leader.log.end().0, 2, "the tail came with the epoch's first frame");
    append_with(&leader, A, LONG);
    assert_eq!(leader.log.end().0, 3);
}

/// The directory as a crash of the process would leave it.
pub(super) fn copy_log(from: &Path, to: &Path) {
    std::fs::create_dir(to.join("segments")).unwrap();
    for (from, to) in
        [(from.to_owned(), to.to_owned()), (from.join("segments"), to.join("segments"))]
    {
        for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_file() {
                std::fs::copy(&entry, to.join(entry.file_name().unwrap())).unwrap();
            }
        }
    }
}

#[test]
fn a_set_change_that_a_crash_cut_short_is_found_again_with_both_sets() {
    let dir = tempfile::tempdir().unwrap();
    let leader = lead(dir.path());
    let first = set(&leader, "sync:k=1", &[A]);
    leader.change(&first, Duration::ZERO).unwrap();
    hears(&leader, A);
    let second = set(&leader, "sync:k=1", &[B]);
    hears(&leader, B);
    assert!(!leader.change(&second, SOON).unwrap());
    // As it was when CONTROL had the set coming, and the frame was there or not.
    // Durable for certain: what the copies below hold is what a power cut would leave.
    leader.home.sync_to(leader.home.appended().0).unwrap();
    for there in [true, false] {
        let copy = tempfile::tempdir().unwrap();
        copy_log(dir.path(), copy.path());
        let layout = Layout::new(copy.path());
        let mut control = control(copy.path());
        let before = SetLine { set: first.clone(), there: true, end: LogByte(0) };
        let end = if there { LogByte(0) } else { leader.home.appended().0 };
        control.sets = vec![before, SetLine { set: second.clone(), there: false, end }];
        control.write(&Os, &layout).unwrap();
        let log = Log::options().identity(crate::Identity::SameNode).open(copy.path()).unwrap();
        let again = Leader::lead(Arc::new(log)).unwrap();
        let standing = again.standing();
        assert_eq!(standing.changing, there);
        assert_eq!(standing.members, if there { &second } else { &first }.members);
        // One set alone does not commit while both rule.
        hears(&again, if there { B } else { A });
        assert_eq!(again.standing().started, !there);
        hears(&again, A);
        assert!(again.standing().started && !again.standing().changing);
        assert_eq!(self::control(copy.path()).sets.len(), 1, "CONTROL has been told");
    }
}

#[test]
fn only_one_change_at_a_time_and_none_before_the_epoch_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let leader = lead(dir.path());
    assert!(leader.change(&set(&leader, "sync:k=1", &[A]), LONG / 1000).is_ok());
    let second = set(&leader, "sync:k=1", &[B]);
    assert_eq!(leader.change(&second, SOON).unwrap_err().kind(), Kind::Rejected);
    hears(&leader, A);
    hears(&leader, B);
    assert!(!leader.change(&second, SOON).unwrap());
    let strangers = SyncSet::new(Mode::Sync { k: 1 }, [A, B]).unwrap();
    assert_eq!(leader.change(&strangers, SOON).unwrap_err().kind(), Kind::InvalidInput);
}

#[test]
fn semi_degrades_only_with_the_mark_on_disk_and_recovers_when_its_members_do() {
    let dir = tempfile::tempdir().unwrap();
    let leader = lead(dir.path());
    let semi = set(&leader, "semi:k=1,timeout=50ms", &[A]);
    leader.change(&semi, Duration::ZERO).unwrap();
    hears(&leader, A);
    let outcome = append_with(&leader, A, LONG);
    assert!(matches!(outcome, Outcome::Acked { level: Level::Replicated(1), .. }), "{outcome:?}");
    assert_eq!(control(dir.path()).degraded, None);
    // Nobody answers: the acknowledgement says so itself, and CONTROL said so before.
    let outcome = append(&leader, None, LONG);
    assert!(matches!(outcome, Outcome::Acked { level: Level::Durable, copies: 1, .. }));
    assert!(control(dir.path()).degraded.is_some());
    assert_eq!(leader.log.end().0, 2);
    // It stays so over a restart.
    let copy = tempfile::tempdir().unwrap();
    copy_log(dir.path(), copy.path());
    let log = Log::options().identity(crate::Identity::SameNode).open(copy.path()).unwrap();
    let again = Leader::lead(Arc::new(log)).unwrap();
    assert!(again.standing().degraded.is_some());
    let outcome = append(&again, None, SOON);
    assert!(matches!(outcome, Outcome::Acked { level: Level::Durable, .. }), "{outcome:?}");
    // The member is back, and holds everything: the mark goes.
    hears(&leader, A);
    hears(&leader, A);
    assert_eq!(leader.standing().degraded, None);
    assert_eq!(control(dir.path()).degraded, None);
    // So does the frame that says so, also when nothing is appended behind it: followers lacked it until then.
    assert_eq!(leader.home.durable().0, leader.home.appended().0);
    let outcome = append_with(&leader, A, LONG);
    assert!(matches!(outcome, Outcome::Acked { level: Level::Replicated(1), .. }), "{outcome:?}");
}

/// Found by the simulation: what a leader had committed alone was acknowledged as replicated because a node that is
/// no member held it. A failover asks members, and took it back.
#[test]
fn during_a_spell_the_copy_of_a_stranger_is_no_replica() {
    let dir = tempfile::tempdir().unwrap();
    let leader = lead(dir.path());
    let semi = set(&leader, "semi:k=1,timeout=20ms", &[A]);
    leader.change(&semi, Duration::ZERO).unwrap();
    hears(&leader, A);
    hears_nothing(&leader, A);
    for level in [Level::Replicated(1), Level::Applied(1)] {
        let mut batch = Batch::new();
        batch.push(&Record::put(b"k", b"v")).unwrap();
        let waiting = leader.begin(&batch, &Append::default(), Some(level)).unwrap().unwrap();
        hears(&leader, B);
        let outcome = leader.append(&batch, &Append::default(), Some(level), LONG, |_| {}).unwrap();
        assert!(matches!(outcome, Outcome::Acked { level: Level::Durable, .. }), "{outcome:?}");
        let outcome = leader.look(&waiting).unwrap();
        assert!(
            matches!(outcome, Outcome::Acked { level: Level::Durable, copies: 2, .. }),
            "{outcome:?}"
        );
    }
    hears(&leader, A);
    hears(&leader, A);
    let outcome = append_with(&leader, A, LONG);
    assert!(matches!(outcome, Outcome::Acked { level: Level::Replicated(1), .. }), "{outcome:?}");
}

/// A new member that knows no set could be promoted by its own word alone, though others are members.
#[test]
fn a_node_becomes_a_member_once_it_knows_the_set_before() {
    let dir = tempfile::tempdir().unwrap();
    let leader = lead(dir.path());
    leader.change(&set(&leader, "sync:k=1", &[A]), Duration::ZERO).unwrap();
    hears(&leader, A);
    let both = set(&leader, "sync:k=1", &[A, B]);
    let refused = leader.change(&both, SOON).unwrap_err();
    assert_eq!(refused.kind(), Kind::Rejected, "{refused}");
    assert!(!leader.standing().changing, "nothing was changed");
    hears_nothing(&leader, B);
    assert_eq!(leader.change(&both, SOON).unwrap_err().kind(), Kind::Rejected);
    hears(&leader, B);
    assert!(!leader.change(&both, SOON).unwrap());
    hears(&leader, A);
    assert!(!leader.standing().changing);
}

/// A copy's CONTROL knows of a set before its frame is there. Power went off in between, the copy was promoted, and
/// ruled by a set that nobody else ever heard of.
#[test]
fn a_set_whose_frame_never_came_does_not_rule() {
    let dir = tempfile::tempdir().unwrap();
    let leader = lead(dir.path());
    let first = set(&leader, "sync:k=1", &[A]);
    leader.change(&first, Duration::ZERO).unwrap();
    hears(&leader, A);
    let copy = tempfile::tempdir().unwrap();
    leader.home.sync_to(leader.home.appended().0).unwrap();
    copy_log(dir.path(), copy.path());
    let mut told = control(copy.path());
    let end = LogByte(leader.home.appended().0.0 + 80);
    told.add_set(SetLine { end, there: true, set: set(&leader, "async", &[A, B]) });
    told.write(&Os, &Layout::new(copy.path())).unwrap();
    let log = Log::options().identity(crate::Identity::SameNode).open(copy.path()).unwrap();
    let again = Leader::lead(Arc::new(log)).unwrap();
    assert_eq!((again.standing().members, again.standing().changing), (first.members, false));
    assert!(!again.standing().started, "its member must hold the start of the epoch");
}

#[test]
fn semi_blocks_while_the_mark_cannot_be_registered() {
    let dir = tempfile::tempdir().unwrap();
    let leader = lead(dir.path());
    let semi = set(&leader, "semi:k=1,timeout=10ms", &[A]);
    leader.change(&semi, Duration::ZERO).unwrap();
    hears(&leader, A);
    // A directory in the place of the temporary file: CONTROL cannot be replaced.
    std::fs::create_dir(dir.path().join("CONTROL.tmp")).unwrap();
    let outcome = append(&leader, None, Duration::from_millis(300));
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
    assert_eq!(leader.log.end().0, 0);
    std::fs::remove_dir(dir.path().join("CONTROL.tmp")).unwrap();
    let outcome = append(&leader, None, LONG);
    assert!(matches!(outcome, Outcome::Acked { level: Level::Durable, .. }), "{outcome:?}");
}

#[test]
fn bounded_refuses_what_would_go_over_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let leader = lead(dir.path());
    let bounded = set(&leader, "bounded:k=1,bytes=1KiB,secs=3600", &[A]);
    // Its first set: the member must know it. Nothing that comes behind it needs anybody to be committed.
    assert!(!leader.change(&bounded, SOON).unwrap());
    hears(&leader, A);
    assert!(!leader.standing().changing);
    hears_nothing(&leader, A);
    let refused = append(&leader, None, SOON);
    assert!(matches!(refused, Outcome::Rejected { .. }), "nobody was heard: {refused:?}");
    hears(&leader, A);
    let mut acked = 0;
    let refused = loop {
        match append(&leader, None, LONG) {
            Outcome::Acked { level: Level::Durable, .. } => acked += 1,
            other => break other,
        }
    };
    assert!(matches!(refused, Outcome::Rejected { .. }), "{refused:?}");
    assert_eq!(leader.log.end().0, acked);
    assert!((5..=28).contains(&acked), "{acked} records of 36 bytes fit in a KiB");
    hears(&leader, A);
    assert!(matches!(append(&leader, None, LONG), Outcome::Acked { .. }));
    // And in time: the member lacks a record for longer than it may.
    let bounded = set(&leader, "bounded:k=1,bytes=1GiB,secs=20ms", &[A]);
    leader.change(&bounded, LONG).unwrap();
    hears(&leader, A);
    assert!(matches!(append(&leader, None, LONG), Outcome::Acked { .. }));
    let late = std::time::Instant::now() + LONG;
    while matches!(append(&leader, None, SOON), Outcome::Acked { .. }) {
        assert!(std::time::Instant::now() < late, "never refused");
        std::thread::yield_now();
    }
}

#[test]
fn a_retry_after_unknown_has_the_same_place() {
    let dir = tempfile::tempdir().unwrap();
    let leader = lead(dir.path());
    leader.change(&set(&leader, "sync:k=1", &[A]), Duration::ZERO).unwrap();
    hears(&leader, A);
    let producer = Some(crate::frame::Producer { id: Id([8; 16]), sequence: 1 });
    let how = Append { producer, ..Append::default() };
    let mut batch = Batch::new();
    batch.push(&Record::put(b"k", b"v")).unwrap();
    let first = leader.append(&batch, &how, None, SOON, |_| {}).unwrap();
    let Outcome::Unknown { appended, .. } = first else { panic!("{first:?}") };
    hears(&leader, A);
    let again = leader.append(&batch, &how, None, LONG, |_| {}).unwrap();
    let Outcome::Acked { appended: retried, level, .. } = again else { panic!("{again:?}") };
    assert_eq!((retried.first, retried.duplicate), (appended.first, true));
    assert_eq!((level, leader.log.end().0), (Level::Replicated(1), 1));
}

#[test]
fn retention_keeps_what_the_archive_does_not_hold() {
    use crate::log::{MIN_SEGMENT_BYTES, Retention};
    let dir = tempfile::tempdir().unwrap();
    // Without a worker what was rolled is sealed when an append returns.
    let options = Log::options().create(true).segment_bytes(MIN_SEGMENT_BYTES).worker(false);
    let leader = Leader::lead(Arc::new(options.open(dir.path()).unwrap())).unwrap();
    leader.use_archive();
    let value = vec![7; 4000];
    for _ in 0..100 {
        leader.log.append(&Record::put(b"k", &value)).unwrap();
    }
    let end = leader.log.sync().unwrap();
    let policy = Retention { keep_from: Some(end), ..Retention::default() };
    let retained = leader.log.retain(&policy).unwrap();
    let holder = retained.held_by.unwrap();
    assert!(holder.archive && retained.files.is_empty());
    assert_eq!(holder.to_string(), "the archive needs the log from offset 0 on");
    let (byte, offset) = {
        let list = leader.home.segments();
        let footer = list[1].footer.get().unwrap();
        (footer.end(), footer.end_offset)
    };
    leader.archived((byte, offset));
    let retained = leader.log.retain(&policy).unwrap();
    assert_eq!((retained.files.len(), retained.start), (2, offset), "up to where it holds it");
    assert_eq!(retained.held_by.map(|holder| holder.offset), Some(offset));
}

#[test]
fn archived_waits_for_the_archive_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let leader = lead(dir.path());
    let refused = append(&leader, Some(Level::Archived), LONG);
    assert!(matches!(refused, Outcome::Rejected { .. }), "there is none: {refused:?}");
    assert_eq!(
        leader.change(&set(&leader, "archive", &[]), SOON).unwrap_err().kind(),
        Kind::Rejected
    );
    leader.use_archive();
    assert!(matches!(append(&leader, None, LONG), Outcome::Acked { level: Level::Durable, .. }));
    let outcome = append(&leader, Some(Level::Archived), SOON);
    let Outcome::Unknown { appended, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(appended.first.0, 1);
    leader.archived(leader.publishable());
    // An append that waits makes it due at once, whatever the time.
    let never = std::time::Instant::now() + LONG;
    let held = leader.publishable().0;
    assert_eq!(leader.wait_due(held, never, SOON), Due::NotYet);
    std::thread::scope(|scope| {
        let appending = scope.spawn(|| append(&leader, Some(Level::Archived), LONG));
        while leader.wait_due(held, never, LONG) != Due::Wanted {}
        leader.archived(leader.publishable());
        let outcome = appending.join().unwrap();
        assert!(matches!(outcome, Outcome::Acked { level: Level::Archived, .. }), "{outcome:?}");
    });
}

#[test]
fn an_append_that_is_only_looked_at_comes_to_what_a_waiting_one_does() {
    let dir = tempfile::tempdir().unwrap();
    let leader = lead(dir.path());
    let begin = || {
        let mut batch = Batch::new();
        batch.push(&Record::put(b"k", b"v")).unwrap();
        leader.begin(&batch, &Append::default(), None).unwrap()
    };
    let sync = set(&leader, "sync:k=1", &[A]);
    leader.change(&sync, Duration::ZERO).unwrap();
    hears(&leader, A);
    let waiting = begin().unwrap();
    assert!(leader.look(&waiting).is_none());
    hears(&leader, A);
    let outcome = leader.look(&waiting).unwrap();
    assert!(matches!(outcome, Outcome::Acked { level: Level::Replicated(1), copies: 2, .. }));
    // Nobody waits: the time of a semi-synchronous set passes from look to look.
    let semi = set(&leader, "semi:k=1,timeout=20ms", &[A]);
    leader.change(&semi, Duration::ZERO).unwrap();
    hears(&leader, A);
    let waiting = begin().unwrap();
    let outcome = loop {
        match leader.look(&waiting) {
            Some(outcome) => break outcome,
            None => std::thread::yield_now(),
        }
    };
    assert!(matches!(outcome, Outcome::Acked { level: Level::Durable, copies: 1, .. }));
    assert!(control(dir.path()).degraded.is_some(), "the mark came first");
    let archived = leader.begin(&Batch::new(), &Append::default(), Some(Level::Archived)).unwrap();
    assert!(matches!(archived, Err(Outcome::Rejected { .. })));
}

/// Under `async` the leader before may publish what it alone acknowledged, until the archive is closed to it: the
/// next one took appends meanwhile.
#[cfg(feature = "wire")]
#[test]
fn an_elected_leader_under_async_opens_once_the_archive_has_its_fence() {
    use crate::log::files::Promise;
    use crate::position::Epoch;

    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).node();
    let epoch = Epoch { number: 7, nonce: 7 };
    Promise { epoch, owner: node }.write(&Os, &Layout::new(dir.path())).unwrap();
    let log = Log::options().lead(epoch).open(dir.path()).unwrap();
    let leader = Leader::lead(Arc::new(log)).unwrap();
    leader.use_archive();
    assert!(!leader.standing().started);
    let refused = append(&leader, None, SOON);
    assert!(matches!(refused, Outcome::Rejected { .. }), "{refused:?}");
    assert_eq!(leader.log.durable_end().0, 0, "nothing was appended");
    leader.archived(leader.home.durable());
    assert!(leader.standing().started);
    assert!(matches!(append(&leader, None, LONG), Outcome::Acked { .. }));
    // Who was not elected, and under a mode that others take part in, need not wait.
    let alone = tempfile::tempdir().unwrap();
    let leader = lead(alone.path());
    leader.use_archive();
    assert!(matches!(append(&leader, None, LONG), Outcome::Acked { .. }));
}
