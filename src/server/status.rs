//! `/v1/status`: this node, those that pull from it, and what happened lately.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::frame::Mode;
use crate::log::Claim;
use crate::position::{Id, Position};
use crate::replica::Leader;
use crate::ship::LinkState;
use crate::text::slot_row;

use super::apply;
use super::archive::View;
use super::helm;
use super::members;
use super::node::Node;

/// The state of a node, as JSON shows it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Status {
    pub(super) log: String,
    pub(super) node: String,
    pub(super) name: String,
    pub(super) role: &'static str,
    pub(super) state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trouble: Option<String>,
    pub(super) epoch: u64,
    pub(super) epoch_nonce: String,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) durable: u64,
    pub(super) written: u64,
    pub(super) committed: u64,
    /// Mode, members and degraded spells, of a leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replication: Option<serde_json::Value>,
    /// Of a leader that publishes its log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) archive: Option<View>,
    /// Of a node that may change its role: the seat, why nobody leads, what a failover now would cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) failover: Option<Failover>,
    pub(super) applied: u64,
    pub(super) log_byte: u64,
    pub(super) log_bytes: u64,
    pub(super) segments: u64,
    pub(super) poisoned: bool,
    pub(super) disk_full: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<String>,
    /// Where a follower stops applying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pause_at: Option<String>,
    /// Of a follower with several sources each of them, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) sources: Vec<Link>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) leader: Option<String>,
    pub(super) uptime_s: u64,
    pub(super) time: String,
    pub(super) version: &'static str,
    /// This node first.
    pub(super) nodes: Vec<Row>,
    /// What holds a leader's log, also for those that have not been heard of since it started.
    pub(super) slots: Vec<serde_json::Value>,
    pub(super) events: Vec<Event>,
}

/// One node.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) node: String,
    pub(super) role: &'static str,
    pub(super) state: String,
    pub(super) epoch: u64,
    pub(super) received: u64,
    pub(super) durable: u64,
    /// `None` of a follower that does not say.
    pub(super) committed: Option<u64>,
    /// `None` of a follower that has not come back yet.
    pub(super) applied: Option<u64>,
    pub(super) lag_records: u64,
    pub(super) lag_bytes: u64,
    pub(super) lag_seconds: f64,
    pub(super) max_lag_records: u64,
    pub(super) max_lag_bytes: u64,
    pub(super) max_lag_seconds: f64,
    /// How old what reads of this node show may be; `None` of others, and when it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) staleness_seconds: Option<f64>,
    /// `None` for this node itself, and for a source that never answered.
    pub(super) last_contact_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<String>,
    /// What an acknowledgement of a leader means; `member` of a follower that is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mode: Option<String>,
    /// Of a leader's follower: what has become of what it needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) slot: Option<&'static str>,
    /// How many more bytes its slot may hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) slot_bytes_left: Option<u64>,
    /// Where this node itself stops applying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pause_at: Option<String>,
    /// Where this node itself pulls from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<String>,
}

/// What a failover now would cost, and who has a say.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Failover {
    #[serde(flatten)]
    stands: helm::Shown,
    /// Acknowledged records that nobody else is known to have; `None` when nobody knows.
    loss_records: Option<u64>,
}

/// One of several sources.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Link {
    source: String,
    in_use: bool,
    /// Why it was passed over.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

impl From<&LinkState> for Link {
    fn from(link: &LinkState) -> Self {
        Link { source: link.place.clone(), in_use: link.in_use, trouble: link.trouble.clone() }
    }
}

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Event {
    time: String,
    what: String,
}

impl Status {
    /// Reads it; it takes no lock that appends take for long, and no disk.
    pub(super) fn read(node: &Node) -> Self {
        let stats = node.log.stats();
        let position = node.log.durable_position();
        let now = node.now();
        let trouble = node.trouble();
        let applied = node.table.applied().map_or(0, |position| position.offset.0);
        let (listed, _) = node.shelf.list(crate::position::LogByte(0), usize::MAX);
        let shown = node.gauge.as_ref().map(|gauge| gauge.read());
        let role = if node.leads() { "leader" } else { "follower" };
        let standing = node.leader.as_ref().map(Leader::standing);
        let degraded = standing.as_ref().is_some_and(|standing| standing.degraded.is_some());
        let stands = node.helm.shown();
        let state = if stats.poisoned {
            "poisoned"
        } else if stats.disk_full {
            "disk_full"
        } else if node.archive.as_ref().is_some_and(|archive| archive.is_fenced()) {
            "fenced"
        } else if trouble.is_some() {
            "troubled"
        } else if shown.as_ref().is_some_and(|shown| shown.paused) {
            "paused"
        } else if degraded {
            "degraded"
        } else if let Some(undecided) =
            stands.state.filter(|state| !node.leads() || *state == "outbid")
        {
            undecided
        } else if node.leads() {
            "leading"
        } else {
            "following"
        };
        let mut own = Row {
            name: node.name.clone(),
            node: stats.node.to_string(),
            role,
            state: state.to_owned(),
            epoch: stats.epoch.number,
            received: stats.written.0,
            durable: stats.durable.0,
            committed: Some(node.home.committed().1.0),
            applied: Some(applied),
            lag_records: 0,
            lag_bytes: 0,
            lag_seconds: 0.0,
            max_lag_records: 0,
            max_lag_bytes: 0,
            max_lag_seconds: 0.0,
            staleness_seconds: node.staleness().map(|age| age.as_secs_f64()),
            last_contact_seconds: None,
            address: node.address.get().cloned(),
            mode: standing.as_ref().map(|standing| standing.mode.to_string()),
            slot: None,
            slot_bytes_left: None,
            pause_at: shown.as_ref().and_then(|shown| shown.pause_at).map(apply::shown),
            source: shown.as_ref().map(|shown| shown.source.clone()),
        };
        if let Some(shown) = &shown {
            own.received = shown.report.received.offset.0;
            own.lag_records = shown.lag.records;
            own.lag_bytes = shown.lag.bytes;
            let contact = shown.contact.map(|contact| seconds(now - contact));
            // A source that does not answer may have gone on: the time since then counts.
            own.lag_seconds = match contact {
                Some(silent) if silent > SILENT_SECONDS => shown.lag_seconds + silent,
                _ => shown.lag_seconds,
            };
            own.max_lag_records = shown.max_lag_records;
            own.max_lag_bytes = shown.max_lag_bytes;
            own.max_lag_seconds = shown.max_lag_seconds.max(own.lag_seconds);
            own.last_contact_seconds = contact;
        }
        let durable = (position.log_byte.0, position.offset.0);
        let followers = node.followers.list(now, durable);
        // An error is among the events.
        let slots = if node.leads() { node.log.slots().unwrap_or_default() } else { Vec::new() };
        let mode_of = |id: &Id| {
            let is_member = standing.as_ref().is_some_and(|standing| standing.members.contains(id));
            is_member.then(|| "member".to_owned())
        };
        let heard: BTreeSet<Id> = followers.iter().map(|(id, ..)| *id).collect();
        let loss_records = match (&standing, &shown) {
            (Some(standing), _) if matches!(standing.mode, Mode::Sync { .. } | Mode::Archive) => {
                Some(0)
            }
            (Some(_), _) => followers.iter().map(|(_, _, lags)| lags.records).min(),
            (None, shown) => shown.as_ref().map(|shown| shown.lag.records),
        };
        let failover = node.helm.manned.then_some(Failover { stands, loss_records });
        let slot_of = |id| slots.iter().find(|slot| slot.claim.node == id);
        let followers = followers.into_iter().map(|(id, seen, lags)| {
            let offset = |at: Position| at.offset.0;
            Row {
                name: seen.name,
                node: id.to_string(),
                role: "follower",
                state: seen.state.to_owned(),
                epoch: seen.report.durable.epoch.number,
                received: offset(seen.report.received),
                durable: offset(seen.report.durable),
                committed: None,
                applied: Some(offset(seen.report.applied)),
                lag_records: lags.records,
                lag_bytes: lags.bytes,
                lag_seconds: lags.seconds,
                max_lag_records: seen.most.records,
                max_lag_bytes: seen.most.bytes,
                max_lag_seconds: seen.most.seconds,
                staleness_seconds: None,
                last_contact_seconds: Some(seconds(now - seen.contact)),
                address: seen.address,
                mode: mode_of(&id),
                slot: slot_of(id).map(|slot| slot.state.word()),
                slot_bytes_left: slot_of(id).and_then(|slot| slot.bytes_left),
                pause_at: None,
                source: None,
            }
        });
        // Who has a slot and was not heard of since this node started.
        let away = slots.iter().filter(|slot| !heard.contains(&slot.claim.node)).map(|slot| {
            let Claim { node: id, name, position: at, .. } = &slot.claim;
            let lags = node.followers.lags(*at, now, durable);
            Row {
                name: name.clone(),
                node: id.to_string(),
                role: "follower",
                state: "away".to_owned(),
                epoch: at.epoch.number,
                received: at.offset.0,
                durable: at.offset.0,
                committed: None,
                applied: None,
                lag_records: lags.records,
                lag_bytes: lags.bytes,
                lag_seconds: lags.seconds,
                max_lag_records: lags.records,
                max_lag_bytes: lags.bytes,
                max_lag_seconds: lags.seconds,
                staleness_seconds: None,
                last_contact_seconds: Some(seconds(now - slot.seen)),
                address: None,
                mode: mode_of(id),
                slot: Some(slot.state.word()),
                slot_bytes_left: slot.bytes_left,
                pause_at: None,
                source: None,
            }
        });
        Status {
            log: stats.id.to_string(),
            node: stats.node.to_string(),
            name: node.name.clone(),
            role,
            state: state.to_owned(),
            trouble,
            epoch: stats.epoch.number,
            epoch_nonce: format!("{:016x}", stats.epoch.nonce),
            start: stats.start.0,
            end: stats.end.0,
            durable: stats.durable.0,
            written: stats.written.0,
            committed: node.home.committed().1.0,
            replication: node.leader.as_ref().map(members::shown),
            archive: node.archive.as_ref().map(|archive| archive.view(node, durable)),
            failover,
            applied,
            log_byte: position.log_byte.0,
            log_bytes: listed.iter().map(|segment| segment.bytes).sum(),
            segments: listed.len() as u64,
            poisoned: stats.poisoned,
            disk_full: stats.disk_full,
            sources: shown.iter().flat_map(|shown| &shown.sources).map(Link::from).collect(),
            pause_at: shown.as_ref().and_then(|shown| shown.pause_at).map(apply::shown),
            source: shown.map(|shown| shown.source),
            leader: node.leader_address(),
            uptime_s: node.started.elapsed().as_secs(),
            time: crate::text::format_time(now),
            version: env!("CARGO_PKG_VERSION"),
            nodes: std::iter::once(own).chain(followers).chain(away).collect(),
            slots: slots.iter().map(|slot| slot_row(slot).into()).collect(),
            events: node
                .helm
                .events
                .list()
                .into_iter()
                .map(|(time, what)| Event { time: crate::text::format_time(time), what })
                .collect(),
        }
    }
}

/// A source that has said nothing for so long is taken to be away.
const SILENT_SECONDS: f64 = 5.0;

#[expect(clippy::cast_precision_loss, reason = "told to the millisecond")]
fn seconds(nanos: i64) -> f64 {
    (nanos.max(0) / 1_000_000) as f64 / 1e3
}
