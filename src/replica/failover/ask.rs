//! What candidates and nodes say to each other: one question, one answer.
//!
//! The question is for a promise, or only how the node is; the answer says what it has promised by then and
//! how far it is. Whether the promise was given is read off the answer: it is that of the question.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::frame::{Mode, SyncSet};
use crate::log::files::SetLine;
use crate::position::{Epoch, Id};
use crate::ship::archive::Store;
use crate::ship::protocol::{PROTOCOL_VERSION, WireEpoch, WireReport};
use crate::ship::{Report, Source};

/// A question and its answer are at most this large.
pub const MAX_ASK_BYTES: usize = 64 << 10;

/// What a candidate asks of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The log that it is about.
    pub log: Id,
    /// Who asks.
    pub node: Id,
    /// What people call it.
    pub name: String,
    /// Where it serves.
    pub address: Option<String>,
    /// The epoch that is to be promised to it; without one it only asks how the node is.
    pub epoch: Option<Epoch>,
}

/// How a node is, as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What it has promised and how far it is: what is durable there.
    pub report: Report,
    /// To whom it has promised that.
    pub owner: Option<Id>,
    /// What people call it.
    pub name: String,
    /// Where it serves.
    pub address: Option<String>,
    /// Whether it leads, and was not replaced.
    pub leads: bool,
    /// Where it knows the leader to be.
    pub leader: Option<String>,
    /// The synchronous sets of its log: the newest, behind the one before.
    pub(crate) sets: Vec<SetLine>,
    /// Whether it would lead.
    pub may_lead: bool,
    /// Of several that are as far, the highest leads.
    pub priority: u32,
    /// When it last heard from its leader, in milliseconds before now.
    pub heard_ms: Option<u64>,
}

impl Standing {
    /// The node.
    pub fn node(&self) -> Id {
        self.report.node.unwrap_or_default()
    }

    /// Whether it has promised this epoch to this node.
    pub fn grants(&self, epoch: Epoch, to: Id) -> bool {
        self.report.promise == Some(epoch) && self.owner == Some(to)
    }

    /// The mode that its log says rules.
    pub fn mode(&self) -> Mode {
        self.sets.last().map(|line| line.set.mode).unwrap_or_default()
    }

    /// Whether it may lead: its operator lets it, and the newest set that it knows.
    pub(crate) fn can_lead(&self) -> bool {
        self.may_lead && self.set().is_none_or(|set| set.lets_lead(self.node()))
    }

    /// The newest set in its log.
    pub fn set(&self) -> Option<&SyncSet> {
        self.sets.last().map(|line| &line.set)
    }

    /// The highest epoch number that it knows of.
    pub fn seen(&self) -> u64 {
        let promised = self.report.promise.map_or(0, |epoch| epoch.number);
        promised.max(self.report.durable.epoch.number)
    }
}

/// A node that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which node it is, once that is known.
    pub node: Option<Id>,
    /// Where it serves.
    pub address: String,
}

/// The other nodes, whatever carries the questions.
pub trait Peers: Send {
    /// Those that are known.
    fn known(&self) -> Vec<Peer>;

    /// Asks one of them.
    fn ask(&mut self, peer: &Peer, ask: &Ask) -> Result<Standing>;

    /// What can be pulled from one of them.
    fn source(&mut self, peer: &Peer) -> Result<Box<dyn Source>>;

    /// The archive that this node publishes to once it leads.
    fn archive(&mut self) -> Option<Arc<dyn Store>> {
        None
    }
}

#[derive(Serialize, Deserialize)]
struct WireAsk {
    version: u32,
    log: String,
    node: String,
    #[serde(default)]
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epoch: Option<WireEpoch>,
}

#[derive(Serialize, Deserialize)]
struct WireStanding {
    version: u32,
    #[serde(flatten)]
    report: WireReport,
    #[serde(default)]
    owner: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    leads: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leader: Option<String>,
    #[serde(default)]
    sets: Vec<String>,
    may_lead: bool,
    #[serde(default)]
    priority: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heard_ms: Option<u64>,
}

impl Ask {
    /// The question's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let wire = WireAsk {
            version: PROTOCOL_VERSION,
            log: self.log.to_string(),
            node: self.node.to_string(),
            name: self.name.clone(),
            address: self.address.clone(),
            epoch: self.epoch.map(WireEpoch::from),
        };
        serde_json::to_vec(&wire).expect("plain values")
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let wire: WireAsk = read(bytes, "a question for a promise")?;
        let read = || {
            Some(Ask {
                log: wire.log.parse().ok()?,
                node: wire.node.parse().ok()?,
                name: name(wire.name)?,
                address: address(wire.address)?,
                epoch: match &wire.epoch {
                    Some(epoch) => Some(epoch.read()?),
                    None => None,
                },
            })
        };
        read().ok_or_else(|| invalid("expected ids, names and epochs as tidelog writes them"))
    }
}

impl Standing {
    /// The answer's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let wire = WireStanding {
            version: PROTOCOL_VERSION,
            report: WireReport::from(&self.report),
            owner: self.owner.map(|id| id.to_string()),
            name: self.name.clone(),
            address: self.address.clone(),
            leads: self.leads,
            leader: self.leader.clone(),
            sets: self.sets.iter().map(ToString::to_string).collect(),
            may_lead: self.may_lead,
            priority: self.priority,
            heard_ms: self.heard_ms,
        };
        serde_json::to_vec(&wire).expect("plain values")
    }

    /// Reads it. A set that cannot be read must not be taken for none.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let wire: WireStanding = read(bytes, "how a node is")?;
        let read = || {
            let sets: Result<Vec<SetLine>, ()> = wire.sets.iter().map(|set| set.parse()).collect();
            Some(Standing {
                report: wire.report.read()?,
                owner: match &wire.owner {
                    Some(id) => Some(id.parse().ok()?),
                    None => None,
                },
                name: name(wire.name)?,
                address: address(wire.address)?,
                leads: wire.leads,
                leader: address(wire.leader)?,
                sets: sets.ok()?,
                may_lead: wire.may_lead,
                priority: wire.priority,
                heard_ms: wire.heard_ms,
            })
        };
        read().ok_or_else(|| {
            invalid("expected ids, sets and epochs as tidelog writes them").with_kind(Kind::Io)
        })
    }
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    if bytes.len() > MAX_ASK_BYTES {
        return Err(invalid(format!(
            "expected {what} in at most {MAX_ASK_BYTES} bytes, found {}",
            bytes.len()
        )));
    }
    let bad = |e: serde_json::Error| invalid(format!("expected {what} in JSON: {e}"));
    let Version { version } = serde_json::from_slice(bytes).map_err(bad)?;
    if version != PROTOCOL_VERSION {
        return Err(Error::new(
            Kind::NewerVersion,
            format!("expected version {PROTOCOL_VERSION} of the protocol, found {version}"),
        )
        .help("run the same version of tidelog on both nodes"));
    }
    serde_json::from_slice(bytes).map_err(bad)
}

fn name(text: String) -> Option<String> {
    (text.len() <= 200 && !text.chars().any(char::is_control)).then_some(text)
}

fn address(text: Option<String>) -> Option<Option<String>> {
    let fits = |text: &String| text.len() <= 500 && !text.chars().any(char::is_control);
    text.as_ref().is_none_or(fits).then_some(text)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidInput, message)
}
