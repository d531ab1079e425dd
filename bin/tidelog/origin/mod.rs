//! Where the reading verbs read: a log's directory, or a node that serves one.
//!
//! ```text
//! tail, get, scan, history, count, sql, hash ── Origin ──┬─ local   a directory, read here
//!      (ask, and print)                                  └─ node    a node, asked over HTTP
//! ```
//!
//! Invariants:
//! - verbs print, origins do not: what is printed cannot depend on where it came from;
//! - a question that one of the two cannot answer is refused in words, never answered in part.

mod lines;
mod local;
mod node;

use std::ops::Range as Offsets;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use tidelog::client::Cluster;
use tidelog::log::NamedCursor;
use tidelog::ship::Client;
use tidelog::sql::Value;
use tidelog::table::{Scan, Walked};
use tidelog::text::{Bound, Range};
use tidelog::{Entry, Offset, OwnedEntry, Token};

use crate::access::{NodeAccess, TokenArgs};
use crate::args;
use crate::config::Config;
use crate::exit::{Failure, Outcome};
use crate::progress;
use crate::source::is_url;

pub(crate) use local::open_kept;

/// Whether one of several nodes answers is asked for so long.
const PROBE: Duration = Duration::from_secs(3);

/// A directory or nodes, as the user named them.
#[derive(Args, Clone, Debug)]
pub(crate) struct OriginArgs {
    /// A log's directory, or a node's address; of several nodes, with commas between them, the first that
    /// answers reads, and whichever leads writes
    #[arg(value_name = "DIR|URL", value_parser = place())]
    place: Place,
    #[command(flatten)]
    access: NodeAccess,
    #[command(flatten)]
    token: TokenArgs,
}

#[derive(Clone, Debug)]
enum Place {
    Directory(PathBuf),
    Nodes(Vec<String>),
}

fn place() -> impl TypedValueParser<Value = Place> {
    PathBufValueParser::new().try_map(|path| match path.to_str().filter(|text| is_url(text)) {
        Some(list) => nodes(list).map(Place::Nodes),
        None => args::local(path).map(Place::Directory),
    })
}

/// Addresses with commas between them.
fn nodes(list: &str) -> Result<Vec<String>, String> {
    let urls = list.split(',').map(|url| url.trim().trim_end_matches('/'));
    urls.map(|url| match is_url(url) {
        true => Ok(url.to_owned()),
        false => Err(format!("expected a node's address behind each comma, found {url:?}")),
    })
    .collect()
}

/// Where that is.
pub(crate) enum At<'a> {
    Directory(&'a Path),
    Node(Client),
}

impl std::fmt::Display for OriginArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::Directory(dir) => write!(f, "{}", dir.display()),
            Place::Nodes(urls) => f.write_str(&urls.join(",")),
        }
    }
}

impl OriginArgs {
    pub(crate) fn at(&self) -> Result<At<'_>, Failure> {
        Ok(match &self.place {
            Place::Directory(dir) => At::Directory(dir),
            Place::Nodes(urls) => At::Node(self.first(urls)?),
        })
    }

    /// Of several nodes the first that is well, or else the first that answers at all. One alone is not asked
    /// beforehand.
    fn first(&self, urls: &[String]) -> Result<Client, Failure> {
        if let [url] = urls {
            return self.access.client(url, &self.token);
        }
        let (mut unwell, mut trouble) = (None, Vec::new());
        for url in urls {
            let client = self.access.client(url, &self.token)?;
            match client.clone().silence(PROBE).get("/healthz", &[], Duration::ZERO) {
                Ok(reply) if reply.status < 300 => return Ok(client),
                Ok(_) => unwell = unwell.or(Some(client)),
                Err(e) => trouble.push(e.message().to_owned()),
            }
        }
        unwell.ok_or_else(|| {
            let text = format!("none of {} nodes answers: {}", urls.len(), trouble.join("; "));
            tidelog::Error::new(tidelog::Kind::Io, text).into()
        })
    }

    /// The nodes, to write to whichever leads; `None` of a directory.
    pub(crate) fn cluster(&self) -> Result<Option<Cluster>, Failure> {
        let Place::Nodes(urls) = &self.place else { return Ok(None) };
        let credentials = self.access.credentials(self.token.token_file.as_deref())?;
        let urls = urls.iter().map(String::as_str);
        Ok(Some(Cluster::stopping_when(urls, credentials, progress::interrupted)?))
    }

    /// The directory, if it is one.
    pub(crate) fn directory(&self) -> Option<&Path> {
        match &self.place {
            Place::Directory(dir) => Some(dir),
            Place::Nodes(_) => None,
        }
    }

    /// The settings that hold there: of a node, the user's own.
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        Config::load(self.directory())
    }

    pub(crate) fn open(&self) -> Result<Box<dyn Origin>, Failure> {
        self.open_fresh(&FreshArgs::default())
    }

    /// The same, of data that may be only so old.
    pub(crate) fn open_fresh(&self, fresh: &FreshArgs) -> Result<Box<dyn Origin>, Failure> {
        Ok(match &self.place {
            Place::Directory(_) if fresh.is_linearizable() => {
                return Err(Failure::usage(format!(
                    "expected a node's address for --consistency linearizable, found {self}: nobody answers for a \
                     directory; ask the node that serves it"
                )));
            }
            Place::Directory(dir) => Box::new(local::Local::open(dir, fresh.max_staleness)?),
            Place::Nodes(urls) => {
                let client =
                    if fresh.is_linearizable() { self.leading(urls)? } else { self.first(urls)? };
                Box::new(node::Node::new(client, *fresh))
            }
        })
    }

    /// Of several nodes the one that says that it leads. One alone is not asked beforehand: it knows better.
    fn leading(&self, urls: &[String]) -> Result<Client, Failure> {
        for url in urls.iter().filter(|_| urls.len() > 1) {
            let client = self.access.client(url, &self.token)?;
            let reply = client.clone().silence(PROBE).get("/leader", &[], Duration::ZERO);
            if reply.is_ok_and(|reply| reply.status == 200) {
                return Ok(client);
            }
        }
        self.first(urls)
    }
}

/// How old the data may be.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct FreshArgs {
    /// Refuse, with exit 1, when a follower's data may be older than this; a leader's never is
    #[arg(long, value_name = "DURATION", value_parser = tidelog::text::parse_duration)]
    max_staleness: Option<Duration>,
    /// What a node's answer shows: what it has, or all that was acknowledged to anybody before (the leader's, once it
    /// has found out that it still leads)
    #[arg(long, value_name = "WHICH", default_value = "local")]
    consistency: Consistency,
}

/// What a node's answer shows at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Consistency {
    #[default]
    Local,
    Linearizable,
}

impl FreshArgs {
    fn is_linearizable(&self) -> bool {
        self.consistency == Consistency::Linearizable
    }
}

/// A range of a log in offsets, and what the log holds.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    pub(crate) asked: Offsets<Offset>,
}

/// What a history went through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) records: u64,
    pub(crate) walked: Walked,
    pub(crate) lost: Vec<Offsets<Offset>>,
}

/// Which records of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HistoryOf<'a> {
    pub(crate) key: &'a str,
    /// What was asked for, if anything was.
    pub(crate) range: Option<Range>,
    /// Only the last so many, the newest first.
    pub(crate) last: Option<u64>,
}

/// Which rows of the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    pub(crate) prefix: Option<String>,
    pub(crate) start: Option<String>,
    pub(crate) end: Option<String>,
    pub(crate) limit: Option<u64>,
}

impl Rows {
    /// The same, as the table is asked.
    fn scan(&self) -> Scan {
        let mut scan = Scan::all();
        if let Some(prefix) = &self.prefix {
            scan = scan.prefix(prefix.as_bytes());
        }
        if let Some(start) = &self.start {
            scan = scan.start(start.as_bytes());
        }
        if let Some(end) = &self.end {
            scan = scan.end(end.as_bytes());
        }
        match self.limit {
            Some(limit) => scan.limit(usize::try_from(limit).unwrap_or(usize::MAX)),
            None => scan,
        }
    }
}

/// What tells two tables apart.
#[derive(Clone, Debug)]
pub(crate) struct TableHash {
    pub(crate) offset: u64,
    pub(crate) epoch: Option<u64>,
    pub(crate) rows: u64,
    pub(crate) digest: String,
}

/// What comes next.
pub(crate) enum Next<'a> {
    Entry(Entry<'a>),
    /// Offsets that were lost to damage, in words; the next record lies behind them.
    Lost(String),
    /// The end, as the log is; a tail may be asked again.
    End,
}

/// Records, one after another.
pub(crate) trait Entries {
    fn next(&mut self) -> Result<Next<'_>, Failure>;
}

/// Records of a log that may grow.
pub(crate) trait Tail: Entries {
    /// The next record's offset.
    fn offset(&self) -> Offset;

    /// Waits until there is more, half a second or a second at most.
    fn wait(&mut self) -> Outcome;
}

/// What takes records as they are found.
pub(crate) type Visit<'a> = dyn FnMut(&Entry<'_>) -> Outcome + 'a;
/// What takes rows of a query: the columns' names, and a value for each.
pub(crate) type VisitRow<'a> = dyn FnMut(&[String], &[Value<'_>]) -> Outcome + 'a;

/// A log and its table, wherever they are.
pub(crate) trait Origin {
    /// The offsets that a range stands for: its end and its times are those of this moment.
    fn span(&self, range: &Range) -> Result<Span, Failure>;

    /// The records of a range.
    fn read(&self, range: Offsets<Offset>) -> Result<Box<dyn Entries>, Failure>;

    /// The records from an offset on, as they come.
    fn tail(&self, from: Offset) -> Result<Box<dyn Tail>, Failure>;

    /// A named cursor, which only a directory has.
    fn cursor(&self, name: &str) -> Result<NamedCursor, Failure>;

    /// The latest record of a key, once the table holds what the token stands for.
    fn get(
        &self,
        key: &str,
        at_least: Option<(&Token, Duration)>,
    ) -> Result<Option<OwnedEntry>, Failure>;

    /// The rows of the table, each as the record it came from, in key order.
    fn scan(&self, rows: &Rows) -> Result<Box<dyn Entries>, Failure>;

    /// Shows the records of a key: oldest first, or the last few, newest first.
    fn history(&self, asked: HistoryOf<'_>, visit: &mut Visit<'_>) -> Result<Seen, Failure>;

    /// How many keys the table holds.
    fn count(&self) -> Result<u64, Failure>;

    /// Runs a statement that reads. Returns the columns' names, which an empty result has, too; an
    /// error after some rows comes when those were shown.
    fn sql(&self, query: &str, visit: &mut VisitRow<'_>) -> Result<Vec<String>, Failure>;

    /// The digest of the table, now or as it was.
    fn hash(&self, at: Option<Bound>) -> Result<TableHash, Failure>;
}

/// An offset was asked for that the log has not reached.
fn behind_the_end(found: Offset, end: Offset) -> Failure {
    Failure::no(format!("expected an offset up to {end}, found {found}"))
}
