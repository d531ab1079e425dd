//! `append`: one record.

use std::path::PathBuf;

use clap::Args;
use tidelog::{Append, Batch, Expect, Offset, Record};

use crate::config::{Config, DurabilityArg};
use crate::exit::{Failure, Outcome};

/// Append one record; print its offset and token
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog append mylog gate open
  tidelog append mylog gate --delete
  tidelog append mylog gate closed --expect-offset 2")]
pub(crate) struct AppendArgs {
    dir: PathBuf,
    key: String,
    /// The value; - reads it from stdin
    value: Option<String>,
    /// Remove the key
    #[arg(long, conflicts_with_all = ["value", "event"])]
    delete: bool,
    /// Append an event, which leaves the table alone
    #[arg(long)]
    event: bool,
    /// Append only if this is the next offset; otherwise exit 1
    #[arg(long, value_name = "N")]
    expect_offset: Option<u64>,
    #[arg(long, value_enum)]
    durability: Option<DurabilityArg>,
}

impl AppendArgs {
    pub(crate) fn run(self) -> Outcome {
        let key = self.key.as_bytes();
        let value = match (self.value.as_deref(), self.delete) {
            (Some("-"), _) => {
                let mut value = Vec::new();
                std::io::Read::read_to_end(&mut std::io::stdin(), &mut value)
                    .map_err(|e| Failure::io("read stdin", &e))?;
                value
            }
            (Some(value), _) => value.as_bytes().to_vec(),
            (None, true) => Vec::new(),
            (None, false) => {
                return Err(Failure::usage("expected a value, or --delete"));
            }
        };
        let record = match (self.delete, self.event) {
            (true, _) => Record::delete(key),
            (_, true) => Record::keyed_event(key, &value),
            _ => Record::put(key, &value),
        };
        let config = Config::load(Some(&self.dir))?;
        let mut batch = Batch::new();
        batch.push(&record)?;
        let how = Append {
            durability: Some(config.durability(self.durability)?),
            expect: self.expect_offset.map(|offset| Expect::End(Offset(offset))),
            ..Append::default()
        };
        let log = config.options(None, None)?.open(&self.dir)?;
        let appended = log.append_with(&batch, &how)?;
        println!(
            "{}",
            serde_json::json!({
                "offset": appended.first.0,
                "token": log.token(&appended).to_string(),
            })
        );
        log.close()?;
        Ok(())
    }
}
