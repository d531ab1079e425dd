//! The archive as a source: whole segments and tails, put together to the leader's files.
//!
//! Called by followers. It follows the entries and never lists. What a follower asks for are bytes
//! of segment files; they come out of sealed objects by ranges, and out of tails one behind the
//! other. Frames, links and seals are checked by the follower, as with every source; here objects
//! are held against the entries that name them. Committed is what the archive holds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::position::{Epoch, Id, LogByte};
use crate::segment::{FOOTER_BYTES, Footer, HEADER_BYTES, SegmentHeader, SegmentName};
use crate::ship::{Offer, Report, Shared, Shipped, SnapshotOffer, Source};
use crate::table::RunId;

use super::entry::Sealed;
use super::name::{Hash, ObjectName};
use super::pin::{drop_pin, set_pin};
use super::state::{Held, Piece, State, TailRef};
use super::store::Store;
use super::{snapshot, walk};

/// Read from a sealed object at a time.
const BLOCK_BYTES: u64 = 8 << 20;
/// Shortest and first wait between two looks.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// A pin of who begins with a snapshot ends after this; one that died leaves it until then.
const HOLD: Duration = Duration::from_secs(3600);

/// Pulls from an archive.
///
/// ```
/// use std::sync::Arc;
/// use tidelog::ship::archive::{Archive, LocalStore, PublishOptions, Publisher, Store};
/// use tidelog::{Follower, Log, Record, ship};
/// # fn main() -> tidelog::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = |name| directory.path().join(name);
/// let log = Log::options().create(true).open(path("leader"))?;
/// log.append(&Record::put(b"gate", b"open"))?;
/// log.close()?;
/// let store: Arc<dyn Store> = Arc::new(LocalStore::at(path("archive")));
/// let leader = ship::Directory::open(path("leader"))?;
/// Publisher::open(Arc::clone(&store), leader, PublishOptions::default())?.push()?;
/// let mut follower = Follower::open(Log::options(), path("copy"), Archive::open(store)?)?;
/// follower.catch_up()?;
/// assert_eq!(follower.table().get(b"gate")?.unwrap().value, b"open");
/// # follower.close()
/// # }
/// ```
#[derive(Debug)]
pub struct Archive {
    store: Arc<dyn Store>,
    state: State,
    /// What a segment said of itself, as long as it is made of the same.
    shipped: Option<(SegmentName, Made, Shipped)>,
    block: Option<Block>,
    tail: Option<(Hash, Vec<u8>)>,
    wait: Duration,
    /// What keeps a prune away while somebody begins with a snapshot.
    pin: Option<Id>,
}

/// What a segment is made of at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    Sealed(Held),
    Tails(TailRef),
}

#[derive(Debug)]
struct Block {
    object: ObjectName,
    from: u64,
    bytes: Vec<u8>,
}

impl Archive {
    /// The archive in `store`. Not found, when there is none yet.
    pub fn open(store: Arc<dyn Store>) -> Result<Self> {
        let state = walk::load(&*store)?;
        if state.n == 0 {
            return Err(Error::new(Kind::NotFound, "expected an archive, found none")
                .in_file(std::path::Path::new(&store.place()))
                .help("make one with `tidelog archive push DIR --to URL`"));
        }
        Ok(Archive {
            store,
            state,
            shipped: None,
            block: None,
            tail: None,
            wait: FIRST_WAIT,
            pin: None,
        })
    }

    /// The archive as of the last look.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Takes in what was appended since the last look.
    fn advance(&mut self) -> Result<()> {
        if !walk::advance(&*self.store, &mut self.state)? {
            self.state = walk::load(&*self.store)?;
        }
        Ok(())
    }

    fn piece(&self, segment: SegmentName) -> Result<&Piece> {
        self.state.pieces.get(&segment.0).ok_or_else(|| {
            Error::new(Kind::NotFound, "expected a segment, found none that starts there")
                .in_file(&self.file(segment))
        })
    }

    fn sealed(&self, held: &Held) -> Result<Shipped> {
        let sealed = &held.sealed;
        let name = sealed.name();
        let file = self.store.file(&name);
        let page = self.range(&name, 0, HEADER_BYTES)?;
        let header = SegmentHeader::decode(&page).map_err(|e| e.in_file(&file))?;
        let at = sealed.file_bytes.saturating_sub(FOOTER_BYTES as u64);
        let tail = self.range(&name, at, FOOTER_BYTES as u64)?;
        let footer = match tail.first_chunk::<FOOTER_BYTES>() {
            Some(bytes) => {
                Footer::decode(bytes, sealed.file_bytes).map_err(|e| e.in_file(&file))?
            }
            None => None,
        };
        match footer {
            Some(footer) if is_of(sealed, &header, &footer) && header.log == self.state.log => {
                Ok(Shipped { header, page, footer: held.whole().then_some(footer) })
            }
            _ => Err(Error::new(
                Kind::Corrupt,
                "expected the segment that its entry says, found another one or no footer",
            )
            .in_file(&file)
            .help("run `tidelog archive verify`; the archive is damaged there")),
        }
    }

    fn starts(&mut self, first: &TailRef) -> Result<Shipped> {
        self.load_tail(first)?;
        let file = self.store.file(&ObjectName::Log(first.n));
        let bytes = self.tail.as_ref().map(|(_, bytes)| bytes.as_slice()).unwrap_or_default();
        let header = SegmentHeader::decode(bytes).map_err(|e| e.in_file(&file))?;
        let tail = &first.tail;
        let said = (header.base, header.base_offset, header.epoch, header.log);
        if said != (tail.base, tail.base_offset, tail.epoch, self.state.log) {
            return Err(Error::new(
                Kind::Corrupt,
                "expected the header of the segment that its entry says, found another one",
            )
            .in_file(&file));
        }
        let page = bytes[..4096].to_vec();
        Ok(Shipped { header, page, footer: None })
    }

    /// Exactly these bytes of an object.
    fn range(&self, name: &ObjectName, from: u64, len: u64) -> Result<Vec<u8>> {
        let want = usize::try_from(len).unwrap_or(usize::MAX);
        let bytes = self.store.get_range(name, from, want)?;
        match bytes {
            Some(bytes) if bytes.len() == want => Ok(bytes),
            Some(bytes) => Err(Error::new(
                Kind::Corrupt,
                format!("expected {want} bytes at {from}, found {}", bytes.len()),
            )
            .in_file(&self.store.file(name))
            .at_byte(from)),
            None => Err(Error::new(Kind::NotFound, "expected the object that an entry names")
                .in_file(&self.store.file(name))
                .help("if it was pruned meanwhile, looking again finds what replaced it")),
        }
    }

    /// Bytes of a sealed object, up to the end of a block.
    fn read_sealed(&mut self, sealed: &Sealed, byte: u64, buf: &mut [u8]) -> Result<usize> {
        let object = sealed.name();
        let from = byte - byte % BLOCK_BYTES;
        if self.block.as_ref().is_none_or(|block| (block.object, block.from) != (object, from)) {
            let len = BLOCK_BYTES.min(sealed.file_bytes - from);
            let bytes = self.range(&object, from, len)?;
            self.block = Some(Block { object, from, bytes });
        }
        let bytes = self.block.as_ref().map(|block| block.bytes.as_slice()).unwrap_or_default();
        Ok(copy(bytes, byte - from, buf))
    }

    fn load_tail(&mut self, tail: &TailRef) -> Result<()> {
        if self.tail.as_ref().is_none_or(|(hash, _)| *hash != tail.hash) {
            let (_, payload) = walk::entry(&*self.store, tail.n, tail.hash)?;
            self.tail = Some((tail.hash, payload));
        }
        Ok(())
    }

    /// Bytes of a tail, from a byte of the segment's file that lies in it.
    fn read_tail(&mut self, tail: &TailRef, byte: u64, buf: &mut [u8]) -> Result<usize> {
        self.load_tail(tail)?;
        let bytes = self.tail.as_ref().map(|(_, bytes)| bytes.as_slice()).unwrap_or_default();
        let start = match tail.tail.starts() {
            true => 0,
            false => file_byte(tail.tail.base, tail.tail.from),
        };
        let end = file_byte(tail.tail.base, tail.to) - start;
        let end = usize::try_from(end).map_or(bytes.len(), |end| end.min(bytes.len()));
        Ok(copy(&bytes[..end], byte - start, buf))
    }
}

/// The byte of a segment's file that holds a log byte.
fn file_byte(base: LogByte, at: LogByte) -> u64 {
    at.0.saturating_sub(base.0).saturating_add(HEADER_BYTES)
}

fn copy(bytes: &[u8], at: u64, buf: &mut [u8]) -> usize {
    let at = usize::try_from(at).map_or(bytes.len(), |at| at.min(bytes.len()));
    let len = buf.len().min(bytes.len() - at);
    buf[..len].copy_from_slice(&bytes[at..at + len]);
    len
}

fn is_of(sealed: &Sealed, header: &SegmentHeader, footer: &Footer) -> bool {
    let said =
        SegmentHeader { created: header.created, previous: header.previous, ..footer.header() };
    said == *header
        && (footer.base, footer.base_offset) == (sealed.base, sealed.base_offset)
        && (footer.end(), footer.end_offset) == (sealed.end, sealed.end_offset)
        && footer.epoch == sealed.epoch
        && footer.fingerprint == sealed.fingerprint
        && footer.hash == sealed.seal.0
}

impl Source for Archive {
    fn place(&self) -> String {
        self.store.place()
    }

    fn file(&self, segment: SegmentName) -> PathBuf {
        PathBuf::from(format!("{}/{segment}", self.store.place().trim_end_matches('/')))
    }

    fn look(&mut self, _report: &Report) -> Result<Offer> {
        let before = self.state.n;
        self.advance()?;
        if self.state.n > before {
            self.wait = FIRST_WAIT;
        }
        let state = &self.state;
        Ok(Offer {
            log: state.log,
            node: None,
            upstream: Vec::new(),
            leader: None,
            time: None,
            answered: None,
            // What the leader has not published yet is not known here.
            stale: None,
            epoch: state.epoch,
            floor: state.floor,
            floor_offset: state.floor_offset,
            // No entry says what lay before the first.
            floor_seal: None,
            durable: state.end,
            durable_offset: state.end_offset,
            committed: state.end,
            committed_offset: state.end_offset,
            segments: state.pieces.keys().map(|base| SegmentName(*base)).collect(),
            repairs: Vec::new(),
        })
    }

    /// What the entries come to: also of an epoch that a fence began and that holds nothing yet.
    fn shared(&mut self, report: &Report) -> Result<Shared> {
        self.advance()?;
        let (state, number) = (&self.state, report.durable.epoch.number);
        let later = |epoch: Epoch| epoch.number > number;
        let before = state.pieces.values().take_while(|piece| !later(piece.epoch())).last();
        let after = state.pieces.iter().find(|(_, piece)| later(piece.epoch()));
        let epoch = before.map_or_else(Epoch::default, Piece::epoch);
        Ok(match after {
            Some((base, piece)) => {
                Shared { epoch, end: *base, end_offset: piece.base_offset(), ended: true }
            }
            None if later(state.epoch) => {
                Shared { epoch, end: state.next_base(), end_offset: state.end_offset, ended: true }
            }
            None => Shared { epoch, end: state.end, end_offset: state.end_offset, ended: false },
        })
    }

    fn segment(&mut self, segment: SegmentName) -> Result<Shipped> {
        let made = match self.piece(segment)? {
            Piece::Sealed(held) => Made::Sealed(*held),
            Piece::Tails(tails) => Made::Tails(tails[0]),
        };
        if let Some((name, of, shipped)) = &self.shipped
            && (*name, *of) == (segment, made)
        {
            return Ok(shipped.clone());
        }
        let shipped = match &made {
            Made::Sealed(held) => self.sealed(held)?,
            Made::Tails(first) => self.starts(first)?,
        };
        self.shipped = Some((segment, made, shipped.clone()));
        Ok(shipped)
    }

    fn read(&mut self, segment: SegmentName, byte: u64, buf: &mut [u8]) -> Result<usize> {
        let piece = self.piece(segment)?.clone();
        let end = match &piece {
            Piece::Sealed(held) if held.whole() => held.sealed.file_bytes,
            piece => file_byte(segment.0, piece.end().0),
        };
        let end = match &piece {
            Piece::Sealed(held) => end.min(held.sealed.file_bytes),
            Piece::Tails(_) => end,
        };
        let mut done = 0;
        while done < buf.len() {
            let at = byte.saturating_add(done as u64);
            if at >= end {
                break;
            }
            let want =
                usize::try_from(end - at).map_or(buf.len(), |rest| rest.min(buf.len() - done));
            let into = &mut buf[done..done + want];
            let read = match &piece {
                Piece::Sealed(held) => self.read_sealed(&held.sealed, at, into)?,
                Piece::Tails(tails) => {
                    let behind = |tail: &TailRef| file_byte(tail.tail.base, tail.to) <= at;
                    let Some(tail) = tails.get(tails.partition_point(behind)) else { break };
                    self.read_tail(tail, at, into)?
                }
            };
            if read == 0 {
                break;
            }
            done += read;
        }
        Ok(done)
    }

    fn snapshots(&mut self) -> Result<Vec<SnapshotOffer>> {
        // One that took long may have been pruned, and a younger one be there.
        self.advance()?;
        Ok(snapshot::offers(&self.state))
    }

    fn manifest(&mut self, offer: &SnapshotOffer) -> Result<Vec<u8>> {
        let found = self.state.snapshots.iter().find(|(_, of)| of.name == offer.name);
        let Some((_, of)) = found else { return Err(offer.gone(&self.place())) };
        snapshot::manifest(&*self.store, &self.state, of)
    }

    fn read_run(&mut self, _: &SnapshotOffer, run: RunId, byte: u64, buf: &mut [u8]) -> Result<()> {
        snapshot::read_run(&*self.store, run, byte, buf)
    }

    /// Sets a pin. Who may only read the archive has none, and meets at worst what a prune took.
    fn hold(&mut self, offer: &SnapshotOffer, fs: &dyn Fs) {
        if self.pin.is_none() {
            let owner = format!("a copy that begins with snapshot {}", offer.name);
            self.pin = set_pin(&*self.store, fs, &owner, HOLD).ok().map(|(id, _)| id);
        }
    }

    fn release(&mut self) {
        if let Some(pin) = self.pin.take() {
            // One that cannot be dropped ends by itself.
            let _ = drop_pin(&*self.store, pin);
        }
    }

    /// Waits a little, and longer each time there was nothing new.
    fn wait(&mut self, _report: &Report, timeout: Duration) {
        std::thread::park_timeout(self.wait.min(timeout));
        self.wait = self.wait.saturating_mul(2).min(Duration::from_secs(60));
    }
}
