//! The leader as a source, whoever that is just now: opened anew when somebody else leads.
//!
//! Called by `replica` like any source; told by whoever finds out who leads. With nobody known to lead it has
//! nothing, and says so; what it says of histories is what the leader's node says.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::segment::SegmentName;

use super::{Offer, Report, Shared, Shipped, SnapshotOffer, Source};

/// Where the leader is, as far as anybody knows: a handle for who finds out and who pulls.
#[derive(Clone, Debug, Default)]
pub struct LeaderAt(Arc<Mutex<Option<String>>>);

impl LeaderAt {
    /// The leader's address.
    pub fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets it; whether that changed anything.
    pub fn set(&self, address: Option<String>) -> bool {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *held, address.clone()) != address
    }
}

/// Opens a node's source.
type Opener = Box<dyn Fn(&str) -> Result<Box<dyn Source>> + Send>;

/// The source that the leader is.
pub struct Led {
    at: LeaderAt,
    open: Opener,
    source: Option<(String, Box<dyn Source>)>,
}

impl Led {
    /// Pulls from whoever `at` names; `open` makes a source of an address.
    pub fn new(
        at: LeaderAt,
        open: impl Fn(&str) -> Result<Box<dyn Source>> + Send + 'static,
    ) -> Self {
        Led { at, open: Box::new(open), source: None }
    }

    fn source(&mut self) -> Result<&mut Box<dyn Source>> {
        let address = self.at.get().ok_or_else(nobody)?;
        if self.source.as_ref().is_none_or(|(known, _)| *known != address) {
            self.source = Some((address.clone(), (self.open)(&address)?));
        }
        Ok(&mut self.source.as_mut().expect("opened above").1)
    }
}

fn nobody() -> Error {
    Error::new(Kind::NotLeader, "expected somebody to lead, found nobody who is known to")
        .help("it is looked for as long as this node runs; `tidelog status` of the others says why nobody leads")
}

impl Source for Led {
    fn place(&self) -> String {
        self.at.get().unwrap_or_else(|| "the leader".to_owned())
    }

    // What is asked between two looks is about what the last look found, whoever leads by then.

    fn inner(&self) -> Option<&dyn Source> {
        self.source.as_ref().map(|(_, source)| &**source)
    }

    fn inner_mut(&mut self) -> Option<&mut dyn Source> {
        self.source.as_mut().map(|(_, source)| &mut **source as &mut dyn Source)
    }

    fn file(&self, segment: SegmentName) -> PathBuf {
        self.inner().map_or_else(|| self.place().into(), |source| source.file(segment))
    }

    fn look(&mut self, report: &Report) -> Result<Offer> {
        let offer = self.source()?.look(report)?;
        let circles = |node| offer.node == Some(node) || offer.upstream.contains(&node);
        match report.node.is_some_and(circles) {
            // It may lead in a moment, or learn who does.
            true => Err(Error::new(
                Kind::NotLeader,
                format!("expected {} to lead, found that it follows this node", self.place()),
            )
            .help("it is looked for as long as this node runs who leads")),
            false => Ok(offer),
        }
    }

    fn shared(&mut self, report: &Report) -> Result<Shared> {
        self.source()?.shared(report)
    }

    fn segment(&mut self, segment: SegmentName) -> Result<Shipped> {
        self.inner_mut().ok_or_else(nobody)?.segment(segment)
    }

    fn read(&mut self, segment: SegmentName, byte: u64, buf: &mut [u8]) -> Result<usize> {
        self.inner_mut().ok_or_else(nobody)?.read(segment, byte, buf)
    }

    fn snapshots(&mut self) -> Result<Vec<SnapshotOffer>> {
        self.source()?.snapshots()
    }

    fn snapshots_within(&mut self, bytes: u64) -> Result<Vec<SnapshotOffer>> {
        self.source()?.snapshots_within(bytes)
    }

    fn wait(&mut self, report: &Report, timeout: Duration) {
        match self.source() {
            Ok(source) => source.wait(report, timeout),
            Err(_) => std::thread::sleep(timeout),
        }
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn follows_leader(&self) -> bool {
        true
    }
}

impl std::fmt::Debug for Led {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Led").field("place", &self.place()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::LogByte;

    /// A node that knows more of histories than its segments show.
    #[derive(Debug)]
    struct Knowing;

    impl Source for Knowing {
        fn place(&self) -> String {
            "knowing".into()
        }
        fn file(&self, _: SegmentName) -> PathBuf {
            PathBuf::new()
        }
        fn look(&mut self, _: &Report) -> Result<Offer> {
            Err(nobody())
        }
        fn shared(&mut self, _: &Report) -> Result<Shared> {
            Ok(Shared { end: LogByte(7), ..Shared::default() })
        }
        fn segment(&mut self, _: SegmentName) -> Result<Shipped> {
            Err(nobody())
        }
        fn read(&mut self, _: SegmentName, _: u64, _: &mut [u8]) -> Result<usize> {
            Err(nobody())
        }
        fn wait(&mut self, _: &Report, _: Duration) {}
        fn turn_back(&mut self) -> bool {
            true
        }
    }

    /// Where two histories parted the leader's node knows, also of segments that it has dropped.
    #[test]
    fn what_the_leader_says_of_histories_and_links_is_passed_on() {
        let at = LeaderAt::default();
        let mut led = Led::new(at.clone(), |_| Ok(Box::new(Knowing)));
        assert_eq!(led.shared(&Report::default()).unwrap_err().kind(), Kind::NotLeader);
        at.set(Some("http://127.0.0.1:1".into()));
        assert_eq!(led.shared(&Report::default()).unwrap().end, LogByte(7));
        assert!(led.turn_back());
    }
}
