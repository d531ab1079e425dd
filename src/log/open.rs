//! Opening: identity, lock, scan, and the decision what the first write must do.
//!
//! Reads everything, changes nothing until the verdict is known. Uses `files`, `scan` and `start`.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::frame::GaveUp;
use crate::fs::{File, Fs, Lock, Open};
use crate::mutant::{self, Mutant};
use crate::position::{Epoch, Id, LogByte, Offset};
use crate::segment::{Footer, Link, Producers};

use super::Shared;
use super::catalog::{Catalog, Segment};
use super::claims::Claims;
use super::commit::End;
use super::cut;
use super::ear::Ear;
use super::ends::Ends;
use super::files::{BEGUN, Control, Epochs, Layout, LogFile, NodeFile, Promise, SetLine, State};
use super::intake::Intake;
use super::options::{Identity, Options, Recovery};
use super::promises::Promises;
use super::repair::repair_locked;
use super::rounds::Rounds;
use super::scan::{Found, Known, Scan};
use super::staging::Staging;
use super::start::{NewEpoch, Start, ToSeal};
use super::turns::Turns;
use super::wake::Wake;
use super::worker::Worker;
use super::writer::Writer;

/// What opening a log found, and what it will do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// Segment files that belong to the log.
    pub segments: usize,
    /// Behind the last record that is proven durable.
    pub durable: LogByte,
    /// Behind the last whole record.
    pub end: Offset,
    /// Bytes of a torn tail, never acknowledged: moved to quarantine before the first write.
    pub bytes_cut: u64,
    /// Whether the log was closed cleanly, or is new.
    pub clean: bool,
    /// How long it took.
    pub elapsed: Duration,
    /// What else was found, in words.
    pub findings: Vec<String>,
}

/// A writer that ends lets go of the lock only after it has waited for its threads; and a reader
/// that looks whether a writer is alive holds it for an instant.
const LOCK_TRIES: u32 = 40;

pub(super) fn open(options: Options, path: &Path) -> Result<Arc<Shared>> {
    let started = Instant::now();
    let fs = Arc::clone(&options.fs);
    let layout = Layout::new(path);
    if options.create {
        let birth =
            Birth { id: options.log_id, follows: options.follows.clone(), ..Birth::default() };
        create(&*fs, &layout, birth)?;
    }
    let log = LogFile::read(&*fs, &layout)?;
    let lock = match options.read_only {
        true => None,
        false => Some(take_lock(&*fs, &layout)?),
    };
    let state_file = match options.read_only {
        true => None,
        false => writable(&*fs, &layout)?,
    };
    let node = match options.read_only {
        true => NodeFile::read(&*fs, &layout)?.map_or(Id::default(), |node| node.id),
        false => identify(&*fs, &layout, options.identity)?,
    };
    if options.recovery == Recovery::Salvage && !options.read_only {
        repair_locked(&fs, &layout, false)?;
    }
    let mut control = Control::need(&*fs, &layout)?;
    if !options.read_only && control.belongs_to(log.id) {
        cut::finish(&*fs, &layout, &mut control)?;
    }
    let promises = Promises::open(&fs, &layout)?;
    if options.lead.is_some() && (control.follows.is_some() || control.clean.is_some()) {
        // From here on it follows nobody; whatever comes, it appends only in the epoch that it won.
        (control.follows, control.clean) = (None, None);
        control.write(&*fs, &layout)?;
    }
    let epochs = Epochs::read(&*fs, &layout)?;
    let state = State::read(&*fs, &layout);
    let mut options = options;
    let footers = options.footers.take();
    let known = Known {
        fs: &fs,
        layout: &layout,
        log,
        node,
        control: &control,
        epochs: &epochs,
        state,
        footers: footers.as_deref(),
    };
    let mut scan = known.scan()?;
    // What was shown before must not be hidden, and what may not be committed must not be shown.
    let held = control.holds_commits().then(|| known.committed(&scan));
    let mut refuses = match (options.read_only, &control.follows) {
        (true, _) => Some(Error::new(Kind::ReadOnly, "the log was opened for reading")),
        (false, Some(source)) => Some(
            Error::new(Kind::NotLeader, format!("this directory follows {source}"))
                .help("append at the leader; a follower copies"),
        ),
        (false, None) => bound(&promises, node, &epochs, options.lead),
    };
    if let Some(corruption) = scan.corruption(&layout) {
        match options.recovery {
            Recovery::ReadOnly => {
                options.read_only = true;
                refuses = Some(corruption);
            }
            // It shows what lies before the damage, and says that this is not all.
            _ if options.read_only => scan.findings.push(corruption.to_string()),
            Recovery::Refuse | Recovery::Salvage => return Err(corruption),
        }
    }
    if !options.read_only {
        // A copy was told of sets whose frames did not come as far as this disk, or a leader was about to append one.
        let known = control.sets.len();
        control.cut_sets(scan.end);
        if control.sets.len() != known {
            // Left as it is, it says too much and is found out again at the next start.
            let _ = control.write(&*fs, &layout);
        }
    }
    let writer_alive = options.read_only && lock.is_none() && is_locked(&*fs, &layout);
    let led_here = epochs.0.last().is_none_or(|entry| entry.node == node);
    build(Parts {
        options,
        layout,
        log,
        node,
        control,
        promises,
        state,
        scan,
        lock,
        state_file,
        refuses,
        writer_alive,
        led_here,
        held,
        started,
    })
}

/// Why a log that follows nobody takes no appends all the same: this node has promised another one not to
/// lead any more.
fn bound(promises: &Promises, node: Id, epochs: &Epochs, lead: Option<Epoch>) -> Option<Error> {
    let promise = promises.get()?;
    let newest = epochs.0.last().map_or(0, |entry| entry.epoch.number);
    if promise.owner == node || promise.epoch.number <= newest || lead == Some(promise.epoch) {
        return None;
    }
    let message = format!(
        "expected this node to lead, found that it has promised epoch {} to node {}",
        promise.epoch, promise.owner
    );
    Some(Error::new(Kind::Fenced, message).help(
        "follow that node: `tidelog follow DIR --from URL --rejoin`; or let this one lead again with \
         `tidelog promote`",
    ))
}

struct Parts {
    options: Options,
    layout: Layout,
    log: LogFile,
    node: Id,
    control: Control,
    promises: Promises,
    state: Option<State>,
    scan: Scan,
    lock: Option<Box<dyn Lock>>,
    state_file: Option<Arc<dyn File>>,
    refuses: Option<Error>,
    writer_alive: bool,
    /// This node led the newest epoch. If another did, it may still be writing: its directory was
    /// copied.
    led_here: bool,
    /// Where commits are held, if durable is not enough to be shown.
    held: Option<End>,
    started: Instant,
}

fn build(parts: Parts) -> Result<Arc<Shared>> {
    let Parts { options, layout, log, node, control, state, mut scan, .. } = parts;
    let fs = Arc::clone(&options.fs);
    let (end, end_offset, epoch) = (scan.end, scan.end_offset, scan.epoch());
    let mut producers = match mutant::on(Mutant::ForgetProducers) {
        true => Producers::default(),
        false => std::mem::take(&mut scan.producers),
    };
    let mut segments = Vec::new();
    let mut unsealed = Vec::new();
    let mut previous_hash = control.floor_seal.unwrap_or_default();
    let mut previous = None;
    let last = scan.found.len().saturating_sub(1);
    // Of the segment just before, if it is sealed.
    let mut before = Some(previous_hash);
    for (i, found) in std::mem::take(&mut scan.found).into_iter().enumerate() {
        let (segment, tally) = adopt(&*fs, found, &mut producers)?;
        if let Some(tally) = &tally
            && (i < last || end.0 == tally.sealed_end(&segment.header))
        {
            // Rolled and not sealed yet: readers must know where to go on in the next one.
            let _ = segment.end.set((tally.end, tally.end_offset(&segment.header)));
        }
        match (segment.footer.get(), tally) {
            (Some(footer), _) => {
                previous_hash = footer.hash;
                previous = Some(link(footer));
                before = Some(footer.hash);
            }
            (None, Some(tally)) => {
                let segment = Arc::clone(&segment);
                unsealed.push(ToSeal { segment, tally, previous_hash: before.take() });
            }
            (None, None) => unreachable!("a segment is sealed or was walked"),
        }
        segments.push(segment);
    }
    let report = OpenReport {
        segments: segments.len(),
        durable: scan.durable.min(end),
        end: end_offset,
        bytes_cut: scan.torn_bytes(),
        clean: scan.clean || segments.is_empty() && scan.beyond.is_empty(),
        elapsed: parts.started.elapsed(),
        findings: scan.findings.clone(),
    };
    let fresh = segments.is_empty() && scan.beyond.is_empty();
    let resume = scan.clean
        && parts.led_here
        && unsealed.len() == 1
        && control.follows.is_none()
        && options.lead.is_none();
    // Where the writer's first frame will go: behind the SEAL that the last segment will get.
    let start = if resume {
        let last = unsealed.pop().expect("exactly one");
        Start::Resume { segment: last.segment, tally: last.tally }
    } else {
        // These grow no more: one has another behind it, or is about to be sealed here. A full
        // disk may put the sealing off, and readers pass over the ends meanwhile.
        let last = segments.last().map(|segment| segment.header.base);
        // A dead writer's segment with others behind it, which came to nothing.
        let ended = !parts.writer_alive && scan.beyond.iter().any(|beyond| beyond.from == 0);
        let may_grow = parts.refuses.is_some() && !ended;
        let grows = |segment: &Segment| may_grow && Some(segment.header.base) == last;
        for ToSeal { segment, tally, .. } in unsealed.iter().filter(|u| !grows(&u.segment)) {
            let _ = segment.end.set((tally.end, tally.end_offset(&segment.header)));
        }
        Start::Epoch(NewEpoch {
            fork: end,
            end_offset,
            durable: scan.durable,
            parent: epoch,
            seen: scan.epochs_seen,
            gave_up: control.gave_up.clone(),
            previous_hash,
            previous,
            unsealed,
            beyond: std::mem::take(&mut scan.beyond),
            reason: match (fresh, scan.clean) {
                (true, _) => "created",
                _ if options.lead.is_some() => "promoted",
                (false, true) if !parts.led_here => "another node led before",
                (false, _) => "reopened after an unclean end",
            },
        })
    };
    let eager = !fresh && !resume && parts.refuses.is_none();
    let (staging, gate) = Staging::new();
    let worker = Worker::default();
    worker.set_previous_hash(previous_hash);
    let catalog = Catalog::new(Arc::clone(&fs), options.map, segments);
    let wants_worker = options.worker && !options.read_only && parts.refuses.is_none();
    let shared = Arc::new(Shared {
        turns: Turns::new(),
        intake: Mutex::new(Intake::new(gate, options.segment_bytes)),
        freed: Wake::default(),
        stamper: Mutex::default(),
        writer: Mutex::new(Writer::new(start, producers)),
        fs,
        layout,
        log,
        node,
        refuses: parts.refuses,
        catalog,
        staging,
        ends: Ends::default(),
        rounds: Rounds::default(),
        poison: OnceLock::new(),
        stalled: AtomicBool::new(false),
        unsettled: AtomicBool::new(false),
        unnamed_from: AtomicU64::new(u64::MAX),
        names_unsynced: AtomicBool::new(false),
        group_bytes: AtomicU64::new(0),
        visible_wake: Wake::default(),
        ear: Ear::default(),
        worker,
        control: Mutex::new(control),
        promises: parts.promises,
        archived: Mutex::default(),
        claims: Claims::default(),
        state_file: Mutex::new(parts.state_file),
        state_seq: AtomicU64::new(state.map_or(0, |state| state.seq)),
        state_written: AtomicU64::new(0),
        state_pending: AtomicBool::new(false),
        round_ended: AtomicI64::new(0),
        epoch_number: AtomicU64::new(epoch.number),
        epoch_nonce: AtomicU64::new(epoch.nonce),
        confirmed: AtomicU64::new(u64::MAX),
        report,
        lock: Mutex::new(parts.lock),
        options,
    });
    if let Some((byte, offset)) = parts.held {
        shared.ends.hold_at(byte, offset);
    }
    if shared.options.read_only {
        shared.show_to_reader(end, end_offset, scan.durable, parts.writer_alive)?;
    } else if eager {
        sweep(&shared, &scan.leftovers)?;
        // What lies between proven durable and the end becomes durable now, before anybody
        // reads it. A full disk may stop this; then appends wait, and reads end where D is.
        let mut writer = shared.writer();
        match writer.ready(&shared) {
            Ok(()) => {}
            // Who is to lead an epoch either begins it or does not lead.
            Err(e) if e.kind() == Kind::DiskFull && shared.options.lead.is_none() => {
                drop(writer);
                // Unless it came as far as making all of it durable.
                if shared.ends.durable().0 < end {
                    shared.unsettled.store(true, Release);
                    shared.show_proven(end, end_offset, scan.durable)?;
                }
            }
            Err(e) => return Err(e),
        }
    } else {
        sweep(&shared, &scan.leftovers)?;
        if shared.control().follows.is_some() {
            // Nothing is brought in order here: what is not proven durable stays unconfirmed.
            shared.show_to_reader(end, end_offset, scan.durable, false)?;
        } else {
            shared.publish_recovered(end, end_offset);
        }
    }
    if shared.options.lead.is_some() {
        // Whoever asks from now on is told of this epoch, and of none before it that ends here.
        let (begun, _) = shared.intake().end();
        shared.wait_durable(begun, end_offset)?;
    }
    if wants_worker {
        Worker::spawn(&shared)?;
    }
    Ok(shared)
}

fn link(footer: &Footer) -> Link {
    Link { base: footer.base, end: footer.end(), fingerprint: footer.fingerprint }
}

/// Turns a found segment into one that readers use; collects its producers.
fn adopt(
    fs: &dyn Fs,
    found: Found,
    producers: &mut Producers,
) -> Result<(Arc<Segment>, Option<crate::segment::Tally>)> {
    match (found.footer, found.unsealed) {
        (Some(footer), _) => {
            if footer.producers_count > 0 && !mutant::on(Mutant::ForgetProducers) {
                producers.merge(&read_producers(fs, &found.path, &footer)?);
            }
            Ok((Arc::new(Segment::sealed(footer, found.path)), None))
        }
        (None, Some(unsealed)) => {
            if !mutant::on(Mutant::ForgetProducers) {
                producers.merge(&unsealed.tally.producers);
            }
            let segment = Segment::unsealed(found.header, found.path, unsealed.file);
            segment.add_to_index(unsealed.tally.index.as_bytes());
            Ok((Arc::new(segment), Some(unsealed.tally)))
        }
        (None, None) => unreachable!("a segment is sealed or was walked"),
    }
}

fn read_producers(fs: &dyn Fs, path: &Path, footer: &Footer) -> Result<Producers> {
    let io = |e| Error::io("read the producers of", path, e);
    let file = fs.open(path, Open::Read).map_err(io)?;
    let mut block = vec![0; 48 * footer.producers_count as usize];
    file.read_exact_at(&mut block, footer.producers_byte).map_err(io)?;
    if crate::crc::crc32c(&block) != footer.producers_crc {
        return Err(Error::new(
            Kind::Corrupt,
            "the checksum of the producers block does not hold: retries could be appended twice",
        )
        .in_file(path)
        .at_byte(footer.producers_byte)
        .help("run `tidelog repair`, which makes the block again from the frames"));
    }
    Ok(Producers::decode(&block))
}

/// What a new directory begins with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Birth {
    /// The log it is of; a new one unless told.
    pub(crate) id: Option<Id>,
    /// Whom it copies.
    pub(crate) follows: Option<String>,
    /// Where the log begins here.
    pub(crate) floor: LogByte,
    pub(crate) floor_offset: Offset,
    /// The hash in the footer of the segment that ended there, if it is known.
    pub(crate) floor_seal: Option<[u8; 32]>,
    /// The history until then.
    pub(crate) epochs: Epochs,
    /// The synchronous sets that stand in it.
    pub(crate) sets: Vec<SetLine>,
    /// The node that it is; a new one unless told.
    pub(crate) node: Option<Id>,
    /// What this node had acknowledged and lost, when it begins anew.
    pub(crate) lost_below: Option<LogByte>,
    /// What it gave up of epochs that it led.
    pub(crate) gave_up: Vec<GaveUp>,
}

/// Makes the directory, if it is no log yet. `LOG` comes last: a crash before it leaves nothing
/// that looks like a log.
pub(crate) fn create(fs: &dyn Fs, layout: &Layout, birth: Birth) -> Result<()> {
    match claim(fs, layout)? {
        Some(_lock) => bear(fs, layout, birth),
        None => Ok(()),
    }
}

/// Takes the lock of a directory that is to become a log; `None` when it is one.
pub(crate) fn claim(fs: &dyn Fs, layout: &Layout) -> Result<Option<Box<dyn Lock>>> {
    let io = |what: &'static str, path: &Path| {
        let path = path.to_path_buf();
        move |e| Error::io(what, &path, e)
    };
    let exists = |path: &Path| match fs.open(path, Open::Read) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("open", path, e)),
    };
    if fs.list(&layout.root).is_ok() {
        if exists(&layout.log())? {
            return Ok(None);
        }
        // A directory that was a log has more in it, and is on its way to be one again.
        let begun = exists(&layout.root.join(BEGUN))?;
        let names = fs.list(&layout.root).map_err(io("list", &layout.root))?;
        let ours =
            ["LOCK", "NODE", "CONTROL", "EPOCHS", "PROMISE", "segments", "table", "tidelog.toml"];
        let foreign =
            names.iter().find(|name| !ours.contains(&name.as_str()) && !name.ends_with(".tmp"));
        if let Some(foreign) = foreign.filter(|_| !begun) {
            return Err(Error::new(
                Kind::NotALog,
                format!("expected an empty directory to create a log in, found {foreign:?}"),
            )
            .in_file(&layout.root)
            .help("name a new or empty directory"));
        }
    }
    fs.create_dir(&layout.root).map_err(io("create", &layout.root))?;
    if let Some(parent) = layout.root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs.sync_dir(parent).map_err(io("sync", parent))?;
    }
    fs.create_dir(&layout.segments()).map_err(io("create", &layout.segments()))?;
    if !exists(&layout.lock())? {
        match fs.open(&layout.lock(), Open::Create) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => drop(other.map_err(io("create", &layout.lock()))?),
        }
    }
    let lock = take_lock(fs, layout)?;
    Ok(if exists(&layout.log())? { None } else { Some(lock) })
}

/// Writes what makes a directory a log; the caller holds its lock.
pub(crate) fn bear(fs: &dyn Fs, layout: &Layout, birth: Birth) -> Result<()> {
    let random = || -> Result<Id> {
        let mut id = [0; 16];
        let drawn = fs.random(&mut id);
        drawn.map_err(|e| Error::io("read randomness for", &layout.root, e))?;
        Ok(Id(id))
    };
    let Birth {
        id,
        follows,
        floor,
        floor_offset,
        floor_seal,
        epochs,
        sets,
        node,
        lost_below,
        gave_up,
    } = birth;
    let node = match node {
        Some(node) => node,
        None => random()?,
    };
    NodeFile::here(fs, layout, node)?.write(fs, layout)?;
    let id = match id {
        Some(id) => id,
        None => random()?,
    };
    if let Some(newest) = epochs.0.last() {
        epochs.write(fs, layout)?;
        // What was promised here before is never taken back.
        if Promise::read(fs, layout)?.is_none_or(|promise| promise.epoch < newest.epoch) {
            Promise { epoch: newest.epoch, owner: newest.node }.write(fs, layout)?;
        }
    }
    let mut control = Control {
        log: Some(id),
        follows,
        floor,
        floor_offset,
        floor_seal,
        sets,
        lost_below,
        gave_up,
        ..Control::default()
    };
    control.write(fs, layout)?;
    LogFile { id, created: fs.now() }.write(fs, layout)
}

pub(crate) fn take_lock(fs: &dyn Fs, layout: &Layout) -> Result<Box<dyn Lock>> {
    let path = layout.lock();
    for attempt in 0..LOCK_TRIES {
        match fs.lock(&path, true) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) if attempt + 1 < LOCK_TRIES => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                // A directory that lost its lock file (a copy without empty files, say).
                fs.open(&path, Open::Create).map_err(|e| Error::io("create", &path, e))?;
            }
            Err(e) => {
                return Err(Error::io("lock", &path, e)
                    .help("tidelog needs a file system that honours flock"));
            }
        }
    }
    Err(Error::new(Kind::Locked, "another process has this log open for writing")
        .in_file(&path)
        .help("stop it, or open the log for reading"))
}

/// Opens STATE for writing, which tells a medium that takes no writes before anything is begun. A
/// full disk is no such medium.
fn writable(fs: &dyn Fs, layout: &Layout) -> Result<Option<Arc<dyn File>>> {
    match State::file(fs, layout) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == Kind::ReadOnly => {
            Err(e.help("open the log for reading, or make its directory writable"))
        }
        Err(e) if e.kind() == Kind::DiskFull => Ok(None),
        Err(e) => Err(e),
    }
}

fn is_locked(fs: &dyn Fs, layout: &Layout) -> bool {
    matches!(fs.lock(&layout.lock(), false), Ok(None))
}

/// Which node this directory is; refuses a copy until told what it is.
pub(crate) fn identify(fs: &dyn Fs, layout: &Layout, identity: Identity) -> Result<Id> {
    let found = NodeFile::read(fs, layout)?;
    let here = |id| NodeFile::here(fs, layout, id);
    let new = || write_new_node(fs, layout);
    let Some(found) = found else {
        return match identity {
            Identity::NewNode => new(),
            Identity::Expect | Identity::SameNode => Err(Error::new(
                Kind::CopiedDirectory,
                "expected a NODE file that says which node this directory is, found none",
            )
            .in_file(&layout.node())
            .help("open it as a new node (`--new-node`)")),
        };
    };
    let expected = here(found.id)?;
    match identity {
        _ if found == expected && identity != Identity::NewNode => Ok(found.id),
        Identity::SameNode => {
            expected.write(fs, layout)?;
            Ok(found.id)
        }
        Identity::NewNode => new(),
        Identity::Expect => Err(Error::new(
            Kind::CopiedDirectory,
            format!(
                "expected this directory at {} on machine {}, found it at {} on machine {}: two \
                 copies that both write would go separate ways",
                found.path, found.machine, expected.path, expected.machine
            ),
        )
        .in_file(&layout.node())
        .help(
            "if the original is gone, open it as the same node (`--same-node`); \
             otherwise as a new one (`--new-node`)",
        )),
    }
}

/// Makes the directory a new node.
pub(super) fn write_new_node(fs: &dyn Fs, layout: &Layout) -> Result<Id> {
    let mut id = [0; 16];
    fs.random(&mut id).map_err(|e| Error::io("read randomness for", &layout.root, e))?;
    let node = NodeFile::here(fs, layout, Id(id))?;
    node.write(fs, layout)?;
    Ok(node.id)
}

/// Removes temporary files and segments below the floor that an earlier run left behind.
fn sweep(shared: &Shared, leftovers: &[std::path::PathBuf]) -> Result<()> {
    let fs = &*shared.fs;
    for path in leftovers {
        fs.unlink(path).map_err(|e| Error::io("remove", path, e))?;
    }
    for directory in [shared.layout.root.clone(), shared.layout.segments()] {
        for name in fs.list(&directory).unwrap_or_default() {
            if name.ends_with(".tmp") {
                let _ = fs.unlink(&directory.join(name));
            }
        }
    }
    Ok(())
}

impl Shared {
    /// Decides what a reader beside, or after, a writer sees.
    fn show_to_reader(
        self: &Arc<Self>,
        end: LogByte,
        end_offset: Offset,
        durable: LogByte,
        writer_alive: bool,
    ) -> Result<()> {
        let confirmed = self.show_proven(end, end_offset, durable)?;
        self.confirmed.store(confirmed.0, Release);
        if !writer_alive {
            // Nobody can sync what is in the page cache: show it, unconfirmed.
            self.publish_recovered(end, end_offset);
        }
        Ok(())
    }

    /// Shows what is proven durable, and no more; returns the offset behind it.
    fn show_proven(
        self: &Arc<Self>,
        end: LogByte,
        end_offset: Offset,
        durable: LogByte,
    ) -> Result<Offset> {
        let proven = durable.min(end);
        // Looking for the offset reads up to what is visible.
        self.publish_recovered(end, end_offset);
        let offset = match proven == end {
            true => end_offset,
            false => self.offset_at(proven)?,
        };
        self.publish_recovered(proven, offset);
        Ok(offset)
    }
}
