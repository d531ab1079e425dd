//! Damage of the table's files, as those are told who asked for it.

use std::fmt;
use std::path::PathBuf;

use super::run::Run;

/// Damage of a run or a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunProblem {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub byte: u64,
    /// What was found, and which keys it may concern.
    pub problem: String,
}

impl fmt::Display for RunProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, byte {}: {}", self.file.display(), self.byte, self.problem)
    }
}

/// A key for people: not too long, in quotes.
fn show(key: &[u8]) -> String {
    let mut text: String = String::from_utf8_lossy(key).chars().take(40).collect();
    if text.len() < key.len() {
        text.push('…');
    }
    format!("{text:?}")
}

impl Run {
    /// Reads all of it, past any map; everything that does not hold.
    pub(super) fn problems(&self) -> Vec<RunProblem> {
        let told = self.verify().into_iter().map(|problem| {
            let keys = match problem.keys {
                (Some(from), Some(to)) => format!("; keys {} to {}", show(&from), show(&to)),
                (Some(from), None) => format!("; keys from {} on", show(&from)),
                (None, Some(to)) => format!("; keys before {}", show(&to)),
                (None, None) => String::new(),
            };
            RunProblem {
                file: self.path().to_path_buf(),
                byte: problem.byte,
                problem: problem.what + &keys,
            }
        });
        told.collect()
    }
}
