//! Processor time of this process and of all that descend from it: servers that a row runs are part
//! of what is measured, and nobody else's.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// What the kernel counts processor time in, for those who read `/proc`.
const TICK: Duration = Duration::from_millis(10);

/// User and system time so far, of those that have ended and were waited for, too.
pub fn cpu_time() -> Duration {
    let processes: HashMap<u32, Process> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, Process::parse(&stat)?))
        })
        .collect();
    let me = std::process::id();
    let ours = |mut pid: u32| loop {
        match processes.get(&pid) {
            _ if pid == me => return true,
            Some(process) if process.parent != 0 => pid = process.parent,
            _ => return false,
        }
    };
    let ticks = processes.iter().filter(|(pid, _)| ours(**pid)).map(|(_, process)| process.ticks);
    TICK * ticks.sum::<u32>()
}

/// A line of `/proc/…/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// Its own, and its dead children's.
    ticks: u32,
}

impl Process {
    fn parse(stat: &str) -> Option<Self> {
        // The name stands in parentheses and may hold anything, further ones among it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u32>().ok();
        let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
        Some(Process { parent: number(1)?, ticks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 3 7 7 0 -1 4194560 9 8 7 6 10 20 30 40 20 0 1 0 5";
        assert_eq!(Process::parse(stat), Some(Process { parent: 3, ticks: 100 }));
    }

    #[test]
    fn a_child_that_was_waited_for_is_counted() -> anyhow::Result<()> {
        let before = cpu_time();
        let burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        anyhow::ensure!(std::process::Command::new("sh").args(["-c", burn]).status()?.success());
        assert!(cpu_time() > before);
        Ok(())
    }
}
