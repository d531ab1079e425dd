//! What is appended: a small pool of random payloads, the same for every contestant.
//!
//! Random bytes keep a compressor from helping anyone. The pool stays in the second-level cache,
//! so that reading payloads costs every contestant the same and little. It lives as long as the
//! process, so an engine that can take a payload without copying it may.

/// Payloads in the pool; a power of two.
const POOL: u64 = 64;
/// Payloads start on cache lines: copies to odd places are far slower on some machines, and that
/// is not what is compared here.
const ALIGN: usize = 64;

/// The payload of record `n` is [`get(n)`](Payloads::get), whoever stores it.
#[derive(Clone, Copy)]
pub struct Payloads {
    pool: &'static [u8],
    stride: usize,
    len: usize,
}

impl Payloads {
    /// Payloads of `len` bytes each.
    pub fn new(len: usize) -> Self {
        let stride = len.next_multiple_of(ALIGN);
        let bytes = stride * POOL as usize;
        let memory = Box::leak(vec![0; bytes + ALIGN].into_boxed_slice());
        let start = memory.as_ptr().align_offset(ALIGN);
        let pool = &mut memory[start..start + bytes];
        let mut random = Random::new(len as u64);
        for eight in pool.chunks_exact_mut(8) {
            eight.copy_from_slice(&random.next().to_le_bytes());
        }
        Payloads { pool, stride, len }
    }

    /// Bytes of each payload.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The payload of record `n`.
    #[inline]
    pub fn get(&self, n: u64) -> &'static [u8] {
        let start = (n & (POOL - 1)) as usize * self.stride;
        &self.pool[start..start + self.len]
    }
}

/// A small generator (xorshift64*), so that every run appends and asks for the same.
pub struct Random(u64);

impl Random {
    /// A generator of its own sequence per `seed`.
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    #[inline]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}
