//! Slots through power cuts: claimed while the log grows, dropped, respected by retention.

use std::time::Duration;

use tidelog::Durability;
use tidelog::log::Retention;

use super::check;
use super::stage::{Stage, Step};

/// Nodes claim, move, and are let go of; time passes, so that moves are written down.
pub fn script(stage: &mut Stage) -> Step {
    stage.open()?;
    for _ in 0..stage.dice.between(5, 8) {
        let len = stage.dice.between(6_000, 14_000);
        stage.append(1, len, Durability::Durable)?;
        let node = u8::try_from(stage.dice.below(3)).expect("below 3");
        match stage.dice.below(6) {
            0 if stage.told.slots.knows(node) => drop_slot(stage, node)?,
            1 => retain(stage)?,
            _ => claim(stage, node)?,
        }
        stage.machine.advance(Duration::from_secs(u64::from(stage.dice.below(15))));
        match stage.dice.below(8) {
            0 => stage.close()?,
            1 => stage.kill(),
            _ => continue,
        }
        stage.open()?;
        look(stage)?;
    }
    stage.close()
}

/// After a power cut the node starts again, and hears of a follower.
pub fn recovery(stage: &mut Stage) -> Step {
    stage.open()?;
    look(stage)?;
    claim(stage, 1)?;
    stage.append(1, 33, Durability::Durable)
}

/// The slots are what was told, and so is everything else.
pub fn check(stage: &mut Stage, vary: u64) -> Step {
    stage.open()?;
    look(stage)?;
    stage.kill();
    check::check(stage, vary)?;
    look(stage)
}

fn claim(stage: &mut Stage, node: u8) -> Step {
    let segments = stage.log().segments();
    let newest = segments.last().map_or(tidelog::LogByte(0), |segment| segment.base);
    let first = !stage.told.slots.knows(node);
    let claim = stage.told.slots.claim(node, newest);
    stage.log().claim(claim).map_err(|e| stage.stopped("claim", &e))?;
    stage.told.slots.claimed(node, first);
    Ok(())
}

fn drop_slot(stage: &mut Stage, node: u8) -> Step {
    let id = stage.told.slots.drop_soon(node);
    stage.log().drop_slot(id).map_err(|e| stage.stopped("drop a slot", &e))?;
    stage.told.slots.dropped(node);
    Ok(())
}

/// As little as may be kept is kept: what the slots need.
fn retain(stage: &mut Stage) -> Step {
    let mut policy = Retention { keep_bytes: Some(1), dry_run: true, ..Retention::default() };
    let asked = stage.log().retain(&policy).map_err(|e| stage.stopped("retain", &e))?.start.0;
    stage.told.floor.1 = asked;
    policy.dry_run = false;
    let done = stage.log().retain(&policy).map_err(|e| stage.stopped("retain", &e))?.start.0;
    stage.told.floor.0 = done;
    look(stage)
}

fn look(stage: &mut Stage) -> Step {
    let slots = stage.log().slots().map_err(|e| stage.stopped("read the slots", &e))?;
    stage.judge("slots", stage.told.slots.hold(&slots))
}
