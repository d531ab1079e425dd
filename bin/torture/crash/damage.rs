//! Damage on top of a power cut: acknowledged bytes rot, and that is never taken for a torn tail.
//!
//! The script acknowledges one group after another. Of an image it leaves, one acknowledged record
//! is damaged whose durability something undamaged proves: a later group, a clean close, or STATE.
//! Then the log must refuse to open for writing, or say so when that record is read; it must
//! never show less, or something else. Kinds: one flipped bit, in a record or in an index, a sector
//! of zeros, a page of another segment in its place.

use std::path::PathBuf;

use tidelog::fs::Fs;
use tidelog::fs::sim::Sim;
use tidelog::segment::Footer;
use tidelog::{Durability, Kind};

use super::stage::{DIR, Stage, Step};
use super::told::{READING, index};

const SECTOR: usize = 512;
const PAGE: usize = 4096;

/// Durable groups, a few segments long; closed at the end, or not.
pub fn script(stage: &mut Stage) -> Step {
    stage.open()?;
    let long = stage.dice.once_in(3);
    for _ in 0..stage.dice.between(5, 9) {
        if stage.dice.once_in(2) {
            stage.machine.advance(std::time::Duration::from_millis(6));
        }
        let most = if long { 14_000 } else { 3_000 };
        let (count, len) = (stage.dice.between(1, 2), stage.dice.between(20, most));
        stage.append(count, len, Durability::Durable)?;
    }
    match stage.dice.once_in(2) {
        true => stage.close(),
        false => Ok(()),
    }
}

/// Damages an image and looks what is made of it; without a target, checks it as it is.
pub fn check(stage: &mut Stage, vary: u64) -> Step {
    let Some(what) = strike(stage) else { return super::check::check(stage, vary) };
    stage.struck = true;
    let log = match stage.options().open(DIR) {
        Err(e) if e.kind() == Kind::Corrupt => return Ok(()),
        Err(e) => return stage.violation(format!("{what}: opening says {e}")),
        Ok(log) => log,
    };
    for offset in 0..stage.told.line.len() as u64 {
        // By way of the index, which may be what was struck.
        let found = stage.told.verify_one(&log, offset);
        stage.judge(&format!("{what}, {:?}", log.report()), found)?;
    }
    match stage.told.verify(&log) {
        Err(found) if !found.starts_with(READING) => stage.violation(format!("{what}: {found}")),
        _ => Ok(()),
    }
}

/// Where a record's value stands.
struct Place {
    file: PathBuf,
    byte: usize,
}

fn place(machine: &Sim, files: &[PathBuf], id: u32) -> Option<Place> {
    let pattern = [id.to_le_bytes(); 4].concat();
    files.iter().find_map(|file| {
        let bytes = machine.read(file);
        let byte = bytes.windows(pattern.len()).position(|window| window == pattern)?;
        Some(Place { file: file.clone(), byte })
    })
}

/// Damages a record that is proven to be durable; says how.
fn strike(stage: &mut Stage) -> Option<String> {
    let machine = stage.machine.clone();
    let told = &stage.told;
    let files: Vec<PathBuf> = machine
        .paths()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "seg"))
        .collect();
    let last = told.durable.checked_sub(1)?;
    // The last acknowledged batch proves those before it.
    let mut group = index(last);
    while group > 0 && !told.line[group - 1].last {
        group -= 1;
    }
    let stated = match told.closed {
        true => told.durable,
        false => state(&machine).min(told.durable),
    };
    let by_state = stated > group as u64;
    let below = stated.max(group as u64);
    let target = stage.dice.roll().checked_rem(below)?;
    let id = told.line[index(target)].id;
    let at = place(&machine, &files, id)?;
    // Its header stands before its first record.
    let witness = place(&machine, &files, told.line[group].id)?;
    let kind = stage.dice.below(6);
    // What a stroke over a range must leave alone, unless something outside the segments proves.
    let spared = |from: usize, len: usize| {
        by_state || witness.file != at.file || witness.byte > from + len + 64
    };
    match kind {
        4 | 5 => {
            // The index of a sealed segment, by its footer.
            let process = machine.process();
            let sealed = files.iter().find_map(|file| {
                let open = process.open(file, tidelog::fs::Open::Read).ok()?;
                Some((file, Footer::read(&*open).ok()??))
            });
            let (sealed, footer) = sealed?;
            let end = footer.index_byte + 16 * u64::from(footer.index_entries);
            let bit =
                (end - 1 - u64::from(stage.dice.below(16))) * 8 + u64::from(stage.dice.below(8));
            machine.flip(sealed, bit);
            Some(format!("bit {bit} of {} flipped, in the index", sealed.display()))
        }
        0 | 1 => {
            let len = told.line[index(target)].len.min(20);
            let bit = (at.byte as u64 + u64::from(stage.dice.below(len))) * 8
                + u64::from(stage.dice.below(8));
            machine.flip(&at.file, bit);
            Some(format!("bit {bit} of {} flipped, in record {target}", at.file.display()))
        }
        2 => {
            let from = at.byte / SECTOR * SECTOR;
            spared(from, SECTOR).then_some(())?;
            let mut bytes = machine.read(&at.file);
            let end = bytes.len().min(from + SECTOR);
            bytes[from..end].fill(0);
            machine.write(&at.file, &bytes);
            Some(format!("bytes {from} to {end} of {} zeroed", at.file.display()))
        }
        _ => {
            let from = at.byte / PAGE * PAGE;
            spared(from, PAGE).then_some(())?;
            let other = files.iter().find(|file| **file != at.file)?;
            let (mut bytes, stray) = (machine.read(&at.file), machine.read(other));
            let end = bytes.len().min(from + PAGE).min(stray.len());
            (end > from).then_some(())?;
            bytes[from..end].copy_from_slice(&stray[from..end]);
            machine.write(&at.file, &bytes);
            Some(format!(
                "bytes {from} to {end} of {} overwritten by those of {}",
                at.file.display(),
                other.display()
            ))
        }
    }
}

/// The durable offset that STATE says, as an operator would read it; 0 without one.
fn state(machine: &Sim) -> u64 {
    let path = format!("{DIR}/STATE");
    if !machine.exists(&path) {
        return 0;
    }
    let text = String::from_utf8_lossy(&machine.read(&path)).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("durable_offset "));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}
