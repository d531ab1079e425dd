//! What this process holds: memory of its own, descriptors, threads.

use std::fs;

use serde::Serialize;

/// One look.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Gauge {
    /// Seconds since the start.
    pub second: u64,
    /// Anonymous memory: the resident set without mapped files, which the kernel may take back.
    pub anonymous_kib: u64,
    pub descriptors: u64,
    pub threads: u64,
}

impl Gauge {
    /// Reads /proc; zeros where there is none.
    pub fn read(second: u64) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            let word = line.and_then(|line| line.split_whitespace().nth(1));
            word.and_then(|word| word.parse().ok()).unwrap_or_default()
        };
        Gauge {
            second,
            anonymous_kib: field("RssAnon:"),
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64),
            threads: field("Threads:"),
        }
    }
}
