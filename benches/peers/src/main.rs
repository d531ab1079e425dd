//! tidelog measured beside its peers and beside bare loops, interleaved in one run.
//!
//! README.md says what is measured, how everyone is set up, and how to read the output.

mod bare;
mod contestant;
mod family;
mod fill;
#[cfg(feature = "servers")]
mod flock;
mod gauge;
mod machine;
mod measure;
#[cfg(feature = "servers")]
mod pairs;
mod payload;
mod peers;
mod report;
mod rows;
mod tables;
mod targets;

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use serde_json::json;

use fill::Fill;
use machine::Workplace;
use report::Report;
use rows::{Bench, Rows};

/// Measures tidelog beside its peers and beside bare loops.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    /// Where to put the logs; everything is removed at the end.
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,

    /// Which rows to run.
    #[arg(long, value_delimiter = ',', default_value = "append,durable,read,open,roll")]
    rows: Vec<Rows>,

    /// Rounds that count; one more comes before them to warm up.
    #[arg(long, default_value_t = 5)]
    rounds: u32,

    /// Who takes part; all unless given.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    contestants: Vec<String>,

    /// Shrinks sizes and times, for a quick look. Figures of less than 1 count for little.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,

    /// Writes every measurement and every row's summary here, a line of JSON each.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// The program that nodes of tidelog are run with in rows about replication.
    #[cfg(feature = "servers")]
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release/tidelog"))]
    tidelog: PathBuf,

    /// Ends with an error when a target is missed.
    #[arg(long)]
    strict: bool,

    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// Fills a log and dies.
    #[command(hide = true)]
    FillAndDie(Fill),
    /// Follows a source many times over.
    #[cfg(feature = "servers")]
    #[command(hide = true)]
    Flock(flock::Flock),
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let all = peers::all();
    if let Some(Part::FillAndDie(fill)) = &args.part {
        let contestant = all.iter().find(|contestant| contestant.name() == fill.contestant);
        rows::fill_and_die(&**contestant.context("there is no such contestant")?, fill)?;
    }
    #[cfg(feature = "servers")]
    if let Some(Part::Flock(flock)) = &args.part {
        flock.run()?;
        return Ok(ExitCode::SUCCESS);
    }
    #[cfg(feature = "servers")]
    let pairs = pairs::all(&args.tidelog);
    let tables = tables::all();
    ensure!(args.scale > 0.0 && args.scale <= 1.0, "expected a scale in 0..=1");
    for name in &args.contestants {
        let logs = all.iter().map(|contestant| contestant.name());
        let names = logs.chain(tables.iter().map(|table| table.name()));
        #[cfg(feature = "servers")]
        let names = names.chain(pairs.iter().map(|pair| pair.name()));
        let names: Vec<_> = names.collect();
        ensure!(names.contains(&&**name), "no contestant is called {name}; there are {names:?}");
    }

    let workplace = Workplace::new(args.dir.as_deref())?;
    peers::prepare_process(workplace.root())?;
    let takes_part =
        |name: &str| args.contestants.is_empty() || args.contestants.iter().any(|c| c == name);
    let contestants: Vec<_> =
        all.into_iter().filter(|contestant| takes_part(contestant.name())).collect();
    let tables: Vec<_> = tables.into_iter().filter(|table| takes_part(table.name())).collect();
    let mut names: Vec<_> = contestants.iter().map(|contestant| contestant.name()).collect();
    for table in &tables {
        if !names.contains(&table.name()) {
            names.push(table.name());
        }
    }
    #[cfg(feature = "servers")]
    let pairs: Vec<_> = pairs.into_iter().filter(|pair| takes_part(pair.name())).collect();
    #[cfg(feature = "servers")]
    for pair in &pairs {
        if !names.contains(&pair.name()) {
            names.push(pair.name());
        }
    }
    let mut report = Report::new(names.clone(), args.out.as_deref())?;
    report.begin(json!({
        "kind": "run",
        "file_system": workplace.file_system(),
        "cores": std::thread::available_parallelism()?.get(),
        "rounds": args.rounds,
        "scale": args.scale,
        "contestants": names,
    }))?;
    let report = RefCell::new(report);
    let bench = Bench {
        workplace,
        contestants,
        tables,
        #[cfg(feature = "servers")]
        pairs,
        #[cfg(feature = "servers")]
        tidelog: args.tidelog,
        rounds: args.rounds,
        scale: args.scale,
        report,
    };
    for rows in args.rows {
        bench.run(rows)?;
    }
    let missed = bench.report.borrow().missed();
    if missed > 0 {
        println!("\n{missed} targets were missed");
    }
    Ok(if args.strict && missed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
