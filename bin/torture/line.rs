//! What a run says in the end: one line of JSON, every zero with its denominator.
//!
//! ```text
//! {"subcommand":"crash","version":"0.1.0","seed":1,"counts":{…},"distinct_states":500000,
//!  "violations":0,"seconds":312.4}
//! ```
//! With violations there is also `reproductions`: per violation the seed, the steps that lead to
//! it, made as short as could be, and what was found.

use std::process::ExitCode;
use std::time::Instant;

use serde::Serialize;
use serde_json::{Map, Value};

/// Reproductions printed at most; the rest only counts.
const MOST_REPRODUCTIONS: usize = 10;

/// A run, as it adds up.
#[derive(Debug, Serialize)]
pub struct Line {
    subcommand: &'static str,
    version: &'static str,
    seed: u64,
    /// What was tried, by name: the denominators.
    counts: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    distinct_states: Option<u64>,
    violations: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reproductions: Vec<Reproduction>,
    /// Why nothing, or not everything, could be run here.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
    seconds: f64,
    #[serde(skip)]
    started: Instant,
}

/// How to see a violation again.
#[derive(Clone, Debug, Serialize)]
pub struct Reproduction {
    /// The seed of that run.
    pub seed: u64,
    /// What to do, in order.
    pub steps: Vec<String>,
    /// What was expected and what was found.
    pub found: String,
}

impl Line {
    /// Nothing tried yet.
    pub fn new(subcommand: &'static str, seed: u64) -> Self {
        Line {
            subcommand,
            version: env!("CARGO_PKG_VERSION"),
            seed,
            counts: Map::new(),
            distinct_states: None,
            violations: 0,
            reproductions: Vec::new(),
            skipped: None,
            seconds: 0.0,
            started: Instant::now(),
        }
    }

    /// Adds a denominator.
    pub fn count(&mut self, name: &str, value: impl Into<Value>) {
        self.counts.insert(name.to_owned(), value.into());
    }

    /// How many different states were seen.
    pub fn distinct(&mut self, states: u64) {
        self.distinct_states = Some(states);
    }

    /// Notes a violation.
    pub fn violation(&mut self, reproduction: Reproduction) {
        self.violations += 1;
        if self.reproductions.len() < MOST_REPRODUCTIONS {
            self.reproductions.push(reproduction);
        }
    }

    /// Notes violations that are counted, not shown.
    pub fn more_violations(&mut self, count: u64) {
        self.violations += count;
    }

    /// Says why something could not be run here.
    pub fn skip(&mut self, reason: impl Into<String>) {
        self.skipped = Some(reason.into());
    }

    /// Violations so far.
    pub fn violations(&self) -> u64 {
        self.violations
    }

    /// Prints the line; the exit code says whether there was a violation.
    pub fn print(mut self) -> ExitCode {
        self.seconds = (self.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        let line = serde_json::to_string(&self).expect("maps with text keys and numbers");
        println!("{line}");
        ExitCode::from(u8::from(self.violations > 0))
    }
}
