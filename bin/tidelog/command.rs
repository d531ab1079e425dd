//! The command line as a whole: the verbs as their files describe them, and the flags that all of a kind have.
//!
//! Called by `main`, which reads with it, and by `completions` and `man`, which print it. Invariants:
//! - every verb that prints data takes `-o`; a verb that prints objects one by one has it from here;
//! - every verb that wants `--yes` takes `--dry-run`, too, which is what it does without.

use clap::builder::EnumValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory};

use crate::Cli;
use crate::output::Format;

/// Verbs that print no data, or in one format of their own.
const OTHERS: [&str; 6] = ["serve", "demo", "dump", "completions", "man", "help"];

/// The command with all its verbs.
pub(crate) fn command() -> Command {
    complete(Cli::command())
}

fn complete(command: Command) -> Command {
    if command.has_subcommands() {
        return command.mut_subcommands(complete);
    }
    let has = |id: &str| command.get_arguments().any(|arg| arg.get_id() == id);
    let prints = !has("output") && !OTHERS.contains(&command.get_name());
    let plans = has("yes") && !has("dry_run");
    let output = Arg::new("output")
        .short('o')
        .long("output")
        .value_name("OUTPUT")
        .help("How to print; a line of JSON for each object unless given")
        .value_parser(EnumValueParser::<Format>::new());
    let dry_run = Arg::new("dry_run")
        .long("dry-run")
        .help("Print what would be done, and change nothing: as without --yes")
        .action(ArgAction::SetTrue)
        .conflicts_with("yes");
    let command = if plans { command.arg(dry_run) } else { command };
    if prints { command.arg(output) } else { command }
}

/// What `-o` of the verb says.
pub(crate) fn format(matches: &ArgMatches) -> Option<Format> {
    match matches.subcommand() {
        Some((_, matches)) => format(matches),
        None => matches.try_get_one::<Format>("output").ok().flatten().copied(),
    }
}
