//! One damage, held against what clients were told.
//!
//! ```text
//! fixture ─ copy, damage ─┬─ open read-only, read, get, seek, verify          is it reported?
//!                         ├─ open for writing, read, append                   is anything cut?
//!                         ├─ Recovery::ReadOnly                               is it readable?
//!                         └─ repair (or Salvage), verify, read, append, reopen  is it mended?
//! ```
//! Violations: a panic; a record that was never appended at its offset; damage that nobody
//! reports; a read that fails where only derived data is damaged; damage of `STATE` that keeps a log from opening;
//! damage of `SLOTS` that keeps a log from opening or reading, that is not named, or that retention does not stop at; acknowledged records that an
//! open for writing cuts off; a repair that loses a record
//! whose frame is whole, or leaves a log that does not open, append, reopen and verify.

use std::path::Path;

use tidelog::fs::sim::Sim;
use tidelog::log::{Claim, Level, OpenReport, Retention, VerifyReport, repair_on, verify_on};
use tidelog::{Kind, Log, Offset, Record, Recovery};

use crate::dice::Dice;

use super::damage::Damage;
use super::fixture::{DIR, Fixture, is_segment};
use super::harmless;

/// What became of one damage.
#[derive(Default)]
pub struct Outcome {
    /// What is on the damaged disk, in short.
    pub disk: u64,
    pub by_open: bool,
    pub by_read: bool,
    pub by_verify: bool,
    pub harmless: Option<&'static str>,
    /// The last durable group, with no evidence behind it, was taken for a torn tail.
    pub residual: bool,
    /// Records and what proves that there were any were damaged at once.
    pub with_evidence: bool,
    pub records_read: u64,
    pub repaired: bool,
    pub records_kept: u64,
    pub records_lost: u64,
}

/// What an undamaged fixture says of itself: anything else is a report.
pub struct Baseline {
    open: Said,
    verify: VerifyReport,
}

#[derive(PartialEq, Eq)]
struct Said {
    segments: usize,
    durable: u64,
    end: u64,
    bytes_cut: u64,
    clean: bool,
    findings: Vec<String>,
}

impl Said {
    fn of(report: &OpenReport) -> Self {
        Said {
            segments: report.segments,
            durable: report.durable.0,
            end: report.end.0,
            bytes_cut: report.bytes_cut,
            clean: report.clean,
            findings: report.findings.clone(),
        }
    }
}

impl Baseline {
    /// Of this fixture.
    pub fn of(fixture: &Fixture) -> Result<Self, String> {
        let disk = fixture.disk.deep_copy();
        let say = |e: tidelog::Error| format!("{} before any damage: {e}", fixture.name);
        let log = Fixture::options(&disk).read_only(true).open(DIR).map_err(say)?;
        let verify = verify(&disk).map_err(say)?;
        if !verify.problems.is_empty() {
            return Err(format!("{} before any damage: {:?}", fixture.name, verify.problems));
        }
        Ok(Baseline { open: Said::of(log.report()), verify })
    }
}

/// Does the damage to a copy, and looks at it from every side; one in `mend_every` is repaired, too.
pub fn check(
    fixture: &Fixture,
    base: &Baseline,
    damage: &Damage,
    mend_every: u64,
) -> Result<Outcome, String> {
    let chance = hash(&damage.to_string());
    let case = Case { fixture, damage, image: fixture.disk.deep_copy() };
    damage.apply(&case.image, fixture);
    let mut dice = Dice::new(fixture.seed ^ chance);
    let mut outcome = Outcome { disk: disk(&case.image), ..Outcome::default() };
    let intact = case.look(base, &mut dice, &mut outcome)?;
    case.write(&mut dice, &mut outcome)?;
    if Dice::new(chance).below(mend_every.max(1)) == 0 {
        case.repair(&mut dice, &mut outcome)?;
    }
    if !(outcome.by_open || outcome.by_read || outcome.by_verify) {
        outcome.harmless = harmless::reason(fixture, damage);
        if !intact {
            return Err("acknowledged records are missing and nobody reports it".into());
        }
        if outcome.harmless.is_none() {
            return Err("nobody reports it: open, read and verify find nothing".into());
        }
    }
    Ok(outcome)
}

/// What is on it, in short.
pub fn disk(disk: &Sim) -> u64 {
    (disk.durable_hash() >> 64) as u64
}

struct Case<'a> {
    fixture: &'a Fixture,
    damage: &'a Damage,
    image: Sim,
}

/// What reading from the start gave.
struct Reading {
    /// Whether each offset was given, from the fixture's start on.
    right: Vec<bool>,
    /// Offsets that were reported as lost.
    lost: Vec<(u64, u64)>,
    error: Option<tidelog::Error>,
    start: u64,
    end: u64,
}

impl Reading {
    fn is_right(&self, offset: u64, from: u64) -> bool {
        offset
            .checked_sub(from)
            .and_then(|i| self.right.get(usize::try_from(i).ok()?))
            .is_some_and(|right| *right)
    }

    fn is_lost(&self, offset: u64) -> bool {
        self.lost.iter().any(|(from, to)| (*from..*to).contains(&offset))
    }
}

impl Case<'_> {
    /// Reads without writing; whether everything acknowledged was there.
    fn look(
        &self,
        base: &Baseline,
        dice: &mut Dice,
        outcome: &mut Outcome,
    ) -> Result<bool, String> {
        let disk = self.image.deep_copy();
        let opened = Fixture::options(&disk).read_only(true).map(dice.chance(1, 2)).open(DIR);
        let (mut intact, mut slots_hold) = (false, true);
        match opened {
            Err(e) if self.is_about_slots() => return Err(format!("SLOTS blocks the log: {e}")),
            Err(e) if self.is_about_state() => return Err(format!("STATE blocks the log: {e}")),
            Err(_) => outcome.by_open = true,
            Ok(log) => {
                outcome.by_open |= Said::of(log.report()) != base.open;
                let read = self.read(&log, None).map_err(|e| format!("read-only: {e}"))?;
                let (gets, failed) = self.gets(&log, dice)?;
                let failed = failed || read.error.is_some() || !read.lost.is_empty();
                if failed && self.is_derived() {
                    return Err(format!(
                        "damage behind the frames, but a read fails: {:?}",
                        read.error
                    ));
                }
                outcome.by_read |= failed;
                outcome.records_read += read.right.iter().filter(|r| **r).count() as u64 + gets;
                intact = self.acknowledged().all(|o| read.is_right(o, self.fixture.start));
                if self.is_about_slots() && (failed || !intact) {
                    return Err(format!("SLOTS is damaged, but a read fails: {:?}", read.error));
                }
                slots_hold = self.slots(&disk, &log)?;
            }
        }
        let verified = match verify(&disk) {
            Ok(report) => {
                if !slots_hold && !report.problems.iter().any(|p| p.file.ends_with("SLOTS")) {
                    return Err(format!("verify does not name SLOTS: {:?}", report.problems));
                }
                !report.problems.is_empty()
                    || report.notes != base.verify.notes
                    || report.records != base.verify.records
            }
            Err(_) => true,
        };
        outcome.by_verify |= verified;
        Ok(intact)
    }

    /// Opens for writing, as after any restart.
    fn write(&self, dice: &mut Dice, outcome: &mut Outcome) -> Result<(), String> {
        let recovery = if dice.chance(1, 4) { Recovery::ReadOnly } else { Recovery::Refuse };
        let disk = self.image.deep_copy();
        let options = Fixture::options(&disk).create(false).recovery(recovery);
        let log = match options.open(DIR) {
            Ok(log) => log,
            Err(e) if self.is_about_slots() => return Err(format!("SLOTS blocks the log: {e}")),
            Err(e) if self.is_about_state() => return Err(format!("STATE blocks the log: {e}")),
            Err(_) => {
                outcome.by_open = true;
                return Ok(());
            }
        };
        let read = self.read(&log, None).map_err(|e| format!("{recovery:?}: {e}"))?;
        outcome.by_read |= read.error.is_some();
        let again = log.append(&Record::event(b"behind the damage"));
        match again {
            Ok(appended) if appended.first.0 != read.end => {
                return Err(format!("appended at {}, read up to {}", appended.first, read.end));
            }
            Ok(_) => {}
            Err(e) if recovery == Recovery::ReadOnly && e.kind() == Kind::Corrupt => {
                outcome.by_open = true;
                return Ok(());
            }
            Err(e) => return Err(format!("opened for writing, but an append failed: {e}")),
        }
        // Unreadable slots hold everything, and nothing else does.
        let slots_hold = self.slots(&disk, &log)?;
        let plan = Retention {
            keep_bytes: Some(1),
            table_is_only_copy: true,
            dry_run: true,
            ..Retention::default()
        };
        match log.retain(&plan) {
            Ok(_) if !slots_hold => return Err("retention passes over unreadable slots".into()),
            Err(e) if self.is_about_slots() && slots_hold => {
                return Err(format!("the slots hold, but retention says {e}"));
            }
            _ => {}
        }
        // It goes on: then nothing acknowledged may be gone without an error at its place.
        let cut = self.acknowledged().find(|offset| *offset >= read.end);
        if let Some(cut) = cut {
            let unproven = cut >= self.fixture.unproven_from;
            if !unproven {
                return Err(format!(
                    "opened for writing at {} and cut acknowledged records from {cut} on",
                    read.end
                ));
            }
            outcome.by_open |= log.report().bytes_cut > 0 || !log.report().findings.is_empty();
            outcome.residual = true;
        }
        if read.error.is_none() {
            let missing = self.acknowledged().filter(|o| *o < read.end);
            let mut missing =
                missing.filter(|o| !read.is_right(*o, self.fixture.start) && !read.is_lost(*o));
            if let Some(offset) = missing.next() {
                return Err(format!("opened for writing, offset {offset} is not there, no error"));
            }
        }
        log.close().map_err(|e| format!("closing after an append: {e}"))
    }

    /// Repairs a copy; what is whole must be there, and the log must go on.
    fn repair(&self, dice: &mut Dice, outcome: &mut Outcome) -> Result<(), String> {
        let disk = self.image.deep_copy();
        // Opening looks at no slots, so it mends none.
        let salvage = dice.chance(1, 3) && !self.damages_slots();
        let how = if salvage { "Salvage" } else { "repair" };
        let options = || Fixture::options(&disk).create(false);
        let log = if salvage {
            // Identity comes before repair: a directory without its node is not written to.
            match options().recovery(Recovery::Salvage).open(DIR) {
                Err(_) if self.damages_identity() => return Ok(()),
                other => other,
            }
        } else {
            let report = repair_on(&disk.shared(), Path::new(DIR), false)
                .map_err(|e| format!("repair: {e}"))?;
            outcome.repaired = !report.actions.is_empty();
            healthy(&disk).map_err(|e| format!("after repair {:?}: {e}", report.actions))?;
            options().open(DIR)
        };
        let log = log.map_err(|e| format!("{how}, then open: {e}"))?;
        outcome.repaired |= salvage;
        let read = self.read(&log, None).map_err(|e| format!("{how}, then read: {e}"))?;
        if let Some(error) = &read.error {
            return Err(format!("{how}, then read: {error}"));
        }
        self.kept(&read, outcome).map_err(|e| format!("{how}: {e}"))?;
        self.gets(&log, dice).map_err(|e| format!("{how}: {e}"))?;
        if !self.slots(&disk, &log).map_err(|e| format!("{how}: {e}"))? {
            return Err(format!("{how}: the slots still cannot be read"));
        }
        let last = self.last_records(dice);
        let appended = log.append(&last).map_err(|e| format!("{how}, then append: {e}"))?;
        if appended.first.0 != read.end {
            return Err(format!("{how}: appended at {}, end {}", appended.first, read.end));
        }
        log.close().map_err(|e| format!("{how}, append, then close: {e}"))?;
        let log = options()
            .read_only(true)
            .open(DIR)
            .map_err(|e| format!("{how}, append, then reopen: {e}"))?;
        if !log.report().clean || log.end() != appended.first.plus(1) {
            return Err(format!("{how}, append, then reopen: {:?}", log.report()));
        }
        let again = self
            .read(&log, Some((appended.first.0, last.value)))
            .map_err(|e| format!("{how}, append, reopen, then read: {e}"))?;
        if again.error.is_some() || again.right[..read.right.len()] != read.right[..] {
            return Err(format!("{how}, append, then reopen: it reads otherwise"));
        }
        healthy(&disk).map_err(|e| format!("{how}, append, close: {e}"))
    }

    /// Whether only what follows from the frames is damaged: SEAL, producers, index, footer. That
    /// may cost time, and never a record.
    fn is_derived(&self) -> bool {
        let touched = self.damage.touches(self.damage.file());
        matches!(self.damage, Damage::Flip { .. } | Damage::Zero { .. })
            && self.fixture.segments.iter().any(|segment| {
                segment.path == self.damage.file() && segment.sealed && touched.start >= segment.end
            })
    }

    /// Whether the slots can be read, and then are what was claimed; a file that is gone holds
    /// nothing. What cannot be read is an error that names the file.
    fn slots(&self, disk: &Sim, log: &Log) -> Result<bool, String> {
        match log.slots() {
            Ok(found) => {
                let found: Vec<Claim> = found.into_iter().map(|slot| slot.claim).collect();
                let gone = !disk.paths().iter().any(|path| path.ends_with("SLOTS"));
                match found == self.fixture.slots || gone && found.is_empty() {
                    true => Ok(true),
                    false => Err(format!("the slots are not what was claimed: {found:?}")),
                }
            }
            Err(e) if e.file().is_some_and(|file| file.ends_with("SLOTS")) => Ok(false),
            Err(e) => Err(format!("an error of the slots that does not name them: {e}")),
        }
    }

    /// Whether nothing but the slots is damaged.
    fn is_about_slots(&self) -> bool {
        self.damages_slots() && !matches!(self.damage, Damage::Swap { .. })
    }

    /// Of `STATE`, a hint, nothing is believed that does not hold.
    fn is_about_state(&self) -> bool {
        self.damage.file().ends_with("STATE") && !matches!(self.damage, Damage::Swap { .. })
    }

    fn damages_slots(&self) -> bool {
        let named = |path: &Path| path.ends_with("SLOTS");
        match self.damage {
            Damage::Swap { a, b } => named(a) || named(b),
            other => named(other.file()),
        }
    }

    fn damages_identity(&self) -> bool {
        let named = |path: &Path| path.ends_with("NODE") || path.ends_with("LOG");
        match self.damage {
            Damage::Swap { a, b } => named(a) || named(b),
            other => named(other.file()),
        }
    }

    /// Whether records and what proves that there were any are gone at once. Then repair says
    /// which files it set aside, and cannot say which offsets were in them.
    fn destroys_evidence(&self) -> bool {
        let proves =
            |path: &Path| ["CONTROL", "STATE", "EPOCHS"].iter().any(|name| path.ends_with(name));
        matches!(self.damage, Damage::Swap { a, b } if proves(a) && is_segment(b))
    }

    /// Everything in an untouched frame is there; everything else acknowledged is put on record.
    fn kept(&self, read: &Reading, outcome: &mut Outcome) -> Result<(), String> {
        let fixture = self.fixture;
        for offset in self.acknowledged() {
            if read.is_right(offset, fixture.start) {
                outcome.records_kept += 1;
                continue;
            }
            if self.is_whole(offset) {
                return Err(format!("offset {offset} was whole and is gone"));
            }
            outcome.records_lost += 1;
            let unproven = offset >= fixture.unproven_from || self.destroys_evidence();
            if !read.is_lost(offset) && !unproven {
                return Err(format!("offset {offset} is gone and not on record as lost"));
            }
            if !read.is_lost(offset) {
                outcome.residual |= offset >= fixture.unproven_from;
                outcome.with_evidence |= offset < fixture.unproven_from;
            }
        }
        Ok(())
    }

    /// Whether the frame of a record, and what is needed to read it, is as it was.
    fn is_whole(&self, offset: u64) -> bool {
        self.fixture.segments.iter().any(|segment| {
            let touched = self.damage.touches(&segment.path);
            // The salt of an active segment stands nowhere else: with its sector all is lost. One
            // flipped bit of it is found again.
            let salt_lost = !segment.sealed
                && !touched.is_empty()
                && matches!(self.damage, Damage::Zero { sector: 0, .. });
            !salt_lost
                && segment.spans.iter().any(|span| {
                    (span.first..span.first + span.count).contains(&offset)
                        && (touched.end <= span.from || touched.start >= span.to)
                })
        })
    }

    fn acknowledged(&self) -> std::ops::Range<u64> {
        self.fixture.start..self.fixture.acknowledged
    }

    /// Reads from the start; any record given must be the one appended there. `further` is a
    /// record appended since.
    fn read(&self, log: &Log, further: Option<(u64, &[u8])>) -> Result<Reading, String> {
        let mut reading = Reading {
            right: Vec::new(),
            lost: Vec::new(),
            error: None,
            start: log.start().0,
            end: log.end().0,
        };
        let mut cursor = match log.read(log.start()) {
            Ok(cursor) => cursor,
            Err(error) => {
                reading.error = Some(error);
                return Ok(reading);
            }
        };
        if reading.start < self.fixture.start {
            return Err(format!("the log starts at {}, dropped before", reading.start));
        }
        loop {
            let before = cursor.offset().0;
            match cursor.next() {
                Ok(Some(entry)) => {
                    let offset = entry.offset.0;
                    let right = match further {
                        Some((at, value)) if at == offset => entry.record.value == value,
                        _ => self.told(offset).is_some_and(|told| told.is(&entry)),
                    };
                    if !right || offset < before {
                        return Err(format!("a wrong record at offset {offset}: {entry:?}"));
                    }
                    let i = usize::try_from(offset - self.fixture.start).expect("few");
                    reading.right.resize(reading.right.len().max(i + 1), false);
                    reading.right[i] = true;
                }
                Ok(None) => break,
                Err(e) if e.kind() == Kind::Lost => reading.lost.push((before, cursor.offset().0)),
                Err(e) => {
                    reading.error = Some(e);
                    break;
                }
            }
        }
        Ok(reading)
    }

    fn told(&self, offset: u64) -> Option<&crate::told::Told> {
        self.fixture.told.get(usize::try_from(offset).ok()?)
    }

    /// Random reads and searches by time: right, or an error. Returns how many records they gave,
    /// and whether one failed.
    fn gets(&self, log: &Log, dice: &mut Dice) -> Result<(u64, bool), String> {
        let fixture = self.fixture;
        let (mut given, mut failed) = (0, false);
        for _ in 0..3 {
            let offset = fixture.start + dice.below(fixture.told.len() as u64 - fixture.start);
            match log.get(Offset(offset)) {
                Ok(Some(entry)) => {
                    let wrong = entry.offset.0 != offset
                        || self.told(offset).is_none_or(|told| !told.is(&entry.as_entry()));
                    if wrong && offset < fixture.acknowledged {
                        return Err(format!("get({offset}) gave a wrong record: {entry:?}"));
                    }
                    given += 1;
                }
                Ok(None) => {}
                Err(_) => failed = true,
            }
        }
        let of = fixture.start + dice.below(fixture.acknowledged - fixture.start);
        let time = self.told(of).and_then(|told| told.timestamp).unwrap_or(0) + 1
            - i64::try_from(dice.below(3)).expect("small");
        match log.seek_time(time) {
            Ok(found) => self.sought(log, time, found.0)?,
            Err(_) => failed = true,
        }
        Ok((given, failed))
    }

    /// A search by time leads to the first record that is new enough, of those that are there.
    fn sought(&self, log: &Log, time: i64, found: u64) -> Result<(), String> {
        let new = |offset: &u64| {
            self.told(*offset).and_then(|told| told.timestamp).is_some_and(|at| at >= time)
        };
        let earlier = (log.start().0..found.min(self.fixture.acknowledged)).find(new);
        // One that is earlier must be one that is lost.
        let skipped = earlier.filter(|offset| matches!(log.get(Offset(*offset)), Ok(Some(_))));
        let wrong = found < log.end().0 && found < self.fixture.acknowledged && !new(&found);
        if wrong || skipped.is_some() {
            return Err(format!("seek_time({time}) gave {found}, earlier there is {skipped:?}"));
        }
        Ok(())
    }

    /// Something recognisable to append.
    fn last_records(&self, dice: &mut Dice) -> Record<'static> {
        match dice.chance(1, 2) {
            true => Record::put(b"after", b"repair, an append"),
            false => Record::event(b"repair, an event"),
        }
    }
}

fn verify(disk: &Sim) -> tidelog::Result<VerifyReport> {
    verify_on(&disk.shared(), Path::new(DIR), Level::Full)
}

/// Nothing is left to complain about.
fn healthy(disk: &Sim) -> Result<(), String> {
    let report = verify(disk).map_err(|e| format!("verify: {e}"))?;
    match report.problems.first() {
        None => Ok(()),
        Some(problem) => Err(format!("verify still finds {problem:?}")),
    }
}

fn hash(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}
