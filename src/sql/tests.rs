use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::log::{Append, MIN_SEGMENT_BYTES};
use crate::record::{Batch, Record};
use crate::table::{Scan, Table};

/// A log with what is given, its table, and SQL over both.
struct Place {
    _dir: tempfile::TempDir,
    log: Arc<Log>,
    table: Table,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(
            Log::options()
                .create(true)
                .segment_bytes(MIN_SEGMENT_BYTES)
                .open(dir.path().join("log"))
                .unwrap(),
        );
        Place { _dir: dir, log, table: Table::new() }
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        self.log.append(&Record::put(key, value)).unwrap();
    }

    fn database(&self) -> Database {
        self.table.catch_up(&self.log).unwrap();
        Database::open(self.table.view(), Arc::clone(&self.log)).unwrap()
    }
}

/// A value that outlives its row.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
enum Owned {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl From<Value<'_>> for Owned {
    fn from(value: Value<'_>) -> Self {
        match value {
            Value::Null => Owned::Null,
            Value::Integer(n) => Owned::Integer(n),
            Value::Real(n) => Owned::Real(n),
            Value::Text(text) => Owned::Text(text.to_owned()),
            Value::Blob(bytes) => Owned::Blob(bytes.to_owned()),
        }
    }
}

fn rows(database: &Database, sql: &str) -> Vec<Vec<Owned>> {
    let mut rows = Vec::new();
    let done = database.query(sql, |row| {
        rows.push(row.values().map(Owned::from).collect());
        Ok(())
    });
    done.unwrap_or_else(|e| panic!("{sql}: {e}"));
    rows
}

fn texts(database: &Database, sql: &str) -> Vec<String> {
    rows(database, sql)
        .into_iter()
        .map(|row| match row.into_iter().next_back() {
            Some(Owned::Text(text)) => text,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn error(database: &Database, sql: &str) -> Error {
    database.query(sql, |_| Ok(())).unwrap_err()
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }

    fn of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Short keys of few bytes, so that they meet; some are not UTF-8.
    fn key(&mut self) -> Vec<u8> {
        const PARTS: [&[u8]; 12] = [
            b"a",
            b"b",
            b"A",
            b"1",
            b"12",
            b"/",
            b"\0",
            b"\xff",
            b"\xc3\xa4",
            b"\xc3",
            b"\x01",
            b"\xef\xbf\xbd",
        ];
        (0..self.below(4)).flat_map(|_| self.of(&PARTS).to_vec()).collect()
    }
}

fn literal(bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    match std::str::from_utf8(bytes) {
        // A literal cannot hold NUL.
        Ok(_) if bytes.contains(&0) => format!("CAST(x'{hex}' AS TEXT)"),
        Ok(text) => format!("'{text}'"),
        Err(_) => format!("x'{hex}'"),
    }
}

#[test]
fn both_tables_show_one_moment_and_absent_is_not_empty() {
    let place = Place::new();
    place.put(b"", b"");
    place.log.append(&Record::event(b"keyless").at(7)).unwrap();
    place.log.append(&Record::keyed_event(b"", b"")).unwrap();
    place.put(b"gone", b"x");
    place.log.append(&Record::delete(b"gone")).unwrap();
    place.put(b"\xff", b"\xfe");
    let database = place.database();
    place.put(b"later", b"");
    place.table.catch_up(&place.log).unwrap();
    let text = |s: &str| Owned::Text(s.into());
    assert_eq!(
        rows(&database, "SELECT key, value, offset FROM kv"),
        [
            vec![text(""), text(""), Owned::Integer(0)],
            vec![Owned::Blob(vec![0xff]), Owned::Blob(vec![0xfe]), Owned::Integer(5)],
        ]
    );
    assert_eq!(
        rows(&database, "SELECT op, key, value FROM log"),
        [
            [text("put"), text(""), text("")],
            [text("event"), Owned::Null, text("keyless")],
            [text("event"), text(""), text("")],
            [text("put"), text("gone"), text("x")],
            [text("delete"), text("gone"), Owned::Null],
            [text("put"), Owned::Blob(vec![0xff]), Owned::Blob(vec![0xfe])],
        ]
    );
    assert_eq!(
        rows(&database, "SELECT ts, epoch FROM log WHERE key IS NULL")[0][0],
        Owned::Integer(7)
    );
    assert_eq!(rows(&database, "SELECT 1 FROM log WHERE key = ''").len(), 2);
    assert_eq!(rows(&database, "SELECT 1 FROM kv WHERE key = x'ff'").len(), 1);
    assert_eq!(database.applied().unwrap().offset, Offset(6));
    let empty = Database::open(Table::new().view(), Arc::clone(&place.log)).unwrap();
    assert_eq!(rows(&empty, "SELECT * FROM kv UNION ALL SELECT offset, 1, 1, 1 FROM log").len(), 0);
    assert_eq!(empty.query("SELECT key, ts FROM kv", |_| Ok(())).unwrap(), ["key", "ts"]);
}

#[test]
fn json_and_times_work_inside_sql() {
    let place = Place::new();
    for (second, carrier) in ["UA", "AA", "UA"].into_iter().enumerate() {
        let value = format!("{{\"carrier\":\"{carrier}\",\"delay\":{second}}}");
        let record = Record::put(b"N1", value.as_bytes()).at(second as i64 * 1_000_000_000);
        place.log.append(&record).unwrap();
    }
    let database = place.database();
    assert_eq!(
        rows(
            &database,
            "SELECT json_extract(value, '$.carrier') c, sum(value ->> 'delay') FROM log GROUP BY c"
        ),
        [
            [Owned::Text("AA".into()), Owned::Integer(1)],
            [Owned::Text("UA".into()), Owned::Integer(2)]
        ]
    );
    assert_eq!(texts(&database, "SELECT rfc3339(ts) FROM kv"), ["1970-01-01T00:00:02.000000000Z"]);
    let sql =
        "SELECT count(*), rfc3339(NULL), ns(NULL) FROM log WHERE ts >= ns('1970-01-01 00:00:01')";
    assert_eq!(rows(&database, sql), [[Owned::Integer(2), Owned::Null, Owned::Null]]);
    for bad in ["SELECT ns('never')", "SELECT ns(5)", "SELECT rfc3339('x')"] {
        assert_eq!(error(&database, bad).kind(), Kind::InvalidInput, "{bad}");
    }
}

#[test]
fn plans_are_named() {
    let place = Place::new();
    for i in 0..200u8 {
        place.put(&[b'k', b'0' + i % 10], b"v");
    }
    let database = place.database();
    for (sql, plan) in [
        ("SELECT * FROM kv", "kv VIRTUAL TABLE INDEX 0:all"),
        ("SELECT * FROM kv WHERE key = 'a'", "kv VIRTUAL TABLE INDEX 1:key=?"),
        ("SELECT * FROM kv WHERE key IN ('a', 'b')", "kv VIRTUAL TABLE INDEX 1:key=?"),
        ("SELECT * FROM kv WHERE key BETWEEN 'a' AND 'b'", "1:key>=?, key<=?"),
        ("SELECT * FROM kv WHERE key LIKE '1%'", "key like-prefix=?"),
        ("SELECT * FROM kv ORDER BY key DESC LIMIT 3", "0:all, desc"),
        ("SELECT * FROM log WHERE offset = 4", "log VIRTUAL TABLE INDEX 1:offset=?"),
        ("SELECT * FROM log WHERE rowid > 4", "1:offset>?"),
        ("SELECT * FROM log ORDER BY offset DESC LIMIT 3", "log VIRTUAL TABLE INDEX 0:all, desc"),
        ("SELECT * FROM log WHERE ts >= 5 AND key = 'k'", "ts>=?"),
    ] {
        let details = texts(&database, &format!("EXPLAIN QUERY PLAN {sql}"));
        assert!(details[0].ends_with(plan) || details[0].contains(plan), "{sql}: {details:?}");
        assert_eq!(details.len(), 1, "{sql} needs a sort: {details:?}");
    }
    let prefix = texts(&database, "EXPLAIN QUERY PLAN SELECT * FROM kv WHERE key GLOB 'k1*'");
    assert!(prefix[0].contains("SCAN kv VIRTUAL TABLE INDEX 1:key prefix=?"), "{prefix:?}");
    let sorted = texts(&database, "EXPLAIN QUERY PLAN SELECT * FROM log ORDER BY ts");
    assert!(sorted.iter().any(|step| step.contains("ORDER BY")), "{sorted:?}");
    let nocase = "EXPLAIN QUERY PLAN SELECT * FROM kv WHERE key = 'A' COLLATE NOCASE";
    assert!(texts(&database, nocase)[0].contains("0:all"));
}

/// The same rows in plain tables, in another connection.
fn plain(database: &Database) -> Connection {
    let plain = Connection::open_in_memory().unwrap();
    let schemas = [
        "CREATE TABLE kv(key TEXT, value TEXT, offset INTEGER, ts INTEGER)",
        "CREATE TABLE log(offset INTEGER, epoch INTEGER, ts INTEGER, op TEXT, key TEXT, value TEXT)",
    ];
    for (schema, name) in schemas.into_iter().zip(["kv", "log"]) {
        plain.execute_batch(schema).unwrap();
        database
            .query(&format!("SELECT * FROM {name}"), |row| {
                let marks = vec!["?"; row.columns().len()].join(", ");
                let values = (0..row.columns().len()).map(|i| row.row.get_ref(i).unwrap());
                let values: Vec<rusqlite::types::Value> =
                    values.map(|value| value.try_into().unwrap()).collect();
                plain
                    .execute(
                        &format!("INSERT INTO {name} VALUES ({marks})"),
                        rusqlite::params_from_iter(values),
                    )
                    .unwrap();
                Ok(())
            })
            .unwrap();
    }
    plain
}

/// Rows of a plain connection.
fn plain_rows(plain: &Connection, sql: &str) -> Vec<Vec<Owned>> {
    let mut statement = plain.prepare(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let columns = statement.column_count();
    let mut rows = statement.query([]).unwrap();
    let mut all = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        all.push(
            (0..columns)
                .map(|i| match row.get_ref(i).unwrap() {
                    ValueRef::Null => Owned::Null,
                    ValueRef::Integer(n) => Owned::Integer(n),
                    ValueRef::Real(n) => Owned::Real(n),
                    ValueRef::Text(text) => Owned::Text(String::from_utf8(text.to_vec()).unwrap()),
                    ValueRef::Blob(bytes) => Owned::Blob(bytes.to_vec()),
                })
                .collect(),
        );
    }
    all
}

fn constraint(random: &mut Random, of_log: bool) -> String {
    let column = if of_log { random.of(&["key", "key", "offset", "ts", "rowid"]) } else { "key" };
    let op = random.of(&["=", "<", "<=", ">", ">=", "<>", "IS"]);
    if column != "key" {
        let value = random.of(&[
            "0",
            "5",
            "17",
            "60",
            "-3",
            "5.5",
            "1e30",
            "-1e30",
            "'7'",
            "'x'",
            "x'07'",
            "NULL",
            "9223372036854775807",
            "-9223372036854775808",
        ]);
        return match random.below(4) {
            0 => format!("{column} BETWEEN {value} AND 40"),
            1 => format!("{column} IN ({value}, 3, 9)"),
            _ => format!("{column} {op} {value}"),
        };
    }
    let (one, other) = (literal(&random.key()), literal(&random.key()));
    match random.below(12) {
        0 => format!("key BETWEEN {one} AND {other}"),
        1 => format!("key IN ({one}, {other}, 'a', NULL)"),
        2 | 3 => format!("key GLOB {one} || '{}'", random.of(&["*", "", "?", "[ab]*"])),
        4 => format!("key LIKE {one} || '{}'", random.of(&["%", "", "_"])),
        5 => format!(
            "key GLOB '{}*'",
            random.of(&["a", "A", "1", "12", "\u{e4}", "\u{fffd}", "a\u{fffd}"])
        ),
        6 => {
            format!("key LIKE '{}%'", random.of(&["a", "A", "1", "12", "/", "\u{e4}", "\u{fffd}"]))
        }
        7 => format!("key {op} {one} COLLATE NOCASE"),
        8 => format!("key {op} {}", random.of(&["1", "12", "1.0", "NULL", "-1e30"])),
        9 => format!("NOT key {op} {one}"),
        _ => format!("key {op} {one}"),
    }
}

#[test]
fn what_is_pushed_down_gives_the_rows_that_sqlite_alone_would() {
    for seed in 0..6 {
        let mut random = Random(seed);
        let place = Place::new();
        for _ in 0..80 {
            let (key, value) = (random.key(), random.key());
            let record = match random.below(5) {
                0 => Record::delete(&key),
                1 => Record::event(&value),
                2 => Record::keyed_event(&key, &value),
                _ => Record::put(&key, &value),
            };
            place.log.append(&record.at(random.below(70) as i64 - 3)).unwrap();
        }
        let database = place.database();
        let plain = plain(&database);
        for _ in 0..700 {
            let of_log = random.below(2) == 0;
            let name = if of_log { "log" } else { "kv" };
            let count = 1 + random.below(3);
            let clauses: Vec<String> =
                (0..count).map(|_| constraint(&mut random, of_log)).collect();
            let clause = clauses.join(random.of(&[" AND ", " AND ", " OR "]));
            // rowid is the offset here, and something else there.
            let clause = clause.replace("rowid", "offset");
            let order = match (of_log, random.below(4)) {
                (_, 0) => "ORDER BY key, offset",
                (_, 1) => "ORDER BY key DESC, offset",
                (true, 2) => "ORDER BY offset",
                (true, _) => "ORDER BY offset DESC",
                (false, _) => "ORDER BY key COLLATE NOCASE, offset",
            };
            let limit = random.of(&["", "", "LIMIT 3", "LIMIT 5 OFFSET 2"]);
            let sql = format!("SELECT * FROM {name} WHERE {clause} {order} {limit}");
            assert_eq!(rows(&database, &sql), plain_rows(&plain, &sql), "seed {seed}: {sql}");
        }
        for sql in [
            "SELECT kv.key, log.offset FROM kv JOIN log ON log.key = kv.key ORDER BY 1, 2",
            "SELECT kv.key, log.offset FROM kv LEFT JOIN log ON log.offset = kv.offset \
             AND log.ts > 9 ORDER BY kv.offset",
            "SELECT l.offset, kv.key FROM log l JOIN kv ON kv.key = l.offset ORDER BY 1",
            "SELECT key, count(*) FROM log GROUP BY key ORDER BY key",
            "SELECT DISTINCT key FROM kv ORDER BY key DESC",
            "SELECT key FROM kv WHERE (key, offset) > ('a', 5) ORDER BY key",
            "SELECT max(key), min(key) FROM kv",
        ] {
            assert_eq!(rows(&database, sql), plain_rows(&plain, sql), "seed {seed}: {sql}");
        }
    }
}

#[test]
fn keys_come_in_sqlites_order_whether_all_are_text_or_not() {
    let place = Place::new();
    for key in [&b"b"[..], b"a", b"c"] {
        place.put(key, b"");
    }
    let database = place.database();
    for _ in 0..2 {
        assert_eq!(texts(&database, "SELECT key FROM kv ORDER BY key DESC"), ["c", "b", "a"]);
        assert_eq!(texts(&database, "SELECT key FROM kv WHERE key > 'a'"), ["b", "c"]);
        assert_eq!(texts(&database, "SELECT key FROM kv"), ["a", "b", "c"]);
    }
    place.put(b"a\xff", b"");
    let database = place.database();
    for _ in 0..2 {
        let all = rows(&database, "SELECT hex(key) FROM kv WHERE key > 'a' ORDER BY key");
        assert_eq!(
            all,
            [[Owned::Text("62".into())], [Owned::Text("63".into())], [Owned::Text("61FF".into())]]
        );
        assert_eq!(texts(&database, "SELECT hex(key) FROM kv ORDER BY key DESC")[0], "61FF");
    }
}

#[test]
fn whatever_does_more_than_read_is_refused_in_words() {
    let place = Place::new();
    place.put(b"k", b"v");
    let database = place.database();
    for sql in [
        "INSERT INTO kv VALUES ('a', 'b', 1, 1)",
        "UPDATE kv SET value = ''",
        "DELETE FROM log",
        "CREATE TABLE t(x)",
        "CREATE TEMP TABLE t AS SELECT 1",
        "CREATE VIEW v AS SELECT 1",
        "CREATE VIRTUAL TABLE t USING tidelog_kv",
        "DROP TABLE kv",
        "ALTER TABLE kv RENAME TO x",
        "ATTACH '/tmp/tidelog-never.db' AS other",
        "DETACH main",
        "VACUUM",
        "VACUUM INTO '/tmp/tidelog-never.db'",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA case_sensitive_like = 1",
        "PRAGMA writable_schema = 1",
        "BEGIN",
        "SAVEPOINT s",
        "ANALYZE",
        "REINDEX",
        "SELECT load_extension('x')",
        "EXPLAIN DELETE FROM kv",
        "WITH t AS (SELECT 1) DELETE FROM kv",
    ] {
        let error = error(&database, sql);
        assert_eq!(error.kind(), Kind::InvalidInput, "{sql}: {error}");
        assert!(error.message().contains("expected a statement that reads"), "{sql}: {error}");
    }
    assert!(!Path::new("/tmp/tidelog-never.db").exists());
    for sql in [
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE kv",
        "",
        " ;",
        "-- nothing",
        "SELECT ?",
        "SELECT 1\0",
    ] {
        let error = error(&database, sql);
        assert_eq!(error.kind(), Kind::InvalidInput, "{sql}: {error}");
    }
    let error = error(&database, "SELECT key\nFROM kv WHERE keyy = 1");
    assert!(error.to_string().contains("no such column: keyy at line 2, column 15"), "{error}");
    assert!(
        self::error(&database, "SELEC 1")
            .to_string()
            .contains("near \"SELEC\": syntax error at line 1, column 1")
    );
    assert_eq!(rows(&database, "SELECT name FROM pragma_table_info('kv')").len(), 4);
    assert_eq!(rows(&database, "SELECT 1; -- and no more").len(), 1);
    assert_eq!(texts(&database, "SELECT key FROM kv"), ["k"]);
}

#[test]
fn a_query_stops_when_it_is_told_to() {
    let place = Place::new();
    let mut batch = Batch::new();
    for i in 0..3000u32 {
        batch.push(&Record::put(&i.to_le_bytes(), b"v")).unwrap();
    }
    place.log.append_with(&batch, &Append::default()).unwrap();
    let database = place.database();
    let handle = database.interrupt_handle();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let mut seen = 0;
    let stopped = database.query(endless, |_| {
        seen += 1;
        if seen == 10 {
            handle.interrupt();
        }
        Ok(())
    });
    assert_eq!(stopped.unwrap_err().kind(), Kind::Interrupted);
    // One that passes over records alone runs little of SQLite's own.
    handle.interrupt();
    assert_eq!(error(&database, "SELECT * FROM log WHERE key = 'none'").kind(), Kind::Interrupted);
    assert_eq!(rows(&database, "SELECT * FROM log WHERE key = 'none'").len(), 0);
    static FLAG: AtomicBool = AtomicBool::new(false);
    database.interrupt_on(&FLAG);
    FLAG.store(true, Release);
    assert_eq!(error(&database, "SELECT count(*) FROM kv").kind(), Kind::Interrupted);
    FLAG.store(false, Release);
    assert_eq!(rows(&database, "SELECT count(*) FROM kv"), [[Owned::Integer(3000)]]);
    let refused = Error::new(Kind::Rejected, "enough");
    let mine = database.query("SELECT 1", |_| Err(refused.clone())).unwrap_err();
    assert_eq!(mine.kind(), Kind::Rejected);
}

#[test]
fn errors_of_the_log_keep_their_kind() {
    let place = Place::new();
    for i in 0..20u8 {
        place.put(&[i], &[b'v'; 100]);
    }
    let database = place.database();
    let file = place.log.segments()[0].path.clone();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = 4096 + 200;
    for byte in &mut bytes[middle..middle + 600] {
        *byte ^= 0x55;
    }
    std::fs::write(&file, bytes).unwrap();
    let error = error(&database, "SELECT count(*), sum(length(value)) FROM log");
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert_eq!(error.file(), Some(&*file));
    assert_eq!(rows(&database, "SELECT count(*) FROM kv"), [[Owned::Integer(20)]]);
}

#[test]
fn a_view_of_another_log_is_refused() {
    let (one, other) = (Place::new(), Place::new());
    one.put(b"k", b"v");
    one.table.catch_up(&one.log).unwrap();
    let error = Database::open(one.table.view(), Arc::clone(&other.log)).unwrap_err();
    assert_eq!(error.kind(), Kind::NotInHistory);
    fn sendable<T: Send>(_: &T) {}
    sendable(&one.database());
}

#[test]
fn the_last_record_of_every_key_is_its_row() {
    let place = Place::new();
    let mut random = Random(9);
    let mut model = BTreeMap::new();
    for i in 0..500u32 {
        let key = random.key();
        place.put(&key, &i.to_le_bytes());
        model.insert(key, i64::from(i));
    }
    let database = place.database();
    let from_log = "SELECT key, max(offset) FROM log GROUP BY key ORDER BY key";
    assert_eq!(
        rows(&database, from_log),
        rows(&database, "SELECT key, offset FROM kv ORDER BY key")
    );
    let by_view = place.table.view().collect(&Scan::all()).unwrap();
    assert_eq!(by_view.len(), model.len());
    for (key, offset) in model {
        let sql = format!("SELECT offset FROM kv WHERE key = {}", literal(&key));
        assert_eq!(rows(&database, &sql), [[Owned::Integer(offset)]], "{sql}");
    }
}

#[test]
fn the_last_records_come_first_across_pieces_of_any_size() {
    let place = Place::new();
    let mut random = Random(3);
    let mut batch = Batch::new();
    for i in 0..12_000_usize {
        let value = vec![b'v'; if i % 1000 == 7 { 300_000 } else { i % 10 }];
        let key = [b'k', b'0' + random.below(10) as u8];
        batch.push(&Record::put(&key, &value).at(random.below(100) as i64)).unwrap();
        if batch.len() == 500 {
            place.log.append_with(&batch, &Append::default()).unwrap();
            batch.clear();
        }
    }
    let database = place.database();
    for clause in ["1", "key = 'k3'", "ts > 50 AND offset < 11990", "offset BETWEEN 4000 AND 4001"]
    {
        let order = |down| {
            format!(
                "SELECT offset, key, length(value) FROM log WHERE {clause} ORDER BY offset {down}"
            )
        };
        let mut upwards = rows(&database, &order(""));
        upwards.reverse();
        assert_eq!(rows(&database, &order("DESC")), upwards, "{clause}");
        upwards.truncate(20);
        assert_eq!(rows(&database, &format!("{} LIMIT 20", order("DESC"))), upwards, "{clause}");
    }
}

#[test]
fn records_lost_to_damage_have_no_rows_and_are_told() {
    use crate::frame::{FrameKind, HEADER_BYTES, Header, Lost, NO_CLAIM, encode};
    use crate::segment::SegmentHeader;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = Log::options().create(true).segment_bytes(MIN_SEGMENT_BYTES).open(&path).unwrap();
    for i in 0..10u8 {
        log.append(&Record::put(&[b'k', b'0' + i], &[i; 100])).unwrap();
    }
    log.close().unwrap();
    // What a repair does to frames 3 and 4.
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
    let log = Arc::new(Log::options().open(&path).unwrap());
    let table = Table::from_log(&log).unwrap();
    let database = Database::open(table.view(), Arc::clone(&log)).unwrap();
    for order in ["", "DESC"] {
        let sql = format!("SELECT key FROM log ORDER BY offset {order}");
        assert_eq!(texts(&database, &sql).len(), 8);
    }
    assert_eq!(database.lost(), [Offset(3)..Offset(4), Offset(4)..Offset(5)]);
    let mut sink = SqliteSink::open(dir.path().join("rows.db"), log.id()).unwrap();
    sink.catch_up(&log).unwrap();
    assert_eq!(sink.lost().unwrap(), database.lost());
    assert_eq!(sink.applied(), table.applied());
}
