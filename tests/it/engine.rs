//! The engine through its public face: bad directories, two processes, real mounts.

use std::path::{Path, PathBuf};
use std::process::Command;

use tidelog::{
    Append, Batch, Compression, Durability, Identity, Kind, Log, Offset, Options, Record, Recovery,
    Verification, Visibility,
};

fn temp() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    (dir, path)
}

fn small() -> Options {
    Log::options().create(true).segment_bytes(64 << 10)
}

/// A closed log of at least three sealed segments and an active one.
fn filled(path: &Path, records: u64) {
    let log = small().durability(Durability::Written).open(path).unwrap();
    for i in 0..records {
        log.append(&Record::put(format!("k{}", i % 10).as_bytes(), &value(i))).unwrap();
    }
    log.close().unwrap();
}

fn value(i: u64) -> Vec<u8> {
    i.to_le_bytes().repeat(40)
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(path.join("segments")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

fn error(options: Options, path: &Path) -> tidelog::Error {
    options.open(path).map(drop).unwrap_err()
}

#[test]
fn a_missing_directory_and_one_that_is_no_log_are_told_apart() {
    let (dir, path) = temp();
    assert_eq!(error(Log::options(), &path).kind(), Kind::NotFound);
    assert_eq!(error(Log::options().read_only(true), &path).kind(), Kind::NotFound);
    assert_eq!(error(Log::options(), dir.path()).kind(), Kind::NotALog);
    std::fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    let refused = error(small(), dir.path());
    assert_eq!(refused.kind(), Kind::NotALog);
    assert!(refused.to_string().contains("letter.txt"), "{refused}");
}

#[test]
fn limits_are_refused_before_anything_is_appended() {
    let (_dir, path) = temp();
    assert_eq!(error(small().segment_bytes(1), &path).kind(), Kind::InvalidInput);
    assert_eq!(error(small().segment_bytes(65 << 10 | 1), &path).kind(), Kind::InvalidInput);
    let log = small().open(&path).unwrap();
    let big = vec![0; 16 << 20];
    assert_eq!(log.append(&Record::event(&big)).unwrap_err().kind(), Kind::InvalidInput);
    assert_eq!(log.append_batch(&Batch::new()).unwrap_err().kind(), Kind::InvalidInput);
    assert_eq!(log.append(&Record::event(&big[..(16 << 20) - 40])).unwrap().first, Offset(0));
}

#[test]
fn a_second_writer_is_refused_and_readers_are_not() {
    let (_dir, path) = temp();
    let log = small().open(&path).unwrap();
    log.append(&Record::event(b"x")).unwrap();
    assert_eq!(error(Log::options(), &path).kind(), Kind::Locked);
    let reader = Log::options().read_only(true).open(&path).unwrap();
    assert_eq!(reader.end(), Offset(1));
    drop(log);
    Log::options().open(&path).unwrap();
}

#[test]
fn a_copied_directory_refuses_to_write_until_it_is_told_which_node_it_is() {
    let (dir, path) = temp();
    filled(&path, 10);
    let copy = dir.path().join("copy");
    assert!(Command::new("cp").arg("-r").args([&path, &copy]).status().unwrap().success());
    assert_eq!(error(Log::options(), &copy).kind(), Kind::CopiedDirectory);
    assert_eq!(Log::options().read_only(true).open(&copy).unwrap().end(), Offset(10));
    let node = |path: &Path, identity| {
        let log = Log::options().identity(identity).open(path).unwrap();
        log.node()
    };
    let original = node(&path, Identity::Expect);
    let new = node(&copy, Identity::NewNode);
    assert_ne!(new, original);
    assert_eq!(node(&copy, Identity::Expect), new);
    // The original may go on in its epoch. The copy's node once did, too, and then two histories
    // of one epoch could not be told apart.
    let epoch = |path: &Path| {
        let log = Log::options().open(path).unwrap();
        log.append(&Record::event(b"who leads?")).unwrap();
        log.stats().epoch
    };
    assert_ne!(epoch(&copy), epoch(&path));
    assert!(epoch(&copy).number > epoch(&path).number);
    let moved = dir.path().join("moved");
    std::fs::rename(&path, &moved).unwrap();
    assert_eq!(error(Log::options(), &moved).kind(), Kind::CopiedDirectory);
    assert_eq!(node(&moved, Identity::SameNode), original);
    assert_eq!(node(&moved, Identity::Expect), original);
}

#[test]
fn damaged_segment_sets_are_reported_by_name_and_nothing_is_lost() {
    type Damage = fn(&[PathBuf]);
    let cases: [(&str, Damage, Kind); 6] = [
        ("a missing segment", |s| std::fs::remove_file(&s[1]).unwrap(), Kind::Corrupt),
        (
            "a duplicated segment",
            |s| assert!(std::fs::copy(&s[0], &s[1]).unwrap() > 0),
            Kind::Corrupt,
        ),
        (
            "two swapped segments",
            |s| {
                let aside = s[0].with_extension("aside");
                std::fs::rename(&s[0], &aside).unwrap();
                std::fs::rename(&s[1], &s[0]).unwrap();
                std::fs::rename(&aside, &s[1]).unwrap();
            },
            Kind::Corrupt,
        ),
        (
            "a truncated segment",
            |s| {
                let file = std::fs::OpenOptions::new().write(true).open(&s[1]).unwrap();
                file.set_len(30_000).unwrap();
            },
            Kind::Corrupt,
        ),
        (
            "a damaged header",
            |s| {
                let last = s.last().unwrap();
                let mut bytes = std::fs::read(last).unwrap();
                bytes[40] ^= 1;
                std::fs::write(last, bytes).unwrap();
            },
            Kind::Corrupt,
        ),
        (
            "another log's segment",
            |s| {
                let (_dir, other) = temp();
                filled(&other, 1000);
                std::fs::copy(&segments(&other)[0], &s[0]).unwrap();
            },
            Kind::WrongLog,
        ),
    ];
    for (what, damage, kind) in cases {
        let (_dir, path) = temp();
        filled(&path, 1000);
        let files = segments(&path);
        assert!(files.len() >= 4);
        damage(&files);
        let before: Vec<_> = segments(&path).iter().map(|f| std::fs::read(f).unwrap()).collect();
        let refused = error(Log::options(), &path);
        assert_eq!(refused.kind(), kind, "{what}: {refused}");
        assert!(refused.file().is_some(), "{what}: {refused}");
        let after: Vec<_> = segments(&path).iter().map(|f| std::fs::read(f).unwrap()).collect();
        assert!(before == after, "{what}: refusing changed files");
    }
}

#[test]
fn a_newer_format_is_refused_as_such() {
    let (_dir, path) = temp();
    filled(&path, 10);
    let log = path.join("LOG");
    let text = std::fs::read_to_string(&log).unwrap();
    let newer = text.replacen("tidelog log 1", "tidelog log 2", 1);
    let body = &newer[..newer.rfind("crc ").unwrap()];
    let crc = crc32c::crc32c(body.as_bytes());
    std::fs::write(&log, format!("{body}crc {crc:08x}\n")).unwrap();
    assert_eq!(error(Log::options(), &path).kind(), Kind::NewerVersion);
}

#[test]
fn every_flipped_bit_of_a_small_log_is_noticed_or_harmless_and_never_read() {
    let (_dir, path) = temp();
    filled(&path, 30);
    let file = segments(&path).pop().unwrap();
    let good = std::fs::read(&file).unwrap();
    let small: Vec<_> = ["CONTROL", "STATE", "EPOCHS", "PROMISE"]
        .map(|name| (path.join(name), std::fs::read(path.join(name)).unwrap()))
        .into();
    let (mut flips, mut refused) = (0u64, 0u64);
    // Frames begin behind the header; every bit of the first ones, then one in 401.
    let bits = (4096 * 8..4096 * 8 + 600).chain((4096 * 8 + 600..good.len() * 8).step_by(401));
    for bit in bits {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&file, &bad).unwrap();
        for (path, bytes) in &small {
            std::fs::write(path, bytes).unwrap();
        }
        let reader =
            Log::options().read_only(true).verification(Verification::Always).open(&path).unwrap();
        let mut cursor = reader.read(Offset(0)).unwrap();
        while let Ok(Some(entry)) = cursor.next() {
            assert_eq!(entry.record.value, value(entry.offset.0), "bit {bit}");
        }
        match Log::options().worker(false).open(&path) {
            Err(e) => {
                assert_eq!(e.kind(), Kind::Corrupt, "bit {bit}: {e}");
                refused += 1;
            }
            // Only zeros behind the last frame may be flipped without anybody's loss.
            Ok(log) => assert_eq!(log.end(), Offset(30), "bit {bit}"),
        }
        flips += 1;
        let _ = std::fs::remove_dir_all(path.join("quarantine"));
        return_to(&path, &file, &good);
    }
    assert!(refused > 600, "{refused} of {flips} flips were refused");
}

/// Puts the one segment back as it was, and takes later ones away.
fn return_to(path: &Path, file: &Path, good: &[u8]) {
    for other in segments(path) {
        std::fs::remove_file(other).unwrap();
    }
    std::fs::write(file, good).unwrap();
}

#[test]
fn damage_below_the_durable_end_can_be_read_up_to() {
    let (_dir, path) = temp();
    filled(&path, 100);
    let file = segments(&path).pop().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let refused = error(Log::options(), &path);
    assert_eq!(refused.kind(), Kind::Corrupt);
    assert!(refused.byte().is_some() && refused.offset().is_some(), "{refused}");
    assert!(refused.advice().unwrap().contains("repair"), "{refused}");
    let log = Log::options().recovery(Recovery::ReadOnly).open(&path).unwrap();
    assert!(log.end() > Offset(0) && log.end() < Offset(100), "{}", log.end());
    assert_eq!(log.append(&Record::event(b"")).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn retention_drops_whole_segments_and_cursors_say_gone() {
    let (_dir, path) = temp();
    filled(&path, 1000);
    let log = Log::options().segment_bytes(64 << 10).open(&path).unwrap();
    let mut before = log.read(Offset(0)).unwrap();
    before.next().unwrap().unwrap();
    let policy = tidelog::log::Retention { keep_bytes: Some(100_000), ..Default::default() };
    let plan = log.retain(&tidelog::log::Retention { dry_run: true, ..policy }).unwrap();
    assert!(!plan.files.is_empty() && plan.files.iter().all(|file| file.exists()));
    let done = log.retain(&policy).unwrap();
    assert_eq!(done, plan);
    assert!(done.files.iter().all(|file| !file.exists()));
    let gone = log.read(Offset(0)).unwrap_err();
    assert_eq!(gone.kind(), Kind::Gone);
    assert_eq!(log.start(), done.start);
    let mut cursor = log.read(log.start()).unwrap();
    assert_eq!(cursor.next().unwrap().unwrap().record.value, value(log.start().0));
    log.close().unwrap();
    let log = Log::options().open(&path).unwrap();
    assert_eq!((log.start(), log.end()), (done.start, Offset(1000)));
}

#[test]
fn times_are_found_and_compressed_batches_come_back() {
    let (_dir, path) = temp();
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        if compression != Compression::None && !cfg!(feature = "compress") {
            continue;
        }
        let _ = std::fs::remove_dir_all(&path);
        let log = small().compression(compression).open(&path).unwrap();
        let mut batch = Batch::new();
        for i in 0..5000 {
            batch.push(&Record::event(&value(i)).at(i as i64 * 10)).unwrap();
            if batch.len() == 50 {
                log.append_with(
                    &batch,
                    &Append { durability: Some(Durability::Written), ..Append::default() },
                )
                .unwrap();
                batch.clear();
            }
        }
        log.sync().unwrap();
        for (time, offset) in
            [(-5, 0), (0, 0), (1, 1), (10, 1), (24_990, 2499), (49_990, 4999), (49_991, 5000)]
        {
            assert_eq!(log.seek_time(time).unwrap(), Offset(offset), "{compression:?} {time}");
        }
        let mut cursor = log.read(Offset(0)).unwrap();
        for i in 0..5000 {
            let entry = cursor.next().unwrap().unwrap();
            assert_eq!((entry.timestamp, entry.record.value), (i as i64 * 10, &value(i)[..]));
        }
        log.close().unwrap();
    }
}

#[test]
fn written_visibility_shows_what_is_not_synced() {
    let (_dir, path) = temp();
    let log = small()
        .visibility(Visibility::Written)
        .durability(Durability::Written)
        .open(&path)
        .unwrap();
    log.append(&Record::event(b"x")).unwrap();
    assert_eq!((log.end(), log.durable_end()), (Offset(1), Offset(0)));
    assert!(log.get(Offset(0)).unwrap().is_some());
}

#[test]
fn a_tail_wakes_when_something_is_appended() {
    let (_dir, path) = temp();
    let log = small().open(&path).unwrap();
    std::thread::scope(|scope| {
        let mut tail = log.tail(Offset(0)).unwrap();
        let reader = scope
            .spawn(move || (0..100).map(|_| tail.next().unwrap().offset.0).collect::<Vec<_>>());
        for _ in 0..100 {
            log.append(&Record::event(b"tick")).unwrap();
        }
        assert_eq!(reader.join().unwrap(), (0..100).collect::<Vec<_>>());
    });
}

/// Mounts a file system for one test, if this process may.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(at: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tidelog-test"])
            .arg(at)
            .output()
            .is_ok_and(|out| out.status.success());
        if !mounted {
            eprintln!("skipped: this process may not mount");
        }
        mounted.then(|| Mount(at.to_path_buf()))
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount").args(["-o", options]).arg(&self.0).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_survived_and_appends_go_on_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::tmpfs(&dir.path().join("small"), "size=2m") else { return };
    let path = mount.0.join("log");
    let log = small().open(&path).unwrap();
    let mut acked = 0;
    let full = loop {
        match log.append(&Record::event(&value(acked))) {
            Ok(_) => acked += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(full.kind(), Kind::DiskFull | Kind::Unknown), "{full}");
    assert!(acked > 1000);
    assert_eq!(log.append(&Record::event(b"")).unwrap_err().kind(), Kind::DiskFull);
    assert!(log.stats().disk_full);
    let mut cursor = log.read(Offset(0)).unwrap();
    let mut read = 0;
    while let Some(entry) = cursor.next().unwrap() {
        assert_eq!(entry.record.value, value(read));
        read += 1;
    }
    assert_eq!(read, acked, "reads go on");
    mount.remount("remount,size=8m");
    let appended = log.append(&Record::event(b"more")).unwrap();
    assert!(appended.first.0 == acked || appended.first.0 == acked + 1);
    let end = log.end();
    log.close().unwrap();
    let log = Log::options().open(&path).unwrap();
    assert_eq!(log.end(), end);
}

#[test]
fn a_read_only_mount_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::tmpfs(&dir.path().join("mount"), "size=8m") else { return };
    let path = mount.0.join("log");
    filled(&path, 1000);
    mount.remount("remount,ro");
    let log = Log::options().read_only(true).open(&path).unwrap();
    assert_eq!(log.end(), Offset(1000));
    assert_eq!(log.get(Offset(999)).unwrap().unwrap().record().value, value(999));
    assert_eq!(error(Log::options(), &path).kind(), Kind::ReadOnly);
}
