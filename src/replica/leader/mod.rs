//! The leader's side of replication: who holds what, what is committed, what an append may say.
//!
//! Called by `server`; uses `log` for frames, `CONTROL` and what readers are shown. Reports are what
//! followers say with each fetch.
//!
//! ```text
//! report ── last ──► rule ── committed ──► the log's readers
//!                     │ wakes
//! append ── admit ── log ── wait for the level ──► Acked | Unknown | Rejected
//! change ── CONTROL ── sync_set frame ──► rule: both sets, until the new one is committed
//! gate ── shut ──► nothing is said any more
//! archive ── publishable ──► whoever publishes ── archived ──► rule
//! spell  ── coordinator, CONTROL ── degraded frame ──► rule: semi-synchronous members are not waited for
//! ```
//!
//! Invariants:
//! - readers are shown at most what the rule calls committed;
//! - a degraded acknowledgement is given only after the coordinator, if there is one, `CONTROL` and a frame of
//!   this epoch have the mark, durably;
//! - one change of the set or of a spell at a time; a set's frame is appended and ruled by under one
//!   lock, so that no report comes in between.

mod append;
mod archive;
mod change;
mod gate;
mod last;
mod outcome;
mod read;
mod rule;
mod spell;
#[cfg(feature = "wire")]
mod voice;

pub use append::Waiting;
pub use archive::Due;
pub use outcome::{Level, Outcome};
pub use read::Reading;

use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::frame::{Mode, SyncSet};
use crate::log::commit::End;
use crate::log::files::SetLine;
use crate::log::{Home, Log};
use crate::mutant::{self, Mutant};
use crate::position::{Epoch, Id, LogByte};
use crate::ship::Report;

use super::Trail;
use rule::Rule;

/// The leader of an open log.
#[derive(Debug)]
pub struct Leader {
    log: Arc<Log>,
    home: Home,
    /// Guards what is known of followers and sets. Held for arithmetic, and while a set's frame is
    /// appended; never while something is synced.
    state: Mutex<State>,
    /// Something in the state has moved.
    moved: Condvar,
    /// One change of sets or spells at a time, CONTROL's sync included. Taken before `state`.
    changing: Mutex<()>,
    /// In bounded mode, checking and appending is one step. Taken before `state`.
    admitting: Mutex<()>,
    stopping: AtomicBool,
}

#[derive(Debug)]
struct State {
    rule: Rule,
    /// When the durable end passed which offset, by the clock that does not jump.
    trail: Trail,
    spell: Spell,
    shelf: archive::Shelf,
    /// What CONTROL says of sets.
    lines: Vec<SetLine>,
    /// What CONTROL says of spells.
    marked: Option<LogByte>,
    /// The log says it, too, durably, in a frame of this epoch.
    said: bool,
    /// What stands at the coordinator of spells.
    registry: spell::Registry,
    /// A spell that begins once the coordinator has its mark: from where on.
    wanted: Option<LogByte>,
    /// Why it leads no more.
    fenced: Option<Error>,
    /// Who lets appends wait.
    holding: usize,
    /// Until when it may answer, if a lease says.
    lease: Option<u64>,
}

/// Whether semi-synchronous members are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spell {
    /// They are.
    None,
    /// They are not; CONTROL has the mark.
    Degraded,
    /// They are again; the mark goes once they hold everything below this.
    Recovering(LogByte),
}

/// What a leader shows of its mode.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Standing {
    /// What an acknowledgement means.
    pub mode: Mode,
    /// The members of the set, this node among them; none under async.
    pub members: Vec<Id>,
    /// Whether the newest set is still to be committed under both rules.
    pub changing: bool,
    /// Whether appends are taken: a frame of this epoch is committed.
    pub started: bool,
    /// Since which log byte acknowledgements may have said `durable` only.
    pub degraded: Option<LogByte>,
    /// The committed end.
    pub committed: End,
}

impl Leader {
    /// Leads a log that was opened for writing, under the newest set in it.
    pub fn lead(log: Arc<Log>) -> Result<Self> {
        Leader::lead_with(log, spell::Registry::Nowhere)
    }

    /// The same for the holder of a coordinator's seat: spells are registered there, too, by
    /// [`register`](Leader::register). One that CONTROL has from before goes on once it is.
    pub fn lead_elected(log: Arc<Log>) -> Result<Self> {
        Leader::lead_with(log, spell::Registry::Unknown)
    }

    fn lead_with(log: Arc<Log>, registry: spell::Registry) -> Result<Self> {
        let home = log.home();
        // Durable at once: members must have the first frame before anything else is taken.
        match home.begin().and_then(|()| home.sync_to(home.appended().0)) {
            // It begins with the first append that finds room.
            Err(e) if matches!(e.kind(), Kind::DiskFull | Kind::Unknown) => {}
            begun => begun?,
        }
        let (mut lines, marked) = home.sets();
        if let Some(at) = lines.iter().position(|line| !line.there) {
            // It was about to be appended: the log says whether it was, and whether others followed it.
            let found = home.sets_behind(lines[at].end)?;
            lines.truncate(at);
            lines.extend(found.into_iter().map(|(end, set)| SetLine { end, there: true, set }));
            lines.drain(..lines.len().saturating_sub(2));
            // Left as it is, it says too much and is found out again at the next start.
            let _ = home.note_sets(&lines, marked);
        }
        let epoch = home.epoch();
        let mut rule = Rule::new(log.node(), epoch, home.epoch_start(epoch), home.committed());
        if let Some(line) = lines.last() {
            check_member(log.node(), &line.set)?;
            rule.newest = Some((line.end, line.set.clone()));
        }
        if let [before, _] = &lines[..] {
            rule.before = Some(before.set.clone());
        }
        let goes_on = marked.filter(|_| registry == spell::Registry::Nowhere);
        // What could not be said yet is said when the members' time is over once more.
        rule.degraded = goes_on.is_some_and(|at| spell::begins(&home, at).is_ok());
        let said = rule.degraded;
        let spell = match marked {
            None => Spell::None,
            Some(_) if rule.degraded => Spell::Degraded,
            // Who holds this epoch's start has all that was acknowledged before.
            Some(_) => Spell::Recovering(rule.start),
        };
        let (trail, shelf) = (Trail::default(), archive::Shelf::default());
        let state = State {
            rule,
            trail,
            spell,
            shelf,
            lines,
            marked,
            said,
            registry,
            wanted: None,
            fenced: None,
            holding: 0,
            lease: None,
        };
        let leader = Leader {
            log,
            home,
            state: Mutex::new(state),
            moved: Condvar::new(),
            changing: Mutex::new(()),
            admitting: Mutex::new(()),
            stopping: AtomicBool::new(false),
        };
        leader.grew();
        Ok(leader)
    }

    /// Takes in what a follower says of itself; an error says that its last frame could not be
    /// looked up here.
    pub fn heard(&self, report: &Report) -> Result<()> {
        let matched = last::matched(&self.home, report)?;
        let now = self.now();
        let promise = report.promise.filter(|_| report.log == Some(self.home.log()));
        self.update(|rule| {
            promise.into_iter().for_each(|promise| rule.bound(promise));
            rule.heard(report, matched, now);
        });
        Ok(())
    }

    /// More may be durable here than before.
    pub fn grew(&self) {
        self.update(|_| {});
    }

    /// What it shows of its mode.
    pub fn standing(&self) -> Standing {
        let state = self.state();
        let rule = &state.rule;
        Standing {
            mode: rule.mode(),
            members: rule.newest.as_ref().map(|(_, set)| set.members.clone()).unwrap_or_default(),
            changing: rule.before.is_some(),
            started: rule.has_started() && !self.lacks_fence(&state),
            degraded: state.marked,
            committed: self.home.committed(),
        }
    }

    /// By which epoch it leads.
    pub fn epoch(&self) -> Epoch {
        self.home.epoch()
    }

    /// Lets nobody wait any longer.
    pub fn stop(&self) {
        self.stopping.store(true, Release);
        drop(self.state());
        self.moved.notify_all();
    }

    /// Changes the rule, then everything that follows from it.
    fn update(&self, change: impl FnOnce(&mut Rule)) {
        let mut state = self.state();
        change(&mut state.rule);
        self.settle(&mut state);
        drop(state);
        self.follow_up();
    }

    /// Settles what is committed, shows it, and wakes who waits.
    fn settle(&self, state: &mut State) {
        if state.fenced.is_some() {
            return;
        }
        let epoch = self.home.epoch();
        if state.rule.epoch != epoch {
            // The first append of a log that had no room for it before.
            state.rule.epoch = epoch;
            state.rule.start = self.home.epoch_start(epoch);
        }
        let durable = self.home.durable();
        state.rule.durable = durable;
        let now = i64::try_from(self.now()).unwrap_or(i64::MAX);
        state.trail.note(now, durable.1);
        self.recover(state);
        state.rule.settle();
        self.show(state);
        self.moved.notify_all();
    }

    /// Shows readers what is committed.
    fn show(&self, state: &mut State) {
        match state.rule.holds() {
            true => {
                self.hold(state);
                self.home.commit(match mutant::on(Mutant::ShowUncommitted) {
                    true => state.rule.durable,
                    false => state.rule.committed,
                });
            }
            false => self.home.release_commits(),
        }
    }

    /// From here on readers are shown only what is committed; what they were shown stays.
    fn hold(&self, state: &mut State) {
        let shown = self.home.hold_commits();
        if shown.0 > state.rule.committed.0 {
            state.rule.committed = shown;
        }
    }

    /// Nanoseconds by a clock that only goes on.
    fn now(&self) -> u64 {
        self.home.fs().elapsed()
    }

    /// How long the k-th best member of the set lacks what it lacks; `None` when so many were not
    /// heard.
    fn kth(&self, state: &State) -> Option<(End, Duration)> {
        let held = state.rule.kth_of_newest()?;
        let now = i64::try_from(self.now()).unwrap_or(i64::MAX);
        let behind = state.trail.behind(held.1, now);
        Some((held, Duration::try_from_secs_f64(behind).unwrap_or(Duration::MAX)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The leader must be in its own set: the promises that a promotion needs are counted so.
fn check_member(node: Id, set: &SyncSet) -> Result<()> {
    if set.mode.k() == 0 || set.has(node) {
        return Ok(());
    }
    Err(Error::new(
        Kind::InvalidInput,
        format!("expected this node, {node}, among the members of the set, found it is none"),
    )
    .help("lead with a member, or make a set that has this node in it"))
}

#[cfg(test)]
mod read_tests;
#[cfg(test)]
mod spell_tests;
#[cfg(test)]
mod tests;
