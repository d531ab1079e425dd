//! Looking at a directory's segments: what is whole, where it ends, and what is proven durable.
//!
//! Used by every open, by verification and by repair; changes nothing. The rule it applies:
//! walk to the first place P that is no frame; let D be the highest durable log byte that
//! anything valid claims (watermarks in frames this node wrote, footers, a clean CONTROL, STATE).
//! - P < D: bytes that were acknowledged are damaged. Corruption.
//! - P ≥ D: what follows P was never acknowledged. A torn tail.
//!
//! That a valid frame follows P proves nothing: two unsynced writes may persist in either order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::frame::{EpochStart, Fault, FrameKind};
use crate::fs::{File, Fs, Open};
use crate::mutant::{self, Mutant};
use crate::position::{Epoch, Fingerprint, Id, LogByte, Offset, hex_digits};
use crate::segment::{
    End, Footer, HEADER_BYTES, Link, Producers, SegmentHeader, SegmentName, Tally, Window, search,
    walk,
};

use super::files::{Applied, Control, Epochs, Layout, LogFile, State};
use super::repair::files::MOVING;

/// A segment that belongs to the unbroken history.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) header: SegmentHeader,
    pub(crate) footer: Option<Footer>,
    /// Only of a segment without a footer.
    pub(crate) unsealed: Option<Unsealed>,
}

/// A segment that was walked.
#[derive(Debug)]
pub(crate) struct Unsealed {
    pub(crate) file: Arc<dyn File>,
    pub(crate) tally: Tally,
    pub(crate) end: End,
    pub(crate) file_bytes: u64,
}

/// What stands behind the end of the unbroken history.
#[derive(Debug)]
pub(crate) struct Beyond {
    pub(crate) path: PathBuf,
    /// First byte that is not part of the history; 0 for a whole file.
    pub(crate) from: u64,
    /// Bytes in it that are not zero padding.
    pub(crate) bytes: u64,
}

/// Why the history ends before the last file does.
#[derive(Clone, Debug)]
pub(crate) struct Break {
    pub(crate) path: PathBuf,
    pub(crate) byte: u64,
    pub(crate) what: String,
}

/// What proves that something is durable.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Proof {
    Floor,
    Footer(SegmentName),
    Watermark(SegmentName),
    FrameBehind,
    Close,
    State,
    Checkpoint(u64),
}

impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Proof::Floor => f.write_str("the retention floor"),
            Proof::Footer(name) => write!(f, "the footer of {name}"),
            Proof::Watermark(name) => write!(f, "a watermark in {name}"),
            Proof::FrameBehind => f.write_str("a frame behind"),
            Proof::Close => f.write_str("CONTROL, written at a clean close"),
            Proof::State => f.write_str("STATE"),
            Proof::Checkpoint(seq) => write!(f, "checkpoint {seq} of the table"),
        }
    }
}

/// What a directory holds.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) found: Vec<Found>,
    pub(crate) beyond: Vec<Beyond>,
    /// Files below the retention floor, to be deleted again.
    pub(crate) leftovers: Vec<PathBuf>,
    /// P: where the unbroken history ends.
    pub(crate) end: LogByte,
    pub(crate) end_offset: Offset,
    /// Of the last frame before it.
    pub(crate) fingerprint: Fingerprint,
    /// D: everything below is proven durable, and by what.
    pub(crate) durable: LogByte,
    pub(crate) proof: Proof,
    pub(crate) broken: Option<Break>,
    /// Whether the log was closed cleanly, exactly here.
    pub(crate) clean: bool,
    /// The highest epoch number seen anywhere.
    pub(crate) epochs_seen: u64,
    /// What the newest checkpoint of the table knows of producers: footers that retention dropped
    /// said so, too.
    pub(crate) producers: Producers,
    /// What the checkpoints of the table say.
    pub(crate) applied: Vec<Applied>,
    /// Things worth reporting that lose nothing.
    pub(crate) findings: Vec<String>,
}

/// Footers of sealed segments, by where these begin.
pub(crate) type Footers = BTreeMap<LogByte, Footer>;

/// What is known before the segments are looked at.
pub(crate) struct Known<'a> {
    pub(crate) fs: &'a Arc<dyn Fs>,
    pub(crate) layout: &'a Layout,
    pub(crate) log: LogFile,
    pub(crate) node: Id,
    pub(crate) control: &'a Control,
    pub(crate) epochs: &'a Epochs,
    pub(crate) state: Option<State>,
    /// Those that were read already by who holds the lock: nobody has changed their files since.
    pub(crate) footers: Option<&'a Footers>,
}

impl Known<'_> {
    /// Scans the segments.
    pub(crate) fn scan(&self) -> Result<Scan> {
        if !self.control.belongs_to(self.log.id) {
            return Err(Error::new(
                Kind::WrongLog,
                format!("expected the CONTROL file of log {}, found another log's", self.log.id),
            )
            .in_file(&self.layout.control())
            .help(REPAIR));
        }
        let floor = self.control.floor;
        let mut scan = Scan {
            found: Vec::new(),
            beyond: Vec::new(),
            leftovers: Vec::new(),
            end: floor,
            end_offset: self.control.floor_offset,
            fingerprint: Fingerprint::default(),
            durable: floor,
            proof: Proof::Floor,
            broken: None,
            clean: false,
            epochs_seen: self.epochs.0.iter().map(|e| e.epoch.number).max().unwrap_or(0),
            producers: Producers::default(),
            applied: Applied::read_all(&**self.fs, self.layout, self.log.id),
            findings: Vec::new(),
        };
        let segments = self.layout.segments();
        let names = match self.fs.list(&segments) {
            Ok(names) => names,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io("list", &segments, e)),
        };
        let mut ours = Vec::new();
        let cut = self.control.cut.as_ref().map(|(at, _)| *at);
        if let Some(at) = cut {
            scan.findings.push(format!(
                "a cut to log byte {at} was cut short: what lies above is void, and the next opening for \
                 writing finishes it"
            ));
        }
        for name in &names {
            match SegmentName::parse(name) {
                Some(name) if cut.is_some_and(|at| name.0 >= at) => {}
                Some(name) if name.0 < floor => scan.leftovers.push(name.path(&segments)),
                Some(name) => ours.push(name),
                None if name.ends_with(".tmp") => {}
                None if Path::new(name).extension() == Some(MOVING.as_ref()) => {
                    let what = "expected segments under their own names, found one on its way";
                    return Err(Error::new(Kind::Corrupt, what)
                        .in_file(&segments.join(name))
                        .help("a repair was cut short: run `tidelog repair` again"));
                }
                None => scan.findings.push(format!("{name} is no segment and is left alone")),
            }
        }
        for (i, name) in ours.iter().enumerate() {
            self.look(&mut scan, *name, ours.get(i + 1).copied(), &segments)?;
        }
        self.weigh(&mut scan);
        Ok(scan)
    }

    /// Looks at one segment file.
    fn look(
        &self,
        scan: &mut Scan,
        name: SegmentName,
        next: Option<SegmentName>,
        segments: &Path,
    ) -> Result<()> {
        let path = name.path(segments);
        if scan.broken.is_none() && name.0 != scan.end {
            scan.broken = Some(Break {
                path: SegmentName(scan.end).path(segments),
                byte: 0,
                what: format!("expected segment {}, found {name} next", SegmentName(scan.end)),
            });
        }
        let open = || self.fs.open(&path, Open::Read).map_err(|e| Error::io("open", &path, e));
        let cut = self.control.cut.as_ref().map(|(at, _)| *at);
        let (footer, file) = match self.footers.and_then(|known| known.get(&name.0)) {
            Some(known) => (Some(*known), None),
            None => {
                let file = open()?;
                (Footer::read(&*file).map_err(|e| e.in_file(&path))?, Some(file))
            }
        };
        // One that reaches over a cut is walked up to there.
        if let Some(footer) = footer.filter(|f| cut.is_none_or(|at| f.end() <= at)) {
            self.check_identity(footer.log, footer.base, name, &path)?;
            scan.epochs_seen = scan.epochs_seen.max(footer.epoch.number);
            scan.claim(footer.end(), Proof::Footer(name));
            if scan.broken.is_some() {
                scan.beyond.push(Beyond { path, from: 0, bytes: footer.data_end });
                return Ok(());
            }
            self.check_link(scan, &footer, &path)?;
            scan.end = footer.end();
            scan.end_offset = footer.end_offset;
            scan.fingerprint = footer.fingerprint;
            scan.found.push(Found {
                path,
                header: footer.header(),
                footer: Some(footer),
                unsealed: None,
            });
            return Ok(());
        }
        let file = file.map_or_else(open, Ok)?;
        self.look_unsealed(scan, name, next, path, file)
    }

    fn look_unsealed(
        &self,
        scan: &mut Scan,
        name: SegmentName,
        next: Option<SegmentName>,
        path: PathBuf,
        file: Arc<dyn File>,
    ) -> Result<()> {
        let io = |e| Error::io("read", &path, e);
        let mut file_bytes = file.len().map_err(io)?;
        if let Some((at, _)) = &self.control.cut {
            file_bytes = file_bytes.min(HEADER_BYTES + at.0.saturating_sub(name.0.0));
        }
        let mut page = vec![0; 4096];
        let read = file.read_full_at(&mut page, 0).map_err(io)?;
        let header = match SegmentHeader::decode(&page[..read]) {
            Ok(header) => header,
            // The header is durable before the file gets its name, so this is damage, whether
            // or not anything in the file was acknowledged.
            Err(e) => return Err(e.in_file(&path).help(REPAIR)),
        };
        self.check_identity(header.log, header.base, name, &path)?;
        scan.epochs_seen = scan.epochs_seen.max(header.epoch.number);
        let mut tally = Tally::default();
        let mut window = Window::file(Arc::clone(&file));
        let mut claimed = None;
        let mut leader = self.epochs.leader(header.epoch.nonce);
        let end = walk(&mut window, &header, file_bytes, &mut tally, |frame, byte| {
            if frame.header.kind == FrameKind::EpochStart {
                leader = EpochStart::decode(frame.body).map(|start| start.node).or(leader);
            }
            claimed = claimed.max(frame.header.claim(header.log_byte(byte)));
        })
        .map_err(io)?;
        // Copied frames carry the leader's watermarks: they say nothing of this node's disk.
        let ours = match leader {
            Some(node) => node == self.node,
            None => self.control.follows.is_none(),
        };
        let contiguous = next.is_some_and(|next| next.0.0 == tally.sealed_end(&header));
        let mut follows = 0;
        let trusts_zeros = mutant::on(Mutant::ZeroIsEnd) && end.fault == Some(Fault::End);
        if !contiguous && end.fault.is_some() && !trusts_zeros {
            let mut from = end.byte + 8;
            while let Some((byte, frame)) = search(&file, &header, from, file_bytes).map_err(io)? {
                if frame.kind != FrameKind::Seal {
                    follows += 1;
                }
                claimed = claimed.max(frame.claim(header.log_byte(byte)));
                from = byte + frame.stride() as u64;
            }
        }
        if let Some(claimed) = claimed.filter(|_| ours) {
            scan.claim(LogByte(claimed), Proof::Watermark(name));
        }
        if follows > 0 && mutant::on(Mutant::RefuseFrameBehind) {
            scan.claim(LogByte(header.log_byte(end.byte + 8)), Proof::FrameBehind);
        }
        if follows > 0 {
            scan.findings.push(format!("{follows} whole frames follow the end of {name}"));
        }
        if scan.broken.is_some() || tally.frames == 0 && next.is_none() {
            // A header with nothing but zeros behind it is nothing that anybody could miss.
            let empty =
                behind(&*file, HEADER_BYTES, file_bytes.max(HEADER_BYTES)).map_err(io)? == 0;
            let bytes = if empty { 0 } else { file_bytes };
            scan.beyond.push(Beyond { path, from: 0, bytes });
            return Ok(());
        }
        if header.base_offset != scan.end_offset {
            return Err(Error::new(
                Kind::Corrupt,
                format!(
                    "expected a segment that starts at offset {}, found one at {}",
                    scan.end_offset, header.base_offset
                ),
            )
            .in_file(&path)
            .at_byte(0)
            .help(REPAIR));
        }
        check_predecessor(scan, header.previous, self.control, &path)?;
        scan.end = LogByte(if contiguous {
            tally.sealed_end(&header)
        } else {
            header.log_byte(tally.end)
        });
        scan.end_offset = tally.end_offset(&header);
        scan.fingerprint = tally.fingerprint;
        if !contiguous {
            let what = end.fault.map_or("the end of the frames", |fault| fault.as_str());
            scan.broken = Some(Break { path: path.clone(), byte: end.byte, what: what.to_owned() });
            let bytes = behind(&*file, end.byte, file_bytes).map_err(io)?;
            if bytes > 0 && end.fault.is_some() {
                scan.beyond.push(Beyond { path: path.clone(), from: end.byte, bytes });
            }
        }
        let unsealed = Unsealed { file, tally, end, file_bytes };
        scan.found.push(Found { path, header, footer: None, unsealed: Some(unsealed) });
        Ok(())
    }

    fn check_identity(&self, log: Id, base: LogByte, name: SegmentName, path: &Path) -> Result<()> {
        if log != self.log.id {
            return Err(Error::new(
                Kind::WrongLog,
                format!("expected a segment of log {}, found one of log {log}", self.log.id),
            )
            .in_file(path)
            .help("move this file out of the segments directory"));
        }
        if base != name.0 {
            return Err(Error::new(
                Kind::Corrupt,
                format!(
                    "expected the segment that starts at log byte {}, found the one that starts \
                     at {base}: the file was renamed or copied",
                    name.0
                ),
            )
            .in_file(path)
            .at_byte(32)
            .help("give the file its own name back, or run `tidelog repair`"));
        }
        Ok(())
    }

    /// Holds a sealed segment against the one before it.
    fn check_link(&self, scan: &Scan, footer: &Footer, path: &Path) -> Result<()> {
        if footer.base_offset != scan.end_offset {
            return Err(Error::new(
                Kind::Corrupt,
                format!(
                    "expected a segment that starts at offset {}, found one at {}",
                    scan.end_offset, footer.base_offset
                ),
            )
            .in_file(path)
            .help(REPAIR));
        }
        let Some(before) = scan.found.last().and_then(|found| found.footer.as_ref()) else {
            return Ok(());
        };
        if before.hash == footer.previous_hash {
            return Ok(());
        }
        let hash = hex(&before.hash);
        let linked = hex(&footer.previous_hash);
        // A repair changes a segment's hash; the chain of repairs leads from old to new.
        let mut old = linked.clone();
        while old != hash {
            match self.control.repairs.iter().find(|repaired| repaired.old == old) {
                Some(repaired) if repaired.new != old => old.clone_from(&repaired.new),
                _ => {
                    return Err(Error::new(
                        Kind::Corrupt,
                        format!(
                            "expected a predecessor with seal hash {}…, found {}…",
                            &linked[..16],
                            &hash[..16]
                        ),
                    )
                    .in_file(path)
                    .help(REPAIR));
                }
            }
        }
        Ok(())
    }

    /// Adds the evidence that lies outside the segments, and decides whether the end is clean.
    fn weigh(&self, scan: &mut Scan) {
        if let Some(clean) = self.control.clean {
            scan.claim(clean.end, Proof::Close);
            scan.clean = clean.end == scan.end
                && scan.beyond.is_empty()
                && clean.offset == scan.end_offset
                && clean.fingerprint == scan.fingerprint
                && scan.found.last().is_none_or(|last| last.header.epoch.nonce == clean.nonce);
        }
        if let Some(state) = self.state.filter(|_| !mutant::on(Mutant::IgnoreState))
            && (self.is_ours(scan, state.epoch, state.durable) || mutant::on(Mutant::TrustAnyState))
        {
            scan.claim(state.durable, Proof::State);
        }
        for applied in std::mem::take(&mut scan.applied) {
            if self.is_ours(scan, applied.epoch, applied.end) {
                scan.claim(applied.end, Proof::Checkpoint(applied.seq));
                if applied.end <= scan.end {
                    scan.producers.clone_from(&applied.producers);
                }
            }
            scan.applied.push(applied);
        }
    }

    /// Whether what speaks of `end` in `epoch` speaks of this history, and of what was not cut
    /// from it on purpose.
    pub(super) fn is_ours(&self, scan: &Scan, epoch: Epoch, end: LogByte) -> bool {
        let known = scan.found.iter().map(|found| found.header.epoch);
        let history = self.epochs.0.iter().map(|entry| entry.epoch);
        let is_cut =
            |(byte, nonces): &(LogByte, Vec<u64>)| end > *byte && nonces.contains(&epoch.nonce);
        !self.control.cut.as_ref().is_some_and(is_cut)
            && known.chain(history).any(|known| known == epoch)
    }
}

const REPAIR: &str =
    "restore the file from a verified copy, or see what `tidelog repair` would save";

impl Scan {
    fn claim(&mut self, durable: LogByte, proof: Proof) {
        if durable > self.durable {
            (self.durable, self.proof) = (durable, proof);
        }
    }

    /// The error that says acknowledged bytes are damaged, if they are.
    pub(crate) fn corruption(&self, layout: &Layout) -> Option<Error> {
        if self.durable <= self.end || mutant::on(Mutant::CutOnAnyCrc) {
            return None;
        }
        let broken = self.broken.clone().unwrap_or_else(|| Break {
            path: SegmentName(self.end).path(&layout.segments()),
            byte: 0,
            what: "expected a further segment, found none".into(),
        });
        Some(
            Error::new(
                Kind::Corrupt,
                format!(
                    "{}; log bytes {} to {} were acknowledged ({} proves it) and offsets from {} \
                     on are affected",
                    broken.what, self.end, self.durable, self.proof, self.end_offset
                ),
            )
            .in_file(&broken.path)
            .at_byte(broken.byte)
            .at_offset(self.end_offset.0)
            .help(REPAIR),
        )
    }

    /// The epoch of the last frame.
    pub(crate) fn epoch(&self) -> Epoch {
        self.found.last().map(|found| found.header.epoch).unwrap_or_default()
    }

    /// Bytes of a torn tail.
    pub(crate) fn torn_bytes(&self) -> u64 {
        self.beyond.iter().map(|beyond| beyond.bytes).sum()
    }
}

/// An unsealed segment must follow the one before it.
fn check_predecessor(
    scan: &Scan,
    link: Option<Link>,
    control: &Control,
    path: &Path,
) -> Result<()> {
    let (Some(link), Some(before)) = (link, scan.found.last()) else { return Ok(()) };
    let fingerprint = scan.fingerprint;
    // A repair may have put a `lost` frame at its end, or one segment in place of two whose border
    // nobody knows any more. Where it ends was held against the next one's name.
    let repaired = || {
        before.footer.is_some_and(|footer| {
            let hash = hex(&footer.hash);
            control.repairs.iter().any(|repaired| repaired.new == hash)
        })
    };
    if link.base == before.header.base && link.fingerprint == fingerprint || repaired() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Corrupt,
        format!(
            "expected a segment that follows {} with last frame {fingerprint}, found one that \
             follows {} with last frame {}",
            SegmentName(before.header.base),
            SegmentName(link.base),
            link.fingerprint
        ),
    )
    .in_file(path)
    .at_byte(80)
    .help(REPAIR))
}

/// How many bytes behind `from` there are up to the last one that is not zero.
fn behind(file: &dyn File, from: u64, file_bytes: u64) -> std::io::Result<u64> {
    // Small files are many where this is called often: no more is zeroed than is read.
    let mut buffer = vec![0; chunk(from, file_bytes, 256 << 10)];
    let (mut at, mut last) = (from, from);
    while at < file_bytes {
        let read = file.read_full_at(&mut buffer, at)?;
        if read == 0 {
            break;
        }
        // Mostly zeros, which are compared a line at a time.
        let line =
            buffer[..read].chunks(64).rposition(|line| line.iter().fold(0, |a, b| a | b) != 0);
        if let Some(line) = line {
            let end = read.min(64 * (line + 1));
            let i = buffer[..end].iter().rposition(|&b| b != 0).expect("the line is not zero");
            last = at + i as u64 + 1;
        }
        at += read as u64;
    }
    Ok(last - from)
}

/// Bytes to read at a time of what lies between two places: `most`, or all there is if it is less.
pub(crate) fn chunk(from: u64, to: u64, most: usize) -> usize {
    usize::try_from(to.saturating_sub(from)).map_or(most, |bytes| bytes.min(most))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| hex_digits(*byte)).map(char::from).collect()
}
