//! Names of objects in an archive: the one place that makes and reads them.
//!
//! ```text
//! data/<log byte, 20 digits>-<hash, 64 hex>.seg        a sealed segment, whole
//! log/<n, 20 digits>                                   an entry of the contested sequence
//! epoch/<number, 20 digits>                            who owns an epoch number
//! lease/<number, 20 digits>                            its owner's counter
//! snap/<hash, 64 hex>.run                              a run; several snapshots may name it
//! snap/<offset, 20 digits>-<epoch>-<nonce, 16 hex>/<hash, 64 hex>.snapshot   a snapshot's manifest
//! member/<uuid>                                        where a node of the cluster is found
//! paused                                               whether failover is
//! pin/<uuid>                                           keeps something from being pruned
//! probe/<uuid>                                         of the start-up probe; of no meaning
//! head                                                 a hint
//! ```
//!
//! Called by everything in the archive. Invariant: a name is parsed to numbers and must be exactly
//! what those numbers make again; anything else is none of ours and never reaches a path.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::position::{Id, LogByte};
use crate::table::SnapshotName;

/// The name of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectName {
    /// A sealed segment, named by where it begins and by its content.
    Data(LogByte, Hash),
    /// Entry `n` of the contested sequence.
    Log(u64),
    /// The owner of an epoch number.
    Epoch(u64),
    /// The counter of an epoch's owner.
    Lease(u64),
    /// A snapshot's manifest, named by where it stands and by its content.
    Manifest(SnapshotName, Hash),
    /// A run of snapshots, named by its content.
    Run(Hash),
    /// A node of the cluster.
    Member(Id),
    /// Whether failover is paused.
    Paused,
    /// A retention pin.
    Pin(Id),
    /// What the start-up probe races for.
    Probe(Id),
    /// The hint where the sequence ends.
    Head,
}

/// A BLAKE3 hash in a name.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

/// What objects can be listed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// Sealed segments.
    Data,
    /// The contested sequence.
    Log,
    /// Owners of epoch numbers.
    Epoch,
    /// Their counters.
    Lease,
    /// Nodes of the cluster.
    Member,
    /// Retention pins.
    Pin,
    /// Runs of snapshots.
    Run,
}

impl ObjectName {
    /// Reads a name; `None` unless it is exactly what [`Display`](fmt::Display) makes.
    pub fn parse(name: &str) -> Option<Self> {
        if name == "head" {
            return Some(ObjectName::Head);
        }
        if name == "paused" {
            return Some(ObjectName::Paused);
        }
        let (kind, rest) = name.split_once('/')?;
        match kind {
            "data" => {
                let (byte, hash) = rest.strip_suffix(".seg")?.split_once('-')?;
                Some(ObjectName::Data(LogByte(number(byte)?), Hash::parse(hash)?))
            }
            "log" => number(rest).map(ObjectName::Log),
            "epoch" => number(rest).map(ObjectName::Epoch),
            "lease" => number(rest).map(ObjectName::Lease),
            "snap" => match rest.split_once('/') {
                Some((snapshot, file)) => {
                    let hash = Hash::parse(file.strip_suffix(".snapshot")?)?;
                    Some(ObjectName::Manifest(snapshot.parse().ok()?, hash))
                }
                None => Some(ObjectName::Run(Hash::parse(rest.strip_suffix(".run")?)?)),
            },
            "member" => uuid(rest).map(ObjectName::Member),
            "pin" => uuid(rest).map(ObjectName::Pin),
            "probe" => uuid(rest).map(ObjectName::Probe),
            _ => None,
        }
    }

    /// The file of this object in an archive that is a directory.
    pub fn path(&self, root: &Path) -> PathBuf {
        let mut path = root.to_path_buf();
        path.extend(self.to_string().split('/'));
        path
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ObjectName::Data(byte, hash) => write!(f, "data/{:020}-{hash}.seg", byte.0),
            ObjectName::Log(n) => write!(f, "log/{n:020}"),
            ObjectName::Epoch(number) => write!(f, "epoch/{number:020}"),
            ObjectName::Lease(number) => write!(f, "lease/{number:020}"),
            ObjectName::Manifest(snapshot, hash) => write!(f, "snap/{snapshot}/{hash}.snapshot"),
            ObjectName::Run(hash) => write!(f, "snap/{hash}.run"),
            ObjectName::Member(id) => write!(f, "member/{id}"),
            ObjectName::Paused => f.write_str("paused"),
            ObjectName::Pin(id) => write!(f, "pin/{id}"),
            ObjectName::Probe(id) => write!(f, "probe/{id}"),
            ObjectName::Head => f.write_str("head"),
        }
    }
}

impl Prefix {
    /// Whether a name lies under it.
    pub fn holds(&self, name: &ObjectName) -> bool {
        matches!(
            (self, name),
            (Prefix::Data, ObjectName::Data(..))
                | (Prefix::Log, ObjectName::Log(_))
                | (Prefix::Epoch, ObjectName::Epoch(_))
                | (Prefix::Lease, ObjectName::Lease(_))
                | (Prefix::Member, ObjectName::Member(_))
                | (Prefix::Pin, ObjectName::Pin(_))
                | (Prefix::Run, ObjectName::Run(_))
        )
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Prefix::Data => f.write_str("data"),
            Prefix::Log => f.write_str("log"),
            Prefix::Epoch => f.write_str("epoch"),
            Prefix::Lease => f.write_str("lease"),
            Prefix::Member => f.write_str("member"),
            Prefix::Pin => f.write_str("pin"),
            Prefix::Run => f.write_str("snap"),
        }
    }
}

impl Hash {
    /// The hash of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Hash(*blake3::hash(bytes).as_bytes())
    }

    fn parse(text: &str) -> Option<Self> {
        if text.len() != 64 {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = hex(std::str::from_utf8(pair).ok()?, 2)?.try_into().ok()?;
        }
        Some(Hash(hash))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::log::scan::hex(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Exactly 20 decimal digits.
fn number(text: &str) -> Option<u64> {
    (text.len() == 20 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Exactly `digits` small hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u64> {
    let fits = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    fits.then(|| u64::from_str_radix(text, 16).ok())?
}

fn uuid(text: &str) -> Option<Id> {
    let id: Id = text.parse().ok()?;
    (id.to_string() == text).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Epoch, Offset};
    use proptest::prelude::*;

    fn samples() -> Vec<ObjectName> {
        let snapshot = SnapshotName {
            offset: Offset(u64::MAX),
            epoch: Epoch { number: 12, nonce: u64::MAX - 5 },
        };
        vec![
            ObjectName::Data(LogByte(7), Hash([0xab; 32])),
            ObjectName::Log(u64::MAX),
            ObjectName::Epoch(0),
            ObjectName::Lease(3),
            ObjectName::Manifest(snapshot, Hash([5; 32])),
            ObjectName::Run(Hash([9; 32])),
            ObjectName::Member(Id([0xde; 16])),
            ObjectName::Paused,
            ObjectName::Pin(Id([0xfe; 16])),
            ObjectName::Probe(Id([1; 16])),
            ObjectName::Head,
        ]
    }

    #[test]
    fn every_kind_of_name_reads_back() {
        for name in samples() {
            assert_eq!(ObjectName::parse(&name.to_string()), Some(name));
        }
        assert_eq!(samples()[0].to_string().len(), 5 + 20 + 1 + 64 + 4);
    }

    /// A hostile name: a good one bent, or pieces that mean something to a file system.
    fn hostile() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            "..",
            ".",
            "/",
            "//",
            "\\",
            "\0",
            "%2e%2e",
            "log",
            "data",
            "epoch",
            "snap",
            "head",
            "pin",
            "lease",
            "member",
            "paused",
            "\u{202e}",
            " ",
            "\n",
            "+",
            "-",
            "-1",
            "0x10",
            "~",
            "C:",
            "1",
            ".seg",
            ".run",
            "00000000000000000007",
            "99999999999999999999",
            "manifest.snapshot",
            "\u{ff10}",
        ]);
        let bent = (0..samples().len(), any::<prop::sample::Index>(), any::<char>(), 0..4u8);
        prop_oneof![
            prop::collection::vec(pieces, 1..7).prop_map(|pieces| pieces.concat()),
            bent.prop_map(|(which, at, with, how)| {
                let mut chars: Vec<char> = samples()[which].to_string().chars().collect();
                let at = at.index(chars.len());
                match how {
                    0 => chars[at] = with,
                    1 => chars.insert(at, with),
                    2 => drop(chars.remove(at)),
                    _ => chars.insert(0, '/'),
                }
                chars.into_iter().collect()
            }),
            any::<String>(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]
        #[test]
        fn ten_thousand_hostile_names_never_leave_the_directory(text in hostile()) {
            if let Some(name) = ObjectName::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
                let path = name.path(Path::new("/archive"));
                let below = path.strip_prefix("/archive").unwrap();
                prop_assert!(below.components().all(
                    |part| matches!(part, std::path::Component::Normal(_))
                ));
                prop_assert!(below.components().count() <= 3);
            }
        }
    }

    #[test]
    fn names_that_nearly_fit_are_refused() {
        let zeros = "0".repeat(64);
        for bad in [
            "".into(),
            "log/".into(),
            "log/1".into(),
            "log/+0000000000000000001".into(),
            "log/99999999999999999999".into(),
            "log/00000000000000000001/".into(),
            "/log/00000000000000000001".into(),
            "log/../00000000000000001".into(),
            "Log/00000000000000000001".into(),
            format!("data/00000000000000000001-{}.seg", "A".repeat(64)),
            format!("data/00000000000000000001-{zeros}.seg.tmp"),
            format!("snap/00000000000000000001-01-{}/{zeros}.snapshot", "0".repeat(16)),
            format!("snap/00000000000000000001-+1-{}/{zeros}.snapshot", "0".repeat(16)),
            format!("snap/00000000000000000001-1-{}/x.run", "0".repeat(16)),
            "pin/FEFEFEFE-fefe-fefe-fefe-fefefefefefe".into(),
            "pin/fefefefefefe-fefe-fefe-fefe-fefefefe".into(),
            "head/".into(),
            "heads".into(),
            "paused/".into(),
            "paused/00000000000000000001".into(),
            "Paused".into(),
            "member/".into(),
            "member/FEFEFEFE-fefe-fefe-fefe-fefefefefefe".into(),
            "member/fefefefe-fefe-fefe-fefe-fefefefefefe/".into(),
            "lease/1".into(),
            "lease/-0000000000000000001".into(),
        ] {
            let bad: String = bad;
            assert_eq!(ObjectName::parse(&bad), None, "{bad}");
        }
    }
}
