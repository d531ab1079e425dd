//! Recovery of one log after a power cut, and the check of what it leaves.
//!
//! ```text
//! image ─► open, oracle ─► power cut ─► open: the same ─► append ─► cut or close ─► open: all of it
//! ```
//!
//! Invariants held: a power cut is never damage, so every image opens; opening twice gives the
//! same and cuts nothing new; what recovery shows is durable; appending goes on in an epoch that
//! never gave the same offset to another record.

use tidelog::Durability;

use super::stage::{DIR, Stage, Step};

/// What a log's owner does after a power cut; it may be cut itself.
pub fn recover(stage: &mut Stage) -> Step {
    stage.open()?;
    stage.append(1, 33, Durability::Durable)
}

/// Holds an image against what clients were told.
pub fn check(stage: &mut Stage, vary: u64) -> Step {
    stage.plan.map = vary.is_multiple_of(2);
    stage.open()?;
    stage.verify_quarantine()?;
    let first = stage.told.durable;
    if vary.is_multiple_of(16) {
        stage.verify_files(DIR)?;
    }
    match vary / 2 % 2 {
        0 => stage.cut(),
        _ => stage.kill(),
    }
    stage.open()?;
    same_again(stage, first)?;
    go_on(stage, vary)
}

/// The second opening found what the first one left.
fn same_again(stage: &mut Stage, first: u64) -> Step {
    let report = stage.report.as_ref().expect("opened just now");
    let (cut, end) = (report.bytes_cut, stage.told.durable);
    if end != first {
        return stage.violation(format!("opening again shows {end} records instead of {first}"));
    }
    if cut > 0 {
        return stage.violation(format!("opening again cut {cut} bytes"));
    }
    Ok(())
}

/// Appends, retries what producers are in doubt about, and finds it all again.
fn go_on(stage: &mut Stage, vary: u64) -> Step {
    stage.retry_all()?;
    stage.append(2, 21, Durability::Buffered)?;
    stage.append(1, 34, Durability::Durable)?;
    match vary / 16 % 3 {
        0 => stage.close()?,
        1 => stage.kill(),
        _ => {}
    }
    stage.cut();
    let promised = stage.told.durable;
    stage.open()?;
    if stage.told.durable != promised {
        return stage.violation(format!(
            "{} records after the last append, {promised} were acknowledged",
            stage.told.durable
        ));
    }
    if vary.is_multiple_of(16) {
        stage.verify_files(DIR)?;
    }
    stage.retry_all()
}
