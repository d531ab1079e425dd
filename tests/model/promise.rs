//! Promises: who may lead under which number, and what a new leader has seen before it does.
//!
//! Nodes hold one promise and a position each; a candidate claims a number, gathers promises, reads
//! positions, fetches the longest tail and leads. Positions stand for whole histories: that two
//! histories with one position are one is the commit model's to show, which knows frames.

use stateright::{Model, Property};

use crate::{breaks, holds};

/// Each field is one rule; `true` keeps it.
#[derive(Clone, Copy, Debug)]
struct Guards {
    /// A number has one owner, who claims it by create-if-absent.
    one_owner: bool,
    /// Leading takes N - k promises, not N - k - 1.
    enough: bool,
    /// A promise is only raised.
    raised: bool,
    /// A promise is durable before it is given.
    durable: bool,
    /// Positions are read with the promises, not before.
    positions_after: bool,
    /// A node takes frames only from the leader that it promised.
    refuse_others: bool,
    /// The longest tail that was seen is fetched before leading.
    fetch_tail: bool,
}

const ALL: Guards = Guards {
    one_owner: true,
    enough: true,
    raised: true,
    durable: true,
    positions_after: true,
    refuse_others: true,
    fetch_tail: true,
};

struct Promises<const N: usize> {
    k: u8,
    max_number: u8,
    max_bytes: u8,
    guards: Guards,
}

/// A leadership: number and owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
struct Epoch {
    number: u8,
    owner: u8,
}

/// Ordered by epoch first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
struct Position {
    epoch: u8,
    byte: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Role {
    Follower,
    Candidate { epoch: Epoch, promised: u8, seen: Position },
    Leader { epoch: Epoch },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node {
    promise: Epoch,
    position: Position,
    role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State<const N: usize> {
    nodes: [Node; N],
    /// Which numbers have an owner, and which have led.
    claimed: u8,
    led: u8,
    committed: Position,
    twice: bool,
    lost: bool,
    fell: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Claim(usize),
    Promise { node: usize, to: usize },
    Lead(usize),
    Append(usize),
    Ship { from: usize, to: usize },
    Commit(usize),
    Restart(usize),
}

impl<const N: usize> Promises<N> {
    fn wanted(&self) -> u32 {
        let wanted = u32::try_from(N).expect("a few") - u32::from(self.k);
        wanted - u32::from(!self.guards.enough)
    }

    fn promise(&self, state: &mut State<N>, node: usize, epoch: Epoch) {
        let own = &mut state.nodes[node];
        state.fell |=
            epoch < own.promise || own.promise.number == epoch.number && own.promise != epoch;
        own.promise = epoch;
        if own.role != Role::Follower
            && !matches!(own.role, Role::Candidate { epoch: own, .. } if own == epoch)
        {
            own.role = Role::Follower;
        }
    }
}

impl<const N: usize> Model for Promises<N> {
    type State = State<N>;
    type Action = Action;

    /// Node 0 leads epoch 0; nothing is committed yet.
    fn init_states(&self) -> Vec<State<N>> {
        let follower =
            Node { promise: Epoch::default(), position: Position::default(), role: Role::Follower };
        let mut nodes = [follower; N];
        nodes[0].role = Role::Leader { epoch: Epoch::default() };
        vec![State {
            nodes,
            claimed: 1,
            led: 1,
            committed: Position::default(),
            twice: false,
            lost: false,
            fell: false,
        }]
    }

    fn actions(&self, state: &State<N>, actions: &mut Vec<Action>) {
        for node in 0..N {
            actions.extend([Action::Claim(node), Action::Restart(node)]);
            match state.nodes[node].role {
                Role::Follower => {}
                Role::Candidate { .. } => {
                    actions.push(Action::Lead(node));
                    actions.extend((0..N).map(|from| Action::Promise { node: from, to: node }));
                }
                Role::Leader { .. } => {
                    actions.extend([Action::Append(node), Action::Commit(node)]);
                    actions.extend((0..N).map(|to| Action::Ship { from: node, to }));
                }
            }
        }
    }

    fn next_state(&self, last: &State<N>, action: Action) -> Option<State<N>> {
        let mut state = last.clone();
        match action {
            Action::Claim(node) => {
                let own = last.nodes[node];
                let number = own.promise.number.max(own.position.epoch) + 1;
                // Whose number another owns tries the next.
                let free = |number: &u8| !self.guards.one_owner || last.claimed >> number & 1 == 0;
                let number = (number..=self.max_number).find(free)?;
                let epoch = Epoch { number, owner: u8::try_from(node).expect("a few") };
                state.claimed |= 1 << number;
                self.promise(&mut state, node, epoch);
                let seen = match self.guards.positions_after {
                    true => own.position,
                    false => last.nodes.iter().map(|node| node.position).max()?,
                };
                state.nodes[node].role = Role::Candidate { epoch, promised: 1 << node, seen };
            }
            Action::Promise { node, to } => {
                let Role::Candidate { epoch, promised, seen } = last.nodes[to].role else {
                    return None;
                };
                let own = last.nodes[node];
                let again = own.promise == epoch;
                if node == to || self.guards.raised && own.promise.number >= epoch.number && !again
                {
                    return None;
                }
                self.promise(&mut state, node, epoch);
                let told = if self.guards.positions_after { own.position } else { seen };
                state.nodes[to].role =
                    Role::Candidate { epoch, promised: promised | 1 << node, seen: seen.max(told) };
            }
            Action::Lead(node) => {
                let Role::Candidate { epoch, promised, seen } = last.nodes[node].role else {
                    return None;
                };
                let own = last.nodes[node].position;
                if promised.count_ones() < self.wanted()
                    || own.byte.max(seen.byte) >= self.max_bytes
                {
                    return None;
                }
                let from = if self.guards.fetch_tail { own.max(seen) } else { own };
                state.lost |= epoch.number > last.committed.epoch && from < last.committed;
                state.twice |= last.led >> epoch.number & 1 == 1;
                state.led |= 1 << epoch.number;
                let leader = &mut state.nodes[node];
                leader.position = Position { epoch: epoch.number, byte: from.byte + 1 };
                leader.role = Role::Leader { epoch };
            }
            Action::Append(node) => {
                let leader = &mut state.nodes[node];
                let Role::Leader { epoch } = leader.role else { return None };
                if leader.position.byte >= self.max_bytes {
                    return None;
                }
                leader.position = Position { epoch: epoch.number, byte: leader.position.byte + 1 };
            }
            Action::Ship { from, to } => {
                let Role::Leader { epoch } = last.nodes[from].role else { return None };
                let promise = last.nodes[to].promise;
                if promise != epoch && (self.guards.refuse_others || epoch.number > promise.number)
                {
                    // A later epoch is promised first.
                    if epoch.number <= promise.number {
                        return None;
                    }
                    self.promise(&mut state, to, epoch);
                }
                let leader = last.nodes[from].position;
                if state.nodes[to].role != Role::Follower || from == to {
                    return None;
                }
                state.nodes[to].position = leader;
            }
            Action::Commit(node) => {
                let leader = last.nodes[node];
                let Role::Leader { epoch } = leader.role else { return None };
                // What counts is of this leader's epoch.
                let holds = |other: &&Node| other.position == leader.position;
                let copies = last.nodes.iter().filter(holds).count();
                if leader.position.epoch != epoch.number || copies <= usize::from(self.k) {
                    return None;
                }
                state.committed = state.committed.max(leader.position);
            }
            Action::Restart(node) => {
                let own = &mut state.nodes[node];
                own.role = Role::Follower;
                if !self.guards.durable {
                    own.promise = Epoch { number: own.position.epoch, ..Epoch::default() };
                }
            }
        }
        Some(state).filter(|state| state != last)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(LOST, |_, state: &State<N>| !state.lost),
            Property::always(TWICE, |_, state: &State<N>| !state.twice),
            Property::always(FELL, |_, state: &State<N>| !state.fell),
            Property::sometimes("a later leader commits", |model, state: &State<N>| {
                state.committed.epoch == model.max_number
            }),
        ]
    }
}

const LOST: &str = "a new leader has what was committed before";
const TWICE: &str = "a number leads once";
const FELL: &str = "promises only rise";

#[test]
fn whoever_leads_has_what_was_promised_before() {
    holds("promises, 3 nodes, k = 1", of::<3>(1, ALL));
    holds("promises, 3 nodes, k = 2", of::<3>(2, ALL));
    holds("promises, 2 nodes, k = 1", of::<2>(1, ALL));
    let later = Promises::<3> { max_number: 3, ..of(1, ALL) };
    holds("promises, 3 nodes, k = 1, 4 epochs", later);
}

fn of<const N: usize>(k: u8, guards: Guards) -> Promises<N> {
    Promises { k, max_number: 2, max_bytes: 4, guards }
}

/// A rule's name, the change that switches it off, k, and what must break.
type Row = (&'static str, fn(&mut Guards), u8, &'static str);

#[test]
fn without_any_one_rule_of_promises_something_breaks() {
    const NEEDED: &[Row] = &[
        ("one owner", |g| g.one_owner = false, 2, TWICE),
        ("N - k promises", |g| g.enough = false, 1, LOST),
        ("raising alone", |g| g.raised = false, 1, FELL),
        ("raising alone", |g| g.raised = false, 1, LOST),
        ("durable promises", |g| g.durable = false, 1, LOST),
        ("positions after promises", |g| g.positions_after = false, 1, LOST),
        ("refusing other leaders", |g| g.refuse_others = false, 1, LOST),
        ("fetching the tail", |g| g.fetch_tail = false, 1, LOST),
    ];
    for (off, switch, k, property) in NEEDED {
        let mut guards = ALL;
        switch(&mut guards);
        breaks("promises, 3 nodes", off, of::<3>(*k, guards), property);
    }
}
