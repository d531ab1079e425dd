//! Power cuts in the middle of a repair: nothing that was whole may be lost by them.
//!
//! The base is a closed log that was damaged. An uncut repair of a copy says which offsets that took; only frames whose
//! bytes are no longer where they were before may be among them. A repair that was cut and then run again must take no
//! others, and damaged bytes must be in quarantine as if nothing had happened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidelog::Durability;
use tidelog::frame::FrameKind;
use tidelog::fs::sim::Sim;
use tidelog::fs::{Fs, Open};
use tidelog::log::repair_on;
use tidelog::segment::{SegmentHeader, Tally, Window, walk};

use super::stage::{DIR, Plan, Stage, Step};
use super::told::{Dice, Told};
use super::workloads::settled;

/// A segment's header.
const HEAD: usize = 4096;

/// A log of a few segments with damage in some of them.
pub fn damaged(plan: Plan, dice: &mut Dice) -> (Sim, Told) {
    loop {
        let (sim, mut told) = whole(plan, dice);
        let frames = frames(&sim);
        for _ in 0..dice.between(1, 3) {
            strike(&sim, dice);
        }
        let fs: Arc<dyn Fs> = sim.deep_copy().shared();
        // What cannot be repaired at all is another test's business.
        if let Ok(report) = repair_on(&fs, Path::new(DIR), false)
            && !report.actions.is_empty()
        {
            told.lost = within(&report.lost, &struck(&frames, &sim));
            return (sim, told);
        }
    }
}

/// A frame of records, as it was written.
struct Frame {
    file: PathBuf,
    from: usize,
    bytes: Vec<u8>,
    /// The header of its segment, without which nobody can tell that it is one.
    head: Vec<u8>,
    offsets: (u64, u64),
}

impl Frame {
    /// Whether its bytes are where they were, with all that is needed to know them: one flipped bit of the header is
    /// found again, more is not.
    fn is_whole(&self, sim: &Sim) -> bool {
        if !sim.exists(&self.file) {
            return false;
        }
        let now = sim.read(&self.file);
        let head = now.get(..self.head.len()).unwrap_or_default();
        let flipped: u32 = head.iter().zip(&self.head).map(|(a, b)| (a ^ b).count_ones()).sum();
        head.len() == self.head.len()
            && flipped <= 1
            && now.get(self.from..self.from + self.bytes.len()) == Some(&self.bytes[..])
    }
}

/// What of these runs lies in those.
fn within(runs: &[(u64, u64)], others: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let both = |run: &(u64, u64), other: &(u64, u64)| (run.0.max(other.0), run.1.min(other.1));
    let all = runs.iter().flat_map(|run| others.iter().map(move |other| both(run, other)));
    all.filter(|(first, end)| first < end).collect()
}

/// The offsets of frames that are no longer whole, in runs.
fn struck(frames: &[Frame], sim: &Sim) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for Frame { offsets, .. } in frames.iter().filter(|frame| !frame.is_whole(sim)) {
        match runs.last_mut() {
            Some(run) if run.1 == offsets.0 => run.1 = offsets.1,
            _ => runs.push(*offsets),
        }
    }
    runs
}

fn frames(sim: &Sim) -> Vec<Frame> {
    let mut found = Vec::new();
    let segments =
        sim.paths().into_iter().filter(|path| path.extension().is_some_and(|e| e == "seg"));
    for path in segments {
        let bytes = sim.read(&path);
        let head = bytes[..HEAD].to_vec();
        let header = SegmentHeader::decode(&head).expect("an undamaged header");
        let file = sim.shared().open(&path, Open::Read).expect("it is there");
        let walked = walk(
            &mut Window::file(file),
            &header,
            bytes.len() as u64,
            &mut Tally::default(),
            |frame, byte| {
                if frame.header.kind != FrameKind::Data {
                    return;
                }
                let from = usize::try_from(byte).expect("a short file");
                let first = header.base_offset.0 + u64::from(frame.header.rel_offset);
                found.push(Frame {
                    file: path.clone(),
                    from,
                    bytes: bytes[from..from + frame.header.len as usize].to_vec(),
                    head: head.clone(),
                    offsets: (first, first + u64::from(frame.header.count)),
                });
            },
        );
        walked.expect("nothing stands against reading");
    }
    found
}

fn whole(plan: Plan, dice: &mut Dice) -> (Sim, Told) {
    let sim = Sim::new(1);
    let mut stage = Stage::powered(sim.clone(), Told::default(), plan, *dice);
    let filled = (|| {
        stage.open()?;
        for _ in 0..stage.dice.between(8, 16) {
            let (count, len) = (stage.dice.between(1, 3), stage.dice.between(3_000, 7_000));
            match stage.dice.below(3) {
                0 => stage.produce(1, count, len, Durability::Durable)?,
                1 => stage.append(count, len, Durability::Written)?,
                _ => stage.append(count, len, Durability::Durable)?,
            }
        }
        stage.close()
    })();
    assert!(filled.is_ok(), "nothing stands against filling a log: {filled:?}");
    dice.roll();
    let mut told = stage.told.clone();
    // Which of a producer's batches are lost is not the question here.
    told.producers.clear();
    (settled(&sim), told)
}

/// Damages a segment file: flipped bits, a lost sector, a cut, or all of it.
fn strike(sim: &Sim, dice: &mut Dice) {
    let files: Vec<_> = sim
        .paths()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "seg"))
        .collect();
    let file = &files[dice.pick(files.len())];
    let mut bytes = sim.read(file);
    let len = bytes.len() as u64;
    if len == 0 {
        return;
    }
    match dice.below(9) {
        8 if files.len() > 2 => {
            // Two files that took each other's names.
            let other = &files[dice.pick(files.len())];
            let theirs = sim.read(other);
            sim.write(other, &bytes);
            sim.write(file, &theirs);
        }
        0 => {
            let from = dice.pick(bytes.len()) / 512 * 512;
            let end = bytes.len().min(from + 512);
            bytes[from..end].fill(0);
            sim.write(file, &bytes);
        }
        1 => sim.truncate(file, dice.roll() % len),
        2 if files.len() > 2 => sim.remove(file),
        3 => sim.flip(file, dice.roll() % (4096 * 8)),
        4 => sim.flip(file, len * 8 - 1 - dice.roll() % (256 * 8)),
        _ => sim.flip(file, dice.roll() % (len * 8)),
    }
}

/// One repair.
pub fn script(stage: &mut Stage) -> Step {
    let fs: Arc<dyn Fs> = stage.process.shared();
    let report = repair_on(&fs, Path::new(DIR), false).map_err(|e| stage.stopped("repair", &e))?;
    let known = |(first, end): &(u64, u64)| {
        stage.told.lost.iter().any(|(from, to)| from <= first && end <= to)
    };
    match report.lost.iter().find(|lost| !known(lost)) {
        Some(lost) => stage.violation(format!(
            "repair lost offsets {lost:?}; the damage took {:?}",
            stage.told.lost
        )),
        None => Ok(()),
    }
}

/// Repairs to the end, and goes on as any log.
pub fn check(stage: &mut Stage, vary: u64) -> Step {
    script(stage)?;
    let fs: Arc<dyn Fs> = stage.process.shared();
    let again = repair_on(&fs, Path::new(DIR), true).map_err(|e| stage.stopped("repair", &e))?;
    if let Some(action) = again.actions.first() {
        return stage.violation(format!("after a repair there is still something to do: {action}"));
    }
    super::check::check(stage, vary)
}
