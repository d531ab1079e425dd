//! How a log is opened, and what an append asks for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::frame::Producer;
use crate::fs::{Fs, Os};
use crate::position::{Epoch, Id, Offset};

use super::Log;
use super::scan::Footers;

/// What must have happened before an append returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// In memory; lost with the process. The log writes it within [`Options::flush_after`].
    Buffered,
    /// In the page cache; survives the process, not the machine.
    Written,
    /// Synced; survives a power cut.
    #[default]
    Durable,
}

/// Whether segments are filled with zeros ahead of the frames. Overwriting written blocks halves
/// the cost of a sync; filling them halves the bandwidth of bulk appends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocate {
    /// A step ahead of small durable groups, and the next segment in quiet moments; bulk appends
    /// just grow the file.
    #[default]
    Auto,
    /// Whole segments, in the background.
    Zero,
    /// Never.
    Grow,
}

/// What opening does when acknowledged bytes are damaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// Refuses, and says what is damaged.
    #[default]
    Refuse,
    /// Opens for reading what lies before the damage.
    ReadOnly,
    /// Repairs first: damaged bytes go to quarantine, lost offsets are put on record.
    Salvage,
}

/// What a directory that was copied or moved from elsewhere is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// Where it was made; anything else is refused for writing.
    #[default]
    Expect,
    /// A new node: the original may still be in use.
    NewNode,
    /// The same node, moved: the original is gone.
    SameNode,
}

/// How often readers check the checksum of a frame's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verification {
    /// At every read.
    Always,
    /// Until a scan has passed over the whole segment once.
    #[default]
    OncePerSegment,
    /// Never; headers are checked all the same.
    Never,
}

/// What reads see of a log that is not replicated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// What is synced.
    #[default]
    Durable,
    /// What is in the page cache; a power cut may take back what was read.
    Written,
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Stored as they are.
    #[default]
    None,
    /// Fast.
    Lz4,
    /// Small.
    Zstd,
}

/// The last record of a key, for conditional appends: `lookup(key)` returns the offset below
/// which it speaks for the log, and the key's last offset below that.
pub type KeyLookup = Arc<dyn Fn(&[u8]) -> (Offset, Option<Offset>) + Send + Sync>;

/// How to open a log; see the [crate's example](crate).
#[derive(Clone)]
pub struct Options {
    pub(crate) create: bool,
    pub(crate) read_only: bool,
    pub(crate) segment_bytes: u64,
    pub(crate) durability: Durability,
    pub(crate) preallocate: Preallocate,
    pub(crate) recovery: Recovery,
    pub(crate) identity: Identity,
    pub(crate) verification: Verification,
    pub(crate) visibility: Visibility,
    pub(crate) compression: Compression,
    pub(crate) worker: bool,
    pub(crate) map: bool,
    pub(crate) isolate_groups: bool,
    pub(crate) flush_after: Duration,
    pub(crate) poll_every: Duration,
    pub(crate) follows: Option<String>,
    pub(crate) log_id: Option<Id>,
    /// The epoch that this node has won and is to begin, also where it followed until now.
    pub(crate) lead: Option<Epoch>,
    pub(crate) rejoin: bool,
    pub(crate) accept_loss: bool,
    pub(crate) key_lookup: Option<KeyLookup>,
    /// What a follower, which holds the lock, has just read: its log need not read it again.
    pub(crate) footers: Option<Arc<Footers>>,
    pub(crate) fs: Arc<dyn Fs>,
}

/// Segments are at least this large.
pub const MIN_SEGMENT_BYTES: u64 = 64 << 10;
/// Segments are at most this large.
pub const MAX_SEGMENT_BYTES: u64 = 4 << 30;
/// Segments are this large unless told otherwise.
pub const DEFAULT_SEGMENT_BYTES: u64 = 64 << 20;

impl Default for Options {
    fn default() -> Self {
        Options {
            create: false,
            read_only: false,
            segment_bytes: DEFAULT_SEGMENT_BYTES,
            durability: Durability::default(),
            preallocate: Preallocate::default(),
            recovery: Recovery::default(),
            identity: Identity::default(),
            verification: Verification::default(),
            visibility: Visibility::default(),
            compression: Compression::default(),
            worker: true,
            map: true,
            isolate_groups: false,
            flush_after: Duration::from_millis(10),
            poll_every: Duration::from_millis(50),
            follows: None,
            log_id: None,
            lead: None,
            rejoin: false,
            accept_loss: false,
            key_lookup: None,
            footers: None,
            fs: Os::shared(),
        }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: $type) -> Self {
            self.$name = $name;
            self
        }
    )*};
}

impl Options {
    setters! {
        /// Creates the log if there is none. Default: no.
        create: bool,
        /// Opens for reading: takes no lock, writes nothing to the log, works beside a writer, on
        /// a full disk and on a read-only mount. Default: no.
        read_only: bool,
        /// Target size of a segment file, 64 KiB to 4 GiB; a larger frame gets its own segment.
        /// Default: 64 MiB.
        segment_bytes: u64,
        /// What [`Log::append`] waits for. Default: durable.
        durability: Durability,
        /// Whether segments are filled with zeros ahead. Default: auto.
        preallocate: Preallocate,
        /// What to do about damage. Default: refuse.
        recovery: Recovery,
        /// What a copied or moved directory is now. Default: refuse to write to it.
        identity: Identity,
        /// How often readers check bodies. Default: once per segment.
        verification: Verification,
        /// What reads see. Default: what is durable.
        visibility: Visibility,
        /// How batches are compressed; needs the feature `compress`. Default: not.
        compression: Compression,
        /// Whether a named thread does the flushing, preparing and sealing; without it appends
        /// and `close` do that work. Default: yes.
        worker: bool,
        /// Whether sealed segments are mapped; otherwise they are read. Default: yes.
        map: bool,
        /// Puts each durable group on pages of its own, for drives that may tear a sector.
        /// Default: no.
        isolate_groups: bool,
        /// How long buffered records stay in memory at most. Default: 10 ms.
        flush_after: Duration,
        /// How often a tail of another process's log looks when no event wakes it.
        /// Default: 50 ms.
        poll_every: Duration,
        /// Of a follower: makes a directory that led one that follows; what its new leader does not
        /// have is kept aside. Default: no.
        rejoin: bool,
        /// Of a follower: lets what was committed be cut when its source does not have it. Default:
        /// no, it halts with [`Kind::CommittedDataLoss`].
        accept_loss: bool,
        /// The file system underneath. Default: the operating system's.
        fs: Arc<dyn Fs>,
    }

    /// Begins exactly this epoch, which the node in that directory has won
    /// ([`Promotion`](crate::replica::failover::Promotion)), also where it followed until now. Refused with
    /// [`Kind::Fenced`](crate::Kind::Fenced) once it has promised another one.
    #[must_use]
    #[cfg(feature = "wire")]
    pub fn lead(mut self, won: Epoch) -> Self {
        self.lead = Some(won);
        self
    }

    /// How conditional appends on a key learn its last offset, for example from the table.
    #[must_use]
    pub fn key_lookup(mut self, lookup: KeyLookup) -> Self {
        self.key_lookup = Some(lookup);
        self
    }

    /// Opens the log in the directory `path`.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Log> {
        self.check()?;
        Log::open_with(self, path.as_ref())
    }

    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |message: String| Err(Error::new(Kind::InvalidInput, message));
        if !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(4096)
        {
            return invalid(format!(
                "expected segments of {MIN_SEGMENT_BYTES} to {MAX_SEGMENT_BYTES} bytes in whole \
                 pages of 4096, found {}",
                self.segment_bytes
            ));
        }
        if self.read_only && self.create {
            return invalid("a log cannot be created read-only".into());
        }
        if self.compression != Compression::None && !cfg!(feature = "compress") {
            return invalid("compression needs tidelog's feature `compress`".into());
        }
        Ok(())
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("create", &self.create)
            .field("read_only", &self.read_only)
            .field("segment_bytes", &self.segment_bytes)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

/// What one append asks for beside its records.
#[derive(Clone, Debug, Default)]
pub struct Append {
    /// What to wait for; `None` for the log's own.
    pub durability: Option<Durability>,
    /// Makes a retry safe: a batch with a sequence that was appended before is not appended
    /// again, and its first outcome is returned.
    pub producer: Option<Producer>,
    /// A condition; when it does not hold, nothing is appended ([`Kind::Rejected`]).
    pub expect: Option<Expect>,
}

/// A condition of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The next offset of the log is this.
    End(Offset),
    /// The last record of `key` is at `last`, or there is none. Needs [`Options::key_lookup`].
    Key {
        /// The key.
        key: Vec<u8>,
        /// Where its last record is expected.
        last: Option<Offset>,
    },
}

/// Where an append's records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub first: Offset,
    /// Offset of the last record.
    pub last: Offset,
    /// The epoch that appended them.
    pub epoch: Epoch,
    /// Whether this was a retry of a batch that was there already.
    pub duplicate: bool,
}
