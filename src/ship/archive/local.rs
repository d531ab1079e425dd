//! An archive in a directory: every object a file, durable when a call returns.
//!
//! Through `fs`, so that it runs on the simulated disk too. Each step closes a crash:
//! - an object is written as a temporary file and synced before it gets its name, so a name never
//!   stands for half an object;
//! - the directory is synced before the call returns, so what was promised keeps its name;
//! - a create gives the name only if nothing has it: of several at once, one succeeds.
//!
//! Invariant: only names of the grammar are opened, never through a link.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::fs::{Fs, Open, Os};
use crate::mutant::{self, Mutant};

use super::name::{ObjectName, Prefix};
use super::store::{Create, ReadPart, Store};

/// Bytes written at a time.
const BLOCK_BYTES: usize = 4 << 20;

/// A directory as an archive's store.
#[derive(Debug)]
pub struct LocalStore {
    fs: Arc<dyn Fs>,
    root: PathBuf,
    /// Directories whose names this store has made sure of.
    made: Mutex<BTreeSet<PathBuf>>,
}

impl LocalStore {
    /// The archive in `root`, which need not exist yet; the directory above must.
    pub fn at(root: impl AsRef<Path>) -> Self {
        LocalStore::at_in(Os::shared(), root)
    }

    /// The same, in a file system of the caller's.
    pub fn at_in(fs: Arc<dyn Fs>, root: impl AsRef<Path>) -> Self {
        LocalStore { fs, root: root.as_ref().to_path_buf(), made: Mutex::default() }
    }

    /// Makes the directories down to where `path` is to be.
    fn make_way(&self, path: &Path) -> Result<PathBuf> {
        let directory = path.parent().unwrap_or(&self.root).to_path_buf();
        let below = directory.strip_prefix(&self.root).unwrap_or(Path::new(""));
        let mut at = self.root.clone();
        let mut made = vec![at.clone()];
        for part in below.components() {
            at.push(part);
            made.push(at.clone());
        }
        let mut sure = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        for directory in made {
            if sure.contains(&directory) {
                continue;
            }
            // Another may have made it and not synced it yet.
            self.fs.create_dir(&directory).map_err(|e| Error::io("create", &directory, e))?;
            let above = directory.parent().filter(|above| !above.as_os_str().is_empty());
            let above = above.unwrap_or(Path::new("."));
            // Closes the crash that forgets the directory with all that is in it.
            self.fs.sync_dir(above).map_err(|e| Error::io("sync", above, e))?;
            sure.insert(directory);
        }
        Ok(directory)
    }

    /// Writes `len` bytes as a temporary file beside `path`, synced.
    fn stage(
        &self,
        directory: &Path,
        path: &Path,
        len: u64,
        read: &mut ReadPart<'_>,
    ) -> Result<PathBuf> {
        let mut random = [0; 8];
        self.fs.random(&mut random).map_err(|e| Error::io("draw a name for", path, e))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let random = u64::from_le_bytes(random);
        let temporary = directory.join(format!("{name}.{random:016x}.tmp"));
        let staged = self.fill(&temporary, len, read);
        if let Err(error) = staged {
            let _ = self.fs.unlink(&temporary);
            return Err(error);
        }
        Ok(temporary)
    }

    fn fill(&self, temporary: &Path, len: u64, read: &mut ReadPart<'_>) -> Result<()> {
        let io = |e| Error::io("write", temporary, e);
        let file = self.fs.open(temporary, Open::Create).map_err(io)?;
        let mut block = vec![0; usize::try_from(len).map_or(BLOCK_BYTES, |l| l.min(BLOCK_BYTES))];
        let mut at = 0;
        while at < len {
            let part = usize::try_from(len - at).map_or(block.len(), |left| left.min(block.len()));
            read(at, &mut block[..part])?;
            file.write_all_at(&block[..part], at).map_err(io)?;
            at += part as u64;
        }
        // Closes the crash that leaves a name without its content.
        file.sync_data().map_err(io)
    }

    fn sync(&self, directory: &Path) -> Result<()> {
        // Closes the crash that forgets a name which somebody was told of.
        self.fs.sync_dir(directory).map_err(|e| Error::io("sync", directory, e))
    }
}

/// Bytes at hand, part by part.
fn parts_of(bytes: &[u8]) -> impl FnMut(u64, &mut [u8]) -> Result<()> + '_ {
    |at, part| {
        let at = usize::try_from(at).expect("inside what is at hand");
        part.copy_from_slice(&bytes[at..at + part.len()]);
        Ok(())
    }
}

impl Store for LocalStore {
    fn place(&self) -> String {
        format!("file://{}", self.root.display())
    }

    fn get_range(&self, name: &ObjectName, from: u64, len: usize) -> Result<Option<Vec<u8>>> {
        let path = name.path(&self.root);
        let file = match self.fs.open_plain(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| Error::io("open", &path, e))?,
        };
        let io = |e| Error::io("read", &path, e).at_byte(from);
        let there = file.len().map_err(io)?.saturating_sub(from);
        let len = usize::try_from(there).map_or(len, |there| there.min(len));
        let mut bytes = vec![0; len];
        let read = file.read_full_at(&mut bytes, from).map_err(io)?;
        bytes.truncate(read);
        Ok(Some(bytes))
    }

    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.put_from(name, bytes.len() as u64, &mut parts_of(bytes))
    }

    fn put_from(&self, name: &ObjectName, len: u64, read: &mut ReadPart<'_>) -> Result<()> {
        let path = name.path(&self.root);
        let directory = self.make_way(&path)?;
        let temporary = self.stage(&directory, &path, len, read)?;
        if let Err(e) = self.fs.rename(&temporary, &path) {
            let _ = self.fs.unlink(&temporary);
            return Err(Error::io("rename into place", &path, e));
        }
        self.sync(&directory)
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Create {
        let path = name.path(&self.root);
        let staged = self.make_way(&path).and_then(|directory| {
            let len = bytes.len() as u64;
            let temporary = self.stage(&directory, &path, len, &mut parts_of(bytes))?;
            Ok((directory, temporary))
        });
        let (directory, temporary) = match staged {
            Ok(staged) => staged,
            Err(error) => return Create::Unknown(error),
        };
        let named = match mutant::on(Mutant::CreateOverwrites) {
            true => self.fs.rename(&temporary, &path),
            false => self.fs.rename_new(&temporary, &path),
        };
        if named.is_err() {
            let _ = self.fs.unlink(&temporary);
        }
        let exists = match named {
            Ok(()) => false,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => true,
            Err(e) => return Create::Unknown(Error::io("name", &path, e)),
        };
        // Also of what another made: whoever is told that it exists relies on it.
        match self.sync(&directory) {
            Err(error) => Create::Unknown(error),
            Ok(()) if exists => Create::Exists,
            Ok(()) => Create::Created,
        }
    }

    fn list(&self, prefix: Prefix) -> Result<Vec<(ObjectName, u64)>> {
        let directory = prefix.to_string();
        let path = self.root.join(&directory);
        let names = match self.fs.list(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|e| Error::io("list", &path, e))?,
        };
        let mut found = Vec::new();
        for name in names {
            let parsed = ObjectName::parse(&format!("{directory}/{name}"));
            let Some(name) = parsed.filter(|name| prefix.holds(name)) else { continue };
            let path = name.path(&self.root);
            match self.fs.open_plain(&path).and_then(|file| file.len()) {
                Ok(len) => found.push((name, len)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // A link, a directory: none of ours.
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => {}
                Err(e) => return Err(Error::io("look at", &path, e)),
            }
        }
        Ok(found)
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        let path = name.path(&self.root);
        match self.fs.unlink(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|e| Error::io("remove", &path, e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::fs::sim::{Crash, Sim};

    #[test]
    fn one_of_many_creates_succeeds_and_its_bytes_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::at(dir.path().join("archive"));
        for n in 1..40 {
            let outcomes: Vec<Create> = std::thread::scope(|scope| {
                let store = &store;
                let racer =
                    |i: u8| scope.spawn(move || store.create(&ObjectName::Log(n), &[i; 5000]));
                let racers: Vec<_> = (0..8).map(racer).collect();
                racers.into_iter().map(|racer| racer.join().unwrap()).collect()
            });
            let winners: Vec<u8> =
                (0..8u8).filter(|i| matches!(outcomes[usize::from(*i)], Create::Created)).collect();
            assert_eq!(winners.len(), 1, "{outcomes:?}");
            let store: &dyn Store = &store;
            let there = store.get(&ObjectName::Log(n), 5000).unwrap().unwrap();
            assert_eq!(there, [winners[0]; 5000]);
        }
        let left = std::fs::read_dir(dir.path().join("archive/log")).unwrap();
        assert_eq!(left.count(), 39, "temporary files are gone");
    }

    #[test]
    fn what_a_call_promised_survives_every_power_cut() {
        let sim = Sim::new(1);
        let store = LocalStore::at_in(sim.shared(), "/archive");
        assert!(matches!(store.create(&ObjectName::Log(1), b"one"), Create::Created));
        store.put(&ObjectName::Head, b"hint").unwrap();
        store.put(&ObjectName::Head, b"later").unwrap();
        assert!(matches!(store.create(&ObjectName::Log(1), b"two"), Create::Exists));
        let after = LocalStore::at_in(sim.crash(&Crash::DropAll).shared(), "/archive");
        let after: &dyn Store = &after;
        assert_eq!(after.get(&ObjectName::Log(1), 9).unwrap().unwrap(), b"one");
        assert_eq!(after.get(&ObjectName::Head, 9).unwrap().unwrap(), b"later");
        assert_eq!(after.list(Prefix::Log).unwrap(), [(ObjectName::Log(1), 3)]);
        assert_eq!(after.get(&ObjectName::Head, 4).unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn links_and_strange_names_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::at(dir.path());
        store.put(&ObjectName::Log(1), b"one").unwrap();
        std::fs::write(dir.path().join("log/0001"), b"x").unwrap();
        let two = ObjectName::Log(2);
        std::os::unix::fs::symlink("/etc/passwd", two.path(dir.path())).unwrap();
        assert_eq!(store.list(Prefix::Log).unwrap(), [(ObjectName::Log(1), 3)]);
        assert!(store.get_range(&two, 0, 10).is_err());
        assert_eq!(store.get_range(&ObjectName::Log(3), 0, 10).unwrap(), None);
        assert_eq!(store.get_range(&ObjectName::Log(1), 2, 10).unwrap().unwrap(), b"e");
        assert_eq!(store.get_range(&ObjectName::Log(1), 9, 10).unwrap().unwrap(), b"");
    }
}
