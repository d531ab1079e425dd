//! Nodes over HTTP, in this process and as the real binary.

mod archived;
mod bootstrap;
#[cfg(feature = "cli")]
mod chained;
mod delayed;
#[cfg(feature = "cli")]
mod hostile;
mod interface;
mod paused;
mod pulling;
#[cfg(feature = "cli")]
mod routed;
mod secured;
#[cfg(feature = "cli")]
mod slots;
mod stale;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tidelog::log::MIN_SEGMENT_BYTES;
use tidelog::server::{Server, ServerOptions};
use tidelog::ship::{Client, Credentials, Reply};
use tidelog::{Batch, Log, Record, Table};

const NOW: Duration = Duration::ZERO;

/// A directory, and a leader that serves a log in it.
struct Leader {
    dir: tempfile::TempDir,
    server: Option<Server>,
    appended: u64,
}

impl Leader {
    fn new() -> Self {
        let mut leader = Leader { dir: tempfile::tempdir().unwrap(), server: None, appended: 0 };
        leader.start(options());
        leader
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&mut self, options: ServerOptions) {
        let log = Log::options().create(true).segment_bytes(MIN_SEGMENT_BYTES);
        let log = log.open(self.path("leader")).unwrap();
        let table = Table::options().open(&log).unwrap();
        self.server = Some(options.bind().unwrap().lead(log, table).unwrap());
    }

    fn stop(&mut self) {
        self.server.take().unwrap().stop().unwrap();
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn client(&self) -> Client {
        client(self.server().url())
    }

    /// Appends batches with values of `size` bytes over a few keys.
    fn append(&mut self, batches: usize, size: usize) {
        for _ in 0..batches {
            let mut batch = Batch::new();
            for _ in 0..1 + self.appended % 3 {
                let key = format!("key {}", self.appended * 7 % 40);
                let value = format!("{} ", self.appended).repeat(size / 8 + 1);
                batch.push(&Record::put(key.as_bytes(), value.as_bytes())).unwrap();
                self.appended += 1;
            }
            self.server().log().append_batch(&batch).unwrap();
        }
    }
}

fn options() -> ServerOptions {
    ServerOptions::default().listen("127.0.0.1:0".parse().unwrap()).name("leader".into())
}

fn client(url: &str) -> Client {
    Client::new(url, Credentials::default()).unwrap()
}

fn get(client: &Client, path: &str) -> (u16, Value) {
    answer(client.get(path, &[], Duration::from_secs(10)).unwrap())
}

fn post(client: &Client, path: &str, body: &str) -> (u16, Value) {
    answer(client.post(path, &[], body.as_bytes(), NOW).unwrap())
}

/// Status and body; lines of JSON become a list.
fn answer(reply: Reply) -> (u16, Value) {
    let status = reply.status;
    let body = reply.bytes(64 << 20).unwrap();
    let text = String::from_utf8(body).unwrap();
    let parsed = serde_json::from_str(&text).unwrap_or_else(|_| {
        let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| Value::from(line));
        Value::from(text.lines().map(line).collect::<Vec<Value>>())
    });
    (status, parsed)
}

/// Looks until something holds, at most twenty seconds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A copy equals the leader: files byte for byte, and the tables' digests.
fn same(leader: &Leader, copy: &Path) {
    crate::follow::leader::same_segments(&leader.path("leader"), copy);
    let log = Log::options().read_only(true).open(copy).unwrap();
    assert_eq!(log.end(), leader.server().log().end());
    let table = Table::from_log(&log).unwrap();
    let theirs = Table::from_log(leader.server().log()).unwrap();
    assert_eq!(table.digest().unwrap(), theirs.digest().unwrap());
}
