//! Places in the log: offset, log byte, epoch, position, fingerprint; and the 128-bit identities.
//!
//! Pure values; every layer above uses them and they use nothing. Invariants:
//! - an [`Offset`] counts records from 0, dense, never reset;
//! - a [`LogByte`] counts the bytes of all frames, control frames included, over all segments;
//! - a [`Position`] is ordered by epoch first, then log byte.

use std::fmt;
use std::str::FromStr;

/// A record's number in the log: dense, from 0, never reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl Offset {
    /// The offset `n` records later.
    pub fn plus(self, n: u64) -> Self {
        Offset(self.0 + n)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for Offset {
    fn from(n: u64) -> Self {
        Offset(n)
    }
}

/// A place in the log in bytes of frames, continuous over segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogByte(pub u64);

impl LogByte {
    /// The log byte `n` bytes later.
    pub fn plus(self, n: u64) -> Self {
        LogByte(self.0 + n)
    }
}

impl fmt::Display for LogByte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A leadership: a number that rises (gaps allowed) and a random nonce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Rises with every leadership.
    pub number: u64,
    /// Tells two leaderships of the same number apart.
    pub nonce: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}", self.number, self.nonce)
    }
}

/// A place in history, ordered by epoch first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The epoch of the frame that ends here.
    pub epoch: Epoch,
    /// Bytes of frames before this place.
    pub log_byte: LogByte,
    /// Records before this place.
    pub offset: Offset,
}

/// The two checksums of a frame: compares histories at a position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// The frame's header checksum.
    pub head_crc: u32,
    /// The frame's body checksum.
    pub body_crc: u32,
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{:08x}", self.head_crc, self.body_crc)
    }
}

impl FromStr for Fingerprint {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() != 16 || !text.is_ascii() {
            return Err(());
        }
        Ok(Fingerprint {
            head_crc: u32::from_str_radix(&text[..8], 16).map_err(drop)?,
            body_crc: u32::from_str_radix(&text[8..], 16).map_err(drop)?,
        })
    }
}

/// A random 128-bit identity: of a log, a node, or a producer. Shown as a uuid.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u8; 16]);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Written many times with each fetch and into every small file: not digit by digit.
        let (mut text, mut at) = ([b'-'; 36], 0);
        for (i, byte) in self.0.iter().enumerate() {
            at += usize::from(matches!(i, 4 | 6 | 8 | 10));
            text[at..at + 2].copy_from_slice(&hex_digits(*byte));
            at += 2;
        }
        f.write_str(std::str::from_utf8(&text).expect("digits"))
    }
}

/// The two lower-case hexadecimal digits of a byte.
pub(crate) fn hex_digits(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Id {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() != 36 {
            return Err(());
        }
        let (mut id, mut digits) = ([0; 16], 0);
        for byte in text.bytes() {
            let digit = match byte {
                b'-' => continue,
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                b'A'..=b'F' => byte - b'A' + 10,
                _ => return Err(()),
            };
            let place: &mut u8 = id.get_mut(digits / 2).ok_or(())?;
            *place = *place << 4 | digit;
            digits += 1;
        }
        if digits == 32 { Ok(Id(id)) } else { Err(()) }
    }
}

/// A place in a log's history that a client can hold on to: what it wrote, or has read.
///
/// Shown as `v1.<log>.<epoch>.<nonce>.<offset>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The log.
    pub log: Id,
    /// The epoch that appended the record.
    pub epoch: Epoch,
    /// The record's offset.
    pub offset: Offset,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Epoch { number, nonce } = self.epoch;
        write!(f, "v1.{}.{number}.{nonce:016x}.{}", self.log, self.offset)
    }
}

impl FromStr for Token {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.split('.').collect();
        let ["v1", log, number, nonce, offset] = parts[..] else { return Err(()) };
        Ok(Token {
            log: log.parse()?,
            epoch: Epoch {
                number: number.parse().map_err(drop)?,
                nonce: u64::from_str_radix(nonce, 16).map_err(drop)?,
            },
            offset: Offset(offset.parse().map_err(drop)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_ordered_by_epoch_first() {
        let at = |number, log_byte| Position {
            epoch: Epoch { number, nonce: 9 },
            log_byte: LogByte(log_byte),
            offset: Offset(0),
        };
        assert!(at(1, 900) < at(2, 100));
        assert!(at(2, 100) < at(2, 101));
    }

    #[test]
    fn a_token_reads_back_as_it_is_shown() {
        let token = Token {
            log: Id([1; 16]),
            epoch: Epoch { number: 2, nonce: u64::MAX },
            offset: Offset(7),
        };
        assert_eq!(token.to_string().parse(), Ok(token));
        for bad in ["", "v1", "v2.x.1.2.3", "v1.x.1.2.3"] {
            assert_eq!(bad.parse::<Token>(), Err(()));
        }
    }

    #[test]
    fn an_id_reads_back_as_it_is_shown() {
        let id = Id([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("not an id".parse::<Id>(), Err(()));
    }
}
