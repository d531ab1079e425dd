//! Requests to etcd's JSON gateway: `POST /v3/…`, keys and values in base64, numbers as text.
//!
//! Called by the coordinator. Invariants:
//! - a request that an endpoint did not answer goes to the next one: each is such that it may be
//!   carried out twice, since transactions compare first and whoever sent one looks what stands there;
//! - an answer is read up to a limit, and believed in nothing that it does not say.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Kind, Result};
use crate::ship::{Client, Credentials, Reply};

/// An answer is at most so large.
const MAX_REPLY_BYTES: usize = 4 << 20;

/// etcd, by any of its endpoints.
#[derive(Debug)]
pub(super) struct Gateway {
    clients: Vec<Client>,
    /// The one that answered last.
    at: usize,
    place: String,
    user: Option<User>,
    token: Option<String>,
}

/// Who asks, where etcd wants to know.
#[derive(Clone)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) password: String,
}

impl std::fmt::Debug for User {
    /// Secrets stay out of every log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A key with its value and revision.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) value: Vec<u8>,
    pub(super) revision: String,
}

/// What a transaction came to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Whether everything compared was so.
    pub(super) held: bool,
    /// What each range of it found, in order.
    pub(super) ranges: Vec<Vec<Found>>,
}

#[derive(Deserialize)]
struct TxnReply {
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    responses: Vec<OpReply>,
}

#[derive(Deserialize)]
struct OpReply {
    #[serde(alias = "responseRange")]
    response_range: Option<RangeReply>,
}

#[derive(Deserialize)]
struct RangeReply {
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

#[derive(Deserialize)]
struct KeyValue {
    #[serde(default)]
    value: String,
    #[serde(alias = "modRevision")]
    mod_revision: String,
}

#[derive(Deserialize)]
struct LeaseReply {
    #[serde(rename = "ID")]
    id: Option<String>,
    #[serde(rename = "TTL")]
    ttl: Option<String>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    error: String,
    #[serde(default)]
    code: i64,
}

pub(super) fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

impl Gateway {
    pub(super) fn new(
        endpoints: &[String],
        place: String,
        credentials: &Credentials,
        user: Option<User>,
        limit: Duration,
    ) -> Result<Self> {
        let client = |url: &String| Client::within(url, credentials.clone(), limit);
        let clients = endpoints.iter().map(client).collect::<Result<Vec<_>>>()?;
        Ok(Gateway { clients, at: 0, place, user, token: None })
    }

    /// A transaction: `success` when all of `compare` holds, otherwise `failure`.
    pub(super) fn txn(
        &mut self,
        compare: &[Value],
        success: &[Value],
        failure: &[Value],
    ) -> Result<Outcome> {
        let body = json!({ "compare": compare, "success": success, "failure": failure });
        let reply: TxnReply = self.ask("/v3/kv/txn", &body)?;
        let ranges = reply.responses.into_iter().filter_map(|op| op.response_range);
        let ranges = ranges.map(|range| self.found(range)).collect::<Result<_>>()?;
        Ok(Outcome { held: reply.succeeded, ranges })
    }

    /// Every key from `from`, up to and without `to`.
    pub(super) fn range(&mut self, from: &str, to: &str) -> Result<Vec<Found>> {
        let body = json!({ "key": base64(from), "range_end": base64(to) });
        let reply = self.ask("/v3/kv/range", &body)?;
        self.found(reply)
    }

    /// A new lease of so many seconds.
    pub(super) fn grant(&mut self, seconds: u64) -> Result<String> {
        let reply: LeaseReply =
            self.ask("/v3/lease/grant", &json!({ "TTL": seconds.to_string() }))?;
        reply.id.ok_or_else(|| self.odd("a lease without an id"))
    }

    /// Makes a lease last anew; how many seconds, `None` if it is over.
    pub(super) fn keep_alive(&mut self, lease: &str) -> Result<Option<u64>> {
        #[derive(Deserialize)]
        struct Stream {
            result: Option<LeaseReply>,
        }
        let reply: Stream = self.ask("/v3/lease/keepalive", &json!({ "ID": lease }))?;
        let kept = reply.result.ok_or_else(|| self.odd("no lease"))?;
        match kept.ttl {
            None => Ok(None),
            Some(ttl) => match ttl.parse::<i64>() {
                Ok(ttl) => Ok(u64::try_from(ttl).ok().filter(|ttl| *ttl > 0)),
                Err(_) => Err(self.odd("a ttl that is no number")),
            },
        }
    }

    /// Ends a lease; fine if it is over.
    pub(super) fn revoke(&mut self, lease: &str) -> Result<()> {
        match self.ask::<Value>("/v3/lease/revoke", &json!({ "ID": lease })) {
            Err(error) if error.kind() != Kind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn found(&self, range: RangeReply) -> Result<Vec<Found>> {
        let found = |kv: KeyValue| {
            let value = STANDARD.decode(kv.value).map_err(|_| self.odd("no base64"))?;
            Ok(Found { value, revision: kv.mod_revision })
        };
        range.kvs.into_iter().map(found).collect()
    }

    fn odd(&self, found: &str) -> Error {
        Error::new(
            Kind::Io,
            format!("expected an answer of etcd's JSON gateway from {}, found {found}", self.place),
        )
        .help("is that etcd 3.4 or newer, with its gateway on?")
    }

    fn ask<T: serde::de::DeserializeOwned>(&mut self, path: &str, body: &Value) -> Result<T> {
        if self.user.is_some() && self.token.is_none() {
            self.log_in()?;
        }
        let reply = match self.send(path, body) {
            Err(error) if error.kind() == Kind::NotLeader && self.user.is_some() => {
                self.log_in()?;
                self.send(path, body)
            }
            other => other,
        };
        let bytes = reply.map_err(|e| match e.kind() {
            Kind::NotLeader => e.with_kind(Kind::Rejected),
            _ => e,
        })?;
        serde_json::from_slice(&bytes).map_err(|e| self.odd(&format!("something else: {e}")))
    }

    fn log_in(&mut self) -> Result<()> {
        #[derive(Deserialize)]
        struct Granted {
            token: String,
        }
        let Some(user) = self.user.clone() else { return Ok(()) };
        self.token = None;
        let body = json!({ "name": user.name, "password": user.password });
        let bytes = self.send("/v3/auth/authenticate", &body).map_err(|e| match e.kind() {
            Kind::Io => e,
            kind => Error::new(
                if kind == Kind::NotLeader { Kind::Rejected } else { kind },
                format!("cannot log in to {} as {}: {}", self.place, user.name, e.message()),
            )
            .help("look at etcd's users, and at the password"),
        })?;
        let granted: Granted = serde_json::from_slice(&bytes).map_err(|_| self.odd("no token"))?;
        self.token = Some(granted.token);
        Ok(())
    }

    /// Asks one endpoint after the other, beginning with the one that answered last.
    /// [`Kind::NotLeader`] of a token that is over.
    fn send(&mut self, path: &str, body: &Value) -> Result<Vec<u8>> {
        let body = body.to_string();
        let mut trouble: Option<Error> = None;
        for turn in 0..self.clients.len() {
            let at = (self.at + turn) % self.clients.len();
            let mut headers = vec![("content-type", "application/json")];
            if let Some(token) = &self.token {
                headers.push(("authorization", token));
            }
            let reply = self.clients[at]
                .post(path, &headers, body.as_bytes(), Duration::ZERO)
                .and_then(|reply| self.read(path, reply));
            match reply {
                Err(error) if error.kind() == Kind::Io => trouble = trouble.or(Some(error)),
                other => {
                    self.at = at;
                    return other;
                }
            }
        }
        let why = trouble.map_or_else(String::new, |error| format!(": {}", error.message()));
        Err(Error::new(Kind::Io, format!("cannot reach {}{why}", self.place)).help(
            "is etcd running there, and does a majority of it? Ask again: it is found out what became \
             of the request",
        ))
    }

    fn read(&self, path: &str, reply: Reply) -> Result<Vec<u8>> {
        let status = reply.status;
        let at = reply.place().to_owned();
        if reply.status == 200 {
            return reply.bytes(MAX_REPLY_BYTES);
        }
        let bytes = reply.bytes(64 << 10)?;
        let Ok(failure) = serde_json::from_slice::<Failure>(&first_value(&bytes)) else {
            return Err(match status {
                500.. => Error::new(Kind::Io, format!("{at} answered {status}")),
                _ => self.odd(&format!("status {status} of {path}")).with_kind(Kind::InvalidInput),
            });
        };
        let said = format!("{at} answered {status}: {}", failure.error);
        // The codes of gRPC.
        Err(match failure.code {
            5 => Error::new(Kind::NotFound, said),
            16 => Error::new(Kind::NotLeader, said).help("log in"),
            7 => Error::new(Kind::Rejected, said)
                .help("let etcd's user read and write the keys under the prefix"),
            // What is asked is right, so it is who asks that is missing.
            3 if failure.error.contains("user name is empty") => Error::new(Kind::Rejected, said)
                .help("etcd asks for a user and a password: name them"),
            3 | 12 => Error::new(Kind::InvalidInput, said),
            _ => Error::new(Kind::Io, said),
        })
    }
}

/// The first JSON value: etcd puts a trailer behind what it answers to errors.
fn first_value(bytes: &[u8]) -> Vec<u8> {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
    match values.next() {
        Some(Ok(value)) => value.to_string().into_bytes(),
        _ => bytes.to_vec(),
    }
}
