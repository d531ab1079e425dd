//! The leader as a source, whoever that is just now: opened anew when somebody else leads.
//!
//! Called by `replica` like any source; told by whoever finds out who leads. With nobody known to lead it has
//! nothing, and says so; what it says of histories is what the leader's node says.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::segment::SegmentName;
use crate::table::RunId;

use super::{Offer, Report, Shipped, SnapshotOffer, Source};

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

    fn file(&self, segment: SegmentName) -> PathBuf {
        let known = self.source.as_ref();
        known.map_or_else(|| self.place().into(), |(_, source)| source.file(segment))
    }

    fn look(&mut self, report: &Report) -> Result<Offer> {
        self.source()?.look(report)
    }

    // What is asked between two looks is about what the last look found, whoever leads by then.

    fn segment(&mut self, segment: SegmentName) -> Result<Shipped> {
        self.source.as_mut().ok_or_else(nobody)?.1.segment(segment)
    }

    fn read(&mut self, segment: SegmentName, byte: u64, buf: &mut [u8]) -> Result<usize> {
        self.source.as_mut().ok_or_else(nobody)?.1.read(segment, byte, buf)
    }

    fn snapshots(&mut self) -> Result<Vec<SnapshotOffer>> {
        self.source()?.snapshots()
    }

    fn manifest(&mut self, offer: &SnapshotOffer) -> Result<Vec<u8>> {
        self.source.as_mut().ok_or_else(nobody)?.1.manifest(offer)
    }

    fn read_run(
        &mut self,
        offer: &SnapshotOffer,
        run: RunId,
        byte: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        self.source.as_mut().ok_or_else(nobody)?.1.read_run(offer, run, byte, buf)
    }

    fn hold(&mut self, offer: &SnapshotOffer, fs: &dyn Fs) {
        if let Some((_, source)) = &mut self.source {
            source.hold(offer, fs);
        }
    }

    fn release(&mut self) {
        if let Some((_, source)) = &mut self.source {
            source.release();
        }
    }

    fn wait(&mut self, report: &Report, timeout: Duration) {
        match self.source() {
            Ok(source) => source.wait(report, timeout),
            Err(_) => std::thread::sleep(timeout),
        }
    }

    fn acknowledge(&mut self, report: &Report) {
        if let Ok(source) = self.source() {
            source.acknowledge(report);
        }
    }

    fn is_remote(&self) -> bool {
        true
    }
}

impl std::fmt::Debug for Led {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Led").field("place", &self.place()).finish_non_exhaustive()
    }
}
