//! The child process behind rows with many followers: each in a thread of its own, a copy of its own.
//!
//! It prints, ten times a second, what the furthest behind has applied, as `tidelog follow` prints it
//! of one follower; and ends when it is killed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tidelog::ship::archive::{Archive, LocalStore};
use tidelog::ship::{Credentials, Directory, Http, Source};
use tidelog::{Follower, Log, Table};

const TELL_EVERY: Duration = Duration::from_millis(100);
/// Small, as there are many; what they keep is in memory only.
const DELTA_BYTES: usize = 4 << 20;
/// As often as `tidelog follow` looks at a store.
const LOOK_AT_STORE_EVERY: Duration = Duration::from_secs(1);

/// What to follow, and how many times.
#[derive(Args)]
pub struct Flock {
    pub how: How,
    /// An address, an archive's directory, or a log's.
    pub source: String,
    pub count: usize,
    /// Where the copies go.
    pub dir: PathBuf,
}

/// How the log travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum How {
    Http,
    Archive,
    Directory,
}

impl How {
    /// Its word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            How::Http => "http",
            How::Archive => "archive",
            How::Directory => "directory",
        }
    }

    /// Opens `source`, which `name` will follow.
    pub fn open(self, source: &str, name: &str) -> Result<Box<dyn Source>> {
        Ok(match self {
            How::Http => Box::new(Http::open(source, Credentials::default())?.name(name)),
            How::Archive => Box::new(Archive::open(Arc::new(LocalStore::at(source)))?),
            How::Directory => Box::new(Directory::open(Path::new(source))?),
        })
    }
}

impl Flock {
    pub fn run(&self) -> Result<()> {
        let mut followers = Vec::new();
        for n in 0..self.count {
            let name = format!("copy{n}");
            let source = self.how.open(&self.source, &name)?;
            let mut options = Log::options();
            if self.how == How::Archive {
                options = options.poll_every(LOOK_AT_STORE_EVERY);
            }
            let table = Table::options().persist(false).delta_bytes(DELTA_BYTES);
            followers.push(Follower::open_from(options, table, &self.dir.join(name), source)?);
        }
        let tables: Vec<_> = followers.iter().map(|follower| follower.table().clone()).collect();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for mut follower in followers {
                let stop = &stop;
                scope.spawn(move || {
                    let mut trouble = None;
                    let ended = follower
                        .run(stop, |step| trouble = step.as_ref().err().map(|e| e.to_string()));
                    // Nothing but an error that will not pass ends it.
                    eprintln!("a follower ended: {ended:?}; before: {trouble:?}");
                    std::process::exit(1);
                });
            }
            loop {
                let applied =
                    |table: &Table| table.applied().map_or(0, |position| position.offset.0);
                let least = tables.iter().map(applied).min().context("no follower")?;
                println!("{{\"applied_offset\":{least}}}");
                std::thread::sleep(TELL_EVERY);
            }
        })
    }
}
