//! What is done while calls fail: together, every part of the engine that touches a file.
//!
//! Each workload prepares a machine without faults, arms the fault, and goes to its end whatever
//! fails on the way. All run in one thread, so that the n-th call is the same call in each run.

use std::time::Duration;

use tidelog::fs::sim::{Crash, Fault, OpKind, Sim};
use tidelog::log::Level;
use tidelog::{Compression, Durability, Log, Offset, Options, Preallocate};

use super::client::{Broke, Client, DIR, End, Held, read, small};
use super::variants::Asked;
use super::{follow, table};

use Durability::{Buffered, Durable, Written};

/// A workload: its name, and how it runs with a fault armed.
pub struct Workload {
    pub name: &'static str,
    pub run: fn(seed: u64, fault: &Fault) -> Held<Client>,
}

/// All of them.
pub const ALL: [Workload; 16] = [
    Workload { name: "create", run: create },
    Workload { name: "append", run: append },
    Workload { name: "roll", run: roll },
    Workload { name: "zero", run: zero },
    Workload { name: "bulk", run: bulk },
    Workload { name: "large", run: large },
    Workload { name: "retain", run: retain },
    Workload { name: "slots", run: slots },
    Workload { name: "recover", run: recover },
    Workload { name: "torn", run: torn },
    Workload { name: "read", run: reads },
    Workload { name: "repair", run: repair },
    Workload { name: "follow", run: follow::run },
    Workload { name: "table", run: table::kept },
    Workload { name: "snapshot", run: table::published },
    Workload { name: "restore", run: table::restored },
];

fn client(seed: u64, options: fn(&Sim) -> Options, fault: &Fault) -> Client {
    Client::new(Sim::new(seed), options, fault.clone())
}

/// A log is made, used, closed and used again.
fn create(seed: u64, fault: &Fault) -> Held<Client> {
    let mut client = client(seed, small, fault);
    client.arm();
    for _ in 0..3 {
        client.append(1, 100, Durable)?;
        client.append(1, 100, Written)?;
        client.read_all()?;
        client.end(End::Close)?;
    }
    client.finish()
}

/// Every way to append, within one segment.
fn append(seed: u64, fault: &Fault) -> Held<Client> {
    fn options(sim: &Sim) -> Options {
        small(sim).preallocate(Preallocate::Grow).compression(Compression::Lz4)
    }
    let mut client = client(seed, options, fault);
    client.arm();
    for i in 0..4 {
        client.append(1, 200, Buffered)?;
        client.append(3, 700, Written)?;
        client.append(1 + i, 150, Durable)?;
        client.append_at_end(2, 90, Durable)?;
        client.append_once(2 * i, 300)?;
        client.append_once(2 * i + 1, 300)?;
        client.append(5, 40, Buffered)?;
        client.sync()?;
        client.read_all()?;
    }
    client.end(End::Close)?;
    client.finish()
}

/// Durable appends through rolls and seals, with a process that dies in between.
fn roll(seed: u64, fault: &Fault) -> Held<Client> {
    let mut client = client(seed, small, fault);
    client.arm();
    for i in 0..20 {
        client.append(1 + i % 3, 6_000, if i % 5 == 4 { Written } else { Durable })?;
        if i == 11 {
            client.end(End::Kill)?;
        }
    }
    client.read_all()?;
    client.end(End::Close)?;
    client.finish()
}

/// The same with segments that are filled with zeros ahead, and groups on pages of their own.
fn zero(seed: u64, fault: &Fault) -> Held<Client> {
    fn options(sim: &Sim) -> Options {
        small(sim).preallocate(Preallocate::Zero).isolate_groups(true)
    }
    let mut client = client(seed, options, fault);
    client.arm();
    for i in 0..10 {
        client.append(1, 17_000, if i % 4 == 3 { Buffered } else { Durable })?;
    }
    client.sync()?;
    client.end(End::Close)?;
    client.finish()
}

/// Unsynced bulk over several segments, then one sync for all of them.
fn bulk(seed: u64, fault: &Fault) -> Held<Client> {
    let mut client = client(seed, small, fault);
    client.arm();
    for round in 0..2 {
        for i in 0..14 {
            client.append(2, 11_000, if i % 2 == 0 { Buffered } else { Written })?;
        }
        if round == 0 {
            client.sync()?;
        }
    }
    client.read_all()?;
    client.end(End::Close)?;
    client.finish()
}

/// Frames that no buffer and no segment holds, between small ones.
fn large(seed: u64, fault: &Fault) -> Held<Client> {
    let mut client = client(seed, small, fault);
    client.arm();
    for i in 0..4 {
        client.append(1, 300, Buffered)?;
        client.append(1, 200_000 * (1 + i % 2), if i % 2 == 0 { Durable } else { Written })?;
        client.append(2, 40_000, Written)?;
        client.append(1, 300, Durable)?;
    }
    client.end(End::Close)?;
    client.finish()
}

/// Retention while the log is open, and after it was opened again.
fn retain(seed: u64, fault: &Fault) -> Held<Client> {
    let mut client = client(seed, small, fault);
    for _ in 0..12 {
        client.append(2, 12_000, Durable)?;
    }
    client.end(End::Close)?;
    client.arm();
    client.retain(200_000)?;
    client.append(2, 12_000, Durable)?;
    client.read_all()?;
    client.end(End::Drop)?;
    for _ in 0..6 {
        client.append(2, 12_000, Durable)?;
    }
    client.retain(100_000)?;
    client.read_all()?;
    client.end(End::Close)?;
    client.append(1, 10, Durable)?;
    client.finish()
}

/// Slots are claimed while the log grows, moved and dropped, with retention in between.
fn slots(seed: u64, fault: &Fault) -> Held<Client> {
    let mut client = client(seed, small, fault);
    for _ in 0..6 {
        client.append(2, 12_000, Durable)?;
    }
    client.end(End::Close)?;
    client.arm();
    for node in 0..3 {
        client.claim(node)?;
        client.append(2, 12_000, Durable)?;
        // Moves are written down now and then.
        client.sim.advance(Duration::from_secs(11));
        client.claim(0)?;
        client.retain(50_000)?;
        client.hold_slots()?;
        client.end([End::Close, End::Kill, End::Drop][usize::from(node)])?;
    }
    client.drop_slot(1)?;
    client.retain(50_000)?;
    client.read_all()?;
    client.end(End::Close)?;
    client.finish()
}

/// A log that a power cut left, with all that was written: recovery seals and goes on.
fn recover(seed: u64, fault: &Fault) -> Held<Client> {
    cut(seed, fault, |_| Crash::KeepAll)
}

/// The same with a torn tail, which is set aside.
fn torn(seed: u64, fault: &Fault) -> Held<Client> {
    cut(seed, fault, |client| {
        // The first seed that leaves something to be set aside: it is what this is about.
        let tears = |seed: &u64| {
            let disk = client.sim.crash(&Crash::Torn { seed: *seed });
            let log = small(&disk).open(DIR).expect("a power cut is recovered from");
            log.report().bytes_cut > 0
        };
        let seed = (0..100).find(tears).expect("one of a hundred power cuts tears a tail");
        Crash::Torn { seed }
    })
}

fn cut(seed: u64, fault: &Fault, how: fn(&Client) -> Crash) -> Held<Client> {
    let mut client = client(seed, small, fault);
    for i in 0..9 {
        client.append(2, 9_000, if i < 6 { Durable } else { Written })?;
    }
    let crash = how(&client);
    client.cut(&crash);
    client.arm();
    read_beside(&mut client, true)?;
    client.append(1, 500, Durable)?;
    client.read_all()?;
    client.append(1, 500, Written)?;
    client.end(End::Kill)?;
    client.append(1, 500, Durable)?;
    client.end(End::Close)?;
    client.finish()
}

/// Everything that only reads, on a log that another process writes.
fn reads(seed: u64, fault: &Fault) -> Held<Client> {
    let mut client = client(seed, small, fault);
    for i in 0..12 {
        client.append(2, 9_000, if i % 3 == 1 { Written } else { Durable })?;
    }
    client.sync()?;
    client.arm();
    for map in [true, false] {
        read_beside(&mut client, map)?;
    }
    client.read_all()?;
    client.finish()
}

/// A reader of the log in another process.
fn read_beside(client: &mut Client, map: bool) -> Held {
    let process = client.sim.process();
    let fs = process.shared();
    for level in [Level::Quick, Level::Full] {
        match tidelog::log::verify_on(&fs, DIR.as_ref(), level) {
            Ok(report) if report.problems.is_empty() => {}
            Ok(report) => return Err(format!("verify finds {:?}", report.problems)),
            Err(error) => client.judge(Asked::Read, &error)?,
        }
    }
    let options = || Log::options().fs(process.shared()).read_only(true).map(map);
    let reader = match options().open(DIR) {
        Ok(reader) => reader,
        Err(error) => return client.judge(Asked::Read, &error),
    };
    for _ in 0..4 {
        match read(&reader) {
            Ok((start, found)) => {
                // What lies beyond may be lost in a power cut, and is shown as such.
                let confirmed = reader.confirmed_end().0;
                let found: Vec<_> =
                    found.into_iter().filter(|(offset, _)| *offset < confirmed).collect();
                client.told.hold_prefix(start, &found)?;
                break;
            }
            Err(Broke::Error(error)) => client.judge(Asked::Read, &error)?,
            Err(Broke::Oracle(what)) => return Err(what),
        }
    }
    for offset in [0, 7, 15] {
        match reader.get(Offset(offset)) {
            Ok(Some(entry)) if entry.offset == Offset(offset) => {}
            Ok(None) if reader.end() <= Offset(offset) => {}
            Ok(found) => return Err(format!("offset {offset}: found {found:?}")),
            Err(error) => client.judge(Asked::Read, &error)?,
        }
    }
    if let Err(error) = reader.seek_time(i64::MAX) {
        client.judge(Asked::Read, &error)?;
    }
    let end = reader.end();
    let tailed = reader.tail(end).and_then(|mut tail| {
        tail.next_timeout(Duration::ZERO).map(|entry| entry.map(|entry| entry.offset))
    });
    match tailed {
        Ok(None) => Ok(()),
        Ok(Some(offset)) => Err(format!("a tail at the end {end} finds offset {offset}")),
        Err(error) => client.judge(Asked::Read, &error),
    }
}

/// A sealed segment has rotted; repair puts the lost record on record.
fn repair(seed: u64, fault: &Fault) -> Held<Client> {
    let mut client = client(seed, small, fault);
    for _ in 0..14 {
        client.append(1, 9_000, Durable)?;
    }
    client.end(End::Close)?;
    let first =
        client.sim.paths().into_iter().find(|path| path.extension().is_some_and(|e| e == "seg"));
    let first = first.ok_or("no segment was made")?;
    // In the middle of the second record.
    client.sim.flip(&first, (4096 + 9_000 + 5_000) * 8);
    client.arm();
    for _ in 0..8 {
        // Beside a process that died in the middle of it.
        let process = client.sim.process();
        match tidelog::log::repair_on(&process.shared(), DIR.as_ref(), false) {
            Ok(_) => break,
            Err(error) => client.judge(Asked::Upkeep, &error)?,
        }
        process.kill();
    }
    client.told.lost = vec![(1, 2)];
    client.append(1, 100, Durable)?;
    client.read_all()?;
    client.end(End::Close)?;
    client.finish()
}

/// The kinds of calls at which faults are tried.
pub fn kinds() -> impl Iterator<Item = OpKind> {
    OpKind::ALL.into_iter()
}
