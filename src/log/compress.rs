//! Compression of a batch's table and records (feature `compress`).
//!
//! ```text
//! payload:  u32 uncompressed length | compressed table and records
//! ```
//!
//! The length is checked against the frame limit before anything is allocated, and what comes
//! out must have exactly that length. A batch that does not get smaller is stored as it is.

use crate::error::{Error, Kind, Result};
use crate::frame::{COMPRESSION_MASK, Frame, MAX_FRAME_BYTES};

use super::options::Compression;

/// Packs table and records; `None` when that does not make them smaller, or is not wanted.
pub(crate) fn pack(how: Compression, table: &[u8], records: &[u8]) -> Option<(u8, Vec<u8>)> {
    if how == Compression::None {
        return None;
    }
    let len = table.len() + records.len();
    let (flag, packed) = codec::pack(how, &[table, records].concat())?;
    if packed.len() + 4 >= len {
        return None;
    }
    let mut payload = u32::try_from(len).ok()?.to_le_bytes().to_vec();
    payload.extend_from_slice(&packed);
    Some((flag, payload))
}

/// Unpacks a compressed frame's payload into `out`.
pub(crate) fn unpack(frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<()> {
    let corrupt = |what: &str| Error::new(Kind::Corrupt, format!("a compressed batch {what}"));
    let payload = frame.payload().map_err(|fault| corrupt(fault.as_str()))?;
    let (len, packed) =
        payload.split_first_chunk::<4>().ok_or_else(|| corrupt("without its length"))?;
    let len = u32::from_le_bytes(*len) as usize;
    if len > MAX_FRAME_BYTES {
        return Err(corrupt(&format!("claims {len} bytes, more than a frame holds")));
    }
    out.clear();
    out.resize(len, 0);
    let unpacked = codec::unpack(frame.header.flags & COMPRESSION_MASK, packed, out)?;
    if unpacked != len {
        return Err(corrupt(&format!("claims {len} bytes and holds {unpacked}")));
    }
    Ok(())
}

#[cfg(feature = "compress")]
mod codec {
    use super::{Compression, Error, Kind, Result};

    const LZ4: u8 = 1;
    const ZSTD: u8 = 2;
    /// The library's own default: a good middle.
    const ZSTD_LEVEL: i32 = 3;

    pub(super) fn pack(how: Compression, bytes: &[u8]) -> Option<(u8, Vec<u8>)> {
        match how {
            Compression::None => None,
            Compression::Lz4 => Some((LZ4, lz4_flex::block::compress(bytes))),
            Compression::Zstd => Some((ZSTD, zstd::bulk::compress(bytes, ZSTD_LEVEL).ok()?)),
        }
    }

    pub(super) fn unpack(flag: u8, packed: &[u8], out: &mut [u8]) -> Result<usize> {
        let corrupt = |e: String| Error::new(Kind::Corrupt, format!("a compressed batch: {e}"));
        match flag {
            LZ4 => {
                lz4_flex::block::decompress_into(packed, out).map_err(|e| corrupt(e.to_string()))
            }
            ZSTD => {
                zstd::bulk::decompress_to_buffer(packed, out).map_err(|e| corrupt(e.to_string()))
            }
            other => Err(Error::new(
                Kind::NewerVersion,
                format!("expected compression 1 (lz4) or 2 (zstd), found {other}"),
            )),
        }
    }
}

#[cfg(not(feature = "compress"))]
mod codec {
    use super::{Compression, Error, Kind, Result};

    pub(super) fn pack(_: Compression, _: &[u8]) -> Option<(u8, Vec<u8>)> {
        None
    }

    pub(super) fn unpack(flag: u8, _: &[u8], _: &mut [u8]) -> Result<usize> {
        Err(Error::new(
            Kind::InvalidInput,
            format!("reading compression {flag} needs tidelog's feature `compress`"),
        ))
    }
}

#[cfg(all(test, feature = "compress"))]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_unpacks_to_more_than_it_claims_is_refused_within_its_claim() {
        let zeros = vec![0; 64 << 20];
        for how in [Compression::Lz4, Compression::Zstd] {
            let (flag, bomb) = codec::pack(how, &zeros).unwrap();
            assert!(bomb.len() < 1 << 20);
            // No more is ever made of it than the buffer that its claim was given.
            let error = codec::unpack(flag, &bomb, &mut [0; 1000]).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        }
    }
}
