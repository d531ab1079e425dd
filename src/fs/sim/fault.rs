//! Faults: calls that are made to fail, by kind, path and number.

use std::io;
use std::path::Path;

use super::op::OpKind;

/// The error an injected fault returns, with the operating system's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    /// EIO: the device failed.
    Io,
    /// ENOSPC: the disk is full.
    NoSpace,
    /// EDQUOT: the quota is used up.
    Quota,
    /// EFBIG: beyond the limit of a file's size.
    TooBig,
    /// EINTR: interrupted. `Os` repeats interrupted reads and writes itself, so that an engine
    /// meets this from other calls alone.
    Interrupted,
    /// EMFILE: too many open files.
    TooManyFiles,
    /// EROFS: the file system is read-only.
    ReadOnly,
    /// EACCES: not allowed.
    Denied,
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        use rustix::io::Errno as Os;
        let os = match errno {
            Errno::Io => Os::IO,
            Errno::NoSpace => Os::NOSPC,
            Errno::Quota => Os::DQUOT,
            Errno::TooBig => Os::FBIG,
            Errno::Interrupted => Os::INTR,
            Errno::TooManyFiles => Os::MFILE,
            Errno::ReadOnly => Os::ROFS,
            Errno::Denied => Os::ACCESS,
        };
        os.into()
    }
}

/// A failure to come, given to [`Sim::fail`](super::Sim::fail).
///
/// ```
/// use tidelog::fs::sim::{Errno, Fault, OpKind, Sim};
///
/// let sim = Sim::new(1);
/// sim.fail(Fault::on(OpKind::Write).at("segments/").nth(2).error(Errno::NoSpace).sticky());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kind of call that fails; `None` for calls of every kind.
    pub kind: Option<OpKind>,
    /// Text that the path contains; `None` for every path. Of a rename either path may match.
    pub path: Option<String>,
    /// How many matching calls go well first; 0 fails the next one.
    pub nth: u64,
    /// Whether all later matching calls fail as well; otherwise one fails.
    pub sticky: bool,
    /// What the call returns.
    pub error: Errno,
    /// Reads and writes then succeed, for at most this many bytes, instead of failing.
    pub short: Option<usize>,
    /// Whether the call takes effect and only then fails: the outcome of an error is unknown.
    pub landed: bool,
}

impl Fault {
    /// The next call of this kind fails with EIO, once and without effect.
    pub fn on(kind: OpKind) -> Self {
        Fault { kind: Some(kind), ..Fault::any() }
    }

    /// The next call of any kind fails with EIO, once and without effect.
    pub fn any() -> Self {
        Fault {
            kind: None,
            path: None,
            nth: 0,
            sticky: false,
            error: Errno::Io,
            short: None,
            landed: false,
        }
    }

    /// Only where the path contains `text`.
    pub fn at(mut self, text: impl Into<String>) -> Self {
        self.path = Some(text.into());
        self
    }

    /// After `nth` matching calls that go well.
    pub fn nth(mut self, nth: u64) -> Self {
        self.nth = nth;
        self
    }

    /// From then on, every time.
    pub fn sticky(mut self) -> Self {
        self.sticky = true;
        self
    }

    /// With this error.
    pub fn error(mut self, error: Errno) -> Self {
        self.error = error;
        self
    }

    /// Reads and writes end after `bytes`, without an error.
    pub fn short(mut self, bytes: usize) -> Self {
        self.short = Some(bytes);
        self
    }

    /// Takes effect all the same.
    pub fn landed(mut self) -> Self {
        self.landed = true;
        self
    }

    /// Whether this call is one that it counts.
    pub(super) fn matches(&self, kind: OpKind, path: &Path, to: Option<&Path>) -> bool {
        let contains = |path: &Path| {
            let text = self.path.as_deref().unwrap_or_default();
            path.to_string_lossy().contains(text)
        };
        self.kind.is_none_or(|wanted| wanted == kind)
            && (contains(path) || to.is_some_and(contains))
    }
}
