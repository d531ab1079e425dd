//! A node's long answer, line by line, as it comes.
//!
//! A line is a record's envelope, or says something about the answer: offsets that were lost, what
//! a history went through, why it ends early. Empty lines are signs of life. Lines have a limit, and
//! an answer that breaks off is an error, never an end.

use std::io::{BufRead, BufReader, Read};
use std::ops::Range as Offsets;

use serde::Deserialize;
use tidelog::ship::Reply;
use tidelog::table::Walked;
use tidelog::text::{MAX_LINE_BYTES, parse_entry};
use tidelog::{Error, Kind, Offset, OwnedEntry};

use crate::exit::Failure;

use super::Seen;

/// In JSON a byte may take six.
const MOST_LINE_BYTES: u64 = 8 * MAX_LINE_BYTES as u64;

/// An answer on its way.
pub(super) struct Lines {
    reader: BufReader<Box<dyn Read>>,
    place: String,
    line: Vec<u8>,
}

/// One line of it.
pub(super) enum Line {
    Entry(OwnedEntry),
    Lost(Offsets<Offset>),
    History(Seen),
}

/// What a line says that is no record.
#[derive(Deserialize)]
struct Said {
    lost: Option<Lost>,
    history: Option<History>,
    error: Option<Why>,
}

#[derive(Deserialize)]
struct Lost {
    from: u64,
    to: u64,
}

#[derive(Deserialize)]
struct History {
    records: u64,
    segments_read: u64,
    segments_skipped: u64,
    lost: Vec<(u64, u64)>,
}

#[derive(Deserialize)]
struct Why {
    kind: String,
    message: String,
    help: Option<String>,
}

impl Lines {
    pub(super) fn new(reply: Reply) -> Self {
        let place = reply.place().to_owned();
        let reader = BufReader::with_capacity(64 << 10, Box::new(reply.reader()) as Box<dyn Read>);
        Lines { reader, place, line: Vec::new() }
    }

    /// The next line that says something, without its end; `None` behind the last.
    pub(super) fn read(&mut self) -> Result<Option<&[u8]>, Failure> {
        loop {
            self.line.clear();
            let mut limited = (&mut self.reader).take(MOST_LINE_BYTES);
            let read = limited.read_until(b'\n', &mut self.line).map_err(|e| {
                Error::new(Kind::Io, format!("the answer of {} broke off: {e}", self.place))
            })?;
            match self.line.pop() {
                None => return Ok(None),
                Some(b'\n') if read > 1 => return Ok(Some(&self.line)),
                Some(b'\n') => {}
                Some(_) => return Err(self.wrong("a line that ends")),
            }
        }
    }

    /// The same, as what it says.
    pub(super) fn next(&mut self) -> Result<Option<Line>, Failure> {
        let Some(line) = self.read()? else { return Ok(None) };
        if let Ok(entry) = parse_entry(line) {
            return Ok(Some(Line::Entry(entry)));
        }
        match serde_json::from_slice(line) {
            Ok(Said { lost: Some(Lost { from, to }), .. }) if from < to => {
                Ok(Some(Line::Lost(Offset(from)..Offset(to))))
            }
            Ok(Said { history: Some(said), .. }) => Ok(Some(Line::History(said.seen()))),
            _ => Err(self.error()),
        }
    }

    /// Why the answer ends early, as its last line says; or that this is no answer of a node.
    pub(super) fn error(&self) -> Failure {
        match serde_json::from_slice(&self.line) {
            Ok(Said { error: Some(why), .. }) => {
                let kind = Kind::from_word(&why.kind).unwrap_or(Kind::Io);
                let error = Error::new(kind, format!("{}: {}", self.place, why.message));
                why.help.map_or_else(|| error.clone(), |help| error.clone().help(help)).into()
            }
            _ => self.wrong("a line of a node's answer"),
        }
    }

    /// What came was not what it should be.
    pub(super) fn wrong(&self, expected: &str) -> Failure {
        let line = String::from_utf8_lossy(&self.line);
        let found: String = line.chars().take(80).collect();
        Error::new(Kind::Io, format!("expected {expected} from {}, found {found:?}", self.place))
            .help("is that a tidelog node of this version?")
            .into()
    }
}

impl History {
    fn seen(self) -> Seen {
        let walked = Walked {
            segments_read: self.segments_read,
            segments_skipped: self.segments_skipped,
            ..Walked::default()
        };
        let lost = self.lost.iter().filter(|(from, to)| from < to);
        Seen {
            records: self.records,
            walked,
            lost: lost.map(|(from, to)| Offset(*from)..Offset(*to)).collect(),
        }
    }
}
