//! What a child process is told that fills a log and is killed; see `rows::open`.

use std::path::PathBuf;

/// The arguments of the hidden subcommand.
#[derive(Clone, Debug, clap::Args)]
pub struct Fill {
    /// Who fills.
    pub contestant: String,
    /// An empty directory.
    pub dir: PathBuf,
    /// How many records.
    pub records: u64,
}
