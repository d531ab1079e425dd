//! Sources that are behind without having lost anything.

use std::path::PathBuf;

use super::*;
use crate::segment::SegmentName;
use crate::ship::{Offer, Report, Shared, Shipped};

/// A node that is asked over the network, and has not heard anybody yet.
#[derive(Debug)]
struct Quiet(Box<dyn Source>);

impl Source for Quiet {
    fn place(&self) -> String {
        self.0.place()
    }
    fn inner(&self) -> Option<&dyn Source> {
        Some(&*self.0)
    }
    fn inner_mut(&mut self) -> Option<&mut dyn Source> {
        Some(&mut *self.0)
    }
    fn file(&self, segment: SegmentName) -> PathBuf {
        self.0.file(segment)
    }
    fn look(&mut self, report: &Report) -> Result<Offer> {
        Ok(Offer { stale: None, ..self.0.look(report)? })
    }
    fn segment(&mut self, segment: SegmentName) -> Result<Shipped> {
        self.0.segment(segment)
    }
    fn read(&mut self, segment: SegmentName, byte: u64, buf: &mut [u8]) -> Result<usize> {
        self.0.read(segment, byte, buf)
    }
    fn wait(&mut self, _: &Report, _: Duration) {}
    fn is_remote(&self) -> bool {
        true
    }
}

/// It led, was replaced, cut what it alone had, and had not heard its new leader yet: whoever still followed it took it
/// for a leader that had lost its disk.
#[test]
fn a_node_that_led_and_follows_again_may_be_behind() {
    let (a, b) = (Sim::new(1), Sim::new(2));
    lead(&a, "shared", 5, 1000, true);
    let cut = a.deep_copy();
    lead(&a, "more", 5, 1000, true);
    follow(&b, &a).unwrap();
    let options = Log::options().fs(b.shared()).worker(false).rejoin(true);
    let quiet = Box::new(Quiet(source(&cut)));
    let error = Follower::open_from(options, rows(), Path::new(NODE), quiet)
        .and_then(|mut follower| follower.catch_up())
        .unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    assert!(error.to_string().contains("it is behind"), "{error}");
}

/// A node that begins to lead right behind the first question where an epoch ends.
#[derive(Debug)]
struct Rises {
    before: Option<Box<dyn Source>>,
    after: Box<dyn Source>,
}

impl Source for Rises {
    fn place(&self) -> String {
        self.after.place()
    }
    fn file(&self, segment: SegmentName) -> PathBuf {
        self.after.file(segment)
    }
    fn look(&mut self, report: &Report) -> Result<Offer> {
        self.after.look(report)
    }
    fn shared(&mut self, report: &Report) -> Result<Shared> {
        match self.before.take() {
            Some(mut before) => before.shared(report),
            None => self.after.shared(report),
        }
    }
    fn segment(&mut self, segment: SegmentName) -> Result<Shipped> {
        self.after.segment(segment)
    }
    fn read(&mut self, segment: SegmentName, byte: u64, buf: &mut [u8]) -> Result<usize> {
        self.after.read(segment, byte, buf)
    }
    fn wait(&mut self, _: &Report, _: Duration) {}
    fn is_remote(&self) -> bool {
        true
    }
}

/// Found by `chaos`: a candidate was asked where the epoch ends, and began to lead before it was asked whether it does.
/// Its answers taken together were those of a leader that had lost what it had shipped, and the node that had that ended.
#[test]
fn who_begins_to_lead_between_two_questions_has_lost_nothing() {
    let (a, b, c) = (Sim::new(1), Sim::new(2), Sim::new(3));
    lead(&a, "shared", 5, 1000, true);
    follow(&c, &a).unwrap();
    let (before, after) = (c.deep_copy(), take_over(&c, "later", 1, 100));
    lead(&a, "more", 5, 1000, true);
    follow(&b, &a).unwrap();
    let rises = Box::new(Rises { before: Some(source(&before)), after: source(&after) });
    let options = Log::options().fs(b.shared()).worker(false).rejoin(true);
    let mut follower = Follower::open_from(options, rows(), Path::new(NODE), rises).unwrap();
    follower.catch_up().unwrap();
    assert_eq!(follower.report().rejoined.as_ref().unwrap().records, 15);
    follower.close().unwrap();
    same(&b, &after, "cut back");
}
