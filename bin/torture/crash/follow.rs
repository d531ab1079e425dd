//! A leader and its follower on one machine: the power goes off for both, each keeps what it keeps.
//!
//! What is pending is kept or lost change by change, so the choices hold the cut of the follower
//! alone, of the leader alone, and of both. Invariants: the follower never holds a record that its
//! leader lost; what it said it holds is there and nothing of it counts as damaged; after catching
//! up every segment file is the leader's to the last byte.

use std::path::Path;

use tidelog::{Durability, Follower, Log, Table, ship};

use super::table;
use crate::rows;

use super::stage::{DIR, Stage, Step};

const COPY: &str = "/copy";

/// The leader appends, rolls, closes; the follower comes after it, and is opened anew now and then.
pub fn script(stage: &mut Stage) -> Step {
    stage.open()?;
    for _ in 0..stage.dice.between(4, 6) {
        for _ in 0..stage.dice.between(1, 3) {
            let most = if stage.dice.once_in(2) { 14_000 } else { 900 };
            if stage.told.table.rows {
                let (count, len) = (stage.dice.between(1, 5), stage.dice.between(0, 800));
                stage.append(count, len, Durability::Durable)?;
            }
            let len = stage.dice.between(1, most);
            let durability = match stage.dice.below(3) {
                0 => Durability::Written,
                _ => Durability::Durable,
            };
            stage.machine.advance(std::time::Duration::from_millis(6));
            stage.append(1, len, durability)?;
        }
        match stage.dice.below(6) {
            0 => {
                stage.close()?;
                stage.open()?;
            }
            1 | 4 => {
                // It dies with a record in the page cache that nobody may ship.
                stage.append(1, 90, Durability::Written)?;
                stage.kill();
                catch_up(stage)?;
                stage.open()?;
            }
            2 => {
                if let Some(follower) = stage.follower.take() {
                    follower.close().map_err(|e| stage.stopped("close the follower", &e))?;
                }
            }
            3 => stage.follower = None,
            _ => {}
        }
        catch_up(stage)?;
        if stage.told.table.rows && stage.dice.once_in(3) {
            checkpoint(stage)?;
        }
    }
    Ok(())
}

/// Both recover, in either order, and the follower catches up.
pub fn recovery(stage: &mut Stage) -> Step {
    if stage.dice.once_in(2) {
        catch_up(stage)?;
    }
    stage.open()?;
    stage.machine.advance(std::time::Duration::from_millis(6));
    stage.append(1, 44, Durability::Durable)?;
    catch_up(stage)
}

fn open(stage: &mut Stage) -> Step {
    let process = stage.machine.process();
    let source = ship::Directory::open_in(process.shared(), DIR)
        .map_err(|e| stage.stopped("look at the leader", &e))?;
    // One thread: what is cut after its n-th operation must do the same operations each time.
    let options = Log::options().fs(process.shared()).map(stage.plan.map).worker(false);
    let follower = match stage.told.table.rows {
        true => {
            let rows = table::options(2 + stage.told.line.len() % 2);
            Follower::open_with(options, rows, COPY, source)
        }
        // All rows fit, and there is little to clear.
        false => Follower::open_with(options, Table::options().delta_bytes(64 << 10), COPY, source),
    };
    let follower = follower.map_err(|e| stage.stopped("open the follower", &e))?;
    let (report, end) = (follower.report().clone(), follower.end().0);
    if report.unclean {
        return stage.violation(format!("the follower lost what was durable: {report:?}"));
    }
    if end < stage.told.copied {
        return stage
            .violation(format!("the follower holds {end} records, it said {}", stage.told.copied));
    }
    let table = follower.table().report();
    let found = table.checkpoint.map_or(0, |(_, offset)| offset.0);
    if !table.findings.is_empty() || found < stage.told.table.checkpoint {
        return stage.violation(format!(
            "the follower's table had a checkpoint at {}: {table:?}",
            stage.told.table.checkpoint
        ));
    }
    stage.follower = Some(follower);
    Ok(())
}

/// The follower is told to make a checkpoint of its table now and then.
fn checkpoint(stage: &mut Stage) -> Step {
    let Some(follower) = stage.follower.take() else { return Ok(()) };
    let applied = follower.table().applied().map_or(0, |position| position.offset.0);
    match follower.table().checkpoint() {
        Ok(true) => stage.told.table.checkpoint = applied,
        Ok(false) => return stage.violation("the follower's table made no checkpoint"),
        Err(error) => return Err(stage.stopped("the follower's checkpoint", &error)),
    }
    stage.follower = Some(follower);
    Ok(())
}

fn catch_up(stage: &mut Stage) -> Step {
    if stage.follower.is_none() {
        open(stage)?;
    }
    let mut follower = stage.follower.take().expect("opened just now");
    let progress = follower.catch_up().map_err(|e| stage.stopped("catch up", &e))?;
    if progress.to.0 > stage.told.line.len() as u64 {
        return stage.violation(format!("the follower holds {} records", progress.to));
    }
    // What it holds, the leader had said to be durable.
    stage.told.copied = stage.told.copied.max(progress.to.0);
    stage.told.durable = stage.told.durable.max(progress.to.0);
    stage.follower = Some(follower);
    Ok(())
}

/// Holds both against what was told, and each against the other.
pub fn check(stage: &mut Stage, vary: u64) -> Step {
    stage.plan.map = vary.is_multiple_of(2);
    match vary / 2 % 3 {
        0 => {}
        1 => open(stage)?,
        _ => catch_up(stage)?,
    }
    stage.open()?;
    catch_up(stage)?;
    alike(stage)?;
    stage.machine.advance(std::time::Duration::from_millis(6));
    let len = if (vary / 64).is_multiple_of(4) { 14_000 } else { 45 };
    stage.append(1, len, Durability::Durable)?;
    catch_up(stage)?;
    if stage.told.copied != stage.told.line.len() as u64 {
        return stage.violation(format!(
            "caught up to {} of {} durable records",
            stage.told.copied,
            stage.told.line.len()
        ));
    }
    match vary / 8 % 2 {
        0 => stage.cut(),
        _ => stage.close()?,
    }
    if stage.log.is_none() {
        stage.open()?;
    }
    catch_up(stage)?;
    stage.close()?;
    catch_up(stage)?;
    alike(stage)?;
    let same = same_files(stage);
    stage.judge("after both closed", same)?;
    match vary.is_multiple_of(16) {
        true => stage.verify_files(COPY),
        false => Ok(()),
    }
}

/// The follower shows a beginning of what the leader has.
fn alike(stage: &mut Stage) -> Step {
    let follower = stage.follower.as_ref().expect("it has caught up");
    let mut told = stage.told.clone();
    told.durable = told.copied;
    told.written = 0;
    let end = stage.judge("at the follower", told.verify(&follower.log()))?;
    if end != follower.end().0 {
        return stage.violation(format!("the follower shows {end}, holds {}", follower.end()));
    }
    if !stage.told.table.rows {
        return Ok(());
    }
    let (view, end) = (follower.table().view(), follower.end());
    let applied = view.applied().map_or(0, |position| position.offset.0);
    let held = match rows::of_log(&follower.log(), end) {
        _ if applied != end.0 => Err(format!("applied up to {applied} of {end}")),
        Ok(rows) => rows::hold(&view, &rows).map_err(|amiss| amiss.said()),
        Err(error) => Err(error.to_string()),
    };
    stage.judge("the follower's table", held)
}

/// Every segment file of the leader is the follower's, byte for byte.
fn same_files(stage: &Stage) -> Result<(), String> {
    let names = |dir: &str| -> Vec<std::ffi::OsString> {
        let dir = Path::new(dir).join("segments");
        let paths = stage.machine.paths();
        let paths = paths.iter().filter(|path| path.starts_with(&dir));
        paths.filter_map(|path| path.file_name()).map(ToOwned::to_owned).collect()
    };
    let (leader, copy) = (names(DIR), names(COPY));
    if leader != copy {
        return Err(format!("segments {leader:?} at the leader, {copy:?} at the follower"));
    }
    for name in leader {
        let read = |dir: &str| stage.machine.read(Path::new(dir).join("segments").join(&name));
        let (theirs, mine) = (read(DIR), read(COPY));
        if theirs != mine {
            let at = theirs.iter().zip(&mine).position(|(a, b)| a != b);
            return Err(format!(
                "{name:?} differs at byte {at:?}, {} and {} bytes long",
                theirs.len(),
                mine.len()
            ));
        }
    }
    Ok(())
}
