//! What an answer means for who asked: done, open, elsewhere, refused. Pure.
//!
//! Invariants:
//! - `Open` whenever the node may have appended and did not say so: an answer that broke off, one that makes no
//!   sense, a level that was not reached in time;
//! - `Elsewhere` only where the node said itself that it appended nothing.

use serde::Deserialize;

use crate::error::{Error, Kind};
use crate::position::{Epoch, Id, Offset, Token};
use crate::ship::{Unanswered, answered};

use super::Acked;
use super::world::Answer;

/// What a leader's good answer says, with its log and epoch.
pub(super) type Led<T> = (T, Id, Epoch);

/// What a node made of a question for the leader.
#[derive(Debug)]
pub(super) enum Said<T> {
    /// It is done, by a leader of this log and epoch.
    Done(T, Id, Epoch),
    /// Nothing was done here; perhaps it says who leads.
    Elsewhere { why: Error, leader: Option<String> },
    /// It may have been done, and was not acknowledged.
    Open { why: Error, token: Option<Token> },
    /// Nothing was done, and asking others would not change that.
    Refused(Error),
    /// No answer, or none of a node; nothing was done.
    Dead(Error),
}

/// A node's error, as far as it matters here.
#[derive(Default, Deserialize)]
struct Wrapped {
    error: Option<Word>,
}

#[derive(Default, Deserialize)]
struct Word {
    #[serde(default)]
    kind: String,
    leader: Option<String>,
    token: Option<String>,
}

/// Why a node takes nothing now that says itself that it appended nothing.
const TAKES_NOTHING: [&str; 11] = [
    "wrong_log",
    "not_leader",
    "fenced",
    "busy",
    "poisoned",
    "closed",
    "disk_full",
    "read_only",
    "locked",
    "unclean",
    "stale",
];

impl<T> Said<T> {
    /// Reads an answer; `done` reads what stands in a good one.
    pub(super) fn read(
        answer: Result<Answer, Unanswered>,
        done: impl FnOnce(&[u8]) -> Option<Led<T>>,
    ) -> Self {
        let answer = match answer {
            Ok(answer) => answer,
            Err(Unanswered { arrived: true, why }) => return Said::Open { why, token: None },
            Err(Unanswered { why, .. }) => return Said::Dead(why),
        };
        let Answer { place, status, location, body, .. } = &answer;
        if (200..300).contains(status) {
            return match done(body) {
                Some((done, log, epoch)) => Said::Done(done, log, epoch),
                None => Said::Open {
                    why: Error::new(
                        Kind::Io,
                        format!("expected an acknowledgement from {place}, found something else"),
                    )
                    .help("is that a tidelog node of this version?"),
                    token: None,
                },
            };
        }
        let why = answered(place, *status, location.as_deref(), body);
        let word = serde_json::from_slice::<Wrapped>(body).ok().and_then(|said| said.error);
        let Some(word) = word else {
            // Something else than a node: a proxy, or what comes before one.
            return match status {
                300..400 => Said::Elsewhere { why, leader: location.as_deref().and_then(origin) },
                400..500 if *status != 408 => Said::Dead(why),
                _ => Said::Open { why, token: None },
            };
        };
        let takes_nothing = TAKES_NOTHING.contains(&word.kind.as_str())
            || word.kind == "rejected" && *status == 503;
        match status {
            300..400 => {
                let leader = word.leader.or_else(|| location.as_deref().and_then(origin));
                Said::Elsewhere { why, leader }
            }
            _ if takes_nothing => Said::Elsewhere { why, leader: word.leader },
            // What it cannot do, another try does not change; but a request that came too slowly may have worked.
            _ if *status == 501 || (400..500).contains(status) && *status != 408 => {
                Said::Refused(why)
            }
            _ => Said::Open { why, token: word.token.and_then(|token| token.parse().ok()) },
        }
    }
}

/// Who leads, as an answer says that sends on to it.
pub(super) fn leader(answer: &Answer) -> Option<String> {
    let said: Wrapped = serde_json::from_slice(&answer.body).unwrap_or_default();
    let named = said.error.and_then(|word| word.leader);
    named.or_else(|| answer.location.as_deref().and_then(origin))
}

/// The address in front of a path.
fn origin(location: &str) -> Option<String> {
    let (scheme, rest) = location.split_once("://")?;
    Some(format!("{scheme}://{}", rest.split('/').next()?))
}

#[derive(Deserialize)]
struct Leads {
    epoch: u64,
    epoch_nonce: String,
}

impl Leads {
    fn epoch(&self) -> Option<Epoch> {
        let nonce = u64::from_str_radix(&self.epoch_nonce, 16).ok()?;
        Some(Epoch { number: self.epoch, nonce })
    }
}

/// An acknowledged append.
pub(super) fn acked(body: &[u8]) -> Option<Led<Acked>> {
    #[derive(Deserialize)]
    struct Reply {
        first_offset: u64,
        last_offset: u64,
        token: String,
        level: String,
        copies: u64,
        duplicate: bool,
        #[serde(flatten)]
        leads: Leads,
    }
    let reply: Reply = serde_json::from_slice(body).ok()?;
    let token: Token = reply.token.parse().ok()?;
    let Reply { first_offset, last_offset, level, copies, duplicate, leads, .. } = reply;
    // A level that this version does not know is no promise it could pass on.
    let known = ["buffered", "written", "durable", "replicated", "applied", "archived"];
    if first_offset > last_offset || !known.contains(&level.as_str()) {
        return None;
    }
    let acked = Acked {
        first: Offset(first_offset),
        last: Offset(last_offset),
        token,
        level,
        copies,
        duplicate,
    };
    Some((acked, token.log, leads.epoch()?))
}

/// How far the appends under a key are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    /// The sequence of the last one.
    pub sequence: u64,
    /// Its first record.
    pub first: Offset,
    /// Its last record.
    pub last: Offset,
    /// Whether it is committed: what is not may be lost with its leader.
    pub shown: bool,
}

pub(super) fn produced(body: &[u8]) -> Option<Led<Option<Produced>>> {
    #[derive(Deserialize)]
    struct Reply {
        sequence: Option<u64>,
        first_offset: Option<u64>,
        last_offset: Option<u64>,
        shown: Option<bool>,
        log: String,
        #[serde(flatten)]
        leads: Leads,
    }
    let reply: Reply = serde_json::from_slice(body).ok()?;
    let known = match (reply.sequence, reply.first_offset, reply.last_offset, reply.shown) {
        (Some(sequence), Some(first), Some(last), Some(shown)) => {
            Some(Produced { sequence, first: Offset(first), last: Offset(last), shown })
        }
        _ => None,
    };
    Some((known, reply.log.parse().ok()?, reply.leads.epoch()?))
}

/// The addresses in a node's status: who leads, and everybody.
pub(super) fn addresses(body: &[u8]) -> Option<(Option<String>, Vec<String>)> {
    #[derive(Deserialize)]
    struct Status {
        leader: Option<String>,
        nodes: Vec<Row>,
    }
    #[derive(Deserialize)]
    struct Row {
        address: Option<String>,
    }
    let status: Status = serde_json::from_slice(body).ok()?;
    Some((status.leader, status.nodes.into_iter().filter_map(|row| row.address).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, location: Option<&str>, body: &str) -> Said<Acked> {
        let answer = Answer {
            place: "http://a:1/v1/records".into(),
            status,
            location: location.map(str::to_owned),
            token: None,
            body: body.as_bytes().to_vec(),
        };
        Said::read(Ok(answer), acked)
    }

    #[test]
    fn only_what_says_that_nothing_was_appended_is_asked_of_others_without_doubt() {
        let error = |kind: &str| format!(r#"{{"error":{{"kind":"{kind}","message":"m"}}}}"#);
        for (status, kind) in [
            (503, "not_leader"),
            (503, "fenced"),
            (503, "rejected"),
            (503, "busy"),
            (507, "disk_full"),
        ] {
            let said = read(status, None, &error(kind));
            assert!(matches!(said, Said::Elsewhere { leader: None, .. }), "{kind}: {said:?}");
        }
        for (status, kind) in [(503, "unknown"), (500, "io"), (500, "corrupt"), (408, "slow")] {
            let said = read(status, None, &error(kind));
            assert!(matches!(said, Said::Open { .. }), "{kind}: {said:?}");
        }
        for (status, kind) in [
            (412, "rejected"),
            (400, "invalid_input"),
            (401, "unauthorized"),
            (501, "not_supported"),
        ] {
            assert!(matches!(read(status, None, &error(kind)), Said::Refused(_)), "{kind}");
        }
        assert!(matches!(read(404, None, "<html>"), Said::Dead(_)));
        assert!(matches!(read(502, None, "<html>"), Said::Open { .. }));
        assert!(matches!(read(200, None, "<html>"), Said::Open { .. }));
        assert!(matches!(read(200, None, "{}"), Said::Open { .. }));
    }

    #[test]
    fn the_leader_stands_in_the_error_or_in_the_location() {
        let body = r#"{"error":{"kind":"not_leader","message":"m","leader":"http://b:1"}}"#;
        for (location, body, leader) in [
            (None, body, Some("http://b:1")),
            (Some("http://c:1/v1/records?level=durable"), "", Some("http://c:1")),
            (Some("http://c:1/v1/records"), body, Some("http://b:1")),
            (Some("/elsewhere"), "", None),
        ] {
            let Said::Elsewhere { leader: found, .. } = read(307, location, body) else {
                panic!("{location:?}")
            };
            assert_eq!(found.as_deref(), leader);
        }
    }
}
