//! When is a record committed, and who may lead after the leader is gone?
//!
//! Nodes hold logs and promises; leaders append, ship and count; reports travel late, twice or
//! never; nodes crash, lose what they acked, or lose their promise. What was once committed is kept
//! beside the nodes as the history that nothing may contradict.
//!
//! Standing for more than it shows:
//! - a report lies in its node's slot: it is delivered now, later, again, or overwritten, that is,
//!   lost. Replies come from any node that still believes it leads, so that a late reply and a
//!   zombie's are one thing;
//! - a frame that was written but not synced is told by nobody while the guards are on, so that
//!   both happen at once; with a guard off they come apart and a crash drops the difference.

mod guards;
mod rules;
mod tests;

use guards::{Guards, Scope};
use stateright::{Model, Property};

use crate::log::{Epoch, Frame, Log};

pub struct Commit<const N: usize> {
    pub scope: Scope,
    pub guards: Guards,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role<const N: usize> {
    Follower,
    /// `basis` and `ahead` are remembered only while a guard is off that would ask anew.
    Candidate {
        epoch: Epoch,
        promised: u8,
        basis: Option<(u8, Option<u8>)>,
        ahead: u8,
    },
    Leader {
        epoch: Epoch,
        acked: [u8; N],
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    Clean,
    /// Lost frames that it had acked; knows it.
    Short,
    /// Lost its promise; knows it.
    Forgot,
    /// Lost its promise; counts again once this end of this epoch is committed without it.
    Asked {
        epoch: Epoch,
        end: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node<const N: usize> {
    pub promise: Epoch,
    pub log: Log,
    pub durable: u8,
    pub committed: u8,
    pub health: Health,
    pub role: Role<N>,
}

/// What a fetch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Report {
    promise: Epoch,
    end: u8,
    last: Frame,
    clean: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State<const N: usize> {
    nodes: [Node<N>; N],
    /// `None` once it can count nowhere any more.
    reports: [Option<Report>; N],
    losses: u8,
    forgets: u8,
    /// Everything that any leader has ever held committed, and the highest epoch that did so.
    history: Log,
    by: Epoch,
    /// Who has committed in each epoch number: four bits a number, one a nonce.
    acked_by: u16,
    replaced: bool,
    fell: bool,
}

impl<const N: usize> State<N> {
    fn record_commit(&mut self, epoch: Epoch, committed: Log) {
        self.acked_by |= 1 << (4 * epoch.number() + epoch.nonce());
        self.by = self.by.max(epoch);
        if committed.starts_with(self.history) {
            self.history = committed;
        } else if !self.history.starts_with(committed) {
            self.replaced = true;
        }
    }

    fn at(&mut self, node: u8) -> &mut Node<N> {
        &mut self.nodes[usize::from(node)]
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
    Sync {
        node: u8,
    },
    /// A reply: cuts what the leader's history does not have, or brings the next frame.
    Ship {
        leader: u8,
        to: u8,
    },
    /// A fetch that says what has changed without a reply.
    Fetch {
        node: u8,
    },
    Ack {
        from: u8,
        leader: u8,
    },
    /// A follower hears of a leader with a higher epoch and promises that.
    Follow {
        node: u8,
        leader: u8,
    },
    Stand {
        node: u8,
    },
    Promise {
        node: u8,
        candidate: u8,
    },
    FetchTail {
        candidate: u8,
        from: u8,
    },
    Lead {
        candidate: u8,
    },
    Crash {
        node: u8,
    },
    LoseFrame {
        node: u8,
    },
    LosePromise {
        node: u8,
    },
    AskBack {
        node: u8,
        leader: u8,
    },
    Heal {
        node: u8,
        leader: u8,
    },
}

impl<const N: usize> Commit<N> {
    pub fn nodes(&self) -> impl Iterator<Item = u8> + use<N> {
        (0u8..8).take(N)
    }

    fn report(&self, node: &Node<N>) -> Report {
        let end = if self.guards.member_durable { node.durable } else { node.log.len() };
        let last = node.log.frame(end - 1).expect("the first frame stays");
        Report { promise: node.promise, end, last, clean: self.is_clean(node) }
    }

    fn set_promise(&self, state: &mut State<N>, node: u8, epoch: Epoch) {
        let node = state.at(node);
        let fell = epoch.number() < node.promise.number()
            || epoch.number() == node.promise.number() && epoch != node.promise;
        node.promise = epoch;
        let leads = matches!(node.role, Role::Leader { .. });
        if !leads || self.guards.step_down {
            node.role = Role::Follower;
        }
        state.fell |= fell;
    }

    fn append(&self, state: &mut State<N>, leader: u8, frame: Frame) {
        let node = state.at(leader);
        node.log.push(frame);
        if self.guards.leader_durable {
            node.durable = node.log.len();
        }
        self.settle(state, leader);
    }

    fn ship(&self, state: &mut State<N>, leader: u8, to: u8) -> Option<()> {
        let source = state.nodes[usize::from(leader)];
        let Role::Leader { epoch, .. } = source.role else { return None };
        let node = state.at(to);
        if node.role != Role::Follower
            || self.guards.refuse_other_epoch && !self.same(node.promise, epoch)
        {
            return None;
        }
        let shipped = if self.guards.leader_durable { source.durable } else { source.log.len() };
        let tail = source.log.cut(shipped);
        let common = node.log.common(tail);
        let told = node.log.len();
        let mut matched = common;
        if !self.guards.matched_end && self.scope.followers_learn {
            // Believes the reply before looking whether its own frames are the leader's.
            let learnt = source.committed.min(told);
            if learnt > node.committed {
                node.committed = learnt;
                return Some(());
            }
        }
        if common < told {
            // A leader that is shorter in the same history cuts nothing; nor is a cut ever below
            // what this node knows to be committed.
            if common == tail.len() || common < node.committed {
                return None;
            }
            node.log = node.log.cut(common);
            node.durable = node.durable.min(common);
        } else if let Some(frame) = tail.frame(common) {
            node.log.push(frame);
            matched += 1;
            if self.guards.member_durable {
                node.durable = matched;
            }
        }
        if self.scope.followers_learn {
            node.committed = node.committed.max(source.committed.min(matched));
        }
        let report = self.report(&state.nodes[usize::from(to)]);
        state.reports[usize::from(to)] = Some(report);
        Some(())
    }

    fn acknowledge(&self, state: &mut State<N>, from: u8, leader: u8) -> Option<()> {
        let report =
            state.reports[usize::from(from)].filter(|r| self.counts(state, from, r, leader))?;
        if let Role::Leader { acked, .. } = &mut state.at(leader).role {
            acked[usize::from(from)] = report.end;
        }
        self.settle(state, leader);
        Some(())
    }

    /// Drops what can never matter again, so that states that differ in it alone are one: reports
    /// that no leader would count, what a leader knows of copies below its committed end, and
    /// promises that a candidate can no longer use.
    fn forget_the_dead(&self, state: &mut State<N>) {
        for node in self.nodes() {
            // A report that counts nowhere now counts later only with a candidate of the epoch that
            // it promised, and only if frames of older epochs count at all.
            let report = state.reports[usize::from(node)];
            let lives = |r: &Report| {
                self.nodes().any(|leader| self.counts(state, node, r, leader))
                    || !self.guards.own_epoch
                        && r.clean
                        && state.nodes.iter().any(|candidate| match candidate.role {
                            Role::Candidate { epoch, .. } => self.same(epoch, r.promise),
                            _ => false,
                        })
            };
            if !report.is_some_and(|report| lives(&report)) {
                state.reports[usize::from(node)] = None;
            }
            let promises = state.nodes.map(|node| node.promise);
            let own = state.at(node);
            match &mut own.role {
                Role::Leader { acked, .. } => {
                    for known in acked.iter_mut().filter(|known| **known <= own.committed) {
                        *known = 0;
                    }
                }
                Role::Candidate { epoch, promised, .. } if self.guards.promise_held => {
                    for (other, promise) in (0u8..).zip(promises) {
                        if !self.same(promise, *epoch) {
                            *promised &= !(1 << other);
                        }
                    }
                }
                Role::Candidate { .. } | Role::Follower => {}
            }
        }
    }

    fn stand(&self, state: &mut State<N>, node: u8) -> Option<()> {
        let own = state.nodes[usize::from(node)];
        let seen = own.log.last().map_or(0, |frame| frame.epoch().number());
        let number = own.promise.number().max(seen) + 1;
        let member = self.scope.sets[usize::from(own.log.sets().0.0)].has(node);
        if number > self.scope.max_epoch || own.log.len() >= self.scope.max_frames || !member {
            return None;
        }
        let epoch = Epoch::new(number, node);
        self.set_promise(state, node, epoch);
        let basis = (!self.guards.look_again).then(|| self.basis(&own));
        let ahead = if self.guards.positions_after { 0 } else { self.ahead_of(state, node) };
        state.at(node).role = Role::Candidate { epoch, promised: 1 << node, basis, ahead };
        Some(())
    }

    fn heal(&self, state: &mut State<N>, node: u8, leader: u8) -> Option<()> {
        let source = state.nodes[usize::from(leader)];
        let Role::Leader { epoch, .. } = source.role else { return None };
        let own = state.at(node);
        if !self.same(own.promise, epoch) {
            return None;
        }
        let enough = match own.health {
            Health::Clean => false,
            Health::Forgot if self.guards.readmit => false,
            Health::Short | Health::Forgot => own.log == source.log.cut(source.durable),
            Health::Asked { epoch: asked, end } => {
                asked == epoch && source.committed >= end && own.log.common(source.log) >= end
            }
        };
        enough.then(|| own.health = Health::Clean)
    }
}

impl<const N: usize> Model for Commit<N> {
    type State = State<N>;
    type Action = Action;

    /// Node 0 leads epoch 0, its first set is committed everywhere.
    fn init_states(&self) -> Vec<State<N>> {
        let epoch = Epoch::new(0, 0);
        let log = Log::of(Frame::set(epoch, 0));
        let follower = Node {
            promise: epoch,
            log,
            durable: 1,
            committed: 1,
            health: Health::Clean,
            role: Role::Follower,
        };
        let mut nodes = [follower; N];
        nodes[0].role = Role::Leader { epoch, acked: [0; N] };
        vec![State {
            nodes,
            reports: [None; N],
            losses: self.scope.losses,
            forgets: self.scope.forgets,
            history: log,
            by: epoch,
            acked_by: 1,
            replaced: false,
            fell: false,
        }]
    }

    fn actions(&self, state: &State<N>, actions: &mut Vec<Action>) {
        for node in self.nodes() {
            let own = &state.nodes[usize::from(node)];
            actions.push(Action::Fetch { node });
            match own.role {
                Role::Follower => {
                    if self.is_clean(own) {
                        actions.push(Action::Stand { node });
                    }
                    if state.losses > 0 {
                        actions.push(Action::LoseFrame { node });
                    }
                    if state.forgets > 0 {
                        actions.push(Action::LosePromise { node });
                    }
                }
                Role::Candidate { .. } => actions.push(Action::Lead { candidate: node }),
                Role::Leader { .. } => {
                    actions.push(Action::Append { leader: node });
                    for (set, _) in (0u8..).zip(self.scope.sets) {
                        actions.push(Action::Change { leader: node, set });
                    }
                }
            }
            if own.role != Role::Follower || own.durable < own.log.len() {
                actions.push(Action::Crash { node });
            }
            if own.durable < own.log.len() {
                actions.push(Action::Sync { node });
            }
            for other in self.nodes().filter(|other| *other != node) {
                match state.nodes[usize::from(other)].role {
                    Role::Leader { epoch, .. } => {
                        actions.push(Action::Ship { leader: other, to: node });
                        actions.push(Action::Ack { from: node, leader: other });
                        if epoch.number() > own.promise.number() {
                            actions.push(Action::Follow { node, leader: other });
                        }
                        if own.health != Health::Clean {
                            actions.push(Action::AskBack { node, leader: other });
                            actions.push(Action::Heal { node, leader: other });
                        }
                    }
                    Role::Candidate { promised, .. } if promised >> node & 1 == 0 => {
                        actions.push(Action::Promise { node, candidate: other });
                    }
                    Role::Candidate { .. } => {
                        actions.push(Action::FetchTail { candidate: other, from: node });
                    }
                    Role::Follower => {}
                }
            }
        }
    }

    fn next_state(&self, last: &State<N>, action: Action) -> Option<State<N>> {
        let mut state = last.clone();
        let room = |node: u8| last.nodes[usize::from(node)].log.len() < self.scope.max_frames;
        match action {
            Action::Append { leader } => {
                let node = &last.nodes[usize::from(leader)];
                let Role::Leader { epoch, .. } = node.role else { return None };
                if !room(leader) || !started(node, epoch) {
                    return None;
                }
                self.append(&mut state, leader, Frame::data(epoch));
            }
            Action::Change { leader, set } => {
                let node = &last.nodes[usize::from(leader)];
                let Role::Leader { epoch, .. } = node.role else { return None };
                let ((newest, at), _) = node.log.sets();
                if !room(leader)
                    || set == newest
                    || !self.scope.sets[usize::from(set)].has(leader)
                    || self.guards.after_start && !started(node, epoch)
                    || self.guards.one_at_a_time && node.committed <= at
                {
                    return None;
                }
                self.append(&mut state, leader, Frame::set(epoch, set));
            }
            Action::Sync { node } => {
                let own = state.at(node);
                own.durable = own.log.len();
                self.settle(&mut state, node);
            }
            Action::Ship { leader, to } => self.ship(&mut state, leader, to)?,
            Action::Fetch { node } => {
                state.reports[usize::from(node)] =
                    Some(self.report(&last.nodes[usize::from(node)]));
            }
            Action::Ack { from, leader } => self.acknowledge(&mut state, from, leader)?,
            Action::Follow { node, leader } => {
                let Role::Leader { epoch, .. } = last.nodes[usize::from(leader)].role else {
                    return None;
                };
                self.set_promise(&mut state, node, epoch);
            }
            Action::Stand { node } => self.stand(&mut state, node)?,
            Action::Promise { node, candidate } => {
                let own = &last.nodes[usize::from(node)];
                let asks = state.at(candidate);
                let Role::Candidate { epoch, promised, .. } = &mut asks.role else { return None };
                if !self.may_promise(own.promise, *epoch) || !self.is_clean(own) {
                    return None;
                }
                *promised |= 1 << node;
                let epoch = *epoch;
                self.set_promise(&mut state, node, epoch);
            }
            Action::FetchTail { candidate, from } => {
                let tail = last.nodes[usize::from(from)].log;
                let own = state.at(candidate);
                if self.up_to_date(tail) <= self.up_to_date(own.log) {
                    return None;
                }
                own.log = tail;
                own.durable = tail.len();
                if let Role::Candidate { ahead, .. } = &mut own.role {
                    *ahead &= !(1 << from);
                }
            }
            Action::Lead { candidate } => {
                let Role::Candidate { epoch, .. } = last.nodes[usize::from(candidate)].role else {
                    return None;
                };
                if !room(candidate) || !self.may_lead(last, candidate) {
                    return None;
                }
                state.at(candidate).role = Role::Leader { epoch, acked: [0; N] };
                self.append(&mut state, candidate, Frame::start(epoch));
            }
            Action::Crash { node } => {
                let own = state.at(node);
                own.role = Role::Follower;
                own.log = own.log.cut(own.durable);
                own.committed = own.committed.min(own.durable);
            }
            Action::LoseFrame { node } => {
                state.losses -= 1;
                let own = state.at(node);
                if own.log.len() == 1 || own.health != Health::Clean {
                    return None;
                }
                own.log = own.log.cut(own.log.len() - 1);
                own.durable = own.log.len();
                own.committed = own.committed.min(own.durable);
                own.health = Health::Short;
            }
            Action::LosePromise { node } => {
                state.forgets -= 1;
                let own = state.at(node);
                if own.health != Health::Clean {
                    return None;
                }
                own.promise = Epoch::new(0, 0);
                own.health = Health::Forgot;
            }
            Action::AskBack { node, leader } => {
                let source = &last.nodes[usize::from(leader)];
                let Role::Leader { epoch, .. } = source.role else { return None };
                let end = source.log.len() + 1;
                let own = state.at(node);
                let asks = match own.health {
                    Health::Forgot => self.guards.readmit,
                    Health::Asked { epoch: asked, .. } => asked.number() < epoch.number(),
                    Health::Clean | Health::Short => false,
                };
                if !asks || end > self.scope.max_frames {
                    return None;
                }
                own.health = Health::Asked { epoch, end };
            }
            Action::Heal { node, leader } => self.heal(&mut state, node, leader)?,
        }
        self.forget_the_dead(&mut state);
        Some(state).filter(|state| state != last)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(LOST, |_: &Self, state: &State<N>| {
                !state.replaced
                    && state.nodes.iter().all(|node| match node.role {
                        Role::Leader { epoch, .. } if epoch.number() >= state.by.number() => {
                            node.log.starts_with(state.history)
                        }
                        _ => true,
                    })
            }),
            Property::always(TWO_LEADERS, |_, state: &State<N>| {
                (0..4).all(|number| (state.acked_by >> (4 * number) & 15).count_ones() <= 1)
            }),
            Property::always(PROMISE_FELL, |_, state: &State<N>| !state.fell),
            Property::always(WRONG_READ, |model, state: &State<N>| {
                state.nodes.iter().all(|node| {
                    let reads = model.guards.reads_committed;
                    let shown = node.log.cut(if reads { node.committed } else { node.log.len() });
                    shown.starts_with(state.history) || state.history.starts_with(shown)
                })
            }),
            Property::sometimes(
                "a later leader commits as much as fits",
                |model, state: &State<N>| {
                    state.by.number() == model.scope.max_epoch
                        && state.history.len() == model.scope.max_frames
                },
            ),
        ];
        if self.scope.sets.len() > 1 {
            properties.push(Property::sometimes(
                "a second set is committed",
                |model, state: &State<N>| {
                    state.history.sets().1.is_some()
                        && state.history.len() == model.scope.max_frames
                },
            ));
        }
        if self.scope.losses + self.scope.forgets > 0 {
            properties.push(Property::sometimes(
                "a node counts again",
                |model, state: &State<N>| {
                    state.losses + state.forgets == 0
                        && state.nodes.iter().all(|node| node.health == Health::Clean)
                        && state.history.len() == model.scope.max_frames
                },
            ));
        }
        properties
    }
}

/// Has this leader committed its `epoch_start`? The first epoch began before the model does.
fn started<const N: usize>(node: &Node<N>, epoch: Epoch) -> bool {
    epoch.number() == 0
        || (0..node.committed).any(|at| node.log.frame(at) == Some(Frame::start(epoch)))
}

pub const LOST: &str = "a committed record is neither lost nor replaced";
pub const TWO_LEADERS: &str = "one leader per epoch has anything acked";
pub const PROMISE_FELL: &str = "promises only rise";
pub const WRONG_READ: &str = "reads show only the final history";
