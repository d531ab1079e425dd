//! The torture programme: each subcommand holds one promise of docs/DURABILITY.md against faults.
//!
//! stdout is one line of JSON per run, see `line`; progress goes to stderr. Exit codes: 0 no
//! violation, 1 violations, 2 usage, 3 the run could not be made. docs/TESTING.md says what each
//! part proves, and what it cannot.

mod crash;
mod line;
mod mutants;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use line::Line;

/// Tries to make tidelog lose, invent or hide a record.
#[derive(Parser)]
#[command(name = "tidelog-torture", version, max_term_width = 100)]
struct Cli {
    /// Plants a bug in the engine first.
    #[arg(long, global = true, hide = true)]
    mutant: Option<String>,
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Power cuts after every operation of every workload, and inside recovery.
    Crash(crash::Crash),
    /// Bugs planted in the engine: each must be found by some other part.
    Mutants(mutants::Mutants),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(name) = &cli.mutant
        && let Err(code) = mutants::plant(name)
    {
        return code;
    }
    let run: Result<Line, String> = match cli.part {
        Part::Crash(part) => part.run(),
        Part::Mutants(part) => part.run(|name| Cli::command().find_subcommand(name).is_some()),
    };
    match run {
        Ok(line) => line.print(),
        Err(error) => {
            eprintln!("tidelog-torture: {error}");
            ExitCode::from(3)
        }
    }
}
