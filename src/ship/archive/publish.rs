//! A leader's log into the archive: sealed segments whole, the rest as tails.
//!
//! Called by users and the command line, once or again and again. Every step may be the last: what
//! is in the sequence is the truth, and the next push goes on from there. Invariants:
//! - only what is durable and committed at the leader is published, and every frame is checked before;
//! - an epoch is claimed, then fenced, before its first entry;
//! - a data object is whole before an entry names it; uploading it again changes nothing;
//! - nothing is appended while it is unknown what became of the entry before.

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::log::files::EpochEntry;
use crate::mutant::{self, Mutant};
use crate::position::{Epoch, Id, LogByte, Offset};
use crate::segment::{FOOTER_BYTES, Footer, SEAL_BYTES, SegmentName};
use crate::ship::directory::Leadership;
use crate::ship::{Directory, Offer, Report, Shipped, Source};

use super::entry::{EntryHead, MAX_PAYLOAD_BYTES, Sealed, Tail, What};
use super::epoch::Owner;
use super::frames::frames;
use super::history::{History, check_end, common};
use super::name::Hash;
use super::probe::probe;
use super::sequence::{self, Contest, Won};
use super::state::{Piece, State};
use super::store::Store;
use super::{rollup, snapshot, walk};

/// How a log is published.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PublishOptions {
    /// Whether a fork below the archive's end may cut what lies behind it. It stays readable, and
    /// counts no more.
    pub accept_loss: bool,
    /// Frames in one tail, about.
    pub tail_bytes: u64,
    /// Entries between two rollups.
    pub rollup_every: u64,
    /// Whether the store is tried before anything is written to it.
    pub probe: bool,
}

impl Default for PublishOptions {
    fn default() -> Self {
        PublishOptions { accept_loss: false, tail_bytes: 8 << 20, rollup_every: 1000, probe: true }
    }
}

/// What a push did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pushed {
    /// Entries appended.
    pub entries: u64,
    /// Of these, sealed segments.
    pub segments: u64,
    /// Of these, tails.
    pub tails: u64,
    /// Bytes of segments and tails that were sent.
    pub bytes: u64,
    /// Where the archive ended before.
    pub from: Offset,
    /// Where it ends now.
    pub end: Offset,
}

/// Publishes a leader's directory to an archive.
#[derive(Debug)]
pub struct Publisher {
    pub(super) store: Arc<dyn Store>,
    pub(super) from: Directory,
    options: PublishOptions,
    pub(super) state: State,
    /// An entry of which it is not known yet what became of it.
    pending: Option<Contest>,
    /// Whether the archive's end was held against the log.
    checked: bool,
    /// Whether the store was tried.
    probed: bool,
    /// How far the archive holds what this log's newest epoch leads, behind that epoch's fence.
    pub(super) held: Option<(LogByte, Offset)>,
    /// How far the log is durable, by the word of whoever has it open.
    durable: (LogByte, Offset),
}

impl Publisher {
    /// A publisher of the log directory `from`. Refused: a follower's directory, an archive of
    /// another log.
    pub fn open(store: Arc<dyn Store>, from: Directory, options: PublishOptions) -> Result<Self> {
        let lead = from.leadership()?;
        let state = walk::load(&*store)?;
        if state.n > 0 && state.log != lead.log {
            return Err(Error::new(
                Kind::WrongLog,
                format!("expected an archive of log {}, found one of {}", lead.log, state.log),
            )
            .in_file(std::path::Path::new(&store.place()))
            .help("each log needs an archive of its own"));
        }
        Ok(Publisher {
            store,
            from,
            options,
            state,
            pending: None,
            checked: false,
            probed: false,
            held: None,
            durable: Default::default(),
        })
    }

    /// Publishes everything that is durable now. Refused: a store that is not atomic, a history
    /// that the archive's is not a part of, a leader that was replaced.
    pub fn push(&mut self) -> Result<Pushed> {
        let offer = self.from.look(&Report::default())?;
        // Readers of the archive see all of it: what is not promised yet is not published.
        let end = match offer.committed < offer.durable {
            true => (offer.committed, offer.committed_offset),
            false => (offer.durable, offer.durable_offset),
        };
        self.publish_to(offer, end)
    }

    /// Publishes everything before `end`, of which whoever has the log open knows that it is durable
    /// and may be shown to readers of the archive; the directory itself says so a little later.
    pub fn push_to(&mut self, end: (LogByte, Offset)) -> Result<Pushed> {
        let offer = self.from.look(&Report::default())?;
        self.publish_to(offer, end)
    }

    /// Takes note of what whoever has the log open knows to be durable. Its files may show less, for a while: a leader that goes
    /// on where it was closed writes `STATE` later than it takes away the mark of that end.
    pub fn knows_durable(&mut self, end: (LogByte, Offset)) {
        self.durable = self.durable.max(end);
    }

    /// How far the archive holds this log, behind the fence of the log's newest epoch; `None` while
    /// that is not known.
    pub fn held(&self) -> Option<(LogByte, Offset)> {
        self.held
    }

    fn publish_to(&mut self, mut offer: Offer, end: (LogByte, Offset)) -> Result<Pushed> {
        let durable = self.durable.max((offer.durable, offer.durable_offset));
        (offer.durable, offer.durable_offset) = self.limit(durable, end);
        let mut pushed = Pushed { from: self.state.end_offset, ..Pushed::default() };
        if self.pending.is_none() && self.is_all_there(&offer)? {
            pushed.end = self.state.end_offset;
            return Ok(pushed);
        }
        let before = self.state.n;
        let outcome = self.publish(&mut offer, durable, end, &mut pushed);
        if outcome.as_ref().is_err_and(|e| e.kind() == Kind::Fenced) {
            // It is asked of the store from now on, however little there is to publish.
            self.held = None;
        }
        if self.state.n > before {
            walk::write_hint(&*self.store, self.state.n);
        }
        pushed.end = self.state.end_offset;
        outcome.map(|()| pushed)
    }

    /// How far to publish: to `end`, or to where the archive is, of a log that is durable up to
    /// `durable`. What the archive holds is there, though a leader that was opened anew and has not
    /// heard of its members yet, or whose set has changed, calls less than that committed.
    fn limit(&self, durable: (LogByte, Offset), end: (LogByte, Offset)) -> (LogByte, Offset) {
        end.max((self.state.end, self.state.end_offset).min(durable))
    }

    /// The archive as this publisher knows it.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether a look at the log alone says that there is nothing to do: idle costs nothing.
    fn is_all_there(&mut self, offer: &Offer) -> Result<bool> {
        if !self.checked || self.held.is_none() || self.state.end < offer.durable {
            return Ok(false);
        }
        let known = |name: &&SegmentName| {
            self.state.pieces.get(&name.0).is_some_and(|piece| piece.sealed().is_some())
        };
        for name in offer.segments.iter().rev().take_while(|name| !known(name)) {
            let here = self.state.pieces.contains_key(&name.0);
            if here && self.from.segment(*name)?.footer.is_some() {
                return Ok(false);
            }
        }
        let entered = self.from.leadership()?.epochs.last().map(|entry| entry.epoch);
        Ok(entered == Some(self.state.epoch))
    }

    fn publish(
        &mut self,
        offer: &mut Offer,
        durable: (LogByte, Offset),
        end: (LogByte, Offset),
        pushed: &mut Pushed,
    ) -> Result<()> {
        self.held = None;
        self.settle(pushed)?;
        self.catch_up()?;
        // What only now is known to be there counts as well.
        (offer.durable, offer.durable_offset) = self.limit(durable, end);
        let lead = self.from.leadership()?;
        let Some(me) = self.owner(&lead)? else { return Ok(()) };
        self.check_fenced(&me)?;
        if self.state.epoch != me.epoch {
            self.fence(&me, &lead.epochs, offer, pushed)?;
            // What was cut off there says nothing of this log.
            (offer.durable, offer.durable_offset) = self.limit(durable, end);
        } else if common(&self.state, &history(&lead.epochs, offer)).0 < self.state.end {
            return Err(self.shorter(offer));
        }
        if !self.checked {
            check_end(&self.state, &mut self.from, offer)?;
            self.checked = true;
        }
        let offer = &*offer;
        self.held = Some((self.state.end, self.state.end_offset));
        for (i, name) in offer.segments.iter().enumerate() {
            let base = name.0;
            if base < self.state.floor || base >= offer.durable {
                continue;
            }
            let piece = self.state.pieces.get(&base);
            if piece.is_some_and(|piece| piece.sealed().is_some()) {
                continue;
            }
            let cut = match piece {
                Some(Piece::Sealed(held)) => Some(held.to),
                _ => None,
            };
            if piece.is_none() && base != self.state.next_base() {
                return Err(self.gap(base));
            }
            let shipped = self.from.segment(*name)?;
            if let Some(footer) = shipped.footer.as_ref().filter(|f| f.end() <= offer.durable) {
                self.segment(&me, footer, pushed)?;
                continue;
            }
            let next = offer.segments.get(i + 1);
            let roll = next.map_or(u64::MAX, |next| next.0.0.saturating_sub(SEAL_BYTES));
            let limit = LogByte(offer.durable.0.min(roll));
            if cut.is_some_and(|to| to < limit) {
                // A tail goes on behind tails alone: the rest comes with the segment, once it is sealed.
                return Ok(());
            }
            self.tails(&me, &shipped, limit, pushed)?;
        }
        Ok(())
    }

    /// Who this log's leader is; `None` before its first epoch.
    pub(super) fn owner(&self, lead: &Leadership) -> Result<Option<Owner>> {
        let (Some(node), Some(last)) = (lead.node, lead.epochs.last()) else { return Ok(None) };
        if last.node != node {
            return Err(Error::new(
                Kind::NotLeader,
                format!("expected the leader of epoch {}, found node {node}", last.epoch),
            )
            .in_file(self.from.path())
            .help("open the log for writing once: it begins an epoch of its own"));
        }
        Ok(Some(Owner { log: lead.log, epoch: last.epoch, node }))
    }

    /// Finds out what became of the entry before.
    pub(super) fn settle(&mut self, pushed: &mut Pushed) -> Result<Won> {
        let Some(contest) = &mut self.pending else { return Ok(Won::Mine) };
        match sequence::run(&*self.store, contest) {
            Ok(won) => {
                let head = contest.head().clone();
                self.pending = None;
                if won == Won::Mine {
                    self.state.apply(&head)?;
                    pushed.entries += 1;
                    self.held = self.held.map(|_| (self.state.end, self.state.end_offset));
                }
                Ok(won)
            }
            // What stands at n could not be learned: the same n, the same bytes, next time.
            Err(error) if !contest.is_decided() => {
                contest.resume();
                Err(error)
            }
            Err(error) => {
                self.pending = None;
                Err(error)
            }
        }
    }

    /// Takes what others appended.
    pub(super) fn catch_up(&mut self) -> Result<()> {
        if !walk::advance(&*self.store, &mut self.state)? {
            self.state = walk::load(&*self.store)?;
        }
        Ok(())
    }

    pub(super) fn check_fenced(&self, me: &Owner) -> Result<()> {
        let there = &self.state;
        let taken = there.epoch.number > me.epoch.number
            || there.epoch.number == me.epoch.number
                && (there.epoch, there.node) != (me.epoch, me.node);
        if there.n == 0 || !taken || mutant::on(Mutant::SkipFenceCheck) {
            return Ok(());
        }
        let last = walk::head(&*self.store, there.n)?;
        let error = match last {
            Some(head) => sequence::fenced(me.epoch.number, &head),
            None => Error::new(Kind::NotFound, "expected the archive's last entry, found none"),
        };
        Err(error.in_file(std::path::Path::new(&self.store.place())))
    }

    /// Claims the epoch and fences off those before it.
    fn fence(
        &mut self,
        me: &Owner,
        epochs: &[EpochEntry],
        offer: &Offer,
        pushed: &mut Pushed,
    ) -> Result<()> {
        self.checked = false;
        loop {
            let (fork, fork_offset) = match self.state.n {
                0 => (offer.floor, offer.floor_offset),
                _ => common(&self.state, &history(epochs, offer)),
            };
            if self.state.n > 0 && fork < self.state.end && !self.options.accept_loss {
                return Err(self.fork_below_end(fork_offset));
            }
            let mut after = self.state.clone();
            let next = EntryHead {
                n: after.n + 1,
                ..self.head(me, What::Fence { parent: after.epoch, fork, fork_offset })?
            };
            after.apply(&next)?;
            if offer.floor > after.next_base() {
                return Err(self.gap(offer.floor));
            }
            if fork == self.state.end {
                // Before anything is claimed: a directory of another history leads nothing here.
                check_end(&self.state, &mut self.from, offer)?;
            }
            self.try_store()?;
            me.claim(&*self.store)?;
            let what = What::Fence { parent: self.state.epoch, fork, fork_offset };
            match self.append(me, what, &[], pushed)? {
                Won::Mine => {
                    // Cut at the fork, it ends where the epochs' history does.
                    self.checked = true;
                    return Ok(());
                }
                Won::Passed => {
                    self.catch_up()?;
                    self.check_fenced(me)?;
                }
            }
        }
    }

    /// A sealed segment: the object first, then the entry that names it.
    fn segment(&mut self, me: &Owner, footer: &Footer, pushed: &mut Pushed) -> Result<()> {
        let name = SegmentName(footer.base);
        let len = footer.index_byte + 16 * u64::from(footer.index_entries) + FOOTER_BYTES as u64;
        let mut bytes = vec![0; usize::try_from(len).expect("segments fit the address space")];
        let read = self.from.read(name, 0, &mut bytes)?;
        let data_end = usize::try_from(footer.data_end).unwrap_or(usize::MAX);
        let whole = read == bytes.len()
            && bytes.ends_with(&footer.encode())
            && bytes.get(..data_end).is_some_and(|data| Hash::of(data).0 == footer.hash);
        if !whole {
            return Err(Error::new(
                Kind::Corrupt,
                "expected a sealed segment whose content has the hash in its footer",
            )
            .in_file(&self.from.file(name))
            .help("nothing of it was published; run `tidelog verify` on the log"));
        }
        let sealed = Sealed {
            base: footer.base,
            base_offset: footer.base_offset,
            epoch: footer.epoch,
            end: footer.end(),
            end_offset: footer.end_offset,
            fingerprint: footer.fingerprint,
            file_bytes: len,
            hash: Hash::of(&bytes),
            seal: Hash(footer.hash),
        };
        let object = sealed.name();
        // Objects appear whole: who finds its end finds all of it.
        let at = len - FOOTER_BYTES as u64;
        let there = self.store.get_range(&object, at, FOOTER_BYTES + 1)?;
        if there.as_deref() != Some(&footer.encode()[..]) {
            self.try_store()?;
            self.store.put(&object, &bytes)?;
            pushed.bytes += len;
        }
        drop(bytes);
        self.append(me, What::Segment(sealed), &[], pushed)?;
        pushed.segments += 1;
        self.roll_up(me, pushed)
    }

    /// Frames of a segment that is not sealed, up to `limit`.
    fn tails(
        &mut self,
        me: &Owner,
        shipped: &Shipped,
        limit: LogByte,
        pushed: &mut Pushed,
    ) -> Result<()> {
        let header = shipped.header;
        loop {
            let piece = self.state.pieces.get(&header.base);
            let (from, offset) =
                piece.map_or((header.base, header.base_offset), |piece| piece.end());
            if from >= limit {
                return Ok(());
            }
            let records = offset.0.checked_sub(header.base_offset.0);
            let records = records.and_then(|records| u32::try_from(records).ok());
            let records = records.ok_or_else(|| self.gap(header.base))?;
            let (at, end) = (header.file_byte(from.0), header.file_byte(limit.0));
            let found = frames(&mut self.from, &header, at, end, records, self.options.tail_bytes)?;
            let tail = Tail {
                base: header.base,
                base_offset: header.base_offset,
                epoch: header.epoch,
                from,
                to: from.plus(found.bytes.len() as u64),
                to_offset: header.base_offset.plus(u64::from(found.records)),
                fingerprint: found.fingerprint,
            };
            let payload = match tail.starts() {
                true => [&shipped.page[..], &found.bytes[..]].concat(),
                false => found.bytes,
            };
            self.append(me, What::Tail(tail), &payload, pushed)?;
            pushed.tails += 1;
            pushed.bytes += payload.len() as u64;
            self.roll_up(me, pushed)?;
        }
    }

    /// Tries the store, once.
    fn try_store(&mut self) -> Result<()> {
        if self.options.probe && !self.probed {
            probe(&*self.store, self.from.fs())?;
            self.probed = true;
        }
        Ok(())
    }

    pub(super) fn roll_up(&mut self, me: &Owner, pushed: &mut Pushed) -> Result<()> {
        if self.state.n - self.state.rollup < self.options.rollup_every {
            return Ok(());
        }
        // What was pruned is carried no further.
        self.state.snapshots = snapshot::live(&*self.store, &self.state)?;
        let payload = rollup::encode(&self.state);
        if payload.len() as u64 <= MAX_PAYLOAD_BYTES {
            self.append(me, What::Rollup, &payload, pushed)?;
            walk::write_hint(&*self.store, self.state.n);
        }
        Ok(())
    }

    pub(super) fn append(
        &mut self,
        me: &Owner,
        what: What,
        payload: &[u8],
        pushed: &mut Pushed,
    ) -> Result<Won> {
        assert!(self.pending.is_none(), "one entry at a time");
        self.try_store()?;
        let (head, bytes) = self.head(me, what)?.with_payload(payload);
        self.pending = Some(Contest::new(head, bytes));
        self.settle(pushed)
    }

    /// The head of the next entry.
    fn head(&self, me: &Owner, what: What) -> Result<EntryHead> {
        let mut put_id = [0; 16];
        let fs = self.from.fs();
        fs.random(&mut put_id).map_err(|e| Error::io("draw a put id for", self.from.path(), e))?;
        Ok(EntryHead {
            log: me.log,
            n: self.state.n + 1,
            rollup: self.state.rollup,
            previous: self.state.hash,
            epoch: me.epoch,
            node: me.node,
            put_id: Id(put_id),
            time: fs.now(),
            payload_bytes: 0,
            payload_hash: Hash::default(),
            what,
        })
    }

    fn shorter(&self, offer: &Offer) -> Error {
        Error::new(
            Kind::NotInHistory,
            format!(
                "the archive holds this epoch up to log byte {}, and {} ends at {}",
                self.state.end,
                self.from.place(),
                offer.durable
            ),
        )
        .in_file(self.from.path())
        .at_offset(self.state.end_offset.0)
        .help(
            "this directory lost what it had published, or was restored from an older copy: follow \
             the archive to get it back; nothing was published",
        )
    }

    fn fork_below_end(&self, fork: Offset) -> Error {
        let Epoch { number, .. } = self.state.epoch;
        Error::new(
            Kind::NotInHistory,
            format!(
                "the archive holds offsets {fork} to {} of a history (epoch {number}) that {} has left",
                self.state.end_offset,
                self.from.place()
            ),
        )
        .in_file(self.from.path())
        .at_offset(fork.0)
        .help(
            "with `--accept-loss` they are cut: they stay readable in the archive and count no \
             more. Otherwise follow the archive first",
        )
    }

    fn gap(&self, base: LogByte) -> Error {
        Error::new(
            Kind::Gone,
            format!(
                "the archive ends at log byte {}, and {} goes on at {base}: what lies between was \
                 dropped by retention before it was published",
                self.state.end,
                self.from.place()
            ),
        )
        .in_file(self.from.path())
        .at_offset(self.state.end_offset.0)
        .help("publish to a new archive, or from a copy that still holds it")
    }
}

fn history<'a>(epochs: &'a [EpochEntry], offer: &'a Offer) -> History<'a> {
    History { epochs, segments: &offer.segments, durable: offer.durable }
}
