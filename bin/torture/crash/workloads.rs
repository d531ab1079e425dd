//! The workloads of one log: what they do between two power cuts, one function each.
//!
//! A workload is a base (what is on the disk before the first operation that may be cut), a
//! script, the recovery that runs after a cut, and the check of what is left. The scripts are
//! short, so that a power cut after each operation of each meets every state; their dice vary
//! sizes, durabilities and order from variant to variant.

use tidelog::fs::sim::{Fault, OpKind, Sim};
use tidelog::log::Retention;
use tidelog::{Compression, Durability, Expect, Kind, Offset, Preallocate};

use super::check::{check, recover};
use super::stage::{DIR, Plan, Stage, Step, Stop};
use super::told::{Dice, Told, key};
use super::{damage, follow, repair, slots, table};

/// A listed workload.
#[derive(Clone, Copy)]
pub struct Workload {
    pub name: &'static str,
    /// Its part of the budget: slow ones have a smaller one.
    pub share: u32,
    pub plan: fn(&mut Dice) -> Plan,
    pub base: fn(Plan, &mut Dice) -> (Sim, Told),
    pub script: fn(&mut Stage) -> Step,
    pub recovery: fn(&mut Stage) -> Step,
    /// The number makes it vary from state to state.
    pub check: fn(&mut Stage, u64) -> Step,
}

const PLAIN: Workload = Workload {
    name: "",
    share: 4,
    plan: |_| Plan::default(),
    base: |plan, _| created(plan),
    script: |_| Ok(()),
    recovery: recover,
    check,
};

/// Those of a table: small parts, for they hold every row.
const ROWS: Workload = Workload { share: 2, base: table::filled, ..PLAIN };

/// Every workload.
pub const ALL: &[Workload] = &[
    Workload { name: "create", base: |_, _| nothing(), script: create, ..PLAIN },
    Workload { name: "append", plan: any_zeros, script: append, ..PLAIN },
    Workload { name: "group", plan: any_zeros, script: group, ..PLAIN },
    Workload { name: "roll", plan: any_zeros, script: roll, ..PLAIN },
    Workload { name: "bulk", plan: any_zeros, script: bulk, ..PLAIN },
    Workload { name: "seal", script: seal, ..PLAIN },
    Workload { name: "reopen", plan: any_zeros, script: reopen, ..PLAIN },
    Workload { name: "kill", plan: any_zeros, script: kill, ..PLAIN },
    Workload { name: "state", script: state, ..PLAIN },
    Workload {
        name: "zero",
        plan: |_| Plan { preallocate: Preallocate::Zero, ..Plan::default() },
        script: roll,
        ..PLAIN
    },
    Workload {
        name: "grow",
        plan: |_| Plan { preallocate: Preallocate::Grow, ..Plan::default() },
        script: roll,
        ..PLAIN
    },
    Workload { name: "large", share: 2, plan: any_zeros, script: large, ..PLAIN },
    Workload { name: "conditional", script: conditional, ..PLAIN },
    Workload { name: "producer", plan: any_zeros, script: producer, ..PLAIN },
    Workload { name: "compress", plan: compressed, script: group, ..PLAIN },
    Workload {
        name: "isolate",
        plan: |dice| Plan { isolate: true, ..any_zeros(dice) },
        script: isolate,
        ..PLAIN
    },
    Workload { name: "retain", script: retain, ..PLAIN },
    Workload {
        name: "slots",
        script: slots::script,
        recovery: slots::recovery,
        check: slots::check,
        ..PLAIN
    },
    Workload { name: "sync-fails", script: sync_fails, ..PLAIN },
    Workload {
        name: "repair",
        share: 3,
        base: repair::damaged,
        script: repair::script,
        recovery: repair::script,
        check: repair::check,
        ..PLAIN
    },
    Workload { name: "damage", script: damage::script, check: damage::check, ..PLAIN },
    Workload {
        name: "follow",
        share: 3,
        plan: |_| Plan { preallocate: Preallocate::Grow, ..Plan::default() },
        script: follow::script,
        recovery: follow::recovery,
        check: follow::check,
        ..PLAIN
    },
    Workload {
        name: "table",
        plan: any_zeros,
        base: table::created,
        script: table::script,
        recovery: table::recover,
        check: table::check,
        ..ROWS
    },
    Workload {
        name: "snapshot",
        script: table::publish_script,
        recovery: table::publish_recovery,
        check: table::publish_check,
        ..ROWS
    },
    Workload {
        name: "restore",
        base: table::published,
        script: table::restore_script,
        recovery: table::restore_recovery,
        check: table::restore_check,
        ..ROWS
    },
    Workload {
        name: "follow-table",
        plan: |_| Plan { preallocate: Preallocate::Grow, ..Plan::default() },
        base: table::created,
        script: follow::script,
        recovery: follow::recovery,
        check: follow::check,
        ..ROWS
    },
];

fn any_zeros(dice: &mut Dice) -> Plan {
    let preallocate = match dice.below(3) {
        0 => Preallocate::Grow,
        _ => Preallocate::Auto,
    };
    Plan { preallocate, ..Plan::default() }
}

fn compressed(dice: &mut Dice) -> Plan {
    let compression = if dice.once_in(2) { Compression::Lz4 } else { Compression::Zstd };
    Plan { compression, ..any_zeros(dice) }
}

fn nothing() -> (Sim, Told) {
    (Sim::new(1), Told::default())
}

/// An empty log, created and closed.
fn created(plan: Plan) -> (Sim, Told) {
    let (sim, told) = nothing();
    let stage = Stage::powered(sim.clone(), told, plan, Dice(0));
    let log = stage.options().open(DIR).expect("an empty disk takes a log");
    log.close().expect("nothing stands against closing");
    (settled(&sim), stage.told)
}

/// The machine after a power cut that lost nothing.
pub fn settled(sim: &Sim) -> Sim {
    sim.crash(&tidelog::fs::sim::Crash::KeepAll)
}

fn any_durability(dice: &mut Dice) -> Durability {
    match dice.below(4) {
        0 => Durability::Buffered,
        1 => Durability::Written,
        _ => Durability::Durable,
    }
}

fn create(stage: &mut Stage) -> Step {
    stage.open()?;
    if stage.dice.once_in(2) {
        let len = stage.dice.between(1, 900);
        stage.append_one(len)?;
    }
    stage.close()?;
    stage.open()?;
    stage.append(2, 40, Durability::Durable)?;
    stage.kill();
    stage.open()
}

fn append(stage: &mut Stage) -> Step {
    stage.open()?;
    for _ in 0..stage.dice.between(6, 10) {
        let (count, len) = (stage.dice.between(1, 4), stage.dice.between(0, 700));
        let durability = any_durability(&mut stage.dice);
        match stage.dice.below(5) {
            0 => stage.append_one(len)?,
            1 => stage.sync()?,
            _ => stage.append(count, len, durability)?,
        }
    }
    stage.sync()
}

/// Several producers stage, and wait in any order: one group each round.
fn group(stage: &mut Stage) -> Step {
    stage.open()?;
    for _ in 0..stage.dice.between(2, 4) {
        let mut tickets = Vec::new();
        for _ in 0..stage.dice.between(2, 5) {
            let (count, len) = (stage.dice.between(1, 5), stage.dice.between(1, 1500));
            tickets.push(stage.submit(count, len)?);
            if stage.dice.once_in(3) {
                let ticket = &tickets[stage.dice.below(2) as usize % tickets.len()];
                stage.wait(ticket, Durability::Written)?;
            }
        }
        while !tickets.is_empty() {
            let next = stage.dice.pick(tickets.len());
            let ticket = tickets.swap_remove(next);
            stage.wait(&ticket, Durability::Durable)?;
        }
    }
    stage.close()
}

fn roll(stage: &mut Stage) -> Step {
    stage.open()?;
    for _ in 0..stage.dice.between(8, 12) {
        let len = stage.dice.between(4_000, 14_000);
        let durability = any_durability(&mut stage.dice);
        if stage.dice.once_in(2) {
            // STATE speaks for the rolled segment before it is sealed.
            stage.machine.advance(std::time::Duration::from_millis(6));
        }
        stage.append(1, len, durability)?;
        if stage.dice.once_in(4) {
            stage.append(2, 100, Durability::Durable)?;
        }
    }
    stage.sync()
}

/// Unsynced segments pile up before one sync.
fn bulk(stage: &mut Stage) -> Step {
    stage.open()?;
    for _ in 0..2 {
        for _ in 0..stage.dice.between(6, 10) {
            let (count, len) = (stage.dice.between(1, 2), stage.dice.between(9_000, 14_000));
            let durability = match stage.dice.once_in(2) {
                true => Durability::Written,
                false => Durability::Buffered,
            };
            stage.append(count, len, durability)?;
        }
        stage.sync()?;
    }
    stage.append(1, 50, Durability::Durable)
}

/// Closing seals what was rolled; another epoch goes on.
fn seal(stage: &mut Stage) -> Step {
    stage.open()?;
    for _ in 0..2 {
        for _ in 0..stage.dice.between(5, 7) {
            let len = stage.dice.between(9_000, 14_000);
            let producer = stage.dice.once_in(2);
            match producer {
                true => stage.produce(1, 1, len, Durability::Durable)?,
                false => stage.append(1, len, Durability::Durable)?,
            }
        }
        match stage.dice.once_in(2) {
            true => stage.close()?,
            false => stage.kill(),
        }
        stage.open()?;
    }
    stage.append(1, 50, Durability::Durable)?;
    stage.close()
}

fn reopen(stage: &mut Stage) -> Step {
    for _ in 0..stage.dice.between(3, 5) {
        stage.open()?;
        for _ in 0..stage.dice.below(4) {
            let (count, len) = (stage.dice.between(1, 3), stage.dice.between(0, 2_000));
            let durability = any_durability(&mut stage.dice);
            stage.append(count, len, durability)?;
        }
        match stage.dice.below(5) {
            0 => stage.kill(),
            _ => stage.close()?,
        }
    }
    stage.open()?;
    stage.append(1, 9, Durability::Buffered)?;
    stage.append(1, 9, Durability::Durable)
}

/// Processes die with writes in the page cache, which the next one reads and must settle.
fn kill(stage: &mut Stage) -> Step {
    for _ in 0..stage.dice.between(2, 3) {
        stage.open()?;
        for _ in 0..stage.dice.between(2, 5) {
            let most = if stage.dice.once_in(4) { 14_000 } else { 1_500 };
            let len = stage.dice.between(0, most);
            let durability = match stage.dice.below(4) {
                0 => Durability::Buffered,
                1 => Durability::Durable,
                _ => Durability::Written,
            };
            stage.append(1, len, durability)?;
        }
        stage.kill();
    }
    stage.open()
}

/// Time passes, so that STATE is rewritten after every sync.
fn state(stage: &mut Stage) -> Step {
    stage.open()?;
    for _ in 0..stage.dice.between(4, 6) {
        stage.machine.advance(std::time::Duration::from_millis(6));
        let (count, len) = (stage.dice.between(1, 3), stage.dice.between(0, 900));
        stage.append(count, len, Durability::Durable)?;
        if stage.dice.once_in(3) {
            stage.append(1, len, Durability::Written)?;
        }
        if stage.dice.once_in(4) {
            stage.kill();
            stage.open()?;
        }
    }
    stage.sync()
}

/// Frames that do not fit a staging buffer's half, a segment, or a whole buffer.
fn large(stage: &mut Stage) -> Step {
    stage.open()?;
    for _ in 0..stage.dice.between(3, 4) {
        let len = match stage.dice.below(8) {
            0 => stage.dice.between(1, 800),
            1 => stage.dice.between(1_048_000, 1_060_000),
            2..=4 => stage.dice.between(29_000, 60_000),
            _ => stage.dice.between(60_000, 140_000),
        };
        let durability = any_durability(&mut stage.dice);
        stage.append(1, len, durability)?;
        stage.append(1, 30, Durability::Durable)?;
    }
    stage.close()
}

fn conditional(stage: &mut Stage) -> Step {
    stage.open()?;
    for _ in 0..stage.dice.between(5, 8) {
        let end = stage.told.line.len() as u64;
        let len = stage.dice.between(1, 600);
        match stage.dice.below(5) {
            0 => stage.append(1, len, Durability::Buffered)?,
            1 => stage.append_if(Expect::End(Offset(end + 1)), false, len)?,
            2 => {
                let key = key(stage.told.next_id).to_vec();
                let newest = stage
                    .told
                    .line
                    .iter()
                    .rposition(|sent| super::told::key(sent.id)[..] == key[..]);
                let last = newest.map(|offset| Offset(offset as u64));
                let holds = stage.dice.once_in(2);
                let last = if holds { last } else { Some(Offset(end + 9)) };
                stage.append_if(Expect::Key { key, last }, holds, len)?;
            }
            _ => stage.append_if(Expect::End(Offset(end)), true, len)?,
        }
        if stage.dice.once_in(5) {
            stage.kill();
            stage.open()?;
        }
    }
    stage.close()
}

fn producer(stage: &mut Stage) -> Step {
    stage.open()?;
    for _ in 0..stage.dice.between(6, 9) {
        let producer = u8::try_from(stage.dice.below(3)).expect("below 3");
        let count = stage.dice.between(1, 3);
        let most = if stage.dice.once_in(3) { 14_000 } else { 500 };
        let len = stage.dice.between(1, most);
        let durability = any_durability(&mut stage.dice);
        stage.produce(producer, count, len, durability)?;
        if stage.dice.once_in(4) {
            stage.retry_all()?;
        }
        match stage.dice.below(8) {
            0 => stage.kill(),
            1 => stage.close()?,
            _ => continue,
        }
        stage.open()?;
        stage.retry_all()?;
    }
    stage.sync()
}

/// Each durable group has pages of its own: a sector torn in one harms no other.
fn isolate(stage: &mut Stage) -> Step {
    stage.open()?;
    for _ in 0..stage.dice.between(5, 8) {
        let (count, len) = (stage.dice.between(1, 3), stage.dice.between(0, 5_000));
        let durability = any_durability(&mut stage.dice);
        stage.append(count, len, durability)?;
    }
    stage.close()?;
    stage.open()?;
    stage.append(1, 70, Durability::Durable)
}

fn retain(stage: &mut Stage) -> Step {
    stage.open()?;
    for _ in 0..stage.dice.between(12, 15) {
        let len = stage.dice.between(9_000, 14_000);
        stage.append(1, len, Durability::Durable)?;
    }
    for _ in 0..2 {
        let end = stage.told.line.len() as u64;
        let keep = Offset(u64::from(stage.dice.between(3, 14)).min(end));
        drop_before(stage, keep)?;
        stage.append(1, 14_000, Durability::Written)?;
        stage.append(1, 200, Durability::Durable)?;
        if stage.dice.once_in(2) {
            stage.close()?;
            stage.open()?;
        }
    }
    stage.close()
}

fn drop_before(stage: &mut Stage, keep: Offset) -> Step {
    let mut policy = Retention { keep_from: Some(keep), dry_run: true, ..Retention::default() };
    let asked = stage.log().retain(&policy).map_err(|e| stage.stopped("retain", &e))?.start.0;
    if asked > keep.0.max(stage.told.floor.0) {
        return stage.violation(format!("keeping from {keep} would drop up to {asked}"));
    }
    stage.told.floor.1 = asked;
    policy.dry_run = false;
    let done = stage.log().retain(&policy).map_err(|e| stage.stopped("retain", &e))?.start.0;
    stage.told.floor.0 = done;
    if done != asked || stage.log().start().0 != done {
        return stage.violation(format!("a dry run said {asked}, dropped up to {done}"));
    }
    Ok(())
}

/// A sync fails once; a second one would succeed and prove nothing.
fn sync_fails(stage: &mut Stage) -> Step {
    stage.open()?;
    for _ in 0..stage.dice.between(1, 2) {
        let len = stage.dice.between(1, 3_000);
        stage.append(1, len, Durability::Durable)?;
    }
    let nth = u64::from(stage.dice.below(3));
    let landed = stage.dice.once_in(3);
    let fault = Fault { landed, ..Fault::on(OpKind::Sync).at("segments/").nth(nth) };
    stage.machine.fail(fault);
    for _ in 0..8 {
        let sent = stage.told.line.len() as u64;
        let len = stage.dice.between(1, 9_000);
        match stage.append(1, len, Durability::Durable) {
            Err(Stop::Violation(_)) if stage.machine.fired() > 0 => {
                // The sync failed: this append's outcome is unknown, and so are all later ones.
                if stage.told.line.len() as u64 == sent {
                    return stage.violation("an append failed before it was sent");
                }
            }
            other => other?,
        }
        if stage.machine.fired() > 0 && stage.dice.once_in(3) {
            break;
        }
    }
    stage.machine.heal();
    if stage.machine.fired() > 0 {
        match stage.log().sync() {
            Err(e) if e.kind() == Kind::Poisoned => {}
            Err(e) => return Err(stage.stopped("sync", &e)),
            Ok(_) => return stage.violation("a sync after a failed one was called a success"),
        }
    }
    stage.kill();
    stage.open()?;
    stage.append(1, 60, Durability::Durable)
}
