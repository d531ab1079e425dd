//! The archive while roles change: each leader publishes to it and fences off those before; somebody follows
//! it, and a new node begins with it.
//!
//! | promise | held against |
//! |---|---|
//! | its names are without a gap, and can be walked | after each push |
//! | acknowledged as archived | a walk of the store, and the last history |
//! | nothing that is shown of a strict history is another anywhere | what its follower is shown |
//! | a new node that begins with it | the last leader's files and table |

use std::path::Path;
use std::sync::Arc;

use tidelog::fs::sim::Sim;
use tidelog::log::MIN_SEGMENT_BYTES;
use tidelog::ship::Directory;
use tidelog::ship::archive::fake::Fake;
use tidelog::ship::archive::{Archive, PublishOptions, Publisher, verify_archive};
use tidelog::{Error, Follower, Kind, Log, Offset, Result};

use super::super::check::{Alike, hold_files};
use super::super::walk::{Walk, check_names};
use super::super::world::{Done, World as Fixed};
use super::World;
use super::node::{DIR, Role};

/// The cluster's archive, and who follows it.
#[derive(Debug)]
pub struct Vault {
    pub store: Fake,
    walk: Walk,
    sim: Sim,
    reader: Option<Follower>,
    /// Up to where what it shows was compared.
    read: u64,
    /// Whether an operator gave up what only the archive held.
    pub accepted: bool,
    /// Batches that were acknowledged as archived: where each ends.
    pub acked: Vec<(usize, u64)>,
}

impl Vault {
    pub fn new(seed: u64) -> Self {
        Vault {
            store: Fake::new(),
            walk: Walk::default(),
            sim: Sim::new(seed),
            reader: None,
            read: 0,
            accepted: false,
            acked: Vec::new(),
        }
    }

    fn follow(&self, sim: &Sim, accept_loss: bool) -> Result<Follower> {
        let source = Archive::open(Arc::new(self.store.client()))?;
        let options =
            Log::options().fs(sim.shared()).worker(false).segment_bytes(MIN_SEGMENT_BYTES);
        let options = options.accept_loss(accept_loss);
        Follower::open_from(options, Fixed::rows(), Path::new(DIR), Box::new(source))
    }
}

fn options() -> PublishOptions {
    let mut options = PublishOptions::default();
    // Racing creates take threads; the store is known to be atomic.
    options.probe = false;
    options.tail_bytes = 16 << 10;
    options.rollup_every = 40;
    options
}

impl World {
    /// What a leader's node does when it is time to publish.
    pub fn publish(&mut self, who: usize, accept_loss: bool) -> Done {
        let Some(vault) = &self.vault else { return Ok(()) };
        let store = vault.store.clone();
        let node = &mut self.nodes[who];
        let Role::Leads(led) = &mut node.role else { return Ok(()) };
        if led.passed {
            return Ok(());
        }
        let end = led.leader.publishable();
        let durable = led.log.durable_position();
        let durable = (durable.log_byte, durable.offset);
        if led.publisher.is_none() || accept_loss {
            let mut options = options();
            options.accept_loss = accept_loss;
            let opened = Directory::open_in(node.sim.shared(), DIR)
                .and_then(|from| Publisher::open(node.post.reach(&store), from, options));
            match opened {
                Ok(publisher) => led.publisher = Some(publisher),
                Err(error) => return self.publishing_failed(who, &error),
            }
        }
        let publisher = led.publisher.as_mut().expect("opened just now");
        publisher.knows_durable(durable);
        let pushed = publisher.push_to(end);
        if let Some(held) = publisher.held() {
            led.leader.archived(held);
        }
        self.stats.add("pushes", 1);
        match pushed {
            Ok(pushed) => {
                self.note(&format!("node {who} published to {}", pushed.end));
                self.check_vault(false)
            }
            Err(error) => {
                self.publishing_failed(who, &error)?;
                self.check_vault(false)
            }
        }
    }

    fn publishing_failed(&mut self, who: usize, error: &Error) -> Done {
        self.note(&format!("node {who} publishes: {error}"));
        match error.kind() {
            Kind::Fenced => {
                self.stats.add("publishers_fenced", 1);
                if let Role::Leads(led) = &mut self.nodes[who].role {
                    led.passed = true;
                }
                Ok(())
            }
            Kind::NotInHistory => {
                self.stats.add("publishers_refused", 1);
                Ok(())
            }
            // An entry of this very leadership came late: the next push takes it for what it is.
            Kind::Locked | Kind::Io | Kind::Unknown | Kind::NotFound => Ok(()),
            _ if self.nodes[who].troubled => Ok(()),
            _ => Err(format!("node {who} publishes: {error}")),
        }
    }

    /// The archive's names, and its walk.
    pub fn check_vault(&mut self, whole: bool) -> Done {
        let Some(vault) = &mut self.vault else { return Ok(()) };
        let state = vault.walk.go_on(&vault.store)?;
        check_names(&vault.store)?;
        if let Some((number, end)) =
            vault.acked.iter().filter(|_| !vault.accepted).max_by_key(|(_, end)| *end)
            && state.end_offset.0 < *end
        {
            return Err(format!(
                "batch {number}, which ends at {end}, was acknowledged as archived; the archive ends at {}",
                state.end_offset
            ));
        }
        self.stats.add("archive_walks", 1);
        if !whole {
            return Ok(());
        }
        let report = verify_archive(&vault.store.client()).map_err(|e| e.to_string())?;
        match report.problems.first() {
            Some(problem) => Err(format!("the archive: {problem:?}")),
            None => Ok(()),
        }
    }

    /// A batch is acknowledged as archived.
    pub fn check_archived(&mut self, number: usize, end: u64) -> Done {
        let Some(vault) = &mut self.vault else { return Ok(()) };
        vault.acked.push((number, end));
        self.stats.add("acked_as_archived", 1);
        self.check_vault(false)
    }

    /// Up to where the archive holds the log; everything where there is none.
    pub fn archived_to(&mut self) -> std::result::Result<u64, String> {
        match &mut self.vault {
            Some(vault) => Ok(vault.walk.go_on(&vault.store)?.end_offset.0),
            None => Ok(u64::MAX),
        }
    }

    /// Who follows the archive does a round.
    pub fn read_vault(&mut self) -> Done {
        let Some(vault) = &mut self.vault else { return Ok(()) };
        if vault.reader.is_none() {
            match vault.follow(&vault.sim, !self.setup.strict) {
                Ok(reader) => vault.reader = Some(reader),
                // There is none yet.
                Err(e) if matches!(e.kind(), Kind::NotFound) => return Ok(()),
                Err(e) => return Err(format!("a follower of the archive starts: {e}")),
            }
            vault.read = vault.read.saturating_sub(64);
        }
        let reader = vault.reader.as_mut().expect("opened just now");
        self.stats.add("archive_rounds", 1);
        match reader.step() {
            Ok(_) => {}
            Err(e) if e.kind() == Kind::Diverged && !self.setup.strict => vault.reader = None,
            Err(e) => return Err(format!("a follower of the archive: {e}")),
        }
        let Some(reader) = &vault.reader else { return Ok(()) };
        if !self.setup.strict {
            return Ok(());
        }
        let log = reader.log();
        let (from, end) = (vault.read.min(log.end().0), log.end().0);
        vault.read = end;
        let mut cursor = log
            .read_range(Offset(from)..Offset(end))
            .map_err(|e| format!("a follower of the archive is read: {e}"))?;
        while let Some(entry) =
            cursor.next().map_err(|e| format!("a follower of the archive is read: {e}"))?
        {
            let known = *self.shown.entry(entry.offset.0).or_insert(entry.timestamp);
            if known != entry.timestamp {
                return Err(format!(
                    "the archive shows batch {} at offset {}, where batch {} was shown before",
                    entry.timestamp / 16,
                    entry.offset,
                    known / 16
                ));
            }
        }
        Ok(())
    }

    /// At the end: the archive holds what the leader holds, and a new node that begins with it is the same.
    pub fn check_fresh(&mut self, top: usize) -> Done {
        let Some(vault) = &self.vault else { return Ok(()) };
        let Role::Leads(led) = &self.nodes[top].role else { return Ok(()) };
        let (end, byte) = (led.log.durable_end(), led.log.durable_position().log_byte.0);
        let sim = Sim::new(self.step);
        let mut fresh = vault
            .follow(&sim, false)
            .map_err(|e| format!("a new node begins with the archive: {e}"))?;
        fresh.catch_up().map_err(|e| format!("a new node follows the archive: {e}"))?;
        if fresh.end() != end {
            return Err(format!("the archive ends at {}, the leader at {end}", fresh.end()));
        }
        hold_files((&sim, DIR), (&self.nodes[top].sim, DIR), byte, &mut Alike::new())
            .map_err(|e| format!("a new node of the archive: {e}"))?;
        if fresh.table().digest().map_err(|e| e.to_string())? != self.digest(top)? {
            return Err("a new node of the archive has another digest than the leader".into());
        }
        self.stats.add("begun_with_the_archive", 1);
        self.check_vault(true)
    }

    /// At the end: the leader's archive is up to date; whether it is.
    pub fn is_archived(&mut self, top: usize) -> std::result::Result<bool, String> {
        if self.vault.is_none() {
            return Ok(true);
        }
        let refused = self.stats.counts.get("publishers_refused").copied();
        self.publish(top, false)?;
        let Role::Leads(led) = &self.nodes[top].role else { return Ok(false) };
        let end = led.log.durable_position();
        let held = led.publisher.as_ref().and_then(Publisher::held);
        let mode = led.leader.standing().mode;
        if self.stats.counts.get("publishers_refused").copied() != refused {
            if self.setup.strict {
                return Err(format!(
                    "node {top} leads under {mode}, and the archive does not take it"
                ));
            }
            // An operator gives up what only the archive holds.
            if let Some(vault) = &mut self.vault {
                vault.accepted = true;
            }
            self.stats.add("archive_cut_by_operators", 1);
            self.publish(top, true)?;
            return Ok(false);
        }
        Ok(held == Some((end.log_byte, end.offset)))
    }
}
