use super::*;
use crate::frame::Producer;
use crate::record::{Batch, Record};
use std::path::PathBuf;

fn temp() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    (dir, path)
}

fn small() -> Options {
    Log::options().create(true).segment_bytes(MIN_SEGMENT_BYTES)
}

fn values(log: &Log) -> Vec<Vec<u8>> {
    let mut cursor = log.read(log.start()).unwrap();
    let mut values = Vec::new();
    while let Some(entry) = cursor.next().unwrap() {
        assert_eq!(entry.offset, log.start().plus(values.len() as u64));
        values.push(entry.record.value.to_vec());
    }
    values
}

#[test]
fn records_come_back_in_order_over_rolls_and_reopens() {
    let (_dir, path) = temp();
    let mut expected = Vec::new();
    for round in 0..4 {
        let log = small().open(&path).unwrap();
        assert!(log.report().clean, "{:?}", log.report());
        for i in 0..300 {
            let value = format!("{round}-{i}-{}", "x".repeat(i)).into_bytes();
            let durability = [Durability::Buffered, Durability::Written, Durability::Durable];
            let how = Append { durability: Some(durability[i % 3]), ..Append::default() };
            let mut batch = Batch::new();
            batch.push(&Record::put(b"k", &value)).unwrap();
            let appended = log.append_with(&batch, &how).unwrap();
            assert_eq!(appended.first.0, expected.len() as u64);
            expected.push(value);
        }
        log.sync().unwrap();
        assert_eq!(values(&log), expected);
        log.close().unwrap();
    }
    let log = small().open(&path).unwrap();
    assert_eq!(values(&log), expected);
    assert!(log.segments().len() > 2);
    for i in [0, 1, 299, 300, 777, 1199] {
        assert_eq!(log.get(Offset(i)).unwrap().unwrap().record().value, expected[i as usize]);
    }
    assert_eq!(log.get(Offset(1200)).unwrap(), None);
}

#[test]
fn a_frame_larger_than_staging_and_segment_gets_its_own() {
    let (_dir, path) = temp();
    let big = vec![7; 3 << 20];
    let log = small().open(&path).unwrap();
    for value in [&b"a"[..], &big, b"b", &big[..40_000], &big, b"c"] {
        log.append(&Record::event(value)).unwrap();
    }
    log.close().unwrap();
    let log = small().open(&path).unwrap();
    let lengths: Vec<usize> = values(&log).iter().map(Vec::len).collect();
    assert_eq!(lengths, [1, 3 << 20, 1, 40_000, 3 << 20, 1]);
}

#[test]
fn many_producers_share_rounds_and_lose_nothing() {
    let (_dir, path) = temp();
    let log = small().open(&path).unwrap();
    std::thread::scope(|scope| {
        for producer in 0..8u8 {
            let log = &log;
            scope.spawn(move || {
                for i in 0..200u8 {
                    log.append(&Record::put(&[producer], &[i])).unwrap();
                }
            });
        }
    });
    let mut next = [0u8; 8];
    let mut cursor = log.read(Offset(0)).unwrap();
    while let Some(entry) = cursor.next().unwrap() {
        let producer = usize::from(entry.record.key.unwrap()[0]);
        assert_eq!(entry.record.value, [next[producer]]);
        next[producer] += 1;
    }
    assert_eq!(next, [200; 8]);
}

#[test]
fn conditions_are_checked_and_retries_do_not_duplicate() {
    let (_dir, path) = temp();
    let id = Id([5; 16]);
    let mut batch = Batch::new();
    batch.push(&Record::put(b"k", b"v")).unwrap();
    let how = |sequence| Append { producer: Some(Producer { id, sequence }), ..Append::default() };
    let log = small().open(&path).unwrap();
    let first = log.append_with(&batch, &how(7)).unwrap();
    let again = log.append_with(&batch, &how(7)).unwrap();
    assert_eq!((first.first, first.duplicate), (Offset(0), false));
    assert_eq!((again.first, again.duplicate), (Offset(0), true));
    assert_eq!(log.append_with(&batch, &how(6)).unwrap_err().kind(), Kind::Rejected);
    log.close().unwrap();

    let log = small().open(&path).unwrap();
    assert_eq!(log.producer(id).unwrap().sequence, 7);
    assert!(log.append_with(&batch, &how(7)).unwrap().duplicate);
    let expect = |end| Append { expect: Some(Expect::End(Offset(end))), ..Append::default() };
    assert_eq!(log.append_with(&batch, &expect(5)).unwrap_err().kind(), Kind::Rejected);
    assert_eq!(log.append_with(&batch, &expect(1)).unwrap().first, Offset(1));
    assert_eq!(log.end(), Offset(2));
}

#[test]
fn a_cursor_that_read_in_an_epoch_which_this_log_never_met_is_not_taken_up() {
    // The log was restored from an older copy, and the cursor's file was not: to go on at its offset would skip what
    // is written there now.
    use super::meta::Meta;
    let (_dir, path) = temp();
    let log = small().open(&path).unwrap();
    log.append(&Record::put(b"k", b"v")).unwrap();
    let mut cursor = log.cursor("reader").unwrap();
    cursor.save(Offset(1)).unwrap();
    drop(cursor);
    assert_eq!(log.cursor("reader").unwrap().offset(), Some(Offset(1)));

    let path = log.shared.layout.cursors().join("reader.cursor");
    let stored = Meta::read(&*log.shared.fs, &path, "cursor").unwrap().unwrap();
    let token: Token = stored.get("token").unwrap();
    let number = token.epoch.number + 1;
    let unmet = Token { epoch: Epoch { number, nonce: 1 }, ..token };
    let mut meta = Meta::new("cursor");
    meta.set("log", log.id()).set("offset", Offset(1)).set("time", 0_u64).set("token", unmet);
    meta.replace(&*log.shared.fs, &path).unwrap();
    let refused = log.cursor("reader").unwrap_err();
    assert_eq!(refused.kind(), Kind::NotInHistory, "{refused}");
    assert!(refused.to_string().contains("reader.cursor"), "{refused}");
}

#[test]
fn a_retry_after_a_crash_has_the_token_of_the_epoch_that_appended_it() {
    // The leader was killed behind an append and before its answer. The retry found it there, and was
    // given a token of the new epoch: every read by that token said that the write was lost.
    use crate::fs::sim::{Crash, Sim};
    let sim = Sim::new(1);
    let append = |log: &Log, sequence: u8| {
        let mut batch = Batch::new();
        batch.push(&Record::put(b"k", &[sequence; 9000])).unwrap();
        let producer = Some(Producer { id: Id([sequence; 16]), sequence: u64::from(sequence) });
        log.append_with(&batch, &Append { producer, ..Append::default() }).unwrap()
    };
    let log = small().fs(sim.shared()).worker(false).open("/log").unwrap();
    let first = append(&log, 1);
    let sim = sim.crash(&Crash::DropAll);
    let log = small().fs(sim.shared()).worker(false).open("/log").unwrap();
    let again = append(&log, 1);
    assert!(again.duplicate);
    assert_eq!(log.token(&again), log.token(&first));
    log.check_token(&log.token(&again)).unwrap();
    let later = append(&log, 2);
    assert_ne!(later.epoch, first.epoch);
    log.check_token(&log.token(&append(&log, 2))).unwrap();
    // Also when its segment is gone: another node may still have it.
    for sequence in 3..60 {
        append(&log, sequence);
    }
    log.retain(&Retention { keep_bytes: Some(1), ..Retention::default() }).unwrap();
    assert!(log.start() > first.last);
    assert_eq!(append(&log, 1).epoch, first.epoch);
}

#[test]
fn a_reopen_after_a_crash_begins_a_new_epoch_and_keeps_what_was_durable() {
    let (_dir, path) = temp();
    let log = small().worker(false).open(&path).unwrap();
    for i in 0..500u32 {
        log.append(&Record::event(&i.to_le_bytes().repeat(100))).unwrap();
    }
    // The process dies: nothing is closed.
    std::mem::forget(log);
    // The lock went with it.
    std::fs::remove_file(path.join("LOCK")).unwrap();
    let log = small().open(&path).unwrap();
    assert!(!log.report().clean);
    assert_eq!(log.end(), Offset(500));
    assert_eq!(log.stats().epoch.number, 2);
    log.append(&Record::event(b"more")).unwrap();
    log.close().unwrap();
    let log = small().open(&path).unwrap();
    assert_eq!(values(&log).len(), 501);
    assert_eq!(log.stats().epoch.number, 2);
}

#[test]
fn a_reader_beside_the_writer_follows_it() {
    let (_dir, path) = temp();
    let log = small().open(&path).unwrap();
    log.append(&Record::event(b"0")).unwrap();
    let reader = Log::options().read_only(true).open(&path).unwrap();
    let mut tail = reader.tail(Offset(0)).unwrap();
    for i in 0..2000u32 {
        if i > 0 {
            log.append(&Record::event(i.to_string().repeat(30).as_bytes())).unwrap();
        }
        if i % 50 == 0 {
            while tail.offset().0 < u64::from(i) {
                tail.next().unwrap();
            }
        }
    }
    while tail.offset().0 < 2000 {
        tail.next().unwrap();
    }
    assert!(log.segments().len() > 2);
    assert_eq!(reader.append(&Record::event(b"x")).unwrap_err().kind(), Kind::ReadOnly);
    drop(log);
}

#[test]
fn a_sync_behind_unsynced_bulk_leaves_only_the_end_to_be_walked() {
    for worker in [false, true] {
        let (_dir, path) = temp();
        let options = small().worker(worker).durability(Durability::Buffered);
        let log = options.open(&path).unwrap();
        for _ in 0..400 {
            log.append(&Record::event(&[7; 2000])).unwrap();
        }
        log.sync().unwrap();
        let segments = log.segments();
        let unsealed = segments.iter().filter(|segment| !segment.sealed).count();
        assert!(segments.len() > 8, "{}", segments.len());
        assert_eq!(unsealed, 1, "with a worker: {worker}");
        assert_eq!(values(&log).len(), 400);
    }
}

#[test]
fn nothing_is_sealed_after_a_seal_that_failed() {
    // The worker went on with the next segment after a failed seal, linked it to the one before
    // the failed one, and the log could not be opened any more.
    use crate::fs::sim::{Fault, OpKind, Sim};
    let sim = Sim::new(1);
    let options = || small().fs(sim.shared()).worker(false);
    let log = options().durability(Durability::Written).open("/log").unwrap();
    for i in 0..300 {
        log.append(&Record::event(&[i as u8; 1000])).unwrap();
    }
    let worker = &log.shared.worker;
    // The seal's last sync reaches the disk, and fails all the same.
    sim.fail(Fault::on(OpKind::Sync).nth(1).landed());
    assert_eq!(worker.seal_all(&log.shared).unwrap_err().kind(), Kind::Poisoned);
    let syncs = sim.calls(OpKind::Sync);
    assert_eq!(worker.seal_all(&log.shared).unwrap_err().kind(), Kind::Poisoned);
    assert_eq!(sim.calls(OpKind::Sync), syncs);
    drop(log);
    let log = options().open("/log").unwrap();
    assert_eq!(values(&log).len(), 300);
}

#[test]
fn a_segment_dropped_between_its_lookup_and_its_opening_is_gone() {
    // A reader that had looked the segment up met a missing file.
    let (_dir, path) = temp();
    let log = small().durability(Durability::Written).open(&path).unwrap();
    for i in 0..300 {
        log.append(&Record::event(&[i as u8; 1000])).unwrap();
    }
    log.close().unwrap();
    let log = small().map(false).open(&path).unwrap();
    let first = Arc::clone(&log.shared.catalog.list()[0]);
    let mut cursor = log.read(Offset(0)).unwrap();
    log.retain(&Retention { keep_bytes: Some(0), ..Retention::default() }).unwrap();
    assert!(log.start() > Offset(0));
    // What `seek` does with a list from before.
    assert_eq!(cursor.enter(first, 4096).unwrap_err().kind(), Kind::Gone);
}

#[test]
fn a_large_batch_held_by_a_full_disk_is_not_appended_again_by_its_retry() {
    // A frame too large for staging had its offset when the disk was full, but its producer's
    // sequence was not noted: the retry that the error asks for appended it a second time.
    use crate::fs::sim::Sim;
    let sim = Sim::new(1);
    let log = small().fs(sim.shared()).worker(false).open("/log").unwrap();
    log.append(&Record::event(b"first")).unwrap();
    let mut batch = Batch::new();
    batch.push(&Record::event(&[7; 100_000])).unwrap();
    let producer = Some(Producer { id: Id([1; 16]), sequence: 1 });
    let how = Append { producer, ..Append::default() };
    // Room for the new segment's header, not for the frame.
    sim.set_capacity(Some(sim.used() + (16 << 10)));
    let held = log.append_with(&batch, &how).unwrap_err();
    assert_eq!(held.kind(), Kind::Unknown, "{held}");
    sim.set_capacity(None);
    let again = log.append_with(&batch, &how).unwrap();
    assert!(again.duplicate, "{again:?}");
    assert_eq!(again.first, Offset(1));
    assert_eq!(values(&log).len(), 2);
}

#[test]
fn zeros_of_a_quiet_moment_leave_every_record_and_a_failed_sync_of_them_poisons() {
    use crate::fs::sim::{Crash, Fault, OpKind, Sim};
    let sim = Sim::new(1);
    let options = |sim: &Sim| small().fs(sim.shared()).worker(false).preallocate(Preallocate::Auto);
    let append = |log: &Log, value: &[u8]| log.append(&Record::event(value)).map(drop);
    let log = options(&sim).open("/log").unwrap();
    append(&log, b"first").unwrap();
    log.close().unwrap();

    // It goes on in the middle of a page.
    let log = options(&sim).open("/log").unwrap();
    // Behind large groups no append takes zeros along.
    log.shared.group_bytes.store(1 << 20, Relaxed);
    append(&log, b"second").unwrap();
    while log.shared.fill_active(1000) {}
    let path = log.segments().last().unwrap().path.clone();
    let len = || sim.shared().open(&path, crate::fs::Open::Read).unwrap().len().unwrap();
    assert_eq!(len(), 8192, "a small log stays small");
    while log.shared.fill_active(MIN_SEGMENT_BYTES) {}
    assert_eq!(len(), MIN_SEGMENT_BYTES, "filled to its end");
    append(&log, b"third").unwrap();
    let left = sim.crash(&Crash::DropAll);
    let again = options(&left).open("/log").unwrap();
    assert_eq!(values(&again), [b"first".to_vec(), b"second".to_vec(), b"third".to_vec()]);

    // It rolls all the same, and what was being filled is not filled any more.
    for _ in 0..20 {
        append(&log, &[7; 10_000]).unwrap();
    }
    sim.fail(Fault::on(OpKind::Sync));
    assert!(!log.shared.fill_active(MIN_SEGMENT_BYTES));
    assert_eq!(append(&log, b"more").unwrap_err().kind(), Kind::Poisoned);
}

#[test]
fn what_a_round_wrote_into_a_segment_without_a_name_is_not_called_written() {
    // The round's leader has written and not synced yet: killed here, the next open sweeps the file.
    let sim = crate::fs::sim::Sim::new(1);
    let log = small().fs(sim.shared()).worker(false).open("/log").unwrap();
    let shared = &log.shared;
    let buffered = Append { durability: Some(Durability::Buffered), ..Append::default() };
    let mut last = None;
    while shared.unnamed_from.load(Acquire) == u64::MAX {
        let mut batch = Batch::new();
        batch.push(&Record::put(b"k", &[7; 3000])).unwrap();
        last = Some(log.append_with(&batch, &buffered).unwrap());
        shared.writer().flush(shared, true).unwrap();
    }
    let last = last.unwrap();
    assert!(sim.exists("/log/segments/next.tmp"));
    let end = shared.ends.written().0;
    shared.wait_written(end, last.first).unwrap();
    assert!(!sim.exists("/log/segments/next.tmp"));
    sim.kill();
    drop(log);
    let log = small().fs(sim.process().shared()).worker(false).open("/log").unwrap();
    assert_eq!(log.durable_end(), last.first.plus(1));
}

#[test]
fn a_damaged_header_on_the_way_leads_no_read_to_another_record() {
    // A read of one record goes by the lengths in the headers before it, and checks where it comes.
    let sim = crate::fs::sim::Sim::new(1);
    let log = small().fs(sim.shared()).worker(false).open("/log").unwrap();
    let values: Vec<Vec<u8>> = (0..40).map(|i| vec![i; 100 + 37 * usize::from(i % 5)]).collect();
    for value in &values {
        log.append(&Record::put(b"k", value)).unwrap();
    }
    for _ in 0..100 {
        log.append(&Record::put(b"k", &[0; 1000])).unwrap();
    }
    log.close().unwrap();
    let mut open = None;
    let (mut right, mut refused) = (0, 0);
    for bit in 0..8 * 300 {
        drop(open.take());
        // The sealed segment's first frames; opening it reads none of them.
        sim.flip("/log/segments/00000000000000000000.seg", 8 * 4200 + bit);
        let log = open.insert(Log::options().fs(sim.shared()).read_only(true).open("/log"));
        let log = log.as_ref().unwrap();
        for (offset, value) in values.iter().enumerate() {
            match log.get(Offset(offset as u64)) {
                Ok(entry) => {
                    let entry = entry.unwrap();
                    assert_eq!(entry.record().value, value, "bit {bit}, offset {offset}");
                    right += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
                    refused += 1;
                }
            }
        }
        sim.flip("/log/segments/00000000000000000000.seg", 8 * 4200 + bit);
    }
    assert!(right > 0 && refused > 0, "{right} right, {refused} refused");
}

#[test]
fn sets_are_found_from_any_place_and_not_only_from_a_frames_start() {
    // CONTROL names the place before the frame is there. A power cut took the frame, and the segment
    // of the next epoch put another about that place: the leader could not be opened any more.
    let sim = crate::fs::sim::Sim::new(1);
    let log = small().fs(sim.shared()).worker(false).open("/log").unwrap();
    for i in 0..600 {
        log.append(&Record::put(b"k", &vec![7; 100 + i % 9])).unwrap();
    }
    let set = crate::frame::SyncSet::default();
    let home = log.home();
    let start = home.appended().0;
    let behind = home.append_control(crate::frame::FrameKind::SyncSet, &set.encode()).unwrap();
    for i in 0..600 {
        log.append(&Record::put(b"k", &vec![7; 100 + i % 9])).unwrap();
    }
    assert!(log.segments().len() > 1);
    for from in (0..home.durable().0.0).step_by(8) {
        let found = home.sets_behind(LogByte(from)).unwrap();
        let expected = if from <= start.0 { vec![(behind, set.clone())] } else { Vec::new() };
        assert_eq!(found, expected, "from {from}");
    }
}

/// A follower of the directory waited for the worker's next look, 10 ms, for each record.
#[test]
fn a_durable_append_after_a_pause_writes_state_at_once_and_a_stream_of_them_seldom() {
    let sim = crate::fs::sim::Sim::new(1);
    let log = Log::options().fs(sim.shared()).create(true).worker(false).open("/log").unwrap();
    let said = || files::State::read(&*sim.shared(), &files::Layout::new("/log".as_ref())).unwrap();
    log.append(&Record::event(b"first")).unwrap();
    for n in 2..5 {
        sim.advance(std::time::Duration::from_millis(1));
        log.append(&Record::event(b"after a pause")).unwrap();
        assert_eq!(said().durable_offset, Offset(n));
    }
    log.append(&Record::event(b"at once")).unwrap();
    assert_eq!(said().durable_offset, Offset(4));
    sim.advance(std::time::Duration::from_millis(6));
    log.append(&Record::event(b"later")).unwrap();
    assert_eq!(said().durable_offset, Offset(6));
}

/// Found with real nodes: a leader that was promoted on a full disk led before its epoch stood on it, and told those
/// who followed the one before that it ended there earlier than they did: they halted.
#[cfg(all(feature = "sim", feature = "wire"))]
#[test]
fn who_is_to_lead_an_epoch_has_begun_it_or_does_not_lead() {
    use crate::fs::sim::{Crash, Errno, Fault, OpKind, Sim};
    let sim = Sim::new(1);
    let log = small().fs(sim.shared()).worker(false).open("/log").unwrap();
    log.append(&Record::put(b"k", b"v")).unwrap();
    let won = Epoch { number: 7, nonce: 7 };
    let promise = files::Promise { epoch: won, owner: log.node() };
    log.home().promises().raise(promise).unwrap();
    let (mut led, mut full) = (0, 0);
    for kind in [OpKind::Write, OpKind::Create, OpKind::Sync] {
        for nth in 0..24 {
            let sim = sim.crash(&Crash::DropAll);
            sim.fail(Fault::on(kind).error(Errno::NoSpace).nth(nth).sticky());
            match small().fs(sim.shared()).worker(false).lead(won).open("/log") {
                Ok(log) => {
                    led += 1;
                    assert_eq!(log.durable_position().epoch, won, "{kind:?} {nth}");
                }
                Err(_) => full += 1,
            }
            sim.heal();
            let log = small().fs(sim.shared()).worker(false).lead(won).open("/log").unwrap();
            assert_eq!((log.durable_position().epoch, values(&log).len()), (won, 1));
        }
    }
    assert!(led > 0 && full > 0, "{led} led, {full} disks were full");
}
