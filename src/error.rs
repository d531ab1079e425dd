//! The one error type: what was expected, what was found, where, and what to do next.
//!
//! Every layer returns [`Error`]. Its [`Kind`] answers the caller's question "what do I do now";
//! its text is prose for a person: what was expected and found, then the file, byte and offset,
//! then the next step. The command line maps kinds to exit codes; nothing else matches on text.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A `Result` with tidelog's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The call is wrong (a limit, a range, a contradiction): fix it. Nothing was appended.
    InvalidInput,
    /// There is no log, file or record there.
    NotFound,
    /// There is something there already.
    AlreadyExists,
    /// The directory or file is not tidelog's.
    NotALog,
    /// The file belongs to another log.
    WrongLog,
    /// A newer tidelog wrote this format: upgrade.
    NewerVersion,
    /// Another process has the log open for writing: wait or stop it.
    Locked,
    /// The log was opened for reading, or its medium takes no writes.
    ReadOnly,
    /// The directory was copied or moved from elsewhere; say which node it is now.
    CopiedDirectory,
    /// This node follows another; writes go to the leader.
    NotLeader,
    /// The medium is full. Nothing was appended; try again when there is space.
    DiskFull,
    /// The operating system refused an operation.
    Io,
    /// A write or sync failed earlier: the log takes no more appends; reopen it.
    Poisoned,
    /// The record may or may not survive; it was neither acknowledged nor rejected.
    Unknown,
    /// Acknowledged bytes are damaged: repair, or refetch from a verified copy.
    Corrupt,
    /// Records in this range were lost to damage that a repair has put on record.
    Lost,
    /// The records asked for were dropped by retention; start at the earliest one.
    Gone,
    /// The position is not part of this log's history.
    NotInHistory,
    /// This copy's history and its source's part: opened again, a follower keeps what differs aside and goes on.
    Diverged,
    /// A source lacks what was committed, or durable and shipped: nothing is cut until an operator decides.
    CommittedDataLoss,
    /// What could be read is older than the read allows: ask again later, or ask the leader.
    Stale,
    /// A condition of the append did not hold. Nothing was appended.
    Rejected,
    /// A newer epoch has taken over: this node leads no more. Nothing of it counts from there on.
    Fenced,
    /// A node lost what it had acknowledged: it votes, acknowledges and leads no more until it has fetched that.
    Unclean,
    /// The object store lets two writers create one name: it can be read, never written to.
    StoreNotAtomic,
    /// The log was closed.
    Closed,
    /// The caller asked for the work to stop, and it did.
    Interrupted,
}

impl Kind {
    /// The kind in words, as error texts begin.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::InvalidInput => "invalid input",
            Kind::NotFound => "not found",
            Kind::AlreadyExists => "already exists",
            Kind::NotALog => "not a log",
            Kind::WrongLog => "another log's file",
            Kind::NewerVersion => "newer format",
            Kind::Locked => "locked",
            Kind::ReadOnly => "read-only",
            Kind::CopiedDirectory => "copied directory",
            Kind::NotLeader => "not the leader",
            Kind::DiskFull => "disk full",
            Kind::Io => "I/O error",
            Kind::Poisoned => "poisoned",
            Kind::Unknown => "outcome unknown",
            Kind::Corrupt => "corrupt",
            Kind::Lost => "lost",
            Kind::Gone => "gone",
            Kind::NotInHistory => "not in this history",
            Kind::Diverged => "diverged",
            Kind::CommittedDataLoss => "committed data loss",
            Kind::Stale => "too old",
            Kind::Rejected => "rejected",
            Kind::Fenced => "fenced",
            Kind::Unclean => "unclean",
            Kind::StoreNotAtomic => "store not atomic",
            Kind::Closed => "closed",
            Kind::Interrupted => "interrupted",
        }
    }
}

/// Those that have a word: all of them.
#[cfg(feature = "wire")]
const ALL: [Kind; 27] = [
    Kind::InvalidInput,
    Kind::NotFound,
    Kind::AlreadyExists,
    Kind::NotALog,
    Kind::WrongLog,
    Kind::NewerVersion,
    Kind::Locked,
    Kind::ReadOnly,
    Kind::CopiedDirectory,
    Kind::NotLeader,
    Kind::DiskFull,
    Kind::Io,
    Kind::Poisoned,
    Kind::Unknown,
    Kind::Corrupt,
    Kind::Lost,
    Kind::Gone,
    Kind::NotInHistory,
    Kind::Diverged,
    Kind::CommittedDataLoss,
    Kind::Stale,
    Kind::Rejected,
    Kind::Fenced,
    Kind::Unclean,
    Kind::StoreNotAtomic,
    Kind::Closed,
    Kind::Interrupted,
];

#[cfg(feature = "wire")]
impl Kind {
    /// The kind as one word, as it stands in answers over HTTP: for programs, where [`Kind::as_str`] is for people.
    pub fn word(self) -> &'static str {
        match self {
            Kind::InvalidInput => "invalid_input",
            Kind::NotFound => "not_found",
            Kind::AlreadyExists => "already_exists",
            Kind::NotALog => "not_a_log",
            Kind::WrongLog => "wrong_log",
            Kind::NewerVersion => "newer_version",
            Kind::Locked => "locked",
            Kind::ReadOnly => "read_only",
            Kind::CopiedDirectory => "copied_directory",
            Kind::NotLeader => "not_leader",
            Kind::DiskFull => "disk_full",
            Kind::Io => "io",
            Kind::Poisoned => "poisoned",
            Kind::Unknown => "unknown",
            Kind::Corrupt => "corrupt",
            Kind::Lost => "lost",
            Kind::Gone => "gone",
            Kind::NotInHistory => "not_in_history",
            Kind::Diverged => "diverged",
            Kind::CommittedDataLoss => "committed_data_loss",
            Kind::Stale => "stale",
            Kind::Rejected => "rejected",
            Kind::Fenced => "fenced",
            Kind::Unclean => "unclean",
            Kind::StoreNotAtomic => "store_not_atomic",
            Kind::Closed => "closed",
            Kind::Interrupted => "interrupted",
        }
    }

    /// Reads such a word.
    pub fn from_word(word: &str) -> Option<Self> {
        ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// An error with its evidence. Cheap to clone: a poisoned log hands the same one to every caller.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: Kind,
    message: String,
    file: Option<PathBuf>,
    byte: Option<u64>,
    offset: Option<u64>,
    help: Option<String>,
    source: Option<Arc<io::Error>>,
}

impl Error {
    /// An error of `kind`; `message` says what was expected and what was found.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error(Arc::new(Inner {
            kind,
            message: message.into(),
            file: None,
            byte: None,
            offset: None,
            help: None,
            source: None,
        }))
    }

    /// An operating-system error while doing `what` to `file`; full disks, missing files and
    /// read-only media get their own kinds.
    pub fn io(what: &str, file: &Path, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Kind::DiskFull,
            io::ErrorKind::NotFound => Kind::NotFound,
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => Kind::ReadOnly,
            _ => Kind::Io,
        };
        let mut error = Error::new(kind, format!("cannot {what}: {source}")).in_file(file);
        Arc::make_mut(&mut error.0).source = Some(Arc::new(source));
        if kind == Kind::DiskFull {
            error = error.help("free space on this file system, then try again");
        }
        error
    }

    /// The same error, of another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        Arc::make_mut(&mut self.0).kind = kind;
        self
    }

    /// The same error, naming the file it is about.
    #[must_use]
    pub fn in_file(mut self, file: &Path) -> Self {
        Arc::make_mut(&mut self.0).file = Some(file.to_path_buf());
        self
    }

    /// The same error, naming the byte in its file.
    #[must_use]
    pub fn at_byte(mut self, byte: u64) -> Self {
        Arc::make_mut(&mut self.0).byte = Some(byte);
        self
    }

    /// The same error, naming the offset it is about.
    #[must_use]
    pub fn at_offset(mut self, offset: u64) -> Self {
        Arc::make_mut(&mut self.0).offset = Some(offset);
        self
    }

    /// The same error, saying what to do next.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.0).help = Some(help.into());
        self
    }

    /// What the caller can do next.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What was expected and found, without place and advice.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The file this is about.
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// The byte in that file.
    pub fn byte(&self) -> Option<u64> {
        self.0.byte
    }

    /// The offset this is about.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// What to do next.
    pub fn advice(&self) -> Option<&str> {
        self.0.help.as_deref()
    }

    /// The operating system's error underneath, if there is one.
    pub fn io_error(&self) -> Option<&io::Error> {
        self.0.source.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        write!(f, "{}: {}", e.kind.as_str(), e.message)?;
        if let Some(file) = &e.file {
            write!(f, " (file {}", file.display())?;
            if let Some(byte) = e.byte {
                write!(f, ", byte {byte}")?;
            }
            if let Some(offset) = e.offset {
                write!(f, ", offset {offset}")?;
            }
            write!(f, ")")?;
        } else if let Some(offset) = e.offset {
            write!(f, " (offset {offset})")?;
        }
        if let Some(help) = &e.help {
            write!(f, "; {help}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_where_and_what_next() {
        let error = Error::new(Kind::Corrupt, "expected a frame, found zeros")
            .in_file(Path::new("segments/0.seg"))
            .at_byte(4096)
            .at_offset(7)
            .help("run `tidelog repair`");
        assert_eq!(
            error.to_string(),
            "corrupt: expected a frame, found zeros (file segments/0.seg, byte 4096, offset 7); \
             run `tidelog repair`"
        );
    }

    #[cfg(feature = "wire")]
    #[test]
    fn every_kind_has_a_word_of_its_own() {
        for kind in ALL {
            assert_eq!(Kind::from_word(kind.word()), Some(kind));
        }
        assert_eq!(ALL.len(), Kind::Interrupted as usize + 1, "one is missing");
        assert_eq!(Kind::from_word("no_such_word"), None);
    }

    #[test]
    fn a_full_disk_has_its_own_kind() {
        let error = Error::io("write", Path::new("x"), io::Error::from_raw_os_error(28));
        assert_eq!(error.kind(), Kind::DiskFull);
    }
}
