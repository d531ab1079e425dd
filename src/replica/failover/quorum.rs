//! Which promises are enough: pure counting, over the sets that may rule.
//!
//! What was committed under a set of N members is on the leader and k others. Among any N - k members there
//! is one of them, so whoever has N - k promises and the longest of their tails has everything that was
//! committed; and whoever did not promise can no longer be counted by the old leader. Both the newest set and
//! the one before are counted while the newest may not be committed.

use std::fmt;

use crate::log::files::SetLine;
use crate::mutant::{self, Mutant};
use crate::position::{Id, LogByte};

use super::ask::Standing;

/// A set of which too few members have promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// Members that have.
    pub have: usize,
    /// How many are needed.
    pub need: usize,
    /// The set, in words.
    pub set: String,
    /// Members that have not.
    pub missing: Vec<Id>,
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lacking { have, need, set, .. } = self;
        write!(f, "{have} of the {need} promises that the set {set} asks for")
    }
}

/// The sets that may rule, given that everything below `committed` is known to be: the newest, and those
/// before that a log's CONTROL names beside it unless the newest is committed.
pub(super) fn ruling(sets: &[SetLine], committed: LogByte) -> &[SetLine] {
    match sets {
        [.., newest] if newest.there && newest.end <= committed => &sets[sets.len() - 1..],
        sets => sets,
    }
}

/// The first set that lacks promises, if one does.
pub(super) fn lacking(
    sets: &[SetLine],
    committed: LogByte,
    promised: impl Fn(Id) -> bool,
) -> Option<Lacking> {
    ruling(sets, committed).iter().find_map(|line| {
        let k = line.set.mode.k();
        if k == 0 {
            return None;
        }
        let members = &line.set.members;
        let (yes, missing): (Vec<Id>, Vec<Id>) = members.iter().partition(|id| promised(**id));
        let (have, mut need) = (yes.len(), members.len().saturating_sub(k).max(1));
        if mutant::on(Mutant::TooFewPromises) {
            need -= 1;
        }
        (have < need).then(|| Lacking { have, need, set: line.set.to_string(), missing })
    })
}

/// The same of a node that may know no set: then those count that others tell of, one after the other.
pub(super) fn lacking_by_all<'a>(
    own: &[SetLine],
    committed: LogByte,
    others: impl Iterator<Item = &'a Standing>,
    promised: impl Fn(Id) -> bool,
) -> Option<Lacking> {
    if own.iter().any(|line| !line.set.members.is_empty()) || mutant::on(Mutant::TooFewPromises) {
        return lacking(own, committed, promised);
    }
    let mut told = others.map(|other| (&other.sets, other.report.committed.unwrap_or_default()));
    told.find_map(|(sets, committed)| lacking(sets, committed, &promised))
}

/// The first set that would lack promises, if the node and all others that are whole promised.
pub fn lacks(own: &Standing, others: &[Standing]) -> Option<Lacking> {
    let committed = own.report.committed.unwrap_or_default();
    lacking_by_all(&own.sets, committed, others.iter(), |id| {
        id == own.node() || others.iter().any(|other| other.node() == id && !other.report.unclean)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Mode, SyncSet};

    fn id(n: u8) -> Id {
        Id([n; 16])
    }

    fn line(end: u64, mode: Mode, members: &[u8]) -> SetLine {
        let set = SyncSet::new(mode, members.iter().map(|n| id(*n))).unwrap();
        SetLine { end: LogByte(end), there: true, set }
    }

    #[test]
    fn as_many_promise_as_leave_no_room_for_a_commit_without_them() {
        let needs = |mode, members: &[u8]| {
            let sets = [line(10, mode, members)];
            let enough = |n: usize| {
                lacking(&sets, LogByte(10), |id| members[..n].contains(&id.0[0])).is_none()
            };
            (0..=members.len()).find(|n| enough(*n)).unwrap()
        };
        let sync = |k| Mode::Sync { k };
        assert_eq!(needs(sync(1), &[1, 2]), 1);
        assert_eq!(needs(sync(1), &[1, 2, 3]), 2);
        assert_eq!(needs(sync(2), &[1, 2, 3]), 1);
        assert_eq!(needs(sync(2), &[1, 2, 3, 4, 5]), 3);
        assert_eq!(needs(Mode::Async, &[1, 2, 3]), 0);
    }

    #[test]
    fn both_sets_are_counted_until_the_newest_is_committed() {
        let old = line(10, Mode::Sync { k: 1 }, &[1, 2, 3]);
        let new = line(50, Mode::Sync { k: 1 }, &[1, 2]);
        let promised = |id: Id| id.0[0] == 1;
        let sets = [old.clone(), new.clone()];
        assert_eq!(lacking(&sets, LogByte(50), promised), None);
        let short = lacking(&sets, LogByte(49), promised).unwrap();
        assert_eq!((short.have, short.need, &short.missing[..]), (1, 2, &[id(2), id(3)][..]));
        // One of which nobody knows whether it is there may rule all the same, and so may the one before.
        let coming = SetLine { there: false, ..new };
        assert!(lacking(&[old, coming], LogByte(60), promised).is_some());
    }

    #[test]
    fn who_knows_no_set_counts_those_that_others_tell_of() {
        let nobody = [SetLine::nobody()];
        let other = Standing {
            sets: vec![line(10, Mode::Sync { k: 1 }, &[1, 2, 3])],
            ..Standing::default()
        };
        let lacks = |own: &[SetLine], others: &[Standing], promised: &[u8]| {
            let promised = |id: Id| promised.contains(&id.0[0]);
            lacking_by_all(own, LogByte(0), others.iter(), promised).is_some()
        };
        assert!(!lacks(&nobody, &[], &[9]), "nobody knows one");
        for own in [&nobody[..], &[]] {
            assert!(lacks(own, std::slice::from_ref(&other), &[9, 1]));
            assert!(!lacks(own, std::slice::from_ref(&other), &[9, 1, 2]));
        }
        // Its own log says it: what others have heard of meanwhile comes with their tails.
        let own = [line(5, Mode::Sync { k: 1 }, &[1, 9])];
        assert!(!lacks(&own, &[other], &[9]));
    }
}
