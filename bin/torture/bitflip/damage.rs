//! What is done to a fixture's files, one thing at a time.
//!
//! Invariants: a damage changes the disk (what would change nothing is not listed), and is the
//! same for the same fixture, so that its text is enough to do it again.

use std::fmt;
use std::path::{Path, PathBuf};

use tidelog::fs::sim::Sim;

use crate::dice::Dice;

use super::fixture::{Fixture, is_segment};

const SECTOR_BYTES: u64 = 512;

/// One damage to one file, or to two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    Flip {
        file: PathBuf,
        bit: u64,
    },
    Truncate {
        file: PathBuf,
        len: u64,
    },
    Zero {
        file: PathBuf,
        sector: u64,
    },
    Remove {
        file: PathBuf,
    },
    Copy {
        file: PathBuf,
        to: PathBuf,
    },
    Rename {
        file: PathBuf,
        to: PathBuf,
    },
    Swap {
        a: PathBuf,
        b: PathBuf,
    },
    /// The file of the same name of another log.
    Foreign {
        file: PathBuf,
        number: usize,
    },
}

impl Damage {
    /// Does it.
    pub fn apply(&self, disk: &Sim, fixture: &Fixture) {
        match self {
            Damage::Flip { file, bit } => disk.flip(file, *bit),
            Damage::Truncate { file, len } => disk.truncate(file, *len),
            Damage::Zero { file, sector } => {
                let mut bytes = disk.read(file);
                let range = sector_range(*sector, &bytes);
                bytes[range].fill(0);
                disk.write(file, &bytes);
            }
            Damage::Remove { file } => disk.remove(file),
            Damage::Copy { file, to } => disk.write(to, &disk.read(file)),
            Damage::Rename { file, to } => disk.rename_durable(file, to),
            Damage::Swap { a, b } => {
                let (x, y) = (disk.read(a), disk.read(b));
                disk.write(a, &y);
                disk.write(b, &x);
            }
            Damage::Foreign { file, number } => disk.write(file, &fixture.foreign[*number].1),
        }
    }

    /// Which of `file`'s bytes it takes away or changes.
    pub fn touches(&self, file: &Path) -> std::ops::Range<u64> {
        let whole = 0..u64::MAX;
        match self {
            Damage::Flip { file: f, bit } if f == file => bit / 8..bit / 8 + 1,
            Damage::Truncate { file: f, len } if f == file => *len..u64::MAX,
            Damage::Zero { file: f, sector } if f == file => {
                sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES
            }
            Damage::Remove { file: f } | Damage::Foreign { file: f, .. } if f == file => whole,
            // A segment under another segment's name says itself where it belongs.
            Damage::Rename { file: f, to } if f == file && !is_segment(to) => whole,
            Damage::Swap { a, b }
                if (a == file || b == file) && !(is_segment(a) && is_segment(b)) =>
            {
                whole
            }
            _ => 0..0,
        }
    }

    /// The file it is about.
    pub fn file(&self) -> &Path {
        match self {
            Damage::Flip { file, .. }
            | Damage::Truncate { file, .. }
            | Damage::Zero { file, .. }
            | Damage::Remove { file }
            | Damage::Copy { file, .. }
            | Damage::Rename { file, .. }
            | Damage::Foreign { file, .. } => file,
            Damage::Swap { a, .. } => a,
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Flip { file, bit } => write!(
                f,
                "flip bit {bit} (byte {}, bit {}) of {}",
                bit / 8,
                bit % 8,
                file.display()
            ),
            Damage::Truncate { file, len } => write!(f, "cut {} to {len} bytes", file.display()),
            Damage::Zero { file, sector } => {
                write!(f, "zero the {SECTOR_BYTES} bytes of sector {sector} of {}", file.display())
            }
            Damage::Remove { file } => write!(f, "remove {}", file.display()),
            Damage::Copy { file, to } => {
                write!(f, "copy {} to {}", file.display(), to.display())
            }
            Damage::Rename { file, to } => {
                write!(f, "rename {} to {}", file.display(), to.display())
            }
            Damage::Swap { a, b } => write!(f, "swap {} and {}", a.display(), b.display()),
            Damage::Foreign { file, .. } => {
                write!(f, "replace {} by that of another log", file.display())
            }
        }
    }
}

/// Every truncation, zeroed sector and operation on whole files; `every` thins out the lengths of
/// truncations.
pub fn coarse(fixture: &Fixture, every: u64) -> Vec<Damage> {
    let mut found = Vec::new();
    let names: Vec<&PathBuf> = fixture.files.iter().map(|(file, _)| file).collect();
    for (file, len) in &fixture.files {
        // The phase is the fixture's: campaigns over many seeds come to every length.
        let phase = fixture.seed % every;
        let lengths = (0..*len).filter(|n| n % every == phase || *n == 0 || n + 1 == *len);
        found.extend(lengths.map(|len| Damage::Truncate { file: file.clone(), len }));
        let bytes = fixture.disk.read(file);
        for sector in 0..len.div_ceil(SECTOR_BYTES) {
            if bytes[sector_range(sector, &bytes)].iter().any(|&b| b != 0) {
                found.push(Damage::Zero { file: file.clone(), sector });
            }
        }
        found.push(Damage::Remove { file: file.clone() });
        let mut others = vec![file.with_extension("old")];
        if let Some(base) = segment_base(file) {
            for next in [base + 8, base + len, fixture.segments.len() as u64 * (1 << 20)] {
                others.push(file.with_file_name(format!("{next:020}.seg")));
            }
        }
        for to in others.into_iter().filter(|to| !names.contains(&to)) {
            found.push(Damage::Copy { file: file.clone(), to: to.clone() });
            found.push(Damage::Rename { file: file.clone(), to });
        }
        for other in names.iter().filter(|other| **other > file) {
            if fixture.disk.read(other) != bytes {
                found.push(Damage::Swap { a: file.clone(), b: other.to_path_buf() });
            }
        }
        // A segment's twin may start elsewhere, and so have another name.
        for (number, (other, content)) in fixture.foreign.iter().enumerate() {
            let fits = other == file || is_segment(other) && is_segment(file);
            if fits && *content != bytes {
                found.push(Damage::Foreign { file: file.clone(), number });
            }
        }
    }
    found
}

/// Which bits of each file to flip when there is room for `budget` flips: short files wholly; of
/// long ones mostly those near bytes that are not zero, evenly.
pub fn bits(fixture: &Fixture, budget: u64) -> Vec<(usize, Vec<u64>)> {
    let mut order: Vec<usize> = (0..fixture.files.len()).collect();
    order.sort_by_key(|&i| fixture.files[i].1);
    let (mut left, mut found) = (budget, Vec::new());
    for (done, &i) in order.iter().enumerate() {
        let (file, len) = &fixture.files[i];
        let share = left / (order.len() - done) as u64;
        let take = (len * 8).min(share);
        left -= take;
        if take == len * 8 {
            found.push((i, (0..take).collect()));
        } else {
            let mut dice = Dice::new(fixture.seed ^ i as u64);
            found.push((i, sample(&fixture.disk.read(file), take, &mut dice)));
        }
    }
    found
}

/// `take` bits, one in eight of them from lines that hold nothing but zeros.
fn sample(bytes: &[u8], take: u64, dice: &mut Dice) -> Vec<u64> {
    const LINE_BYTES: usize = 32;
    let (mut busy, mut idle) = (Vec::new(), Vec::new());
    for (number, line) in bytes.chunks(LINE_BYTES).enumerate() {
        let from = (number * LINE_BYTES * 8) as u64;
        let lines = if line.iter().all(|&b| b == 0) { &mut idle } else { &mut busy };
        lines.extend(from..from + line.len() as u64 * 8);
    }
    let of_idle = (take / 8).min(idle.len() as u64);
    let of_busy = (take - of_idle).min(busy.len() as u64);
    let mut found = spread(&busy, of_busy, dice);
    found.extend(spread(&idle, (take - of_busy).min(idle.len() as u64), dice));
    found
}

/// One in each of `take` equal parts.
fn spread(of: &[u64], take: u64, dice: &mut Dice) -> Vec<u64> {
    let all = of.len() as u64;
    let at = |n: u64| n * all / take;
    let one = |n: u64, dice: &mut Dice| at(n) + dice.below(at(n + 1) - at(n));
    (0..take).map(|n| of[usize::try_from(one(n, dice)).expect("an index")]).collect()
}

fn sector_range(sector: u64, bytes: &[u8]) -> std::ops::Range<usize> {
    let from = usize::try_from(sector * SECTOR_BYTES).expect("a short file");
    from..(from + 512).min(bytes.len())
}

fn segment_base(file: &Path) -> Option<u64> {
    is_segment(file).then(|| file.file_stem()?.to_str()?.parse().ok()).flatten()
}
