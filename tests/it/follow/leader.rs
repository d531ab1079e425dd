//! A leader to follow: its directory, what it appends, how it dies; and how copies are compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidelog::log::MIN_SEGMENT_BYTES;
use tidelog::{Append, Batch, Durability, Follower, Log, Options, Record, Table, ship};

/// A leader's directory, its open log, and a place for copies.
pub(crate) struct Leader {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) options: Options,
    pub(crate) log: Option<Log>,
    pub(crate) appended: u64,
}

impl Leader {
    pub(crate) fn new(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = options.create(true).segment_bytes(MIN_SEGMENT_BYTES);
        let log = Some(options.clone().open(dir.path().join("leader")).unwrap());
        Leader { dir, options, log, appended: 0 }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("leader")
    }

    pub(crate) fn copy(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    /// Appends batches with values of `size` bytes, over a few keys; some delete.
    pub(crate) fn append(&mut self, batches: usize, size: usize) {
        for i in 0..batches {
            if i + 1 == batches {
                // STATE is rewritten at most every 5 ms, and here no worker does it later.
                std::thread::sleep(Duration::from_millis(6));
            }
            let mut batch = Batch::new();
            for _ in 0..1 + self.appended % 3 {
                let key = format!("key {}", self.appended * 7 % 40);
                let value = format!("{} ", self.appended).repeat(size / 8 + 1);
                batch.push(&Record::put(key.as_bytes(), value.as_bytes())).unwrap();
                self.appended += 1;
            }
            if self.appended.is_multiple_of(5) {
                batch.push(&Record::delete(b"key 7")).unwrap();
                self.appended += 1;
            }
            let how = Append { durability: Some(Durability::Buffered), ..Append::default() };
            self.log().append_with(&batch, &how).unwrap();
        }
        self.log().sync().unwrap();
    }

    pub(crate) fn close(&mut self) {
        self.log.take().unwrap().close().unwrap();
    }

    /// The process dies: nothing is closed, and the lock goes with it.
    pub(crate) fn crash(&mut self) {
        std::mem::forget(self.log.take().unwrap());
        fs::remove_file(self.path().join("LOCK")).unwrap();
    }

    pub(crate) fn open(&mut self) {
        self.log = Some(self.options.clone().open(self.path()).unwrap());
    }

    pub(crate) fn follower(&self, name: &str) -> Follower {
        let source = ship::Directory::open(self.path()).unwrap();
        Follower::open(Log::options(), self.copy(name), source).unwrap()
    }

    /// Opens a copy, catches up, holds everything against the leader.
    pub(crate) fn check(&self, name: &str) {
        let mut follower = self.follower(name);
        follower.catch_up().unwrap();
        self.compare(&follower, name);
        follower.close().unwrap();
    }

    pub(crate) fn compare(&self, follower: &Follower, name: &str) {
        same_segments(&self.path(), &self.copy(name));
        assert_eq!(follower.lag(), tidelog::replica::Lag::default());
        if let Some(log) = &self.log {
            assert_eq!(follower.end(), log.durable_end());
            let table = Table::from_log(log).unwrap();
            assert_eq!(follower.table().digest().unwrap(), table.digest().unwrap());
            assert_eq!(follower.table().view().len().unwrap(), table.view().len().unwrap());
            assert_eq!(
                follower.table().applied().map(|p| p.offset),
                table.applied().map(|p| p.offset)
            );
        }
    }
}

pub(crate) fn segments(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(path.join("segments")).into_iter().flatten() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.len() == 24 && name.ends_with(".seg") {
            files.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    files
}

pub(crate) fn sealed(file: &[u8]) -> bool {
    file.len() > 8192 && &file[file.len() - 256..file.len() - 248] == b"TIDEFOOT"
}

/// Sealed segments are equal; one that is not sealed at the leader is equal as far as it goes,
/// and the leader has nothing but zeros behind that.
pub(crate) fn same_segments(leader: &Path, copy: &Path) {
    let (mut theirs, mine) = (segments(leader), segments(copy));
    // A segment without a durable frame is not begun.
    theirs.retain(|name, theirs| mine.contains_key(name) || theirs[4096..].iter().any(|&b| b != 0));
    assert_eq!(theirs.keys().collect::<Vec<_>>(), mine.keys().collect::<Vec<_>>());
    for (name, theirs) in &theirs {
        let mine = &mine[name];
        if sealed(theirs) {
            assert!(mine == theirs, "{name} differs");
        } else if sealed(mine) {
            let end = u64::from_le_bytes(mine[mine.len() - 184..][..8].try_into().unwrap()) - 40;
            assert!(theirs[..end as usize] == mine[..end as usize], "{name} differs");
        } else {
            assert!(theirs[..mine.len()] == mine[..], "{name} differs");
            assert!(theirs[mine.len()..].iter().all(|&b| b == 0), "{name} lacks frames");
        }
    }
}

pub(crate) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_tree(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}
