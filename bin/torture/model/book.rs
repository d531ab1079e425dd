//! The model: a plain list of what was sent, and how far it was acknowledged.
//!
//! Invariants: `start ≤ durable ≤ written ≤ sent`, each but `start` the end of a batch. Nothing
//! here knows of segments, frames or files.

use std::collections::{BTreeMap, BTreeSet};

use tidelog::Appended;
use tidelog::frame::Producer;

use crate::told::Told;

/// A batch that a producer sent.
#[derive(Clone, Debug)]
pub struct Produced {
    pub producer: Producer,
    pub first: u64,
    pub last: u64,
}

/// What clients were told.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Every record sent, by offset; those that retention dropped too.
    pub told: Vec<Told>,
    /// Where batches end: a crash leaves all of one, or nothing.
    pub ends: Vec<u64>,
    pub start: u64,
    /// Acknowledged as durable: survives a power cut.
    pub durable: u64,
    /// Acknowledged as written: survives the process.
    pub written: u64,
    pub produced: BTreeMap<u8, Vec<Produced>>,
    /// Every place that was ever given out, those of lost records too.
    places: BTreeSet<(u64, u64)>,
}

impl Book {
    /// How many records were sent.
    pub fn sent(&self) -> u64 {
        self.told.len() as u64
    }

    /// Notes a batch that is about to be appended; returns its first offset.
    pub fn send(&mut self, batch: Vec<Told>) -> u64 {
        let first = self.sent();
        self.told.extend(batch);
        self.ends.push(self.sent());
        first
    }

    /// Takes the last batch back: the log has refused it.
    pub fn unsend(&mut self, first: u64) {
        self.told.truncate(usize::try_from(first).expect("few"));
        self.ends.retain(|end| *end <= first);
    }

    /// Notes where a record was put: no epoch gives an offset twice, not even one that was lost.
    pub fn placed(&mut self, appended: &Appended) -> Result<(), String> {
        match self.places.insert((appended.first.0, appended.epoch.nonce)) {
            true => Ok(()),
            false => Err(format!("{appended:?}: this epoch has given that offset before")),
        }
    }

    /// Notes that everything below `end` is durable.
    pub fn is_durable(&mut self, end: u64) {
        self.durable = self.durable.max(end);
        self.is_written(end);
    }

    /// Notes that everything below `end` is written.
    pub fn is_written(&mut self, end: u64) {
        self.written = self.written.max(end);
    }

    /// A crash has left the records below `end`; `least` is what had to be there.
    pub fn left(&mut self, end: u64, least: u64) -> Result<(), String> {
        if end < least {
            return Err(format!("{least} records were acknowledged, {end} are there"));
        }
        if end > self.sent() {
            return Err(format!("{} records were sent, {end} are there", self.sent()));
        }
        if end != 0 && end != self.start && !self.ends.contains(&end) {
            return Err(format!("a part of a batch is there, up to offset {end}"));
        }
        self.unsend(end);
        for batches in self.produced.values_mut() {
            batches.retain(|batch| batch.last < end);
        }
        (self.durable, self.written) = (end, end);
        Ok(())
    }

    /// The record at an offset.
    pub fn at(&self, offset: u64) -> Option<&Told> {
        self.told.get(usize::try_from(offset).ok()?)
    }

    /// The same, to learn the timestamp that the log gave it.
    pub fn at_mut(&mut self, offset: u64) -> Option<&mut Told> {
        self.told.get_mut(usize::try_from(offset).ok()?)
    }

    /// The last record of a key that is still there.
    pub fn last_of(&self, key: &[u8]) -> Option<u64> {
        (self.start..self.sent()).rev().find(|offset| {
            self.at(*offset).is_some_and(|told| {
                told.key.as_deref() == Some(key) && told.op != tidelog::Op::Event
            })
        })
    }

    /// The first record below `end` that is as new as `time`; `end` if none is.
    pub fn first_since(&self, time: i64, end: u64) -> u64 {
        let new = |offset: &u64| self.at(*offset).and_then(|told| told.timestamp) >= Some(time);
        (self.start..end).find(new).unwrap_or(end)
    }
}
