//! A node that serves a log, asked over HTTP: the same answers as its directory would give.
//!
//! Long answers come page by page, each the node's own newest state; the table's later pages are
//! never older than its first.

use std::ops::Range as Offsets;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tidelog::client::encode;
use tidelog::log::NamedCursor;
use tidelog::ship::{Client, Reply};
use tidelog::sql::Value;
use tidelog::text::{Bound, Range};
use tidelog::{Kind, Offset, OwnedEntry, Token};

use crate::exit::{Failure, Outcome};
use crate::progress;

use super::lines::{Line, Lines};
use super::{
    Entries, FreshArgs, HistoryOf, Next, Origin, Rows, Seen, Span, TableHash, Tail, Visit, VisitRow,
};

/// Records or rows asked for at a time.
const PAGE: u64 = 100_000;
/// The node is asked to wait so long at a time, so that Ctrl-C is heard.
const STEP: Duration = Duration::from_secs(1);
/// What may take the node long, such as a walk over everything.
const LONG: Duration = Duration::from_secs(600);
const NOW: Duration = Duration::ZERO;

/// A node.
pub(super) struct Node {
    client: Client,
    asks: FreshArgs,
}

impl Node {
    pub(super) fn new(client: Client, asks: FreshArgs) -> Self {
        Node { client, asks }
    }

    /// A path with what all questions ask for.
    fn fresh(&self, path: &str) -> String {
        fresh(path, self.asks)
    }

    fn json<T: DeserializeOwned>(&self, path: &str, wait: Duration) -> Result<T, Failure> {
        Ok(self.client.get(path, &[], wait)?.ok()?.json()?)
    }
}

#[derive(Deserialize)]
struct Places {
    start: u64,
    end: u64,
    from: u64,
    to: u64,
}

#[derive(Deserialize)]
struct Counted {
    count: u64,
}

#[derive(Deserialize)]
struct Hashed {
    offset: u64,
    epoch: Option<u64>,
    rows: u64,
    digest: String,
}

impl Origin for Node {
    fn span(&self, range: &Range) -> Result<Span, Failure> {
        let asked = encode(range.to_string().as_bytes());
        let places: Places = self.json(&format!("/v1/offsets?range={asked}"), NOW)?;
        Ok(Span {
            start: Offset(places.start),
            end: Offset(places.end),
            asked: Offset(places.from)..Offset(places.to),
        })
    }

    fn read(&self, range: Offsets<Offset>) -> Result<Box<dyn Entries>, Failure> {
        Ok(Box::new(Records::new(self.client.clone(), range)))
    }

    fn tail(&self, from: Offset) -> Result<Box<dyn Tail>, Failure> {
        Ok(Box::new(Records::new(self.client.clone(), from..Offset(u64::MAX))))
    }

    fn cursor(&self, name: &str) -> Result<NamedCursor, Failure> {
        Err(Failure::usage(format!(
            "expected a log's directory for the cursor {name}, found {}: a cursor is remembered in \
             the directory; follow the node, and tail the copy",
            self.client.url()
        )))
    }

    fn get(
        &self,
        key: &str,
        at_least: Option<(&Token, Duration)>,
    ) -> Result<Option<OwnedEntry>, Failure> {
        let path = format!("/v1/table/{}", encode(key.as_bytes()));
        let Some((token, timeout)) = at_least else {
            return row(self.client.get(&self.fresh(&path), &[], NOW)?);
        };
        // A time too far away to be told is a year.
        let deadline = Instant::now() + timeout.min(Duration::from_secs(365 * 24 * 3600));
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).min(STEP);
            let asked = format!("{path}?at_least={token}&timeout={}ms", left.as_millis());
            let asked = self.fresh(&asked);
            let reply = self.client.get(&asked, &[], left)?;
            if reply.status != 504 {
                return row(reply);
            }
            if progress::interrupted() {
                return Err(Failure::interrupted());
            }
            if Instant::now() >= deadline {
                return Err(Failure::no(format!(
                    "timed out: expected offset {} within {timeout:?}; {}",
                    token.offset,
                    reply.error()
                )));
            }
        }
    }

    fn scan(&self, rows: &Rows) -> Result<Box<dyn Entries>, Failure> {
        Ok(Box::new(TableRows {
            client: self.client.clone(),
            asks: self.asks,
            left: rows.limit.unwrap_or(u64::MAX),
            rows: rows.clone(),
            start: rows.start.as_ref().map(|start| start.as_bytes().to_vec()),
            page: None,
            shown: None,
            entry: None,
        }))
    }

    fn history(&self, asked: HistoryOf<'_>, visit: &mut Visit<'_>) -> Result<Seen, Failure> {
        let key = encode(asked.key.as_bytes());
        let mut path = format!("/v1/history/{key}?reverse={}", asked.last.is_some());
        if let Some(range) = asked.range {
            path += &format!("&range={}", encode(range.to_string().as_bytes()));
        }
        if let Some(last) = asked.last {
            path += &format!("&limit={last}");
        }
        let mut lines = Lines::new(self.client.get(&self.fresh(&path), &[], LONG)?.ok()?);
        while let Some(line) = lines.next()? {
            if progress::interrupted() {
                return Err(Failure::interrupted());
            }
            match line {
                Line::Entry(entry) => visit(&entry.as_entry())?,
                Line::History(seen) => return Ok(seen),
                _ => return Err(lines.wrong("a record or what was walked")),
            }
        }
        Err(lines.wrong("what was walked at the end"))
    }

    fn count(&self) -> Result<u64, Failure> {
        Ok(self.json::<Counted>(&self.fresh("/v1/count"), LONG)?.count)
    }

    fn sql(&self, query: &str, visit: &mut VisitRow<'_>) -> Result<Vec<String>, Failure> {
        let body = serde_json::json!({ "sql": query }).to_string();
        let reply =
            self.client.post(&self.fresh("/v1/sql?rows=arrays"), &[], body.as_bytes(), LONG)?;
        let mut lines = Lines::new(reply.ok()?);
        let names: Option<Vec<String>> = match lines.read()? {
            Some(line) => serde_json::from_slice(line).ok(),
            None => None,
        };
        let Some(names) = names else { return Err(lines.wrong("the columns' names")) };
        while let Some(line) = lines.read()? {
            if progress::interrupted() {
                return Err(Failure::interrupted());
            }
            if line.first() == Some(&b'{') {
                return Err(lines.error());
            }
            let row: Option<Vec<&RawValue>> = serde_json::from_slice(line).ok();
            let row = row.filter(|row| row.len() == names.len()).unwrap_or_default();
            let cells: Option<Vec<Cell>> = row.iter().map(|raw| Cell::read(raw.get())).collect();
            let cells = cells.filter(|cells| cells.len() == names.len());
            let Some(cells) = cells else { return Err(lines.wrong("a value for each column")) };
            let values: Vec<Value<'_>> = cells.iter().map(Cell::value).collect();
            visit(&names, &values)?;
        }
        Ok(names)
    }

    fn hash(&self, at: Option<Bound>) -> Result<TableHash, Failure> {
        let path = match at {
            None => "/v1/hash".to_owned(),
            Some(at) => {
                // A range that ends at a time has an end of its own: of times, not of offsets.
                let (end, log_end) = match at {
                    Bound::Time(_) => {
                        let span = self.span(&Range { from: at, to: Bound::Open })?;
                        (span.asked.start, span.end)
                    }
                    _ => {
                        let span = self.span(&Range { from: Bound::Open, to: at })?;
                        (span.asked.end, span.end)
                    }
                };
                if end > log_end {
                    return Err(super::behind_the_end(end, log_end));
                }
                format!("/v1/hash?at={end}")
            }
        };
        let Hashed { offset, epoch, rows, digest } = self.json(&self.fresh(&path), LONG)?;
        Ok(TableHash { offset, epoch, rows, digest })
    }
}

/// A path that asks for data as fresh as is said.
fn fresh(path: &str, asks: FreshArgs) -> String {
    let mut path = path.to_owned();
    let mut ask = |what: String| {
        path.push(if path.contains('?') { '&' } else { '?' });
        path.push_str(&what);
    };
    if let Some(most) = asks.max_staleness {
        ask(format!("max_staleness={}us", most.as_micros()));
    }
    if asks.is_linearizable() {
        ask("consistency=linearizable".into());
    }
    path
}

/// The record that a point read answers with.
fn row(reply: Reply) -> Result<Option<OwnedEntry>, Failure> {
    // A node says so of a key, with what it has seen; others of the path.
    if reply.status == 404 && reply.header("x-tidelog-token").is_some() {
        return Ok(None);
    }
    let reply = match reply.ok() {
        Err(e) if e.kind() == Kind::WrongLog => return Err(Failure::usage(e.to_string())),
        reply => reply?,
    };
    let mut lines = Lines::new(reply);
    match lines.next()? {
        Some(Line::Entry(entry)) => Ok(Some(entry)),
        _ => Err(lines.wrong("a record")),
    }
}

/// Records of the node's log, page by page.
struct Records {
    client: Client,
    next: Offset,
    to: Offset,
    page: Option<Lines>,
    /// Whether the page on its way has brought something.
    moved: bool,
    entry: Option<OwnedEntry>,
}

impl Records {
    fn new(client: Client, range: Offsets<Offset>) -> Self {
        Records { client, next: range.start, to: range.end, page: None, moved: false, entry: None }
    }

    /// Asks for what comes next.
    fn ask(&mut self, wait: Duration) -> Outcome {
        let limit = self.to.0.saturating_sub(self.next.0).min(PAGE);
        let mut path = format!("/v1/records?from={}&limit={limit}", self.next);
        if !wait.is_zero() {
            path += &format!("&wait={}ms", wait.as_millis());
        }
        self.page = Some(Lines::new(self.client.get(&path, &[], wait)?.ok()?));
        self.moved = false;
        Ok(())
    }
}

impl Entries for Records {
    fn next(&mut self) -> Result<Next<'_>, Failure> {
        while self.next < self.to {
            if self.page.is_none() {
                self.ask(NOW)?;
            }
            let Some(page) = &mut self.page else { break };
            match page.next()? {
                Some(Line::Entry(entry)) if entry.offset >= self.next => {
                    self.next = entry.offset.plus(1);
                    self.moved = true;
                    return Ok(Next::Entry(self.entry.insert(entry).as_entry()));
                }
                Some(Line::Lost(lost)) if lost.end > self.next => {
                    self.next = lost.end;
                    self.moved = true;
                    return Ok(Next::Lost(format!(
                        "offsets {} to {} were lost to damage that a repair has put on record",
                        lost.start,
                        lost.end.0 - 1
                    )));
                }
                Some(_) => return Err(page.wrong("a record behind the last one")),
                // The end of a page; of the log, when there was nothing on it.
                None => {
                    self.page = None;
                    if !self.moved {
                        break;
                    }
                }
            }
        }
        Ok(Next::End)
    }
}

impl Tail for Records {
    fn offset(&self) -> Offset {
        self.next
    }

    fn wait(&mut self) -> Outcome {
        self.ask(STEP)
    }
}

/// Rows of the node's table, page by page.
struct TableRows {
    client: Client,
    asks: FreshArgs,
    rows: Rows,
    left: u64,
    /// Where the next page begins.
    start: Option<Vec<u8>>,
    /// The page on its way, and how many of its rows are to come at most.
    page: Option<(Lines, u64)>,
    /// What the first page showed: a later one shows no less.
    shown: Option<String>,
    entry: Option<OwnedEntry>,
}

impl TableRows {
    fn ask(&mut self) -> Result<(Lines, u64), Failure> {
        let limit = self.left.min(PAGE);
        let mut path = format!("/v1/table?limit={limit}");
        let keys = [
            ("prefix", self.rows.prefix.as_deref().map(str::as_bytes)),
            ("start", self.start.as_deref()),
            ("end", self.rows.end.as_deref().map(str::as_bytes)),
            ("at_least", self.shown.as_deref().map(str::as_bytes)),
        ];
        for (name, value) in keys {
            if let Some(value) = value {
                path += &format!("&{name}={}", encode(value));
            }
        }
        if self.shown.is_none() {
            // Later pages show no less than the first.
            path = fresh(&path, self.asks);
        }
        let reply = self.client.get(&path, &[], LONG)?.ok()?;
        let shown = reply.header("x-tidelog-token").filter(|token| !token.is_empty());
        self.shown = shown.map(str::to_owned).or(self.shown.take());
        Ok((Lines::new(reply), limit))
    }
}

impl Entries for TableRows {
    fn next(&mut self) -> Result<Next<'_>, Failure> {
        while self.left > 0 {
            let (mut page, due) = match self.page.take() {
                Some(page) => page,
                None => self.ask()?,
            };
            match page.next()? {
                Some(Line::Entry(entry)) => {
                    let key = entry.record().key.unwrap_or_default();
                    let behind = self.start.as_deref().is_none_or(|start| key >= start);
                    if !behind || due == 0 {
                        return Err(page.wrong("a row behind the last one"));
                    }
                    // The least key behind it.
                    self.start = Some([key, &[0]].concat());
                    self.left -= 1;
                    self.page = Some((page, due - 1));
                    return Ok(Next::Entry(self.entry.insert(entry).as_entry()));
                }
                Some(_) => return Err(page.wrong("a row")),
                // A page that is not full is the last.
                None if due > 0 => self.left = 0,
                None => {}
            }
        }
        Ok(Next::End)
    }
}

/// A value of a query's row.
enum Cell {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl Cell {
    /// Reads one as a node writes it: docs/OPERATIONS.md, `rows=arrays`.
    fn read(json: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Blob {
            b64: String,
        }
        Some(match json.as_bytes().first()? {
            b'n' => Cell::Null,
            b'"' => Cell::Text(serde_json::from_str(json).ok()?),
            b'{' => Cell::Blob(STANDARD.decode(serde_json::from_str::<Blob>(json).ok()?.b64).ok()?),
            // Exact, as no JSON parser promises.
            _ if json.contains(['.', 'e', 'E']) => Cell::Real(json.parse().ok()?),
            _ => Cell::Integer(json.parse().ok()?),
        })
    }

    fn value(&self) -> Value<'_> {
        match self {
            Cell::Null => Value::Null,
            Cell::Integer(n) => Value::Integer(*n),
            Cell::Real(n) => Value::Real(*n),
            Cell::Text(text) => Value::Text(text),
            Cell::Blob(bytes) => Value::Blob(bytes),
        }
    }
}
