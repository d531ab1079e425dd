use std::process::Command;

use super::*;
use crate::log::{Append, MIN_SEGMENT_BYTES};
use crate::record::{Batch, Record};
use crate::table::{Scan, Table};

struct Place {
    dir: tempfile::TempDir,
    log: Log,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::options()
            .create(true)
            .segment_bytes(MIN_SEGMENT_BYTES)
            .open(dir.path().join("log"))
            .unwrap();
        Place { dir, log }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("rows.db")
    }

    fn sink(&self) -> SqliteSink {
        SqliteSink::open(self.file(), self.log.id()).unwrap()
    }

    /// Batches over few keys, of about three transactions in all.
    fn fill(&self) {
        let mut random = 1_u64;
        for _ in 0..300 {
            let mut batch = Batch::new();
            for _ in 0..50 {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let key = [b'k', (random >> 33) as u8, (random >> 41) as u8 & 3];
                let value = [b'v'; 200];
                match random >> 60 {
                    0 => batch.push(&Record::delete(&key)).unwrap(),
                    1 => batch.push(&Record::event(&value)).unwrap(),
                    _ => batch.push(&Record::put(&key, &value[..random as usize % 200])).unwrap(),
                }
            }
            self.log.append_with(&batch, &Append::default()).unwrap();
        }
    }
}

type Stored = Vec<(Vec<u8>, Vec<u8>, i64, i64)>;

fn stored(path: &Path) -> Stored {
    let connection = Connection::open(path).unwrap();
    let sql = "SELECT CAST(key AS BLOB), CAST(value AS BLOB), offset, ts FROM kv";
    let mut rows: Stored = connection
        .prepare(sql)
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    rows.sort();
    rows
}

/// The rows that the log's table has where the file says it stands.
fn expected(log: &Log, until: Option<Position>) -> Stored {
    let table = Table::new();
    let mut rows = std::collections::BTreeMap::new();
    let mut cursor = log.read(Offset(0)).unwrap();
    while let Some(entry) = cursor.next().unwrap() {
        if until.is_none_or(|until| entry.offset >= until.offset) {
            break;
        }
        let Some(key) = entry.record.key else { continue };
        match entry.record.op {
            Op::Event => {}
            Op::Delete => drop(rows.remove(key)),
            Op::Put => {
                let row = (entry.record.value.to_vec(), entry.offset.0 as i64, entry.timestamp);
                rows.insert(key.to_vec(), row);
            }
        }
    }
    // At the end it is the table's, too.
    if until.is_some_and(|until| until.offset == log.end()) {
        table.catch_up(log).unwrap();
        let all = table.view().collect(&Scan::all()).unwrap();
        assert_eq!(all.len(), rows.len());
    }
    rows.into_iter().map(|(key, (value, offset, ts))| (key, value, offset, ts)).collect()
}

#[test]
fn a_sink_holds_the_tables_rows_and_goes_on_behind_them() {
    let place = Place::new();
    for record in [
        Record::put(b"a", b"1").at(5),
        Record::put(b"\xff", b""),
        Record::put(b"", b"\xfe"),
        Record::event(b"keyless"),
        Record::put(b"gone", b""),
        Record::delete(b"gone"),
    ] {
        place.log.append(&record).unwrap();
    }
    let mut sink = place.sink();
    assert_eq!(sink.applied(), None);
    assert_eq!(sink.catch_up(&place.log).unwrap().records, 6);
    assert_eq!(sink.applied(), Some(place.log.durable_position()));
    drop(sink);
    assert_eq!(stored(&place.file()), expected(&place.log, Some(place.log.durable_position())));
    let mut sink = place.sink();
    assert_eq!(sink.applied(), Some(place.log.durable_position()));
    assert_eq!(sink.catch_up(&place.log).unwrap().records, 0);
    place.log.append(&Record::put(b"a", b"2")).unwrap();
    assert_eq!(sink.catch_up(&place.log).unwrap().records, 1);
    assert_eq!(sink.lost().unwrap(), []);
    let types: String = sink
        .connection
        .query_row("SELECT group_concat(typeof(key) || typeof(value)) FROM kv", [], |r| r.get(0))
        .unwrap();
    assert_eq!(types, "textblob,texttext,blobtext");
}

#[test]
fn another_logs_records_and_another_programs_file_are_refused() {
    let (one, other) = (Place::new(), Place::new());
    let mut sink = one.sink();
    assert_eq!(sink.catch_up(&other.log).unwrap_err().kind(), Kind::WrongLog);
    let error = SqliteSink::open(one.file(), other.log.id()).unwrap_err();
    assert_eq!((error.kind(), error.file()), (Kind::WrongLog, Some(&*one.file())));
    let theirs = one.dir.path().join("theirs.db");
    Connection::open(&theirs).unwrap().execute_batch("CREATE TABLE kv(x)").unwrap();
    let error = SqliteSink::open(&theirs, one.log.id()).unwrap_err();
    assert_eq!(error.kind(), Kind::AlreadyExists);
    std::fs::write(&theirs, [b'x'; 8192]).unwrap();
    assert_eq!(SqliteSink::open(&theirs, one.log.id()).unwrap_err().kind(), Kind::NotALog);
    let nowhere = one.dir.path().join("none").join("rows.db");
    assert_eq!(SqliteSink::open(nowhere, one.log.id()).unwrap_err().kind(), Kind::Io);
}

#[test]
fn a_position_that_is_not_in_the_logs_history_is_refused() {
    let place = Place::new();
    place.log.append(&Record::put(b"a", b"1")).unwrap();
    let mut sink = place.sink();
    sink.catch_up(&place.log).unwrap();
    sink.connection.execute("UPDATE tidelog SET offset = 9", []).unwrap();
    let mut sink = place.sink();
    assert_eq!(sink.catch_up(&place.log).unwrap_err().kind(), Kind::NotInHistory);
}

#[test]
fn a_second_writer_is_told_and_leaves_no_hole() {
    let place = Place::new();
    place.log.append(&Record::put(b"a", b"1")).unwrap();
    let (mut one, mut other) = (place.sink(), place.sink());
    one.catch_up(&place.log).unwrap();
    let error = other.catch_up(&place.log).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidInput, "{error}");
    // From then on it stands where the file does.
    place.log.append(&Record::put(b"b", b"2")).unwrap();
    assert_eq!(other.catch_up(&place.log).unwrap().from, Offset(1));
    assert_eq!(stored(&place.file()), expected(&place.log, other.applied()));
}

#[test]
fn what_came_whole_before_damage_is_kept_with_its_position() {
    let place = Place::new();
    for i in 0..20u8 {
        place.log.append(&Record::put(&[i], &[b'v'; 100])).unwrap();
    }
    let file = place.log.segments()[0].path.clone();
    let whole = std::fs::read(&file).unwrap();
    let mut bytes = whole.clone();
    for byte in &mut bytes[4096 + 600..4096 + 1200] {
        *byte ^= 0x55;
    }
    std::fs::write(&file, bytes).unwrap();
    let mut sink = place.sink();
    assert_eq!(sink.catch_up(&place.log).unwrap_err().kind(), Kind::Corrupt);
    let reached = sink.applied().unwrap();
    assert!((1..20).contains(&reached.offset.0), "{reached:?}");
    assert_eq!(stored(&place.file()).len() as u64, reached.offset.0);
    std::fs::write(&file, whole).unwrap();
    sink.catch_up(&place.log).unwrap();
    assert_eq!(stored(&place.file()), expected(&place.log, sink.applied()));
}

const CHILD: &str = "TIDELOG_TEST_SINK_CHILD";

/// The process that dies; does nothing unless the next test starts it.
#[test]
fn a_child_applies_until_it_aborts() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let (directory, records) = what.split_once('|').unwrap();
    let directory = Path::new(directory);
    let log = Log::options().read_only(true).open(directory.join("log")).unwrap();
    let mut sink = SqliteSink::open(directory.join("rows.db"), log.id()).unwrap();
    sink.abort_after = Some(records.parse().unwrap());
    sink.catch_up(&log).unwrap();
}

#[test]
fn a_process_that_aborts_anywhere_applies_no_record_twice_and_skips_none() {
    let place = Place::new();
    place.fill();
    let (mut deaths, mut reached, mut steps) = (0, None, 0);
    // `abort_after` counts in each apply anew, and one takes some 6000 records.
    for records in [0, 1, 49, 2500, 5800, 5500, 100, 6200, 7000, 8000, 5000, 15_000] {
        let out = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sql::sink::tests::a_child_applies_until_it_aborts"])
            .env(CHILD, format!("{}|{records}", place.dir.path().display()))
            .output()
            .unwrap();
        deaths += u32::from(!out.status.success());
        let at = place.sink().applied();
        assert!(at >= reached);
        steps += u32::from(at > reached);
        reached = at;
        assert_eq!(stored(&place.file()), expected(&place.log, at), "aborted after {records}");
    }
    assert!(deaths >= 7, "{deaths} of 12 died");
    assert!(steps >= 1);
    let mut sink = place.sink();
    sink.catch_up(&place.log).unwrap();
    assert_eq!(sink.applied().map(|at| at.offset), Some(place.log.end()));
    assert_eq!(stored(&place.file()), expected(&place.log, sink.applied()));
}
