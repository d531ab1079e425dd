//! Calls that fail, and full disks.

use super::*;

#[test]
fn a_failed_sync_marks_clean_so_that_a_later_one_proves_nothing() {
    let (sim, file) = disk();
    file.write_all_at(&[1; 1024], 0).unwrap();
    sim.fail(Fault::on(OpKind::Sync));
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
    assert!(sim.pending().is_empty());
    file.sync_data().unwrap();
    assert_eq!(sim.read(A), [1; 1024]);
    assert_eq!(left(&sim, Crash::KeepAll), b"");
    // Sectors written again are pending again, the others never are.
    file.write_all_at(&[2; 512], 512).unwrap();
    file.sync_data().unwrap();
    assert_eq!(left(&sim, Crash::DropAll), [[0; 512], [2; 512]].concat());
    assert_eq!(sim.read(A), [[1; 512], [2; 512]].concat());
}

#[test]
fn a_failed_directory_sync_marks_its_names_clean() {
    let (sim, _) = disk();
    open(&sim, B, Open::Create);
    sim.fail(Fault::on(OpKind::SyncDir));
    assert!(Fs::sync_dir(&sim, "/d".as_ref()).is_err());
    sync_dir(&sim, "/d");
    assert_eq!(names(&sim), [A, B]);
    assert_eq!(names(&sim.crash(&Crash::KeepAll)), [A]);
    rename(&sim, B, "/d/c");
    sync_dir(&sim, "/d");
    assert_eq!(names(&sim.crash(&Crash::DropAll)), [A, "/d/c"]);
}

#[test]
fn a_fault_strikes_the_nth_matching_call_once() {
    let (sim, file) = disk();
    let other = open(&sim, B, Open::Create);
    sim.fail(Fault::on(OpKind::Write).at("/a").nth(1).error(Errno::NoSpace));
    file.write_all_at(b"0", 0).unwrap();
    other.write_all_at(b"0", 0).unwrap();
    assert_eq!(file.write_at(b"1", 0).unwrap_err().raw_os_error(), Some(28));
    file.write_all_at(b"2", 0).unwrap();
    assert_eq!((sim.read(A), sim.fired(), sim.calls(OpKind::Write)), (b"2".to_vec(), 1, 4));
}

#[test]
fn a_sticky_fault_strikes_until_it_is_taken_back() {
    let (sim, file) = disk();
    sim.fail(Fault::on(OpKind::Sync).nth(1).sticky());
    let results = [file.sync_data(), file.sync_data(), file.sync_data()];
    assert_eq!(results.map(|result| result.is_ok()), [true, false, false]);
    sim.heal();
    assert!(file.sync_data().is_ok());
}

#[test]
fn every_kind_of_call_can_fail_without_effect() {
    let call = |sim: &Sim, file: &Arc<dyn File>, kind: OpKind| -> io::Result<()> {
        let (a, b, d) = (A.as_ref(), B.as_ref(), "/d".as_ref());
        match kind {
            OpKind::Open => Fs::open(sim, a, Open::Read).map(drop),
            OpKind::Create => Fs::open(sim, b, Open::Create).map(drop),
            OpKind::Read => file.read_at(&mut [0], 0).map(drop),
            OpKind::Write => file.write_at(b"x", 0).map(drop),
            OpKind::SetLen => file.set_len(9),
            OpKind::Sync => file.sync_data(),
            OpKind::SyncDir => Fs::sync_dir(sim, d),
            OpKind::Rename => Fs::rename(sim, a, b),
            OpKind::Unlink => Fs::unlink(sim, a),
            OpKind::List => sim.list(d).map(drop),
            OpKind::Map => file.map(0).map(drop),
            OpKind::Lock => sim.lock(a, true).map(drop),
            OpKind::CreateDir => sim.create_dir("/d/e".as_ref()),
        }
    };
    for kind in OpKind::ALL {
        let (sim, file) = disk();
        let (before, calls) = (sim.durable_hash(), sim.calls(kind));
        for fault in [Fault::on(kind), Fault::any()] {
            sim.fail(fault.error(Errno::Interrupted));
            let error = call(&sim, &file, kind).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Interrupted, "{kind:?}");
        }
        assert_eq!((sim.fired(), sim.calls(kind) - calls), (2, 2), "{kind:?}");
        assert!(sim.pending().is_empty() && names(&sim) == [A], "{kind:?}");
        assert_eq!(sim.durable_hash(), before);
        call(&sim, &file, kind).unwrap();
    }
}

#[test]
fn a_call_may_take_effect_and_fail() {
    let (sim, file) = disk();
    file.write_all_at(b"x", 0).unwrap();
    sim.fail(Fault::on(OpKind::Sync).landed());
    sim.fail(Fault::on(OpKind::Rename).landed());
    assert!(file.sync_data().is_err());
    assert_eq!(left(&sim, Crash::DropAll), b"x");
    assert!(Fs::rename(&sim, A.as_ref(), B.as_ref()).is_err());
    assert_eq!(names(&sim), [B]);
}

#[test]
fn reads_and_writes_can_be_short() {
    let (sim, file) = disk();
    sim.fail(Fault::on(OpKind::Write).short(2));
    sim.fail(Fault::on(OpKind::Read).short(1));
    assert_eq!(file.write_at(b"abcd", 0).unwrap(), 2);
    assert_eq!(file.read_at(&mut [0; 9], 0).unwrap(), 1);
    assert_eq!(file.read_at(&mut [0; 9], 0).unwrap(), 2);
}

#[test]
fn a_full_disk_takes_what_fits_and_has_room_again_after_an_unlink() {
    let (sim, file) = disk();
    sim.write(B, &[0; 10]);
    sim.set_capacity(Some(16));
    assert_eq!(file.write_at(&[1; 10], 0).unwrap(), 6);
    assert_eq!(file.write_at(&[1], 6).unwrap_err().raw_os_error(), Some(28));
    assert_eq!(file.set_len(7).unwrap_err().raw_os_error(), Some(28));
    assert_eq!(file.write_at(&[2; 6], 0).unwrap(), 6, "overwriting takes no room");
    Fs::unlink(&sim, B.as_ref()).unwrap();
    assert_eq!(file.write_at(&[1; 10], 6).unwrap(), 10);
    assert_eq!((sim.used(), sim.crash(&Crash::KeepAll).used()), (16, 16));
    file.set_len(0).unwrap();
    sim.set_capacity(None);
    file.set_len(1 << 20).unwrap();
}

#[test]
fn operations_are_counted_and_recorded_with_those_that_failed() {
    let (sim, file) = disk();
    sim.record(true);
    file.write_all_at(b"abc", 5).unwrap();
    file.read_at(&mut [0], 0).unwrap();
    sim.fail(Fault::on(OpKind::Sync));
    file.sync_data().unwrap_err();
    rename(&sim, A, B);
    let op = |kind, byte, len, to: Option<&str>, failed| {
        let to = to.map(Into::into);
        Op { kind, path: A.into(), to, byte, len, failed }
    };
    let expected = [
        op(OpKind::Write, 5, 3, None, false),
        op(OpKind::Sync, 0, 0, None, true),
        op(OpKind::Rename, 0, 0, Some(B), false),
    ];
    assert_eq!((sim.trace(), sim.operations()), (expected.to_vec(), 3));
    assert_eq!(sim.pending()[0].operation, 2);
}
