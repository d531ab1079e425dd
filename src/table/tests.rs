use super::*;
use crate::log::{Append, MIN_SEGMENT_BYTES, Retention};
use crate::record::{Batch, Record};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn temp() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    (dir, path)
}

fn log(path: &PathBuf) -> Log {
    Log::options().create(true).segment_bytes(MIN_SEGMENT_BYTES).open(path).unwrap()
}

fn keys(table: &Table, scan: &Scan) -> Vec<String> {
    table
        .view()
        .collect(scan)
        .unwrap()
        .into_iter()
        .map(|(key, _)| String::from_utf8(key).unwrap())
        .collect()
}

#[test]
fn puts_set_deletes_remove_and_events_leave_rows_alone() {
    let (_dir, path) = temp();
    let log = log(&path);
    let table = Table::from_log(&log).unwrap();
    assert_eq!((table.applied(), table.view().len().unwrap()), (None, 0));
    log.append(&Record::put(b"a", b"1").at(10)).unwrap();
    log.append(&Record::put(b"b", b"2")).unwrap();
    log.append(&Record::keyed_event(b"a", b"event")).unwrap();
    log.append(&Record::event(b"keyless")).unwrap();
    log.append(&Record::delete(b"b")).unwrap();
    log.append(&Record::put(b"", b"the empty key is a key")).unwrap();
    let applied = table.catch_up(&log).unwrap();
    assert_eq!((applied.from, applied.to, applied.records), (Offset(0), Offset(6), 6));
    let row = table.get(b"a").unwrap().unwrap();
    assert_eq!((&*row.value, row.offset, row.timestamp), (&b"1"[..], Offset(0), 10));
    assert_eq!(table.get(b"b").unwrap(), None);
    assert_eq!(table.get(b"").unwrap().unwrap().offset, Offset(5));
    assert_eq!(table.view().len().unwrap(), 2);
    assert_eq!(table.applied(), Some(log.durable_position()));
    assert_eq!(table.catch_up(&log).unwrap().records, 0);
}

#[test]
fn a_scan_holds_to_prefix_start_end_and_limit() {
    let (_dir, path) = temp();
    let log = log(&path);
    let mut batch = Batch::new();
    for key in [&b"a"[..], b"b", b"b/1", b"b/2", b"b0", b"c", b"\xff", b"\xff\xff"] {
        batch.push(&Record::put(key, key)).unwrap();
    }
    log.append_with(&batch, &Append::default()).unwrap();
    let table = Table::from_log(&log).unwrap();
    assert_eq!(table.view().collect(&Scan::all()).unwrap().len(), 8);
    assert_eq!(keys(&table, &Scan::all().prefix(b"b/")), ["b/1", "b/2"]);
    assert_eq!(keys(&table, &Scan::all().prefix(b"b").start(b"b/2")), ["b/2", "b0"]);
    assert_eq!(keys(&table, &Scan::all().start(b"b").end(b"b/2")), ["b", "b/1"]);
    assert_eq!(keys(&table, &Scan::all().prefix(b"b").limit(2)), ["b", "b/1"]);
    assert_eq!(keys(&table, &Scan::all().prefix(b"b").end(b"a")), [""; 0]);
    assert_eq!(keys(&table, &Scan::all().start(b"c").end(b"b")), [""; 0]);
    assert_eq!(keys(&table, &Scan::all().prefix(b"b").start(b"c")), [""; 0]);
    assert_eq!(table.view().collect(&Scan::all().prefix(b"\xff")).unwrap().len(), 2);
    assert_eq!(table.view().collect(&Scan::all().prefix(b"\xff\xff\xff")).unwrap().len(), 0);
}

#[test]
fn digests_depend_on_the_rows_and_not_on_the_way_to_them() {
    let (_dir, path) = temp();
    let log = log(&path);
    for i in 0..200u32 {
        log.append(&Record::put(&(i % 50).to_le_bytes(), &i.to_le_bytes())).unwrap();
    }
    let at_once = Table::from_log(&log).unwrap();
    let digest = at_once.digest().unwrap();
    assert_eq!(digest.to_string().len(), 64);
    assert_ne!(digest, Table::new().digest().unwrap());

    let again = log_of_rows(&at_once);
    assert_eq!(again, digest, "the sum of the rows in another order");

    log.append(&Record::put(b"x", b"")).unwrap();
    at_once.catch_up(&log).unwrap();
    assert_ne!(at_once.digest().unwrap(), digest);
    log.append(&Record::delete(b"x")).unwrap();
    at_once.catch_up(&log).unwrap();
    assert_eq!(at_once.digest().unwrap(), digest);
}

fn log_of_rows(table: &Table) -> Digest {
    let mut digest = Digest::default();
    for (key, row) in table.view().collect(&Scan::all()).unwrap().into_iter().rev() {
        digest.add(&row.as_ref(&key));
    }
    digest
}

#[test]
fn a_table_agrees_with_a_plain_map_at_every_step() {
    for seed in 0..8u64 {
        let (_dir, path) = temp();
        let log = log(&path);
        let table = Table::new();
        let mut model = BTreeMap::new();
        let mut random = seed;
        let mut next = || {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) as usize
        };
        for _ in 0..60 {
            let mut batch = Batch::new();
            for _ in 0..1 + next() % 20 {
                let key = vec![b'k'; next() % 9];
                let value = vec![b'v'; next() % 3000];
                match next() % 4 {
                    0 => {
                        batch.push(&Record::delete(&key)).unwrap();
                        model.remove(&key);
                    }
                    1 => batch.push(&Record::keyed_event(&key, &value)).unwrap(),
                    _ => {
                        batch.push(&Record::put(&key, &value)).unwrap();
                        model.insert(key, value);
                    }
                }
            }
            log.append_with(&batch, &Append::default()).unwrap();
            if next() % 3 == 0 {
                table.catch_up(&log).unwrap();
                let rows: BTreeMap<_, _> = table
                    .view()
                    .collect(&Scan::all())
                    .unwrap()
                    .into_iter()
                    .map(|(key, row)| (key, row.value))
                    .collect();
                assert_eq!(rows, model, "seed {seed}");
            }
        }
        table.catch_up(&log).unwrap();
        assert_eq!(
            table.digest().unwrap(),
            Table::from_log(&log).unwrap().digest().unwrap(),
            "seed {seed}"
        );
    }
}

#[test]
fn readers_see_whole_batches_while_apply_goes_on() {
    let (_dir, path) = temp();
    let log = log(&path);
    let table = Table::new();
    std::thread::scope(|scope| {
        let (log, table) = (&log, &table);
        let reader = scope.spawn(move || {
            let mut seen = 0;
            while seen < 300 {
                let view = table.view();
                let rows = view.collect(&Scan::all()).unwrap();
                assert!(rows.iter().all(|(_, row)| row.value == rows[0].1.value));
                assert!(matches!(rows.len(), 0 | 3));
                seen = view.applied().map_or(0, |position| position.offset.0 / 3);
                if let Some((_, row)) = rows.first() {
                    assert_eq!(*row.value, (seen - 1).to_le_bytes());
                }
            }
        });
        for i in 0..300u64 {
            let mut batch = Batch::new();
            for key in [b"a", b"b", b"c"] {
                batch.push(&Record::put(key, &i.to_le_bytes())).unwrap();
            }
            log.append_with(&batch, &Append::default()).unwrap();
            table.catch_up(log).unwrap();
        }
        reader.join().unwrap();
    });
}

#[test]
fn a_log_without_its_front_cannot_build_a_table() {
    let (_dir, path) = temp();
    let log = log(&path);
    let table = Table::new();
    for i in 0..200u32 {
        log.append(&Record::put(&i.to_le_bytes(), &[7; 2000])).unwrap();
    }
    table.catch_up(&log).unwrap();
    log.close().unwrap();
    let log = self::log(&path);
    let policy = Retention { keep_from: Some(Offset(150)), ..Retention::default() };
    assert!(!log.retain(&policy).unwrap().files.is_empty());
    let error = Table::from_log(&log).unwrap_err();
    assert_eq!(error.kind(), Kind::Gone);
    assert!(error.to_string().contains("snapshot"), "{error}");
    // One that has what was dropped goes on.
    log.append(&Record::put(b"more", b"")).unwrap();
    table.catch_up(&log).unwrap();
    assert_eq!(table.view().len().unwrap(), 201);
}

#[test]
fn offsets_lost_to_damage_are_skipped_and_told() {
    use crate::frame::{FrameKind, HEADER_BYTES, Header, Lost, NO_CLAIM, encode};
    use crate::segment::SegmentHeader;
    let (_dir, path) = temp();
    let log = self::log(&path);
    for i in 0..10u8 {
        log.append(&Record::put(&[b'k', i], &[i; 100])).unwrap();
    }
    let table = Table::from_log(&log).unwrap();
    let whole = table.digest().unwrap();
    log.close().unwrap();
    // What a repair does to frames 3 and 4, which set k3 and k4.
    let file = path.join("segments").join("00000000000000000000.seg");
    let mut bytes = std::fs::read(&file).unwrap();
    let seed = SegmentHeader::decode(&bytes).unwrap().seed();
    let mut at = 4096;
    while let Ok(head) = Header::decode(&bytes[at..], at as u64, bytes.len() as u64, seed) {
        let stride = head.stride();
        if head.count == 1 && matches!(head.rel_offset, 3 | 4) {
            let mut body = Lost { count: 1, fingerprint: 9 }.encode().to_vec();
            body.resize(stride - HEADER_BYTES, 0);
            let place = (seed, at as u64);
            let lost = encode(FrameKind::Lost, head.rel_offset, NO_CLAIM, 0, &body, place);
            bytes[at..at + stride].copy_from_slice(&lost);
        }
        at += stride;
    }
    std::fs::write(&file, bytes).unwrap();
    let log = self::log(&path);
    let table = Table::new();
    let applied = table.catch_up(&log).unwrap();
    let lost = [Offset(3)..Offset(4), Offset(4)..Offset(5)];
    assert_eq!((applied.records, applied.to, &applied.lost[..]), (8, Offset(10), &lost[..]));
    assert_eq!(table.lost(), lost);
    assert_eq!(table.view().len().unwrap(), 8);
    assert_ne!(table.digest().unwrap(), whole);
    log.append(&Record::put(b"k3", b"again")).unwrap();
    assert_eq!(table.catch_up(&log).unwrap().lost, []);
    assert_eq!(table.lost(), lost);
}
