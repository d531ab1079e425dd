//! Exit codes: what a script learns without reading a word.
//!
//! 0 ok · 1 ran, and the answer is no · 2 usage · 3 I/O or network · 4 corruption stopped the
//! work · 5 locked by another process · 6 not the leader, fenced, unclean, or outcome unknown · 130 interrupted

use std::io::{self, Write};
use std::process::ExitCode;

use tidelog::{Error, Kind};

/// Why a verb ends early.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// Nothing, when everything has been said.
    pub(crate) message: Option<String>,
    /// Of an error of the library.
    pub(crate) kind: Option<Kind>,
}

impl Failure {
    /// The verb ran, and the answer is no.
    pub(crate) fn no(message: impl Into<String>) -> Self {
        Failure { code: 1, message: Some(message.into()), kind: None }
    }

    /// The same, everything having been said.
    pub(crate) fn silent_no() -> Self {
        Failure { code: 1, message: None, kind: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure { code: 2, message: Some(message.into()), kind: None }
    }

    pub(crate) fn io(what: &str, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure { code: 0, message: None, kind: None };
        }
        Failure { code: 3, message: Some(format!("cannot {what}: {error}")), kind: None }
    }

    pub(crate) fn interrupted() -> Self {
        Failure { code: 130, message: None, kind: None }
    }

    /// The same as an error of the library, for those who call back into it.
    pub(crate) fn into_error(self) -> Error {
        Error::new(self.kind.unwrap_or(Kind::Io), self.message.unwrap_or_default())
    }

    /// Says it on stderr and becomes the process's code.
    pub(crate) fn report(self) -> ExitCode {
        if let Some(message) = self.message {
            // Colours go when stderr is no terminal, or with NO_COLOR.
            let _ = writeln!(anstream::stderr(), "\x1b[1;31mtidelog:\x1b[0m {message}");
        }
        ExitCode::from(self.code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            Kind::Interrupted => return Failure::interrupted(),
            Kind::Lost
            | Kind::Gone
            | Kind::NotInHistory
            | Kind::Diverged
            | Kind::CommittedDataLoss
            | Kind::Rejected
            | Kind::Stale => 1,
            Kind::InvalidInput | Kind::AlreadyExists => 2,
            Kind::Corrupt | Kind::WrongLog => 4,
            Kind::Locked => 5,
            Kind::NotLeader
            | Kind::Fenced
            | Kind::Unknown
            | Kind::Poisoned
            | Kind::Unclean
            | Kind::CopiedDirectory => 6,
            _ => 3,
        };
        Failure { code, message: Some(error.to_string()), kind: Some(error.kind()) }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::io("write the output", &error)
    }
}

pub(crate) type Outcome = Result<(), Failure>;
