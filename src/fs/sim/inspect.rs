//! Looking at the disk from outside, and damaging it.
//!
//! None of these is a call: they ignore faults, power, locks and maps, and are neither counted nor
//! recorded. Those that change something make it durable at once, together with what was pending
//! of that file and of the names on its path. They panic where a test is wrong: no such file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Sim;
use super::content::Content;
use super::disk::{Disk, Id, Node, Synced, absolute};

/// What reads saw of a file at one moment. Takes no copy: it shares what nobody has changed since.
#[derive(Clone, Debug)]
pub struct Seen(Content);

impl Seen {
    /// How many bytes there were.
    pub fn bytes(&self) -> u64 {
        self.0.len()
    }

    /// The first of `len` bytes that is another one in `other`, or is not there in one of them.
    pub fn differs(&self, other: &Seen, len: u64) -> Option<u64> {
        self.0.differs(&other.0, len)
    }

    /// Whether both are of one file that did not change between: then they are alike. Others may be, too.
    pub fn is_unchanged(&self, since: &Seen) -> bool {
        self.0.is_same(&since.0)
    }
}

impl Sim {
    /// What reads see of a file, to be compared.
    #[track_caller]
    pub fn see(&self, path: impl AsRef<Path>) -> Seen {
        let (path, world) = (path.as_ref(), self.world());
        let id = found(path, world.disk.find_file(path));
        Seen(found(path, world.disk.file(id)).now.clone())
    }

    /// The names that reads see in a directory, in order; none where it is not there.
    pub fn names(&self, dir: impl AsRef<Path>) -> Vec<String> {
        let world = self.world();
        let found = world.disk.find(dir.as_ref()).and_then(|id| world.disk.dir(id));
        found.map(|dir| dir.now.keys().cloned().collect()).unwrap_or_default()
    }

    /// Changes whenever what is durable may have: as long as it is the same, a power cut that loses all that is
    /// pending leaves the same files.
    pub fn durable_version(&self) -> u64 {
        self.world().disk.version
    }

    /// What reads see of a file.
    #[track_caller]
    pub fn read(&self, path: impl AsRef<Path>) -> Vec<u8> {
        let (path, world) = (path.as_ref(), self.world());
        let id = found(path, world.disk.find_file(path));
        found(path, world.disk.file(id)).now.to_vec(u64::MAX)
    }

    /// Whether reads see a file or directory of this name.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.world().disk.find(path.as_ref()).is_ok()
    }

    /// The files (not the directories) that reads see, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        let world = self.world();
        let files = world.disk.tree().into_iter().filter(|(_, id)| world.disk.file(*id).is_ok());
        let mut paths: Vec<PathBuf> = files.map(|(path, _)| path).collect();
        paths.sort_unstable();
        paths
    }

    /// Gives a file other bytes, durably; makes it and its directories where they are missing.
    #[track_caller]
    pub fn write(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        let path = found(path.as_ref(), absolute(path.as_ref()));
        let mut world = self.world();
        let operation = world.operations;
        let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
        above.reverse();
        for dir in above {
            if world.disk.find(dir).is_err() {
                found(dir, world.disk.create_dir(&dir.into(), operation));
            }
        }
        if world.disk.find(&path).is_err() {
            found(&path, world.disk.create(&(&*path).into(), operation));
        }
        change(&mut world.disk, &path, |content| {
            *content = Content::default();
            content.write_at(bytes, 0)
        });
    }

    /// Flips one bit of a file, durably; bit 0 is the lowest of the first byte.
    #[track_caller]
    pub fn flip(&self, path: impl AsRef<Path>, bit: u64) {
        let path = path.as_ref();
        change(&mut self.world().disk, path, |content| {
            let mut byte = [0];
            assert_eq!(content.read_at(&mut byte, bit / 8), 1, "{}: no bit {bit}", path.display());
            content.write_at(&[byte[0] ^ 1 << (bit % 8)], bit / 8)
        });
    }

    /// Cuts a file, or extends it with zeros, durably.
    #[track_caller]
    pub fn truncate(&self, path: impl AsRef<Path>, len: u64) {
        change(&mut self.world().disk, path.as_ref(), |content| content.set_len(len));
    }

    /// Removes a file, or a directory with all that is in it, durably.
    #[track_caller]
    pub fn remove(&self, path: impl AsRef<Path>) {
        let path = found(path.as_ref(), absolute(path.as_ref()));
        let mut world = self.world();
        found(&path, world.disk.find(&path));
        for (path, id) in world.disk.tree().iter().rev().filter(|(p, _)| p.starts_with(&path)) {
            settle(&mut world.disk, path);
            world.disk.loosen(*id);
            let entry = found(path, world.disk.entry(path));
            if let Some(Node::Dir(dir)) = world.disk.nodes.get_mut(entry.dir) {
                Arc::make_mut(&mut dir.now).remove(&entry.name);
                Arc::make_mut(&mut dir.durable).remove(&entry.name);
            }
        }
        world.disk.version += 1;
        world.sweep();
    }

    /// Renames, durably.
    #[track_caller]
    pub fn rename_durable(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) {
        let from: Arc<Path> = found(from.as_ref(), absolute(from.as_ref())).into();
        let to: Arc<Path> = found(to.as_ref(), absolute(to.as_ref())).into();
        let mut world = self.world();
        let operation = world.operations;
        found(&from, world.disk.rename(&from, &to, operation));
        settle(&mut world.disk, &to);
        world.sweep();
    }

    /// A hash of what is durable: names, lengths and contents. What is only pending has no part
    /// in it: hash the disk that [`Sim::crash`] leaves to tell states apart.
    pub fn durable_hash(&self) -> u128 {
        let world = self.world();
        let durable = |id| world.disk.file(id).expect("a file has content").durable.hash();
        super::cut::Skeleton::of(&world.disk).hash(durable)
    }
}

/// Changes a file in what reads see and in what is durable alike.
#[track_caller]
fn change(disk: &mut Disk, path: &Path, how: impl FnOnce(&mut Content) -> io::Result<()>) {
    let id: Id = found(path, disk.find_file(path));
    settle(disk, path);
    let file = disk.file_mut(id);
    found(path, how(&mut file.now));
    file.clean();
    disk.version += 1;
}

/// Makes durable what is pending of the names on a path, and of the file itself.
fn settle(disk: &mut Disk, path: &Path) {
    let entries: Vec<_> = path.ancestors().filter_map(|path| disk.entry(path).ok()).collect();
    disk.settle_names(|change| entries.iter().any(|entry| change.touches(entry)), Synced::Durable);
    if let Ok(id) = disk.find_file(path) {
        disk.sync_file(id, Synced::Durable);
    }
}

#[track_caller]
fn found<T>(path: &Path, result: io::Result<T>) -> T {
    result.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
