//! Followers of a directory: byte-identical copies at every stage, after every interruption.

pub(crate) mod leader;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use tidelog::log::Retention;
use tidelog::table::Scan;
use tidelog::{Batch, Follower, Identity, Kind, Log, Offset, Preallocate, Record, Table, ship};

use leader::{Leader, copy_tree, same_segments, segments};

/// A leader's life, a step at a time.
fn live(leader: &mut Leader, mut after: impl FnMut(&Leader, usize)) {
    let steps: [fn(&mut Leader); 14] = [
        |_| {},
        |leader| leader.append(1, 10),
        |leader| leader.append(20, 100),
        |leader| leader.append(300, 700),
        |leader| leader.append(3, 10),
        |leader| {
            leader.close();
            leader.open();
        },
        |leader| leader.append(5, 50),
        |leader| {
            leader.crash();
            leader.open();
        },
        |leader| leader.append(2, 3 << 20),
        |leader| leader.append(40, 5000),
        |leader| {
            leader.crash();
            leader.open();
            leader.crash();
            leader.open();
        },
        |leader| leader.append(1, 10),
        |leader| leader.close(),
        |leader| {
            leader.open();
            leader.append(100, 2000);
        },
    ];
    for (i, step) in steps.iter().enumerate() {
        step(leader);
        after(leader, i);
    }
    leader.close();
    after(leader, steps.len());
}

#[test]
fn a_copy_is_byte_identical_at_every_stage_of_a_leaders_life() {
    for preallocate in [Preallocate::Auto, Preallocate::Zero, Preallocate::Grow] {
        let mut leader = Leader::new(Log::options().worker(false).preallocate(preallocate));
        let mut steady = None;
        live(&mut leader, |leader, i| {
            let steady: &mut Follower = steady.get_or_insert_with(|| leader.follower("steady"));
            steady.catch_up().unwrap();
            leader.compare(steady, "steady");
            leader.check("reopened");
            if i % 3 == 0 {
                leader.check(&format!("new at {i}"));
            }
        });
    }
}

#[test]
#[cfg(feature = "compress")]
fn compressed_batches_are_copied_as_they_are_and_applied() {
    use tidelog::Compression;
    for compression in [Compression::Lz4, Compression::Zstd] {
        let mut leader = Leader::new(Log::options().worker(false).compression(compression));
        leader.append(100, 3000);
        leader.check("copy");
        leader.close();
        leader.open();
        leader.append(10, 30_000);
        leader.check("copy");
    }
}

#[test]
fn an_interrupted_follower_completes_from_whatever_is_left() {
    let mut leader = Leader::new(Log::options().worker(false));
    leader.append(60, 4000);
    leader.crash();
    leader.open();
    leader.append(30, 4000);
    leader.check("whole");
    let whole = leader.copy("whole");
    let names: Vec<String> = segments(&whole).into_keys().collect();
    assert!(names.len() > 4);
    let mut random = 1u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) % below
    };
    for round in 0..60 {
        let copy = leader.copy(&format!("cut {round}"));
        copy_tree(&whole, &copy);
        let keep = 1 + next(names.len() as u64) as usize;
        for name in &names[keep..] {
            fs::remove_file(copy.join("segments").join(name)).unwrap();
        }
        let last = copy.join("segments").join(&names[keep - 1]);
        let mut bytes = fs::read(&last).unwrap();
        // Never less than the header: it is durable before the file has its name.
        let cut = 4096 + next(bytes.len() as u64 - 4096) as usize;
        match round % 4 {
            0 => bytes.truncate(cut),
            1 => bytes[cut..].fill(0),
            2 => {
                bytes.truncate(cut);
                bytes.extend_from_slice(&[0xaa; 300]);
            }
            _ => bytes[cut] ^= 0x10,
        }
        fs::write(&last, &bytes).unwrap();
        fs::write(copy.join("segments").join("00000000000000000777.seg.tmp"), b"half").unwrap();
        fs::write(copy.join("CONTROL.tmp"), b"half").unwrap();
        if round % 3 == 0 {
            fs::remove_file(copy.join("STATE")).unwrap();
        }
        let source = ship::Directory::open(leader.path()).unwrap();
        let options = Log::options().identity(Identity::SameNode);
        let mut follower = Follower::open(options, &copy, source).unwrap();
        if follower.report().unclean {
            assert!(follower.end() < leader.log().durable_end());
        }
        // What was set aside is kept.
        if follower.report().bytes_cut > 0 {
            assert!(fs::read_dir(copy.join("quarantine")).unwrap().count() > 0);
        }
        let progress = follower.catch_up().unwrap();
        assert_eq!(progress.to, leader.log().durable_end());
        leader.compare(&follower, &format!("cut {round}"));
        follower.close().unwrap();
        // And opening once more finds it in order.
        leader.check(&format!("cut {round}"));
    }
}

#[test]
fn a_segment_with_a_damaged_header_is_set_aside_and_fetched_again() {
    let mut leader = Leader::new(Log::options().worker(false));
    leader.append(60, 4000);
    leader.check("copy");
    let copy = leader.copy("copy");
    let name = segments(&copy).into_keys().next_back().unwrap();
    let path = copy.join("segments").join(name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[40] ^= 1;
    fs::write(&path, bytes).unwrap();
    let follower = leader.follower("copy");
    assert!(follower.report().unclean, "{:?}", follower.report());
    // It says so of itself, and acknowledges nothing, until it has fetched what it lost.
    assert!(follower.gauge().read().report.unclean);
    // However often it starts meanwhile, cleanly or not.
    follower.close().unwrap();
    let follower = leader.follower("copy");
    assert!(follower.report().findings[0].contains("not been fetched"), "{:?}", follower.report());
    drop(follower);
    let mut follower = leader.follower("copy");
    assert!(follower.gauge().read().report.unclean);
    follower.catch_up().unwrap();
    assert!(!follower.gauge().read().report.unclean);
    leader.compare(&follower, "copy");
    drop(follower);
    let follower = leader.follower("copy");
    assert!(!follower.report().unclean, "{:?}", follower.report());
}

#[test]
fn a_sealed_segment_that_rots_in_the_copy_is_fetched_again() {
    let mut leader = Leader::new(Log::options().worker(false));
    leader.append(60, 4000);
    leader.check("copy");
    // Without its table the copy reads all of its log when it is opened.
    fs::remove_dir_all(leader.copy("copy").join("table")).unwrap();
    let (name, whole) = segments(&leader.copy("copy")).into_iter().nth(1).unwrap();
    let path = leader.copy("copy").join("segments").join(&name);
    let mut bytes = whole.clone();
    bytes[20_000] ^= 4;
    fs::write(&path, &bytes).unwrap();
    // Not from a source that lacks it, and nothing is lost by trying.
    let theirs = leader.path().join("segments").join(&name);
    fs::rename(&theirs, leader.copy("away")).unwrap();
    let source = ship::Directory::open(leader.path()).unwrap();
    let error = Follower::open(Log::options(), leader.copy("copy"), source).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.to_string().contains("source"), "{error}");
    fs::rename(leader.copy("away"), &theirs).unwrap();

    let mut follower = leader.follower("copy");
    assert!(follower.report().unclean && follower.report().findings.len() == 1);
    follower.catch_up().unwrap();
    leader.compare(&follower, "copy");
    let kept = fs::read_dir(leader.copy("copy").join("quarantine")).unwrap();
    assert!(kept.into_iter().any(|entry| fs::read(entry.unwrap().path()).unwrap() == bytes));
}

#[test]
fn the_copy_of_a_closed_log_is_the_same_to_the_last_byte_of_its_files() {
    let mut leader = Leader::new(Log::options());
    for records in [1, 7, 60] {
        leader.append(records, 3000);
        leader.close();
        leader.follower("copy").catch_up().unwrap();
        assert_eq!(segments(&leader.path()), segments(&leader.copy("copy")), "{records}");
        // Opened again, and with nothing new, it stays so.
        leader.follower("copy").catch_up().unwrap();
        assert_eq!(segments(&leader.path()), segments(&leader.copy("copy")), "{records}");
        leader.open();
    }
}

#[test]
fn a_damaged_source_is_refused_and_nothing_damaged_is_copied() {
    let mut leader = Leader::new(Log::options().worker(false));
    leader.append(60, 4000);
    leader.close();
    let names: Vec<String> = segments(&leader.path()).into_keys().collect();
    for (round, name) in names.iter().enumerate() {
        let path = leader.path().join("segments").join(name);
        let whole = fs::read(&path).unwrap();
        for byte in [200, 4096 + 9, 4096 + 5000, 30_000] {
            let mut bytes = whole.clone();
            if byte >= bytes.len() {
                continue;
            }
            bytes[byte] ^= 1;
            fs::write(&path, &bytes).unwrap();
            let copy = format!("copy {round} {byte}");
            // One that cannot say what it has is not even opened.
            let source = ship::Directory::open(leader.path()).unwrap();
            let error = match Follower::open(Log::options(), leader.copy(&copy), source) {
                Ok(mut follower) => follower.catch_up().unwrap_err(),
                Err(error) => error,
            };
            let gap = error.kind() == Kind::NotFound && error.message().contains("zeros");
            assert!(error.kind() == Kind::Corrupt || gap, "{error}");
            assert!(error.file().unwrap().starts_with(leader.path()), "{error}");
            for (name, bytes) in segments(&leader.copy(&copy)) {
                let theirs = fs::read(leader.path().join("segments").join(&name)).unwrap();
                // Its last page is filled up with zeros.
                let end = bytes.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
                assert!(bytes.len() - end < 4096 + 8, "{name} holds more than whole pages");
                assert!(theirs.starts_with(&bytes[..end]), "{name} has other bytes");
            }
            // Healed at the source, it goes on.
            fs::write(&path, &whole).unwrap();
            let mut follower = leader.follower(&copy);
            follower.catch_up().unwrap();
            leader.compare(&follower, &copy);
        }
    }
}

#[test]
fn other_logs_leaders_and_the_directory_itself_are_refused() {
    let mut leader = Leader::new(Log::options());
    leader.append(3, 10);
    let mut other = Leader::new(Log::options());
    other.append(3, 10);
    leader.check("copy");

    let source = || ship::Directory::open(other.path()).unwrap();
    let error = Follower::open(Log::options(), leader.copy("copy"), source()).unwrap_err();
    assert_eq!(error.kind(), Kind::WrongLog, "{error}");
    let mut follower = leader.follower("copy");
    // The directory behind a path may be exchanged while it is followed.
    leader.close();
    fs::rename(leader.path(), leader.copy("away")).unwrap();
    copy_tree(&other.path(), &leader.path());
    assert_eq!(follower.catch_up().unwrap_err().kind(), Kind::WrongLog);
    drop(follower);
    fs::remove_dir_all(leader.path()).unwrap();
    fs::rename(leader.copy("away"), leader.path()).unwrap();

    for path in [leader.path(), leader.dir.path().join("./leader")] {
        let source = ship::Directory::open(leader.path()).unwrap();
        let error = Follower::open(Log::options(), path, source).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidInput, "{error}");
    }
    // A follower of itself.
    let source = ship::Directory::open(leader.copy("copy")).unwrap();
    let mut follower = Follower::open(Log::options(), leader.copy("copy"), source).unwrap();
    assert_eq!(follower.catch_up().unwrap_err().kind(), Kind::InvalidInput);
    drop(follower);
    leader.open();
    leader.append(3, 10);
    leader.check("copy");

    fs::create_dir(leader.copy("foreign")).unwrap();
    fs::write(leader.copy("foreign").join("letter"), b"dear").unwrap();
    let source = ship::Directory::open(leader.path()).unwrap();
    let error = Follower::open(Log::options(), leader.copy("foreign"), source).unwrap_err();
    assert_eq!(error.kind(), Kind::NotALog, "{error}");
    assert_eq!(ship::Directory::open(leader.copy("foreign")).unwrap_err().kind(), Kind::NotALog);
    assert_eq!(ship::Directory::open(leader.copy("nothing")).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_followers_directory_takes_no_appends_and_is_read_beside_the_follower() {
    let mut leader = Leader::new(Log::options());
    leader.append(30, 1000);
    let mut follower = leader.follower("copy");
    follower.catch_up().unwrap();
    let copy = leader.copy("copy");
    assert_eq!(Log::options().open(&copy).unwrap_err().kind(), Kind::Locked);
    let reader = Log::options().read_only(true).open(&copy).unwrap();
    assert_eq!(reader.end(), leader.log().durable_end());
    let mut tail = reader.tail(Offset(0)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| follower.run(&stop, |_| {}));
        leader.append(200, 2000);
        let end = leader.log().durable_end();
        while tail.offset() < end {
            let offset = tail.offset();
            let mine = tail.next().unwrap().to_owned();
            assert_eq!(Some(mine), leader.log().get(offset).unwrap());
        }
        let table = Table::from_log(&reader).unwrap();
        assert_eq!(
            table.digest().unwrap(),
            Table::from_log(leader.log()).unwrap().digest().unwrap()
        );
        stop.store(true, Ordering::Relaxed);
        running.join().unwrap().unwrap();
    });
    drop(follower);
    let log = Log::options().open(&copy).unwrap();
    assert_eq!(log.end(), leader.log().durable_end());
    let error = log.append(&Record::event(b"no")).unwrap_err();
    assert_eq!(error.kind(), Kind::NotLeader, "{error}");
    assert!(error.to_string().contains("leader"), "{error}");
    drop(log);
    leader.check("copy");
}

#[test]
fn a_leader_that_rolls_seals_and_drops_segments_is_followed_all_along() {
    let leader = Leader::new(Log::options());
    let table = Table::new();
    let stop = AtomicBool::new(false);
    let mut follower = leader.follower("copy");
    let handle = follower.table().clone();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let ended = follower.run(&stop, |_| {});
            (follower, ended)
        });
        for i in 0..400u64 {
            let mut batch = Batch::new();
            for j in 0..5 {
                let key = (i * j % 97).to_be_bytes();
                batch.push(&Record::put(&key, &[b'x'; 900])).unwrap();
            }
            leader.log().append_batch(&batch).unwrap();
            if i % 40 == 39 {
                table.catch_up(leader.log()).unwrap();
                // Only what the follower has, as a retention slot would see to.
                let keep = handle.applied().map_or(Offset(0), |position| position.offset);
                let policy = Retention { keep_from: Some(keep), ..Retention::default() };
                leader.log().retain(&policy).unwrap();
            }
        }
        let end = leader.log().durable_end();
        while handle.applied().is_none_or(|position| position.offset < end) {
            assert!(!running.is_finished());
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        let (follower, ended) = running.join().unwrap();
        ended.unwrap();
        table.catch_up(leader.log()).unwrap();
        assert_eq!(follower.table().digest().unwrap(), table.digest().unwrap());
        assert!(leader.log().start() > Offset(0));
        // Nothing that the leader dropped is dropped here.
        assert_eq!(follower.log().start(), Offset(0));
        assert_eq!(
            Table::from_log(&follower.log()).unwrap().digest().unwrap(),
            table.digest().unwrap()
        );
    });
}

#[test]
fn a_follower_that_needs_what_retention_dropped_says_so() {
    let mut leader = Leader::new(Log::options());
    leader.append(10, 100);
    leader.check("copy");
    leader.append(100, 4000);
    leader.close();
    leader.open();
    let policy = Retention { keep_from: Some(Offset(150)), ..Retention::default() };
    let retained = leader.log().retain(&policy).unwrap();
    assert!(retained.start > Offset(0));

    let mut follower = leader.follower("copy");
    let error = follower.catch_up().unwrap_err();
    assert_eq!(error.kind(), Kind::Gone, "{error}");
    assert!(error.to_string().contains(&retained.start.to_string()), "{error}");
    // What it has stays readable.
    assert_eq!(follower.table().applied().unwrap().offset, follower.end());

    let source = ship::Directory::open(leader.path()).unwrap();
    let error = Follower::open(Log::options(), leader.copy("new"), source).unwrap_err();
    assert_eq!(error.kind(), Kind::Gone, "{error}");
    assert!(!leader.copy("new").exists());
}

#[test]
fn a_source_that_went_back_in_time_is_refused_and_nothing_is_cut() {
    for later in [5, 200] {
        let mut leader = Leader::new(Log::options().worker(false));
        leader.append(40, 1000);
        leader.close();
        let old = leader.copy("old");
        copy_tree(&leader.path(), &old);
        leader.open();
        leader.append(later, 1000);
        leader.check("copy");
        let before = segments(&leader.copy("copy"));
        leader.close();
        // Somebody restores the copy of yesterday over the leader.
        fs::remove_dir_all(leader.path()).unwrap();
        fs::rename(&old, leader.path()).unwrap();
        let source = ship::Directory::open(leader.path()).unwrap();
        let opened = Follower::open(Log::options(), leader.copy("copy"), source);
        let error = opened.unwrap_err();
        assert_eq!(error.kind(), Kind::CommittedDataLoss, "{error}");
        assert!(error.to_string().contains("nothing was changed"), "{error}");
        assert!(segments(&leader.copy("copy")) == before);
    }
}

#[test]
fn a_copier_that_brings_state_before_the_frames_is_waited_for() {
    let mut leader = Leader::new(Log::options().worker(false));
    leader.append(30, 1000);
    leader.close();
    leader.open();
    let mirror = leader.copy("mirror");
    copy_tree(&leader.path(), &mirror);
    let source = ship::Directory::open(&mirror).unwrap();
    let mut follower = Follower::open(Log::options(), leader.copy("copy"), source).unwrap();
    follower.catch_up().unwrap();
    leader.append(60, 3000);
    for name in ["STATE", "CONTROL", "EPOCHS"] {
        fs::copy(leader.path().join(name), mirror.join(name)).unwrap();
    }
    let error = follower.catch_up().unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    for (name, bytes) in segments(&leader.path()) {
        let path = mirror.join("segments").join(name);
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(follower.catch_up().is_err());
        fs::write(&path, &bytes).unwrap();
    }
    follower.catch_up().unwrap();
    leader.compare(&follower, "copy");
}

#[test]
fn links_and_foreign_names_at_the_source_are_not_followed() {
    let mut leader = Leader::new(Log::options().worker(false));
    leader.append(60, 4000);
    leader.close();
    let segments = leader.path().join("segments");
    for name in ["notes.txt", "../x", "1.seg", "00000000000000000123.seg.bak"] {
        let _ = fs::write(segments.join(name.trim_start_matches("../")), b"mine");
    }
    leader.check("copy");
    let first = segments.join("00000000000000000000.seg");
    let away = leader.copy("away.seg");
    fs::rename(&first, &away).unwrap();
    std::os::unix::fs::symlink(&away, &first).unwrap();
    let mut follower = leader.follower("new");
    let error = follower.catch_up().unwrap_err();
    assert!(error.to_string().contains("link"), "{error}");
    fs::remove_file(&first).unwrap();
    fs::rename(&away, &first).unwrap();
    follower.catch_up().unwrap();

    let real = leader.path().join("real");
    fs::rename(&segments, &real).unwrap();
    std::os::unix::fs::symlink(&real, &segments).unwrap();
    assert!(follower.catch_up().unwrap_err().to_string().contains("link"));
}

#[test]
fn a_newer_format_at_the_source_says_so() {
    let mut leader = Leader::new(Log::options().worker(false));
    leader.append(3, 100);
    leader.close();
    let path = leader.path().join("segments").join("00000000000000000000.seg");
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..4092]);
    bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let source = ship::Directory::open(leader.path()).unwrap();
    let error = Follower::open(Log::options(), leader.copy("copy"), source).unwrap_err();
    assert_eq!(error.kind(), Kind::NewerVersion);
}

#[test]
fn a_follower_can_be_followed() {
    let mut leader = Leader::new(Log::options().worker(false));
    let mut first = leader.follower("first");
    let mut second = None;
    for i in 0..8 {
        leader.append(20, 1 + i * 900);
        if i == 4 {
            leader.crash();
            leader.open();
        }
        first.catch_up().unwrap();
        let second: &mut Follower = second.get_or_insert_with(|| {
            let source = ship::Directory::open(leader.copy("first")).unwrap();
            Follower::open(Log::options(), leader.copy("second"), source).unwrap()
        });
        second.catch_up().unwrap();
        leader.compare(second, "second");
        same_segments(&leader.copy("first"), &leader.copy("second"));
    }
    // The chain may be shortened.
    drop(second);
    leader.append(20, 100);
    leader.check("second");
}

#[test]
fn a_follower_opens_without_its_source_and_tells_of_trouble_once() {
    let mut leader = Leader::new(Log::options().worker(false));
    leader.append(30, 100);
    leader.check("copy");
    let digest = Table::from_log(leader.log()).unwrap().digest().unwrap();
    leader.close();
    let mut follower = leader.follower("copy");
    fs::rename(leader.path(), leader.copy("away")).unwrap();
    assert_eq!(follower.table().digest().unwrap(), digest);
    let stop = AtomicBool::new(false);
    let mut troubles = 0;
    let mut recovered = false;
    follower
        .run(&stop, |progress| match progress {
            Err(e) => {
                assert_eq!(e.kind(), Kind::NotFound, "{e}");
                troubles += 1;
                fs::rename(leader.copy("away"), leader.path()).unwrap();
            }
            Ok(progress) => {
                recovered = true;
                assert_eq!(progress.lag.records, 0);
                stop.store(true, Ordering::Relaxed);
            }
        })
        .unwrap();
    assert_eq!((troubles, recovered), (1, true));
}

#[test]
fn scans_of_leader_and_follower_are_equal() {
    let mut leader = Leader::new(Log::options());
    leader.append(50, 300);
    let mut follower = leader.follower("copy");
    follower.catch_up().unwrap();
    let scan = Scan::all().prefix(b"key 1").limit(5);
    let rows = Table::from_log(leader.log()).unwrap().view().collect(&scan).unwrap();
    assert_eq!(rows.len(), 5);
    assert_eq!(follower.table().view().collect(&scan).unwrap(), rows);
}

#[test]
fn a_repaired_source_is_followed_by_old_copies_and_new_ones() {
    let mut leader = Leader::new(Log::options().worker(false));
    leader.append(80, 4000);
    leader.close();
    leader.check("before");
    let whole = leader.follower("before").table().digest().unwrap();
    let (name, mut bytes) = segments(&leader.path()).into_iter().nth(1).unwrap();
    bytes[30_000] ^= 4;
    fs::write(leader.path().join("segments").join(name), bytes).unwrap();
    let report = tidelog::log::repair(leader.path(), false).unwrap();
    assert!(!report.lost.is_empty(), "{report:?}");

    // A new copy is a copy of the repaired log: what is lost is lost there too, and told.
    leader.check("after");
    let mut after = leader.follower("after");
    assert!(!after.report().unclean, "{:?}", after.report());
    assert!(!after.table().lost().is_empty());
    // An old one keeps what the leader has lost, and goes on.
    let mut before = leader.follower("before");
    before.catch_up().unwrap();
    assert_eq!((before.table().digest().unwrap(), before.table().lost()), (whole, vec![]));

    leader.open();
    leader.append(60, 4000);
    after.catch_up().unwrap();
    before.catch_up().unwrap();
    leader.compare(&after, "after");
    assert_eq!(before.end(), after.end());
    drop((before, after));
    let (before, after) = (leader.follower("before"), leader.follower("after"));
    assert!(!before.report().unclean && !after.report().unclean);
    let lost = Offset(report.lost[0].0);
    assert!(before.log().get(lost).unwrap().is_some());
    assert_eq!(after.log().get(lost).unwrap_err().kind(), Kind::Lost);
}
