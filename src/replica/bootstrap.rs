//! Beginning with a snapshot: a copy that starts where a snapshot stands, not at the log's beginning.
//!
//! ```text
//! source log        (dropped) |== segment ====●=====|== segment ==|== …
//! snapshot                    ▲ floor          ▲ position
//! made here                   |== frames ======●|  + runs + checkpoint, then LOG
//! ```
//!
//! Called by the follower when the log that it needs is gone or would cost more than a snapshot, and by
//! a restore. The segment that holds the snapshot's position is taken from its beginning up to there,
//! so that the copy goes on by bytes, like any other. Invariants:
//! - a snapshot counts only when the log says the same: its last frame is the one before the position,
//!   checksums, epoch and offset;
//! - `LOG` comes last. A directory that was a copy stays one until everything is here but for names;
//! - what was interrupted is done again, and runs that are here, or in part, are gone on with;
//! - what was promised here stays promised, and the node stays the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::fs::{Fs, Lock, Open};
use crate::log::files::{CHECKPOINT, Control, Epochs, Layout, NodeFile};
use crate::log::open;
use crate::position::{Epoch, Id, LogByte, Position};
use crate::segment::{Link, SEAL_BYTES, SegmentName, Tally};
use crate::ship::{Offer, Report, Shipped, SnapshotOffer, Source};
use crate::table::{
    Manifest, RestoreAt, SNAPSHOT, SnapshotName, checkpoint_name, fetch_run, finished, prepare,
    run_path, unmake,
};

use super::copy::{Copy, note, write_pages};
use super::fetch::fetch;

/// Snapshots tried before it is given up.
const ATTEMPTS: usize = 8;
/// Log that is not worth a snapshot.
const LEAST_LOG_BYTES: u64 = 64 << 20;

/// What a copy began with.
#[derive(Clone, Debug)]
pub(super) struct Begun {
    pub(super) name: SnapshotName,
    pub(super) place: String,
    pub(super) bytes: u64,
}

/// A directory that is to begin with a snapshot.
pub(super) struct Bootstrap<'a> {
    pub(super) fs: &'a Arc<dyn Fs>,
    pub(super) layout: &'a Layout,
    /// What it is to follow.
    pub(super) follows: String,
    /// The log that it is of.
    pub(super) log: Id,
    /// A copy that is there already and ends too early.
    pub(super) copy: Option<&'a Copy>,
    /// What the snapshot may hold.
    pub(super) at: RestoreAt,
    /// Nothing of that copy is of the source's history: any snapshot will do.
    pub(super) anew: bool,
}

impl Bootstrap<'_> {
    /// Takes the newest snapshot of the most preferred source that has one which fits; `None` when
    /// there is none at all. The caller holds the directory's lock.
    pub(super) fn begin(&self, source: &mut dyn Source) -> Result<Option<Begun>> {
        let _table = self.lock_table()?;
        let mut tried = BTreeSet::new();
        let mut refused: Option<Error> = None;
        for _ in 0..ATTEMPTS {
            // Asked anew each time: what took long to fetch may have a younger one by now.
            let mut offers = match source.snapshots() {
                Err(_) if refused.is_some() => break,
                offers => offers?,
            };
            offers.retain(|offer| self.fits(offer) && !tried.contains(&(offer.link, offer.name)));
            let next = offers.into_iter().min_by_key(|o| (o.link, std::cmp::Reverse(o.name)));
            let Some(offer) = next else { break };
            tried.insert((offer.link, offer.name));
            source.hold(&offer, &**self.fs);
            let begun = self.with(source, &offer);
            source.release();
            match begun {
                Ok(begun) => return Ok(Some(begun)),
                Err(e) if another_may_do(e.kind()) => {
                    refused.get_or_insert(e);
                }
                Err(e) => return Err(e),
            }
        }
        refused.map_or(Ok(None), Err)
    }

    /// Of a copy that is there: nobody else may keep its table meanwhile.
    fn lock_table(&self) -> Result<Option<Box<dyn Lock>>> {
        if self.copy.is_none() {
            return Ok(None);
        }
        let dir = self.layout.table();
        self.fs.create_dir(&dir).map_err(|e| Error::io("create", &dir, e))?;
        let path = dir.join("LOCK");
        match self.fs.lock(&path, true) {
            Ok(Some(lock)) => Ok(Some(lock)),
            Ok(None) => Err(Error::new(
                Kind::Locked,
                "expected nobody to keep this copy's table, found another process at it",
            )
            .in_file(&path)
            .help("stop it: the table is to begin anew, with a snapshot")),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("lock", &path, e)),
        }
    }

    /// Where the copy ends that is to be gone on with, if there is one.
    fn end(&self) -> Option<Position> {
        self.copy.filter(|_| !self.anew).map(Copy::end)
    }

    fn fits(&self, offer: &SnapshotOffer) -> bool {
        let end = self.end().map(|end| end.offset);
        let limit = match self.at {
            RestoreAt::Offset(limit) => offer.name.offset <= limit,
            _ => true,
        };
        limit && end.is_none_or(|end| end < offer.name.offset)
    }

    fn with(&self, source: &mut dyn Source, offer: &SnapshotOffer) -> Result<Begun> {
        let place = source.place();
        let bytes = source.manifest(offer)?;
        let manifest = Manifest::parse(&bytes, SNAPSHOT).map_err(|e| {
            e.help(format!("snapshot {} of {place} cannot be used; another may do", offer.name))
        })?;
        self.check(&manifest, offer, &place)?;
        let at = manifest.mark.position;
        if self.copy.is_none() {
            prepare(&**self.fs, self.layout)?;
        }
        let node = self.node()?;
        let report = self.report(node, at);
        let there = source.look(&report)?;
        let start = self.start(source, &there, &manifest)?;
        for run in &manifest.runs {
            let path = run_path(&self.layout.table(), run.id);
            if self.fs.open(&path, Open::Read).is_ok() {
                continue;
            }
            let from = PathBuf::from(format!("{place}/{}", run.id));
            let mut read = |byte, part: &mut [u8]| source.read_run(offer, run.id, byte, part);
            fetch_run(&from, &mut read, self.fs, &self.layout.table(), manifest.log, run)?;
        }
        self.finish(node, start, manifest)?;
        Ok(Begun { name: offer.name, place, bytes: offer.bytes })
    }

    /// Whether a manifest is what it was offered as, of this log and of this copy's history.
    fn check(&self, manifest: &Manifest, offer: &SnapshotOffer, place: &str) -> Result<()> {
        let refused = |kind, what: String| {
            Err(Error::new(kind, what)
                .in_file(&self.layout.root)
                .help("nothing was changed; name a source with a snapshot of this log's history"))
        };
        let at = manifest.mark.position;
        if manifest.log != self.log {
            return refused(
                Kind::WrongLog,
                format!(
                    "expected a snapshot of log {} at {place}, found one of log {}",
                    self.log, manifest.log
                ),
            );
        }
        if (manifest.name(), at.log_byte, manifest.bytes())
            != (offer.name, offer.log_byte, offer.bytes)
        {
            return refused(
                Kind::Corrupt,
                format!("expected snapshot {} at {place}, found another manifest", offer.name),
            );
        }
        if let RestoreAt::Time(time) = self.at
            && manifest.mark.newest >= time
        {
            return refused(
                Kind::Gone,
                format!("expected a snapshot from before that time, found {}", offer.name),
            );
        }
        if let Some(end) = self.end()
            && !holds(manifest, end)
        {
            return refused(
                Kind::NotInHistory,
                format!(
                    "this copy ends at log byte {} of epoch {}, and snapshot {} of {place} is of a \
                     history without that: the two differ",
                    end.log_byte, end.epoch, offer.name
                ),
            );
        }
        Ok(())
    }

    /// Who this directory is: what it was before, or what an interrupted try made it.
    fn node(&self) -> Result<Id> {
        if let Some(copy) = self.copy {
            return Ok(copy.node);
        }
        if let Ok(Some(known)) = NodeFile::read(&**self.fs, self.layout) {
            return Ok(known.id);
        }
        let mut id = [0; 16];
        let drawn = self.fs.random(&mut id);
        drawn.map_err(|e| Error::io("read randomness for", &self.layout.root, e))?;
        NodeFile::here(&**self.fs, self.layout, Id(id))?.write(&**self.fs, self.layout)?;
        Ok(Id(id))
    }

    /// What a source is told while the snapshot is on its way: a leader keeps the log from there on.
    /// It acknowledges nothing.
    fn report(&self, node: Id, at: Position) -> Report {
        let promise = self.copy.and_then(|copy| copy.promises.get()).map(|promise| promise.epoch);
        Report {
            log: Some(self.log),
            node: Some(node),
            promise,
            received: at,
            durable: at,
            applied: at,
            committed: Some(at.log_byte),
            last: None,
            unclean: true,
        }
    }

    /// Fetches what the log has up to the snapshot's position, of the segment that holds it.
    fn start(&self, source: &mut dyn Source, there: &Offer, manifest: &Manifest) -> Result<Start> {
        let place = source.place();
        let at = manifest.mark.position;
        if there.log != self.log {
            return Err(Error::new(
                Kind::WrongLog,
                format!("expected log {} at {place}, found log {}", self.log, there.log),
            )
            .in_file(&self.layout.root));
        }
        let promised = self.copy.and_then(|copy| copy.promises.get()).map(|promise| promise.epoch);
        if promised.is_some_and(|promised| there.epoch.number < promised.number) {
            return Err(Error::new(
                Kind::NotLeader,
                format!(
                    "expected epoch {} or a later one at {place}, found {}",
                    promised.unwrap_or_default(),
                    there.epoch
                ),
            )
            .help("follow the leader of the newer epoch; this one was replaced"));
        }
        let early = there.durable < at.log_byte || there.committed < at.log_byte;
        if early {
            return Err(Error::new(
                Kind::Gone,
                format!(
                    "expected {place} to hold the log up to offset {}, where the snapshot stands, \
                     found that it ends at {}",
                    at.offset, there.durable_offset
                ),
            )
            .help("it may be there in a moment; another snapshot may do"));
        }
        let next = there.segments.partition_point(|name| name.0 < at.log_byte);
        let holder = next.checked_sub(1).map(|i| there.segments[i]);
        let follower = there.segments.get(next).copied();
        let beyond = |name: SegmentName| name.0.0 == at.log_byte.0.saturating_add(SEAL_BYTES);
        match (holder, follower) {
            (Some(holder), _) => self.prefix(source, there, holder, manifest),
            // All of it was dropped up to just there.
            (None, Some(next)) if beyond(next) || next.0 == at.log_byte => {
                let header = source.segment(next)?.header;
                let same = header.base_offset == at.offset
                    && header.previous.is_some_and(|link: Link| {
                        let mark = manifest.mark.fingerprint;
                        link.end == next.0 && mark.is_none_or(|mark| mark == link.fingerprint)
                    });
                match same {
                    true => {
                        let seal = there.floor_seal.filter(|_| there.floor == next.0);
                        Ok(Start { floor: next.0, at, seal, staged: None })
                    }
                    false => Err(self.another_branch(manifest, &place)),
                }
            }
            _ => Err(Error::new(
                Kind::Gone,
                format!(
                    "expected the segment at {place} that holds the log up to offset {}, found that \
                     its log starts at offset {}",
                    at.offset, there.floor_offset
                ),
            )
            .in_file(&self.layout.root)
            .at_offset(at.offset.0)
            .help("a younger snapshot, or a source that holds more of the log, is the way on")),
        }
    }

    /// The frames of a segment up to the position, checked, in a file that has no name yet.
    fn prefix(
        &self,
        source: &mut dyn Source,
        there: &Offer,
        name: SegmentName,
        manifest: &Manifest,
    ) -> Result<Start> {
        let at = manifest.mark.position;
        let shipped = source.segment(name)?;
        let header = shipped.header;
        let end = match &shipped.footer {
            Some(footer) => footer.frames_end(),
            None => header.file_byte(there.durable.0),
        };
        let limit = header.file_byte(at.log_byte.0);
        if header.log != self.log || header.epoch != at.epoch || limit > end {
            return Err(self.another_branch(manifest, &source.place()));
        }
        let path = name.path(&self.layout.segments());
        let staged = path.with_extension("seg.tmp");
        let io = |what: &'static str| {
            let staged = staged.clone();
            move |e| Error::io(what, &staged, e)
        };
        let _ = self.fs.unlink(&staged);
        let file = self.fs.open(&staged, Open::Create).map_err(io("create"))?;
        file.write_all_at(&shipped.page, 0).map_err(io("write"))?;
        let (mut tally, mut buffer) = (Tally::default(), Vec::new());
        while tally.end < limit {
            let from = tally.end;
            let frames = fetch(source, &header, from, limit, tally.records, buffer)?;
            write_pages(&*file, frames.bytes(), from).map_err(io("write"))?;
            note(&mut tally, &header, frames.bytes());
            buffer = frames.buffer;
        }
        let same = tally.end == limit
            && tally.end_offset(&header) == at.offset
            && manifest.mark.fingerprint.is_none_or(|mark| mark == tally.fingerprint);
        if !same {
            let _ = self.fs.unlink(&staged);
            return Err(self.another_branch(manifest, &source.place()));
        }
        // Closes the crash that leaves a named segment without its frames.
        file.sync_data().map_err(io("sync"))?;
        let floor = header.base;
        let first = Position { offset: header.base_offset, log_byte: floor, epoch: header.epoch };
        let seal = self.seal_before(source, there, name, &shipped)?;
        Ok(Start { floor, at: first, seal, staged: Some((staged, path)) })
    }

    /// The hash in the footer of the segment before `name`. Who leads with this copy seals the first segment itself, and
    /// the seal is to be the same as with whoever has the one before.
    fn seal_before(
        &self,
        source: &mut dyn Source,
        there: &Offer,
        name: SegmentName,
        shipped: &Shipped,
    ) -> Result<Option<[u8; 32]>> {
        if let Some(footer) = &shipped.footer {
            return Ok(Some(footer.previous_hash));
        }
        if there.floor == name.0 {
            return Ok(there.floor_seal);
        }
        let before = there.segments.partition_point(|other| *other < name).checked_sub(1);
        let Some(before) = before.map(|i| there.segments[i]) else { return Ok(None) };
        Ok(source.segment(before)?.footer.map(|footer| footer.hash))
    }

    /// Makes it a log: everything is here but for names.
    fn finish(&self, node: Id, start: Start, manifest: Manifest) -> Result<()> {
        let (fs, layout) = (&**self.fs, self.layout);
        let keep = start.staged.as_ref().map(|(staged, _)| staged.as_path());
        if let Some(copy) = self.copy {
            // Behind this it may forget what it was.
            copy.control.clone().write(fs, layout)?;
            unmake(fs, layout, keep)?;
        }
        if let Some((staged, path)) = &start.staged {
            fs.rename(staged, path).map_err(|e| Error::io("rename into place", path, e))?;
        }
        let table = layout.table();
        for name in fs.list(&table).map_err(|e| Error::io("list", &table, e))? {
            // Parts of runs that a snapshot which was not taken in the end had.
            if name.ends_with(".part") {
                let _ = fs.unlink(&table.join(name));
            }
        }
        for dir in [layout.segments(), layout.table()] {
            // Closes the crash that leaves a log without what it begins with.
            fs.sync_dir(&dir).map_err(|e| Error::io("sync", &dir, e))?;
        }
        let mut epochs = manifest.history.clone();
        epochs.retain(|entry| entry.start <= manifest.mark.position.log_byte);
        let sets = manifest.sets.clone();
        let checkpoint = Manifest { seq: 1, ..manifest };
        let path = layout.table().join(checkpoint_name(1));
        checkpoint.meta(CHECKPOINT).replace(fs, &path)?;
        let before = before(fs, layout, self.log)?;
        let birth = open::Birth {
            id: Some(self.log),
            follows: Some(self.follows.clone()),
            floor: start.floor,
            floor_offset: start.at.offset,
            floor_seal: start.seal,
            epochs: Epochs(epochs),
            sets,
            node: Some(node),
            lost_below: before.lost_below,
            gave_up: before.gave_up,
        };
        open::bear(fs, layout, birth)?;
        finished(fs, layout);
        Ok(())
    }

    fn another_branch(&self, manifest: &Manifest, place: &str) -> Error {
        Error::new(
            Kind::NotInHistory,
            format!(
                "snapshot {} says that another record stands before offset {} than the log at {place} \
                 has: they are of two histories",
                manifest.name(),
                manifest.mark.position.offset
            ),
        )
        .in_file(&self.layout.root)
        .at_offset(manifest.mark.position.offset.0)
        .help("nothing was changed; a snapshot of the log's own history is the way on")
    }
}

/// Where a copy begins.
struct Start {
    floor: LogByte,
    /// The first record there.
    at: Position,
    /// The hash in the footer of the segment before, which the seal of the first one here is to name, if anybody knows it.
    seal: Option<[u8; 32]>,
    /// The first segment's file, and the name that it is to have.
    staged: Option<(PathBuf, PathBuf)>,
}

/// What a directory of this log that begins anew knew of itself. What it had acknowledged and lost stays lost until
/// its log reaches there again, and what it gave up stays given up.
pub(super) fn before(fs: &dyn Fs, layout: &Layout, log: Id) -> Result<Control> {
    let control = Control::read(fs, layout)?.filter(|control| control.log == Some(log));
    Ok(control.unwrap_or_default())
}

/// Whether a snapshot's history holds a position below it.
fn holds(manifest: &Manifest, at: Position) -> bool {
    if at.epoch == Epoch::default() {
        return true;
    }
    let Some(i) = manifest.history.iter().position(|entry| entry.epoch == at.epoch) else {
        return false;
    };
    let end = manifest.history.get(i + 1).map_or(manifest.mark.position.log_byte, |e| e.start);
    at.log_byte <= end
}

/// Whether another snapshot may make up for an error.
pub(super) fn another_may_do(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Gone
            | Kind::NotFound
            | Kind::NotInHistory
            | Kind::Corrupt
            | Kind::WrongLog
            | Kind::NewerVersion
            // Its source is away, or does not let anybody read: another may have one.
            | Kind::Io
            | Kind::ReadOnly
            | Kind::NotLeader
    )
}

/// Whether a snapshot costs less than half of the log that a new copy would fetch instead: `ask` hears
/// what half is.
pub(super) fn is_cheaper(offer: &Offer, ask: impl FnOnce(u64) -> Vec<SnapshotOffer>) -> bool {
    let log = offer.durable.0.saturating_sub(offer.floor.0);
    if log < LEAST_LOG_BYTES {
        return false;
    }
    let snapshots = ask(log / 2);
    let way = |snapshot: &SnapshotOffer| {
        let rest = offer.durable.0.checked_sub(snapshot.log_byte.0)?;
        snapshot.bytes.checked_add(rest)
    };
    let least = snapshots.iter().filter(|s| s.log == offer.log).filter_map(way).min();
    least.is_some_and(|least| least <= log / 2)
}

/// Whether a source has dropped what a copy needs next.
pub(super) fn is_gone(copy: &Copy, offer: &Offer) -> bool {
    let end = copy.end().log_byte;
    match &copy.active {
        None => offer.floor > end,
        Some(active) => {
            let sealed = LogByte(active.tally.sealed_end(&active.header));
            // The first segment of a copy that began with a snapshot is sealed with its leader's word.
            offer.floor > sealed || offer.floor == sealed && copy.lacks_link()
        }
    }
}

/// What a copy tells before it is opened: where it stands.
pub(super) fn standing(copy: &Copy) -> Report {
    let end = copy.end();
    Report {
        log: Some(copy.log),
        node: Some(copy.node),
        promise: copy.promises.get().map(|promise| promise.epoch),
        received: end,
        durable: end,
        applied: Position::default(),
        committed: Some(copy.committed.0),
        last: copy.last_frame(),
        unclean: copy.is_unclean(end.log_byte),
    }
}

/// Says in words what a copy began with.
pub(super) fn told(begun: &Begun, dir: &Path) -> String {
    format!(
        "{} begins at offset {} with snapshot {} of {}: {} bytes; what lies before is in its table alone",
        dir.display(),
        begun.name.offset,
        begun.name,
        begun.place,
        begun.bytes
    )
}
