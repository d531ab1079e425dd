//! A leader and its follower on one machine, in two processes, while calls of either fail.
//!
//! Whatever fails, the follower ends with the leader's files, byte for byte, and after a power cut
//! it gets there again.

use tidelog::fs::sim::{Crash, Fault, Sim};
use tidelog::ship::Directory;
use tidelog::{Durability, Follower, Log, Table};

use super::client::{Client, DIR, End, Held, small};
use super::variants::{Asked, loses_names};

const COPY: &str = "/copy";

/// Appends on the leader, rounds on the follower, in turn.
pub fn run(seed: u64, fault: &Fault) -> Held<Client> {
    let mut client = Client::new(Sim::new(seed), small, fault.clone());
    client.append(2, 9_000, Durability::Durable)?;
    client.arm();
    let mut follower = None;
    for round in 0..4 {
        for i in 0..3 {
            let durability = if i == 1 { Durability::Written } else { Durability::Durable };
            client.append(2, 9_000, durability)?;
        }
        step(&mut client, &mut follower)?;
        match round {
            // Its process ends in one way or another.
            1 => follower = None,
            2 => {
                if let Some((sim, follower)) = follower.take() {
                    sim.kill();
                    drop(follower);
                }
            }
            _ => {}
        }
    }
    client.end(End::Close)?;
    step(&mut client, &mut follower)?;
    drop(follower);
    // The power fails; both come back and agree.
    client.heal();
    if !loses_names(fault) {
        let mut after = client.sim.crash(&Crash::Torn { seed: fault.nth });
        agree(&after).map_err(|e| format!("after a power cut: {e}"))?;
        after = after.crash(&Crash::DropAll);
        agree(&after).map_err(|e| format!("after a second power cut: {e}"))?;
    }
    agree(&client.sim.deep_copy()).map_err(|e| format!("healed: {e}"))?;
    client.finish()
}

/// One round of the follower, in a process of its own; it is opened if need be.
fn step(client: &mut Client, slot: &mut Option<(Sim, Follower)>) -> Held {
    if slot.is_none() {
        let process = client.sim.process();
        match open(&process) {
            Ok(follower) => *slot = Some((process, follower)),
            Err(error) => return client.judge(Asked::Upkeep, &error),
        }
    }
    let Some((_, follower)) = slot else { return Ok(()) };
    if let Err(error) = follower.catch_up() {
        client.judge(Asked::Upkeep, &error)?;
        // Once more as it is; a follower that cannot go on is opened again.
        let (_, follower) = slot.as_mut().expect("it is open");
        if let Err(error) = follower.catch_up() {
            client.judge(Asked::Upkeep, &error)?;
            *slot = None;
        }
    }
    Ok(())
}

fn open(process: &Sim) -> tidelog::Result<Follower> {
    let source = Directory::open_in(process.shared(), DIR)?;
    let options = Log::options().fs(process.shared()).worker(false);
    // All rows fit, and there is little to clear.
    Follower::open_with(options, Table::options().delta_bytes(64 << 10), COPY, source)
}

/// Without faults: the follower catches up with a leader that was closed, to the last byte.
fn agree(sim: &Sim) -> Held {
    let said = |e: tidelog::Error| e.to_string();
    let leader = small(&sim.process()).open(DIR).map_err(said)?;
    let end = leader.append(&tidelog::Record::event(&crate::oracle::value(u64::MAX, 50)));
    end.map_err(said)?;
    leader.close().map_err(said)?;
    let mut follower = open(&sim.process()).map_err(said)?;
    follower.catch_up().map_err(said)?;
    follower.close().map_err(said)?;
    let files = |dir: &str| -> Vec<_> {
        let segments = format!("{dir}/segments/");
        let paths = sim.paths().into_iter().filter(|path| path.starts_with(&segments));
        paths.map(|path| (path.file_name().map(ToOwned::to_owned), sim.read(&path))).collect()
    };
    let (leads, copies) = (files(DIR), files(COPY));
    if leads != copies {
        let lengths = |files: &[(Option<std::ffi::OsString>, Vec<u8>)]| -> Vec<_> {
            files.iter().map(|(name, bytes)| (name.clone(), bytes.len())).collect()
        };
        return Err(format!(
            "the copy differs: leader {:?}, copy {:?}",
            lengths(&leads),
            lengths(&copies)
        ));
    }
    Ok(())
}
