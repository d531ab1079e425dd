//! What failovers take away: that all of it is kept, and as much as is said.
//!
//! | promise | held against |
//! |---|---|
//! | what was durable at a leader is in the last history, or in some node's `diverged/`, readable | what leaders held |
//! | a rejoin says how much it cut, and keeps as much | what the node had durable, and the files |
//! | a promotion that says what is lost says no more than is lost | what the last leader held |
//! | a bounded set loses no more than its bound | what was acknowledged under it |

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use tidelog::Epoch;
use tidelog::fs::sim::Sim;
use tidelog::replica::{Rejoined, diverged};

use super::super::book::{MOST, Reading};
use super::super::world::Done;
use super::World;
use super::node::{DIR, Role};

/// A batch that was acknowledged under a bounded set.
#[derive(Clone, Copy, Debug)]
pub struct Bounded {
    number: usize,
    end: u64,
    /// When it was appended.
    at: u64,
}

/// What an epoch acknowledged under one bounded set, unless it had others, too.
#[derive(Clone, Debug)]
pub struct Bound {
    pub bytes: u64,
    pub within: Duration,
    pub acked: Vec<Bounded>,
}

/// What leaders held.
#[derive(Debug, Default)]
pub struct Kept {
    /// Batches that were durable at some leader.
    durable: BTreeSet<usize>,
    /// By epoch; `None` of one that had several sets.
    bounds: BTreeMap<u64, Option<Bound>>,
    /// When batches were last appended.
    pub appended: BTreeMap<usize, u64>,
}

impl Kept {
    /// An acknowledgement under a set with a bound, or without one.
    pub fn acked(&mut self, epoch: Epoch, bound: Option<(u64, Duration)>, number: usize, end: u64) {
        let at = self.appended.get(&number).copied().unwrap_or(0);
        let Some((bytes, within)) = bound else {
            self.bounds.insert(epoch.number, None);
            return;
        };
        let new = || Some(Bound { bytes, within, acked: Vec::new() });
        let known = self.bounds.entry(epoch.number).or_insert_with(new);
        match known {
            Some(known) if (known.bytes, known.within) == (bytes, within) => {
                known.acked.push(Bounded { number, end, at });
            }
            _ => *known = None,
        }
    }

    /// An epoch has another set from here on.
    pub fn changed(&mut self, epoch: Epoch) {
        self.bounds.insert(epoch.number, None);
    }
}

impl World {
    /// What is durable at leaders by now.
    pub fn look_at_leaders(&mut self) {
        for node in &mut self.nodes {
            let Role::Leads(led) = &mut node.role else { continue };
            if led.leader.standing().started
                && let Some(at) = node.post.won.take()
            {
                self.watch.changed(at);
            }
            if self.lesser == Some(led.epoch) && led.leader.standing().degraded.is_none() {
                // Its members have caught up.
                self.lesser = None;
            }
            let durable = led.log.durable_end().0;
            if durable == led.durable && led.placed.is_empty() {
                continue;
            }
            led.durable = durable;
            let kept = &mut self.kept;
            led.placed.retain(|(number, end)| {
                let there = *end <= durable;
                if there {
                    kept.durable.insert(*number);
                }
                !there
            });
        }
    }

    /// A new leader under a bounded set: what the last one acknowledged and this one lacks is within the bound.
    pub fn check_bound(&mut self, who: usize, epoch: Epoch, begins_at: u64) -> Done {
        let before = self.kept.bounds.range(..epoch.number).next_back();
        let Some((last, Some(bound))) = before else { return Ok(()) };
        // Under another set fewer may have promised.
        let Role::Leads(led) = &self.nodes[who].role else { return Ok(()) };
        if !matches!(led.leader.standing().mode, tidelog::frame::Mode::Bounded { .. }) {
            return Ok(());
        }
        let lost: Vec<&Bounded> = bound.acked.iter().filter(|one| one.end > begins_at).collect();
        let (Some(oldest), Some(newest)) =
            (lost.iter().map(|one| one.at).min(), lost.iter().map(|one| one.at).max())
        else {
            return Ok(());
        };
        let records = |number: usize| &self.book.sent[number].records;
        let bytes: usize = lost
            .iter()
            .flat_map(|one| records(one.number))
            .map(|told| told.value.len() + told.key.as_ref().map_or(0, Vec::len))
            .sum();
        let span = Duration::from_nanos(newest - oldest);
        let said = format!(
            "node {who} begins epoch {} at {begins_at}: {} batches of {bytes} bytes and {span:?} that epoch {last} \
             acknowledged are lost",
            epoch.number,
            lost.len()
        );
        self.stats.add("bounded_losses", 1);
        let (bytes, bound) = (bytes as u64, bound.clone());
        // Its clock may run slow.
        match bytes <= bound.bytes && span <= bound.within * 11 / 10 {
            true => Ok(()),
            false => Err(format!("{said}; allowed are {} and {:?}", bound.bytes, bound.within)),
        }
    }

    /// What was cut when a node was opened: as much as it had, and all of it is kept.
    pub fn check_rejoined(&mut self, who: usize, rejoined: &Rejoined, held: u64) -> Done {
        self.stats.add("rejoins", 1);
        self.stats.add("records_cut", rejoined.records);
        let wrong =
            |what: String| Err(format!("node {who} rejoins at {}: {what}", rejoined.from_offset));
        if rejoined.to_offset.0 < held {
            return wrong(format!(
                "it says that it ended at {}, it held {held}",
                rejoined.to_offset
            ));
        }
        let cut = rejoined.to_offset.0 - rejoined.from_offset.0;
        if rejoined.records != cut {
            return wrong(format!("it says that it cut {} records of {cut}", rejoined.records));
        }
        let found = self.read_kept(&self.nodes[who].sim.clone())?;
        let here = found.iter().filter(|one| rejoined.kept.as_ref() == Some(&one.dir));
        let there: u64 = here.map(|one| one.records).sum();
        match there == cut {
            true => Ok(()),
            false => wrong(format!("it cut {cut} records and kept {there}")),
        }
    }

    /// Reads everything that a node keeps of histories that it left.
    fn read_kept(&self, sim: &Sim) -> Result<Vec<Tail>, String> {
        let amiss = |e: tidelog::Error| format!("what was cut cannot be read: {e}");
        let listed = diverged::list_on(&sim.shared(), Path::new(DIR)).map_err(amiss)?;
        let read = |kept: tidelog::Result<diverged::Diverged>| {
            let kept = kept.map_err(amiss)?;
            let mut tail = Tail { dir: kept.dir().to_owned(), records: 0, batches: Vec::new() };
            let mut batches = kept.batches();
            while let Some(entries) = batches.next().map_err(amiss)? {
                for entry in &entries {
                    let number = usize::try_from(entry.timestamp / MOST).unwrap_or(usize::MAX);
                    let at = usize::try_from(entry.timestamp % MOST).unwrap_or(usize::MAX);
                    let told = self.book.sent.get(number).and_then(|sent| sent.records.get(at));
                    if !told.is_some_and(|told| told.is(&entry.as_entry())) {
                        return Err(format!(
                            "what was cut at {} is no record that was sent",
                            entry.offset
                        ));
                    }
                    tail.records += 1;
                    if at + 1 == self.book.sent[number].records.len() {
                        tail.batches.push(number);
                    }
                }
            }
            match tail.records == kept.records() {
                true => Ok(tail),
                false => Err(format!(
                    "{} says {} records, holds {}",
                    kept.name(),
                    kept.records(),
                    tail.records
                )),
            }
        };
        listed.into_iter().map(read).collect()
    }

    /// At the end: what was durable at a leader is in the last log, or is kept.
    pub fn check_kept(&mut self, reading: &Reading) -> Done {
        let mut kept = BTreeSet::new();
        for node in &self.nodes {
            let found =
                self.read_kept(&node.sim).map_err(|e| format!("node {}: {e}", node.number()))?;
            kept.extend(found.iter().flat_map(|tail| tail.batches.iter().copied()));
        }
        let lost = self.kept.durable.iter().filter(|number| reading.place(**number).is_none());
        let lost: Vec<usize> = lost.copied().collect();
        self.stats.add("batches_lost", lost.len() as u64);
        match lost.iter().find(|number| !kept.contains(number)) {
            None => Ok(()),
            Some(number) => Err(format!(
                "batch {number} was durable at a leader, is not in the last log, and nobody keeps it"
            )),
        }
    }
}

/// What was kept by one rejoin.
struct Tail {
    dir: std::path::PathBuf,
    records: u64,
    batches: Vec<usize>,
}
