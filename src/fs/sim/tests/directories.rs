//! What a power cut leaves of names.

use super::*;

#[test]
fn a_synced_file_is_lost_with_its_name() {
    let (sim, _) = disk();
    let file = open(&sim, B, Open::Create);
    file.write_all_at(b"data", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(changes(&sim), [PendingChange::Create]);
    assert_eq!(names(&sim.crash(&Crash::DropAll)), [A]);
    assert_eq!(Sim::read(&sim.crash(&Crash::KeepAll), B), b"data");
    sync_dir(&sim, "/d");
    assert_eq!(Sim::read(&sim.crash(&Crash::DropAll), B), b"data");
}

#[test]
fn a_durable_name_may_lead_to_an_empty_file() {
    let (sim, _) = disk();
    let file = open(&sim, B, Open::Create);
    file.write_all_at(b"data", 0).unwrap();
    sync_dir(&sim, "/d");
    assert_eq!(Sim::read(&sim.crash(&Crash::DropAll), B), b"");
}

#[test]
fn a_rename_is_lost_or_kept_as_one_and_its_data_apart() {
    let (sim, file) = disk();
    sim.write(B, b"old");
    file.write_all_at(b"new", 0).unwrap();
    rename(&sim, A, B);
    // Pending: data, length, rename.
    let lost = sim.crash(&Crash::mask(0b011));
    assert_eq!((Sim::read(&lost, A), Sim::read(&lost, B)), (b"new".to_vec(), b"old".to_vec()));
    let kept = sim.crash(&Crash::mask(0b111));
    assert_eq!((names(&kept), Sim::read(&kept, B)), (vec![B.to_owned()], b"new".to_vec()));
    let unsynced = sim.crash(&Crash::mask(0b100));
    assert_eq!((names(&unsynced), Sim::read(&unsynced, B)), (vec![B.to_owned()], vec![]));
    sync_dir(&sim, "/d");
    assert_eq!(names(&sim.crash(&Crash::DropAll)), [B]);
}

#[test]
fn a_rename_kept_without_the_create_gives_the_new_name_alone() {
    let (sim, _) = disk();
    open(&sim, "/d/t", Open::Create);
    rename(&sim, "/d/t", B);
    assert_eq!(names(&sim.crash(&Crash::mask(0b01))), [A, "/d/t"]);
    assert_eq!(names(&sim.crash(&Crash::mask(0b10))), [A, B]);
}

#[test]
fn an_unlink_is_lost_or_kept_and_a_reused_name_ends_at_one_of_its_files() {
    let (sim, _) = disk();
    sim.write(A, b"old");
    Fs::unlink(&sim, A.as_ref()).unwrap();
    open(&sim, A, Open::Create);
    assert_eq!(left(&sim, Crash::mask(0b00)), b"old");
    assert!(!sim.crash(&Crash::mask(0b01)).exists(A));
    assert_eq!(left(&sim, Crash::mask(0b10)), b"");
    assert_eq!(left(&sim, Crash::mask(0b11)), b"");
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    let (sim, file) = disk();
    file.write_all_at(b"x", 0).unwrap();
    Fs::unlink(&sim, A.as_ref()).unwrap();
    sync_dir(&sim, "/d");
    file.write_all_at(b"y", 1).unwrap();
    file.sync_data().unwrap();
    let mut bytes = [0; 2];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!((&bytes, sim.used()), (b"xy", 2));
    drop(file);
    assert_eq!(sim.used(), 0);
    assert!(names(&sim.crash(&Crash::KeepAll)).is_empty());
}

#[test]
fn what_is_durable_in_a_lost_directory_is_lost() {
    let sim = Sim::new(0);
    sim.create_dir("/e".as_ref()).unwrap();
    open(&sim, "/e/f", Open::Create);
    sync_dir(&sim, "/e");
    assert_eq!(changes(&sim), [PendingChange::CreateDir]);
    assert!(!sim.crash(&Crash::DropAll).exists("/e"));
    sync_dir(&sim, "/");
    assert!(sim.crash(&Crash::DropAll).exists("/e/f"));
    sim.create_dir("/e".as_ref()).unwrap();
    assert!(sim.create_dir("/e/f".as_ref()).is_err());
}

#[test]
fn a_rename_between_directories_needs_both_synced_and_is_one() {
    for (first, second) in [("/d", "/e"), ("/e", "/d")] {
        let (sim, _) = disk();
        sim.write("/e/x", b"");
        rename(&sim, A, "/e/a");
        sync_dir(&sim, first);
        assert_eq!(names(&sim.crash(&Crash::DropAll)), [A, "/e/x"]);
        assert_eq!(names(&sim.crash(&Crash::KeepAll)), ["/e/a", "/e/x"]);
        sync_dir(&sim, second);
        assert_eq!(names(&sim.crash(&Crash::DropAll)), ["/e/a", "/e/x"]);
    }
}

#[test]
fn a_synced_name_takes_along_the_earlier_changes_it_builds_on() {
    let (sim, _) = disk();
    sim.write("/e/x", b"");
    rename(&sim, A, "/e/a");
    rename(&sim, "/e/a", "/e/b");
    sync_dir(&sim, "/e");
    // Were the first rename still pending, keeping it would undo the second.
    assert!(sim.pending().is_empty());
    assert_eq!(names(&sim.crash(&Crash::KeepAll)), ["/e/b", "/e/x"]);

    rename(&sim, "/e/b", A);
    open(&sim, "/e/b", Open::Create);
    sync_dir(&sim, "/e");
    assert!(sim.pending().is_empty());
    assert_eq!(names(&sim.crash(&Crash::DropAll)), [A, "/e/b", "/e/x"]);
}

#[test]
fn calls_that_cannot_be_done_fail_as_on_linux_and_are_no_operations() {
    let (sim, file) = disk();
    sim.write("/e/x", b"");
    let path = std::path::Path::new;
    let code = |result: io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
    let opened = |path: &str, how| code(Fs::open(&sim, path.as_ref(), how).map(drop));
    let renamed = |from: &str, to: &str| code(Fs::rename(&sim, path(from), path(to)));
    assert_eq!(opened("/d/none", Open::Read), 2);
    assert_eq!(opened(A, Open::Create), 17);
    assert_eq!(opened("/d", Open::Read), 21);
    assert_eq!(opened("/d/a/b", Open::Create), 20);
    assert_eq!(renamed(A, "/e"), 21);
    assert_eq!(renamed("/e", A), 20);
    assert_eq!(renamed("/d", "/e"), 39);
    assert_eq!(renamed("/d", "/d/e"), 22);
    assert_eq!(code(Fs::unlink(&sim, path("/d"))), 21);
    assert_eq!(code(open(&sim, A, Open::Read).write_at(b"x", 0).map(drop)), 9);
    assert_eq!(code(file.set_len(u64::MAX)), 27);
    assert_eq!(code(file.write_at(b"x", u64::MAX).map(drop)), 27);
    assert_eq!(sim.operations(), 0);
    assert!(sim.pending().is_empty());
    assert_eq!(sim.canonical(path("d/../e/./x")).unwrap(), path("/e/x"));
}
