//! `/metrics`: what a monitor draws, in the text format of Prometheus.
//!
//! Histograms and counters are kept; gauges are read when somebody asks.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::archive::View;
use super::node::Node;
use super::status::Status;

/// Seconds, from 50 µs to 6.5 s.
fn latency() -> Histogram {
    Histogram::new([
        0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0,
        5.0,
    ])
}

/// What is counted as it happens.
#[derive(Debug)]
pub(super) struct Metrics {
    appends: Histogram,
    applies: Histogram,
    fetches: Histogram,
    requests: Family<Answered, Counter>,
    appended_records: Counter,
    appended_bytes: Counter,
    shipped_bytes: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Follower {
    node: String,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Role {
    role: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            appends: latency(),
            applies: latency(),
            fetches: latency(),
            requests: Family::default(),
            appended_records: Counter::default(),
            appended_bytes: Counter::default(),
            shipped_bytes: Counter::default(),
        }
    }
}

impl Metrics {
    pub(super) fn appended(&self, took: Duration, records: u64, bytes: u64) {
        self.appends.observe(took.as_secs_f64());
        self.appended_records.inc_by(records);
        self.appended_bytes.inc_by(bytes);
    }

    pub(super) fn applied(&self, took: Duration) {
        self.applies.observe(took.as_secs_f64());
    }

    pub(super) fn fetched(&self, took: Duration) {
        self.fetches.observe(took.as_secs_f64());
    }

    pub(super) fn shipped(&self, bytes: u64) {
        self.shipped_bytes.inc_by(bytes);
    }

    pub(super) fn answered(&self, method: &str, status: u16) {
        let answered = Answered { method: method.to_owned(), status };
        self.requests.get_or_create(&answered).inc();
    }

    /// Everything as text.
    pub(super) fn text(&self, node: &Node) -> String {
        let mut registry = Registry::with_prefix("tidelog");
        let status = Status::read(node);
        gauges(&mut registry, &status);
        registry.register(
            "append_seconds",
            "Appends over HTTP, until the level asked for",
            self.appends.clone(),
        );
        registry.register("apply_seconds", "Applies to the table", self.applies.clone());
        registry.register(
            "fetch_seconds",
            "Fetches of followers, waiting not counted",
            self.fetches.clone(),
        );
        registry.register("http_requests", "Answers by status", self.requests.clone());
        registry.register(
            "appended_records",
            "Records appended over HTTP",
            self.appended_records.clone(),
        );
        registry.register(
            "appended_bytes",
            "Bytes of requests that appended",
            self.appended_bytes.clone(),
        );
        registry.register(
            "shipped_bytes",
            "Bytes of segments sent to followers",
            self.shipped_bytes.clone(),
        );
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode_registry(&mut text, &registry);
        let _ = encode_eof(&mut text);
        text
    }
}

fn gauges(registry: &mut Registry, status: &Status) {
    let mut gauge = |name: &str, help: &str, value: u64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    gauge("start_offset", "The earliest offset there is", status.start);
    gauge("end_offset", "Behind the last record that reads see", status.end);
    gauge("durable_offset", "Behind the last synced record", status.durable);
    gauge("committed_offset", "Behind the last record promised to readers", status.committed);
    gauge("written_offset", "Behind the last record in the page cache", status.written);
    gauge("applied_offset", "Behind the last record in the table", status.applied);
    gauge("log_byte", "Bytes of frames, ever", status.log_byte);
    gauge("log_bytes", "Bytes of segment files there are", status.log_bytes);
    gauge("segments", "Segment files", status.segments);
    gauge("epoch", "The newest epoch", status.epoch);
    gauge("poisoned", "1 after a failure that stopped appends", u64::from(status.poisoned));
    gauge("disk_full", "1 while a full disk holds records back", u64::from(status.disk_full));
    gauge("uptime_seconds", "Since this node was started", status.uptime_s);

    if let Some(archive) = &status.archive {
        archived(registry, archive);
    }

    let role = Family::<Role, Gauge>::default();
    for known in ["leader", "follower"] {
        role.get_or_create(&Role { role: known.to_owned() }).set(i64::from(status.role == known));
    }
    registry.register("role", "1 for the role of this node", role);

    let records = Family::<Follower, Gauge>::default();
    let bytes = Family::<Follower, Gauge>::default();
    let seconds = Family::<Follower, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
    let contact = Family::<Follower, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
    let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    // On a follower its own lag stands first; on a leader that row is always zero.
    for row in status.nodes.iter().skip(usize::from(status.role == "leader")) {
        let follower = Follower { node: row.node.clone(), name: row.name.clone() };
        records.get_or_create(&follower).set(whole(row.lag_records));
        bytes.get_or_create(&follower).set(whole(row.lag_bytes));
        seconds.get_or_create(&follower).set(row.lag_seconds);
        contact.get_or_create(&follower).set(row.last_contact_seconds.unwrap_or_default());
    }
    registry.register("lag_records", "Records a follower lacks, durably", records);
    registry.register("lag_bytes", "Bytes of frames a follower lacks", bytes);
    registry.register("lag_seconds", "How long it has lacked them", seconds);
    registry.register("last_contact_seconds", "Since a follower's last fetch", contact);
}

/// What is told of the archive; where it ends only once it has said so.
fn archived(registry: &mut Registry, archive: &View) {
    let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let mut gauge = |name: &str, help: &str, value: Option<u64>| {
        if let Some(value) = value {
            let gauge: Gauge = Gauge::default();
            gauge.set(whole(value));
            registry.register(name, help, gauge);
        }
    };
    gauge("archived_offset", "Behind the last record in the archive", archive.archived);
    gauge("archive_lag_records", "Records the archive lacks", archive.lag_records);
    gauge("archive_lag_bytes", "Bytes of frames the archive lacks", archive.lag_bytes);
    let is = |state: &str| Some(u64::from(archive.state == state));
    gauge("archive_up", "1 while the archive takes entries", is("publishing"));
    gauge("archive_fenced", "1 after a newer leader has taken over", is("fenced"));
    if let Some(seconds) = archive.lag_seconds {
        let gauge: Gauge<f64, std::sync::atomic::AtomicU64> = Gauge::default();
        gauge.set(seconds);
        registry.register("archive_lag_seconds", "How long it has lacked them", gauge);
    }
    let requests: Counter = Counter::default();
    requests.inc_by(archive.requests);
    registry.register("archive_requests", "Requests made to the archive's store", requests);
}
