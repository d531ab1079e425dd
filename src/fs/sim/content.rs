//! The bytes of one simulated file: pages that copies share until one of them changes.
//!
//! Used by `disk`, which keeps two of them a file (what reads see, and what is durable), and by
//! `crash`, which copies every file of a disk for every state it builds. Invariants:
//! - a copy costs one reference count, a write after it only the pages it touches;
//! - `pages` covers exactly `len`, and bytes of the last page beyond `len` are zero;
//! - a page that was never written, or wholly written with zeros, takes no memory;
//! - what was put together to be mapped is kept with the pages, for all that share them, until one changes.

use std::io;
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;
use xxhash_rust::xxh3::{xxh3_128, xxh3_128_with_seed};

use super::super::Map;

/// What a disk writes wholly or not at all.
pub(super) const SECTOR_BYTES: usize = 512;
const PAGE_BYTES: usize = 4096;
/// Longer files are refused: a wrong length must not take the machine's memory.
const MAX_FILE_BYTES: u64 = 4 << 30;

/// `None` reads as zeros.
type Slot = Option<Arc<Page>>;

#[derive(Debug)]
struct Page {
    bytes: [u8; PAGE_BYTES],
    /// Crash states share most of their pages: hashed once, they cost nothing in the next state.
    hash: OnceLock<u128>,
}

impl Page {
    fn zeros() -> Arc<Self> {
        Arc::new(Page { bytes: [0; PAGE_BYTES], hash: OnceLock::new() })
    }

    /// The bytes to change, of a page of this content alone.
    fn own(page: &mut Arc<Self>) -> &mut [u8; PAGE_BYTES] {
        let page = Arc::make_mut(page);
        page.hash.take();
        &mut page.bytes
    }

    /// 0 for zeros, which may also be no page at all.
    fn hash(&self) -> u128 {
        *self.hash.get_or_init(|| match is_zero(&self.bytes) {
            true => 0,
            false => xxh3_128(&self.bytes),
        })
    }
}

impl Clone for Page {
    fn clone(&self) -> Self {
        // It is copied to be changed.
        Page { bytes: self.bytes, hash: OnceLock::new() }
    }
}

/// The content of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pages: Arc<Pages>,
    len: usize,
}

#[derive(Debug, Default)]
struct Pages {
    slots: Vec<Slot>,
    /// Opened again and again, also from what power cuts leave, a file that never changes is put together
    /// once.
    map: OnceLock<Map>,
}

impl Clone for Pages {
    fn clone(&self) -> Self {
        // They are copied to be changed.
        Pages { slots: self.slots.clone(), map: OnceLock::new() }
    }
}

impl Pages {
    /// The slots to change, of this content alone.
    fn own(pages: &mut Arc<Self>) -> &mut Vec<Slot> {
        let pages = Arc::make_mut(pages);
        pages.map.take();
        &mut pages.slots
    }
}

/// The sectors that one write touched, as reads saw them right after it.
#[derive(Clone, Debug)]
pub(super) struct Patch {
    first_page: usize,
    pages: Vec<Slot>,
    /// Numbers of the first sector and of the one after the last, within the file.
    first_sector: usize,
    end_sector: usize,
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len as u64
    }

    pub(super) fn read_at(&self, buf: &mut [u8], byte: u64) -> usize {
        let Some(byte) = usize::try_from(byte).ok().filter(|&byte| byte < self.len) else {
            return 0;
        };
        let total = buf.len().min(self.len - byte);
        for (page, start, part) in pieces(byte, total) {
            let to = &mut buf[part.clone()];
            match &self.pages.slots[page] {
                Some(page) => to.copy_from_slice(&page.bytes[start..start + part.len()]),
                None => to.fill(0),
            }
        }
        total
    }

    /// Writes all of `bytes`, extending the file where it ends before.
    pub(super) fn write_at(&mut self, bytes: &[u8], byte: u64) -> io::Result<()> {
        let end = byte.checked_add(bytes.len() as u64).ok_or(Errno::FBIG)?;
        if end > self.len() {
            self.set_len(end)?;
        }
        let pages = Pages::own(&mut self.pages);
        for (page, start, part) in pieces(in_memory(byte)?, bytes.len()) {
            let from = &bytes[part];
            let page = &mut pages[page];
            if is_zero(from) && (page.is_none() || from.len() == PAGE_BYTES) {
                *page = None;
                continue;
            }
            let page = Page::own(page.get_or_insert_with(Page::zeros));
            page[start..start + from.len()].copy_from_slice(from);
        }
        Ok(())
    }

    /// Cuts, or extends with zeros.
    pub(super) fn set_len(&mut self, len: u64) -> io::Result<()> {
        let len = in_memory(len)?;
        let pages = Pages::own(&mut self.pages);
        pages.resize(len.div_ceil(PAGE_BYTES), None);
        if len < self.len
            && let Some(Some(last)) = pages.last_mut()
            && !len.is_multiple_of(PAGE_BYTES)
        {
            Page::own(last)[len % PAGE_BYTES..].fill(0);
        }
        self.len = len;
        Ok(())
    }

    /// The first `len` bytes, which are there, to be read as long as anybody likes.
    pub(super) fn map(&self, len: u64) -> Map {
        if let Some(map) = self.pages.map.get().filter(|map| map.len() as u64 == len) {
            return map.clone();
        }
        let map = Map::memory(self.to_vec(len));
        let _ = self.pages.map.set(map.clone());
        map
    }

    /// The first of `len` bytes that is another one in `other`, where bytes beyond the end are.
    pub(super) fn differs(&self, other: &Content, len: u64) -> Option<u64> {
        let common = self.len().min(other.len());
        let end = in_memory(len.min(common)).expect("no file is longer");
        let mut shown = pieces(0, end).filter_map(|(page, _, part)| {
            let (ours, theirs) = (&self.pages.slots[page], &other.pages.slots[page]);
            let same = match (ours, theirs) {
                (Some(ours), Some(theirs)) => {
                    Arc::ptr_eq(ours, theirs)
                        || ours.bytes[..part.len()] == theirs.bytes[..part.len()]
                }
                (None, None) => true,
                (Some(page), None) | (None, Some(page)) => is_zero(&page.bytes[..part.len()]),
            };
            if same {
                return None;
            }
            let (mut one, mut another) = (vec![0; part.len()], vec![0; part.len()]);
            self.read_at(&mut one, part.start as u64);
            other.read_at(&mut another, part.start as u64);
            let at = one.iter().zip(&another).position(|(a, b)| a != b)?;
            Some((part.start + at) as u64)
        });
        shown.next().or((common < len).then_some(common))
    }

    /// The first `len` bytes, or all if there are fewer.
    pub(super) fn to_vec(&self, len: u64) -> Vec<u8> {
        let len = usize::try_from(len).map_or(self.len, |len| len.min(self.len));
        let mut bytes = vec![0; len];
        self.read_at(&mut bytes, 0);
        bytes
    }

    /// The sectors around `len` bytes at `byte`, as they are now.
    pub(super) fn patch(&self, byte: u64, len: usize) -> Patch {
        let byte = usize::try_from(byte).map_or(self.len, |byte| byte.min(self.len));
        let end = byte.saturating_add(len).min(self.len);
        let first_page = byte / PAGE_BYTES;
        Patch {
            first_page,
            pages: self.pages.slots[first_page..end.div_ceil(PAGE_BYTES)].to_vec(),
            first_sector: byte / SECTOR_BYTES,
            end_sector: end.div_ceil(SECTOR_BYTES),
        }
    }

    /// Puts back those sectors of `patch` that `keep` picks (by their number within the patch).
    /// The content may become longer than the file; the caller sets the length at the end.
    pub(super) fn put(&mut self, patch: &Patch, keep: impl Fn(usize) -> bool) {
        let mut sector = patch.first_sector;
        while sector < patch.end_sector {
            let page = sector * SECTOR_BYTES / PAGE_BYTES;
            let end = patch.end_sector.min((page + 1) * PAGE_BYTES / SECTOR_BYTES);
            self.put_in_page(patch, page, sector..end, &keep);
            sector = end;
        }
    }

    fn put_in_page(
        &mut self,
        patch: &Patch,
        page: usize,
        sectors: std::ops::Range<usize>,
        keep: &impl Fn(usize) -> bool,
    ) {
        let kept = |sector: usize| keep(sector - patch.first_sector);
        let Some(last) = sectors.clone().rev().find(|&sector| kept(sector)) else { return };
        let pages = Pages::own(&mut self.pages);
        if pages.len() <= page {
            pages.resize(page + 1, None);
        }
        self.len = self.len.max((last + 1) * SECTOR_BYTES);
        let source = &patch.pages[page - patch.first_page];
        if sectors.len() == PAGE_BYTES / SECTOR_BYTES && sectors.clone().all(kept) {
            // The common case, a whole page, is shared instead of copied.
            pages[page].clone_from(source);
            return;
        }
        let target = Page::own(pages[page].get_or_insert_with(Page::zeros));
        for sector in sectors.filter(|&sector| kept(sector)) {
            let start = sector * SECTOR_BYTES - page * PAGE_BYTES;
            let target = &mut target[start..start + SECTOR_BYTES];
            match source {
                Some(page) => target.copy_from_slice(&page.bytes[start..start + SECTOR_BYTES]),
                None => target.fill(0),
            }
        }
    }

    /// Of length and bytes, whatever pages the zeros among them are kept in.
    pub(super) fn hash(&self) -> u128 {
        let of = |page: &Arc<Page>, number| match page.hash() {
            0 => 0,
            hash => xxh3_128_with_seed(&hash.to_le_bytes(), number),
        };
        let pages = (0..).zip(self.pages.slots.iter());
        pages.filter_map(|(number, page)| Some(of(page.as_ref()?, number))).fold(
            // No page has this number.
            xxh3_128_with_seed(&self.len().to_le_bytes(), u64::MAX),
            u128::wrapping_add,
        )
    }

    /// Whether both share all of their pages. Others may be equal, too.
    pub(super) fn is_same(&self, other: &Content) -> bool {
        self.len == other.len && Arc::ptr_eq(&self.pages, &other.pages)
    }
}

impl Patch {
    pub(super) fn sectors(&self) -> usize {
        self.end_sector - self.first_sector
    }
}

/// Cuts `len` bytes at `byte` at the pages: (page, start in the page, range of the buffer).
fn pieces(byte: usize, len: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = byte + done;
        let part = done..len.min(done + PAGE_BYTES - at % PAGE_BYTES);
        done = part.end;
        Some((at / PAGE_BYTES, at % PAGE_BYTES, part))
    })
}

fn in_memory(byte: u64) -> io::Result<usize> {
    match usize::try_from(byte) {
        Ok(at) if byte <= MAX_FILE_BYTES => Ok(at),
        _ => Err(Errno::FBIG.into()),
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // `u128` blocks let the compiler compare a line at a time; sizes here are mostly 4096.
    let (blocks, rest) = bytes.as_chunks::<16>();
    blocks.iter().all(|block| u128::from_ne_bytes(*block) == 0) && rest.iter().all(|&b| b == 0)
}
