//! The disks that one power cut may leave, told apart before they are built.
//!
//! Most choices of what is kept leave a disk that another choice left before. A file's content
//! follows from the fates of its own changes, and the names from theirs, so each is made once per
//! combination of those, and a disk's hash is put together from the parts. Invariant:
//! [`PowerCut::hash`] is [`Sim::durable_hash`] of what [`PowerCut::leave`] leaves, and
//! [`Sim::crash`] leaves the same.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_128;

use super::Sim;
use super::content::Content;
use super::crash::Fate;
use super::disk::{Change, Disk, FileNode, Id, Node, ROOT};
use super::world::World;

/// A power cut, and what was found out about the disks it may leave.
#[derive(Debug)]
pub struct PowerCut {
    world: World,
    /// The files with pending changes, and the places of these.
    changed: Vec<(Id, Vec<usize>)>,
    /// Places of the pending changes of names.
    names: Vec<usize>,
    skeletons: HashMap<Vec<bool>, Skeleton>,
    /// For each of `changed`.
    contents: Vec<HashMap<Vec<Fate>, (Content, u128)>>,
    /// Hashes of the other files.
    unchanged: HashMap<Id, u128>,
}

impl PowerCut {
    pub(super) fn of(world: World) -> Self {
        let (changed, names) = by_part(&world.disk);
        let contents = vec![HashMap::new(); changed.len()];
        let durable = |node: &Node| match node {
            Node::File(file) => file.durable.hash(),
            Node::Dir(_) => 0,
        };
        let unchanged = world.disk.nodes.iter().map(|(id, node)| (id, durable(node))).collect();
        PowerCut { world, changed, names, skeletons: HashMap::new(), contents, unchanged }
    }

    /// What [`Sim::durable_hash`] says of the disk that these fates leave, one for each pending
    /// change.
    pub fn hash(&mut self, fates: &[Fate]) -> u128 {
        let disk = &self.world.disk;
        let mut hashes: Vec<u128> = Vec::with_capacity(self.changed.len());
        for ((id, places), contents) in self.changed.iter().zip(&mut self.contents) {
            hashes.push(content(disk, *id, places, fates, contents).1);
        }
        let kept: Vec<bool> = self.names.iter().map(|&place| fates[place].whole()).collect();
        let skeleton = self.skeletons.entry(kept).or_insert_with_key(|kept| {
            let mut left = disk.without_pending();
            for (&place, _) in self.names.iter().zip(kept).filter(|(_, kept)| **kept) {
                left.apply_name(disk.pending[place].change.name().expect("a change of names"));
            }
            Skeleton::of(&left)
        });
        skeleton.hash(|id| match self.changed.binary_search_by_key(&id, |(id, _)| *id) {
            Ok(which) => hashes[which],
            Err(_) => self.unchanged[&id],
        })
    }

    /// The machine after the cut.
    pub fn leave(&mut self, fates: &[Fate]) -> Sim {
        let (changed, contents) = (&self.changed, &mut self.contents);
        let disk = &self.world.disk;
        let left = after(disk, fates, |_, id, places, fates| {
            let which = changed.binary_search_by_key(&id, |(id, _)| *id).expect("it changed");
            content(disk, id, places, fates, &mut contents[which]).0.clone()
        });
        Sim::of(self.world.with(left))
    }
}

/// The content of a changed file and its hash, from the fates of its own changes.
fn content<'a>(
    disk: &Disk,
    id: Id,
    places: &[usize],
    fates: &[Fate],
    known: &'a mut HashMap<Vec<Fate>, (Content, u128)>,
) -> &'a (Content, u128) {
    let own: Vec<Fate> = places.iter().map(|&place| fates[place]).collect();
    known.entry(own).or_insert_with(|| {
        let content = left(disk, id, places, fates);
        let hash = content.hash();
        (content, hash)
    })
}

/// Places of the pending changes: for each changed file, by its number; and of names.
fn by_part(disk: &Disk) -> (Vec<(Id, Vec<usize>)>, Vec<usize>) {
    let (mut files, mut names): (Vec<(Id, Vec<usize>)>, _) = (Vec::new(), Vec::new());
    for (place, pending) in disk.pending.iter().enumerate() {
        let Some(id) = pending.change.file() else {
            names.push(place);
            continue;
        };
        match files.binary_search_by_key(&id, |(id, _)| *id) {
            Ok(which) => files[which].1.push(place),
            Err(which) => files.insert(which, (id, vec![place])),
        }
    }
    (files, names)
}

/// The disk that a power cut leaves; `left` says what is in a changed file.
pub(super) fn after(
    disk: &Disk,
    fates: &[Fate],
    mut left: impl FnMut(&Disk, Id, &[usize], &[Fate]) -> Content,
) -> Disk {
    let mut after = disk.without_pending();
    let (changed, names) = by_part(disk);
    for place in names.into_iter().filter(|&place| fates[place].whole()) {
        after.apply_name(disk.pending[place].change.name().expect("a change of names"));
    }
    for (id, places) in changed {
        after.file_mut(id).durable = left(disk, id, &places, fates);
    }
    after.restart();
    after
}

/// What is durable of a file once these of its pending changes met their fates.
pub(super) fn left(disk: &Disk, id: Id, places: &[usize], fates: &[Fate]) -> Content {
    let file = disk.file(id).expect("only a file's content changes");
    let mut file: FileNode = file.clone();
    let mut end = file.durable.len();
    for &place in places {
        let fate = fates[place];
        match &disk.pending[place].change {
            Change::Data { patch, .. } => file.durable.put(patch, |sector| fate.sector(sector)),
            Change::Length { from, to, .. } => {
                if let Some(to) = fate.length(*from, *to) {
                    file.reach(*from, to);
                    end = to;
                }
            }
            Change::Name(_) => {}
        }
    }
    file.finish(end);
    file.durable
}

/// The names of a disk, and which files have them.
#[derive(Debug)]
pub(super) struct Skeleton {
    names: u128,
    files: Vec<Id>,
}

impl Skeleton {
    pub(super) fn of(disk: &Disk) -> Self {
        let (mut names, mut files) = (Vec::new(), Vec::new());
        disk.skeleton(ROOT, &mut names, &mut files);
        Skeleton { names: xxh3_128(&names), files }
    }

    /// The hash of a disk with these names, and files of these hashes.
    pub(super) fn hash(&self, file: impl Fn(Id) -> u128) -> u128 {
        let mut all = Vec::with_capacity(16 * (1 + self.files.len()));
        all.extend(self.names.to_le_bytes());
        for id in &self.files {
            all.extend(file(*id).to_le_bytes());
        }
        xxh3_128(&all)
    }
}
