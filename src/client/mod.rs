//! A program's side of a cluster: finds the leader from any node, and retries without duplicates (feature
//! `client`).
//!
//! ```text
//! append, producer ── lead ─┐                 ┌─ route, trust   whom to ask, who may be asked
//!                           ├── World (HTTP) ─┼─ answer         what the answer means
//! get, scan, records ─ read ┘                 └─ session        what was seen: epochs, tokens
//! ```
//!
//! Called by programs and by the command line. Speaks through `ship`'s HTTP client; without a runtime.
//! Invariants:
//! - a batch has one key, however often it is sent: it is in the log once, also after a failover;
//! - what may have been appended is never reported as rejected, and never as done without an
//!   acknowledgement by an epoch that is no older than any seen;
//! - reads show what this client wrote and what it has read, from any node, or say that it was lost; linearizable
//!   ones show what anybody was acknowledged before, from a leader that has found out that it leads;
//! - nothing takes longer than it was given, but for one answer's time.

mod answer;
mod append;
mod route;
mod session;
#[cfg(test)]
mod tests;
mod trust;
mod world;

pub use answer::Produced;
pub use append::{Acked, AppendOptions, Level, Outcome};

use std::fmt::Write as _;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::log::OwnedEntry;
use crate::position::{Id, Offset, Token};
use crate::record::Batch;
use crate::ship::{Credentials, answered};
use crate::table::Scan;
use crate::text::{parse_entry, write_record};

use answer::{Led, Said, acked, addresses, leader, produced};
use route::Route;
use session::Session;
use trust::Trust;
use world::{Answer, Http, Question, World};

/// How long an append or a read is tried unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// A leader waits so long for a level before the others are asked whether there is another leader.
const ATTEMPT: Duration = Duration::from_secs(2);
/// A node waits so long for what a read must show before another one is asked.
const LAGGING: Duration = Duration::from_millis(500);
/// Rows or records of one answer unless told otherwise.
const DEFAULT_ROWS: usize = 1000;

/// What a read shows at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// What this client has written and read, from any node.
    #[default]
    Session,
    /// All that was acknowledged to anybody before the read began, too: the leader's, once that has found out that it
    /// still leads. Where it cannot (the mode `async` or `archive` without a coordinator) the read is refused.
    Linearizable,
}

/// Why a search for the leader ended without one.
struct GaveUp {
    /// It may have been done all the same, and where.
    open: Option<Option<Token>>,
    why: Error,
}

/// The nodes of a cluster, and one session of writes and reads on them.
///
/// ```no_run
/// use tidelog::client::{AppendOptions, Cluster, Outcome};
/// use tidelog::{Batch, Record, ship::Credentials};
/// # fn main() -> tidelog::Result<()> {
/// let nodes = ["http://10.0.0.1:7400", "http://10.0.0.2:7400"];
/// let mut cluster = Cluster::new(nodes, Credentials::default())?;
/// let mut batch = Batch::new();
/// batch.push(&Record::put(b"gate", b"open"))?;
/// match cluster.append(&batch, &AppendOptions::default()) {
///     Outcome::Acked(acked) => println!("offset {}", acked.first),
///     Outcome::Unknown { why, key, .. } => println!("perhaps; {key} makes another try safe: {why}"),
///     Outcome::Rejected { why } => println!("nothing was appended: {why}"),
/// }
/// assert!(cluster.get(b"gate")?.is_some(), "whichever node answers");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Cluster {
    world: Box<dyn World>,
    route: Route,
    session: Session,
    /// Whose keys these are, once one was drawn; and how many were.
    id: Option<Id>,
    drawn: u64,
    timeout: Duration,
    consistency: Consistency,
    /// Who answered the last read.
    reader: Option<String>,
    /// The leader whose status was read.
    surveyed: Option<String>,
}

impl Cluster {
    /// The nodes at `addresses`, of which one is enough: others are learned from it. Nothing is asked yet.
    ///
    /// With a token or a certificate in `credentials`, nodes that are not listed are asked only if they are
    /// another port of a listed host, or https named them to https: list them all.
    pub fn new<'a>(
        addresses: impl IntoIterator<Item = &'a str>,
        credentials: Credentials,
    ) -> Result<Self> {
        Self::with_stop(addresses, credentials, None)
    }

    /// The same, giving up soon after `stop` says so; what was being asked is over first.
    pub fn stopping_when<'a>(
        addresses: impl IntoIterator<Item = &'a str>,
        credentials: Credentials,
        stop: impl Fn() -> bool + Send + 'static,
    ) -> Result<Self> {
        Self::with_stop(addresses, credentials, Some(Box::new(stop)))
    }

    fn with_stop<'a>(
        addresses: impl IntoIterator<Item = &'a str>,
        credentials: Credentials,
        stop: Option<Box<dyn Fn() -> bool + Send>>,
    ) -> Result<Self> {
        let trust = Trust::new(addresses, credentials.are_secret())?;
        Ok(Self::over(Box::new(Http::new(credentials, stop)), trust))
    }

    fn over(world: Box<dyn World>, trust: Trust) -> Self {
        Cluster {
            world,
            route: Route::new(trust),
            session: Session::default(),
            id: None,
            drawn: 0,
            timeout: DEFAULT_TIMEOUT,
            consistency: Consistency::default(),
            reader: None,
            surveyed: None,
        }
    }

    /// How long reads are tried. Default: 10 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What reads show at least, from here on. Default: what this client has written and read.
    pub fn consistency(&mut self, consistency: Consistency) {
        self.consistency = consistency;
    }

    /// Who is believed to lead.
    pub fn leader(&self) -> Option<&str> {
        self.route.leader()
    }

    /// The nodes known, as far as they are: those that answered lately first.
    pub fn nodes(&self) -> Vec<String> {
        self.route.known()
    }

    /// What reads will show at least: the highest token of this client's writes and reads.
    pub fn token(&self) -> Option<Token> {
        self.session.shown()
    }

    /// Reads need not show any more what was written and read so far: after a read has said that some of it was
    /// lost.
    pub fn forget(&mut self) {
        self.session.forget();
    }

    /// Appends a batch, by whichever node leads, trying again until it is acknowledged or its time is over.
    pub fn append(&mut self, batch: &Batch, how: &AppendOptions) -> Outcome {
        let key = match self.key(how) {
            Ok(key) if !batch.is_empty() => key,
            Ok(_) => {
                let why = "expected at least one record, found none";
                return Outcome::Rejected { why: Error::new(Kind::InvalidInput, why) };
            }
            Err(why) => return Outcome::Rejected { why },
        };
        let mut body = Vec::with_capacity(batch.bytes() + 64 * batch.len());
        for record in batch.iter() {
            write_record(&record, &mut body);
            body.push(b'\n');
        }
        let sequence = how.sequence.to_string();
        let seen = self.session.seen();
        let mut headers = vec![
            ("content-type", "application/x-ndjson"),
            ("idempotency-key", key.as_str()),
            ("idempotency-sequence", sequence.as_str()),
        ];
        headers.extend(seen.as_deref().map(|seen| ("x-tidelog-seen", seen)));
        let mut query = how.level.map(Level::query).unwrap_or_default();
        if let Some(offset) = how.expect_end {
            let _ = write!(query, "&expect_offset={offset}");
        }
        let path = |wait: Duration| format!("/v1/records?timeout={}ms{query}", wait.as_millis());
        match self.lead(how.timeout, &path, &headers, Some(&body), acked) {
            Ok((acked, url)) => {
                self.wrote(acked.token, &url);
                Outcome::Acked(acked)
            }
            Err(GaveUp { open: Some(token), why }) => {
                let why = Error::new(
                    Kind::Unknown,
                    format!(
                        "expected the append to be acknowledged within {:?}: {why}",
                        how.timeout
                    ),
                )
                .help("it may be in the log, or come to be; try again with the same key, or read");
                Outcome::Unknown { why, key, token }
            }
            Err(GaveUp { why, .. }) => Outcome::Rejected { why },
        }
    }

    /// How far the appends under a key are, as the leader knows it; `None` when it knows of none.
    pub fn producer(&mut self, key: &str) -> Result<Option<Produced>> {
        let path = format!("/v1/producer?key={}", encode(key.as_bytes()));
        let found = self.lead(self.timeout, &|_| path.clone(), &[], None, produced);
        found.map(|(produced, _)| produced).map_err(|gave_up| gave_up.why)
    }

    /// The latest record of a key.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<OwnedEntry>> {
        let path = format!("/v1/table/{}?", encode(key));
        let rows = self.read(&path, Duration::ZERO, true, rows)?;
        Ok(rows.into_iter().next())
    }

    /// Rows of the table, each as the record it came from: as many as the scan says, 1,000 unless it does, all
    /// of one moment.
    pub fn scan(&mut self, scan: &Scan) -> Result<Vec<OwnedEntry>> {
        let limit = scan.limit.unwrap_or(DEFAULT_ROWS);
        let mut path = format!("/v1/table?limit={limit}&reverse={}", scan.reverse);
        let keys = [
            ("prefix", Some(&scan.prefix).filter(|prefix| !prefix.is_empty())),
            ("start", scan.start.as_ref()),
            ("end", scan.end.as_ref()),
        ];
        for (name, key) in keys {
            if let Some(key) = key {
                let _ = write!(path, "&{name}={}", encode(key));
            }
        }
        path.push('&');
        self.read(&path, Duration::ZERO, true, rows)
    }

    /// Records of the log from an offset on, at most so many; none when there are none within `wait`. Of offsets
    /// that damage took it tells by [`Kind::Lost`].
    pub fn records(
        &mut self,
        from: Offset,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<OwnedEntry>> {
        let path = format!("/v1/records?from={from}&limit={limit}&wait={}ms&", wait.as_millis());
        self.read(&path, wait, false, rows)
    }

    fn key(&mut self, how: &AppendOptions) -> Result<String> {
        let Some(key) = &how.key else {
            let id = match self.id {
                Some(id) => id,
                None => *self.id.insert(Id(self.world.draw()?)),
            };
            self.drawn += 1;
            return Ok(format!("{id}-{}", self.drawn));
        };
        let fits = (1..=255).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
        if fits {
            return Ok(key.clone());
        }
        Err(Error::new(
            Kind::InvalidInput,
            format!("expected a key of 1 to 255 visible ASCII characters, found {key:?}"),
        ))
    }

    /// Asks whoever leads, until somebody does as such; the answer, and whose it is.
    fn lead<T>(
        &mut self,
        timeout: Duration,
        path: &dyn Fn(Duration) -> String,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
        done: fn(&[u8]) -> Option<Led<T>>,
    ) -> Result<(T, String), GaveUp> {
        let deadline = self.world.now().saturating_add(timeout);
        let mut open: Option<Option<Token>> = None;
        // What is told at the end: what a node said before what a connection did.
        let (mut said_why, mut dead_why) = (None, None);
        self.survey_leader();
        self.route.begin();
        let why = loop {
            if self.world.stops() {
                break Error::new(Kind::Interrupted, "expected an answer, was told to stop");
            }
            let left = deadline.saturating_sub(self.world.now());
            if left.is_zero() {
                break self.nobody(timeout, said_why, dead_why);
            }
            let Some(url) = self.route.next() else {
                self.survey_any();
                let rest = self.route.round().min(left);
                self.world.rest(rest);
                continue;
            };
            let wait = left.min(ATTEMPT);
            let question = Question { path: &path(wait), headers, body, wait };
            match Said::read(self.world.ask(&url, &question), done) {
                Said::Done(done, log, epoch) => match self.session.admit(log, epoch) {
                    Ok(()) => {
                        self.session.saw(log, epoch);
                        self.route.leads(&url);
                        return Ok((done, url));
                    }
                    Err(why) => {
                        // It did what it was asked, in a history that is not the cluster's any more.
                        self.route.follows(&url, None);
                        open = open.or(Some(None));
                        said_why = Some(why);
                    }
                },
                Said::Elsewhere { why, leader } => {
                    self.route.follows(&url, leader.as_deref());
                    said_why = Some(why);
                }
                Said::Open { why, token } => {
                    match why.kind() {
                        Kind::Unknown => self.route.answered(&url),
                        _ => self.route.dead(&url),
                    }
                    open = Some(token.or(open.flatten()));
                    said_why = Some(why);
                }
                // After an attempt that may have worked this is no word about that one.
                Said::Refused(why) => break why,
                Said::Dead(why) => {
                    self.route.dead(&url);
                    dead_why = Some(why);
                }
            }
        };
        Err(GaveUp { open, why })
    }

    /// Nobody did as leader what was asked.
    fn nobody(&self, timeout: Duration, said: Option<Error>, dead: Option<Error>) -> Error {
        let Some(last) = said.or(dead) else {
            return Error::new(
                Kind::Io,
                format!("expected an answer within {timeout:?}, had none"),
            );
        };
        let known = self.route.known().len();
        let text =
            format!("no leader among {known} known nodes within {timeout:?}; {}", last.message());
        let error = Error::new(last.kind(), text);
        match self.route.refused().or(last.advice()) {
            Some(help) => error.help(help),
            None => error,
        }
    }

    /// Learns the other nodes from a leader, once: when it dies they are asked.
    fn survey_leader(&mut self) {
        let leader = self.route.leader().map(str::to_owned);
        if let Some(leader) = leader.filter(|leader| self.surveyed.as_ref() != Some(leader)) {
            self.survey(&leader);
            self.surveyed = Some(leader);
        }
    }

    /// Nobody leads who was asked: whoever answers first may know others.
    fn survey_any(&mut self) {
        for url in self.route.known() {
            if self.survey(&url) {
                break;
            }
        }
    }

    fn survey(&mut self, url: &str) -> bool {
        let answer = self.world.ask(url, &Question::get("/v1/status", Duration::ZERO));
        let Ok(answer) = answer else { return false };
        let Some((leader, nodes)) = addresses(&answer.body) else { return false };
        for address in nodes.iter().chain(&leader) {
            self.route.learn(url, address);
        }
        true
    }

    /// A write was acknowledged by the node at `url`. When an earlier epoch's token stands for the session, that
    /// node is asked first whether its history holds it.
    fn wrote(&mut self, token: Token, url: &str) {
        let Some(old) = self.session.wrote(token) else { return };
        let path = format!("/v1/records?limit=0&at_least={old}&timeout=0ms");
        match self.world.ask(url, &Question::get(&path, Duration::ZERO)) {
            Ok(Answer { status: 200, .. }) => self.session.replace(token, true),
            Ok(Answer { status: 409, .. }) => self.session.replace(token, false),
            // It cannot say yet; the old token goes on to stand for all, and reads will say.
            _ => {}
        }
    }

    /// Asks any node that shows what the session has seen. `path` ends where a parameter may follow.
    fn read<T>(
        &mut self,
        path: &str,
        wait: Duration,
        shows_all: bool,
        understand: fn(&Answer) -> Result<T>,
    ) -> Result<T> {
        let deadline = self.world.now().saturating_add(self.timeout).saturating_add(wait);
        self.route.begin();
        let mut why = None;
        let linearizable = self.consistency == Consistency::Linearizable;
        // A leader asks others before it answers.
        let most = if linearizable { ATTEMPT } else { LAGGING };
        loop {
            if let Some(lost) = self.session.lost() {
                return Err(not_in_history(&lost));
            }
            let (mut against, mut undecided) = (None, false);
            for url in self.readers() {
                if self.world.stops() {
                    return Err(Error::new(
                        Kind::Interrupted,
                        "expected an answer, was told to stop",
                    ));
                }
                let left = deadline.saturating_sub(self.world.now());
                if left.is_zero() {
                    break;
                }
                let patience = left.min(most);
                let mut asked = format!("{path}timeout={}ms", patience.as_millis());
                if let Some(token) = self.session.shown() {
                    let _ = write!(asked, "&at_least={token}");
                }
                if linearizable {
                    asked.push_str("&consistency=linearizable");
                }
                let answer = match self.world.ask(&url, &Question::get(&asked, patience + wait)) {
                    Ok(answer) => answer,
                    Err(unanswered) => {
                        self.route.dead(&url);
                        why = Some(unanswered.why);
                        continue;
                    }
                };
                self.route.answered(&url);
                let token = answer.token.as_deref().and_then(|token| token.parse::<Token>().ok());
                let found = (200..300).contains(&answer.status)
                    || answer.status == 404 && answer.token.is_some();
                if found && token.is_none_or(|token| self.shows(token, shows_all)) {
                    let read = understand(&answer)?;
                    if linearizable {
                        self.route.leads(&url);
                    }
                    self.reader = Some(url);
                    return Ok(read);
                }
                let location = answer.location.as_deref();
                let error = answered(&answer.place, answer.status, location, &answer.body);
                match (answer.status, error.kind()) {
                    (300..400, _) => {
                        self.route.follows(&url, leader(&answer).as_deref());
                        why = Some(error);
                    }
                    (409, Kind::NotInHistory) => against = Some(error),
                    (409, _) => why = Some(error),
                    (400..500, _) if answer.status != 429 && answer.status != 408 => {
                        return Err(error);
                    }
                    (504, _) | (200..300, _) => {
                        undecided = true;
                        why = Some(error.with_kind(Kind::Stale));
                    }
                    _ => why = Some(error),
                }
            }
            if let Some(error) = against.filter(|_| !undecided) {
                return Err(error);
            }
            let left = deadline.saturating_sub(self.world.now());
            if left.is_zero() {
                let none = || Error::new(Kind::Io, "expected an answer in time, had none");
                return Err(why.unwrap_or_else(none));
            }
            self.survey_any();
            let rest = self.route.round().min(left);
            self.world.rest(rest);
        }
    }

    /// Takes note of what an answer shows; whether that can be. Records of the log show a part of what their
    /// node has, which says nothing about the rest.
    fn shows(&mut self, token: Token, all: bool) -> bool {
        self.session.read(token) || !all
    }

    /// Whom to ask for a read: who leads, or who answered the last one; then the others.
    fn readers(&self) -> Vec<String> {
        let mut nodes = self.route.known();
        let first = match self.consistency {
            Consistency::Session => self.reader.as_deref(),
            Consistency::Linearizable => self.route.leader(),
        };
        if let Some(at) = nodes.iter().position(|url| first == Some(url)) {
            nodes[..=at].rotate_right(1);
        }
        nodes
    }
}

fn not_in_history(lost: &Token) -> Error {
    Error::new(
        Kind::NotInHistory,
        format!(
            "what was written or read at offset {} in epoch {} was lost",
            lost.offset, lost.epoch
        ),
    )
    .at_offset(lost.offset.0)
    .help("a failover lost it; read again after `Cluster::forget`, and decide")
}

/// The envelopes of an answer.
fn rows(answer: &Answer) -> Result<Vec<OwnedEntry>> {
    if answer.status == 404 {
        return Ok(Vec::new());
    }
    let mut rows: Vec<OwnedEntry> = Vec::new();
    for line in answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match parse_entry(line) {
            Ok(entry) => rows.push(entry),
            // Records before a gap are whole; the gap is told to who asks from there on.
            Err(_) if is_lost(line) && !rows.is_empty() => break,
            Err(_) if is_lost(line) => {
                let text = String::from_utf8_lossy(line).into_owned();
                return Err(Error::new(Kind::Lost, format!("{}: {text}", answer.place)));
            }
            Err(_) => return Err(answered(&answer.place, answer.status, None, line)),
        }
    }
    Ok(rows)
}

fn is_lost(line: &[u8]) -> bool {
    line.starts_with(b"{\"lost\":")
}

/// A key or a text as it stands in an address.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                text.push(char::from(byte));
            }
            byte => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}
