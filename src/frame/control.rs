//! Bodies of the control frames that replication writes: the synchronous set, and degraded spells.
//!
//! Written by `replica::leader`, copied by followers like any other frame. Pure; no I/O.
//!
//! ```text
//! sync_set   0 u8 mode  1 zeros  4 u32 k  8 u64 first  16 u64 second  24 u32 members  28 zeros
//!           32 members, 16 bytes each, rising
//! degraded   0 u8 what (0 begins, 1 ends)  1 zeros  8 u64 log byte
//! ```
//!
//! Invariants:
//! - what reads back is a set that may lead: members rise, k others among them for a mode with k;
//! - a body of another length, or with anything where zeros belong, is none.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use byteorder::{ByteOrder, LittleEndian as LE};

use crate::error::{Error, Kind, Result};
use crate::position::{Id, LogByte};

/// A set has at most this many members.
pub const MAX_MEMBERS: usize = 64;
const SET_HEAD: usize = 32;

/// What an acknowledgement means beyond the leader's own disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The leader's disk is enough; what was not shipped is lost with the leader.
    #[default]
    Async,
    /// As async, while what the k-th best member lacks is within both bounds.
    Bounded {
        /// How many members beside the leader are to be within the bounds.
        k: u32,
        /// The most bytes of frames that the k-th best of them lacks.
        bytes: u64,
        /// The longest time that it lacks them.
        within: Duration,
    },
    /// k members beside the leader, or after the time-out an acknowledgement that says `durable`.
    Semi {
        /// How many members beside the leader.
        k: u32,
        /// How long they are waited for.
        timeout: Duration,
    },
    /// k members beside the leader, however long that takes.
    Sync {
        /// How many members beside the leader.
        k: u32,
    },
    /// The archive holds it, however long that takes.
    Archive,
}

impl Mode {
    /// How many members beside the leader hold what is committed.
    pub fn commit_k(&self) -> usize {
        match *self {
            Mode::Async | Mode::Bounded { .. } | Mode::Archive => 0,
            Mode::Semi { k, .. } | Mode::Sync { k } => k as usize,
        }
    }

    /// Whether durable is not enough to be committed.
    pub fn holds_commits(&self) -> bool {
        self.commit_k() > 0 || *self == Mode::Archive
    }

    /// How many members beside the leader it asks for in any way.
    pub fn k(&self) -> usize {
        match *self {
            Mode::Async | Mode::Archive => 0,
            Mode::Bounded { k, .. } | Mode::Semi { k, .. } | Mode::Sync { k } => k as usize,
        }
    }

    /// Its name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Mode::Async => "async",
            Mode::Bounded { .. } => "bounded",
            Mode::Semi { .. } => "semi",
            Mode::Sync { .. } => "sync",
            Mode::Archive => "archive",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mode::Async => f.write_str("async"),
            Mode::Bounded { k, bytes, within } => {
                write!(f, "bounded:k={k},bytes={bytes},secs={}", Spelled(*within))
            }
            Mode::Semi { k, timeout } => write!(f, "semi:k={k},timeout={}", Spelled(*timeout)),
            Mode::Sync { k } => write!(f, "sync:k={k}"),
            Mode::Archive => f.write_str("archive"),
        }
    }
}

/// A duration in whole seconds, or in milliseconds.
struct Spelled(Duration);

impl fmt::Display for Spelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_nanos() {
            0 => write!(f, "{}s", self.0.as_secs()),
            _ => write!(f, "{}ms", self.0.as_millis()),
        }
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(
                Kind::InvalidInput,
                format!(
                    "expected async, bounded:k=1,bytes=1MiB,secs=5, semi:k=1,timeout=500ms, \
                     sync:k=1 or archive, found {text:?}"
                ),
            )
        };
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let mut fields = Vec::new();
        for part in rest.split(',').filter(|part| !part.is_empty()) {
            fields.push(part.split_once('=').ok_or_else(wrong)?);
        }
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        let field = |name: &str| {
            fields.iter().find(|(is, _)| *is == name).map(|(_, value)| *value).ok_or_else(wrong)
        };
        let k = || field("k")?.parse::<u32>().ok().filter(|k| *k > 0).ok_or_else(wrong);
        let mode = match (name, &names[..]) {
            ("async", []) => Mode::Async,
            ("archive", []) => Mode::Archive,
            ("bounded", [_, _, _]) => Mode::Bounded {
                k: k()?,
                bytes: size(field("bytes")?).ok_or_else(wrong)?,
                within: duration(field("secs")?).ok_or_else(wrong)?,
            },
            ("semi", [_, _]) => {
                Mode::Semi { k: k()?, timeout: duration(field("timeout")?).ok_or_else(wrong)? }
            }
            ("sync", [_]) => Mode::Sync { k: k()? },
            _ => return Err(wrong()),
        };
        Ok(mode)
    }
}

/// `4096`, `64KiB`, `1MiB`, `2GiB`.
fn size(text: &str) -> Option<u64> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("", 0)];
    let (number, shift) =
        units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
    number.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}

/// `5`, `5s`, `500ms`: at least a millisecond, at most a year.
fn duration(text: &str) -> Option<Duration> {
    let ms = match text.strip_suffix("ms") {
        Some(ms) => ms.parse().ok()?,
        None => text.strip_suffix('s').unwrap_or(text).parse::<u64>().ok()?.checked_mul(1000)?,
    };
    (1..=365 * 24 * 3_600_000).contains(&ms).then(|| Duration::from_millis(ms))
}

/// Body of a `sync_set` frame: who must hold what, from this frame on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncSet {
    /// What an acknowledgement means.
    pub mode: Mode,
    /// The members by node id, the leader among them; rising, each once.
    pub members: Vec<Id>,
}

impl SyncSet {
    /// A set of these members; refused when it has not k members beside the leader.
    pub fn new(mode: Mode, members: impl IntoIterator<Item = Id>) -> Result<Self> {
        let mut members: Vec<Id> = members.into_iter().collect();
        members.sort_unstable();
        members.dedup();
        let set = SyncSet { mode, members };
        let (k, have) = (set.mode.k(), set.members.len());
        if have > MAX_MEMBERS || k > 0 && have < k + 1 {
            return Err(Error::new(
                Kind::InvalidInput,
                format!(
                    "expected {} to {MAX_MEMBERS} members for {}, the leader among them, found {have}",
                    k + 1,
                    set.mode
                ),
            )
            .help("name followers by their node ids: `tidelog status URL` shows them"));
        }
        Ok(set)
    }

    /// Whether a node is a member.
    pub fn has(&self, node: Id) -> bool {
        self.members.binary_search(&node).is_ok()
    }

    /// Whether a node may lead by it: one that promises copies is led by a member.
    pub fn lets_lead(&self, node: Id) -> bool {
        self.mode.k() == 0 || self.has(node)
    }

    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (word, first, second) = match self.mode {
            Mode::Async => (0, 0, 0),
            Mode::Bounded { bytes, within, .. } => (1, bytes, ms(within)),
            Mode::Semi { timeout, .. } => (2, ms(timeout), 0),
            Mode::Sync { .. } => (3, 0, 0),
            Mode::Archive => (4, 0, 0),
        };
        let count = |n: usize| u32::try_from(n).expect("at most the limit of members");
        let mut body = vec![0; SET_HEAD];
        body[0] = word;
        LE::write_u32(&mut body[4..], count(self.mode.k()));
        LE::write_u64(&mut body[8..], first);
        LE::write_u64(&mut body[16..], second);
        LE::write_u32(&mut body[24..], count(self.members.len()));
        for member in &self.members {
            body.extend_from_slice(&member.0);
        }
        body
    }

    /// Reads a body back; `None` when it is none.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let (head, ids) = body.split_first_chunk::<SET_HEAD>()?;
        let (k, count) = (LE::read_u32(&head[4..]), LE::read_u32(&head[24..]));
        let (first, second) = (LE::read_u64(&head[8..]), LE::read_u64(&head[16..]));
        let members = usize::try_from(count).ok().filter(|count| *count <= MAX_MEMBERS)?;
        if head[1..4] != [0; 3] || head[28..] != [0; 4] || ids.len() != 16 * members {
            return None;
        }
        let mode = match head[0] {
            0 => Mode::Async,
            1 => Mode::Bounded { k, bytes: first, within: Duration::from_millis(second) },
            2 => Mode::Semi { k, timeout: Duration::from_millis(first) },
            3 => Mode::Sync { k },
            4 => Mode::Archive,
            _ => return None,
        };
        let (ids, _) = ids.as_chunks::<16>();
        let members: Vec<Id> = ids.iter().map(|id| Id(*id)).collect();
        let set = SyncSet::new(mode, members).ok()?;
        // What is read back says the same bytes again: nothing is left over or out of order.
        (set.mode.k() > 0 || matches!(mode, Mode::Async | Mode::Archive)).then_some(())?;
        (set.encode() == body).then_some(set)
    }
}

/// As it stands in `CONTROL`: the mode, then the members with commas, or `-`.
impl fmt::Display for SyncSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.mode)?;
        if self.members.is_empty() {
            return f.write_str("-");
        }
        for (i, member) in self.members.iter().enumerate() {
            write!(f, "{}{member}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl FromStr for SyncSet {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (mode, members) = text.split_once(' ').ok_or(())?;
        let members: Vec<Id> = match members {
            "-" => Vec::new(),
            ids => ids.split(',').map(str::parse).collect::<Result<_, _>>()?,
        };
        SyncSet::new(mode.parse().map_err(drop)?, members).map_err(drop)
    }
}

/// Body of a `degraded` frame: from where on, or up to where, acknowledgements said `durable` only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Degraded {
    /// Whether the spell begins here; otherwise it is over.
    pub begins: bool,
    /// Behind the last frame that was committed when it began; when it ends, behind the last one
    /// of the spell.
    pub at: LogByte,
}

impl Degraded {
    /// The body's bytes.
    pub fn encode(self) -> [u8; 16] {
        let mut body = [0; 16];
        body[0] = u8::from(!self.begins);
        LE::write_u64(&mut body[8..], self.at.0);
        body
    }

    /// Reads a body back; `None` when it is none.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let body: &[u8; 16] = body.try_into().ok()?;
        if body[0] > 1 || body[1..8] != [0; 7] {
            return None;
        }
        Some(Degraded { begins: body[0] == 0, at: LogByte(LE::read_u64(&body[8..])) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modes() -> [Mode; 5] {
        let timeout = Duration::from_millis(500);
        [
            Mode::Async,
            Mode::Bounded { k: 1, bytes: 1 << 20, within: Duration::from_secs(5) },
            Mode::Semi { k: 2, timeout },
            Mode::Sync { k: 1 },
            Mode::Archive,
        ]
    }

    fn members() -> Vec<Id> {
        (1..=3).map(|n| Id([n; 16])).collect()
    }

    #[test]
    fn sets_and_spells_read_back_and_nothing_else_does() {
        for mode in modes() {
            let set = SyncSet::new(mode, members()).unwrap();
            let body = set.encode();
            assert_eq!(SyncSet::decode(&body), Some(set.clone()));
            assert_eq!(set.to_string().parse(), Ok(set.clone()));
            assert_eq!(mode.to_string().parse::<Mode>().unwrap(), mode);
            for cut in 0..body.len() {
                assert_eq!(SyncSet::decode(&body[..cut]), None, "cut at {cut}");
            }
            for bit in 0..8 * body.len() {
                let mut bad = body.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(SyncSet::decode(&bad), Some(set.clone()), "bit {bit}");
            }
        }
        let none = SyncSet::default();
        assert_eq!(SyncSet::decode(&none.encode()), Some(none.clone()));
        assert_eq!(none.to_string().parse(), Ok(none));
        for begins in [true, false] {
            let spell = Degraded { begins, at: LogByte(u64::MAX) };
            assert_eq!(Degraded::decode(&spell.encode()), Some(spell));
        }
        assert_eq!(Degraded::decode(&[2; 16]), None);
        assert_eq!(Degraded::decode(&[0; 15]), None);
    }

    #[test]
    fn a_set_has_k_members_beside_the_leader() {
        let one = [Id([1; 16])];
        let two = [Id([2; 16]), Id([1; 16]), Id([2; 16])];
        assert!(SyncSet::new(Mode::Sync { k: 1 }, one).is_err());
        let set = SyncSet::new(Mode::Sync { k: 1 }, two).unwrap();
        assert_eq!(set.members, [Id([1; 16]), Id([2; 16])]);
        assert!(SyncSet::new(Mode::Sync { k: 2 }, two).is_err());
        assert!(SyncSet::new(Mode::Async, []).is_ok());
        // Out of order, twice, or k of nobody.
        for ids in [[2u8, 1], [1, 1]] {
            let mut body = set.encode();
            body[32..48].fill(ids[0]);
            body[48..64].fill(ids[1]);
            assert_eq!(SyncSet::decode(&body), None);
        }
        let mut body = set.encode();
        body[4] = 0;
        assert_eq!(SyncSet::decode(&body), None);
    }

    #[test]
    fn modes_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Mode>();
        assert_eq!(read("semi:timeout=2,k=1").unwrap().to_string(), "semi:k=1,timeout=2s");
        let bounded = "bounded:k=1,bytes=64KiB,secs=500ms";
        assert_eq!(read(bounded).unwrap().to_string(), "bounded:k=1,bytes=65536,secs=500ms");
        for bad in [
            "",
            "sync",
            "sync:k=0",
            "sync:k",
            "sync:k=1,k=1",
            "sync:k=-1",
            "async:k=1",
            "archive:k=1",
            "semi:k=1",
            "semi:k=1,timeout=0",
            "semi:k=1,timeout=1h",
            "bounded:k=1,bytes=0,secs=1",
            "quorum:k=1",
            "bounded:k=1,bytes=99999999999GiB,secs=1",
        ] {
            assert_eq!(read(bad).unwrap_err().kind(), Kind::InvalidInput, "{bad}");
        }
    }

    /// The document's hex dumps and the code are of one mind.
    #[test]
    fn the_format_document_shows_these_bytes() {
        let set = SyncSet::new(modes()[2], members()).unwrap().encode();
        let spell = Degraded { begins: true, at: LogByte(4096) }.encode();
        let document = std::fs::read_to_string("docs/FORMAT.md").unwrap();
        for body in [&set[..], &spell] {
            let (lines, _) = body.as_chunks::<16>();
            for (i, line) in lines.iter().enumerate() {
                let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
                let line = format!("{:06} {}", 16 * i, hex.join(" "));
                assert!(document.contains(&line), "{line}");
            }
        }
    }
}
