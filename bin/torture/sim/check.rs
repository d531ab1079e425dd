//! What must hold all along: what was acknowledged, what is shown, what lies on the disks.
//!
//! | promise | held against |
//! |---|---|
//! | acknowledged `durable` | the log as it is opened from what the leader's disk keeps in a power cut |
//! | acknowledged `replicated(k)`, shown under `sync(k)` | k followers, opened from what their disks keep in a power cut |
//! | acknowledged `applied(k)` | the tables of k followers |
//! | acknowledged `archived` | a walk of the store |
//! | a follower's report | its own disk in a power cut |

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tidelog::frame::Mode;
use tidelog::fs::sim::{Crash, Seen, Sim};
use tidelog::replica::Level;
use tidelog::ship::Remote;
use tidelog::{Appended, Follower, Kind, Log, LogByte, Offset};

use crate::dice::Dice;
use crate::rows;

use super::book::Reading;
use super::net::Cable;
use super::walk::check_names;
use super::world::{COPY, DIR, Done, Mate, World};

const HEADER_BYTES: u64 = 4096;
/// Frames of a segment end at least this far before the next one.
const SEAL_BYTES: u64 = tidelog::segment::SEAL_BYTES;

impl World {
    /// After every step.
    pub fn watch(&mut self) -> Done {
        self.look()?;
        self.check_shown()?;
        if let Some(found) = self.net().found.take() {
            return Err(found);
        }
        let operations = self.lead.sim.operations();
        self.note(&format!("{operations}"));
        for who in 0..self.mates.len() {
            let mate = &mut self.mates[who];
            let Some(follower) = &mate.follower else { continue };
            let (shown, end) = (follower.log().end().0, follower.end().0);
            if shown < mate.shown || shown > end {
                return Err(format!(
                    "follower {who} showed {} records, shows {shown}, holds {end}",
                    mate.shown
                ));
            }
            mate.shown = shown;
            let applied = follower.table().applied().map_or(0, |position| position.offset.0);
            mate.applied = mate.applied.max(applied);
            if shown > self.shown && !mate.reads_archive {
                return Err(format!(
                    "follower {who} shows {shown} records, the leader never more than {}",
                    self.shown
                ));
            }
            if self.step.is_multiple_of(16) {
                self.check_report(who)?;
            }
        }
        Ok(())
    }

    /// What the leader's readers see.
    fn check_shown(&mut self) -> Done {
        let Some(up) = &mut self.lead.up else { return Ok(()) };
        let (shown, durable) = (up.log.end().0, up.log.durable_end().0);
        if shown < up.shown || shown > durable {
            return Err(format!(
                "the leader showed {} records, shows {shown}, has {durable} durable",
                up.shown
            ));
        }
        up.shown = shown;
        self.shown = self.shown.max(shown);
        let standing = up.leader.standing();
        let Mode::Sync { k } = standing.mode else { return Ok(()) };
        if standing.changing || shown <= self.counted {
            return Ok(());
        }
        self.counted = shown;
        self.stats.add("commits_checked", 1);
        let held = self.holders(shown, &standing.members)?;
        match held >= k as usize {
            true => Ok(()),
            false => Err(format!(
                "{shown} records are shown under sync({k}), {held} members hold them durably"
            )),
        }
    }

    /// How many followers hold everything below `end` on their disks, come what may; of members,
    /// unless there are none named.
    fn holders(&mut self, end: u64, members: &[tidelog::Id]) -> Result<usize, String> {
        let mut count = 0;
        for who in 0..self.mates.len() {
            let node = self.net().said(who).node;
            let counts = members.is_empty() || node.is_some_and(|node| members.contains(&node));
            if !counts || self.mates[who].reads_archive {
                continue;
            }
            if self.mates[who].held < end {
                self.look_up(who)?;
            }
            count += usize::from(self.mates[who].held >= end);
        }
        Ok(count)
    }

    /// Opens what a power cut would leave of a follower.
    pub fn look_up(&mut self, who: usize) -> Done {
        let mate = &mut self.mates[who];
        let operations = mate.sim.operations();
        if mate.looked == operations {
            return Ok(());
        }
        mate.looked = operations;
        if mate.rotten {
            // It holds less than it did; only what it holds more is of interest.
            if let Ok((_, end)) = recovered(mate, &self.net) {
                mate.held = mate.held.max(end.0);
            }
            return Ok(());
        }
        let end = recovered(mate, &self.net)
            .map_err(|e| format!("follower {who} after a power cut: {e}"))?;
        self.stats.add("power_cuts_looked_at", 1);
        let before = mate.held;
        mate.held = before.max(end.1.0);
        if end.1.0 < before {
            return Err(format!(
                "follower {who} held {} records durably, holds {}",
                mate.held, end.1
            ));
        }
        Ok(())
    }

    /// What a follower said is durable must be.
    fn check_report(&mut self, who: usize) -> Done {
        let said = self.net().said(who).durable;
        let mate = &mut self.mates[who];
        if mate.rotten || mate.reads_archive {
            return Ok(());
        }
        let end = recovered(mate, &self.net)
            .map_err(|e| format!("follower {who} after a power cut: {e}"))?;
        self.stats.add("reports_checked", 1);
        match end.0 >= said {
            true => Ok(()),
            false => Err(format!(
                "follower {who} said that log byte {said} is durable; a power cut leaves {}",
                end.0
            )),
        }
    }

    /// Holds an acknowledgement against the disks.
    pub fn check_ack(
        &mut self,
        number: usize,
        appended: &Appended,
        level: Level,
        copies: usize,
    ) -> Done {
        let end = appended.last.0 + 1;
        let wrong = |found: String| {
            Err(format!("batch {number} at {} is acknowledged ({level}): {found}", appended.first))
        };
        if let Some((first, old)) = self.book.sent[number].acked
            && old >= Level::Durable
        {
            return wrong(format!("it was already, at {first}"));
        }
        if level >= Level::Durable && self.dice.chance(1, 8) {
            let left = self.lead.sim.crash(&Crash::DropAll);
            let log = self
                .options(&left)
                .open(DIR)
                .map_err(|e| format!("the leader after a power cut: {e}"))?;
            self.stats.add("power_cuts_looked_at", 1);
            if log.durable_end().0 < end {
                return wrong(format!("a power cut leaves {} records", log.durable_end()));
            }
        }
        let (k, applied) = match level {
            Level::Replicated(k) => (k, 0),
            Level::Applied(k) => (k, k),
            _ => (0, 0),
        };
        let standing = self.lead.up.as_ref().map(|up| up.leader.standing());
        let asked = standing
            .filter(|standing| k > 0 && !standing.changing)
            .map_or(0, |s| s.mode.commit_k());
        let k = match self
            .lead
            .up
            .as_ref()
            .is_some_and(|up| matches!(up.leader.standing().mode, Mode::Sync { .. }))
        {
            true => k.max(asked),
            false => k,
        };
        let claimed = copies.saturating_sub(1).max(k);
        if claimed > 0 {
            self.stats.add("copies_checked", claimed as u64);
            let held = self.holders(end, &[])?;
            if held < claimed {
                return wrong(format!("{claimed} followers are to hold it, {held} do"));
            }
        }
        if applied > 0 {
            let have = self.mates.iter().filter(|mate| mate.applied >= end).count();
            if have < applied {
                return wrong(format!("{applied} are to have applied it, {have} have"));
            }
        }
        if level == Level::Archived {
            let fake = self.store.as_ref().expect("it was acknowledged so");
            let state = self.walk.go_on(fake)?;
            if state.end_offset < Offset(end) {
                return wrong(format!("the archive ends at {}", state.end_offset));
            }
        }
        Ok(())
    }

    /// The archive: its names, its walk, and that it shows nothing that nobody was promised.
    pub fn check_archive(&mut self, whole: bool) -> Done {
        let Some(fake) = &self.store else { return Ok(()) };
        let state = self.walk.go_on(fake)?;
        check_names(fake)?;
        if let Some(up) = &self.lead.up {
            let standing = up.leader.standing();
            let held = matches!(standing.mode, Mode::Sync { .. }) && !standing.changing;
            let most = self.shown.max(up.log.end().0);
            if held && state.end_offset.0 > most {
                return Err(format!(
                    "the archive shows {} records under {}, committed are {most}",
                    state.end_offset, standing.mode
                ));
            }
        }
        self.stats.add("archive_walks", 1);
        if !whole {
            return Ok(());
        }
        let report =
            tidelog::ship::archive::verify_archive(&fake.client()).map_err(|e| e.to_string())?;
        match report.problems.first() {
            Some(problem) => Err(format!("the archive: {problem:?}")),
            None => Ok(()),
        }
    }

    /// Files and tables of some follower, and the leader's log against the book.
    pub fn compare(&mut self, dice: &mut Dice) -> Done {
        let who = usize::try_from(dice.below(self.mates.len() as u64)).expect("few");
        self.same_files(who)?;
        self.check_table(who)?;
        match self.lead.up.is_some() && dice.chance(1, 2) {
            true => self.check_log(),
            false => Ok(()),
        }
    }

    /// The leader's log holds what was sent, and all that was acknowledged.
    pub fn check_log(&mut self) -> Done {
        let Some(up) = &self.lead.up else { return Ok(()) };
        let log = &up.log;
        let (start, end) = (log.start(), log.durable_end());
        let mut reading = Reading::default();
        let shown = log.end();
        let mut cursor = log.read_range(start..shown).map_err(|e| format!("read: {e}"))?;
        while let Some(entry) = cursor.next().map_err(|e| format!("read: {e}"))? {
            reading.take(&self.book, &entry)?;
        }
        self.stats.add("logs_read", 1);
        // Under a synchronous set what is acknowledged is shown, and what is durable perhaps not yet.
        match shown == end {
            true => reading.finish(&self.book, start.0, end.0),
            false => Ok(()),
        }
    }

    /// A follower's table shows what its log says.
    pub fn check_table(&mut self, who: usize) -> Done {
        let Some(follower) = &self.mates[who].follower else { return Ok(()) };
        let view = follower.table().view();
        let applied = view.applied().map_or(Offset(0), |position| position.offset);
        let rows =
            rows::of_log(&follower.log(), applied).map_err(|e| format!("follower {who}: {e}"))?;
        rows::hold(&view, &rows).map_err(|amiss| format!("follower {who}: {}", amiss.said()))?;
        self.stats.add("tables_compared", 1);
        Ok(())
    }

    /// A follower's segment files are the leader's, as far as they go.
    pub fn same_files(&mut self, who: usize) -> Done {
        if self.lead.up.is_none() {
            // What a power cut left of its unsealed end is not in order yet.
            return Ok(());
        }
        let Some(follower) = &self.mates[who].follower else { return Ok(()) };
        let end = follower.position().log_byte.0;
        let mut alike = std::mem::take(&mut self.mates[who].alike);
        let copy = (&self.mates[who].sim, COPY);
        let compared = hold_files(copy, (&self.lead.sim, DIR), end, &mut alike);
        self.mates[who].alike = alike;
        let compared = compared.map_err(|found| format!("follower {who}: {found}"))?;
        self.stats.add("segments_compared", compared);
        Ok(())
    }
}

/// Sealed segments that were found to be the same at a copy and at its leader, by where they begin: as they were
/// then.
pub(super) type Alike = BTreeMap<u64, (Seen, Seen)>;

/// Holds the segment files of a copy, which goes up to log byte `end`, against its leader's; how many.
pub(super) fn hold_files(
    (copy, dir): (&Sim, &str),
    (leader, leaders_dir): (&Sim, &str),
    end: u64,
    alike: &mut Alike,
) -> Result<u64, String> {
    let (copies, leaders) = (segments(copy, dir), segments(leader, leaders_dir));
    let mut compared = 0;
    for (i, base) in copies.iter().enumerate() {
        if !leaders.contains(base) {
            match leaders.first().is_none_or(|first| base < first) {
                true => continue,
                false => return Err(format!("it has a segment at {base}, the leader has none")),
            }
        }
        let see = |sim: &Sim, dir: &str| {
            sim.see(Path::new(dir).join("segments").join(format!("{base:020}.seg")))
        };
        let (mine, theirs) = (see(copy, dir), see(leader, leaders_dir));
        let until = match copies.get(i + 1) {
            Some(next) => next - base - SEAL_BYTES,
            None => end.saturating_sub(*base).saturating_sub(SEAL_BYTES),
        };
        let until = HEADER_BYTES + until;
        let sealed = copies.get(i + 1).is_some() && mine.bytes() == theirs.bytes();
        compared += 1;
        // What was found to be alike, and has not changed since, is.
        let same = alike
            .get(base)
            .is_some_and(|(one, another)| mine.is_unchanged(one) && theirs.is_unchanged(another));
        if same {
            continue;
        }
        if let Some(at) = mine.differs(&theirs, until) {
            return Err(format!(
                "segment {base} differs at byte {at} of {until}; it has {copies:?}, the leader {leaders:?} up to {end}"
            ));
        }
        if sealed && let Some(at) = mine.differs(&theirs, mine.bytes()) {
            return Err(format!("segment {base} was sealed otherwise, from byte {at} on"));
        }
        if sealed {
            alike.insert(*base, (mine, theirs));
        }
    }
    Ok(compared)
}

/// What a follower comes to from what its disk keeps in a power cut. As long as that is the same, so is what
/// it comes to.
fn recovered(
    mate: &mut Mate,
    net: &Arc<std::sync::Mutex<super::net::Net>>,
) -> tidelog::Result<(LogByte, Offset)> {
    let version = mate.sim.durable_version();
    if let Some((found, end)) = mate.recovered
        && found == version
    {
        return Ok(end);
    }
    let end = recover(&mate.sim, net)?;
    mate.recovered = Some((version, end));
    Ok(end)
}

fn recover(
    sim: &Sim,
    net: &Arc<std::sync::Mutex<super::net::Net>>,
) -> tidelog::Result<(LogByte, Offset)> {
    let left = sim.crash(&Crash::DropAll);
    left.set_capacity(None);
    let options = Log::options().fs(left.shared()).worker(false);
    let nowhere = Remote::over(Cable { net: Arc::clone(net), who: None });
    // Nothing is applied: how far the files go is what is asked.
    let rows = World::rows().apply_delay(std::time::Duration::from_secs(1 << 30));
    match Follower::open_with(options, rows, COPY, nowhere) {
        Ok(follower) => Ok((follower.position().log_byte, follower.end())),
        // It has not come to being: no copy, or none whose directory is durable.
        Err(e) if matches!(e.kind(), Kind::Io | Kind::NotFound | Kind::NotALog) => {
            Ok((LogByte(0), Offset(0)))
        }
        Err(e) => Err(e),
    }
}

/// Log bytes of the segments in a directory.
fn segments(sim: &Sim, dir: &str) -> Vec<u64> {
    let names = sim.names(Path::new(dir).join("segments"));
    let mut bases: Vec<u64> =
        names.iter().filter_map(|name| name.strip_suffix(".seg")?.parse().ok()).collect();
    bases.sort_unstable();
    bases
}
