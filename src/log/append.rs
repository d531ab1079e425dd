//! Appending: from records to staged frames.
//!
//! Called by users; uses `staging`, and the writer when there is no room or a condition is to be
//! checked. The way of a frame: hash its body, reserve, copy, publish.

use std::sync::Arc;
use std::sync::atomic::Ordering::*;

use crate::error::{Error, Kind, Result};
use crate::frame::{
    Draft, FLAG_PRODUCER, FLAG_TIMED, FrameKind, HEADER_BYTES, MAX_FRAME_BYTES, PRODUCER_BYTES,
};
use crate::position::{Epoch, LogByte, Offset};
use crate::record::{Batch, Op, Record};

use super::options::{Append, Appended, Compression, Durability, Expect};
use super::read::Cursor;
use super::staging::{NoRoom, ROOM_BYTES};
use super::writer::Staged;
use super::{Log, Shared, compress};

/// An append that was staged and can be waited for, any number of times.
#[derive(Debug)]
pub struct Ticket {
    shared: Arc<Shared>,
    end: LogByte,
    /// Where the records are; final, but not durable before [`wait`](Ticket::wait) says so.
    pub appended: Appended,
}

impl Ticket {
    /// Behind the records' frame.
    pub(crate) fn end(&self) -> LogByte {
        self.end
    }

    /// Waits until the records are as safe as `durability` says.
    pub fn wait(&self, durability: Durability) -> Result<Appended> {
        self.shared.wait(self.end, self.appended.first, durability)?;
        Ok(self.appended)
    }
}

impl Log {
    /// Appends one record and waits for the log's durability.
    pub fn append(&self, record: &Record<'_>) -> Result<Appended> {
        record.check()?;
        let shared = &*self.shared;
        let durability = shared.options.durability;
        if shared.options.compression != Compression::None {
            let mut batch = Batch::new();
            batch.push(record)?;
            return self.append_batch(&batch);
        }
        let len = HEADER_BYTES + record.encoded_len(false);
        if len > MAX_FRAME_BYTES {
            return Err(Error::new(
                Kind::InvalidInput,
                format!(
                    "expected a record that fits a frame of {MAX_FRAME_BYTES} bytes, found {len}"
                ),
            ));
        }
        // Waiting for a disk takes far longer than reading the exact time.
        let timestamp = record.timestamp.unwrap_or_else(|| match durability {
            Durability::Durable => shared.fs.now(),
            _ => shared.fs.now_coarse(),
        });
        let mut staged = Staged {
            draft: Draft {
                len: u32::try_from(len).expect("at most 16 MiB"),
                max_timestamp: timestamp,
                body_crc: 0,
                count: 1,
                kind: FrameKind::Data,
                flags: 0,
            },
            word: Some(record.word().to_le_bytes()),
            pieces: [record.key.unwrap_or_default(), record.value, &[]],
        };
        staged.draft.body_crc = staged.body_crc();
        let (first, end) = shared.stage(&staged, durability)?;
        shared.wait(end, first, durability)?;
        Ok(Appended { first, last: first, epoch: shared.epoch(), duplicate: false })
    }

    /// Appends a batch, all or nothing, and waits for the log's durability.
    pub fn append_batch(&self, batch: &Batch) -> Result<Appended> {
        self.append_with(batch, &Append::default())
    }

    /// Appends a batch as `how` says.
    pub fn append_with(&self, batch: &Batch, how: &Append) -> Result<Appended> {
        let durability = how.durability.unwrap_or(self.shared.options.durability);
        let (end, appended) = self.shared.stage_batch(batch, how, durability)?;
        self.shared.wait(end, appended.first, durability)?;
        Ok(appended)
    }

    /// Stages a batch and returns at once; the ticket waits. With [`Durability::Buffered`] in
    /// mind: what is never waited for may be lost with the process.
    pub fn submit(&self, batch: &Batch, how: &Append) -> Result<Ticket> {
        let (end, appended) = self.shared.stage_batch(batch, how, Durability::Buffered)?;
        Ok(Ticket { shared: Arc::clone(&self.shared), end, appended })
    }
}

impl Shared {
    #[inline]
    fn wait(&self, end: LogByte, first: Offset, durability: Durability) -> Result<()> {
        match durability {
            Durability::Buffered => Ok(()),
            Durability::Written => self.wait_written(end, first),
            Durability::Durable => self.wait_durable(end, first),
        }
    }

    /// Puts a frame into staging; returns its first offset and the log byte behind it.
    #[inline(always)]
    fn stage(&self, staged: &Staged<'_>, durability: Durability) -> Result<(Offset, LogByte)> {
        let len = staged.stride();
        if len > self.staged_limit() {
            return self.writer().append_alone(self, staged, false, |_| Ok(()));
        }
        loop {
            if let Some(error) = self.poison.get() {
                return Err(error.clone());
            }
            match self.staging.reserve(len, staged.draft.count) {
                Ok(mut room) => {
                    staged.fill(room.bytes());
                    let (first, end) = (Offset(room.offset), LogByte(room.end));
                    room.publish();
                    if durability == Durability::Buffered {
                        if self.options.worker {
                            self.worker.arm();
                        }
                        self.turn(len, end);
                    }
                    return Ok((first, end));
                }
                Err(NoRoom::Closed) if self.opens_soon() => {}
                Err(_) => self.make_room(len, durability)?,
            }
        }
    }

    /// Waits a moment for a closed buffer: opening the next takes no longer, unless the writer
    /// holds the intake.
    #[cold]
    fn opens_soon(&self) -> bool {
        for tries in 0..100 {
            if !self.staging.is_closed() {
                return true;
            }
            if tries < 30 { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        false
    }

    fn stage_batch(
        self: &Arc<Self>,
        batch: &Batch,
        how: &Append,
        durability: Durability,
    ) -> Result<(LogByte, Appended)> {
        if batch.is_empty() {
            return Err(Error::new(Kind::InvalidInput, "expected at least one record, found none"));
        }
        let count = u16::try_from(batch.len()).expect("a batch's limit");
        let mut table = Vec::new();
        if count > 1 {
            table.reserve_exact(4 * batch.len());
            for end in batch.ends() {
                table.extend_from_slice(&end.to_le_bytes());
            }
        }
        let mut mark = [0; PRODUCER_BYTES];
        let mut flags = if batch.max_timestamp().is_some() { FLAG_TIMED } else { 0 };
        if let Some(producer) = &how.producer {
            mark[..16].copy_from_slice(&producer.id.0);
            mark[16..].copy_from_slice(&producer.sequence.to_le_bytes());
            flags |= FLAG_PRODUCER;
        }
        let mark = if how.producer.is_some() { &mark[..] } else { &[] };
        let packed = compress::pack(self.options.compression, &table, batch.records());
        let (table, records) = match &packed {
            Some((flag, packed)) => {
                flags |= flag;
                (&[][..], &packed[..])
            }
            None => (&table[..], batch.records()),
        };
        let len = HEADER_BYTES + mark.len() + table.len() + records.len();
        let mut staged = Staged {
            draft: Draft {
                len: u32::try_from(len).expect("a batch's limit"),
                max_timestamp: batch.max_timestamp().unwrap_or_else(|| self.fs.now_coarse()),
                body_crc: 0,
                count,
                kind: FrameKind::Data,
                flags,
            },
            word: None,
            pieces: [mark, table, records],
        };
        staged.draft.body_crc = staged.body_crc();
        let (first, end) = if how.producer.is_some() || how.expect.is_some() {
            match self.stage_checked(&staged, how)? {
                Ok(placed) => placed,
                Err(duplicate) => return Ok(duplicate),
            }
        } else {
            self.stage(&staged, durability)?
        };
        let last = first.plus(u64::from(count) - 1);
        Ok((end, Appended { first, last, epoch: self.epoch(), duplicate: false }))
    }

    /// Stages a frame whose condition is checked when nothing can come before it any more.
    /// `Ok(Err(…))` is a retry of a batch that is there already.
    fn stage_checked(
        self: &Arc<Self>,
        staged: &Staged<'_>,
        how: &Append,
    ) -> Result<Result<(Offset, LogByte), (LogByte, Appended)>> {
        let mut writer = self.writer();
        writer.ready(self)?;
        if let Some(producer) = &how.producer
            && let Some(state) = writer.producers.get(producer.id)
        {
            if producer.sequence == state.sequence {
                let appended = Appended {
                    first: state.first,
                    last: state.last,
                    // A token names whoever appended it, perhaps before a restart.
                    epoch: self.epoch_of(state.last),
                    duplicate: true,
                };
                // Durable when everything staged so far is.
                return Ok(Err((self.intake().end().0, appended)));
            }
            if producer.sequence < state.sequence {
                return Err(Error::new(
                    Kind::Rejected,
                    format!(
                        "expected a sequence above {} from producer {}, found {}: that batch, or \
                         a later one, is in the log already",
                        state.sequence, producer.id, producer.sequence
                    ),
                )
                .at_offset(state.last.0));
            }
        }
        // To look for a key, all that is staged must be where a cursor can read it.
        let settle = matches!(how.expect, Some(Expect::Key { .. }));
        let placed = writer.append_alone(self, staged, settle, |next| match &how.expect {
            None => Ok(()),
            Some(Expect::End(end)) if *end == next => Ok(()),
            Some(Expect::End(end)) => Err(Error::new(
                Kind::Rejected,
                format!("expected the log to end at offset {end}, found {next}"),
            )
            .at_offset(next.0)
            .help("read what was appended meanwhile, then try again")),
            Some(Expect::Key { key, last }) => self.check_key(key, *last, next),
        });
        // A full disk may hold the frame back once it has its offset: then its outcome is
        // unknown, and a retry must find it all the same.
        let first = match &placed {
            Ok((first, _)) => Some(*first),
            Err(e) if e.kind() == Kind::Unknown => e.offset().map(Offset),
            Err(_) => None,
        };
        if let (Some(producer), Some(first)) = (&how.producer, first) {
            writer.producers.note(
                producer.id,
                crate::segment::ProducerState {
                    sequence: producer.sequence,
                    first,
                    last: first.plus(u64::from(staged.draft.count) - 1),
                    timestamp: staged.draft.max_timestamp,
                },
            );
        }
        placed.map(Ok)
    }

    /// Holds a key's last offset against what an append expects. The lookup speaks for the
    /// records it has seen; those behind them are read here.
    fn check_key(
        self: &Arc<Self>,
        key: &[u8],
        expected: Option<Offset>,
        next: Offset,
    ) -> Result<()> {
        let Some(lookup) = &self.options.key_lookup else {
            return Err(Error::new(
                Kind::InvalidInput,
                "a condition on a key needs a lookup, given when the log is opened",
            )
            .help("see `Options::key_lookup`"));
        };
        let (seen, mut last) = lookup(key);
        if seen < next {
            let mut cursor = Cursor::unsynced(Arc::clone(self), seen.max(self.start()), next)?;
            while let Some(entry) = cursor.next()? {
                if entry.record.key == Some(key) && entry.record.op != Op::Event {
                    last = Some(entry.offset);
                }
            }
        }
        if last == expected {
            return Ok(());
        }
        let say = |offset: Option<Offset>| match offset {
            Some(offset) => format!("at offset {offset}"),
            None => "nowhere".to_owned(),
        };
        Err(Error::new(
            Kind::Rejected,
            format!("expected the key's last record {}, found it {}", say(expected), say(last)),
        )
        .help("read the key again, then try again"))
    }

    /// Frames above this go through the writer alone.
    fn staged_limit(&self) -> usize {
        let segment = usize::try_from(self.options.segment_bytes).unwrap_or(usize::MAX);
        ROOM_BYTES.min(segment - 4096) / 2
    }

    /// The epoch that appends.
    #[inline]
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch { number: self.epoch_number.load(Acquire), nonce: self.epoch_nonce.load(Acquire) }
    }
}
