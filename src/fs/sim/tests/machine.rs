//! Locks, processes, maps, clocks, copies, damage, hashes.

use super::*;

#[test]
fn locks_exclude_each_other_between_processes_and_end_with_them() {
    let (sim, _) = disk();
    let (other, path) = (sim.process(), A.as_ref());
    let shared = sim.lock(path, false).unwrap().unwrap();
    let second = other.lock(path, false).unwrap().unwrap();
    assert!(other.lock(path, true).unwrap().is_none());
    drop((shared, second));
    let exclusive = sim.lock(path, true).unwrap().unwrap();
    assert!(other.lock(path, false).unwrap().is_none());
    assert!(sim.lock(path, true).unwrap().is_none(), "as flock: one holder within a process too");
    assert!(sim.crash(&Crash::DropAll).lock(path, true).unwrap().is_some());
    assert!(sim.deep_copy().lock(path, true).unwrap().is_some());
    sim.kill();
    assert!(sim.lock(path, true).is_err());
    let taken = other.lock(path, true).unwrap().unwrap();
    drop(exclusive);
    assert!(other.lock(path, true).unwrap().is_none(), "a dead process lets go only once");
    drop(taken);
    assert!(other.lock("/d/none".as_ref(), true).is_err());
}

#[test]
fn a_killed_process_leaves_the_page_cache() {
    let (sim, file) = disk();
    let other = sim.process();
    file.write_all_at(b"x", 0).unwrap();
    sim.kill();
    assert_eq!(file.write_at(b"y", 0).unwrap_err().to_string(), "the process was killed");
    let mut byte = [0];
    open(&other, A, Open::Read).read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte, *b"x");
    assert_eq!(left(&other, Crash::DropAll), b"");
}

#[test]
fn changing_a_file_that_was_mapped_panics() {
    let (sim, file) = disk();
    file.write_all_at(b"sealed", 0).unwrap();
    let map = file.map(4).unwrap();
    assert_eq!(*map, *b"seal");
    drop(map);
    let writer = open(&sim, A, Open::Write);
    let changes: [&dyn Fn(); 4] = [
        &|| drop(writer.write_at(b"x", 0)),
        &|| drop(writer.write_at(b"x", 100)),
        &|| drop(writer.set_len(2)),
        &|| drop(writer.map(7)),
    ];
    for change in changes {
        assert!(catch_unwind(AssertUnwindSafe(change)).is_err());
    }
    assert_eq!(sim.read(A), b"sealed");
    // Another file in its place is no change of it; nor does a map outlive the power.
    rename(&sim, A, B);
    open(&sim, A, Open::Create).write_all_at(b"x", 0).unwrap();
    let restarted = sim.crash(&Crash::KeepAll);
    open(&restarted, B, Open::Write).write_all_at(b"x", 0).unwrap();
    sim.kill();
    open(&sim.process(), B, Open::Write).write_all_at(b"x", 0).unwrap();
}

#[test]
fn time_and_randomness_repeat() {
    let run = || {
        let (sim, mut bytes) = (Sim::new(3), [0; 13]);
        sim.random(&mut bytes).unwrap();
        (sim.now(), sim.now_coarse(), sim.elapsed(), bytes)
    };
    assert_eq!(run(), run());
    let sim = Sim::new(4);
    assert_ne!(run().3[..8], {
        let mut bytes = [0; 8];
        sim.random(&mut bytes).unwrap();
        bytes
    });
    let (now, elapsed) = (sim.now(), sim.elapsed());
    sim.advance(Duration::from_secs(2));
    sim.jump(-1_000_000_000);
    assert_eq!(sim.now() - now, 1_000_000_000 + 2_000);
    assert_eq!(sim.elapsed() - elapsed, 2_000_000_000 + 2_000);
    let copy = sim.crash(&Crash::DropAll);
    assert!(copy.elapsed() > elapsed, "a machine keeps its clock over a power cut");
    assert_eq!(sim.machine().unwrap(), "sim");
}

#[test]
fn copies_share_nothing_that_changes() {
    let (sim, file) = disk();
    file.write_all_at(b"pending", 0).unwrap();
    let copy = sim.deep_copy();
    assert_eq!(copy.pending(), sim.pending());
    file.write_all_at(b"changed", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!((copy.read(A), left(&copy, Crash::DropAll)), (b"pending".to_vec(), vec![]));
    copy.write(A, b"copy");
    assert_eq!(sim.read(A), b"changed");
}

#[test]
fn damage_is_durable_at_once() {
    let sim = Sim::new(0);
    sim.write("/x/y/z", b"abc");
    sim.flip("/x/y/z", 8);
    sim.truncate("/x/y/z", 4);
    sim.rename_durable("/x/y/z", "/x/w");
    sim.write("/x/y/v", b"");
    let after = sim.crash(&Crash::DropAll);
    assert_eq!((after.read("/x/w"), sim.read("/x/w")), (b"acc\0".to_vec(), b"acc\0".to_vec()));
    sim.remove("/x/y");
    assert_eq!(names(&sim.crash(&Crash::DropAll)), ["/x/w"]);
    // A file of which nothing was durable yet gets its name by being damaged.
    open(&sim, "/x/new", Open::Create).write_all_at(&[0; 600], 0).unwrap();
    sim.flip("/x/new", 4096);
    assert_eq!(sim.crash(&Crash::DropAll).read("/x/new")[512], 1);
    assert!(sim.pending().is_empty() && sim.operations() == 2);
}

#[test]
fn the_hash_tells_durable_states_apart_and_equal_ones_not() {
    let (sim, file) = disk();
    let mut hashes = vec![sim.durable_hash()];
    file.write_all_at(&[0; 5000], 0).unwrap();
    assert_eq!(sim.durable_hash(), hashes[0], "pending changes have no part in it");
    for mask in 1..4 {
        hashes.push(sim.crash(&Crash::mask(mask)).durable_hash());
    }
    assert_eq!(hashes[1], hashes[0], "data out of reach has no part in it");
    assert_eq!(hashes[2], hashes[3], "written zeros are zeros");
    assert_ne!(hashes[2], hashes[0]);
    let with = |path: &str, bytes: &[u8]| {
        let sim = sim.deep_copy();
        sim.write(path, bytes);
        sim.durable_hash()
    };
    assert_ne!(with("/d/ab", b"c"), with("/d/a", b"bc"));
    assert_ne!(with(B, b""), with("/b", b""));
    assert_eq!(with(B, b"x"), with(B, b"x"));
    // Pages remember their hash; a change of one makes it forget.
    sim.write(B, &[7; 5000]);
    let before = sim.durable_hash();
    sim.flip(B, 4096 * 8);
    let after = sim.durable_hash();
    sim.flip(B, 4096 * 8);
    assert!(after != before && sim.durable_hash() == before);
}

#[test]
fn what_was_seen_of_a_file_tells_whether_it_changed_and_where_it_differs() {
    let sim = Sim::new(0);
    sim.write("/a", &[7; 9000]);
    sim.write("/b", &[7; 9001]);
    let (a, b) = (sim.see("/a"), sim.see("/b"));
    assert_eq!((a.bytes(), a.differs(&b, 9000), a.differs(&b, 9001)), (9000, None, Some(9000)));
    assert!(a.is_unchanged(&sim.see("/a")) && !a.is_unchanged(&b));
    // What a power cut leaves of it is the same file.
    assert!(sim.crash(&Crash::DropAll).see("/a").is_unchanged(&a));
    sim.flip("/a", 8 * 5000);
    assert!(!sim.see("/a").is_unchanged(&a), "what was seen stays as it was");
    assert_eq!(sim.see("/a").differs(&a, 9000), Some(5000));
    assert_eq!(sim.see("/a").differs(&b, 5000), None);
    // Bytes that were never written are zeros.
    let (holes, zeros) = (open(&sim, "/c", Open::Create), open(&sim, "/d", Open::Create));
    holes.set_len(9000).unwrap();
    zeros.write_all_at(&[0; 9000], 0).unwrap();
    assert_eq!(sim.see("/c").differs(&sim.see("/d"), 9000), None);
    assert_eq!(sim.see("/c").differs(&b, 9000), Some(0));
}

#[test]
fn what_is_durable_has_another_version_whenever_a_power_cut_leaves_another_disk() {
    let (sim, file) = disk();
    let mut last = (sim.durable_version(), sim.crash(&Crash::DropAll).durable_hash());
    let mut look = |what: &str, changes: bool| {
        let now = (sim.durable_version(), sim.crash(&Crash::DropAll).durable_hash());
        assert_eq!((now.0 != last.0, now.1 != last.1), (changes, changes), "{what}");
        last = now;
    };
    file.write_all_at(b"bytes", 0).unwrap();
    look("a write is pending", false);
    file.sync_data().unwrap();
    look("and is durable once it is synced", true);
    file.sync_data().unwrap();
    look("again there is nothing to sync", false);
    rename(&sim, A, B);
    look("a name is pending", false);
    sync_dir(&sim, "/d");
    look("and is durable once its directory is synced", true);
    sim.flip(B, 3);
    look("damage is durable at once", true);
    file.write_all_at(b"other", 0).unwrap();
    sim.fail(Fault::on(OpKind::Sync));
    file.sync_data().unwrap_err();
    look("a failed sync drops it", false);
}

#[test]
fn a_file_is_mapped_as_it_is_also_when_an_older_state_of_it_was_mapped_elsewhere() {
    let (sim, file) = disk();
    file.write_all_at(b"old bytes", 0).unwrap();
    file.sync_data().unwrap();
    let map = |sim: &Sim, len| open(sim, A, Open::Read).map(len).unwrap().to_vec();
    let cut = sim.crash(&Crash::DropAll);
    assert_eq!(map(&cut, 9), b"old bytes");
    file.write_all_at(b"new", 0).unwrap();
    assert_eq!((map(&sim, 9), map(&cut, 9)), (b"new bytes".to_vec(), b"old bytes".to_vec()));
    assert_eq!((map(&cut, 3), map(&cut, 9)), (b"old".to_vec(), b"old bytes".to_vec()));
}
