//! Whether a follower should try to lead now: decided from what it sees, without I/O and without a clock of
//! its own. Nothing here is about safety, which promises and the archive decide; it is about not changing the
//! leader without need, and about letting the best candidate go first.
//!
//! ```text
//! somebody holds the seat ──► follow
//! free ── a leader is still heard? ── paused? ── too soon after the last? ──► stay, and say why
//!   └── survey ── somebody leads? ── enough can promise? ── little enough is lost? ── the best goes first ──► take
//! ```

use std::time::Duration;

use crate::frame::Mode;
use crate::mutant::{self, Mutant};
use crate::position::LogByte;
use crate::replica::coordinator::Seat;

use super::ask::Standing;
use super::quorum::lacks;

/// How long a better candidate is waited for, for each that is better.
const HEAD_START: Duration = Duration::from_millis(400);
/// What others said counts for so long.
const FRESH: Duration = Duration::from_secs(1);

/// How a node behaves when nobody leads.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Of several that are as far, the highest leads.
    pub priority: u32,
    /// Whether it never leads by itself, and when asked only by an operator.
    pub never_lead: bool,
    /// Under modes that may lose records: the most records that a failover by itself may lose.
    pub max_loss: Option<u64>,
    /// A leader that was heard so lately is not replaced.
    pub patience: Duration,
    /// Two failovers lie at least so far apart, unless the leader's process is known to be gone.
    pub gap: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            priority: 0,
            never_lead: false,
            max_loss: None,
            patience: Duration::from_millis(1500),
            gap: Duration::from_secs(600),
        }
    }
}

/// What a node sees just now.
#[derive(Clone, Debug)]
pub struct Sight<'a> {
    /// By the clock that does not jump, in nanoseconds.
    pub now: u64,
    /// By the wall clock, in nanoseconds since the Unix epoch.
    pub wall: i64,
    /// What stands at the coordinator.
    pub seat: &'a Seat,
    /// This node.
    pub own: &'a Standing,
    /// The others, as far as they answered, and when they were asked.
    pub others: &'a [Standing],
    /// When they were asked; `None` if they were not, since the seat was free.
    pub asked: Option<u64>,
    /// The mode that its log says rules.
    pub mode: Mode,
    /// What is known to be committed.
    pub committed: LogByte,
    /// Behind the last record that the leader was heard to have.
    pub leader_end: u64,
    /// Whether the leader's machine says that nobody listens at the leader's address.
    pub crashed: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// Somebody leads: follow them.
    Follow,
    /// Nothing yet: look again after this time. Why.
    Wait(Duration, String),
    /// Nothing, until something changes or an operator does it. Why.
    Stay(String),
    /// Ask the others how they are.
    Survey,
    /// Take the seat.
    Take,
}

/// A node that decides.
#[derive(Clone, Debug)]
pub struct Election {
    policy: Policy,
    /// Since when the seat is seen to be free.
    free_since: Option<u64>,
}

impl Election {
    /// A node with this policy.
    pub fn new(policy: Policy) -> Self {
        Election { policy, free_since: None }
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What to do, given what is seen.
    pub fn decide(&mut self, sight: &Sight<'_>) -> Move {
        let Sight { now, seat, own, others, .. } = *sight;
        if seat.holder.as_ref().is_some_and(|holder| holder.node != own.node()) {
            self.free_since = None;
            return Move::Follow;
        }
        let since = *self.free_since.get_or_insert(now);
        if self.policy.never_lead {
            return Move::Stay("this node never leads".into());
        }
        if own.report.unclean {
            return Move::Stay(
                "this node lost what it had acknowledged, and fetches it again".into(),
            );
        }
        if let Some(why) = paused(seat) {
            return Move::Stay(why);
        }
        let heard = |standing: &Standing| {
            let heard = standing.heard_ms.filter(|_| !mutant::on(Mutant::IgnoreVeto));
            heard.map(Duration::from_millis).filter(|ago| *ago < self.policy.patience)
        };
        if let Some(ago) = heard(own).filter(|_| !sight.crashed) {
            return Move::Wait(self.policy.patience - ago, "the leader is still heard here".into());
        }
        let age = sight.asked.map(|at| now.saturating_sub(at));
        if age.is_none_or(|age| age > nanos(FRESH)) {
            return Move::Survey;
        }
        if let Some(why) = self.too_soon(sight) {
            return Move::Stay(why);
        }
        if let Some(leads) = others.iter().find(|other| other.leads) {
            return Move::Stay(format!("{} leads, without the coordinator", named(leads)));
        }
        // Who came back after it led is heard by those that still pull from it, and leads no more.
        let hears_me = |other: &Standing| other.leader.is_some() && other.leader == own.address;
        let hears = |other: &Standing| heard(other).is_some() && !hears_me(other);
        if let Some(hears) = others.iter().find(|other| hears(other) && !sight.crashed) {
            return Move::Wait(
                self.policy.patience,
                format!("{} still hears the leader", named(hears)),
            );
        }
        let me = own.node();
        if let Some(lacking) = lacks(own, others) {
            return Move::Stay(format!("found {lacking}"));
        }
        if let Some(set) = own.set().filter(|set| !set.lets_lead(me)) {
            return Move::Stay(format!("this node is no member of the set {set}"));
        }
        if let Some(why) = self.too_much_lost(sight) {
            return Move::Stay(why);
        }
        let better =
            others.iter().filter(|other| rank(other) > rank(own) && other.can_lead()).count();
        let head_start = HEAD_START * u32::try_from(better).unwrap_or(u32::MAX).min(32);
        let waited = Duration::from_nanos(now.saturating_sub(since));
        match head_start.checked_sub(waited).filter(|left| !left.is_zero()) {
            Some(left) => Move::Wait(left, format!("{better} others are better candidates")),
            None => Move::Take,
        }
    }

    fn too_soon(&self, sight: &Sight<'_>) -> Option<String> {
        let since = u64::try_from(sight.wall.saturating_sub(sight.seat.taken?)).ok()?;
        // Who held it last may have it again: that changes nothing.
        let same = sight.seat.last.as_ref().is_some_and(|last| last.node == sight.own.node());
        let left = self.policy.gap.checked_sub(Duration::from_nanos(since))?;
        let was_last = |other: &&Standing| {
            let last = sight.seat.last.as_ref();
            last.is_some_and(|last| last.node == other.node()) && !other.leads
        };
        let last = sight.others.iter().find(was_last);
        // Whoever took it last and says that its epoch never began came to nothing: the leader did not change.
        let in_vain = last.is_some_and(|it| it.report.durable.epoch.number < sight.seat.number);
        // One that may not lead any more has been told so: an operator wants another one.
        let demoted = last.is_some_and(|it| !it.may_lead);
        let waits = !sight.crashed && !same && !in_vain && !demoted && !left.is_zero();
        (waits && !mutant::on(Mutant::IgnoreGap)).then(|| {
            format!(
                "the last failover was {} s ago, and the next one by itself is {} s from now: `tidelog promote` \
                 does it at once",
                since / 1_000_000_000,
                left.as_secs()
            )
        })
    }

    /// Why the seat is let go of again, once it was taken, if so: by what stood there then, which may have come
    /// behind the look that this was decided by.
    pub fn withdraws(&self, sight: &Sight<'_>) -> Option<String> {
        paused(sight.seat).or_else(|| self.too_much_lost(sight))
    }

    /// Why a failover now may lose more than is allowed, if so.
    fn too_much_lost(&self, sight: &Sight<'_>) -> Option<String> {
        let degraded = sight.seat.degraded.is_some();
        let loses = match sight.mode {
            Mode::Async => true,
            Mode::Semi { .. } => degraded,
            // What they promise a failover keeps: the bound, the copies, what is archived.
            Mode::Bounded { .. } | Mode::Sync { .. } | Mode::Archive => false,
        };
        // Where nobody ever led there is nothing.
        let nobody_led = sight.seat.number == 0 && sight.own.report.durable.epoch.number == 0;
        if !loses
            || mutant::on(Mutant::IgnoreMaxLoss)
            || led_last(sight.seat, sight.own)
            || nobody_led
        {
            return None;
        }
        let all = sight.others.iter().chain([sight.own]).filter(|one| !one.report.unclean);
        let best = all.map(|one| one.report.durable.offset.0).max().unwrap_or(0);
        let lost = sight.leader_end.saturating_sub(best);
        match self.policy.max_loss {
            Some(most) if lost <= most => None,
            Some(most) => Some(format!(
                "at least {lost} records would be lost, and --max-loss allows {most}: `tidelog promote` can"
            )),
            None => Some(format!(
                "records may be lost ({lost} are known of), and no --max-loss allows that: `tidelog promote` can"
            )),
        }
    }
}

fn paused(seat: &Seat) -> Option<String> {
    (seat.paused && !mutant::on(Mutant::IgnorePause))
        .then(|| "failover is paused: `tidelog failover resume` lets it go on".into())
}

/// Whether this node led last, and not only took the seat: then it holds all that was acknowledged since.
pub(crate) fn led_last(seat: &Seat, own: &Standing) -> bool {
    let began = |epoch| own.report.durable.epoch == epoch;
    seat.last.as_ref().is_some_and(|last| last.node == own.node() && began(last.epoch))
}

/// Who is the better candidate: further, then of higher priority, then one of them.
fn rank(standing: &Standing) -> impl PartialOrd {
    let at = standing.report.durable;
    (at.epoch, at.log_byte, standing.priority, standing.node())
}

fn named(standing: &Standing) -> String {
    match &standing.name[..] {
        "" => standing.node().to_string(),
        name => name.to_owned(),
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
