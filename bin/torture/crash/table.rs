//! The table of one log, and its snapshots, under power cuts.
//!
//! ```text
//! image ─► open both, oracle ─► cut ─► open: the same ─► append, checkpoint ─► cut ─► open: found again
//! ```
//!
//! Deltas are so small that a few batches make runs, merges and checkpoints. Invariants held: what
//! the table shows is what the log holds, read by a plain map; a power cut is never damage, so no
//! checkpoint is ever passed over or set aside; a checkpoint that was confirmed is found again; a
//! snapshot that is listed is whole, and one that was published is listed; a restore ends where it
//! was told to, however often it was interrupted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidelog::fs::Fs;
use tidelog::fs::sim::Sim;
use tidelog::table::{RestoreAt, Snapshots, TableOptions, restore_on};
use tidelog::{Durability, Kind, Log, Offset, Table};

use super::stage::{DIR, Plan, Stage, Step};
use super::told::{Dice, Told};
use super::workloads::settled;
use crate::rows::{self, Rows};

/// Where snapshots are published.
const STORE: &str = "/store";
/// Where a log with snapshots of its own keeps them.
const OWN: &str = "/log/snapshots";
/// Where a restore goes.
const RESTORED: &str = "/restored";

/// Deltas of a few batches.
pub fn options(fan_in: usize) -> TableOptions {
    Table::options().delta_bytes(6 << 10).checkpoint_bytes(16 << 10).fan_in(fan_in)
}

/// What clients of a table know before they have done anything.
pub fn told() -> Told {
    let mut told = Told::default();
    told.table.rows = true;
    told
}

/// An empty log, created and closed.
pub fn created(plan: Plan, _: &mut Dice) -> (Sim, Told) {
    let sim = Sim::new(1);
    let stage = Stage::powered(sim.clone(), told(), plan, Dice(0));
    let log = stage.options().open(DIR).expect("an empty disk takes a log");
    log.close().expect("nothing stands against closing");
    (settled(&sim), stage.told)
}

/// Opens the table of the open log, and holds all of it against the log.
fn open(stage: &mut Stage) -> Step {
    stage.table = None;
    let fan_in = 2 + stage.told.line.len() % 2;
    let table = options(fan_in).open(stage.log()).map_err(|e| stage.stopped("open table", &e))?;
    let report = table.report();
    let found = report.checkpoint.map_or(0, |(_, offset)| offset.0);
    if !report.writes || !report.findings.is_empty() {
        return stage.violation(format!("a power cut damages no table: {report:?}"));
    }
    if found < stage.told.table.checkpoint {
        return stage.violation(format!(
            "a checkpoint at {} was confirmed, one at {found} is found",
            stage.told.table.checkpoint
        ));
    }
    stage.table = Some(table);
    hold(stage)
}

fn table(stage: &Stage) -> &Table {
    stage.table.as_ref().expect("the script opened it")
}

/// The table shows what the log holds, up to what was applied.
fn hold(stage: &mut Stage) -> Step {
    let view = table(stage).view();
    let applied = view.applied().map_or(0, |position| position.offset.0);
    let end = stage.log().end().0;
    let held = match rows::of_log(stage.log(), Offset(applied)) {
        _ if applied != end => Err(format!("applied up to {applied}, the log ends at {end}")),
        Ok(rows) => rows::hold(&view, &rows).map_err(|amiss| amiss.said()),
        Err(error) => Err(error.to_string()),
    };
    stage.judge("table", held)
}

fn catch_up(stage: &mut Stage) -> Step {
    table(stage).catch_up(stage.log()).map(drop).map_err(|e| stage.stopped("apply", &e))
}

/// Asks for a checkpoint of everything, and is told that there is one.
fn checkpoint(stage: &mut Stage) -> Step {
    catch_up(stage)?;
    let applied = table(stage).applied().map_or(0, |position| position.offset.0);
    match table(stage).checkpoint() {
        Ok(true) => {
            stage.told.table.checkpoint = applied;
            // It says that the log is durable so far.
            stage.told.durable = stage.told.durable.max(applied);
            Ok(())
        }
        Ok(false) => stage.violation("no checkpoint was made, and no error says why"),
        Err(error) => Err(stage.stopped("checkpoint", &error)),
    }
}

/// A few batches of rows, deletes and events.
fn some(stage: &mut Stage, most: u32) -> Step {
    for _ in 0..stage.dice.between(1, most) {
        let (count, len) = (stage.dice.between(1, 6), stage.dice.between(0, 800));
        let durability = match stage.dice.below(4) {
            0 => Durability::Buffered,
            1 => Durability::Written,
            _ => Durability::Durable,
        };
        match stage.dice.once_in(5) {
            true => stage.produce(1, count, len, durability)?,
            false => stage.append(count, len, durability)?,
        }
        if stage.dice.once_in(2) && stage.table.is_some() {
            catch_up(stage)?;
        }
    }
    Ok(())
}

/// The life of a table, in several lives of its process.
pub fn script(stage: &mut Stage) -> Step {
    stage.open()?;
    if stage.dice.once_in(2) {
        // Nothing that the log does from here on makes the table's directory durable.
        some(stage, 3)?;
        stage.sync()?;
        open(stage)?;
        checkpoint(stage)?;
    }
    open(stage)?;
    for _ in 0..stage.dice.between(5, 8) {
        some(stage, 3)?;
        match stage.dice.below(10) {
            0..3 => checkpoint(stage)?,
            3 => open_again(stage)?,
            4 => {
                stage.close()?;
                stage.open()?;
                open(stage)?;
            }
            5 => {
                stage.kill();
                stage.open()?;
                open(stage)?;
            }
            6 => {
                // Seen by a reader: nothing that it needs may vanish.
                let (held, end) = (table(stage).view(), table(stage).applied());
                some(stage, 3)?;
                checkpoint(stage)?;
                let end = end.map_or(Offset(0), |position| position.offset);
                let rows = rows::of_log(stage.log(), end).map_err(|e| stage.stopped("read", &e))?;
                let held = rows::hold(&held, &rows).map_err(|amiss| amiss.said());
                stage.judge("a view that was held", held)?;
            }
            _ => catch_up(stage)?,
        }
    }
    checkpoint(stage)
}

/// The table alone is let go of and opened again.
fn open_again(stage: &mut Stage) -> Step {
    stage.sync()?;
    stage.table = None;
    open(stage)
}

/// What its owner does after a power cut.
pub fn recover(stage: &mut Stage) -> Step {
    stage.open()?;
    open(stage)?;
    stage.append(2, 700, Durability::Durable)?;
    checkpoint(stage)
}

/// Holds both against what clients were told, and goes on.
pub fn check(stage: &mut Stage, vary: u64) -> Step {
    stage.plan.map = vary.is_multiple_of(2);
    stage.open()?;
    open(stage)?;
    let first = stage.told.durable;
    match vary / 2 % 3 {
        0 => stage.cut(),
        1 => stage.kill(),
        _ => stage.close()?,
    }
    stage.open()?;
    if stage.told.durable != first {
        return stage.violation(format!("{first} records, then {}", stage.told.durable));
    }
    open(stage)?;
    stage.retry_all()?;
    for _ in 0..1 + vary / 8 % 4 {
        stage.append(4, 600, Durability::Buffered)?;
        stage.append(1, 300, Durability::Durable)?;
        catch_up(stage)?;
    }
    hold(stage)?;
    if !(vary / 32).is_multiple_of(4) {
        checkpoint(stage)?;
        hold(stage)?;
    }
    match vary / 128 % 3 {
        0 => stage.close()?,
        1 => stage.kill(),
        _ => {}
    }
    stage.cut();
    stage.open()?;
    open(stage)?;
    checkpoint(stage)?;
    stage.retry_all()?;
    match vary.is_multiple_of(16) {
        true => stage.verify_files(DIR),
        false => Ok(()),
    }
}

/// A log with a table of some runs.
pub fn filled(plan: Plan, dice: &mut Dice) -> (Sim, Told) {
    let (sim, told) = created(plan, dice);
    let mut stage = Stage::powered(sim.clone(), told, plan, *dice);
    let filled = (|| {
        stage.open()?;
        open(&mut stage)?;
        for _ in 0..3 {
            some(&mut stage, 5)?;
            catch_up(&mut stage)?;
        }
        checkpoint(&mut stage)?;
        stage.close()
    })();
    assert!(filled.is_ok(), "nothing stands against filling a table: {filled:?}");
    dice.roll();
    (settled(&sim), stage.told.clone())
}

/// Snapshots are published while rows come.
pub fn publish_script(stage: &mut Stage) -> Step {
    stage.open()?;
    open(stage)?;
    for _ in 0..2 {
        some(stage, 4)?;
        let digest = stage.dice.once_in(3);
        publish(stage, STORE, digest)?;
    }
    let digest = stage.dice.once_in(2);
    publish(stage, STORE, digest)
}

fn publish(stage: &mut Stage, dir: &str, digest: bool) -> Step {
    catch_up(stage)?;
    let snapshots = Snapshots::at_on(stage.process.shared(), Path::new(dir));
    let published =
        snapshots.publish(table(stage), digest).map_err(|e| stage.stopped("publish", &e))?;
    let at = published.snapshot.position.offset.0;
    if Some(at) != table(stage).applied().map(|position| position.offset.0) {
        return stage.violation(format!("published {at}, applied {:?}", table(stage).applied()));
    }
    stage.told.durable = stage.told.durable.max(at);
    stage.told.table.checkpoint = at;
    if !stage.told.table.published.contains(&at) {
        stage.told.table.published.push(at);
    }
    Ok(())
}

/// Recovers, and publishes.
pub fn publish_recovery(stage: &mut Stage) -> Step {
    stage.open()?;
    open(stage)?;
    publish(stage, STORE, false)
}

/// What is listed is whole before and after publishing again.
pub fn publish_check(stage: &mut Stage, vary: u64) -> Step {
    stage.plan.map = vary.is_multiple_of(2);
    stage.open()?;
    open(stage)?;
    hold_snapshots(stage, STORE)?;
    if (vary / 2).is_multiple_of(2) {
        stage.append(3, 500, Durability::Durable)?;
    }
    publish(stage, STORE, (vary / 4).is_multiple_of(2))?;
    hold_snapshots(stage, STORE)?;
    stage.cut();
    stage.open()?;
    open(stage)?;
    hold_snapshots(stage, STORE)
}

/// Every snapshot that is listed is whole, and becomes a table with the rows of its log.
fn hold_snapshots(stage: &mut Stage, dir: &str) -> Step {
    let fs: Arc<dyn Fs> = stage.process.shared();
    let snapshots = Snapshots::at_on(Arc::clone(&fs), Path::new(dir));
    let listed = snapshots.list().map_err(|e| stage.stopped("list snapshots", &e))?;
    let at = |offset: &u64| listed.iter().any(|s| s.position.offset.0 == *offset);
    if let Some(lost) = stage.told.table.published.iter().find(|offset| !at(offset)) {
        return stage.violation(format!("a snapshot at {lost} was published, and is gone"));
    }
    for (number, snapshot) in listed.iter().enumerate() {
        let offset = snapshot.position.offset;
        let problems = snapshots.verify(snapshot).map_err(|e| stage.stopped("verify", &e))?;
        if !problems.is_empty() {
            return stage.violation(format!("snapshot {offset}: {problems:?}"));
        }
        let own = options(2).persist(false).open_at_checkpoint(stage.log());
        let own = own.map_err(|e| stage.stopped("make a table", &e))?;
        own.catch_up_to(stage.log(), offset).map_err(|e| stage.stopped("apply", &e))?;
        let digest = own.digest().map_err(|e| stage.stopped("digest", &e))?;
        let to = PathBuf::from(format!("/tried-{}-{number}", stage.dice.roll()));
        restore_on(&fs, Path::new(dir), &to, RestoreAt::Offset(offset))
            .map_err(|e| stage.stopped("restore a snapshot", &e))?;
        let log = stage.options().open(&to).map_err(|e| stage.stopped("open it", &e))?;
        let restored = options(2).open(&log).map_err(|e| stage.stopped("open its table", &e))?;
        let same = restored.digest().map_err(|e| stage.stopped("digest", &e))? == digest
            && snapshot.state.is_none_or(|(state, _)| state == digest);
        if !same || restored.applied().map(|position| position.offset) != Some(offset) {
            return stage.violation(format!("snapshot {offset} has not the rows of its log"));
        }
    }
    Ok(())
}

/// A log with snapshots of its own, and where restores are to end.
pub fn published(plan: Plan, dice: &mut Dice) -> (Sim, Told) {
    let (sim, told) = created(plan, dice);
    let mut stage = Stage::powered(sim.clone(), told, plan, *dice);
    let filled = (|| {
        stage.open()?;
        open(&mut stage)?;
        for round in 0..3 {
            some(&mut stage, 5)?;
            if stage.dice.once_in(3) {
                stage.append(1, 14_000, Durability::Durable)?;
                stage.append(4, 14_000, Durability::Durable)?;
            }
            if round > 0 {
                stage.sync()?;
                publish(&mut stage, OWN, false)?;
            }
        }
        some(&mut stage, 3)?;
        stage.close()
    })();
    assert!(filled.is_ok(), "nothing stands against snapshots: {filled:?}");
    dice.roll();
    let mut told = stage.told.clone();
    let first = told.table.published[0];
    let beyond = u32::try_from(told.line.len() as u64 - first).expect("few");
    let target = first + u64::from(dice.below(beyond + 1));
    let below = u32::try_from(target - first).expect("few");
    // Another one at or below it, for whoever changes his mind.
    told.table.target = (target, first + u64::from(dice.below(below + 1)));
    (settled(&sim), told)
}

fn restore(stage: &mut Stage, target: u64) -> Step {
    let fs: Arc<dyn Fs> = stage.process.shared();
    let at = RestoreAt::Offset(Offset(target));
    match restore_on(&fs, Path::new(DIR), Path::new(RESTORED), at) {
        Ok(_) if stage.told.table.restored => {
            stage.violation("a restore that was done is done again: the first one is gone")
        }
        Ok(restored) if restored.end.0 != stage.told.batch_end(target) => stage.violation(format!(
            "asked for {target}, where a batch ends at {}, restored up to {}",
            stage.told.batch_end(target),
            restored.end
        )),
        Ok(_) => {
            stage.told.table.restored = true;
            Ok(())
        }
        Err(error) => Err(stage.stopped("restore", &error)),
    }
}

/// One restore.
pub fn restore_script(stage: &mut Stage) -> Step {
    let target = stage.told.table.target.0;
    restore(stage, target)
}

/// The same again, unless it was done before.
pub fn restore_recovery(stage: &mut Stage) -> Step {
    match stage.process.exists(Path::new(RESTORED).join("LOG")) {
        true => Ok(()),
        false => restore_script(stage),
    }
}

/// Restores to the end; what is there then is the log and the table as they were at the target.
pub fn restore_check(stage: &mut Stage, vary: u64) -> Step {
    stage.plan.map = vary.is_multiple_of(2);
    let (first, second) = stage.told.table.target;
    let done = stage.process.exists(Path::new(RESTORED).join("LOG"));
    if !done && stage.told.table.restored {
        return stage.violation("a restore that was done has left no log");
    }
    // What an interrupted one left may be used by a restore to another point, too.
    let target = if done || (vary / 2).is_multiple_of(2) { first } else { second };
    if !done {
        restore(stage, target)?;
    }
    let end = stage.told.batch_end(target);
    let expected = source_rows(stage, end)?;
    let (log, restored) = open_restored(stage)?;
    as_restored(stage, &log, &restored, end, &expected)?;
    let record = tidelog::Record::put(b"behind", b"the restore");
    log.append(&record).map_err(|e| stage.stopped("append to it", &e))?;
    restored.catch_up(&log).map_err(|e| stage.stopped("apply to it", &e))?;
    match restored.checkpoint() {
        Ok(true) => {}
        other => return stage.violation(format!("a checkpoint of it: {other:?}")),
    }
    let digest = restored.digest().map_err(|e| stage.stopped("digest", &e))?;
    drop((restored, log));
    stage.cut();
    let (log, again) = open_restored(stage)?;
    if log.end().0 != end + 1 || again.report().checkpoint.map(|c| c.1.0) != Some(end + 1) {
        return stage.violation(format!(
            "checkpoint at {}, then {:?}, end {}",
            end + 1,
            again.report(),
            log.end()
        ));
    }
    match again.digest().map_err(|e| stage.stopped("digest", &e))? == digest {
        true => Ok(()),
        false => stage.violation("a restored table that is opened again shows other rows"),
    }
}

fn source_rows(stage: &mut Stage, end: u64) -> Step<Rows> {
    let log = stage.options().create(false).read_only(true).open(DIR);
    let log = log.map_err(|e| stage.stopped("open the source", &e))?;
    rows::of_log(&log, Offset(end)).map_err(|e| stage.stopped("read the source", &e))
}

fn open_restored(stage: &mut Stage) -> Step<(Log, Table)> {
    let options = stage.options().create(false);
    let log = options.open(RESTORED).map_err(|e| stage.stopped("open what was restored", &e))?;
    let table = self::options(2).open(&log).map_err(|e| match e.kind() {
        Kind::Gone => stage.stopped("a restored table lacks rows", &e),
        _ => stage.stopped("open its table", &e),
    })?;
    match table.report().findings.first() {
        Some(finding) => stage.violation(format!("a restored table: {finding}")),
        None => Ok((log, table)),
    }
}

fn as_restored(stage: &mut Stage, log: &Log, table: &Table, end: u64, rows: &Rows) -> Step {
    if log.end().0 != end || table.applied().map_or(0, |position| position.offset.0) != end {
        return stage.violation(format!(
            "expected the log up to {end}, found it up to {}, the table up to {:?}",
            log.end(),
            table.applied()
        ));
    }
    let mut cursor = log.read(log.start()).map_err(|e| stage.stopped("read it", &e))?;
    let mut next = log.start().0;
    while let Some(entry) = cursor.next().map_err(|e| stage.stopped("read it", &e))? {
        let right = stage.told.is_sent(next, &entry.record);
        if entry.offset.0 != next || right.is_err() {
            return stage.violation(format!("restored, at {next}: {} {right:?}", entry.offset));
        }
        next += 1;
    }
    let held = match next == end {
        true => rows::hold(&table.view(), rows).map_err(|amiss| amiss.said()),
        false => Err(format!("the restored log is read up to {next} of {end}")),
    };
    stage.judge("restored", held)
}
