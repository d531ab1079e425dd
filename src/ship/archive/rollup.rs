//! The payload of a rollup: the state up to there, so that nobody walks from the beginning.
//!
//! ```text
//!   0 magic "TIDEROLL"   8 u32 version    12 u32 0        16 log id       32 u64, u64 epoch
//!  48 node              64 u64 floor, floor offset, end, end offset
//!  96 u64 pieces, snapshots, cut items; then these, one behind the other
//! piece: u64 1, held                 or u64 2, u64 count, tails
//! cut:   u64 1, held                 or u64 2, tail
//! held:  u64 n, segment (128 bytes as in an entry), u64 to, to offset
//! tail:  u64 n, hash (32), tail (64 bytes as in an entry), u64 to, to offset
//! ```
//!
//! Pure. Invariant: what decodes encodes to the same bytes, and holds together.

use crate::error::{Error, Kind, Result};
use crate::position::{LogByte, Offset};

use super::entry::{Put, Take};
use super::state::{Cut, Held, Piece, State, TailRef};

const MAGIC: &[u8; 8] = b"TIDEROLL";
const VERSION: u32 = 1;
const HELD_BYTES: usize = 8 + 128 + 16;
const TAIL_BYTES: usize = 8 + 32 + 64 + 16;
const SNAPSHOT_BYTES: usize = 8 + 72;

/// The state as bytes.
pub fn encode(state: &State) -> Vec<u8> {
    let mut out = Out(Vec::new());
    out.0.extend_from_slice(MAGIC);
    out.0.extend_from_slice(&VERSION.to_le_bytes());
    out.0.extend_from_slice(&[0; 4]);
    out.fixed(32, |put| {
        put.id(state.log);
        put.epoch(state.epoch);
    });
    out.fixed(72, |put| {
        put.id(state.node);
        put.number(state.floor.0).number(state.floor_offset.0);
        put.number(state.end.0).number(state.end_offset.0);
        put.number(state.pieces.len() as u64).number(state.snapshots.len() as u64);
        put.number(state.cut.len() as u64);
    });
    for piece in state.pieces.values() {
        match piece {
            Piece::Sealed(held) => {
                out.number(1);
                out.held(held);
            }
            Piece::Tails(tails) => {
                out.number(2);
                out.number(tails.len() as u64);
                tails.iter().for_each(|tail| out.tail(tail));
            }
        }
    }
    for (n, snapshot) in &state.snapshots {
        out.fixed(SNAPSHOT_BYTES, |put| {
            put.number(*n).snapshot(snapshot);
        });
    }
    for cut in &state.cut {
        match cut {
            Cut::Sealed(held) => {
                out.number(1);
                out.held(held);
            }
            Cut::Tail(tail) => {
                out.number(2);
                out.tail(tail);
            }
        }
    }
    out.0
}

/// Reads it back; the caller adds the name, and the entry's number and hash.
pub fn decode(bytes: &[u8]) -> Result<State> {
    let state = read(bytes).filter(|state| state.holds_together() && encode(state) == bytes);
    state.ok_or_else(|| {
        Error::new(Kind::Corrupt, "expected a rollup that holds together, found other bytes")
    })
}

fn read(bytes: &[u8]) -> Option<State> {
    let mut input = In { bytes };
    let head = input.take(16)?;
    if &head.bytes[..8] != MAGIC || head.bytes[8..16] != [1, 0, 0, 0, 0, 0, 0, 0] {
        return None;
    }
    let mut take = input.take(104)?;
    let mut state = State {
        log: take.id(),
        epoch: take.epoch(),
        node: take.id(),
        floor: LogByte(take.number()),
        floor_offset: Offset(take.number()),
        end: LogByte(take.number()),
        end_offset: Offset(take.number()),
        ..State::default()
    };
    let (pieces, snapshots, cut) = (take.number(), take.number(), take.number());
    for _ in 0..pieces {
        let (base, piece) = match input.number()? {
            1 => {
                let held = input.held()?;
                (held.sealed.base, Piece::Sealed(held))
            }
            2 => {
                let count = input.number()?;
                let mut tails = Vec::new();
                for _ in 0..count {
                    // Grows with what is there, not with what the count claims.
                    tails.push(input.tail()?);
                }
                (tails.first()?.tail.base, Piece::Tails(tails))
            }
            _ => return None,
        };
        if state.pieces.insert(base, piece).is_some() {
            return None;
        }
    }
    for _ in 0..snapshots {
        let mut take = input.take(SNAPSHOT_BYTES)?;
        state.snapshots.push((take.number(), take.snapshot()));
    }
    for _ in 0..cut {
        state.cut.push(match input.number()? {
            1 => Cut::Sealed(input.held()?),
            2 => Cut::Tail(input.tail()?),
            _ => return None,
        });
    }
    input.bytes.is_empty().then_some(state)
}

struct Out(Vec<u8>);

impl Out {
    fn fixed(&mut self, len: usize, write: impl FnOnce(&mut Put<'_>)) {
        let at = self.0.len();
        self.0.resize(at + len, 0);
        let mut put = Put { bytes: &mut self.0[at..], at: 0 };
        write(&mut put);
        assert_eq!(put.at, len, "the layout at the head of this file");
    }

    fn number(&mut self, n: u64) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }

    fn held(&mut self, held: &Held) {
        self.fixed(HELD_BYTES, |put| {
            put.number(held.n).sealed(&held.sealed);
            put.number(held.to.0).number(held.to_offset.0);
        });
    }

    fn tail(&mut self, tail: &TailRef) {
        self.fixed(TAIL_BYTES, |put| {
            put.number(tail.n).hash(tail.hash);
            put.tail(&tail.tail);
            put.number(tail.to.0).number(tail.to_offset.0);
        });
    }
}

struct In<'a> {
    bytes: &'a [u8],
}

impl<'a> In<'a> {
    fn take(&mut self, len: usize) -> Option<Take<'a>> {
        let (bytes, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(Take { bytes, at: 0 })
    }

    fn number(&mut self) -> Option<u64> {
        self.take(8).map(|mut take| take.number())
    }

    fn held(&mut self) -> Option<Held> {
        let mut take = self.take(HELD_BYTES)?;
        Some(Held {
            n: take.number(),
            sealed: take.sealed(),
            to: LogByte(take.number()),
            to_offset: Offset(take.number()),
        })
    }

    fn tail(&mut self) -> Option<TailRef> {
        let mut take = self.take(TAIL_BYTES)?;
        Some(TailRef {
            n: take.number(),
            hash: take.hash(),
            tail: take.tail(),
            to: LogByte(take.number()),
            to_offset: Offset(take.number()),
        })
    }
}
