//! CRC-32C of frames: inline instructions for short input, the `crc32c` crate beyond.
//!
//! One of the few files with `unsafe`: the CPU's own instruction is called after asking the CPU
//! whether it has it. Called by `frame` and by everything that seals small files. A frame of
//! 100 bytes spends as long in a library's dispatch as in its checksum; that is what this saves.

#![allow(unsafe_code)]

/// Below this, the plain instruction loop beats the crate's interleaved streams.
const INLINE_BYTES: usize = 256;

/// Continues the CRC-32C `crc` over `data`.
#[inline]
pub(crate) fn append(crc: u32, data: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if data.len() <= INLINE_BYTES && std::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the CPU was just asked for SSE 4.2.
        return unsafe { append_sse42(crc, data) };
    }
    let _ = INLINE_BYTES;
    crc32c::crc32c_append(crc, data)
}

/// CRC-32C of `data`.
#[inline]
pub(crate) fn crc32c(data: &[u8]) -> u32 {
    append(0, data)
}

/// CRC-32C of all `pieces`, one after another.
#[inline]
pub(crate) fn joined(pieces: &[&[u8]]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the CPU was just asked for SSE 4.2.
        return unsafe { joined_sse42(pieces) };
    }
    pieces.iter().fold(0, |crc, piece| append(crc, piece))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn joined_sse42(pieces: &[&[u8]]) -> u32 {
    let mut crc = 0;
    for piece in pieces {
        crc = if piece.len() <= INLINE_BYTES {
            append_sse42(crc, piece)
        } else {
            crc32c::crc32c_append(crc, piece)
        };
    }
    crc
}

/// Continues `crc` over a frame's place and its header, as four little-endian words, without the
/// checksum's own bytes: the upper half of the first.
#[inline]
pub(crate) fn frame_head(crc: u32, place: u64, header: &[u64; 4]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the CPU was just asked for SSE 4.2.
        return unsafe { frame_head_sse42(crc, place, header) };
    }
    frame_head_anywhere(crc, place, header)
}

fn frame_head_anywhere(crc: u32, place: u64, header: &[u64; 4]) -> u32 {
    let [first, rest @ ..] = header;
    let crc = append(crc, &place.to_le_bytes());
    let crc = append(crc, &first.to_le_bytes()[..4]);
    rest.iter().fold(crc, |crc, word| append(crc, &word.to_le_bytes()))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn frame_head_sse42(crc: u32, place: u64, header: &[u64; 4]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u32, _mm_crc32_u64};
    let mut state = _mm_crc32_u64(u64::from(!crc), place);
    let [first, rest @ ..] = *header;
    #[expect(clippy::cast_possible_truncation, reason = "the instruction clears the upper half")]
    let (low, word) = (state as u32, first as u32);
    state = u64::from(_mm_crc32_u32(low, word));
    for word in rest {
        state = _mm_crc32_u64(state, word);
    }
    #[expect(clippy::cast_possible_truncation, reason = "the instruction clears the upper half")]
    let state = state as u32;
    !state
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
#[inline]
fn append_sse42(crc: u32, data: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u32, _mm_crc32_u64};
    let mut state = u64::from(!crc);
    let (words, rest) = data.as_chunks::<8>();
    for word in words {
        state = _mm_crc32_u64(state, u64::from_le_bytes(*word));
    }
    #[expect(clippy::cast_possible_truncation, reason = "the instruction clears the upper half")]
    let mut state = state as u32;
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        state = _mm_crc32_u32(state, u32::from_le_bytes(*word));
    }
    for byte in rest {
        state = _mm_crc32_u8(state, *byte);
    }
    !state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inline_loop_agrees_with_the_crate_at_every_length() {
        let data: Vec<u8> = (0..600u32).map(|i| (i * 31 % 251) as u8).collect();
        for len in 0..data.len() {
            for seed in [0, 7, u32::MAX] {
                let expected = crc32c::crc32c_append(seed, &data[..len]);
                assert_eq!(append(seed, &data[..len]), expected, "length {len}");
            }
        }
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn the_header_checksum_is_that_of_its_parts() {
        let header: [u8; 32] = std::array::from_fn(|i| (i * 37 % 256) as u8);
        for place in [0, 4096, u64::MAX] {
            let parts = [&place.to_le_bytes()[..], &header[..4], &header[8..]].concat();
            let words = std::array::from_fn(|i| {
                u64::from_le_bytes(*header[8 * i..].first_chunk().expect("four words"))
            });
            assert_eq!(frame_head(9, place, &words), append(9, &parts));
            assert_eq!(frame_head_anywhere(9, place, &words), append(9, &parts));
        }
    }

    #[test]
    fn pieces_have_the_checksum_of_the_whole() {
        let data: Vec<u8> = (0..2000u32).map(|i| (i * 31 % 251) as u8).collect();
        for cut in [0, 1, 4, 100, 256, 257, 1000] {
            let pieces = [&data[..cut], &[], &data[cut..cut + 4], &data[cut + 4..]];
            assert_eq!(joined(&pieces), crc32c(&data), "cut at {cut}");
        }
        assert_eq!(joined(&[]), 0);
    }
}
