//! Runs against a plain map, and against every kind of damage.

use std::collections::BTreeMap;

use super::*;
use crate::fs::Os;
use crate::position::Offset;

const LOG: Id = Id([7; 16]);

type Rows = BTreeMap<Vec<u8>, (Option<Vec<u8>>, u64)>;

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

fn version((value, offset): &(Option<Vec<u8>>, u64)) -> Version<'_> {
    Version {
        value: value.as_deref(),
        offset: Offset(*offset),
        timestamp: offset.cast_signed() * 3 - 1,
    }
}

/// Writes rows as a run and opens it.
fn written(dir: &Path, rows: &Rows, section: (usize, u64), map: bool) -> Arc<Run> {
    let tmp = dir.join("x.tmp");
    let mut writer = Writer::with_sections(&Os, &tmp, LOG, section).unwrap();
    for (key, row) in rows {
        writer.push(key, version(row)).unwrap();
    }
    let finished = writer.finish().unwrap();
    let path = dir.join(format!("{}.run", finished.id));
    Os.rename(&tmp, &path).unwrap();
    Arc::new(Run::open(&Os, &path, LOG, map).unwrap())
}

fn get(run: &Run, key: &[u8]) -> Option<(Option<Vec<u8>>, u64)> {
    let found = run.get(key, hash(key)).unwrap()?;
    let version = found.version();
    assert_eq!(version.timestamp, version.offset.0.cast_signed() * 3 - 1);
    Some((version.value.map(<[u8]>::to_vec), version.offset.0))
}

fn rows(dice: &mut Dice, count: u64) -> Rows {
    let mut rows = Rows::new();
    for n in 0..count {
        let key = match dice.below(4) {
            0 => format!("user/{:07}", dice.below(50_000)).into_bytes(),
            1 => vec![0; dice.below(30) as usize],
            2 => [&vec![b'k'; 50][..], &dice.below(1 << 40).to_be_bytes()].concat(),
            _ => dice.below(1 << 20).to_le_bytes().to_vec(),
        };
        let value = match dice.below(30) {
            0 => None,
            1 => Some(vec![n as u8; 40_000]),
            2 => Some(Vec::new()),
            _ => Some(vec![n as u8; dice.below(200) as usize]),
        };
        rows.insert(key, (value, n));
    }
    rows
}

fn walk(run: &Arc<Run>, from: Option<&[u8]>, reverse: bool) -> Vec<(Vec<u8>, u64)> {
    let mut cursor = run.cursor(reverse);
    cursor.seek(from).unwrap();
    let mut found = Vec::new();
    while let Some((key, version)) = cursor.current() {
        found.push((key.to_vec(), version.offset.0));
        cursor.advance().unwrap();
    }
    found
}

#[test]
fn a_run_agrees_with_a_plain_map() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..8u64 {
        let mut dice = Dice(seed);
        let count = [1, 2, 40, 3000][seed as usize % 4];
        let rows = rows(&mut dice, count);
        let section = [(1 << 20, 1 << 30), (100, 1 << 30)][seed as usize / 4];
        let run = written(dir.path(), &rows, section, seed % 2 == 0);
        assert_eq!(run.entry().rows, rows.len() as u64);
        assert_eq!(run.verify(&Os).unwrap(), []);
        for (key, row) in &rows {
            assert_eq!(get(&run, key).as_ref(), Some(row));
            let behind = [key.as_slice(), &[0]].concat();
            assert_eq!(get(&run, &behind).as_ref(), rows.get(&behind));
        }
        for reverse in [false, true] {
            let mut from: Vec<Option<Vec<u8>>> = vec![None, Some(vec![]), Some(vec![0xff; 9])];
            from.extend(rows.keys().step_by(17).map(|key| Some(key.clone())));
            from.extend(rows.keys().step_by(23).map(|key| Some([key.as_slice(), &[0]].concat())));
            for from in from {
                let mut expected: Vec<_> = rows
                    .iter()
                    .filter(|(key, _)| match &from {
                        None => true,
                        Some(from) if reverse => *key < from,
                        Some(from) => *key >= from,
                    })
                    .map(|(key, row)| (key.clone(), row.1))
                    .collect();
                if reverse {
                    expected.reverse();
                }
                assert_eq!(walk(&run, from.as_deref(), reverse), expected, "seed {seed} {from:?}");
            }
        }
    }
}

#[test]
fn equal_rows_give_equal_files_and_names() {
    let dir = tempfile::tempdir().unwrap();
    let rows = rows(&mut Dice(5), 500);
    let a = written(dir.path(), &rows, (1 << 20, 1 << 30), true);
    let b = written(dir.path(), &rows, (1 << 20, 1 << 30), true);
    assert_eq!(a.id(), b.id());
    assert_eq!(a.id().to_string().parse(), Ok(a.id()));
    for name in ["", "A", "0x", &"g".repeat(64), &"A".repeat(64), &"0".repeat(66)] {
        assert!(name.parse::<RunId>().is_err(), "{name}");
    }
}

#[test]
fn the_largest_record_that_a_log_takes_fits_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let key = vec![b'k'; 64 << 10];
    let value = vec![1; crate::record::MAX_FRAME_BYTES - 32 - 4 - key.len()];
    let rows = Rows::from([(key.clone(), (Some(value), 3)), (vec![], (Some(vec![]), 4))]);
    let run = written(dir.path(), &rows, (1 << 20, 1 << 30), true);
    assert_eq!(get(&run, &key), rows.get(&key).cloned());
    assert_eq!(walk(&run, None, false).len(), 2);
    assert_eq!(run.verify(&Os).unwrap(), []);
}

/// Everything that can be asked of a damaged run: the right rows, or an error.
fn interrogate(path: &Path, rows: &Rows, what: &str) -> bool {
    let run = match Run::open(&Os, path, LOG, false) {
        Ok(run) => Arc::new(run),
        Err(e) => {
            let kinds = [Kind::Corrupt, Kind::WrongLog, Kind::NewerVersion];
            assert!(kinds.contains(&e.kind()), "{what}: {e}");
            return true;
        }
    };
    let mut told = false;
    for (key, row) in rows {
        match run.get(key, hash(key)) {
            Ok(found) => {
                let found =
                    found.map(|f| (f.version().value.map(<[u8]>::to_vec), f.version().offset.0));
                assert_eq!(found.as_ref(), Some(row), "{what}");
            }
            Err(e) => {
                assert_eq!(e.kind(), Kind::Corrupt, "{what}: {e}");
                told = true;
            }
        }
    }
    let mut cursor = run.cursor(false);
    let mut expected = rows.iter();
    let mut outcome = cursor.seek(None);
    loop {
        if let Err(e) = outcome {
            assert_eq!(e.kind(), Kind::Corrupt, "{what}: {e}");
            told = true;
            break;
        }
        let Some((key, found)) = cursor.current() else {
            assert!(expected.next().is_none(), "{what}: rows are missing");
            break;
        };
        let (wanted, row) = expected.next().expect("no row too many");
        assert_eq!((key, found), (wanted.as_slice(), version(row)), "{what}");
        outcome = cursor.advance();
    }
    let problems = run.verify(&Os).unwrap();
    assert!(!problems.is_empty(), "{what}: nobody reports it");
    told || !problems.is_empty()
}

#[test]
fn every_flipped_bit_and_every_truncation_of_a_run_is_reported_and_no_row_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = Rows::new();
    for n in 0..40u64 {
        let value = (n % 9 > 0).then(|| vec![n as u8; 900]);
        rows.insert(format!("key {n:03}").into_bytes(), (value, n));
    }
    let run = written(dir.path(), &rows, (25, 1 << 30), false);
    let good = std::fs::read(run.path()).unwrap();
    let path = dir.path().join("damaged.run");
    // Bodies are long; every byte of everything else is looked at, and every seventh of them.
    let mut flips = 0;
    for byte in 0..good.len() {
        let inside = byte > 600 && byte < 34_000 && byte % 41 != 0;
        if inside {
            continue;
        }
        let mut bad = good.clone();
        bad[byte] ^= 1 << (byte % 8);
        std::fs::write(&path, &bad).unwrap();
        assert!(interrogate(&path, &rows, &format!("byte {byte}")));
        flips += 1;
    }
    assert!(flips > 1000, "{flips}");
    for len in (0..good.len()).step_by(61).chain(good.len() - 300..good.len()) {
        std::fs::write(&path, &good[..len]).unwrap();
        assert!(interrogate(&path, &rows, &format!("cut to {len} bytes")));
    }
}

#[test]
fn a_run_of_another_log_or_a_newer_version_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let rows = Rows::from([(b"a".to_vec(), (Some(b"1".to_vec()), 0))]);
    let run = written(dir.path(), &rows, (1 << 20, 1 << 30), true);
    let error = Run::open(&Os, run.path(), Id([8; 16]), true).unwrap_err();
    assert_eq!(error.kind(), Kind::WrongLog);
    let mut bytes = std::fs::read(run.path()).unwrap();
    let footer = bytes.len() - 256;
    bytes[footer + 8] = 2;
    let crc = crc::crc32c(&bytes[footer..footer + 252]);
    bytes[footer + 252..].copy_from_slice(&crc.to_le_bytes());
    let path = dir.path().join("newer.run");
    std::fs::write(&path, bytes).unwrap();
    let error = Run::open(&Os, &path, LOG, true).unwrap_err();
    assert_eq!(error.kind(), Kind::NewerVersion);
}
