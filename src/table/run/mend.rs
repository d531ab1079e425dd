//! Makes the checksums of a damaged run hold again, as far as what they cover can be found: lets
//! the fuzzer behind them.

use byteorder::{ByteOrder, LittleEndian as LE};

use crate::crc;
use crate::frame::{HEADER_BYTES, Seed};
use crate::position::Id;

use super::footer::{FOOTER_BYTES, Top};

/// Seals blocks, indexes, top index and footer anew.
pub(in crate::table) fn mend(run: &mut [u8]) {
    let Some(end) = run.len().checked_sub(usize::try_from(FOOTER_BYTES).unwrap_or(0)) else {
        return;
    };
    let word = |run: &[u8], at: usize| usize::try_from(LE::read_u64(&run[at..])).unwrap_or(0);
    let mut log = [0; 16];
    log.copy_from_slice(&run[end + 16..end + 32]);
    let seed = Seed::new(Id(log), 0);
    let sections = LE::read_u32(&run[end + 12..]);
    let (top, top_len) = (word(run, end + 88), word(run, end + 96));
    let decoded = run.get(top..end).and_then(|top| Top::decode(top, sections, end as u64));
    for section in decoded.iter().flat_map(|top| &top.sections) {
        let at = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX);
        let mut byte = at(section.start);
        while byte + HEADER_BYTES <= at(section.frames_end) {
            let len = LE::read_u32(&run[byte..]) as usize;
            let stride = len.next_multiple_of(8);
            if len < HEADER_BYTES || byte + stride > at(section.frames_end) {
                break;
            }
            let body_crc = crc::crc32c(&run[byte + HEADER_BYTES..byte + stride]);
            LE::write_u32(&mut run[byte + 24..], body_crc);
            if let Some(header) = run[byte..].first_chunk::<HEADER_BYTES>() {
                let head_crc = seed.head_crc(byte as u64, header);
                LE::write_u32(&mut run[byte + 4..], head_crc);
            }
            byte += stride;
        }
    }
    // An entry of the top index ends with the checksum of its index and the length of its key.
    let mut entry = top;
    for section in decoded.iter().flat_map(|top| &top.sections) {
        let index = usize::try_from(section.index).unwrap_or(0);
        let len = usize::try_from(section.index_len).unwrap_or(0);
        let crc = run.get(index..index + len).map_or(0, crc::crc32c);
        if entry + 48 <= end {
            LE::write_u32(&mut run[entry + 40..], crc);
        }
        entry += 48 + section.first_key.len();
    }
    let crc = run.get(top..top.saturating_add(top_len)).map_or(0, crc::crc32c);
    LE::write_u32(&mut run[end + 104..], crc);
    let crc = crc::crc32c(&run[end..end + 252]);
    LE::write_u32(&mut run[end + 252..], crc);
}
