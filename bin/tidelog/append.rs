//! `append`: one record.

use std::io::Read;

use clap::Args;
use serde_json::json;
use tidelog::{Append, Batch, Expect, Offset, Record};

use crate::args::{LogDir, NodeArgs};
use crate::config::{Config, DurabilityArg};
use crate::exit::{Failure, Outcome};
use crate::output;

/// Append one record; print its offset and token
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog append mylog gate open
  tidelog append mylog gate --delete
  tidelog append mylog gate 'opened by hand' --event
  echo ajar | tidelog append mylog gate -
  tidelog append mylog gate closed --expect-offset 2

`tidelog get --at-least TOKEN` reads a copy that is at least as new as the record.")]
pub(crate) struct AppendArgs {
    #[command(flatten)]
    at: LogDir,
    /// The key
    key: String,
    /// The value; - reads it from stdin
    #[arg(allow_negative_numbers = true)]
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
    /// What to wait for
    #[arg(long, value_enum)]
    durability: Option<DurabilityArg>,
    #[command(flatten)]
    node: NodeArgs,
}

impl AppendArgs {
    pub(crate) fn run(self) -> Outcome {
        let dir = &self.at.dir;
        let key = self.key.as_bytes();
        let value = match (self.value.as_deref(), self.delete) {
            (Some("-"), _) => {
                let mut value = Vec::new();
                std::io::stdin()
                    .read_to_end(&mut value)
                    .map_err(|e| Failure::io("read stdin", &e))?;
                value
            }
            (Some(value), _) => value.as_bytes().to_vec(),
            (None, true) => Vec::new(),
            (None, false) => return Err(Failure::usage("expected a value, or --delete")),
        };
        let record = match (self.delete, self.event) {
            (true, _) => Record::delete(key),
            (_, true) => Record::keyed_event(key, &value),
            _ => Record::put(key, &value),
        };
        let config = Config::load(Some(dir))?;
        let mut batch = Batch::new();
        batch.push(&record)?;
        let how = Append {
            durability: Some(config.durability(self.durability)?),
            expect: self.expect_offset.map(|offset| Expect::End(Offset(offset))),
            ..Append::default()
        };
        let log = config.options(None, None)?.identity(self.node.identity()).open(dir)?;
        let appended = log.append_with(&batch, &how)?;
        let token = log.token(&appended).to_string();
        log.close()?;
        output::line(json!({ "offset": appended.first.0, "token": token }))
    }
}
