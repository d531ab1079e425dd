//! The simulated disk: inodes with what reads see and what is durable, and the changes between.
//!
//! Pure state: no faults, no locks, no power switch; those are `calls`, which alone changes it.
//! `crash` builds other disks of it. Invariants:
//! - every change since the last sync is in `pending`, in order; a file's durable content with all
//!   its pending changes is its content, unless a failed sync dropped some;
//! - a file or directory has one name at most, in what reads see and in what is durable;
//! - of two pending changes of names that touch the same name or the same file, the later never
//!   becomes durable by a sync without the earlier.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::content::{Content, Patch};
use super::nodes::Nodes;

/// Number of an inode.
pub(super) type Id = u64;
type Names = Arc<BTreeMap<String, Id>>;

pub(super) const ROOT: Id = 0;

/// All there is on the disk and in the page cache.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) nodes: Nodes,
    pub(super) pending: Vec<Pending>,
    pub(super) next: Id,
    /// Raised with every change of what is durable.
    pub(super) version: u64,
    /// Inodes that lost a name, or a change that kept them: only these may have to be forgotten.
    loose: Vec<Id>,
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    File(FileNode),
    Dir(DirNode),
}

#[derive(Clone, Debug, Default)]
pub(super) struct FileNode {
    pub(super) now: Content,
    pub(super) durable: Content,
    /// The durable length once all that is pending is durable.
    len: u64,
    /// A failed sync dropped changes: `now` can no longer stand for what a sync makes durable.
    dropped: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct DirNode {
    pub(super) now: Names,
    pub(super) durable: Names,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) dir: Id,
    pub(super) name: String,
}

/// A change that no sync has made durable yet.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// Number of the operation that made it.
    pub(super) operation: usize,
    pub(super) path: Arc<Path>,
    pub(super) change: Change,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Data { node: Id, byte: u64, len: u64, patch: Patch },
    Length { node: Id, from: u64, to: u64 },
    Name(NameChange),
}

/// A change in one directory, or in two for a rename between them.
#[derive(Clone, Debug)]
pub(super) struct NameChange {
    pub(super) kind: NameKind,
    node: Id,
    entries: Vec<Entry>,
    /// The directories whose sync it still needs.
    unsynced: Vec<Id>,
}

#[derive(Clone, Debug)]
pub(super) enum NameKind {
    Create,
    CreateDir,
    Unlink,
    Rename { to: Arc<Path> },
}

/// How a sync ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Synced {
    Durable,
    /// As Linux does after a failed sync: the changes count as clean and are never written.
    Dropped,
}

impl Disk {
    pub(super) fn new() -> Self {
        let mut nodes = Nodes::default();
        nodes.push(ROOT, Node::Dir(DirNode::default()));
        Disk { nodes, pending: Vec::new(), next: ROOT + 1, version: 0, loose: Vec::new() }
    }

    /// The same with nothing pending: what was is neither lost nor kept yet.
    pub(super) fn without_pending(&self) -> Self {
        let Disk { nodes, next, version, loose, .. } = self;
        let (nodes, loose) = (nodes.clone(), loose.clone());
        Disk { nodes, pending: Vec::new(), next: *next, version: version + 1, loose }
    }

    // Names.

    /// The inode that has this path now.
    pub(super) fn find(&self, path: &Path) -> io::Result<Id> {
        let mut id = ROOT;
        for name in names(&text(path)?) {
            id = *self.dir(id)?.now.get(name).ok_or(Errno::NOENT)?;
        }
        Ok(id)
    }

    pub(super) fn find_file(&self, path: &Path) -> io::Result<Id> {
        let id = self.find(path)?;
        self.file(id).map(|_| id)
    }

    /// The directory that holds, or would hold, this path.
    pub(super) fn entry(&self, path: &Path) -> io::Result<Entry> {
        let path = text(path)?;
        let (parent, name) =
            path.rsplit_once('/').filter(|(_, name)| !name.is_empty()).ok_or(Errno::BUSY)?;
        let mut dir = ROOT;
        for part in names(parent) {
            dir = *self.dir(dir)?.now.get(part).ok_or(Errno::NOENT)?;
        }
        self.dir(dir)?;
        Ok(Entry { dir, name: name.to_owned() })
    }

    pub(super) fn dir(&self, id: Id) -> io::Result<&DirNode> {
        match self.nodes.get(id) {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::File(_)) => Err(Errno::NOTDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    fn dir_mut(&mut self, id: Id) -> &mut DirNode {
        match self.nodes.get_mut(id) {
            Some(Node::Dir(dir)) => dir,
            _ => unreachable!("inode {id} is a directory: only those hold names"),
        }
    }

    pub(super) fn file(&self, id: Id) -> io::Result<&FileNode> {
        match self.nodes.get(id) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(Errno::ISDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    pub(super) fn file_mut(&mut self, id: Id) -> &mut FileNode {
        match self.nodes.get_mut(id) {
            Some(Node::File(file)) => file,
            _ => unreachable!("inode {id} is a file: handles and changes keep it"),
        }
    }

    pub(super) fn create(&mut self, path: &Arc<Path>, operation: usize) -> io::Result<Id> {
        self.link(path, Node::File(FileNode::default()), NameKind::Create, operation)
    }

    pub(super) fn create_dir(&mut self, path: &Arc<Path>, operation: usize) -> io::Result<Id> {
        self.link(path, Node::Dir(DirNode::default()), NameKind::CreateDir, operation)
    }

    fn link(
        &mut self,
        path: &Arc<Path>,
        node: Node,
        kind: NameKind,
        operation: usize,
    ) -> io::Result<Id> {
        let entry = self.entry(path)?;
        if self.dir(entry.dir)?.now.contains_key(&entry.name) {
            return Err(Errno::EXIST.into());
        }
        let id = self.next;
        self.next += 1;
        self.nodes.push(id, node);
        Arc::make_mut(&mut self.dir_mut(entry.dir).now).insert(entry.name.clone(), id);
        self.push_name(path, kind, id, vec![entry], operation);
        Ok(id)
    }

    pub(super) fn unlink(&mut self, path: &Arc<Path>, operation: usize) -> io::Result<()> {
        let id = self.find_file(path)?;
        let entry = self.entry(path)?;
        Arc::make_mut(&mut self.dir_mut(entry.dir).now).remove(&entry.name);
        self.loose.push(id);
        self.push_name(path, NameKind::Unlink, id, vec![entry], operation);
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        path: &Arc<Path>,
        new: &Arc<Path>,
        operation: usize,
    ) -> io::Result<()> {
        let id = self.find(path)?;
        let (from, to) = (self.entry(path)?, self.entry(new)?);
        if from == to {
            return Ok(());
        }
        if absolute(new)?.starts_with(absolute(path)?) {
            return Err(Errno::INVAL.into());
        }
        let replaced = self.dir(to.dir)?.now.get(&to.name).map(|&id| &self.nodes[id]);
        match (&self.nodes[id], replaced) {
            (Node::File(_), Some(Node::Dir(_))) => return Err(Errno::ISDIR.into()),
            (Node::Dir(_), Some(Node::File(_))) => return Err(Errno::NOTDIR.into()),
            (_, Some(Node::Dir(dir))) if !dir.now.is_empty() => return Err(Errno::NOTEMPTY.into()),
            _ => {}
        }
        Arc::make_mut(&mut self.dir_mut(from.dir).now).remove(&from.name);
        let replaced = Arc::make_mut(&mut self.dir_mut(to.dir).now).insert(to.name.clone(), id);
        self.loose.extend(replaced);
        let kind = NameKind::Rename { to: Arc::clone(new) };
        self.push_name(path, kind, id, vec![from, to], operation);
        Ok(())
    }

    fn push_name(
        &mut self,
        path: &Arc<Path>,
        kind: NameKind,
        node: Id,
        entries: Vec<Entry>,
        operation: usize,
    ) {
        let mut unsynced: Vec<Id> = entries.iter().map(|entry| entry.dir).collect();
        unsynced.dedup();
        let change = Change::Name(NameChange { kind, node, entries, unsynced });
        self.pending.push(Pending { operation, path: Arc::clone(path), change });
    }

    /// Every path that reads see, with its inode, parents first.
    pub(super) fn tree(&self) -> Vec<(PathBuf, Id)> {
        let mut tree = vec![(PathBuf::from("/"), ROOT)];
        let mut next = 0;
        while let Some((path, id)) = tree.get(next).cloned() {
            if let Some(Node::Dir(dir)) = self.nodes.get(id) {
                tree.extend(dir.now.iter().map(|(name, &id)| (path.join(name), id)));
            }
            next += 1;
        }
        tree
    }

    // Files.

    pub(super) fn write(
        &mut self,
        id: Id,
        path: &Arc<Path>,
        bytes: &[u8],
        byte: u64,
        operation: usize,
    ) -> io::Result<()> {
        let file = self.file_mut(id);
        file.now.write_at(bytes, byte)?;
        let (from, to) = (file.len, file.len.max(byte + bytes.len() as u64));
        let patch = file.now.patch(byte, bytes.len());
        let data = Change::Data { node: id, byte, len: bytes.len() as u64, patch };
        self.pending.push(Pending { operation, path: Arc::clone(path), change: data });
        self.push_length(id, path, from, to, operation);
        Ok(())
    }

    pub(super) fn set_len(
        &mut self,
        id: Id,
        path: &Arc<Path>,
        to: u64,
        operation: usize,
    ) -> io::Result<()> {
        let file = self.file_mut(id);
        file.now.set_len(to)?;
        let from = file.len;
        self.push_length(id, path, from, to, operation);
        Ok(())
    }

    fn push_length(&mut self, node: Id, path: &Arc<Path>, from: u64, to: u64, operation: usize) {
        if from != to {
            self.file_mut(node).len = to;
            let change = Change::Length { node, from, to };
            self.pending.push(Pending { operation, path: Arc::clone(path), change });
        }
    }

    /// Bytes taken by files that have a name or are `open`.
    pub(super) fn used(&self, open: impl Fn(Id) -> bool) -> u64 {
        let (mut named, mut next) = (vec![ROOT], 0);
        while let Some(&id) = named.get(next) {
            if let Some(Node::Dir(dir)) = self.nodes.get(id) {
                named.extend(dir.now.values());
            }
            next += 1;
        }
        named.sort_unstable();
        let files = self.nodes.iter().filter_map(|(id, node)| match node {
            Node::File(file) if named.binary_search(&id).is_ok() || open(id) => {
                Some(file.now.len())
            }
            _ => None,
        });
        files.sum()
    }

    // Durability.

    pub(super) fn sync_file(&mut self, id: Id, how: Synced) {
        let is_mine = |pending: &mut Pending| pending.change.file() == Some(id);
        let mine: Vec<Pending> = self.pending.extract_if(.., is_mine).collect();
        self.version += u64::from(how == Synced::Durable && !mine.is_empty());
        let file = self.file_mut(id);
        match how {
            Synced::Dropped => {
                file.dropped |= !mine.is_empty();
                file.len = file.durable.len();
            }
            Synced::Durable if !file.dropped => file.clean(),
            Synced::Durable => {
                let mut len = file.durable.len();
                for pending in &mine {
                    match &pending.change {
                        Change::Data { patch, .. } => file.durable.put(patch, |_| true),
                        Change::Length { from, to, .. } => {
                            file.reach(*from, *to);
                            len = *to;
                        }
                        Change::Name(_) => {}
                    }
                }
                assert_eq!(len, file.len, "lengths follow one another");
                file.finish(len);
            }
        }
    }

    pub(super) fn sync_dir(&mut self, dir: Id, how: Synced) {
        for pending in &mut self.pending {
            if let Change::Name(change) = &mut pending.change {
                change.unsynced.retain(|&id| id != dir);
            }
        }
        self.settle_names(|change| change.unsynced.is_empty(), how);
    }

    /// Makes the picked changes of names durable (or drops them), and what they build on.
    pub(super) fn settle_names(&mut self, pick: impl Fn(&NameChange) -> bool, how: Synced) {
        let mut settled: Vec<bool> = Vec::with_capacity(self.pending.len());
        settled.extend(self.pending.iter().map(|p| p.change.name().is_some_and(&pick)));
        for earlier in (0..self.pending.len()).rev() {
            let Some(change) = self.pending[earlier].change.name() else { continue };
            settled[earlier] |= (earlier + 1..self.pending.len()).any(|later| {
                settled[later] && self.pending[later].change.name().is_some_and(|c| c.meets(change))
            });
        }
        let mut settled = settled.into_iter();
        let (mine, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|_| settled.next().unwrap_or(false));
        self.pending = others;
        for change in mine.iter().filter_map(|pending| pending.change.name()) {
            self.loose.push(change.node);
            self.loose.extend(change.entries.iter().map(|entry| entry.dir));
        }
        if how == Synced::Durable {
            self.version += u64::from(!mine.is_empty());
            for pending in &mine {
                pending.change.name().into_iter().for_each(|change| self.apply_name(change));
            }
        }
    }

    /// Brings one change of names to the durable directories.
    pub(super) fn apply_name(&mut self, change: &NameChange) {
        if let NameKind::Rename { .. } = change.kind {
            // Whatever earlier changes were lost, a file never has two names.
            for node in self.nodes.values_mut() {
                if let Node::Dir(dir) = node
                    && dir.durable.values().any(|&id| id == change.node)
                {
                    Arc::make_mut(&mut dir.durable).retain(|_, id| *id != change.node);
                }
            }
        }
        let Some(Entry { dir, name }) = change.entries.last().cloned() else { return };
        // The directory is gone if its own name was lost: what is in it is lost with it.
        if let Some(Node::Dir(dir)) = self.nodes.get_mut(dir) {
            let names = Arc::make_mut(&mut dir.durable);
            let before = match change.kind {
                NameKind::Unlink => names.remove(&name),
                _ => names.insert(name, change.node),
            };
            self.loose.extend(before);
        }
    }

    /// Names of this inode have gone.
    pub(super) fn loosen(&mut self, id: Id) {
        self.loose.push(id);
    }

    /// Forgets inodes that no name, no pending change and no handle reaches; which.
    pub(super) fn sweep(&mut self, open: impl Fn(Id) -> bool) -> Vec<Id> {
        let mut loose = std::mem::take(&mut self.loose);
        loose.sort_unstable();
        loose.dedup();
        let mut reached = vec![false; loose.len()];
        let mut reach = |id: &Id| {
            if let Ok(at) = loose.binary_search(id) {
                reached[at] = true;
            }
        };
        reach(&ROOT);
        for node in self.nodes.values() {
            if let Node::Dir(dir) = node {
                dir.now.values().for_each(&mut reach);
                if !Arc::ptr_eq(&dir.now, &dir.durable) {
                    dir.durable.values().for_each(&mut reach);
                }
            }
        }
        for change in self.pending.iter().filter_map(|pending| pending.change.name()) {
            reach(&change.node);
            change.entries.iter().for_each(|entry| reach(&entry.dir));
        }
        let mut reached = reached.into_iter();
        loose.retain(|_| !reached.next().unwrap_or(true));
        // What only a handle keeps is looked at again.
        let (kept, gone): (Vec<Id>, Vec<Id>) = loose.into_iter().partition(|id| open(*id));
        self.loose = kept;
        for id in &gone {
            if let Some(Node::Dir(dir)) = self.nodes.get(*id) {
                self.loose.extend(dir.now.values().chain(dir.durable.values()));
            }
        }
        if !gone.is_empty() {
            let stays = |id: Id| gone.binary_search(&id).is_err();
            self.nodes.retain(stays);
            self.pending.retain(|pending| pending.change.file().is_none_or(stays));
        }
        gone
    }

    /// Forgets what is durable beyond reach of the root, and shows what is left to reads.
    pub(super) fn restart(&mut self) {
        let (mut reached, mut next) = (vec![ROOT], 0);
        while let Some(&id) = reached.get(next) {
            if let Some(Node::Dir(dir)) = self.nodes.get(id) {
                // A name is in one directory alone, so that nothing is reached twice.
                reached.extend(dir.durable.values());
            }
            next += 1;
        }
        reached.sort_unstable();
        self.nodes.retain(|id| reached.binary_search(&id).is_ok());
        for node in self.nodes.values_mut() {
            match node {
                Node::File(file) => file.show_durable(),
                Node::Dir(dir) if Arc::ptr_eq(&dir.now, &dir.durable) => {}
                Node::Dir(dir) => dir.now = Arc::clone(&dir.durable),
            }
        }
        self.pending.clear();
        self.loose.clear();
    }

    /// Adds the durable names from directory `dir` down, and their files in the same order.
    pub(super) fn skeleton(&self, dir: Id, names: &mut Vec<u8>, files: &mut Vec<Id>) {
        let Some(Node::Dir(dir)) = self.nodes.get(dir) else { return };
        names.extend((dir.durable.len() as u64).to_le_bytes());
        for (name, &id) in dir.durable.iter() {
            names.extend((name.len() as u64).to_le_bytes());
            names.extend(name.as_bytes());
            match self.nodes[id] {
                Node::File(_) => {
                    names.push(b'f');
                    files.push(id);
                }
                Node::Dir(_) => {
                    names.push(b'd');
                    self.skeleton(id, names, files);
                }
            }
        }
    }
}

impl Change {
    /// The file whose sync makes this durable.
    pub(super) fn file(&self) -> Option<Id> {
        match self {
            Change::Data { node, .. } | Change::Length { node, .. } => Some(*node),
            Change::Name(_) => None,
        }
    }

    pub(super) fn name(&self) -> Option<&NameChange> {
        match self {
            Change::Name(change) => Some(change),
            _ => None,
        }
    }
}

impl NameChange {
    /// Whether both touch the same name or the same file.
    fn meets(&self, other: &NameChange) -> bool {
        self.node == other.node || self.entries.iter().any(|entry| other.touches(entry))
    }

    /// Whether it changes this name.
    pub(super) fn touches(&self, entry: &Entry) -> bool {
        self.entries.contains(entry)
    }
}

impl FileNode {
    /// On the way of the durable length from `from` to `to`: a cut takes what lies beyond.
    /// A longer one lets data be that lies there already.
    pub(super) fn reach(&mut self, from: u64, to: u64) {
        if to < from && to < self.durable.len() {
            self.finish(to);
        }
    }

    /// What reads see is what is durable.
    pub(super) fn clean(&mut self) {
        self.durable = self.now.clone();
        self.len = self.now.len();
        self.dropped = false;
    }

    /// Shows reads what is durable, as a start of the machine does.
    fn show_durable(&mut self) {
        self.len = self.durable.len();
        self.dropped = false;
        if !self.now.is_same(&self.durable) {
            self.now = self.durable.clone();
        }
    }

    /// Sets the durable length: data beyond it is out of reach for good.
    pub(super) fn finish(&mut self, len: u64) {
        self.durable.set_len(len).expect("the length was accepted when it was set");
    }
}

/// The path made absolute: `.` and `..` resolved, everything below `/`.
pub(super) fn absolute(path: &Path) -> io::Result<Cow<'_, Path>> {
    Ok(match text(path)? {
        Cow::Borrowed(_) => Cow::Borrowed(path),
        Cow::Owned(text) => Cow::Owned(PathBuf::from(text)),
    })
}

/// The same as text. Nearly all paths are absolute as they come, and cost nothing.
fn text(path: &Path) -> io::Result<Cow<'_, str>> {
    let text = path.to_str().ok_or(Errno::ILSEQ)?;
    let bytes = text.as_bytes();
    let odd = |pair: &[u8]| pair[0] == b'/' && matches!(pair[1], b'/' | b'.');
    if bytes == b"/"
        || bytes.starts_with(b"/") && !bytes.ends_with(b"/") && !bytes.windows(2).any(odd)
    {
        return Ok(Cow::Borrowed(text));
    }
    let mut parts: Vec<&str> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => parts.push(name.to_str().ok_or(Errno::ILSEQ)?),
            Component::ParentDir => drop(parts.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(Cow::Owned(format!("/{}", parts.join("/"))))
}

/// The names on an absolute path.
fn names(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = path;
    std::iter::from_fn(move || {
        rest = rest.strip_prefix('/').filter(|rest| !rest.is_empty())?;
        // Names are a few bytes long: a plain loop finds their ends sooner than a search.
        let end = rest.bytes().position(|byte| byte == b'/').unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        rest = behind;
        Some(name)
    })
}
