//! What is asked of the simulated file system: kinds of calls, and the trace of operations.

use std::path::PathBuf;

/// A kind of call, as faults pick it and the trace names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OpKind {
    /// Opening an existing file.
    Open,
    /// Making a new file.
    Create,
    /// `read_at`.
    Read,
    /// `write_at`.
    Write,
    /// `set_len`.
    SetLen,
    /// `sync_data`.
    Sync,
    /// `sync_dir`.
    SyncDir,
    /// `rename`.
    Rename,
    /// `unlink`.
    Unlink,
    /// `list`.
    List,
    /// `map`.
    Map,
    /// `lock`.
    Lock,
    /// `create_dir` of a directory that is not there.
    CreateDir,
}

impl OpKind {
    /// Every kind, in the order they are declared.
    pub const ALL: [OpKind; 13] = [
        OpKind::Open,
        OpKind::Create,
        OpKind::Read,
        OpKind::Write,
        OpKind::SetLen,
        OpKind::Sync,
        OpKind::SyncDir,
        OpKind::Rename,
        OpKind::Unlink,
        OpKind::List,
        OpKind::Map,
        OpKind::Lock,
        OpKind::CreateDir,
    ];
}

/// One operation: a call that changed the disk, synced a part of it, or was made to fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// What was called.
    pub kind: OpKind,
    /// On what: for a file the path it was opened with.
    pub path: PathBuf,
    /// The new path of a rename.
    pub to: Option<PathBuf>,
    /// Where a write began; otherwise 0.
    pub byte: u64,
    /// How much was written, or the length that was set; otherwise 0.
    pub len: u64,
    /// Whether a fault made it fail.
    pub failed: bool,
}
