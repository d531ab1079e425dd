//! A cut on one node's disk, step by step: what a crash at any step leaves, and what is believed of it.
//!
//! One node follows leader after leader, whose histories part wherever they like. It pulls, notes
//! now and then how far it is durable (`STATE`, which is not synced and may lag), cuts what its
//! leader does not have, and crashes; once it really loses its last frame. Evidence of more than is
//! there makes a node unclean, unless a declared cut says why it is gone.
//!
//! Where the cut is to be is the failover model's to show.

use stateright::{Model, Property};

use crate::log::{Epoch, Frame, Log};
use crate::{breaks, holds};

/// Each field is one rule; `true` keeps it.
#[derive(Clone, Copy, Debug)]
struct Guards {
    /// The tail is copied aside before anything of it goes.
    kept_first: bool,
    /// `cut_to` is durable before anything goes.
    declared_first: bool,
    /// Opening finishes a declared cut before anything else.
    finished: bool,
    /// `STATE` says the new end, synced, before `cut_to` is dropped.
    noted_before_dropped: bool,
    /// `cut_to` is dropped once that is so, not kept for later.
    dropped: bool,
    /// A cut voids evidence of the epochs that it names alone.
    names_epochs: bool,
    /// That a log was cut to a place proves that it reached there.
    proves_its_place: bool,
}

const ALL: Guards = Guards {
    kept_first: true,
    declared_first: true,
    finished: true,
    noted_before_dropped: true,
    dropped: true,
    names_epochs: true,
    proves_its_place: true,
};

struct Cuts {
    guards: Guards,
    max_epoch: u8,
    max_frames: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Keep,
    Declare,
    /// One frame a step, the last first.
    Shorten,
    Note,
    Drop,
}

/// `cut_to`: a place, and the epochs of what was above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Declared {
    end: u8,
    epochs: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// The leaders' histories, one an epoch; the node follows the last.
    leaders: Vec<Log>,
    log: Log,
    /// `STATE`.
    noted: (Epoch, u8),
    declared: Option<Declared>,
    /// Unclean until it has so much again.
    lost_below: Option<u8>,
    /// In memory: the cut under way, what it began with, and the steps that are left.
    cutting: Option<(u8, Log, Vec<Step>)>,
    kept: bool,
    losses: u8,
    /// What the node has noted and has not decided to cut.
    owed: u8,
    thrown_away: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// A new leader, who has the beginning of an earlier one's history.
    Elect {
        parent: usize,
        fork: u8,
    },
    Pull,
    Note,
    Cut,
    Crash {
        loses: bool,
    },
}

impl Cuts {
    fn steps(&self) -> Vec<Step> {
        let mut steps = vec![Step::Shorten];
        if self.guards.declared_first {
            steps.insert(0, Step::Declare);
        } else {
            steps.push(Step::Declare);
        }
        if self.guards.kept_first {
            steps.insert(0, Step::Keep);
        } else {
            steps.push(Step::Keep);
        }
        steps.extend(self.settling());
        steps
    }

    /// What is left once a declared cut is done.
    fn settling(&self) -> Vec<Step> {
        match (self.guards.noted_before_dropped, self.guards.dropped) {
            (true, true) => vec![Step::Note, Step::Drop],
            (false, true) => vec![Step::Drop, Step::Note],
            (_, false) => vec![Step::Note],
        }
    }

    fn cut(&self, state: &mut State) -> Option<()> {
        let leader = *state.leaders.last()?;
        if state.cutting.is_none() {
            let end = state.log.common(leader);
            if end == state.log.len() {
                return None;
            }
            state.cutting = Some((end, state.log, self.steps()));
            state.kept = false;
        }
        let (end, whole, steps) = state.cutting.as_mut()?;
        let (end, whole) = (*end, *whole);
        let done = match steps.first()? {
            Step::Keep => {
                state.kept = true;
                true
            }
            Step::Declare => {
                let frames = (end..whole.len()).filter_map(|at| whole.frame(at));
                let epochs = frames.fold(0, |epochs, frame| epochs | bit(frame.epoch()));
                state.declared = Some(Declared { end, epochs });
                state.owed = state.owed.min(end);
                true
            }
            Step::Shorten => {
                state.owed = state.owed.min(end);
                state.log = state.log.cut(end.max(state.log.len().saturating_sub(1)));
                state.log.len() <= end
            }
            Step::Note => {
                state.noted = (state.log.last()?.epoch(), state.log.len());
                true
            }
            Step::Drop => {
                state.declared = None;
                true
            }
        };
        if done {
            steps.remove(0);
        }
        if steps.is_empty() {
            state.cutting = None;
        }
        Some(())
    }

    /// What a node believes of itself when it opens.
    fn open(&self, state: &mut State) {
        let (epoch, end) = state.noted;
        let voids = |declared: Declared| {
            let named = !self.guards.names_epochs || declared.epochs & bit(epoch) != 0;
            end > declared.end && named
        };
        let proven = match state.declared {
            Some(declared) if voids(declared) => {
                if self.guards.proves_its_place {
                    declared.end
                } else {
                    0
                }
            }
            _ => end,
        };
        if proven > state.log.len() {
            state.lost_below = state.lost_below.max(Some(proven));
        }
        if let (Some(declared), true) = (state.declared, self.guards.finished) {
            let left = [&[Step::Shorten][..], &self.settling()].concat();
            state.cutting = Some((declared.end, state.log, left));
        }
    }
}

fn bit(epoch: Epoch) -> u16 {
    1 << epoch.number()
}

impl Model for Cuts {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let epoch = Epoch::new(0, 0);
        let mut history = Log::of(Frame::start(epoch));
        for _ in 1..self.max_frames {
            history.push(Frame::data(epoch));
        }
        vec![State {
            leaders: vec![history],
            log: history.cut(1),
            noted: (epoch, 1),
            declared: None,
            lost_below: None,
            cutting: None,
            kept: false,
            losses: 1,
            owed: 1,
            thrown_away: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (parent, history) in state.leaders.iter().enumerate() {
            actions.extend((1..history.len()).map(|fork| Action::Elect { parent, fork }));
        }
        actions.extend([Action::Pull, Action::Note, Action::Cut]);
        actions.extend([true, false].map(|loses| Action::Crash { loses }));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Elect { parent, fork } => {
                let number = u8::try_from(last.leaders.len()).ok()?;
                if number > self.max_epoch {
                    return None;
                }
                let epoch = Epoch::new(number, 0);
                let mut history = last.leaders[parent].cut(fork);
                history.push(Frame::start(epoch));
                while history.len() < self.max_frames {
                    history.push(Frame::data(epoch));
                }
                state.leaders.push(history);
            }
            Action::Pull => {
                let leader = *last.leaders.last()?;
                if last.cutting.is_some() || last.log.common(leader) < last.log.len() {
                    return None;
                }
                state.log.push(leader.frame(last.log.len())?);
                if last.lost_below.is_some_and(|lost| state.log.len() >= lost) {
                    state.lost_below = None;
                }
            }
            Action::Note => {
                if last.cutting.is_some() {
                    return None;
                }
                state.noted = (last.log.last()?.epoch(), last.log.len());
                state.owed = last.log.len();
            }
            Action::Cut => self.cut(&mut state)?,
            Action::Crash { loses } => {
                let shortened =
                    last.cutting.as_ref().is_some_and(|(_, whole, _)| last.log != *whole);
                state.thrown_away |= shortened && !last.kept;
                state.cutting = None;
                if loses {
                    state.losses = last.losses.checked_sub(1)?;
                    state.log = last.log.cut(last.log.len().checked_sub(1).filter(|end| *end > 0)?);
                }
                self.open(&mut state);
            }
        }
        Some(state).filter(|state| state != last)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(THROWN_AWAY, |_, state: &State| !state.thrown_away),
            Property::always(SILENT, |_, state: &State| {
                state.lost_below.is_some() || state.log.len() >= state.owed || state.losses > 0
            }),
            Property::always(FALSE_ALARM, |_, state: &State| {
                state.lost_below.is_none() || state.losses == 0
            }),
            Property::sometimes(
                "the last leader's history is here, and all is well",
                |model, state: &State| {
                    state.leaders.len() == usize::from(model.max_epoch) + 1
                        && state.leaders.last() == Some(&state.log)
                        && state.losses == 0
                        && state.lost_below.is_none()
                },
            ),
        ]
    }
}

const THROWN_AWAY: &str = "nothing is cut that was not kept";
const SILENT: &str = "who lost what it had noted knows it";
const FALSE_ALARM: &str = "a cut makes nobody unclean";

#[test]
fn a_cut_is_whole_or_not_there_wherever_the_crash_is() {
    holds("cut", of(ALL));
}

fn of(guards: Guards) -> Cuts {
    Cuts { guards, max_epoch: 3, max_frames: 5 }
}

/// A rule's name, the change that switches it off, and what must break.
type Row = (&'static str, fn(&mut Guards), &'static str);

#[test]
fn without_any_one_rule_of_cuts_something_breaks() {
    const NEEDED: &[Row] = &[
        ("keeping first", |g| g.kept_first = false, THROWN_AWAY),
        ("declaring first", |g| g.declared_first = false, FALSE_ALARM),
        ("finishing at open", |g| g.finished = false, SILENT),
        ("noting before dropping", |g| g.noted_before_dropped = false, FALSE_ALARM),
        ("dropping", |g| g.dropped = false, SILENT),
        ("a cut proves its place", |g| g.proves_its_place = false, SILENT),
    ];
    for (off, switch, property) in NEEDED {
        let mut guards = ALL;
        switch(&mut guards);
        breaks("cut", off, of(guards), property);
    }
}

/// While `cut_to` stands nothing is appended, so all evidence above it is of what was cut.
#[test]
fn that_a_cut_names_epochs_is_implied_by_its_being_dropped() {
    let unnamed = Guards { names_epochs: false, ..ALL };
    holds("cut without naming epochs", of(unnamed));
    let kept = Guards { dropped: false, ..unnamed };
    breaks("cut", "dropping and naming epochs", of(kept), SILENT);
}
