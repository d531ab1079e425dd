//! Named cursors: where a reader has stopped, remembered durably, and what it has not read yet kept.
//!
//! ```text
//! cursors/<name>.cursor   log id, the next offset, a token for the record before it, when
//! cursors/<name>.lock     held by the one process that moves it
//! ```
//!
//! Used by consumers of a log, `tail --cursor` among them, beside whoever writes it; retention reads
//! them. Names are a fixed grammar, so that none is a path.
//!
//! Invariants:
//! - a cursor says only what its reader has told it to: what was read twice is the reader's to bear,
//!   what was never read is not lost;
//! - nothing at or behind a cursor is dropped by retention, and a cursor that cannot be read holds
//!   everything;
//! - a cursor whose last record was replaced by another history says so instead of going on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::fs::{Fs, Lock, Open};
use crate::position::{Id, Offset, Token};

use super::files::Layout;
use super::meta::Meta;
use super::{Log, Shared};

const EXTENSION: &str = ".cursor";
/// The longest name of a cursor.
pub const MAX_CURSOR_NAME: usize = 64;

/// A named cursor, moved by this process alone. Made by [`Log::cursor`].
#[derive(Debug)]
pub struct NamedCursor {
    shared: Arc<Shared>,
    name: String,
    path: PathBuf,
    offset: Option<Offset>,
    _lock: Box<dyn Lock>,
}

/// Where a cursor stands, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CursorState {
    /// Its name.
    pub name: String,
    /// The record that is read next.
    pub offset: Offset,
    /// When it was moved last, in nanoseconds since the Unix epoch.
    pub time: i64,
}

/// What its file says.
struct Stored {
    log: Id,
    offset: Offset,
    token: Option<Token>,
    time: i64,
}

impl Stored {
    fn read(fs: &dyn Fs, path: &Path) -> Result<Option<Self>> {
        let Some(meta) = Meta::read(fs, path, "cursor")? else { return Ok(None) };
        let wrong = |e: Error| e.in_file(path).help("delete it, and what it held may be dropped");
        Ok(Some(Stored {
            log: meta.need("log").map_err(wrong)?,
            offset: Offset(meta.need("offset").map_err(wrong)?),
            token: meta.get("token"),
            time: meta.need("time").map_err(wrong)?,
        }))
    }
}

/// Lower and upper case letters, digits, `-` and `_`.
fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=MAX_CURSOR_NAME).contains(&name.len()) && name.bytes().all(fits)
}

/// The cursors in a log's directory, by name. One that cannot be read is an error.
pub(super) fn list(fs: &dyn Fs, layout: &Layout) -> Result<Vec<CursorState>> {
    let directory = layout.cursors();
    let mut names = match fs.list(&directory) {
        Ok(names) => names,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", &directory, e)),
    };
    names.sort();
    let mut cursors = Vec::new();
    for name in names.iter().filter_map(|name| name.strip_suffix(EXTENSION)) {
        let path = directory.join(format!("{name}{EXTENSION}"));
        if let (true, Some(stored)) = (is_name(name), Stored::read(fs, &path)?) {
            let Stored { offset, time, .. } = stored;
            cursors.push(CursorState { name: name.to_owned(), offset, time });
        }
    }
    Ok(cursors)
}

impl Log {
    /// The cursor with this name, which is made when it is first moved. Needs no write access to
    /// the log, only to its directory. [`Kind::Locked`] while another process has it;
    /// [`Kind::NotInHistory`] when the last record that it read was replaced by another history.
    ///
    /// ```
    /// use tidelog::{Log, Record};
    /// # fn main() -> tidelog::Result<()> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("log");
    /// let log = Log::options().create(true).open(path)?;
    /// log.append(&Record::event(b"one"))?;
    /// let mut cursor = log.cursor("mailer")?;
    /// let from = cursor.offset().unwrap_or(log.start());
    /// let mut records = log.read(from)?;
    /// while let Some(entry) = records.next()? {
    ///     // … does something with it.
    ///     let next = entry.offset.plus(1);
    ///     cursor.save(next)?;
    /// }
    /// assert_eq!(cursor.offset(), Some(1.into()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn cursor(&self, name: &str) -> Result<NamedCursor> {
        if !is_name(name) {
            return Err(Error::new(
                Kind::InvalidInput,
                format!(
                    "expected a cursor's name of 1 to {MAX_CURSOR_NAME} letters, digits, - and _, \
                     found {name:?}"
                ),
            ));
        }
        let shared = Arc::clone(&self.shared);
        let fs = &*shared.fs;
        let directory = shared.layout.cursors();
        match fs.create_dir(&directory) {
            Ok(()) => fs
                .sync_dir(&shared.layout.root)
                .map_err(|e| Error::io("sync", &shared.layout.root, e))?,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("create", &directory, e)),
        }
        let lock = lock(fs, &directory.join(format!("{name}.lock")), name)?;
        let path = directory.join(format!("{name}{EXTENSION}"));
        let stored = Stored::read(fs, &path)?;
        if let Some(stored) = &stored {
            if stored.log != self.id() {
                return Err(Error::new(
                    Kind::WrongLog,
                    format!("expected a cursor of log {}, found one of {}", self.id(), stored.log),
                )
                .in_file(&path)
                .help("use another name, or delete the file"));
            }
            if let Some(token) = &stored.token {
                self.check_token(token).map_err(|e| {
                    // This log had met every epoch of which a cursor of it has read.
                    let e = match e.kind() {
                        Kind::Stale => e.with_kind(Kind::NotInHistory),
                        _ => e,
                    };
                    e.in_file(&path).help(
                        "the last record that this cursor read was replaced: decide where to go on, \
                         and delete the file or use another name",
                    )
                })?;
            }
        }
        let offset = stored.map(|stored| stored.offset);
        Ok(NamedCursor { name: name.to_owned(), path, offset, _lock: lock, shared })
    }

    /// Removes a named cursor, durably: what it held, retention may drop. Whether there was one.
    /// [`Kind::Locked`] while a process has it.
    pub fn drop_cursor(&self, name: &str) -> Result<bool> {
        if !is_name(name) {
            return Ok(false);
        }
        let fs = &*self.shared.fs;
        let directory = self.shared.layout.cursors();
        let path = directory.join(format!("{name}{EXTENSION}"));
        match fs.open(&path, Open::Read) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(Error::io("open", &path, e)),
        }
        // The lock's file stays: somebody may be about to take it.
        let _lock = lock(fs, &directory.join(format!("{name}.lock")), name)?;
        match fs.unlink(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(Error::io("remove", &path, e)),
        }
        fs.sync_dir(&directory).map_err(|e| Error::io("sync", &directory, e))?;
        Ok(true)
    }

    /// The named cursors of this log.
    pub fn cursors(&self) -> Result<Vec<CursorState>> {
        list(&*self.shared.fs, &self.shared.layout)
    }
}

fn lock(fs: &dyn Fs, path: &Path, name: &str) -> Result<Box<dyn Lock>> {
    let mut locked = fs.lock(path, true);
    if locked.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
        match fs.open(path, Open::Create) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create", path, e));
            }
            _ => {}
        }
        locked = fs.lock(path, true);
    }
    locked.map_err(|e| Error::io("lock", path, e))?.ok_or_else(|| {
        Error::new(Kind::Locked, format!("another process has the cursor {name}"))
            .in_file(path)
            .help("stop it, or use another name")
    })
}

impl NamedCursor {
    /// The record that is read next; `None` before the cursor was moved for the first time.
    pub fn offset(&self) -> Option<Offset> {
        self.offset
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Remembers durably that everything before `offset` was read. From then on retention keeps
    /// what lies at it and behind.
    pub fn save(&mut self, offset: Offset) -> Result<()> {
        if self.offset == Some(offset) {
            return Ok(());
        }
        let shared = &self.shared;
        let mut meta = Meta::new("cursor");
        meta.set("log", shared.log.id).set("offset", offset).set("time", shared.fs.now());
        if let Some(last) =
            offset.0.checked_sub(1).map(Offset).filter(|last| *last >= shared.start())
        {
            let token = Token { log: shared.log.id, epoch: shared.epoch_at(last), offset: last };
            meta.set("token", token);
        }
        meta.replace(&*shared.fs, &self.path)?;
        self.offset = Some(offset);
        Ok(())
    }
}
