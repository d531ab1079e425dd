//! The torture programme: each subcommand holds one promise of docs/DURABILITY.md against faults.
//!
//! stdout is one line of JSON per run, see `line`; progress goes to stderr. Exit codes: 0 no
//! violation, 1 violations, 2 usage, 3 the run could not be made. docs/TESTING.md says what each
//! part proves, and what it cannot.

mod bitflip;
mod chaos;
mod child;
mod crash;
mod dice;
mod fence;
mod iofault;
mod line;
mod memory;
mod model;
mod mutants;
mod oracle;
mod powercut;
mod proxy;
mod rows;
mod sched;
mod sim;
mod slots;
mod soak;
mod told;

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
    Bitflip(bitflip::Bitflip),
    Model(model::Model),
    Sim(sim::Sim),
    Fence(fence::Args),
    Chaos(chaos::Args),
    Iofault(iofault::Args),
    Powercut(powercut::Args),
    Soak(soak::Args),
    #[command(hide = true)]
    PowercutLoad(powercut::LoadArgs),
    Sched(sched::Sched),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(name) = &cli.mutant
        && let Err(code) = mutants::plant(name)
    {
        return code;
    }
    if matches!(
        cli.part,
        Part::Crash(_) | Part::Bitflip(_) | Part::Model(_) | Part::Sim(_) | Part::Iofault(_)
    ) {
        memory::keep();
    }
    let run: Result<Line, String> = match cli.part {
        Part::Crash(part) => part.run(),
        Part::Mutants(part) => part.run(|name| Cli::command().find_subcommand(name).is_some()),
        Part::Bitflip(args) => bitflip::run(&args),
        Part::Model(args) => model::run(&args),
        Part::Sim(args) => sim::run(&args),
        Part::Fence(args) => fence::run(&args),
        Part::Chaos(args) => chaos::run(&args),
        Part::Iofault(args) => iofault::run(&args),
        Part::Powercut(args) => powercut::run(&args),
        Part::Soak(args) => soak::run(&args),
        Part::PowercutLoad(args) => {
            powercut::load(&args);
            return ExitCode::SUCCESS;
        }
        Part::Sched(args) => Ok(sched::run(&args)),
    };
    match run {
        Ok(line) => line.print(),
        Err(error) => {
            eprintln!("tidelog-torture: {error}");
            ExitCode::from(3)
        }
    }
}
