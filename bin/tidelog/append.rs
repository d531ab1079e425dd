//! `append`: one record, to a directory or to whichever node leads.

use std::io::Read;

use clap::Args;
use serde_json::json;
use tidelog::client::{self, Cluster};
use tidelog::{Append, Batch, Expect, Offset, Record};

use crate::args::NodeArgs;
use crate::config::{Config, DurabilityArg};
use crate::exit::{Failure, Outcome};
use crate::leading::LeadingArgs;
use crate::origin::OriginArgs;
use crate::output::{self, say};

/// Append one record; print its offset and token
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog append mylog gate open
  tidelog append mylog gate --delete
  tidelog append mylog gate 'opened by hand' --event
  echo ajar | tidelog append mylog gate -
  tidelog append mylog gate closed --expect-offset 2
  tidelog append http://127.0.0.1:7400,http://127.0.0.1:7401 gate open
  tidelog append http://127.0.0.1:7400 gate open --level durable --timeout 30s

Of nodes the leader is looked for, from any of them; what it is asked is tried again until --timeout, and is there once \
whatever happens meanwhile. Exit 6: nobody leads, or the outcome is unknown; the key that is printed then, given as \
--idempotency-key, makes another try safe. `tidelog get --at-least TOKEN` reads a copy that is at least as new as the record.")]
pub(crate) struct AppendArgs {
    #[command(flatten)]
    at: OriginArgs,
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
    leading: LeadingArgs,
    /// Of nodes: makes it the same append as another one with this key, which is not appended twice
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
}

impl AppendArgs {
    pub(crate) fn run(self) -> Outcome {
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
        let mut batch = Batch::new();
        batch.push(&record)?;
        let Some(dir) = self.at.directory() else {
            let cluster = self.at.cluster()?;
            return cluster.map_or(Ok(()), |cluster| self.to_nodes(cluster, &batch));
        };
        self.leading.check_directory()?;
        if self.idempotency_key.is_some() {
            return Err(Failure::usage("--idempotency-key goes with a node's address"));
        }
        let config = Config::load(Some(dir))?;
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
    fn to_nodes(&self, mut cluster: Cluster, batch: &Batch) -> Outcome {
        if self.node.is_given() {
            return Err(Failure::usage("--new-node and --same-node go with a directory"));
        }
        let mut how = self.leading.options(self.durability)?;
        if let Some(offset) = self.expect_offset {
            how = how.expect_end(Offset(offset));
        }
        if let Some(key) = &self.idempotency_key {
            how = how.key(key);
        }
        match cluster.append(batch, &how) {
            client::Outcome::Acked(acked) => output::line(json!({
                "offset": acked.first.0,
                "token": acked.token.to_string(),
                "level": acked.level,
                "copies": acked.copies,
                "duplicate": acked.duplicate,
            })),
            client::Outcome::Unknown { why, key, .. } => {
                say(format_args!("the same append again: --idempotency-key {key}"));
                Err(why.into())
            }
            client::Outcome::Rejected { why } => Err(why.into()),
        }
    }
}
