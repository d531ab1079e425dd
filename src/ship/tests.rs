//! What a directory proves to be durable, to somebody else.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::fs::Fs;
use crate::fs::sim::Sim;
use crate::log::{Append, Durability, Log, MIN_SEGMENT_BYTES};
use crate::record::{Batch, Record};
use crate::replica::Follower;
use crate::table::Table;

const LEADER: &str = "/leader";

fn leader(sim: &Sim) -> Log {
    let options = Log::options().fs(sim.shared()).create(true).worker(false);
    options.segment_bytes(MIN_SEGMENT_BYTES).open(LEADER).unwrap()
}

fn append(log: &Log, durability: Durability, size: usize) {
    let mut batch = Batch::new();
    batch.push(&Record::event(&vec![7; size])).unwrap();
    let how = Append { durability: Some(durability), ..Append::default() };
    log.append_with(&batch, &how).unwrap();
}

fn look(sim: &Sim) -> Offer {
    Directory::open_in(sim.shared(), LEADER).unwrap().look(&Report::default()).unwrap()
}

#[test]
fn while_a_leader_lives_its_state_is_what_counts() {
    let sim = Sim::new(1);
    let log = leader(&sim);
    assert_eq!(look(&sim).durable, LogByte(0));
    append(&log, Durability::Durable, 10);
    assert_eq!(look(&sim).durable, log.durable_position().log_byte);
    assert_eq!(look(&sim).durable_offset, Offset(1));
    append(&log, Durability::Written, 10);
    assert_eq!(look(&sim).durable_offset, Offset(1));
    sim.advance(Duration::from_millis(6));
    append(&log, Durability::Durable, 10);
    let offer = look(&sim);
    assert_eq!((offer.durable, offer.durable_offset), (log.durable_position().log_byte, Offset(3)));
    assert_eq!((offer.log, offer.node), (log.id(), Some(log.node())));
    assert_eq!(offer.epoch, log.stats().epoch);
}

#[test]
fn a_dead_leaders_watermarks_prove_what_its_state_had_not_said_yet() {
    for state_is_there in [true, false] {
        let sim = Sim::new(1);
        let log = leader(&sim);
        // All within 5 ms: STATE knows of the first alone.
        for size in [10, 3000, 40_000, 40_000, 100, 20] {
            append(&log, Durability::Durable, size);
        }
        let before_last = log.durable_position();
        append(&log, Durability::Durable, 30);
        assert!(log.segments().len() > 1);
        sim.kill();
        std::mem::forget(log);
        let sim = sim.process();
        if !state_is_there {
            sim.unlink(&Path::new(LEADER).join("STATE")).unwrap();
        }
        let mut source = Directory::open_in(sim.shared(), LEADER).unwrap();
        for _ in 0..2 {
            let offer = source.look(&Report::default()).unwrap();
            assert_eq!((offer.durable, offer.durable_offset), (before_last.log_byte, Offset(6)));
        }
    }
}

#[test]
fn a_followers_copied_watermarks_prove_nothing() {
    let sim = Sim::new(1);
    let log = leader(&sim);
    for _ in 0..20 {
        sim.advance(Duration::from_millis(6));
        append(&log, Durability::Durable, 100);
    }
    let source = Directory::open_in(sim.shared(), LEADER).unwrap();
    let options = Log::options().fs(sim.shared());
    // A table's checkpoint would prove something.
    let table = Table::options().persist(false);
    let mut follower = Follower::open_with(options, table, "/copy", source).unwrap();
    follower.catch_up().unwrap();
    let end = follower.position();
    follower.close().unwrap();
    let mut source = Directory::open_in(sim.shared(), "/copy").unwrap();
    assert_eq!(source.look(&Report::default()).unwrap().durable, end.log_byte);
    sim.unlink(Path::new("/copy/STATE")).unwrap();
    assert_eq!(source.look(&Report::default()).unwrap().durable, LogByte(0));
    // Nor to its own readers.
    let reader = Log::options().fs(sim.shared()).read_only(true).open("/copy").unwrap();
    assert_eq!((reader.end(), reader.confirmed_end()), (Offset(20), Offset(0)));
}

#[test]
fn a_clean_close_and_sealed_segments_prove_their_ends() {
    let sim = Sim::new(1);
    let log = leader(&sim);
    for _ in 0..10 {
        append(&log, Durability::Buffered, 30_000);
    }
    log.sync().unwrap();
    let end = log.durable_position();
    log.close().unwrap();
    sim.unlink(&Path::new(LEADER).join("STATE")).unwrap();
    assert_eq!(look(&sim).durable, end.log_byte);
    sim.unlink(&Path::new(LEADER).join("CONTROL")).unwrap();
    let offer = look(&sim);
    let sealed = offer.segments[..offer.segments.len() - 1].to_vec();
    assert!(sealed.len() > 2);
    // Footers, and the watermarks of the last segment, which this node wrote.
    assert!(offer.durable >= offer.segments[offer.segments.len() - 1].0);
    assert!(offer.durable <= end.log_byte);
}
