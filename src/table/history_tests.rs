use super::*;
use crate::fs::sim::{Errno, Fault, OpKind, Sim};
use crate::log::{MIN_SEGMENT_BYTES, Options, OwnedEntry, Retention, Verification};
use crate::record::{Batch, Record};
use crate::segment::SegmentHeader;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// A log on a disk of its own, written by one process and read by others.
struct Place {
    sim: Sim,
}

const ROOT: &str = "log";
/// As many records of 9,000 bytes fit the smallest segment.
const PER_SEGMENT: usize = 6;

impl Place {
    fn new(seed: u64) -> Self {
        Place { sim: Sim::new(seed) }
    }

    fn options(&self) -> Options {
        let small = Log::options().create(true).segment_bytes(MIN_SEGMENT_BYTES).worker(false);
        small.fs(self.sim.shared())
    }

    fn write(&self, records: impl FnOnce(&Log)) {
        let log = self.options().open(ROOT).unwrap();
        records(&log);
        log.close().unwrap();
        // Made by whoever keeps a table; readers make none.
        let table = Path::new(ROOT).join("table");
        self.sim.shared().create_dir(&table).unwrap();
    }

    fn read(&self) -> Log {
        Log::options().read_only(true).fs(self.sim.shared()).open(ROOT).unwrap()
    }

    fn filters(&self) -> Vec<PathBuf> {
        let directory = Path::new(ROOT).join("table");
        let names = self.sim.shared().list(&directory).unwrap_or_default();
        names.into_iter().map(|name| directory.join(name)).collect()
    }

    /// Segments of one key each: in segment i, and in no other, `k<i>`. Returns how many are
    /// sealed.
    fn key_per_segment(&self, segments: usize) -> usize {
        self.write(|log| {
            for i in 0..=PER_SEGMENT * segments {
                let key = format!("k{}", i / PER_SEGMENT);
                log.append(&Record::put(key.as_bytes(), &[7; 9000])).unwrap();
            }
        });
        for (i, segment) in self.read().segments().iter().enumerate() {
            assert_eq!(segment.base_offset, Offset((i * PER_SEGMENT) as u64));
        }
        self.read().segments().iter().filter(|segment| segment.sealed).count()
    }
}

fn all(log: &Log, key: &[u8], query: &HistoryQuery) -> (Vec<OwnedEntry>, Walked) {
    let mut history = history(log, key, query).unwrap();
    let mut entries = Vec::new();
    while let Some(entry) = history.next().unwrap() {
        entries.push(entry);
    }
    assert_eq!(history.next().unwrap(), None);
    (entries, history.walked())
}

fn scan(log: &Log, key: &[u8], query: &HistoryQuery) -> Vec<OwnedEntry> {
    let mut entries = Vec::new();
    let mut cursor = log.read(log.start()).unwrap();
    while let Some(entry) = cursor.next().unwrap() {
        if entry.record.key == Some(key) && query.range.contains(&entry.offset) {
            entries.push(entry.to_owned());
        }
    }
    if query.newest_first {
        entries.reverse();
    }
    entries.truncate(query.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap()));
    entries
}

fn whole() -> HistoryQuery {
    HistoryQuery::default()
}

#[test]
fn a_history_is_what_a_filter_of_a_full_scan_shows() {
    for seed in 0..4u64 {
        let place = Place::new(seed);
        let mut random = seed;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % below
        };
        let mut records = 0;
        // Each round ends a writer's life, and so a segment.
        for round in 0..4u64 {
            place.write(|log| {
                for _ in 0..40 {
                    let mut batch = Batch::new();
                    for _ in 0..=next(12) {
                        // Common keys, and some that one round alone has.
                        let key = match next(4) {
                            0 => format!("round {round}/{}", next(3)),
                            _ => "k".repeat(usize::try_from(next(6)).unwrap()),
                        };
                        let value = vec![b'v'; usize::try_from(next(1200)).unwrap()];
                        let (key, value) = (key.as_bytes(), &*value);
                        let record = match next(8) {
                            0 => Record::delete(key),
                            1 => Record::keyed_event(key, value),
                            2 => Record::event(value),
                            _ => Record::put(key, value),
                        };
                        batch.push(&record).unwrap();
                        records += 1;
                    }
                    log.append_with(&batch, &crate::log::Append::default()).unwrap();
                }
            });
            let keys = ["", "k", "kkkkk", "round 0/0", "round 2/1", "never"];
            for key in keys {
                let log = place.read();
                for newest_first in [false, true] {
                    for limit in [None, Some(0), Some(1), Some(next(40))] {
                        let a = next(records);
                        let b = a + next(records - a + 10);
                        for range in [whole().range, Offset(a)..Offset(b)] {
                            let query = HistoryQuery { range, newest_first, limit, ..whole() };
                            let (found, _) = all(&log, key.as_bytes(), &query);
                            let expected = scan(&log, key.as_bytes(), &query);
                            assert!(found == expected, "seed {seed}, {key:?}, {query:?}");
                        }
                    }
                }
            }
        }
        assert!(place.read().segments().len() > 4 && !place.filters().is_empty(), "seed {seed}");
    }
}

#[test]
fn the_second_history_passes_over_segments_that_lack_the_key() {
    let place = Place::new(1);
    let sealed = place.key_per_segment(5) as u64;
    let log = place.read();
    let unsealed = log.segments().len() as u64 - sealed;
    assert!(sealed >= 5, "{sealed}");
    let (first, walked) = all(&log, b"k2", &whole());
    assert_eq!((walked.segments_read, walked.segments_skipped), (sealed + unsealed, 0));
    assert_eq!((walked.filters_kept, walked.records_read), (sealed, log.end().0));
    assert_eq!(place.filters().len() as u64, sealed);
    // Other handles, and the writer itself, profit as well.
    for log in [place.read(), place.options().open(ROOT).unwrap()] {
        let (second, walked) = all(&log, b"k2", &whole());
        assert_eq!(second, first);
        assert_eq!((walked.segments_read, walked.filters_kept), (1 + unsealed, 0));
        assert_eq!(walked.segments_skipped, sealed - 1);
        let last = HistoryQuery { newest_first: true, limit: Some(1), ..whole() };
        let (last, walked) = all(&log, b"k0", &last);
        assert_eq!(last.len(), 1);
        assert_eq!(walked.segments_skipped, sealed - 1);
        let (none, walked) = all(&log, b"never", &whole());
        assert_eq!((none.len(), walked.segments_skipped), (0, sealed));
    }
}

#[test]
fn a_range_keeps_filters_of_the_segments_that_it_covers_alone() {
    let place = Place::new(1);
    place.key_per_segment(4);
    let log = place.read();
    let segments = log.segments();
    let range = segments[1].base_offset.plus(1)..segments[2].end_offset.unwrap();
    let (found, walked) = all(&log, b"k2", &HistoryQuery { range: range.clone(), ..whole() });
    assert!(!found.is_empty() && found.iter().all(|entry| range.contains(&entry.offset)));
    assert_eq!((walked.segments_read, walked.filters_kept), (2, 1));
    let name = format!("{:020}.keys", segments[2].base.0);
    assert_eq!(place.filters(), [Path::new(ROOT).join("table").join(name)]);
    // One that stops early has not seen all of its last segment.
    let (_, walked) = all(&log, b"k0", &HistoryQuery { limit: Some(2), ..whole() });
    assert_eq!(walked.filters_kept, 0);
}

#[test]
fn no_filter_however_damaged_stale_or_foreign_hides_a_record() {
    let place = Place::new(1);
    place.key_per_segment(2);
    let other = Place::new(2);
    other.key_per_segment(2);
    let log = place.read();
    let (expected, _) = all(&log, b"k0", &whole());
    all(&other.read(), b"never", &whole());
    let files = place.filters();
    let (file, good) = (&files[0], place.sim.read(&files[0]));
    assert_eq!(other.filters()[0], *file);
    assert_eq!(all(&log, b"k0", &whole()).1.filters_kept, 0, "a good one stays");
    assert_ne!(other.sim.read(file), good);
    let mut bad = vec![
        Vec::new(),
        vec![0; good.len()],
        vec![0xff; 4096],
        good[..good.len() - 1].to_vec(),
        [&good[..], b"more"].concat(),
        other.sim.read(file),
        place.sim.read(&files[1]),
        // Another seal: as if a repair had replaced the segment since.
        keys::encode(
            log.id(),
            &keys::Sealed { base: log.segments()[0].base, hash: [1; 32], records: 9 },
            &[],
        ),
    ];
    bad.extend((0..good.len() * 8).map(|bit| {
        let mut flipped = good.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    }));
    for (i, bytes) in bad.iter().enumerate() {
        place.sim.write(file, bytes);
        let (found, walked) = all(&log, b"k0", &whole());
        assert!(found == expected, "case {i}");
        assert_eq!(walked.filters_kept, 1, "case {i}");
        assert!(place.sim.read(file) == good, "case {i}: made anew");
    }
    assert_eq!(place.filters(), files, "nothing unfinished stays");
}

#[test]
fn a_medium_that_takes_no_files_changes_no_answer() {
    let place = Place::new(1);
    let segments = place.key_per_segment(3);
    let (expected, _) = {
        let copy = Place { sim: place.sim.deep_copy() };
        all(&copy.read(), b"k1", &whole())
    };
    let read_only = [OpKind::Create, OpKind::Rename, OpKind::Unlink];
    for (kinds, error) in [
        (&read_only[..], Errno::ReadOnly),
        (&[OpKind::Create], Errno::NoSpace),
        (&[OpKind::Write], Errno::NoSpace),
        (&[OpKind::Rename], Errno::Io),
        (&[OpKind::Rename, OpKind::Unlink], Errno::Io),
        (&[OpKind::List], Errno::Io),
    ] {
        let place = Place { sim: place.sim.deep_copy() };
        let log = place.read();
        for &kind in kinds {
            place.sim.fail(Fault::on(kind).at("table").error(error).sticky());
        }
        for _ in 0..2 {
            let (found, walked) = all(&log, b"k1", &whole());
            assert_eq!(found, expected, "{kinds:?}");
            if kinds != [OpKind::List] {
                assert_eq!((walked.filters_kept, walked.segments_skipped), (0, 0), "{kinds:?}");
            }
        }
        place.sim.heal();
        if !kinds.contains(&OpKind::Unlink) && !kinds.contains(&OpKind::List) {
            assert_eq!(place.filters(), [""; 0].map(PathBuf::from), "{kinds:?}: nothing half done");
        }
        all(&log, b"k1", &whole());
        assert_eq!(place.filters().len(), segments, "{kinds:?}: only filters, once it can");
    }
    // Filters that cannot be read are none, too.
    let log = place.read();
    all(&log, b"k1", &whole());
    for kind in [OpKind::Open, OpKind::Read] {
        place.sim.fail(Fault::on(kind).at(".keys").sticky());
        let (found, walked) = all(&log, b"k1", &whole());
        assert_eq!((found, walked.segments_skipped), (expected.clone(), 0), "{kind:?}");
        place.sim.heal();
    }
}

#[test]
fn a_history_of_a_log_without_its_front_starts_where_the_log_does() {
    let place = Place::new(1);
    place.key_per_segment(4);
    all(&place.read(), b"k1", &whole());
    let before = place.filters();
    place.write(|log| {
        let keep_from = Some(log.segments()[2].base_offset);
        let policy = Retention { keep_from, ..Retention::default() };
        assert_eq!(log.retain(&policy).unwrap().files.len(), 2);
        let mut history = history(log, b"k1", &whole()).unwrap();
        assert_eq!(history.range(), log.start()..log.end());
        assert_eq!(history.next().unwrap(), None);
        assert_eq!(place.filters(), before[2..], "those of dropped segments went");
        let (found, _) = all(log, b"k2", &whole());
        assert_eq!(found, scan(log, b"k2", &whole()));
        let front = HistoryQuery { range: Offset(0)..Offset(1), ..whole() };
        assert_eq!(all(log, b"k0", &front).0, []);
    });
}

/// Changes the frames of one record each that `change` picks, in a segment file.
fn change_frames(bytes: &mut [u8], change: impl Fn(&mut [u8], u32, u64, crate::frame::Seed)) {
    use crate::frame::Header;
    let seed = SegmentHeader::decode(bytes).unwrap().seed();
    let mut at = 4096;
    while let Ok(head) = Header::decode(&bytes[at..], at as u64, bytes.len() as u64, seed) {
        let stride = head.stride();
        if head.count == 1 {
            change(&mut bytes[at..at + stride], head.rel_offset, at as u64, seed);
        }
        at += stride;
    }
}

#[test]
fn damage_in_a_segment_is_told_with_file_and_byte_and_never_passed_by() {
    let place = Place::new(1);
    place.key_per_segment(3);
    let segment = place.read().segments()[1].clone();
    let mut bytes = place.sim.read(&segment.path);
    let at = std::cell::Cell::new(0);
    change_frames(&mut bytes, |frame, rel, byte, _| {
        if rel == 2 {
            at.set(byte);
            frame[100] ^= 1;
        }
    });
    place.sim.write(&segment.path, &bytes);
    let log = place.read();
    for newest_first in [false, true] {
        let query = HistoryQuery { newest_first, ..whole() };
        let key: &[u8] = if newest_first { b"k2" } else { b"k0" };
        let mut history = history(&log, key, &query).unwrap();
        let mut found = 0;
        let error = loop {
            match history.next() {
                Ok(entry) => found += u64::from(entry.is_some()),
                Err(error) => break error,
            }
        };
        assert!(found > 0, "what comes before the damage is shown");
        for error in [error, history.next().unwrap_err()] {
            assert_eq!(error.kind(), Kind::Corrupt);
            assert_eq!(error.file(), Some(&*segment.path));
            assert_eq!(error.byte(), Some(at.get()));
            assert_eq!(error.offset(), Some(segment.base_offset.0 + 2));
        }
    }
    let name = format!("{:020}.keys", segment.base.0);
    assert!(place.filters().iter().all(|path| !path.ends_with(&name)));
}

#[test]
fn lost_records_are_told_by_every_history_that_could_have_shown_them() {
    use crate::frame::{FrameKind, HEADER_BYTES, Lost, NO_CLAIM, encode};
    let place = Place::new(1);
    place.key_per_segment(3);
    let segment = place.read().segments()[1].clone();
    let mut bytes = place.sim.read(&segment.path);
    change_frames(&mut bytes, |frame, rel, byte, seed| {
        if matches!(rel, 0 | 3) {
            let mut body = Lost { count: 1, fingerprint: 9 }.encode().to_vec();
            body.resize(frame.len() - HEADER_BYTES, 0);
            let lost = encode(FrameKind::Lost, rel, NO_CLAIM, 0, &body, (seed, byte));
            frame.copy_from_slice(&lost);
        }
    });
    place.sim.write(&segment.path, &bytes);
    let log = place.read();
    let base = segment.base_offset;
    let lost = [base..base.plus(1), base.plus(3)..base.plus(4)];
    for newest_first in [false, true, false] {
        let query = HistoryQuery { newest_first, ..whole() };
        let mut history = history(&log, b"k1", &query).unwrap();
        let mut found = Vec::new();
        while let Some(entry) = history.next().unwrap() {
            found.push(entry.offset);
        }
        found.sort_unstable();
        let end = segment.end_offset.unwrap();
        let expected: Vec<_> = (base.0..end.0)
            .map(Offset)
            .filter(|offset| !lost.iter().any(|range| range.contains(offset)))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(history.lost(), lost);
        // Of a key that the rest of the segment lacks as well.
        let mut history = self::history(&log, b"k2", &query).unwrap();
        while history.next().unwrap().is_some() {}
        assert_eq!(history.lost(), lost);
    }
}

#[test]
fn no_filter_is_kept_of_what_nobody_checked_or_what_was_replaced_meanwhile() {
    let place = Place::new(1);
    place.key_per_segment(2);
    let unchecked = Log::options()
        .read_only(true)
        .verification(Verification::Never)
        .fs(place.sim.shared())
        .open(ROOT)
        .unwrap();
    assert_eq!(all(&unchecked, b"k0", &whole()).1.filters_kept, 0);
    assert!(place.filters().is_empty());

    let log = place.read();
    let mut history = history(&log, b"k0", &whole()).unwrap();
    history.next().unwrap().unwrap();
    let path = &log.segments()[0].path;
    let bytes = place.sim.read(path);
    let sealed_again = Path::new(ROOT).join("segments").join("other.tmp");
    place.sim.write(&sealed_again, &[&bytes[..bytes.len() - 256], &[0; 256]].concat());
    place.sim.shared().rename(&sealed_again, path).unwrap();
    while history.next().unwrap().is_some() {}
    assert_eq!(history.walked().filters_kept, 1, "of the second segment alone");
    assert!(place.filters().iter().all(|path| !path.ends_with("00000000000000000000.keys")));
}

#[test]
fn a_history_of_an_empty_log_is_empty_and_one_that_is_told_to_stop_stops() {
    let place = Place::new(1);
    place.write(|log| {
        assert_eq!(all(log, b"k", &whole()), (Vec::new(), Walked::default()));
        log.append(&Record::put(b"k", b"v")).unwrap();
        let mut history = history(log, b"k", &whole()).unwrap();
        // As the log stood when it was made.
        log.append(&Record::put(b"k", b"w")).unwrap();
        assert_eq!(history.next_unless(&AtomicBool::new(true)).unwrap(), None);
        assert_eq!(history.next().unwrap().unwrap().record().value, b"v");
        assert_eq!(history.next().unwrap(), None);
    });
    assert!(place.filters().is_empty());
}
