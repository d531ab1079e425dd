//! The archive's contested sequence: who may append what, whatever the store says or does not say.
//!
//! Two leaderships write to a store whose one promise is create-if-absent. A request lands now,
//! later or never, its answer may be lost, and its writer may stall for as long as it likes between
//! choosing n and sending. A pruner goes on meanwhile. What stood first under each name is kept
//! beside the store as the history that nothing may contradict.
//!
//! A retry sends the same bytes, so a request that is under way twice is one here.

use stateright::{Model, Property};

use crate::{breaks, holds};

const SLOTS: usize = 5;
/// Entries that each writer wants in, its fence among them.
const ENTRIES: u8 = 3;

/// Each field is one rule; `true` keeps it.
#[derive(Clone, Copy, Debug)]
struct Guards {
    /// The store creates a name only where there is none.
    create_if_absent: bool,
    /// Whether a create without an answer counted is read back, not taken for done.
    read_back: bool,
    /// What is found with one's own put id is one's own success.
    own_put: bool,
    /// Nothing is sent for n + 1 while it is unknown whose n is.
    one_at_a_time: bool,
    /// Who meets a newer epoch halts.
    halt_when_fenced: bool,
    /// A new leader takes over everything below its fence, not what it saw before.
    replay_below: bool,
    /// Pruning overwrites by a tombstone, and never frees a name.
    tombstones: bool,
}

const ALL: Guards = Guards {
    create_if_absent: true,
    read_back: true,
    own_put: true,
    one_at_a_time: true,
    halt_when_fenced: true,
    replay_below: true,
    tombstones: true,
};

struct Sequence {
    guards: Guards,
}

/// What an entry says of itself, in a tombstone, too: epoch and number stand for its put id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Entry {
    epoch: u8,
    /// 0 is the fence.
    number: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Has not looked for the end yet.
    New,
    /// Has chosen n; it may stall here.
    Chosen,
    /// Waits for an answer.
    Sent,
    /// Gave up waiting, or was told that something is there.
    Unknown,
    Halted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Writer {
    phase: Phase,
    n: u8,
    number: u8,
    /// Everything before is in its log.
    replayed: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    names: [Option<Entry>; SLOTS],
    pruned: u8,
    /// What stood under each name first.
    first: [Option<Entry>; SLOTS],
    writers: [Writer; 2],
    /// Requests that may still land: slot and entry, in order.
    flying: Vec<(u8, Entry)>,
    /// What its writer was told, or believes, to be in.
    acked: Vec<(u8, Entry)>,
    /// Whether an acked entry was left out by the next leader.
    left_out: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    FindEnd(usize),
    Send(usize),
    /// A request reaches the store; its writer hears of it, or does not.
    Land {
        request: usize,
        heard: bool,
    },
    TimeOut(usize),
    ReadBack(usize),
    Prune(usize),
}

impl Sequence {
    fn entry(&self, state: &State, writer: usize) -> Entry {
        // The second leader's epoch is the later one.
        let epoch = if writer == 0 { 1 } else { 2 };
        Entry { epoch, number: state.writers[writer].number }
    }

    /// This writer's entry is in, as far as it knows.
    fn mine(&self, state: &mut State, writer: usize) {
        let entry = self.entry(state, writer);
        let own = &mut state.writers[writer];
        let n = own.n;
        if entry.number == 0 {
            if self.guards.replay_below {
                own.replayed = n;
            }
            let (fence, replayed) = (n, own.replayed);
            state.left_out |= state
                .acked
                .iter()
                .any(|(at, acked)| acked.epoch < entry.epoch && *at < fence && *at >= replayed);
        }
        let own = &mut state.writers[writer];
        (own.n, own.number, own.phase) = (n + 1, entry.number + 1, Phase::Chosen);
        insert(&mut state.acked, (n, entry));
    }

    /// What stands at n is not this writer's.
    fn theirs(&self, state: &mut State, writer: usize, there: Entry) {
        let mine = self.entry(state, writer);
        let own = &mut state.writers[writer];
        let passes = match there.epoch.cmp(&mine.epoch) {
            // A fence comes behind what older epochs got in; nothing else passes them.
            std::cmp::Ordering::Less => mine.number == 0,
            std::cmp::Ordering::Equal => !self.guards.own_put,
            std::cmp::Ordering::Greater => !self.guards.halt_when_fenced,
        };
        if passes {
            (own.n, own.phase) = (own.n + 1, Phase::Chosen);
        } else {
            own.phase = Phase::Halted;
        }
    }
}

fn insert<T: Ord>(list: &mut Vec<T>, item: T) {
    if let Err(at) = list.binary_search(&item) {
        list.insert(at, item);
    }
}

impl Model for Sequence {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let writer = Writer { phase: Phase::New, n: 0, number: 0, replayed: 0 };
        vec![State {
            names: [None; SLOTS],
            pruned: 0,
            first: [None; SLOTS],
            writers: [writer; 2],
            flying: Vec::new(),
            acked: Vec::new(),
            left_out: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for writer in 0..2 {
            actions.push(match state.writers[writer].phase {
                Phase::New => Action::FindEnd(writer),
                Phase::Chosen => Action::Send(writer),
                Phase::Sent => Action::TimeOut(writer),
                Phase::Unknown => Action::ReadBack(writer),
                Phase::Halted => continue,
            });
        }
        for request in 0..state.flying.len() {
            actions.extend([true, false].map(|heard| Action::Land { request, heard }));
        }
        actions.extend((0..SLOTS - 1).map(Action::Prune));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::FindEnd(writer) => {
                // By galloping: the first name that does not exist.
                let end = (0u8..).zip(state.names).find(|(_, name)| name.is_none())?.0;
                let mine = self.entry(last, writer).epoch;
                let newer = last.names.iter().flatten().any(|there| there.epoch > mine);
                let halts = newer && self.guards.halt_when_fenced;
                let own = &mut state.writers[writer];
                let phase = if halts { Phase::Halted } else { Phase::Chosen };
                (own.n, own.replayed, own.phase) = (end, end, phase);
            }
            Action::Send(writer) => {
                let own = last.writers[writer];
                if usize::from(own.n) >= SLOTS || own.number >= ENTRIES {
                    return None;
                }
                insert(&mut state.flying, (own.n, self.entry(last, writer)));
                state.writers[writer].phase = Phase::Sent;
            }
            Action::Land { request, heard } => {
                let (n, entry) = state.flying.remove(request);
                let name = &mut state.names[usize::from(n)];
                let created = name.is_none();
                if created || !self.guards.create_if_absent {
                    *name = Some(entry);
                    state.pruned &= !(1 << n);
                    state.first[usize::from(n)].get_or_insert(entry);
                }
                let writer = usize::from(entry.epoch - 1);
                let waits = last.writers[writer].phase == Phase::Sent
                    && last.writers[writer].n == n
                    && self.entry(last, writer) == entry;
                match heard {
                    true if !waits => return None,
                    true if created || !self.guards.create_if_absent => {
                        self.mine(&mut state, writer);
                    }
                    true => state.writers[writer].phase = Phase::Unknown,
                    false => {}
                }
            }
            Action::TimeOut(writer) => state.writers[writer].phase = Phase::Unknown,
            Action::ReadBack(writer) => {
                let own = last.writers[writer];
                if !self.guards.read_back {
                    self.mine(&mut state, writer);
                } else if !self.guards.one_at_a_time {
                    // Goes on, and will look later.
                    let own = &mut state.writers[writer];
                    (own.n, own.number, own.phase) = (own.n + 1, own.number + 1, Phase::Chosen);
                } else {
                    match last.names[usize::from(own.n)] {
                        // The same n, the same bytes.
                        None => state.writers[writer].phase = Phase::Chosen,
                        Some(there) if self.guards.own_put && there == self.entry(last, writer) => {
                            self.mine(&mut state, writer);
                        }
                        Some(there) => self.theirs(&mut state, writer, there),
                    }
                }
            }
            Action::Prune(n) => {
                if last.names[n].is_none() || last.names[n + 1].is_none() {
                    return None;
                }
                state.pruned |= 1 << n;
                if !self.guards.tombstones {
                    state.names[n] = None;
                }
            }
        }
        Some(state).filter(|state| state != last)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(KEPT, |_, state: &State| {
                state.acked.iter().all(|(n, entry)| {
                    let below = &state.first[..usize::from(*n)];
                    state.first[usize::from(*n)] == Some(*entry)
                        && state.names[usize::from(*n)].is_none_or(|name| name == *entry)
                        && below.iter().flatten().all(|other| other.epoch <= entry.epoch)
                })
            }),
            Property::always(ONCE, |_, state: &State| {
                let stood: Vec<Entry> = state.first.iter().flatten().copied().collect();
                (1..stood.len()).all(|at| !stood[..at].contains(&stood[at]))
            }),
            Property::always(CONTIGUOUS, |_, state: &State| {
                state.first.windows(2).all(|two| two[0].is_some() || two[1].is_none())
            }),
            Property::always(TAKEN_OVER, |_, state: &State| !state.left_out),
            Property::sometimes("both leaders append", |_, state: &State| {
                [1, 2].iter().all(|epoch| {
                    state.acked.iter().any(|(_, entry)| entry.epoch == *epoch && entry.number > 0)
                })
            }),
            Property::sometimes("a stalled writer finds a tombstone", |_, state: &State| {
                let old = state.writers[0];
                old.phase == Phase::Halted && old.number > 0 && state.pruned >> old.n & 1 == 1
            }),
        ]
    }
}

const KEPT: &str = "an acked entry stands where it was acked, before any newer epoch";
const ONCE: &str = "no entry stands twice";
const CONTIGUOUS: &str = "the sequence has no gap";
const TAKEN_OVER: &str = "a new leader has every acked entry below its fence";

#[test]
fn nothing_acked_is_lost_or_doubled_whatever_the_store_does_not_say() {
    holds("archive, 2 leaders", Sequence { guards: ALL });
}

/// A rule's name, the change that switches it off, and what must break.
type Row = (&'static str, fn(&mut Guards), &'static str);

#[test]
fn without_any_one_rule_of_the_sequence_something_breaks() {
    const NEEDED: &[Row] = &[
        ("create-if-absent", |g| g.create_if_absent = false, KEPT),
        ("reading back", |g| g.read_back = false, KEPT),
        ("one's own put id", |g| g.own_put = false, ONCE),
        ("never n + 1 while n is unknown", |g| g.one_at_a_time = false, CONTIGUOUS),
        ("halting when fenced", |g| g.halt_when_fenced = false, KEPT),
        ("replaying below the fence", |g| g.replay_below = false, TAKEN_OVER),
        ("tombstones", |g| g.tombstones = false, KEPT),
    ];
    for (off, switch, property) in NEEDED {
        let mut guards = ALL;
        switch(&mut guards);
        breaks("archive, 2 leaders", off, Sequence { guards }, property);
    }
}
