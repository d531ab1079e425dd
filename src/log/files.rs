//! The files of a log's directory beside its segments: what each says and how it is written.
//!
//! ```text
//! LOG      log id, created                              written once
//! NODE     node id, machine, path                       with this directory
//! CONTROL  clean end, floor, role, repairs, cut, sets   rare; temp, fsync, rename, directory fsync
//! STATE    epoch, durable, committed, time              a hint; one sector, rewritten unsynced
//! EPOCHS   every epoch of the history, and who led it   with each epoch
//! PROMISE  the epoch this node is bound to              with each epoch; only ever raised
//! ```

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::frame::{GaveUp, SyncSet};
use crate::fs::{File, Fs, Open};
use crate::position::{Epoch, Fingerprint, Id, LogByte, Offset};

use crate::segment::Producers;

use super::meta::Meta;

/// Where things are in a log's directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Layout { root: root.to_path_buf() }
    }
    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("LOCK")
    }
    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("LOG")
    }
    pub(crate) fn node(&self) -> PathBuf {
        self.root.join("NODE")
    }
    pub(crate) fn control(&self) -> PathBuf {
        self.root.join("CONTROL")
    }
    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("STATE")
    }
    pub(crate) fn epochs(&self) -> PathBuf {
        self.root.join("EPOCHS")
    }
    pub(crate) fn promise(&self) -> PathBuf {
        self.root.join("PROMISE")
    }
    pub(crate) fn segments(&self) -> PathBuf {
        self.root.join("segments")
    }
    pub(crate) fn table(&self) -> PathBuf {
        self.root.join("table")
    }
    pub(crate) fn cursors(&self) -> PathBuf {
        self.root.join("cursors")
    }
    pub(crate) fn slots(&self) -> PathBuf {
        self.root.join("SLOTS")
    }
    /// What followers of the directory leave here: `ship::notice`.
    #[cfg(feature = "wire")]
    pub(crate) fn followers(&self) -> PathBuf {
        self.root.join("followers")
    }
    pub(crate) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }
    /// What was cut when this copy's history and its leader's had parted: `replica::rejoin`.
    pub(crate) fn diverged(&self) -> PathBuf {
        self.root.join("diverged")
    }
}

/// `LOG`: which log this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogFile {
    pub(crate) id: Id,
    pub(crate) created: i64,
}

/// Reads one of the small files that the rest of a log tells again.
fn read(fs: &dyn Fs, path: &Path, name: &'static str) -> Result<Option<Meta>> {
    Meta::read(fs, path, name).map_err(|e| match e.kind() {
        Kind::Corrupt => e.help(
            "nothing was changed. `tidelog repair` says what it would write in its place, and writes it with --yes",
        ),
        _ => e,
    })
}

impl LogFile {
    /// Reads it; a directory without one is no log.
    pub(crate) fn read(fs: &dyn Fs, layout: &Layout) -> Result<Self> {
        let found = read(fs, &layout.log(), "log");
        let is_file =
            |e: &Error| e.io_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotADirectory);
        match found {
            Err(e) if is_file(&e) => return Err(not_a_log(fs, &layout.root)),
            found => found,
        }
        .and_then(|found| match found {
            Some(meta) => Ok(LogFile { id: meta.need("id")?, created: meta.need("created")? }),
            None => Err(not_a_log(fs, &layout.root)),
        })
    }

    pub(crate) fn write(&self, fs: &dyn Fs, layout: &Layout) -> Result<()> {
        let mut meta = Meta::new("log");
        meta.set("id", self.id).set("created", self.created);
        meta.replace(fs, &layout.log())
    }
}

/// The error of a place where a log was expected and is none.
pub(crate) fn not_a_log(fs: &dyn Fs, root: &Path) -> Error {
    match fs.list(root) {
        Ok(_) => no_log(root, Kind::NotALog, "no LOG file in it"),
        Err(e) => no_directory(root, e),
    }
}

/// The same of a place that could not be listed, which by itself says nothing about a log.
pub(crate) fn no_directory(root: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => no_log(root, Kind::NotFound, "nothing"),
        std::io::ErrorKind::NotADirectory => no_log(root, Kind::NotALog, "a file"),
        _ => Error::io("open the directory", root, error),
    }
}

fn no_log(root: &Path, kind: Kind, found: &str) -> Error {
    Error::new(kind, format!("expected a log's directory, found {found}"))
        .in_file(root)
        .help("create a log with `tidelog init` or `Options::create`")
}

/// The error of a small file that every log has and this one has not.
pub(crate) fn missing(path: &Path, name: &str) -> Error {
    Error::new(Kind::Corrupt, format!("expected a {name} file, found none"))
        .in_file(path)
        .help("restore it from a copy, or see what `tidelog repair` would make of the segments")
}

/// `NODE`: which node this directory is, and where it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeFile {
    pub(crate) id: Id,
    pub(crate) machine: String,
    pub(crate) path: String,
}

impl NodeFile {
    pub(crate) fn here(fs: &dyn Fs, layout: &Layout, id: Id) -> Result<Self> {
        let path = fs
            .canonical(&layout.root)
            .map_err(|e| Error::io("resolve", &layout.root, e))?
            .to_string_lossy()
            .replace('\n', "?");
        let machine =
            fs.machine().map_err(|e| Error::io("read this machine's id for", &layout.root, e))?;
        Ok(NodeFile { id, machine, path })
    }

    pub(crate) fn read(fs: &dyn Fs, layout: &Layout) -> Result<Option<Self>> {
        let Some(meta) = read(fs, &layout.node(), "node")? else { return Ok(None) };
        Ok(Some(NodeFile {
            id: meta.need("id")?,
            machine: meta.need("machine")?,
            path: meta.need("path")?,
        }))
    }

    pub(crate) fn write(&self, fs: &dyn Fs, layout: &Layout) -> Result<()> {
        let mut meta = Meta::new("node");
        meta.set("id", self.id).set("machine", &self.machine).set("path", &self.path);
        meta.replace(fs, &layout.node())
    }
}

/// Where a log was closed cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CleanEnd {
    pub(crate) end: LogByte,
    pub(crate) offset: Offset,
    pub(crate) nonce: u64,
    pub(crate) fingerprint: Fingerprint,
}

impl FromStr for CleanEnd {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let mut number = || words.next().and_then(|word| word.parse().ok()).ok_or(());
        let (end, offset, nonce) = (LogByte(number()?), Offset(number()?), number()?);
        let fingerprint = words.next().ok_or(())?.parse()?;
        Ok(CleanEnd { end, offset, nonce, fingerprint })
    }
}

/// From an epoch's number, its nonce, and a log byte.
fn gave_up(words: &str) -> Option<GaveUp> {
    let mut words = words.split(' ');
    let mut number = || words.next()?.parse().ok();
    Some(GaveUp { epoch: Epoch { number: number()?, nonce: number()? }, from: number()? })
}

/// A segment file that a repair replaced, by seal hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Repaired {
    pub(crate) old: String,
    pub(crate) new: String,
}

impl FromStr for Repaired {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (old, new) = text.split_once(' ').ok_or(())?;
        Ok(Repaired { old: old.to_owned(), new: new.to_owned() })
    }
}

/// A synchronous set, and where its frame is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetLine {
    /// Behind its frame.
    pub(crate) end: LogByte,
    /// Whether the frame is known to be there; otherwise it is at or behind `end`, or nowhere: it
    /// was about to be appended.
    pub(crate) there: bool,
    pub(crate) set: SyncSet,
}

impl std::fmt::Display for SetLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = if self.there { "at" } else { "coming" };
        write!(f, "{} {word} {}", self.end, self.set)
    }
}

impl FromStr for SetLine {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.splitn(3, ' ');
        let mut word = || words.next().ok_or(());
        let end = LogByte(word()?.parse().map_err(drop)?);
        let there = match word()? {
            "at" => true,
            "coming" => false,
            _ => return Err(()),
        };
        Ok(SetLine { end, there, set: word()?.parse()? })
    }
}

/// 32 bytes from their 64 hexadecimal digits.
pub(crate) fn unhex(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

/// `CONTROL`: what must be known before the segments are looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) seq: u64,
    /// The log it belongs to: another log's floor would drop segments of this one.
    pub(crate) log: Option<Id>,
    /// Set by a clean close; cleared and synced before the next write.
    pub(crate) clean: Option<CleanEnd>,
    /// Everything below was dropped by retention.
    pub(crate) floor: LogByte,
    /// Offset of the first record at the floor.
    pub(crate) floor_offset: Offset,
    /// The hash in the footer of the segment that ended at the floor, for the footer of the one behind it: that
    /// may be sealed after the other is gone. Unknown where the log was begun behind it and no source told.
    pub(crate) floor_seal: Option<[u8; 32]>,
    /// The node this one copies from; a follower takes no appends.
    pub(crate) follows: Option<String>,
    /// A deliberate cut that is under way: what lies above it and bears one of these nonces is void
    /// (`cut`).
    pub(crate) cut: Option<(LogByte, Vec<u64>)>,
    /// What this node gave up of epochs that it led, as it rejoined, oldest first: the start of the epoch that it
    /// leads next says so, to whoever still holds those frames.
    pub(crate) gave_up: Vec<GaveUp>,
    pub(crate) repairs: Vec<Repaired>,
    /// The newest synchronous set, behind the one before while the newest may be lost.
    pub(crate) sets: Vec<SetLine>,
    /// Sets that those have replaced, oldest first: a cut brings them back (`sets`).
    pub(crate) past: Vec<SetLine>,
    /// Acknowledgements may have said `durable` only, from this log byte on.
    pub(crate) degraded: Option<LogByte>,
    /// What was durable here reached so far, was lost, and has not all been fetched again: a
    /// follower acknowledges nothing meanwhile. [`UNKNOWN`]: to behind where it ends when it is opened next.
    pub(crate) lost_below: Option<LogByte>,
}

/// How far it reached is not known any more.
pub(crate) const UNKNOWN: LogByte = LogByte(u64::MAX);

impl Control {
    pub(crate) fn read(fs: &dyn Fs, layout: &Layout) -> Result<Option<Self>> {
        let Some(meta) = read(fs, &layout.control(), "control")? else { return Ok(None) };
        let cut = meta
            .get::<u64>("cut_to")
            .map(|byte| (LogByte(byte), meta.all::<u64>("cut_nonce").collect::<Vec<_>>()));
        // A set that cannot be read must not be taken for none: it says what may be shown.
        let sets = |key| {
            let sets = meta.values(key).map(str::parse);
            sets.collect::<Result<Vec<SetLine>, ()>>().map_err(|()| {
                Error::new(Kind::NewerVersion, "expected synchronous sets that can be read")
                    .in_file(&layout.control())
                    .help("use the version of tidelog that wrote them")
            })
        };
        let (sets, past) = (sets("sync_set")?, sets("past_set")?);
        Ok(Some(Control {
            seq: meta.need("seq")?,
            log: meta.get("log"),
            clean: meta.get("clean"),
            floor: LogByte(meta.need("floor")?),
            floor_offset: Offset(meta.need("floor_offset")?),
            floor_seal: meta.get::<String>("floor_seal").and_then(|hex| unhex(&hex)),
            follows: meta.get("follows"),
            cut,
            gave_up: meta.values("gave_up").filter_map(gave_up).collect(),
            repairs: meta.all("repaired").collect(),
            sets,
            past,
            degraded: meta.get("degraded").map(LogByte),
            lost_below: meta.get("lost_below").map(LogByte),
        }))
    }

    /// Whether durable is not enough to be shown.
    pub(crate) fn holds_commits(&self) -> bool {
        self.sets.iter().any(|line| line.set.mode.holds_commits())
    }

    /// Reads it; every log has one, for it is made before `LOG`. Without it nobody knows where the
    /// log begins, or that it follows another.
    pub(crate) fn need(fs: &dyn Fs, layout: &Layout) -> Result<Self> {
        Control::read(fs, layout)?.ok_or_else(|| missing(&layout.control(), "CONTROL"))
    }

    /// Whether it may be this log's. Those that older versions wrote do not say.
    pub(crate) fn belongs_to(&self, log: Id) -> bool {
        self.log.is_none_or(|its| its == log)
    }

    /// Raises the sequence and replaces the file.
    pub(crate) fn write(&mut self, fs: &dyn Fs, layout: &Layout) -> Result<()> {
        self.seq += 1;
        let mut meta = Meta::new("control");
        meta.set("seq", self.seq);
        if let Some(log) = self.log {
            meta.set("log", log);
        }
        if let Some(c) = &self.clean {
            meta.set("clean", format_args!("{} {} {} {}", c.end, c.offset, c.nonce, c.fingerprint));
        }
        meta.set("floor", self.floor).set("floor_offset", self.floor_offset);
        if let Some(seal) = &self.floor_seal {
            meta.set("floor_seal", super::scan::hex(seal));
        }
        if let Some(source) = &self.follows {
            meta.set("follows", source.replace('\n', "?"));
        }
        if let Some((byte, nonces)) = &self.cut {
            meta.set("cut_to", byte);
            for nonce in nonces {
                meta.set("cut_nonce", nonce);
            }
        }
        for GaveUp { epoch: Epoch { number, nonce }, from } in &self.gave_up {
            meta.set("gave_up", format_args!("{number} {nonce} {from}"));
        }
        for repaired in &self.repairs {
            meta.set("repaired", format_args!("{} {}", repaired.old, repaired.new));
        }
        for line in &self.sets {
            meta.set("sync_set", line);
        }
        for line in &self.past {
            meta.set("past_set", line);
        }
        if let Some(from) = self.degraded {
            meta.set("degraded", from);
        }
        if let Some(end) = self.lost_below {
            meta.set("lost_below", end);
        }
        meta.replace(fs, &layout.control())
    }
}

/// `STATE`: a hint of what is durable, for recovery and for readers in other processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) seq: u64,
    pub(crate) epoch: Epoch,
    pub(crate) durable: LogByte,
    pub(crate) durable_offset: Offset,
    pub(crate) committed: LogByte,
    pub(crate) committed_offset: Offset,
    pub(crate) time: i64,
}

/// `STATE` fits one sector, so that it is wholly old or wholly new.
const STATE_BYTES: usize = 512;

impl State {
    /// Reads it; unreadable or torn is as good as none, for it is only a hint.
    pub(crate) fn read(fs: &dyn Fs, layout: &Layout) -> Option<Self> {
        let meta = Meta::read(fs, &layout.state(), "state").ok().flatten()?;
        let pair = |key| -> Option<(LogByte, Offset)> {
            Some((LogByte(meta.get(key)?), Offset(meta.get(&format!("{key}_offset"))?)))
        };
        let (durable, durable_offset) = pair("durable")?;
        let (committed, committed_offset) = pair("committed")?;
        Some(State {
            seq: meta.get("seq")?,
            epoch: Epoch { number: meta.get("epoch")?, nonce: meta.get("nonce")? },
            durable,
            durable_offset,
            committed,
            committed_offset,
            time: meta.get("time")?,
        })
    }

    /// Whether there is something that cannot be read: torn, or damaged.
    pub(crate) fn is_unreadable(fs: &dyn Fs, layout: &Layout) -> bool {
        let written = |file: Arc<dyn File>| file.len().is_ok_and(|len| len > 0);
        fs.open(&layout.state(), Open::Read).is_ok_and(written) && State::read(fs, layout).is_none()
    }

    /// Overwrites the sector, unsynced.
    pub(crate) fn write(&self, file: &dyn File) -> std::io::Result<()> {
        let mut meta = Meta::new("state");
        meta.set("seq", self.seq)
            .set("epoch", self.epoch.number)
            .set("nonce", self.epoch.nonce)
            .set("durable", self.durable)
            .set("durable_offset", self.durable_offset)
            .set("committed", self.committed)
            .set("committed_offset", self.committed_offset)
            .set("time", self.time);
        let mut bytes = meta.encode();
        assert!(bytes.len() <= STATE_BYTES, "eight numbers fit a sector");
        bytes.resize(STATE_BYTES, b'\n');
        file.write_all_at(&bytes, 0)
    }

    /// Opens the file to be overwritten, making it if it is not there.
    pub(crate) fn file(fs: &dyn Fs, layout: &Layout) -> Result<Arc<dyn File>> {
        let path = layout.state();
        match fs.open(&path, Open::Write) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => fs.open(&path, Open::Create),
            other => other,
        }
        .map_err(|e| Error::io("open", &path, e))
    }
}

/// What a checkpoint of the table says of the log: whoever applied a record had it durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Of the checkpoint.
    pub(crate) seq: u64,
    pub(crate) epoch: Epoch,
    pub(crate) end: LogByte,
    /// Behind the last record in it.
    pub(crate) offset: Offset,
    /// Who had appended what until then: footers that retention dropped said so, too.
    pub(crate) producers: Producers,
}

/// Stands in a directory while a log is restored, forked or begun with a snapshot there.
pub(crate) const BEGUN: &str = "restore.tmp";

/// Ends the names of checkpoints.
pub(crate) const CHECKPOINT: &str = "checkpoint";

/// Ends the names of checkpoints that are not of this history.
pub(crate) const ASIDE: &str = "aside";

impl Applied {
    /// What the checkpoints of this log's table say, oldest first; damaged ones say nothing.
    pub(crate) fn read_all(fs: &dyn Fs, layout: &Layout, log: Id) -> Vec<Self> {
        let names = fs.list(&layout.table()).unwrap_or_default();
        let read = |name: &String| {
            let seq = name.strip_suffix(CHECKPOINT)?.strip_suffix('.')?.parse().ok()?;
            let meta = Meta::read(fs, &layout.table().join(name), CHECKPOINT).ok().flatten()?;
            let epoch = Epoch { number: meta.get("epoch")?, nonce: meta.get("nonce")? };
            let end = LogByte(meta.get("log_byte")?);
            let offset = Offset(meta.get("offset")?);
            let producers = Producers::from_lines(meta.all("producer").collect());
            let applied = Applied { seq, epoch, end, offset, producers };
            (meta.get::<Id>("log")? == log).then_some(applied)
        };
        names.iter().filter_map(read).collect()
    }
}

/// One epoch of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpochEntry {
    pub(crate) epoch: Epoch,
    pub(crate) start: LogByte,
    pub(crate) start_offset: Offset,
    /// Who led it.
    pub(crate) node: Id,
}

impl std::fmt::Display for EpochEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Epoch { number, nonce } = self.epoch;
        write!(f, "{number} {nonce} {} {} {}", self.start, self.start_offset, self.node)
    }
}

impl FromStr for EpochEntry {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).ok_or(());
        let epoch = Epoch { number: number()?, nonce: number()? };
        let (start, start_offset) = (LogByte(number()?), Offset(number()?));
        let node = words.next().ok_or(())?.parse()?;
        match words.next() {
            None => Ok(EpochEntry { epoch, start, start_offset, node }),
            Some(_) => Err(()),
        }
    }
}

/// `EPOCHS`: the whole history of leaderships, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epochs(pub(crate) Vec<EpochEntry>);

impl Epochs {
    pub(crate) fn read(fs: &dyn Fs, layout: &Layout) -> Result<Self> {
        Ok(match read(fs, &layout.epochs(), "epochs")? {
            Some(meta) => Epochs(meta.all("epoch").collect()),
            None => Epochs::default(),
        })
    }

    pub(crate) fn write(&self, fs: &dyn Fs, layout: &Layout) -> Result<()> {
        let mut meta = Meta::new("epochs");
        for e in &self.0 {
            meta.set("epoch", e);
        }
        meta.replace(fs, &layout.epochs())
    }

    /// Adds an epoch; drops entries that the new one's start shows to be of another branch.
    pub(crate) fn push(&mut self, entry: EpochEntry) {
        self.0.retain(|old| old.start < entry.start);
        self.0.push(entry);
    }

    /// Who led the epoch with this nonce.
    pub(crate) fn leader(&self, nonce: u64) -> Option<Id> {
        self.0.iter().find(|entry| entry.epoch.nonce == nonce).map(|entry| entry.node)
    }
}

/// `PROMISE`: the highest epoch this node has bound itself to, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Promise {
    pub(crate) epoch: Epoch,
    pub(crate) owner: Id,
}

impl Promise {
    pub(crate) fn read(fs: &dyn Fs, layout: &Layout) -> Result<Option<Self>> {
        let Some(meta) = read(fs, &layout.promise(), "promise")? else { return Ok(None) };
        Ok(Some(Promise {
            epoch: Epoch { number: meta.need("number")?, nonce: meta.need("nonce")? },
            owner: meta.need("owner")?,
        }))
    }

    pub(crate) fn write(&self, fs: &dyn Fs, layout: &Layout) -> Result<()> {
        let mut meta = Meta::new("promise");
        meta.set("number", self.epoch.number)
            .set("nonce", self.epoch.nonce)
            .set("owner", self.owner);
        meta.replace(fs, &layout.promise())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Mode;
    use crate::fs::Os;

    #[test]
    fn every_small_file_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let epoch = Epoch { number: 2, nonce: u64::MAX };

        let mut control = Control {
            log: Some(Id([5; 16])),
            clean: Some(CleanEnd {
                end: LogByte(8),
                offset: Offset(1),
                nonce: 7,
                fingerprint: Fingerprint { head_crc: 1, body_crc: u32::MAX },
            }),
            floor: LogByte(4),
            floor_offset: Offset(2),
            floor_seal: Some(std::array::from_fn(|i| u8::try_from(i * 7).unwrap())),
            follows: Some("/some where".into()),
            cut: Some((LogByte(9), vec![1, 2])),
            gave_up: vec![
                GaveUp { epoch, from: u64::MAX },
                GaveUp { epoch: Epoch { number: 3, nonce: 0 }, from: 0 },
            ],
            repairs: vec![Repaired { old: "aa".into(), new: "bb".into() }],
            sets: vec![
                SetLine { end: LogByte(3), there: true, set: SyncSet::default() },
                SetLine {
                    end: LogByte(9),
                    there: false,
                    set: SyncSet::new(Mode::Sync { k: 1 }, [Id([1; 16]), Id([2; 16])]).unwrap(),
                },
            ],
            past: vec![SetLine { end: LogByte(2), there: true, set: SyncSet::default() }],
            degraded: Some(LogByte(6)),
            ..Control::default()
        };
        control.write(&Os, &layout).unwrap();
        assert_eq!(Control::read(&Os, &layout).unwrap(), Some(control));

        let state = State { seq: 1, epoch, durable: LogByte(u64::MAX), ..State::default() };
        state.write(&*State::file(&Os, &layout).unwrap()).unwrap();
        assert_eq!(State::read(&Os, &layout), Some(state));

        let mut epochs = Epochs::default();
        let entry = |number, start| EpochEntry {
            epoch: Epoch { number, nonce: number },
            start: LogByte(start),
            start_offset: Offset(start),
            node: Id([3; 16]),
        };
        for (number, start) in [(1, 0), (2, 10), (3, 5)] {
            epochs.push(entry(number, start));
        }
        assert_eq!(epochs.0, [entry(1, 0), entry(3, 5)]);
        epochs.write(&Os, &layout).unwrap();
        assert_eq!(Epochs::read(&Os, &layout).unwrap(), epochs);

        let promise = Promise { epoch, owner: Id([1; 16]) };
        promise.write(&Os, &layout).unwrap();
        assert_eq!(Promise::read(&Os, &layout).unwrap(), Some(promise));
    }

    #[test]
    fn a_damaged_small_file_says_what_writes_it_again() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        std::fs::write(layout.control(), "tidelog control 1\ncrc 00000000\n").unwrap();
        let said = Control::read(&Os, &layout).unwrap_err().to_string();
        assert!(said.contains("checksum that does not hold"), "{said}");
        assert!(said.contains("CONTROL") && said.contains("tidelog repair"), "{said}");
    }
}
