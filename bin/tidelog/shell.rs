//! `config`, `completions`, `man`, `version`: about the command line itself.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use clap_complete::Shell;

use crate::command;
use crate::config::Config;
use crate::exit::{Failure, Outcome};
use crate::output::{self, Format};

/// Show settings
#[derive(Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    verb: ConfigVerb,
}

#[derive(Subcommand)]
enum ConfigVerb {
    /// Print every setting with its value
    #[command(after_help = "Examples:
  tidelog config show
  tidelog config show mylog --origin

A flag wins over a variable such as TIDELOG_BATCH, that over tidelog.toml in the log's directory, that \
over ~/.config/tidelog/config.toml.")]
    Show {
        /// A log's directory, for its own settings
        dir: Option<PathBuf>,
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
        /// How to print: a table on a terminal, NDJSON when piped
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
#[command(after_help = "Examples:
  tidelog completions bash > tidelog.bash
  tidelog completions zsh
  tidelog completions fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command::command(), "tidelog", &mut script);
        Ok(std::io::stdout().write_all(&script)?)
    }
}

/// Print a manual page
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog man
  tidelog man ingest
  tidelog man archive push")]
pub(crate) struct Man {
    /// A verb, of a group its own, too; without one, the page of the program
    verb: Vec<String>,
}

impl Man {
    pub(crate) fn run(self) -> Outcome {
        let mut command = command::command();
        for (i, verb) in self.verb.iter().enumerate() {
            let found = command.find_subcommand(verb).cloned().ok_or_else(|| {
                Failure::usage(format!("expected a verb, found {verb:?}; see `tidelog help`"))
            })?;
            let words =
                || std::iter::once("tidelog").chain(self.verb[..=i].iter().map(String::as_str));
            command = found
                .version(env!("CARGO_PKG_VERSION"))
                .display_name(words().collect::<Vec<_>>().join("-"))
                .bin_name(words().collect::<Vec<_>>().join(" "));
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        Ok(std::io::stdout().write_all(&page)?)
    }
}

/// Print the version of the program and of the format it writes
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog version")]
pub(crate) struct Version {}

impl Version {
    pub(crate) fn run(self) -> Outcome {
        output::line(serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "format": tidelog::segment::FORMAT_VERSION,
        }))
    }
}
