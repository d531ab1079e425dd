//! The segments of an open log, as readers see them.
//!
//! The writer adds the active segment and marks it sealed later; retention removes from the
//! front. Readers take a snapshot of the list and never hold a lock while they read. Invariants:
//! - segments are ordered by log byte and contiguous;
//! - only sealed segments are mapped, at most [`MAX_MAPS`] at a time; a cursor keeps its own.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use crate::crc;
use crate::error::{Error, Result};
use crate::frame::Seed;
use crate::fs::{File, Fs, Map, Open};
use crate::mutant::{self, Mutant};
use crate::position::Offset;
use crate::segment::{Footer, Index, IndexEntry, SegmentHeader, Window};

/// Maps kept at a time.
const MAX_MAPS: u64 = 256;

/// One segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    /// Of its header.
    pub(crate) seed: Seed,
    pub(crate) path: PathBuf,
    /// Set once sealed; never changes afterwards.
    pub(crate) footer: OnceLock<Footer>,
    /// Byte and offset behind the last frame, once no frame will follow.
    pub(crate) end: OnceLock<(u64, Offset)>,
    /// Whether a scan has verified every body in it.
    pub(crate) verified: AtomicBool,
    /// The writer's descriptor while the segment is not sealed.
    file: OnceLock<Arc<dyn File>>,
    map: Mutex<Option<Map>>,
    /// Index entries of an unsealed segment, as far as written; of a sealed one that is not
    /// mapped, once read.
    index: Mutex<Vec<u8>>,
    index_checked: OnceLock<bool>,
    used: AtomicU64,
}

impl Segment {
    /// A sealed segment.
    pub(crate) fn sealed(footer: Footer, path: PathBuf) -> Self {
        let segment = Segment::new(footer.header(), path);
        segment.seal(footer);
        segment
    }

    /// A segment without a footer; `file` reads it.
    pub(crate) fn unsealed(header: SegmentHeader, path: PathBuf, file: Arc<dyn File>) -> Self {
        let segment = Segment::new(header, path);
        let _ = segment.file.set(file);
        segment
    }

    fn new(header: SegmentHeader, path: PathBuf) -> Self {
        Segment {
            seed: header.seed(),
            header,
            path,
            footer: OnceLock::new(),
            end: OnceLock::new(),
            verified: AtomicBool::new(false),
            file: OnceLock::new(),
            map: Mutex::new(None),
            index: Mutex::new(Vec::new()),
            index_checked: OnceLock::new(),
            used: AtomicU64::new(0),
        }
    }

    /// Notes the footer it was sealed with.
    pub(crate) fn seal(&self, footer: Footer) {
        let _ = self.end.set((footer.frames_end(), footer.end_offset));
        let _ = self.footer.set(footer);
    }

    /// Adds the index entries of frames that were written since.
    pub(crate) fn add_to_index(&self, entries: &[u8]) {
        if !entries.is_empty() {
            lock(&self.index).extend_from_slice(entries);
        }
    }
}

/// The segments in order.
pub(crate) type List = Arc<Vec<Arc<Segment>>>;

/// All segments of a log.
#[derive(Debug)]
pub(crate) struct Catalog {
    fs: Arc<dyn Fs>,
    use_maps: bool,
    /// Guards the list; readers clone the inner pointer and let go.
    list: RwLock<List>,
    maps: AtomicU64,
    clock: AtomicU64,
}

impl Catalog {
    pub(crate) fn new(fs: Arc<dyn Fs>, use_maps: bool, segments: Vec<Arc<Segment>>) -> Self {
        Catalog {
            fs,
            use_maps,
            list: RwLock::new(Arc::new(segments)),
            maps: AtomicU64::new(0),
            clock: AtomicU64::new(0),
        }
    }

    /// The list as of now.
    pub(crate) fn list(&self) -> List {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the list.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>)) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let mut segments = (**list).clone();
        change(&mut segments);
        *list = Arc::new(segments);
    }

    /// A view of the segment's file: the map of a sealed one, otherwise a buffer.
    pub(crate) fn window(&self, segment: &Segment) -> Result<Window> {
        match self.map(segment)? {
            Some(map) => Ok(Window::map(map)),
            None => Ok(Window::file(self.file(segment)?)),
        }
    }

    fn file(&self, segment: &Segment) -> Result<Arc<dyn File>> {
        if let Some(file) = segment.file.get() {
            return Ok(Arc::clone(file));
        }
        self.fs.open(&segment.path, Open::Read).map_err(|e| Error::io("open", &segment.path, e))
    }

    /// The map of a sealed segment, if maps are used.
    pub(crate) fn map(&self, segment: &Segment) -> Result<Option<Map>> {
        let Some(footer) = segment.footer.get() else { return Ok(None) };
        if !self.use_maps {
            return Ok(None);
        }
        segment.used.store(self.clock.fetch_add(1, Relaxed), Relaxed);
        let mut slot = lock(&segment.map);
        if let Some(map) = &*slot {
            return Ok(Some(map.clone()));
        }
        let io = |e| Error::io("map", &segment.path, e);
        let file = self.fs.open(&segment.path, Open::Read).map_err(io)?;
        let map = file.map(footer.index_byte + 16 * u64::from(footer.index_entries)).map_err(io)?;
        *slot = Some(map.clone());
        drop(slot);
        if self.maps.fetch_add(1, Relaxed) >= MAX_MAPS {
            self.evict(segment);
        }
        Ok(Some(map))
    }

    /// Lets go of the map that was used longest ago.
    fn evict(&self, keep: &Segment) {
        let list = self.list();
        let mapped = list.iter().filter(|s| s.path != keep.path && lock(&s.map).is_some());
        if let Some(oldest) = mapped.min_by_key(|s| s.used.load(Relaxed))
            && lock(&oldest.map).take().is_some()
        {
            self.maps.fetch_sub(1, Relaxed);
        }
    }

    /// Looks an entry up in the segment's index, in the map that `window` shows if it is one;
    /// `None` sends the caller to the first frame.
    pub(crate) fn find(
        &self,
        segment: &Segment,
        window: &Window,
        find: impl Fn(&[u8]) -> Option<IndexEntry>,
    ) -> Result<Option<IndexEntry>> {
        let Some(footer) = segment.footer.get() else {
            return Ok(find(&lock(&segment.index)));
        };
        let range = footer.index_byte..footer.index_byte + 16 * u64::from(footer.index_entries);
        let holds = |block: &[u8]| {
            if mutant::on(Mutant::IndexByLength) {
                return true;
            }
            *segment.index_checked.get_or_init(|| crc::crc32c(block) == footer.index_crc)
        };
        if let Some(map) = window.mapped() {
            let block = usize::try_from(range.start)
                .ok()
                .zip(usize::try_from(range.end).ok())
                .and_then(|(start, end)| map.get(start..end));
            return Ok(block.filter(|block| holds(block)).and_then(find));
        }
        let mut index = lock(&segment.index);
        if Index::entries(&index) != footer.index_entries as usize {
            let mut block = vec![0; 16 * footer.index_entries as usize];
            self.file(segment)?
                .read_exact_at(&mut block, range.start)
                .map_err(|e| Error::io("read the index of", &segment.path, e))?;
            *index = block;
        }
        Ok(if holds(&index) { find(&index) } else { None })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
