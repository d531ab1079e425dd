//! A leader's directory as a source: on the same host, on a shared mount, or kept by a copier.
//!
//! Looking again is the truth, file events are a hint: mounts may give neither events nor errors.
//! Nothing is mapped, because a file that shrinks under a map kills the process. Only names of
//! the grammar are opened, never through a link, and never for writing; a follower that has a name
//! leaves a notice beside them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::fs::{File, Fs, Os};
use crate::log::files::{Control, EpochEntry, Epochs, Layout, LogFile, NodeFile, State, not_a_log};
use crate::log::watch::Watch;
use crate::position::{Epoch, Id};
use crate::segment::{Footer, SegmentHeader, SegmentName};
use crate::table::{OpenSnapshot, RunId, Snapshots};

use super::evidence::{Evidence, Memory};
#[cfg(feature = "wire")]
use super::notice::{Desk, Notice};
use super::{Offer, Report, Shared, Shipped, SnapshotOffer, Source};

/// A leader's STATE is rewritten so much later than it synced, at most, unless it has no worker.
const STATE_LATE: Duration = Duration::from_millis(10);

/// Pulls from another directory.
///
/// ```
/// use tidelog::{Follower, Log, Record, ship};
/// # fn main() -> tidelog::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let (leader, copy) = (directory.path().join("leader"), directory.path().join("copy"));
/// let log = Log::options().create(true).open(&leader)?;
/// log.append(&Record::put(b"gate", b"open"))?;
/// log.close()?;
/// let source = ship::Directory::open(&leader)?;
/// let mut follower = Follower::open(Log::options(), &copy, source)?;
/// follower.catch_up()?;
/// assert_eq!(follower.table().get(b"gate")?.unwrap().value, b"open");
/// # follower.close()
/// # }
/// ```
#[derive(Debug)]
pub struct Directory {
    fs: Arc<dyn Fs>,
    layout: Layout,
    /// The segment read last: its bytes come from one file even if a repair replaces the name.
    file: Option<(SegmentName, Arc<dyn File>)>,
    watch: Option<Watch>,
    memory: Memory,
    /// The snapshot that was offered or read last.
    opened: Option<OpenSnapshot>,
    /// Of a follower that has a name.
    #[cfg(feature = "wire")]
    desk: Option<Desk>,
}

/// Who leads in a directory, now and before.
#[derive(Debug)]
pub(in crate::ship) struct Leadership {
    pub(super) log: Id,
    pub(super) node: Option<Id>,
    /// Oldest first.
    pub(super) epochs: Vec<EpochEntry>,
}

impl Directory {
    /// The log directory at `path`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Directory::open_in(Os::shared(), path)
    }

    /// The same, in a file system of the caller's.
    pub fn open_in(fs: Arc<dyn Fs>, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // The path is the user's and may hold links; what lies below it may not.
        let root = fs.canonical(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => not_a_log(&*fs, path),
            _ => Error::io("resolve", path, e),
        })?;
        let layout = Layout::new(&root);
        LogFile::read(&*fs, &layout)?;
        Ok(Directory {
            fs,
            layout,
            file: None,
            watch: None,
            memory: Memory::default(),
            opened: None,
            #[cfg(feature = "wire")]
            desk: None,
        })
    }

    /// What people call the follower. With a name it leaves `followers/<node>.json` in the directory,
    /// when it may: how far it is, for [`notices`](Self::notices). At most once a second, and only
    /// when that changed. Without one the directory is only read.
    #[cfg(feature = "wire")]
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.desk = Some(Desk::new(name.into()));
        self
    }

    /// How far followers of this directory were when they last said so: a hint, for none of them
    /// need have said so lately, and anybody who may write the directory may have said anything.
    #[cfg(feature = "wire")]
    pub fn notices(&self) -> Result<Vec<Notice>> {
        let log = LogFile::read(&*self.fs, &self.layout)?.id;
        Ok(Notice::read_all(&*self.fs, &self.layout, log))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.layout.root
    }

    /// Who leads here; for whoever publishes it.
    pub(super) fn leadership(&self) -> Result<Leadership> {
        let control = Control::read(&*self.fs, &self.layout)?.unwrap_or_default();
        if let Some(source) = control.follows {
            return Err(Error::new(
                Kind::NotLeader,
                format!("expected a leader's directory, found one that follows {source}"),
            )
            .in_file(&self.layout.root)
            .help("publish the leader's directory"));
        }
        Ok(Leadership {
            log: LogFile::read(&*self.fs, &self.layout)?.id,
            node: NodeFile::read(&*self.fs, &self.layout)?.map(|node| node.id),
            epochs: Epochs::read(&*self.fs, &self.layout)?.0,
        })
    }

    pub(super) fn fs(&self) -> &Arc<dyn Fs> {
        &self.fs
    }

    fn names(&self) -> Result<Vec<SegmentName>> {
        let segments = self.layout.segments();
        let io = |e| Error::io("list", &segments, e);
        let real = match self.fs.canonical(&segments) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(io)?,
        };
        if real != segments {
            return Err(Error::new(
                Kind::NotALog,
                format!(
                    "expected a directory of segments, found a link that leads to {}",
                    real.display()
                ),
            )
            .in_file(&segments)
            .help("name the directory that the link leads from, or mount it in its place"));
        }
        let names = self.fs.list(&segments).map_err(io)?;
        Ok(names.iter().filter_map(|name| SegmentName::parse(name)).collect())
    }

    /// Snapshots that were published beside the log.
    fn published(&self) -> Snapshots {
        Snapshots::at_on(Arc::clone(&self.fs), &self.layout.root.join("snapshots"))
    }

    /// The files of a snapshot that was offered.
    fn open_snapshot(&mut self, offer: &SnapshotOffer) -> Result<&OpenSnapshot> {
        if self.opened.as_ref().is_none_or(|open| open.name() != offer.name) {
            self.opened = self.published().open(&offer.name.to_string())?;
        }
        self.opened.as_ref().ok_or_else(|| offer.gone(&self.layout.root.to_string_lossy()))
    }

    fn open_segment(&mut self, segment: SegmentName) -> Result<Arc<dyn File>> {
        if let Some((name, file)) = &self.file
            && *name == segment
        {
            return Ok(Arc::clone(file));
        }
        let path = self.file(segment);
        let file = self.fs.open_plain(&path).map_err(|e| Error::io("open", &path, e))?;
        self.file = Some((segment, Arc::clone(&file)));
        Ok(file)
    }
}

impl Source for Directory {
    fn place(&self) -> String {
        self.layout.root.to_string_lossy().into_owned()
    }

    fn file(&self, segment: SegmentName) -> PathBuf {
        segment.path(&self.layout.segments())
    }

    #[cfg_attr(not(feature = "wire"), expect(unused_variables, reason = "no notices"))]
    fn look(&mut self, report: &Report) -> Result<Offer> {
        self.file = None;
        let log = LogFile::read(&*self.fs, &self.layout)?.id;
        // STATE comes first, so that the files hold at least what it says is durable; CONTROL
        // after the names, so that whatever retention took from them lies below its floor.
        let state = State::read(&*self.fs, &self.layout);
        let mut segments = self.names()?;
        let control = Control::read(&*self.fs, &self.layout)?.unwrap_or_default();
        segments.retain(|name| name.0 >= control.floor);
        if let Some((at, _)) = &control.cut {
            return Err(Error::new(
                Kind::NotFound,
                format!("expected a log, found one that is being cut back to log byte {at}"),
            )
            .in_file(&self.layout.root)
            .help("open it for writing, or as a follower: that finishes the cut"));
        }
        let epochs = Epochs::read(&*self.fs, &self.layout)?;
        let node = NodeFile::read(&*self.fs, &self.layout)?.map(|node| node.id);
        #[cfg(feature = "wire")]
        if let Some(desk) = self.desk.as_mut().filter(|_| node != report.node) {
            desk.note((&*self.fs, &self.layout), log, report, false);
        }
        let evidence = Evidence {
            fs: &*self.fs,
            layout: &self.layout,
            log,
            node,
            control: &control,
            epochs: &epochs,
            state,
            segments: &segments,
        };
        let proven = evidence.weigh(&mut self.memory)?;
        // Where durable is not enough, STATE says what may be shown; without it, nothing new may.
        let committed = match (control.holds_commits(), state) {
            (false, _) => (proven.durable, proven.offset),
            (true, Some(state)) if state.committed <= proven.durable => {
                (state.committed, state.committed_offset)
            }
            (true, _) => (control.floor, control.floor_offset),
        };
        Ok(Offer {
            log,
            node,
            upstream: Vec::new(),
            leader: None,
            time: None,
            answered: None,
            // What another follower's directory lacks of its leader's is not known here.
            stale: control.follows.is_none().then_some(STATE_LATE),
            epoch: proven.epoch,
            floor: control.floor,
            floor_offset: control.floor_offset,
            floor_seal: control.floor_seal,
            durable: proven.durable,
            durable_offset: proven.offset,
            committed: committed.0,
            committed_offset: committed.1,
            segments,
            repairs: control.repairs,
        })
    }

    /// EPOCHS says it.
    fn shared(&mut self, report: &Report) -> Result<Shared> {
        let offer = self.look(&Report { node: report.node, ..Report::default() })?;
        let Epochs(epochs) = Epochs::read(&*self.fs, &self.layout)?;
        let number = report.durable.epoch.number;
        let after = epochs.partition_point(|entry| entry.epoch.number <= number);
        let next = epochs.get(after);
        Ok(Shared {
            epoch: after.checked_sub(1).map_or_else(Epoch::default, |i| epochs[i].epoch),
            end: next.map_or(offer.durable, |next| next.start),
            end_offset: next.map_or(offer.durable_offset, |next| next.start_offset),
            ended: next.is_some(),
        })
    }

    fn segment(&mut self, segment: SegmentName) -> Result<Shipped> {
        self.file = None;
        let file = self.open_segment(segment)?;
        let path = self.file(segment);
        let (header, page) = read_header(&*file, segment, &path)?;
        let footer = read_footer(&*file, &header, &path)?;
        Ok(Shipped { header, page, footer })
    }

    fn read(&mut self, segment: SegmentName, byte: u64, buf: &mut [u8]) -> Result<usize> {
        let file = self.open_segment(segment)?;
        file.read_full_at(buf, byte)
            .map_err(|e| Error::io("read", &self.file(segment), e).at_byte(byte))
    }

    /// The newest checkpoint of the table that is kept there, and what was published beside the log.
    fn snapshots(&mut self) -> Result<Vec<SnapshotOffer>> {
        let mut found = Vec::new();
        for snapshot in self.published().list()? {
            let Ok(name) = snapshot.name.parse() else { continue };
            found.push(SnapshotOffer {
                name,
                log: snapshot.log,
                log_byte: snapshot.position.log_byte,
                bytes: snapshot.bytes,
                link: 0,
            });
        }
        // Its files stay open: the leader may merge them away meanwhile.
        self.opened = OpenSnapshot::newest(&*self.fs, &self.layout)?;
        if let Some(newest) = &self.opened {
            found.retain(|offer| offer.name != newest.name());
            found.push(SnapshotOffer::of(newest));
        }
        found.sort_by_key(|offer| offer.name);
        Ok(found)
    }

    fn manifest(&mut self, offer: &SnapshotOffer) -> Result<Vec<u8>> {
        Ok(self.open_snapshot(offer)?.manifest().to_vec())
    }

    fn read_run(
        &mut self,
        offer: &SnapshotOffer,
        run: RunId,
        byte: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        self.open_snapshot(offer)?.read(run, byte, buf)
    }

    fn wait(&mut self, _report: &Report, timeout: Duration) {
        self.watch.get_or_insert_with(|| Watch::new(&self.layout)).wait(timeout);
    }

    #[cfg(feature = "wire")]
    fn acknowledge(&mut self, report: &Report) {
        if let (Some(desk), Ok(log)) = (self.desk.as_mut(), LogFile::read(&*self.fs, &self.layout))
        {
            desk.note((&*self.fs, &self.layout), log.id, report, true);
        }
    }
}

/// Reads a segment's header page and holds it against its name.
pub(super) fn read_header(
    file: &dyn File,
    name: SegmentName,
    path: &Path,
) -> Result<(SegmentHeader, Vec<u8>)> {
    let mut page = vec![0; 4096];
    let read = file.read_full_at(&mut page, 0).map_err(|e| Error::io("read", path, e))?;
    page.truncate(read);
    let header = SegmentHeader::decode(&page).map_err(|e| e.in_file(path))?;
    if header.base != name.0 {
        return Err(Error::new(
            Kind::Corrupt,
            format!(
                "expected the segment that starts at log byte {}, found the one that starts at {}",
                name.0, header.base
            ),
        )
        .in_file(path)
        .at_byte(32));
    }
    Ok((header, page))
}

/// Reads a segment's footer and holds it against the header.
pub(super) fn read_footer(
    file: &dyn File,
    header: &SegmentHeader,
    path: &Path,
) -> Result<Option<Footer>> {
    let Some(footer) = Footer::read(file).map_err(|e| e.in_file(path))? else { return Ok(None) };
    let said =
        SegmentHeader { created: header.created, previous: header.previous, ..footer.header() };
    if said != *header {
        return Err(Error::new(
            Kind::Corrupt,
            "expected a footer that repeats its file's header, found one of another segment",
        )
        .in_file(path));
    }
    Ok(Some(footer))
}
