//! What a write to whichever node leads asks for: how safe it is to be, and for how long it is tried.

use std::time::Duration;

use clap::{Args, ValueEnum};
use tidelog::client::{AppendOptions, DEFAULT_TIMEOUT, Level};

use crate::config::DurabilityArg;
use crate::exit::Failure;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LevelArg {
    /// In the leader's memory
    Buffered,
    /// In the leader's page cache
    Written,
    /// On the leader's disk
    Durable,
    /// On the disks of --copies nodes, or as many as the mode says
    Replicated,
    /// In the tables of that many
    Applied,
    /// In the archive
    Archived,
}

/// Only of nodes: a directory has nobody to wait for.
#[derive(Args, Clone, Debug)]
pub(crate) struct LeadingArgs {
    /// Of nodes: how safe it is to be before it counts; what the mode means unless given
    #[arg(long, value_enum, value_name = "LEVEL", conflicts_with = "durability")]
    level: Option<LevelArg>,
    /// With --level replicated or applied: how many nodes, the leader among them
    #[arg(long, value_name = "N", requires = "level")]
    copies: Option<usize>,
    /// Of nodes: for how long it is tried [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = tidelog::text::parse_duration)]
    timeout: Option<Duration>,
}

impl LeadingArgs {
    /// Refuses, for a directory, what only nodes can do.
    pub(crate) fn check_directory(&self) -> Result<(), Failure> {
        if self.level.is_some() || self.timeout.is_some() {
            return Err(Failure::usage(
                "--level and --timeout go with a node's address; a directory takes --durability",
            ));
        }
        Ok(())
    }

    pub(crate) fn options(
        &self,
        durability: Option<DurabilityArg>,
    ) -> Result<AppendOptions, Failure> {
        let level = match (self.level, self.copies) {
            (Some(LevelArg::Replicated), copies) => Some(Level::Replicated(copies)),
            (Some(LevelArg::Applied), copies) => Some(Level::Applied(copies)),
            (_, Some(_)) => {
                return Err(Failure::usage("--copies goes with --level replicated or applied"));
            }
            (Some(LevelArg::Buffered), None) => Some(Level::Buffered),
            (Some(LevelArg::Written), None) => Some(Level::Written),
            (Some(LevelArg::Durable), None) => Some(Level::Durable),
            (Some(LevelArg::Archived), None) => Some(Level::Archived),
            (None, None) => durability.map(|durability| match durability {
                DurabilityArg::Buffered => Level::Buffered,
                DurabilityArg::Written => Level::Written,
                DurabilityArg::Durable => Level::Durable,
            }),
        };
        let options = AppendOptions::default().timeout(self.timeout());
        Ok(level.map_or_else(|| options.clone(), |level| options.clone().level(level)))
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(DEFAULT_TIMEOUT)
    }
}
