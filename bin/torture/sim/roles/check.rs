//! What must hold all along, and what at the end.
//!
//! | promise | held against |
//! |---|---|
//! | a promise only rises, and a number is promised once | what each node says after each step, power cuts between |
//! | one leader of an epoch | the nonce and node of whoever acknowledged by that number |
//! | a leader that was replaced acknowledges nothing | what its own node has promised by then |
//! | acknowledged for good | the log of whoever leads next, and of the last one |
//! | shown under synchronous sets | what any node ever shows at that offset |
//! | a token | the record at its offset, wherever it is shown |

use tidelog::replica::Outcome;
use tidelog::{Appended, Epoch, Kind, Offset};

use super::super::book::Reading;
use super::super::world::Done;
use super::World;
use super::node::Role;

impl World {
    /// After every step.
    pub fn watch(&mut self) -> Done {
        self.deliver(false)?;
        let mut operations = 0;
        for who in 0..self.nodes.len() {
            operations += self.nodes[who].sim.operations();
            self.check_promise(who)?;
            self.check_shown(who)?;
            let node = &mut self.nodes[who];
            node.held = node.end().unwrap_or(node.held);
        }
        self.look_at_leaders();
        self.note(&format!("{operations}"));
        Ok(())
    }

    pub fn check_promise(&mut self, who: usize) -> Done {
        let node = &mut self.nodes[who];
        let Some((epoch, owner)) = node.promised() else { return Ok(()) };
        let Some((before, its)) = node.promise.replace((epoch, owner)) else { return Ok(()) };
        match epoch.number > before.number || (epoch, owner) == (before, its) {
            true => Ok(()),
            false => Err(format!(
                "node {who} had promised epoch {before} to {its}, now {epoch} to {owner}"
            )),
        }
    }

    /// What readers of a node see.
    fn check_shown(&mut self, who: usize) -> Done {
        let node = &mut self.nodes[who];
        let Some(log) = node.readable() else { return Ok(()) };
        let shown = log.end().0;
        if shown < node.shown {
            return Err(format!("node {who} showed {} records, shows {shown}", node.shown));
        }
        node.shown = shown;
        node.sure = node.sure.max(shown);
        let from = node.read.min(shown).max(log.start().0);
        if !self.setup.strict || from >= shown {
            return Ok(());
        }
        node.read = shown;
        let mut cursor = log
            .read_range(Offset(from)..Offset(shown))
            .map_err(|e| format!("node {who} is read: {e}"))?;
        loop {
            let entry = match cursor.next() {
                Ok(Some(entry)) => entry,
                Ok(None) => return Ok(()),
                // Its disk may fail a read.
                Err(_) if self.nodes[who].troubled => return Ok(()),
                Err(e) => return Err(format!("node {who} is read: {e}")),
            };
            let known = *self.shown.entry(entry.offset.0).or_insert(entry.timestamp);
            self.stats.add("records_read", 1);
            if known != entry.timestamp {
                return Err(format!(
                    "node {who} shows batch {} at offset {}, where batch {} was shown before",
                    entry.timestamp / 16,
                    entry.offset,
                    known / 16
                ));
            }
        }
    }

    /// An answer is looked at before it leaves: whoever has promised a later epoch says nothing.
    pub fn check_gate(&mut self, outcome: &Outcome, who: usize, epoch: Epoch) -> Done {
        let Outcome::Acked { appended, .. } = outcome else { return Ok(()) };
        match self.nodes[who].promised() {
            Some((promised, _)) if promised.number > epoch.number => Err(format!(
                "node {who} leads epoch {}, has promised {promised}, and acknowledges {}",
                epoch.number, appended.first
            )),
            _ => Ok(()),
        }
    }

    /// Holds an acknowledgement against what was acknowledged before.
    pub fn check_ack(
        &mut self,
        number: usize,
        (who, epoch): (usize, Epoch),
        appended: &Appended,
        kept: bool,
    ) -> Done {
        // Without members nobody is asked for promises: then only number and nonce together are an epoch.
        let nonce = if self.setup.strict && self.vault.is_none() { 0 } else { epoch.nonce };
        let (known, by) = *self.acked_by.entry((epoch.number, nonce)).or_insert((epoch, who));
        if (known, by) != (epoch, who) {
            return Err(format!(
                "epoch {known} of node {by} and epoch {epoch} of node {who} both acknowledge"
            ));
        }
        let sent = &self.book.sent[number];
        match sent.acked {
            Some((first, _)) if sent.kept && kept && first != appended.first.0 => Err(format!(
                "batch {number} is acknowledged for good at {}, and was at {first}",
                appended.first
            )),
            _ => Ok(()),
        }
    }

    /// The node that leads by the newest epoch, if that may be known to be the newest.
    pub fn newest_leader(&self) -> Option<usize> {
        let epoch = |who: &usize| match &self.nodes[*who].role {
            Role::Leads(led) if led.leader.fenced().is_none() => Some(led.epoch.number),
            _ => None,
        };
        (0..self.nodes.len()).filter(|who| epoch(who).is_some()).max_by_key(epoch)
    }

    /// Whether anybody has acknowledged anything by a later epoch than this node leads by.
    fn is_outdated(&self, who: usize) -> bool {
        let Role::Leads(led) = &self.nodes[who].role else { return true };
        self.acked_by.last_key_value().is_some_and(|((number, _), _)| *number > led.epoch.number)
    }

    /// A new leader is bound to its own epoch, and holds everything that was acknowledged for good.
    pub fn check_beginning(&mut self, who: usize, epoch: Epoch) -> Done {
        let (bound, owner) = self.nodes[who].promised().unwrap_or_default();
        if bound != epoch || Some(owner) != self.nodes[who].id {
            return Err(format!("node {who} leads epoch {epoch}, bound to {bound} of {owner}"));
        }
        match self.dice.chance(1, 3) {
            true => self.check_log(who),
            false => Ok(()),
        }
    }

    /// The log of a leader holds what was sent, each once, and all that was acknowledged for good.
    pub fn check_log(&mut self, who: usize) -> Done {
        match self.is_outdated(who) || self.nodes[who].troubled {
            true => Ok(()),
            false => self.read_log(who).map(drop),
        }
    }

    /// The same, of the last leader; what was read.
    pub fn read_log(&mut self, who: usize) -> Result<Reading, String> {
        let Role::Leads(led) = &self.nodes[who].role else { return Ok(Reading::default()) };
        let log = &led.log;
        let (shown, end) = (log.end(), log.durable_end());
        // What is not shown yet is there all the same, and may be all that a new leader has of it.
        let hidden = end > shown;
        let mut reading = self.dropped.below(log.start().0);
        let mut cursor =
            log.read_range(log.start()..shown).map_err(|e| format!("node {who} is read: {e}"))?;
        while let Some(entry) = cursor.next().map_err(|e| format!("node {who} is read: {e}"))? {
            reading.take(&self.book, &entry).map_err(|e| format!("node {who}: {e}"))?;
        }
        self.stats.add("logs_read", 1);
        let lost = reading
            .kept(&self.book, if hidden { shown.0 } else { u64::MAX })
            .map_err(|e| format!("node {who} leads epoch {}: {e}", led.epoch.number))?;
        let most =
            self.book.sent.iter().filter(|sent| sent.kept).filter_map(|sent| sent.end()).max();
        if most.is_some_and(|most| most > end.0) {
            return Err(format!(
                "node {who} leads epoch {} with {end} records, {most:?} were acknowledged for good",
                led.epoch.number
            ));
        }
        if !hidden {
            self.stats.counts.insert("acked_and_lost", lost);
        }
        Ok(reading)
    }

    /// A client shows its token to a node.
    pub fn check_token(&mut self, who: usize, which: u64) -> Done {
        if self.tokens.is_empty() || self.nodes[who].troubled {
            return Ok(());
        }
        let at = usize::try_from(which % self.tokens.len() as u64).expect("an index");
        let (number, token) = self.tokens[at];
        let Some(log) = self.nodes[who].readable() else { return Ok(()) };
        self.stats.add("tokens_shown", 1);
        let told = self.book.sent[number].records.last().and_then(|told| told.timestamp);
        match log.check_token(&token) {
            Ok(()) if token.offset >= log.end() || token.offset < log.start() => Ok(()),
            Ok(()) => {
                let found =
                    log.get(token.offset).map_err(|e| format!("node {who} is read: {e}"))?;
                match found.map(|entry| entry.timestamp) == told {
                    true => Ok(()),
                    false => Err(format!(
                        "node {who} honours the token of batch {number} and shows another one at {}",
                        token.offset
                    )),
                }
            }
            Err(error) if error.kind() == Kind::NotInHistory => {
                self.stats.add("tokens_not_in_history", 1);
                match self.setup.strict && self.book.sent[number].kept {
                    true => {
                        Err(format!("node {who} disowns batch {number}, which was kept: {error}"))
                    }
                    false => Ok(()),
                }
            }
            Err(error) if error.kind() == Kind::Stale => {
                self.stats.add("tokens_of_unmet_epochs", 1);
                Ok(())
            }
            Err(error) => Err(format!("node {who} and the token of batch {number}: {error}")),
        }
    }
}
