//! Where an ingest appends to: a log opened here, or whichever node leads.
//!
//! Both know producers, so that an ingest that was interrupted goes on where it ended. Invariants:
//! - batches are appended in order: with nodes each is acknowledged before the next is sent;
//! - what nodes say of a producer counts only once it is committed: a leader that dies could take it with it.

use std::time::{Duration, Instant};

use tidelog::client::{AppendOptions, Cluster};
use tidelog::frame::Producer;
use tidelog::{Append, Batch, Durability, Id, Kind, Log, Offset, OwnedEntry, Ticket};

use crate::exit::{Failure, Outcome};
use crate::progress;

/// Appends to a log are waited for at least this often.
const WAIT_BYTES: u64 = 8 << 20;
const WAIT_EVERY: Duration = Duration::from_millis(200);
/// How often it is looked whether a producer's last batch is committed.
const LOOK: Duration = Duration::from_millis(50);

/// Where a batch is.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) token: String,
}

/// How far a producer is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached {
    pub(crate) sequence: u64,
    /// Its last record.
    pub(crate) last: Offset,
}

/// What takes batches.
pub(crate) trait Sink {
    /// How far a producer is, if it is known.
    fn reached(&mut self, producer: Id) -> Result<Option<Reached>, Failure>;

    /// A record, if it can be had.
    fn get(&mut self, offset: Offset) -> Result<Option<OwnedEntry>, Failure>;

    /// Appends a batch; it may not be safe yet.
    fn append(&mut self, batch: &Batch, producer: Producer) -> Result<Placed, Failure>;

    /// Waits until everything appended is as safe as it is to be.
    fn settle(&mut self) -> Outcome;
}

/// A log.
pub(crate) struct Here<'a> {
    log: &'a Log,
    durability: Durability,
    /// The newest batch that was not waited for.
    pending: Option<Ticket>,
    unwaited: u64,
    waited: Instant,
}

impl<'a> Here<'a> {
    pub(crate) fn new(log: &'a Log, durability: Durability) -> Self {
        Here { log, durability, pending: None, unwaited: 0, waited: Instant::now() }
    }
}

impl Sink for Here<'_> {
    fn reached(&mut self, producer: Id) -> Result<Option<Reached>, Failure> {
        let state = self.log.producer(producer);
        Ok(state.map(|state| Reached { sequence: state.sequence, last: state.last }))
    }

    fn get(&mut self, offset: Offset) -> Result<Option<OwnedEntry>, Failure> {
        // What retention dropped or damage took cannot be compared.
        Ok(self.log.get(offset).ok().flatten())
    }

    fn append(&mut self, batch: &Batch, producer: Producer) -> Result<Placed, Failure> {
        let how = Append {
            producer: Some(producer),
            durability: Some(Durability::Buffered),
            ..Append::default()
        };
        let ticket = self.log.submit(batch, &how)?;
        let appended = ticket.appended;
        self.unwaited += batch.bytes() as u64;
        self.pending = Some(ticket);
        if self.unwaited >= WAIT_BYTES || self.waited.elapsed() >= WAIT_EVERY {
            self.settle()?;
        }
        Ok(Placed {
            first: appended.first.0,
            last: appended.last.0,
            token: self.log.token(&appended).to_string(),
        })
    }

    fn settle(&mut self) -> Outcome {
        if let Some(ticket) = self.pending.take() {
            ticket.wait(self.durability)?;
        }
        self.unwaited = 0;
        self.waited = Instant::now();
        Ok(())
    }
}

/// Nodes.
pub(crate) struct There {
    cluster: Cluster,
    how: AppendOptions,
    timeout: Duration,
}

impl There {
    pub(crate) fn new(cluster: Cluster, how: AppendOptions, timeout: Duration) -> Self {
        There { cluster: cluster.timeout(timeout), how, timeout }
    }
}

/// The key of a producer's batches.
fn key(producer: Id) -> String {
    format!("ingest-{producer}")
}

impl Sink for There {
    fn reached(&mut self, producer: Id) -> Result<Option<Reached>, Failure> {
        let until = Instant::now() + self.timeout;
        loop {
            let Some(state) = self.cluster.producer(&key(producer))? else { return Ok(None) };
            if state.shown {
                return Ok(Some(Reached { sequence: state.sequence, last: state.last }));
            }
            if progress::interrupted() {
                return Err(Failure::interrupted());
            }
            if Instant::now() >= until {
                return Err(tidelog::Error::new(
                    Kind::Unknown,
                    format!(
                        "expected the last ingest's batch at offset {} to be committed within {:?}, found \
                         that it is not",
                        state.first, self.timeout
                    ),
                )
                .help("nothing was appended; try again when the leader's members answer")
                .into());
            }
            std::thread::sleep(LOOK);
        }
    }

    fn get(&mut self, offset: Offset) -> Result<Option<OwnedEntry>, Failure> {
        match self.cluster.records(offset, 1, Duration::ZERO) {
            Ok(records) => Ok(records.into_iter().find(|entry| entry.offset == offset)),
            Err(e) if matches!(e.kind(), Kind::Lost | Kind::Gone) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn append(&mut self, batch: &Batch, producer: Producer) -> Result<Placed, Failure> {
        let how = self.how.clone().key(key(producer.id)).sequence(producer.sequence);
        let acked = self.cluster.append(batch, &how).acked()?;
        Ok(Placed { first: acked.first.0, last: acked.last.0, token: acked.token.to_string() })
    }

    fn settle(&mut self) -> Outcome {
        Ok(())
    }
}
