//! Any bytes as a run: the fuzz target `run_open` (feature `fuzz`).
//!
//! Called by `crate::fuzz` alone. What is read may be refused and may not panic, loop, or
//! contradict itself: a run in which verify finds nothing gives each of its rows to a get.

use std::path::Path;
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian as LE};

use crate::crc;
use crate::frame::{ALIGN, HEADER_BYTES, Seed};
use crate::fs::sim::Sim;
use crate::position::Id;
use crate::table::filter;

use super::Run;
use super::footer::{FOOTER_BYTES, HEAD_BYTES, encode_head};

const LOG: Id = Id([7; 16]);

/// Opens the bytes as they are, and with every checksum made to hold.
pub(crate) fn fuzz(data: &[u8]) {
    let mut fixed = data.to_vec();
    let _ = fix(&mut fixed);
    for bytes in [data, &fixed] {
        let sim = Sim::new(1);
        let path = Path::new("/run");
        sim.write(path, bytes);
        for map in [false, true] {
            if let Ok(run) = Run::open(&sim, path, LOG, map) {
                read(&Arc::new(run), bytes.len());
            }
        }
    }
}

fn read(run: &Arc<Run>, bytes: usize) {
    let whole = run.verify().is_empty();
    let mut rows = [0, 0];
    for (reverse, rows) in [false, true].into_iter().zip(&mut rows) {
        let mut cursor = run.cursor(reverse);
        let mut last: Option<Vec<u8>> = None;
        let mut outcome = cursor.seek(None);
        while let (Ok(()), Some((key, version))) = (&outcome, cursor.current()) {
            *rows += 1;
            assert!(*rows <= bytes / 20, "rows do not share bytes");
            let found = run.get(key);
            if whole {
                let found = found.as_ref().expect("verify found nothing");
                let found = found.as_ref().expect("a row that a cursor shows is found");
                assert_eq!(found.version(), version);
                assert!(last.is_none_or(|last| (*last < *key) != reverse && *last != *key));
            }
            last = Some(key.to_vec());
            outcome = cursor.advance();
        }
        assert!(outcome.is_ok() || !whole, "verify found nothing");
    }
    assert!(!whole || rows == [usize::try_from(run.rows() + run.deletes()).unwrap_or(0); 2]);
    for key in [&b""[..], b"k", b"gate", &[255; 40]] {
        let _ = run.may_hold(key, filter::hash(key));
        let _ = run.get(key);
        for reverse in [false, true] {
            let _ = run.cursor(reverse).seek(Some(key));
        }
    }
}

/// Makes every checksum hold that can be found, so that the fuzzer gets behind them.
fn fix(bytes: &mut [u8]) -> Option<()> {
    let end = bytes.len().checked_sub(FOOTER_BYTES)?;
    bytes.get_mut(..HEAD_BYTES)?.copy_from_slice(&encode_head(LOG));
    let (content, footer) = bytes.split_at_mut(end);
    footer[..8].copy_from_slice(b"TLOGRUNF");
    footer[8..16].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
    footer[16..32].copy_from_slice(&LOG.0);
    let top_byte = usize::try_from(LE::read_u64(&footer[96..])).ok()?;
    if top_byte <= content.len() {
        let (before, top) = content.split_at_mut(top_byte);
        for entry in top.as_chunks_mut::<40>().0.iter_mut().take(64) {
            let _ = fix_section(before, entry);
        }
        LE::write_u64(&mut footer[104..], top.len() as u64);
        LE::write_u32(&mut footer[92..], crc::crc32c(top));
    }
    footer[112..144].copy_from_slice(blake3::hash(content).as_bytes());
    let crc = crc::crc32c(&footer[..252]);
    LE::write_u32(&mut footer[252..], crc);
    Some(())
}

fn fix_section(bytes: &mut [u8], entry: &mut [u8; 40]) -> Option<()> {
    let field = |i: usize| usize::try_from(LE::read_u64(&entry[8 * i..])).ok();
    let (start, end, index) = (field(0)?, field(1)?, field(2)?);
    let index_bytes = LE::read_u32(&entry[24..]) as usize;
    let index = bytes.get(index..index.checked_add(index_bytes)?)?;
    LE::write_u32(&mut entry[28..], crc::crc32c(index));
    let mut byte = start;
    let mut frames = bytes.get_mut(start..end)?;
    while let Some((header, body)) = frames.split_first_chunk_mut::<HEADER_BYTES>() {
        let len = LE::read_u32(&header[..]) as usize;
        let len = len.checked_next_multiple_of(ALIGN)?.checked_sub(HEADER_BYTES)?;
        let (body, rest) = body.split_at_mut_checked(len)?;
        LE::write_u32(&mut header[24..], crc::crc32c(body));
        let crc = Seed::new(LOG, 0).head_crc(byte as u64, header);
        LE::write_u32(&mut header[4..], crc);
        byte += HEADER_BYTES + len;
        frames = rest;
    }
    Some(())
}
