//! CRC-32C of frames: three interleaved streams of the CPU's own instruction.
//!
//! One of the few files with `unsafe`: the instructions are called after asking the CPU whether
//! it has them; without them the `crc32c` crate does it. Called by `frame` and by everything that
//! seals small files.
//!
//! The instruction takes three cycles and one can begin in each, so one stream leaves two thirds
//! of it unused. Input is cut into pieces of up to [`PIECE_BYTES`], each into three equal parts
//! that are hashed side by side and put together again: `crc(A | B) = crc(A) · x^|B| + crc(B)`,
//! one carry-less multiplication with a power of x from a table. (Gopal et al., "Fast CRC
//! computation for iSCSI polynomial using CRC32 instruction", Intel 2011.) At the sizes of frames
//! this is twice as fast as the crates: `docs/decisions/0010-checksum.md`.

#![allow(unsafe_code)]

/// Below this, putting three streams together costs more than they save.
const STREAMS_FROM_BYTES: usize = 80;
/// Below this, an append's piece is hashed in one stream and in line: what waits for the stream is
/// other work of the same append, and of the one before.
const ALONE_BELOW_BYTES: usize = 256;
/// Words of each of the three parts at most.
const PART_WORDS: usize = 128;
/// How far ahead of the streams memory is asked for: parts are too short for the processor to see
/// three sequences in them by itself, and a scan would wait for memory at each.
const AHEAD_WORDS: usize = 6 * PART_WORDS;
/// Three parts.
const PIECE_BYTES: usize = 3 * 8 * PART_WORDS;

/// `x^(64 n - 33)` modulo the polynomial, bits reflected: multiplying by it and hashing the
/// product shifts a checksum by `n` words.
static SHIFT_WORDS: [u32; 2 * PART_WORDS + 1] = shifts();

const fn shifts() -> [u32; 2 * PART_WORDS + 1] {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut shifts = [0; 2 * PART_WORDS + 1];
    // x^0, then times x for every bit.
    let (mut power, mut exponent) = (0x8000_0000_u32, 0);
    let mut words = 1;
    while words <= 2 * PART_WORDS {
        while exponent < 64 * words - 33 {
            power = (power >> 1) ^ if power & 1 == 1 { POLYNOMIAL } else { 0 };
            exponent += 1;
        }
        shifts[words] = power;
        words += 1;
    }
    shifts
}

/// Whether the CPU has what the streams need.
#[cfg(target_arch = "x86_64")]
#[inline]
fn has_instructions() -> bool {
    std::is_x86_feature_detected!("sse4.2") && std::is_x86_feature_detected!("pclmulqdq")
}

/// Continues the CRC-32C `crc` over `data`.
#[inline]
pub(crate) fn append(crc: u32, data: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if has_instructions() {
        // SAFETY: the CPU was just asked for SSE 4.2 and PCLMULQDQ.
        return unsafe { append_streams(crc, data) };
    }
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
    if has_instructions() {
        // SAFETY: the CPU was just asked for SSE 4.2 and PCLMULQDQ.
        return unsafe { joined_streams(pieces) };
    }
    pieces.iter().fold(0, |crc, piece| append(crc, piece))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2,pclmulqdq")]
fn joined_streams(pieces: &[&[u8]]) -> u32 {
    pieces.iter().fold(0, |crc, piece| match piece.len() < ALONE_BELOW_BYTES {
        true => append_sse42(crc, piece),
        false => append_streams(crc, piece),
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2,pclmulqdq")]
fn append_streams(crc: u32, data: &[u8]) -> u32 {
    let (mut crc, mut data) = (crc, data);
    while data.len() >= STREAMS_FROM_BYTES {
        let (words, _) = data[..data.len().min(PIECE_BYTES)].as_chunks::<8>();
        let part = words.len() / 3;
        crc = !three_streams(!crc, &words[..3 * part], part);
        data = &data[24 * part..];
    }
    append_sse42(crc, data)
}

/// Continues `state` over `words`, three parts of `part` words.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2,pclmulqdq")]
#[inline]
fn three_streams(state: u32, words: &[[u8; 8]], part: usize) -> u32 {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_crc32_u64, _mm_prefetch};
    let (first, rest) = words.split_at(part);
    let (second, third) = rest.split_at(part);
    let (mut a, mut b, mut c) = (u64::from(state), 0, 0);
    let mut ahead = words.as_ptr().wrapping_add(AHEAD_WORDS).cast::<i8>();
    let lines = first.chunks(8).zip(second.chunks(8)).zip(third.chunks(8));
    for ((x, y), z) in lines {
        for line in 0..3 {
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64 * line));
        }
        ahead = ahead.wrapping_add(192);
        for ((x, y), z) in x.iter().zip(y).zip(z) {
            a = _mm_crc32_u64(a, u64::from_le_bytes(*x));
            b = _mm_crc32_u64(b, u64::from_le_bytes(*y));
            c = _mm_crc32_u64(c, u64::from_le_bytes(*z));
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "the instruction clears the upper half")]
    let c = c as u32;
    shift(a, 2 * part) ^ shift(b, part) ^ c
}

/// The checksum state `crc` after `words` words of zeros.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2,pclmulqdq")]
#[inline]
fn shift(crc: u64, words: usize) -> u32 {
    use std::arch::x86_64::{
        _mm_clmulepi64_si128, _mm_crc32_u64, _mm_cvtsi64_si128, _mm_cvtsi128_si64,
    };
    let power = _mm_cvtsi64_si128(i64::from(SHIFT_WORDS[words]));
    let product = _mm_clmulepi64_si128::<0>(_mm_cvtsi64_si128(crc.cast_signed()), power);
    let product = _mm_cvtsi128_si64(product).cast_unsigned();
    #[expect(clippy::cast_possible_truncation, reason = "the instruction clears the upper half")]
    let shifted = _mm_crc32_u64(0, product) as u32;
    shifted
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
    fn the_streams_agree_with_the_crate_at_every_length() {
        let data: Vec<u8> = (0..7000u32).map(|i| (i * 31 % 251) as u8).collect();
        for len in (0..1000).chain((1000..data.len()).step_by(37)) {
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
        for cut in [0, 1, 4, 79, 80, 100, 257, 1000] {
            let pieces = [&data[..cut], &[], &data[cut..cut + 4], &data[cut + 4..]];
            assert_eq!(joined(&pieces), crc32c(&data), "cut at {cut}");
        }
        assert_eq!(joined(&[]), 0);
    }
}
