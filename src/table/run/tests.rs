//! Runs against a plain map, and against every way to damage them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::writer::Shape;
use super::*;
use crate::fs::Open;
use crate::fs::sim::Sim;
use crate::record::{Batch, MAX_FRAME_BYTES, MAX_KEY_BYTES, Record};

const LOG: Id = Id(*b"an example's log");
/// Several blocks and sections from few rows.
const SMALL: Shape = Shape { block_bytes: 200, section_rows: 12, section_bytes: 1 << 20 };

/// Value, offset, timestamp.
type Row = (Option<Vec<u8>>, u64, i64);
type Rows = BTreeMap<Vec<u8>, Row>;

fn version(row: &Row) -> Version<'_> {
    Version { value: row.0.as_deref(), offset: Offset(row.1), timestamp: row.2 }
}

fn write(sim: &Sim, path: &Path, rows: &Rows, shape: Shape) -> Finished {
    let mut writer = Writer::shaped(sim, path, LOG, rows.len() as u64, shape).unwrap();
    for (key, row) in rows {
        writer.push(key, version(row)).unwrap();
    }
    writer.finish().unwrap()
}

fn path() -> &'static Path {
    Path::new("/table.tmp")
}

fn written(rows: &Rows, shape: Shape) -> (Sim, Finished) {
    let sim = Sim::new(1);
    let finished = write(&sim, path(), rows, shape);
    (sim, finished)
}

/// A simple generator: the same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

fn random_rows(seed: u64, count: u64, key_bytes: u64, value_bytes: u64) -> Rows {
    let mut dice = Dice(seed);
    let prefixes: Vec<Vec<u8>> = (0..3).map(|i| dice.bytes(i * 7)).collect();
    (0..count)
        .map(|i| {
            let len = dice.below(key_bytes);
            let mut key = prefixes[dice.below(3) as usize].clone();
            key.extend((0..len).map(|_| dice.below(4) as u8));
            let len = dice.below(value_bytes);
            let value = (dice.below(5) > 0).then(|| dice.bytes(len));
            (key, (value, 1000 + i, dice.below(1 << 40) as i64 - (1 << 39)))
        })
        .collect()
}

/// Reads all that can be read, and finds exactly these rows.
fn check(run: &Arc<Run>, rows: &Rows) {
    let deletes = rows.values().filter(|row| row.0.is_none()).count() as u64;
    assert_eq!((run.rows(), run.deletes()), (rows.len() as u64 - deletes, deletes));
    assert_eq!(run.first_key(), rows.first_key_value().map(|(key, _)| &key[..]));
    assert_eq!(run.last_key(), rows.last_key_value().map(|(key, _)| &key[..]));
    let offsets = rows.values().map(|row| Offset(row.1));
    assert_eq!(run.offsets(), offsets.clone().min().zip(offsets.max()));
    assert_eq!(run.max_timestamp(), rows.values().map(|row| row.2).max());
    let bytes =
        |(key, row): (&Vec<u8>, &Row)| (key.len() + row.0.as_ref().map_or(0, Vec::len)) as u64;
    assert_eq!(run.content_bytes(), rows.iter().map(bytes).sum::<u64>());
    for (key, row) in rows {
        let found = run.get(key).unwrap().unwrap_or_else(|| panic!("{key:?} is there"));
        assert_eq!(found.version(), version(row));
        assert!(run.may_hold(key, filter::hash(key)).unwrap());
    }
    assert_eq!(run.verify(), []);
}

/// Keys at, just before and just behind each row.
fn neighbours(rows: &Rows) -> Vec<Vec<u8>> {
    let mut keys = vec![Vec::new(), vec![0], vec![255; 9]];
    for key in rows.keys() {
        keys.push(key.clone());
        keys.push([&key[..], &[0]].concat());
        keys.push(key[..key.len().saturating_sub(1)].to_vec());
        if let Some((&last, front)) = key.split_last() {
            keys.push([front, &[last.wrapping_sub(1)]].concat());
            keys.push([front, &[last.wrapping_add(1)]].concat());
        }
    }
    keys
}

fn walk(cursor: &mut Cursor) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    while let Some((key, _)) = cursor.current() {
        keys.push(key.to_vec());
        cursor.advance().unwrap();
    }
    cursor.advance().unwrap();
    assert!(cursor.current().is_none());
    keys
}

#[test]
fn what_was_pushed_is_found_by_map_and_by_read() {
    for seed in 0..12 {
        for count in [0, 1, 2, 11, 12, 13, 300] {
            let rows = random_rows(seed, count, 24, 40);
            let (sim, finished) = written(&rows, SMALL);
            assert_eq!(finished.rows + finished.deletes, rows.len() as u64);
            for map in [false, true] {
                let run = Arc::new(Run::open(&sim, path(), LOG, map).unwrap());
                assert_eq!((run.id(), run.bytes()), (finished.id, finished.file_bytes));
                check(&run, &rows);
                for key in neighbours(&rows) {
                    let found = run.get(&key).unwrap();
                    let found = found.as_ref().map(Found::version);
                    assert_eq!(found, rows.get(&key).map(version), "seed {seed}, {key:?}");
                }
            }
        }
    }
}

#[test]
fn cursors_walk_both_ways_from_every_key_and_between() {
    for (seed, count) in [(1, 0), (2, 1), (3, 40), (4, 90)] {
        let rows = random_rows(seed, count, 12, 30);
        let (sim, _) = written(&rows, SMALL);
        for map in [false, true] {
            let run = Arc::new(Run::open(&sim, path(), LOG, map).unwrap());
            let (mut up, mut down) = (run.cursor(false), run.cursor(true));
            assert!(up.current().is_none());
            up.seek(None).unwrap();
            for (key, row) in &rows {
                assert_eq!(up.current(), Some((&key[..], version(row))));
                up.advance().unwrap();
            }
            assert!(up.current().is_none());
            down.seek(None).unwrap();
            for (key, row) in rows.iter().rev() {
                assert_eq!(down.current(), Some((&key[..], version(row))));
                down.advance().unwrap();
            }
            assert!(down.current().is_none());
            for key in neighbours(&rows) {
                up.seek(Some(&key)).unwrap();
                down.seek(Some(&key)).unwrap();
                let behind: Vec<_> = rows.range(key.clone()..).map(|(k, _)| k.clone()).collect();
                let before: Vec<_> =
                    rows.range(..key.clone()).rev().map(|(k, _)| k.clone()).collect();
                assert_eq!(walk(&mut up), behind, "from {key:?}");
                assert_eq!(walk(&mut down), before, "before {key:?}");
            }
        }
    }
}

#[test]
fn the_largest_keys_and_values_fit() {
    let mut rows = Rows::new();
    rows.insert(Vec::new(), (Some(Vec::new()), 1, 0));
    rows.insert(vec![0], (None, 2, 0));
    rows.insert(vec![7; MAX_KEY_BYTES], (Some(vec![1; 3]), 3, 1));
    rows.insert([&[7; MAX_KEY_BYTES - 1][..], &[8]].concat(), (None, 4, 2));
    rows.insert(b"large".to_vec(), (Some(vec![9; 15 << 20]), 5, 3));
    // The largest record that the log takes.
    let key = vec![b'm'; MAX_KEY_BYTES];
    let mut value = vec![5; MAX_FRAME_BYTES - MAX_KEY_BYTES];
    while Batch::new().push(&Record::put(&key, &value)).is_err() {
        value.pop();
    }
    rows.insert(key, (Some(value), 6, 4));
    let (sim, _) = written(&rows, Shape::RUN);
    for map in [false, true] {
        let run = Arc::new(Run::open(&sim, path(), LOG, map).unwrap());
        check(&run, &rows);
        let mut cursor = run.cursor(true);
        cursor.seek(None).unwrap();
        for (key, row) in rows.iter().rev() {
            assert!(cursor.current() == Some((key, version(row))));
            cursor.advance().unwrap();
        }
    }
}

#[test]
fn a_row_that_fits_no_frame_is_refused_and_the_run_goes_on() {
    let sim = Sim::new(1);
    let mut writer = Writer::create(&sim, path(), LOG, 2).unwrap();
    let value = vec![0; MAX_FRAME_BYTES];
    let large = Version { value: Some(&value), offset: Offset(7), timestamp: 0 };
    let error = writer.push(b"a", large).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (Kind::InvalidInput, Some(7)));
    writer.push(b"a", Version { value: None, offset: Offset(8), timestamp: 0 }).unwrap();
    assert_eq!(writer.finish().unwrap().deletes, 1);
}

#[test]
#[should_panic(expected = "keys of a run rise strictly")]
fn keys_that_do_not_rise_are_a_bug_of_the_caller() {
    let sim = Sim::new(1);
    let mut writer = Writer::create(&sim, path(), LOG, 2).unwrap();
    let version = Version { value: None, offset: Offset(1), timestamp: 0 };
    writer.push(b"", version).unwrap();
    let _ = writer.push(b"", version);
}

#[test]
fn equal_rows_give_equal_files_and_names() {
    let rows = random_rows(5, 500, 20, 60);
    let (one, two) = (written(&rows, SMALL), written(&rows, SMALL));
    assert_eq!(one.1.id, two.1.id);
    assert!(one.0.read(path()) == two.0.read(path()));
    // What memory was asked for changes nothing.
    let sim = Sim::new(9);
    let mut writer = Writer::shaped(&sim, path(), LOG, 0, SMALL).unwrap();
    for (key, row) in &rows {
        writer.push(key, version(row)).unwrap();
    }
    assert_eq!(writer.finish().unwrap().id, one.1.id);
    let mut other = rows.clone();
    other.first_entry().unwrap().get_mut().1 += 1;
    assert_ne!(written(&other, SMALL).1.id, one.1.id);
}

#[test]
fn a_file_is_held_against_the_run_its_name_says() {
    let rows = random_rows(5, 20, 20, 60);
    let (sim, finished) = written(&rows, SMALL);
    let bytes = sim.read(path());
    let (right, wrong) = (format!("/{}.run", finished.id), format!("/{}.run", RunId([0; 32])));
    sim.write(Path::new(&right), &bytes);
    sim.write(Path::new(&wrong), &bytes);
    assert!(Run::open(&sim, Path::new(&right), LOG, false).is_ok());
    let error = Run::open(&sim, Path::new(&wrong), LOG, false).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
}

/// Reads everything: the errors it met. A row that comes back is the one that was pushed, and a
/// row that does not come back is reported.
fn read_all(sim: &Sim, rows: &Rows, map: bool) -> Vec<Error> {
    let run = match Run::open(sim, path(), LOG, map) {
        Ok(run) => Arc::new(run),
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    let absent: Vec<Vec<u8>> = rows.keys().map(|key| [&key[..], &[9]].concat()).collect();
    for key in rows.keys().chain(&absent) {
        match run.get(key) {
            Ok(found) => {
                assert_eq!(found.as_ref().map(Found::version), rows.get(key).map(version));
            }
            Err(error) => errors.push(error),
        }
    }
    for reverse in [false, true] {
        let mut cursor = run.cursor(reverse);
        let mut expected = Vec::from_iter(rows);
        if reverse {
            expected.reverse();
        }
        let mut expected = expected.into_iter();
        let mut outcome = cursor.seek(None);
        while let (Ok(()), Some(row)) = (&outcome, cursor.current()) {
            assert_eq!(Some(row), expected.next().map(|(key, row)| (&key[..], version(row))));
            outcome = cursor.advance();
        }
        match outcome {
            Ok(()) => assert!(expected.next().is_none(), "a row was lost in silence"),
            Err(error) => {
                assert!(cursor.advance().is_err(), "a failed cursor does not look like the end");
                errors.push(error);
            }
        }
    }
    let problems = run.verify();
    for error in &errors {
        assert!(!problems.is_empty(), "verify does not see {error}");
    }
    errors.extend(problems.into_iter().map(|problem| {
        Error::new(Kind::Corrupt, problem.what).in_file(path()).at_byte(problem.byte)
    }));
    errors
}

#[test]
fn every_flipped_bit_is_reported_and_gives_no_wrong_row() {
    let rows = random_rows(3, 26, 12, 24);
    let (sim, _) = written(&rows, SMALL);
    assert_eq!(read_all(&sim, &rows, true).len(), 0);
    let good = sim.read(path());
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        sim.write(path(), &bad);
        let errors = read_all(&sim, &rows, bit % 2 == 0);
        assert!(!errors.is_empty(), "bit {bit} of byte {} is not reported", bit / 8);
        for error in errors {
            assert_eq!(error.kind(), Kind::Corrupt, "{error}");
            assert_eq!(error.file(), Some(path()));
            assert!(error.byte().is_some(), "{error}");
        }
    }
}

#[test]
fn every_truncation_is_reported() {
    let rows = random_rows(4, 26, 12, 24);
    let (sim, _) = written(&rows, SMALL);
    let good = sim.read(path());
    for len in 0..good.len() {
        sim.write(path(), &good[..len]);
        let error = Run::open(&sim, path(), LOG, false).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{len} bytes: {error}");
    }
}

#[test]
fn a_truncation_after_the_open_is_an_error_to_reads() {
    let rows = random_rows(4, 300, 12, 24);
    let (sim, _) = written(&rows, SMALL);
    let run = Arc::new(Run::open(&sim, path(), LOG, false).unwrap());
    let good = sim.read(path());
    sim.open(path(), Open::Write).unwrap().set_len(100).unwrap();
    let key = rows.keys().last().unwrap();
    assert_eq!(run.get(key).unwrap_err().kind(), Kind::Corrupt);
    assert!(!run.verify().is_empty());
    sim.write(path(), &good);
}

#[test]
fn damage_names_file_byte_keys_and_the_way_out() {
    let rows: Rows =
        (0..100u8).map(|i| (vec![b'k', i / 10 + b'0', i % 10 + b'0'], (None, 1, 1))).collect();
    let (sim, _) = written(&rows, Shape { section_rows: 1000, ..SMALL });
    let mut bad = sim.read(path());
    bad[64 + 40] ^= 1;
    sim.write(path(), &bad);
    let run = Run::open(&sim, path(), LOG, true).unwrap();
    assert_eq!(
        run.get(b"k00").unwrap_err().to_string(),
        "corrupt: expected a block of rows, found a frame body whose checksum does not hold; its \
         keys start at \"k00\" and end before \"k06\" (file /table.tmp, byte 64); run `tidelog \
         repair`: the table is made again from the log"
    );
    // Other blocks are as good as before.
    assert_eq!(run.get(b"k06").unwrap().unwrap().version().offset, Offset(1));
    let problems = run.verify();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].byte, 64);
    assert_eq!(problems[0].keys, (Some(b"k00".to_vec()), Some(b"k06".to_vec())));
}

#[test]
fn another_logs_run_and_a_newer_version_are_told_apart_from_damage() {
    let rows = random_rows(4, 26, 12, 24);
    let (sim, _) = written(&rows, SMALL);
    let error = Run::open(&sim, path(), Id([1; 16]), false).unwrap_err();
    assert_eq!(error.kind(), Kind::WrongLog);
    let good = sim.read(path());
    let mut newer = good.clone();
    newer[8] = 2;
    let crc = crc::crc32c(&newer[..60]);
    newer[60..64].copy_from_slice(&crc.to_le_bytes());
    sim.write(path(), &newer);
    assert_eq!(Run::open(&sim, path(), LOG, false).unwrap_err().kind(), Kind::NewerVersion);
    let mut newer = good.clone();
    let at = newer.len() - 256;
    newer[at + 8] = 2;
    let crc = crc::crc32c(&newer[at..at + 252]);
    newer[at + 252..].copy_from_slice(&crc.to_le_bytes());
    sim.write(path(), &newer);
    assert_eq!(Run::open(&sim, path(), LOG, false).unwrap_err().kind(), Kind::NewerVersion);
}

#[test]
fn a_failed_write_is_an_error() {
    let sim = Sim::new(1);
    sim.set_capacity(Some(1000));
    let mut writer = Writer::create(&sim, path(), LOG, 0).unwrap();
    let value = vec![1; 5000];
    let version = Version { value: Some(&value), offset: Offset(1), timestamp: 0 };
    writer.push(b"a", version).unwrap();
    assert_eq!(writer.finish().unwrap_err().kind(), Kind::DiskFull);
}

/// The names of a dump's lines.
fn dumped(sim: &Sim) -> Vec<&'static str> {
    let mut names = Vec::new();
    dump_run(sim, path(), &mut |line| {
        names.push(match line {
            RunLine::Head { .. } => "head",
            RunLine::Frame { .. } => "frame",
            RunLine::Index { .. } => "index",
            RunLine::Damage { .. } => "damage",
            RunLine::Footer { .. } => "footer",
        });
        Ok(())
    })
    .unwrap();
    names
}

#[test]
fn a_dump_shows_every_part_and_goes_on_behind_damage() {
    let rows = random_rows(3, 26, 12, 24);
    let (sim, _) = written(&rows, Shape { block_bytes: 400, ..SMALL });
    assert!(is_run(&sim, path()).unwrap());
    let whole = dumped(&sim);
    assert_eq!((whole.first(), whole.last()), (Some(&"head"), Some(&"footer")));
    assert_eq!(whole.iter().filter(|name| **name == "index").count(), 2);
    let good = sim.read(path());
    for byte in [20, 70, 120] {
        let mut bad = good.clone();
        bad[byte] ^= 1;
        sim.write(path(), &bad);
        let mut expected = whole.clone();
        expected[usize::from(byte >= 64)] = "damage";
        assert_eq!(dumped(&sim), expected, "byte {byte}");
    }
    // Without its footer the frames of the first section still show.
    sim.write(path(), &good[..good.len() - 10]);
    let cut = dumped(&sim);
    let frames = whole.iter().take_while(|name| **name != "index").count();
    assert_eq!(cut[..frames], whole[..frames]);
    assert_eq!(cut[frames..], ["damage", "damage"]);
}

/// The run of the worked example: a delete and two puts.
fn example() -> Vec<u8> {
    let at = 1_700_000_000_000_000_000;
    let rows: Rows = [
        (b"alarm".to_vec(), (None, 2, at + 2)),
        (b"gate".to_vec(), (Some(b"open".to_vec()), 0, at)),
        (b"light".to_vec(), (Some(Vec::new()), 3, at + 3)),
    ]
    .into();
    written(&rows, Shape::RUN).0.read(path())
}

#[test]
fn the_worked_example_in_the_format_document_is_what_the_code_writes() {
    let document = include_str!("../../../docs/FORMAT.md");
    let mut dump = String::new();
    for (i, line) in example().chunks(16).enumerate() {
        if line.iter().any(|&b| b != 0) {
            let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
            dump += &format!("{:06} {}\n", 16 * i, hex.join(" "));
        }
    }
    let shown = document
        .split("## A worked run\n")
        .nth(1)
        .and_then(|rest| rest.split("```hexdump\n").nth(1)?.split("```").next())
        .expect("the document has a dump");
    assert_eq!(shown, dump, "docs/FORMAT.md shows other bytes; the code writes\n{dump}");
}

#[test]
fn the_format_document_gives_the_sizes_of_the_code() {
    let document = include_str!("../../../docs/FORMAT.md");
    let Shape { block_bytes, section_rows, section_bytes } = Shape::RUN;
    assert_eq!((block_bytes, section_rows, section_bytes), (16_384, 1_048_576, 201_326_592));
    for words in ["beyond 16,384 bytes", "1,048,576 rows", "201,326,592 bytes of frames"] {
        assert!(document.contains(words), "{words}");
    }
}
