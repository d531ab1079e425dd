//! The inodes of a disk, by number.
//!
//! A crash state begins as a copy of them, so they lie side by side: one allocation, and a step
//! for each. Numbers only grow, so that a new one goes to the end.

use std::ops::Index;

use super::disk::{Id, Node};

#[derive(Clone, Debug, Default)]
pub(super) struct Nodes(Vec<(Id, Node)>);

impl Nodes {
    pub(super) fn get(&self, id: Id) -> Option<&Node> {
        self.0.get(self.place(id)?).map(|(_, node)| node)
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut Node> {
        let place = self.place(id)?;
        self.0.get_mut(place).map(|(_, node)| node)
    }

    fn place(&self, id: Id) -> Option<usize> {
        self.0.binary_search_by_key(&id, |(id, _)| *id).ok()
    }

    /// Adds a node whose number is above all others.
    pub(super) fn push(&mut self, id: Id, node: Node) {
        assert!(self.0.last().is_none_or(|(last, _)| *last < id));
        self.0.push((id, node));
    }

    pub(super) fn retain(&mut self, keep: impl Fn(Id) -> bool) {
        self.0.retain(|(id, _)| keep(*id));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &Node)> {
        self.0.iter().map(|(id, node)| (*id, node))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Node> {
        self.0.iter().map(|(_, node)| node)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.0.iter_mut().map(|(_, node)| node)
    }
}

impl Index<Id> for Nodes {
    type Output = Node;

    fn index(&self, id: Id) -> &Node {
        self.get(id).expect("names lead to inodes")
    }
}
