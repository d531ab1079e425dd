//! `config`, `completions`, `man`, `version`: about the command line itself.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Subcommand};
use clap_complete::Shell;
use tidelog::Identity;

use crate::Cli;
use crate::config::Config;
use crate::exit::Outcome;
use crate::output::Format;

/// What a directory that was copied or moved is now.
pub(crate) fn identity(new_node: bool, same_node: bool) -> Identity {
    match (new_node, same_node) {
        (true, _) => Identity::NewNode,
        (_, true) => Identity::SameNode,
        _ => Identity::Expect,
    }
}

/// Show settings
#[derive(Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    verb: ConfigVerb,
}

#[derive(Subcommand)]
enum ConfigVerb {
    /// Print every setting with its value
    #[command(after_help = "Example: tidelog config show mylog --origin

A flag wins over TIDELOG_*, that over tidelog.toml in the log's directory, that over \
~/.config/tidelog/config.toml.")]
    Show {
        dir: Option<PathBuf>,
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
        #[arg(short, long, value_enum)]
        output: Option<Format>,
    },
}

impl ConfigArgs {
    pub(crate) fn run(self) -> Outcome {
        let ConfigVerb::Show { dir, origin, output } = self.verb;
        Config::load(dir.as_deref())?.show(origin, output)
    }
}

/// Print shell completions
#[derive(Args)]
#[command(after_help = "Example: tidelog completions bash")]
pub(crate) struct Completions {
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "tidelog", &mut script);
        Ok(std::io::stdout().write_all(&script)?)
    }
}

/// Print the manual page
#[derive(Args)]
#[command(after_help = "Example: tidelog man")]
pub(crate) struct Man {}

impl Man {
    pub(crate) fn run(self) -> Outcome {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        Ok(std::io::stdout().write_all(&page)?)
    }
}

/// Print the version
#[derive(Args)]
#[command(after_help = "Example: tidelog version")]
pub(crate) struct Version {}

impl Version {
    pub(crate) fn run(self) -> Outcome {
        println!(
            "{}",
            serde_json::json!({
                "version": env!("CARGO_PKG_VERSION"),
                "format": tidelog::segment::FORMAT_VERSION,
            })
        );
        Ok(())
    }
}
