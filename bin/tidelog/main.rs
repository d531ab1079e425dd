//! The command line of tidelog: each verb in its file parses, calls the library, prints.
//!
//! stdout is data only; progress, warnings and summaries go to stderr. Exit codes: see `exit`.

mod access;
mod append;
mod archive;
mod args;
mod bench;
mod command;
mod config;
mod demo;
mod diverged;
mod dump;
mod exit;
mod failover;
mod feed;
mod follow;
mod get;
mod history;
mod info;
mod ingest;
mod init;
mod input;
mod leading;
mod members;
mod origin;
mod output;
mod pause;
mod printer;
mod progress;
mod repair;
mod restore;
mod retain;
mod segments;
mod serve;
mod shell;
mod sink;
mod slots;
mod snapshot;
mod source;
mod sql;
mod status;
mod tail;
mod verify;
mod watch;

use std::process::ExitCode;

use clap::{FromArgMatches, Parser, Subcommand};

/// An append-only log with followers: ingest, read, check, repair.
#[derive(Parser)]
#[command(name = "tidelog", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "\
Exit codes: 0 ok, 1 the answer is no, 2 usage, 3 I/O, 4 corruption, 5 locked, 6 not the leader or \
outcome unknown, 130 interrupted.
Start with `tidelog demo`.";

#[derive(Subcommand)]
enum Verb {
    Init(init::Init),
    Ingest(ingest::Ingest),
    Append(append::AppendArgs),
    Tail(tail::TailArgs),
    Info(info::Info),
    Segments(segments::Segments),
    Dump(dump::Dump),
    Verify(verify::Verify),
    Repair(repair::Repair),
    Get(get::Get),
    Scan(get::ScanArgs),
    History(history::History),
    Count(get::Count),
    Sql(sql::Sql),
    Follow(follow::Follow),
    Pause(pause::Pause),
    Resume(pause::Resume),
    Archive(archive::ArchiveArgs),
    Serve(Box<serve::Serve>),
    Promote(failover::Promote),
    Switchover(failover::Switchover),
    Demote(failover::Demote),
    Failover(failover::Failover),
    Diverged(diverged::DivergedArgs),
    Members(members::Members),
    Status(status::Status),
    Check(status::Check),
    Wait(status::Wait),
    Demo(demo::Demo),
    Retain(retain::Retain),
    Slots(slots::Slots),
    Snapshot(snapshot::SnapshotArgs),
    Restore(restore::Restore),
    Hash(restore::Hash),
    Bench(bench::Bench),
    Config(shell::ConfigArgs),
    Completions(shell::Completions),
    Man(shell::Man),
    Version(shell::Version),
}

fn main() -> ExitCode {
    let parsed = command::command().try_get_matches().and_then(|matches| {
        output::set_format(command::format(&matches));
        Cli::from_arg_matches(&matches)
    });
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => {
            // Help that goes into a closed pipe is nobody's problem.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    // Nodes under `chaos` are this binary: so a bug is planted in them.
    #[cfg(feature = "mutants")]
    if let Ok(name) = std::env::var("TIDELOG_MUTANT")
        && !tidelog::mutant::plant(&name)
    {
        eprintln!("tidelog: no planted bug is called {name}");
        return ExitCode::from(2);
    }
    progress::catch_interrupts();
    let outcome = match cli.verb {
        Verb::Init(verb) => verb.run(),
        Verb::Ingest(verb) => verb.run(),
        Verb::Append(verb) => verb.run(),
        Verb::Tail(verb) => verb.run(),
        Verb::Info(verb) => verb.run(),
        Verb::Segments(verb) => verb.run(),
        Verb::Dump(verb) => verb.run(),
        Verb::Verify(verb) => verb.run(),
        Verb::Repair(verb) => verb.run(),
        Verb::Get(verb) => verb.run(),
        Verb::Scan(verb) => verb.run(),
        Verb::History(verb) => verb.run(),
        Verb::Count(verb) => verb.run(),
        Verb::Sql(verb) => verb.run(),
        Verb::Follow(verb) => verb.run(),
        Verb::Pause(verb) => verb.run(),
        Verb::Resume(verb) => verb.run(),
        Verb::Archive(verb) => verb.run(),
        Verb::Serve(verb) => verb.run(),
        Verb::Promote(verb) => verb.run(),
        Verb::Switchover(verb) => verb.run(),
        Verb::Demote(verb) => verb.run(),
        Verb::Failover(verb) => verb.run(),
        Verb::Diverged(verb) => verb.run(),
        Verb::Members(verb) => verb.run(),
        Verb::Status(verb) => verb.run(),
        Verb::Check(verb) => verb.run(),
        Verb::Wait(verb) => verb.run(),
        Verb::Demo(verb) => verb.run(),
        Verb::Retain(verb) => verb.run(),
        Verb::Slots(verb) => verb.run(),
        Verb::Snapshot(verb) => verb.run(),
        Verb::Restore(verb) => verb.run(),
        Verb::Hash(verb) => verb.run(),
        Verb::Bench(verb) => verb.run(),
        Verb::Config(verb) => verb.run(),
        Verb::Completions(verb) => verb.run(),
        Verb::Man(verb) => verb.run(),
        Verb::Version(verb) => verb.run(),
    };
    match output::end_lines().and(outcome) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
