//! Holding a whole run against everything it says of itself.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::fs::Fs;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::footer::FOOTER_BYTES;
use super::{Run, RunId};

/// Damage of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunProblem {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub byte: u64,
    /// What was expected and found.
    pub problem: String,
}

impl fmt::Display for RunProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: {}", self.byte, self.problem)
    }
}

impl Run {
    /// Reads all of it, past any map: every section on a core of its own, and the whole against
    /// the name.
    pub(in crate::table) fn verify(&self, fs: &dyn Fs) -> Result<Vec<RunProblem>> {
        let run = Arc::new(Run::open(fs, &self.path, self.footer.log, false)?);
        let sections = 0..run.top.sections.len();
        let checked: Result<Vec<Vec<RunProblem>>> =
            sections.into_par_iter().map(|s| run.verify_section(s)).collect();
        let mut problems = checked?.concat();
        if let Some(problem) = run.verify_hash(fs)? {
            problems.push(problem);
        }
        Ok(problems)
    }

    fn problem(&self, error: &Error) -> RunProblem {
        RunProblem {
            file: self.path.clone(),
            byte: error.byte().unwrap_or(0),
            problem: error.message().to_owned(),
        }
    }

    fn verify_section(self: &Arc<Self>, s: usize) -> Result<Vec<RunProblem>> {
        let mut problems = Vec::new();
        let index = match self.index(s) {
            Ok(index) => index,
            Err(e) if e.kind() == crate::Kind::Corrupt => return Ok(vec![self.problem(&e)]),
            Err(e) => return Err(e),
        };
        let mut rows = 0;
        for b in 0..index.blocks() {
            match self.verify_block(s, &index, b) {
                Ok(count) => rows += u64::from(count),
                Err(e) if e.kind() == crate::Kind::Corrupt => problems.push(self.problem(&e)),
                Err(e) => return Err(e),
            }
        }
        let entry = &self.top.sections[s];
        if problems.is_empty() && rows != entry.rows {
            problems.push(RunProblem {
                file: self.path.clone(),
                byte: entry.start,
                problem: format!("expected {} rows in a section, found {rows}", entry.rows),
            });
        }
        Ok(problems)
    }

    /// Checks a block, the order of its keys, and that the index finds each of them.
    fn verify_block(&self, s: usize, index: &super::Section<'_>, b: usize) -> Result<u16> {
        use super::block::Block;
        let (body, count) = self.block(s, index, b, true)?;
        let check = || -> Result<bool, crate::frame::Fault> {
            let block = Block::decode(&body, count)?;
            let mut before: Option<&[u8]> = None;
            for i in 0..block.count() {
                let key = block.row(i)?.key(&body);
                let hash = super::hash(key);
                let found = index.may_hold(hash) && index.find(key) == Some(b);
                let rises = before.is_none_or(|before| before < key);
                if !found || !rises || block.find(key, hash)?.is_none() {
                    return Ok(false);
                }
                before = Some(key);
            }
            Ok(true)
        };
        match check() {
            Ok(true) => Ok(count),
            Ok(false) => Err(self.damaged(s, index, b, crate::frame::Fault::Body)),
            Err(fault) => Err(self.damaged(s, index, b, fault)),
        }
    }

    fn verify_hash(&self, fs: &dyn Fs) -> Result<Option<RunProblem>> {
        let io = |e| Error::io("read", &self.path, e);
        let file = fs.open_plain(&self.path).map_err(io)?;
        let mut hasher = blake3::Hasher::new();
        let mut block = vec![0; 1 << 20];
        let mut left = self.file_bytes - FOOTER_BYTES;
        let mut byte = 0;
        while left > 0 {
            let len = usize::try_from(left.min(1 << 20)).expect("at most a block");
            file.read_exact_at(&mut block[..len], byte).map_err(io)?;
            hasher.update(&block[..len]);
            byte += len as u64;
            left -= len as u64;
        }
        let found = RunId(*hasher.finalize().as_bytes());
        Ok((found != self.footer.id).then(|| RunProblem {
            file: self.path.clone(),
            byte: 0,
            problem: format!("expected content with the hash {}, found {found}", self.footer.id),
        }))
    }
}
