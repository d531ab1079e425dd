//! A whole failover: numbers are won, members promise, the best candidate leads, the deposed rejoin.
//!
//! The commit model knows how reports travel, what was not synced and what was lost. Here each of
//! these is one step, and the rest of the way is explored: who owns a number, when a leader opens,
//! who may be read, where a rejoining node cuts by question and answer, and what becomes of old
//! copies of a node, and of sets that promise nothing.
//!
//! Standing for more than it shows:
//! - a node that believes it leads goes on until it promises a later epoch: it is the paused leader,
//!   the zombie that is polled, and the late reply;
//! - a question and its answer are one step: the answer is about epochs that have ended and so
//!   never changes;
//! - a cut is one step: the cut model takes it apart.

mod guards;
mod rejoin;
mod rules;
mod tests;

use guards::{Guards, Scope};
use rejoin::Meeting;
use stateright::{Model, Property};

use crate::log::{Epoch, Frame, Log};

pub struct Failover<const N: usize> {
    pub scope: Scope,
    pub guards: Guards,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Follows, or has restarted and is undecided: neither is told from the other.
    Follower,
    /// `best` is the best position that came with a promise.
    Candidate {
        epoch: Epoch,
        promised: u8,
        best: (u8, u8),
    },
    Leader {
        epoch: Epoch,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub promise: Epoch,
    pub log: Log,
    /// As far as this node knows.
    pub committed: u8,
    pub role: Role,
    /// Waits for an operator.
    pub halted: bool,
    /// Is an old copy of itself, and does not know it.
    pub restored: bool,
    /// Has counted copies and not yet replied, where replies are looked at.
    pub owes: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State<const N: usize> {
    nodes: [Node; N],
    /// The last number that the coordinator handed out.
    coordinator: u8,
    forgets: u8,
    restores: u8,
    /// Everything that any leader has ever held committed with copies, and the highest epoch that
    /// did so.
    history: Log,
    by: Epoch,
    /// Who has committed in each epoch number: four bits a number, one a nonce.
    acked_by: u16,
    replaced: bool,
    taken_back: bool,
    fell: bool,
    won_old: bool,
    miscounted: bool,
    cut_known: bool,
    late_reply: bool,
}

impl<const N: usize> State<N> {
    fn node(&self, node: u8) -> &Node {
        &self.nodes[usize::from(node)]
    }

    fn at(&mut self, node: u8) -> &mut Node {
        &mut self.nodes[usize::from(node)]
    }

    fn record_commit(&mut self, epoch: Epoch, committed: Log) {
        if committed.starts_with(self.history) {
            // What the leader commits alone adds no epoch.
            if committed != self.history {
                self.by = self.by.max(epoch);
                self.acked_by |= 1 << (4 * epoch.number() + epoch.nonce());
            }
            self.history = committed;
        } else if !self.history.starts_with(committed) {
            self.replaced = true;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Append {
        leader: u8,
    },
    Change {
        leader: u8,
        set: u8,
    },
    /// A leader's reply, or a promiser's tail: a cut, or the next frame.
    Pull {
        from: u8,
        to: u8,
    },
    Count {
        leader: u8,
    },
    /// A node hears of a leader with a higher epoch and promises that.
    Follow {
        node: u8,
        leader: u8,
    },
    Win {
        node: u8,
    },
    Promise {
        node: u8,
        candidate: u8,
    },
    Lead {
        candidate: u8,
    },
    /// A leader that was paused after counting wakes up and replies, or does not.
    Reply {
        node: u8,
    },
    Restart {
        node: u8,
    },
    /// A node that was closed cleanly and asked all of its peers leads on.
    Continue {
        node: u8,
    },
    /// All of a node's directory becomes what it once was.
    Restore {
        node: u8,
        end: u8,
    },
    ForgetNumbers,
}

impl<const N: usize> Failover<N> {
    pub fn nodes(&self) -> impl Iterator<Item = u8> + use<N> {
        (0u8..8).take(N)
    }

    fn set_promise(&self, state: &mut State<N>, node: u8, epoch: Epoch) {
        let own = state.at(node);
        let fell = epoch.number() < own.promise.number()
            || epoch.number() == own.promise.number() && epoch != own.promise;
        own.promise = epoch;
        own.role = Role::Follower;
        state.fell |= fell;
    }

    /// What who begins anew at its own committed end throws away.
    fn begin_anew(&self, state: &mut State<N>, node: u8) {
        if !self.guards.cut_at_end {
            let own = state.at(node);
            own.log = own.log.cut(own.committed);
        }
    }

    fn append(&self, state: &mut State<N>, leader: u8, frame: Frame) -> Option<()> {
        if state.node(leader).log.len() >= self.scope.max_frames {
            return None;
        }
        state.at(leader).log.push(frame);
        self.settle(state, leader);
        Some(())
    }

    fn win(&self, state: &mut State<N>, node: u8) -> Option<()> {
        let own = *state.node(node);
        let last = own.log.last().map_or(0, |frame| frame.epoch().number());
        let seen = own.promise.number().max(last);
        let read = if self.scope.coordinated { state.coordinator } else { seen };
        let number = 1 + if self.guards.above_seen { read.max(seen) } else { read };
        if number > self.scope.max_epoch || !self.is_member(&own, node) || own.halted {
            return None;
        }
        if self.knows_no_set(own.log) && !self.is_wanted(state, node) {
            return None;
        }
        state.coordinator = number;
        state.won_old |= number <= seen;
        // One nonce a node will do where no node wins a number twice.
        let nonce = if own.restored && self.guards.fresh_nonce { 3 } else { node };
        let epoch = Epoch::new(number, nonce);
        self.set_promise(state, node, epoch);
        let best = if self.guards.positions_after {
            (0, 0)
        } else {
            state.nodes.iter().map(|node| self.position(node.log)).max()?
        };
        state.at(node).role = Role::Candidate { epoch, promised: 1 << node, best };
        Some(())
    }

    fn promise(&self, state: &mut State<N>, node: u8, candidate: u8) -> Option<()> {
        let own = *state.node(node);
        let Role::Candidate { epoch, promised, best } = state.node(candidate).role else {
            return None;
        };
        let other_nonce = !self.guards.nonce && epoch.number() == own.promise.number();
        let rises = epoch.number() > own.promise.number() || other_nonce && epoch != own.promise;
        if own.halted || self.guards.rising && !rises {
            return None;
        }
        self.set_promise(state, node, epoch);
        let told = if self.guards.positions_after { self.position(own.log) } else { best };
        let (promised, best) = (promised | 1 << node, best.max(told));
        state.at(candidate).role = Role::Candidate { epoch, promised, best };
        Some(())
    }

    fn pull(&self, state: &mut State<N>, from: u8, to: u8) -> Option<()> {
        let (source, own) = (*state.node(from), *state.node(to));
        match (source.role, own.role) {
            (Role::Leader { epoch }, Role::Follower) if self.same(own.promise, epoch) => {}
            // Who has less is no judge of what the leader has.
            (Role::Follower, Role::Follower)
                if self.scope.cascades
                    && self.same(source.promise, own.promise)
                    && (!self.guards.serve_ahead
                        || self.position(source.log) > self.position(own.log)) => {}
            (_, Role::Candidate { epoch, promised, .. })
                if promised >> from & 1 == 1
                    && (!self.guards.tail_of_promiser || self.same(source.promise, epoch))
                    && self.position(source.log) > self.position(own.log) => {}
            _ => return None,
        }
        if own.halted {
            return None;
        }
        match self.meet(own.log, source.log) {
            Meeting::GoesOn => {
                if let Some(frame) = source.log.frame(own.log.len()) {
                    state.at(to).log.push(frame);
                }
            }
            Meeting::Cut(end) => {
                let known = end < self.promised_end(own.log, own.committed);
                if known && self.guards.halt_below_commit {
                    state.at(to).halted = true;
                    return Some(());
                }
                state.cut_known |= known;
                state.taken_back |= own.log.common(state.history) > end
                    && matches!(source.role, Role::Leader { epoch } if epoch == state.by);
                let node = state.at(to);
                node.log = own.log.cut(end);
                node.committed = own.committed.min(end);
            }
            Meeting::Halt => state.at(to).halted = true,
        }
        let node = state.at(to);
        let matched = node.log.common(source.log);
        node.committed = node.committed.max(source.committed.min(matched));
        Some(())
    }

    /// Leads its own last epoch on, after every peer has answered.
    fn lead_on(&self, state: &mut State<N>, node: u8) -> Option<()> {
        let own = *state.node(node);
        let epoch = own.log.last()?.epoch();
        let foreign = |peer: &Node| {
            peer.promise.number() > epoch.number()
                || peer.log.last().is_some_and(|last| last.epoch().number() > epoch.number())
        };
        let ahead = |peer: &Node| self.position(peer.log) > self.position(own.log);
        if own.role != Role::Follower
            || own.promise != epoch
            || epoch.nonce() != node
            || own.halted
            || state.nodes.iter().any(foreign)
            || self.guards.peers_not_ahead && state.nodes.iter().any(ahead)
        {
            return None;
        }
        state.at(node).role = Role::Leader { epoch };
        Some(())
    }

    fn restore(&self, state: &mut State<N>, node: u8, end: u8) -> Option<()> {
        state.restores = state.restores.checked_sub(1)?;
        let own = state.at(node);
        own.log = own.log.cut(end);
        own.promise = own.log.last()?.epoch();
        own.committed = own.committed.min(end);
        (own.role, own.owes) = (Role::Follower, false);
        own.restored = true;
        Some(())
    }

    /// Once a single latest leader is reached by everybody, is every log its log?
    fn heals(&self, state: &State<N>) -> bool {
        let leads = |node: &Node| match node.role {
            Role::Leader { epoch } => Some(epoch),
            _ => None,
        };
        let Some(latest) = state.nodes.iter().filter_map(leads).max() else { return true };
        let leader = self.nodes().find(|node| leads(state.node(*node)) == Some(latest));
        let mut state = state.clone();
        self.nodes().filter(|node| Some(*node) != leader).all(|node| {
            let promise = state.node(node).promise;
            if promise != latest {
                if promise.number() >= latest.number() {
                    return true;
                }
                self.set_promise(&mut state, node, latest);
            }
            let leader = leader.expect("found above");
            for _ in 0..2 * self.scope.max_frames {
                self.pull(&mut state, leader, node);
            }
            state.node(node).log == state.node(leader).log
        })
    }
}

impl<const N: usize> Model for Failover<N> {
    type State = State<N>;
    type Action = Action;

    /// Node 0 leads epoch 0, its first set is committed everywhere.
    fn init_states(&self) -> Vec<State<N>> {
        let epoch = Epoch::new(0, 0);
        let log = Log::of(Frame::set(epoch, 0));
        let follower = Node {
            promise: epoch,
            log,
            committed: 1,
            role: Role::Follower,
            halted: false,
            restored: false,
            owes: false,
        };
        let mut nodes = [follower; N];
        nodes[0].role = Role::Leader { epoch };
        vec![State {
            nodes,
            coordinator: 0,
            forgets: self.scope.forgets,
            restores: self.scope.restores,
            history: log.cut(self.promised_end(log, 1)),
            by: epoch,
            acked_by: 1,
            replaced: false,
            taken_back: false,
            fell: false,
            won_old: false,
            miscounted: false,
            cut_known: false,
            late_reply: false,
        }]
    }

    fn actions(&self, state: &State<N>, actions: &mut Vec<Action>) {
        if state.forgets > 0 {
            actions.push(Action::ForgetNumbers);
        }
        for node in self.nodes() {
            match state.node(node).role {
                Role::Follower => {
                    actions.push(Action::Win { node });
                    if self.scope.restores > 0 {
                        actions.push(Action::Continue { node });
                    }
                }
                Role::Candidate { .. } => actions.push(Action::Lead { candidate: node }),
                Role::Leader { .. } => {
                    actions.push(Action::Append { leader: node });
                    actions.push(Action::Count { leader: node });
                    for (set, _) in (0u8..).zip(self.scope.sets) {
                        actions.push(Action::Change { leader: node, set });
                    }
                }
            }
            actions.push(Action::Restart { node });
            if state.node(node).owes {
                actions.push(Action::Reply { node });
            }
            if state.restores > 0 {
                let ends = 1..state.node(node).log.len();
                actions.extend(ends.map(|end| Action::Restore { node, end }));
            }
            for other in self.nodes().filter(|other| *other != node) {
                actions.push(Action::Pull { from: other, to: node });
                actions.push(Action::Follow { node, leader: other });
                actions.push(Action::Promise { node, candidate: other });
            }
        }
    }

    fn next_state(&self, last: &State<N>, action: Action) -> Option<State<N>> {
        let mut state = last.clone();
        match action {
            Action::Append { leader } => {
                let own = last.node(leader);
                let Role::Leader { epoch } = own.role else { return None };
                if !self.open(own) {
                    return None;
                }
                let data = if own.restored { Frame::other(epoch) } else { Frame::data(epoch) };
                self.append(&mut state, leader, data)?;
            }
            Action::Change { leader, set } => {
                let own = last.node(leader);
                let Role::Leader { epoch } = own.role else { return None };
                let (newest, before) = self.ruling(own.log, own.committed);
                let member = self.scope.sets[usize::from(set)].has(leader);
                let known = self.knows_members(last, leader, set);
                if set == newest || before.is_some() || !member || !known || !self.open(own) {
                    return None;
                }
                self.append(&mut state, leader, Frame::set(epoch, set))?;
            }
            Action::Pull { from, to } => self.pull(&mut state, from, to)?,
            Action::Count { leader } => self.settle(&mut state, leader),
            Action::Follow { node, leader } => {
                let Role::Leader { epoch } = last.node(leader).role else { return None };
                if epoch.number() <= last.node(node).promise.number() {
                    return None;
                }
                self.set_promise(&mut state, node, epoch);
                self.begin_anew(&mut state, node);
            }
            Action::Win { node } => self.win(&mut state, node)?,
            Action::Promise { node, candidate } => self.promise(&mut state, node, candidate)?,
            Action::Lead { candidate } => {
                let Role::Candidate { epoch, .. } = last.node(candidate).role else { return None };
                if !self.may_lead(last, candidate) {
                    return None;
                }
                state.at(candidate).role = Role::Leader { epoch };
                self.append(&mut state, candidate, Frame::start(epoch))?;
            }
            Action::Reply { node } => {
                let leads = matches!(last.node(node).role, Role::Leader { .. });
                state.at(node).owes = false;
                state.late_reply |= !leads && !self.guards.gate;
            }
            Action::Restart { node } => {
                let own = state.at(node);
                (own.role, own.owes) = (Role::Follower, false);
                self.begin_anew(&mut state, node);
            }
            Action::Continue { node } => self.lead_on(&mut state, node)?,
            Action::Restore { node, end } => self.restore(&mut state, node, end)?,
            Action::ForgetNumbers => {
                state.forgets -= 1;
                state.coordinator = 0;
            }
        }
        Some(state).filter(|state| state != last)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(IDENTITY, |model: &Self, state: &State<N>| {
                (0..model.scope.max_frames).all(|at| {
                    let frames = state.nodes.iter().filter_map(|node| node.log.frame(at));
                    frames.clone().all(|one| {
                        frames.clone().all(|other| one == other || one.epoch() != other.epoch())
                    })
                })
            }),
            Property::always(RISING, |_, state: &State<N>| {
                state.nodes.iter().all(|node| {
                    let numbers = |at| node.log.frame(at).map(|frame| frame.epoch().number());
                    (1..node.log.len()).all(|at| numbers(at - 1) <= numbers(at))
                })
            }),
            Property::always(COPIES, |_, state: &State<N>| !state.miscounted),
            Property::always(KNOWN_CUT, |_, state: &State<N>| !state.cut_known),
            Property::always(LATE_REPLY, |_, state: &State<N>| !state.late_reply),
            Property::always(TAKEN_BACK, |_, state: &State<N>| !state.taken_back),
            Property::always(OLD_NUMBER, |_, state: &State<N>| !state.won_old),
            Property::sometimes("a later leader is open", |model, state: &State<N>| {
                state.nodes.iter().any(|node| {
                    matches!(node.role, Role::Leader { epoch } if epoch.number() == model.scope.max_epoch)
                        && model.open(node)
                })
            }),
        ];
        if self.scope.restores > 0 {
            properties.push(Property::sometimes("an operator is called", |_, state: &State<N>| {
                state.nodes.iter().any(|node| node.halted)
            }));
            return properties;
        }
        properties.extend([
            Property::always(LOST, |_, state: &State<N>| {
                !state.replaced
                    && state.nodes.iter().all(|node| match node.role {
                        Role::Leader { epoch } if epoch.number() >= state.by.number() => {
                            node.log.starts_with(state.history)
                        }
                        _ => true,
                    })
            }),
            Property::always(PROMISE_FELL, |_, state: &State<N>| !state.fell),
            Property::always(TWO_LEADERS, |_, state: &State<N>| {
                (0..4).all(|number| (state.acked_by >> (4 * number) & 15).count_ones() <= 1)
            }),
            Property::always(HALTED, |_, state: &State<N>| {
                state.nodes.iter().all(|node| !node.halted)
            }),
            Property::always(HEALS, |model: &Self, state: &State<N>| model.heals(state)),
        ]);
        if self.scope.sets.iter().all(|set| set.waits > 0) {
            properties.extend([
                Property::always(WRONG_READ, |_, state: &State<N>| {
                    state.nodes.iter().all(|node| {
                        let shown = node.log.cut(node.committed);
                        state.history.starts_with(shown)
                    })
                }),
                Property::always(STALE_READ, |model: &Self, state: &State<N>| {
                    model.nodes().all(|node| {
                        !model.may_be_read(state, node)
                            || state.node(node).committed >= state.history.len()
                    })
                }),
            ]);
        }
        properties
    }
}

pub const LOST: &str = "a committed record is neither lost nor replaced";
pub const TWO_LEADERS: &str = "one leader per epoch has anything acked";
pub const TAKEN_BACK: &str = "no epoch takes back what it committed";
pub const LATE_REPLY: &str = "who has promised a later epoch acknowledges nothing";
pub const PROMISE_FELL: &str = "promises only rise";
pub const WRONG_READ: &str = "reads show only the final history";
pub const STALE_READ: &str = "a linearizable read shows everything acked before it";
pub const HEALS: &str = "whoever reaches the latest leader gets its log";
pub const HALTED: &str = "no failover calls an operator";
pub const IDENTITY: &str = "epoch, nonce and place name the bytes";
pub const RISING: &str = "the epochs of a log rise";
pub const COPIES: &str = "what counts as a copy is one";
pub const KNOWN_CUT: &str = "what is known to be committed is not cut";
pub const OLD_NUMBER: &str = "a number won is a new one for who wins it";
