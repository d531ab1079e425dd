//! A table, its snapshots and its restores, while calls fail.
//!
//! Whatever fails, what the table shows is what the log holds, read by a plain map; a checkpoint
//! that was confirmed is found after every power cut; what a list of snapshots names is whole; and
//! once nothing fails any more everything is done as if nothing had.

use std::path::{Path, PathBuf};

use tidelog::fs::sim::{Crash, Fault, Sim};
use tidelog::table::{RestoreAt, Snapshots, TableOptions, restore_on};
use tidelog::{Durability, Kind, Log, Table};

use super::client::{Client, DIR, End, Held, small};
use super::variants::{Asked, loses_names};
use crate::rows::{self, Amiss};

use Durability::{Durable, Written};

/// Where snapshots are: where restores from the log look for them.
const SNAPSHOTS: &str = "/log/snapshots";

fn options() -> TableOptions {
    Table::options().delta_bytes(4 << 10).checkpoint_bytes(12 << 10).fan_in(2)
}

/// What clients were told of checkpoints and snapshots.
#[derive(Default)]
struct Promised {
    checkpoint: u64,
    published: Vec<u64>,
}

/// What is done with a table that is open.
type Work = fn(&mut Client, &Table, &mut Promised) -> Held;

fn client(seed: u64, fault: &Fault) -> Client {
    let mut client = Client::new(Sim::new(seed), small, fault.clone());
    client.rows = true;
    client
}

/// Rows come, a table takes them, in several lives of its process.
pub fn kept(seed: u64, fault: &Fault) -> Held<Client> {
    let (mut client, mut told) = (client(seed, fault), Promised::default());
    client.append(2, 500, Durable)?;
    client.arm();
    for round in 0..4 {
        for i in 0..3 {
            client.append(3, 600, if i == 1 { Written } else { Durable })?;
        }
        with_table(&mut client, &mut told, checkpoint)?;
        client.end(if round % 2 == 0 { End::Kill } else { End::Close })?;
    }
    finish(client, &told)
}

/// Snapshots are published, twice as they are and once with their digest.
pub fn published(seed: u64, fault: &Fault) -> Held<Client> {
    let (mut client, mut told) = (client(seed, fault), Promised::default());
    for _ in 0..4 {
        client.append(3, 600, Durable)?;
    }
    with_table(&mut client, &mut told, checkpoint)?;
    client.arm();
    for _ in 0..3 {
        client.append(3, 600, Durable)?;
        with_table(&mut client, &mut told, publish)?;
    }
    finish(client, &told)
}

/// A restore fails, and is done again until it does not.
pub fn restored(seed: u64, fault: &Fault) -> Held<Client> {
    let (mut client, mut told) = (client(seed, fault), Promised::default());
    for _ in 0..5 {
        client.append(3, 600, Durable)?;
    }
    with_table(&mut client, &mut told, publish)?;
    client.append(2, 20_000, Durable)?;
    client.append(2, 20_000, Durable)?;
    client.end(End::Close)?;
    client.arm();
    let done = (0..6).any(|_| match restore(&client.sim, "/restored") {
        Ok(()) => true,
        Err(Amiss::Error(error)) => error.kind() == Kind::AlreadyExists,
        Err(Amiss::Wrong(_)) => true,
    });
    client.heal();
    if !done {
        restore(&client.sim, "/restored").map_err(|amiss| amiss.said())?;
    }
    check_restored(&client.sim, "/restored")?;
    finish(client, &told)
}

/// Opens the table of the open log and works with it; errors are judged.
fn with_table(client: &mut Client, told: &mut Promised, work: Work) -> Held {
    let Some(log) = client.log()? else { return Ok(()) };
    let table = match options().open(log) {
        Ok(table) => table,
        Err(error) => return judge(client, &error),
    };
    if !table.report().findings.is_empty() {
        return Err(format!("nothing is damaged: {:?}", table.report()));
    }
    work(client, &table, told)?;
    hold(client, &table)
}

/// An error is right if any call of the table may fail by this fault.
fn judge(client: &mut Client, error: &tidelog::Error) -> Held {
    client.judge(Asked::Upkeep, error)
}

fn hold(client: &mut Client, table: &Table) -> Held {
    let Some(log) = client.log()? else { return Ok(()) };
    let view = table.view();
    let applied = view.applied().map_or(tidelog::Offset(0), |position| position.offset);
    let held = match rows::of_log(log, applied) {
        Ok(rows) => rows::hold(&view, &rows),
        Err(error) => Err(Amiss::Error(error)),
    };
    match held {
        Err(Amiss::Error(error)) => client.judge(Asked::Read, &error),
        held => held.map_err(|amiss| amiss.said()),
    }
}

fn checkpoint(client: &mut Client, table: &Table, told: &mut Promised) -> Held {
    for _ in 0..2 {
        let Some(log) = client.log()? else { return Ok(()) };
        if let Err(error) = table.catch_up(log) {
            judge(client, &error)?;
        }
        let applied = table.applied().map_or(0, |position| position.offset.0);
        match table.checkpoint() {
            Ok(true) => told.checkpoint = told.checkpoint.max(applied),
            // Another process keeps it, or the directory could not be written to when it opened.
            Ok(false) if !table.report().writes => {}
            Ok(false) => return Err("no checkpoint was made, and no error says why".into()),
            Err(error) => judge(client, &error)?,
        }
    }
    Ok(())
}

fn publish(client: &mut Client, table: &Table, told: &mut Promised) -> Held {
    let snapshots = Snapshots::at_on(client.sim.shared(), Path::new(SNAPSHOTS));
    for digest in [false, true] {
        match snapshots.publish(table, digest) {
            Ok(published) => {
                let at = published.snapshot.position.offset.0;
                told.checkpoint = told.checkpoint.max(at);
                told.published.push(at);
            }
            Err(error) if error.kind() == Kind::Locked && !table.report().writes => {}
            Err(error) => judge(client, &error)?,
        }
    }
    Ok(())
}

fn restore(sim: &Sim, to: &str) -> Result<(), Amiss> {
    restore_on(&sim.process().shared(), Path::new(DIR), Path::new(to), RestoreAt::End)?;
    Ok(())
}

/// What was restored is the log's beginning, and its table the rows of that.
fn check_restored(sim: &Sim, to: &str) -> Held {
    let said = |e: tidelog::Error| format!("restored: {e}");
    let process = sim.process();
    let log = small(&process).create(false).open(to).map_err(said)?;
    let source = Log::options().fs(process.shared()).read_only(true).open(DIR).map_err(said)?;
    let table = options().open(&log).map_err(said)?;
    if !table.report().findings.is_empty() || log.end() > source.end() {
        return Err(format!("restored up to {}: {:?}", log.end(), table.report()));
    }
    let rows = rows::of_log(&source, log.end()).map_err(said)?;
    rows::hold(&table.view(), &rows).map_err(|amiss| format!("restored: {}", amiss.said()))
}

/// Nothing fails any more: after a power cut, and without one, all that was promised is there.
fn finish(mut client: Client, told: &Promised) -> Held<Client> {
    client.heal();
    client.end(End::Drop)?;
    let mut disks = vec![("healed".to_owned(), client.sim.deep_copy())];
    if !loses_names(&client.fault()) {
        let seed = client.fault().nth;
        for crash in [Crash::DropAll, Crash::KeepAll, Crash::Torn { seed }] {
            disks.push((format!("after a power cut ({crash:?})"), client.sim.crash(&crash)));
        }
    }
    for (what, disk) in disks {
        agree(&disk.process(), told).map_err(|found| format!("{what}: {found}"))?;
    }
    client.finish()
}

fn agree(sim: &Sim, told: &Promised) -> Held {
    let said = |e: tidelog::Error| e.to_string();
    let log = small(sim).open(DIR).map_err(said)?;
    // What a life in which a sync failed has left is settled by this.
    log.append(&tidelog::Record::put(b"row/1", b"last")).map_err(said)?;
    for _ in 0..2 {
        let table = options().open(&log).map_err(said)?;
        let found = table.report().checkpoint.map_or(0, |(_, offset)| offset.0);
        if found < told.checkpoint || !table.report().findings.is_empty() {
            return Err(format!(
                "a checkpoint at {} was confirmed: {:?}",
                told.checkpoint,
                table.report()
            ));
        }
        let rows = rows::of_log(&log, log.end()).map_err(said)?;
        rows::hold(&table.view(), &rows).map_err(|amiss| amiss.said())?;
        if !table.checkpoint().map_err(said)? {
            return Err("no checkpoint is made without faults".into());
        }
    }
    let snapshots = Snapshots::at_on(sim.shared(), Path::new(SNAPSHOTS));
    let listed = snapshots.list().map_err(said)?;
    let at = |offset: &u64| listed.iter().any(|s| s.position.offset.0 == *offset);
    if let Some(lost) = told.published.iter().find(|offset| !at(offset)) {
        return Err(format!("a snapshot at {lost} was published, and is gone"));
    }
    for (number, snapshot) in listed.iter().enumerate() {
        let problems = snapshots.verify(snapshot).map_err(said)?;
        if !problems.is_empty() {
            return Err(format!("{}: {problems:?}", snapshot.name));
        }
        let to = PathBuf::from(format!("/tried{number}"));
        let at = RestoreAt::Offset(snapshot.position.offset);
        restore_on(&sim.shared(), Path::new(SNAPSHOTS), &to, at).map_err(said)?;
        let copy = small(sim).create(false).open(&to).map_err(said)?;
        let table = options().open(&copy).map_err(said)?;
        let rows = rows::of_log(&log, snapshot.position.offset).map_err(said)?;
        rows::hold(&table.view(), &rows).map_err(|amiss| amiss.said())?;
    }
    log.close().map_err(said)
}
