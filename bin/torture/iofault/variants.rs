//! The ways a call can fail, per kind of call, and which errors each may give a client.
//!
//! Only what can happen is injected: `Os` repeats interrupted reads and writes itself, so EINTR
//! strikes the other calls alone, and only once: a call that is interrupted for ever never returns; EMFILE strikes what opens a descriptor; a full disk what takes
//! room; it takes a part of a write, which short writes stand for, never all of it. A fault with
//! `landed` took effect and says that it did not.

use tidelog::Kind;
use tidelog::fs::sim::{Errno, Fault, OpKind};

/// What a client asked for when an error came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Opening for writing.
    Open,
    /// An append, or waiting for one.
    Append,
    /// A clean close.
    Close,
    /// Reading, tailing, seeking, opening for reading, verifying.
    Read,
    /// Retention, repair, a follower's round.
    Upkeep,
}

/// Every fault that is tried at the `nth` call of a kind.
pub fn of(kind: OpKind, nth: u64) -> Vec<Fault> {
    let once = |error| Fault::on(kind).nth(nth).error(error);
    let both = |error| [once(error), once(error).sticky()];
    let mut faults: Vec<Fault> = both(Errno::Io).into();
    match kind {
        OpKind::Read => {
            faults.extend([once(Errno::Io).short(1), once(Errno::Io).short(1000).sticky()]);
        }
        OpKind::Write => {
            faults.extend(both(Errno::NoSpace));
            faults.extend([once(Errno::Quota), once(Errno::TooBig).sticky()]);
            faults.push(once(Errno::Io).landed());
            let short = |bytes| once(Errno::NoSpace).short(bytes);
            faults.extend([short(0), short(1), short(512), short(5000).sticky()]);
        }
        OpKind::Sync => {
            faults.extend(both(Errno::NoSpace));
            faults.push(once(Errno::Quota).sticky());
            faults.extend([once(Errno::Interrupted), once(Errno::Io).landed()]);
        }
        OpKind::SyncDir => {
            faults.extend(both(Errno::NoSpace));
            faults.push(once(Errno::TooManyFiles));
            faults.extend([once(Errno::Interrupted), once(Errno::Io).landed()]);
        }
        OpKind::Open | OpKind::List | OpKind::Lock => {
            faults.extend(both(Errno::TooManyFiles));
            faults.push(once(Errno::Interrupted));
        }
        OpKind::Create => {
            faults.extend(both(Errno::NoSpace));
            faults.extend(both(Errno::TooManyFiles));
            faults.extend([once(Errno::Interrupted), once(Errno::Io).landed()]);
        }
        OpKind::Rename | OpKind::CreateDir | OpKind::SetLen => {
            faults.extend(both(Errno::NoSpace));
            faults.extend([once(Errno::Interrupted), once(Errno::Io).landed()]);
        }
        OpKind::Unlink => {
            faults.extend([once(Errno::Interrupted), once(Errno::Io).landed()]);
        }
        OpKind::Map => faults.extend(both(Errno::TooManyFiles)),
    }
    faults
}

/// Whether the fault says that there is no room: then nothing may be poisoned.
pub fn is_full_disk(fault: &Fault) -> bool {
    let syncs = matches!(fault.kind, Some(OpKind::Sync | OpKind::SyncDir));
    says_full(fault) && !syncs
}

/// The same of any call, a sync too.
pub fn says_full(fault: &Fault) -> bool {
    matches!(fault.error, Errno::NoSpace | Errno::Quota | Errno::TooBig)
}

/// Whether names may be lost that no later sync brings back: the directory's sync failed, and on
/// the simulated disk only a new create or rename makes such a name durable. The engine syncs the
/// directory again when the log is reopened, and believes that. So power cuts are not held
/// against these faults; docs/TESTING.md says so.
pub fn loses_names(fault: &Fault) -> bool {
    fault.kind == Some(OpKind::SyncDir) && !fault.landed
}

/// Whether reading may fail by this fault.
pub fn hits_reads(fault: &Fault) -> bool {
    use OpKind::{List, Lock, Map, Open, Read};
    matches!(fault.kind, Some(Read | Open | Map | List | Lock))
}

/// Whether an error of this kind is right for what was asked, when this fault struck.
pub fn is_right(asked: Asked, kind: Kind, fault: &Fault) -> bool {
    let full = is_full_disk(fault);
    match asked {
        Asked::Append if full => matches!(kind, Kind::DiskFull | Kind::Unknown),
        // A full disk met by a sync poisons, but not while the log is being brought in order or
        // a small file is replaced: there the same bytes are written anew before the next sync.
        Asked::Append => kind == Kind::Poisoned || no_room(kind, fault),
        Asked::Close if full => matches!(kind, Kind::DiskFull | Kind::Unknown),
        Asked::Close => matches!(kind, Kind::Poisoned | Kind::Io) || no_room(kind, fault),
        Asked::Open if full => kind == Kind::DiskFull,
        Asked::Open => matches!(kind, Kind::Io | Kind::Poisoned) || no_room(kind, fault),
        Asked::Read => kind == Kind::Io && hits_reads(fault),
        Asked::Upkeep if full => kind == Kind::DiskFull,
        Asked::Upkeep => matches!(kind, Kind::Io | Kind::Poisoned) || no_room(kind, fault),
    }
}

/// A sync that reports a full disk poisons an open log; where nothing is open yet, or left open,
/// it may also be called a full disk.
fn no_room(kind: Kind, fault: &Fault) -> bool {
    kind == Kind::DiskFull && says_full(fault)
}
