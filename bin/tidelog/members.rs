//! `members`: who must hold what a leader acknowledges, and changing that.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidelog::Id;

use crate::access::NodeTarget;
use crate::args::Trial;
use crate::exit::{Failure, Outcome};
use crate::output::{self, say};

/// Show or change the members of a leader's synchronous set
#[derive(Args)]
pub(crate) struct Members {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    List(List),
    Add(Add),
    Remove(Remove),
}

/// How a change goes.
#[derive(Args)]
struct Change {
    /// Another mode with it: async, bounded:k=1,bytes=1MiB,secs=5, semi:k=1,timeout=500ms, sync:k=1
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// How long to wait until the new set is committed
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = tidelog::text::parse_duration)]
    timeout: Duration,
}

/// Print the mode, the members, and whether a change is under way
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog members list http://127.0.0.1:7400")]
struct List {
    #[command(flatten)]
    target: NodeTarget,
}

/// Add members, and perhaps change the mode
#[derive(Args)]
#[command(
    after_help = "A node's id stands in `tidelog status URL`. Until the new set is committed the \
old one must hold the same: with a member that does not answer, a change waits."
)]
struct Add {
    #[command(flatten)]
    target: NodeTarget,
    /// Node ids; none, to change the mode alone
    #[arg(value_name = "NODE", value_parser = node)]
    nodes: Vec<Id>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    trial: Trial,
}

/// Remove members
#[derive(Args)]
struct Remove {
    #[command(flatten)]
    target: NodeTarget,
    /// Node ids
    #[arg(value_name = "NODE", required = true, value_parser = node)]
    nodes: Vec<Id>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    trial: Trial,
}

pub(crate) fn node(text: &str) -> Result<Id, String> {
    let wrong = || format!("expected a node id as `tidelog status` shows it, found {text:?}");
    text.parse().map_err(|()| wrong())
}

impl Members {
    pub(crate) fn run(self) -> Outcome {
        match self.verb {
            Verb::List(List { target }) => output::line(target.list_set()?),
            Verb::Add(Add { target, nodes, change, trial }) => match trial.dry_run {
                true => target.plan(&change, "add", &nodes),
                false => target.change_set(&change, &nodes, &[]),
            },
            Verb::Remove(Remove { target, nodes, change, trial }) => match trial.dry_run {
                true => target.plan(&change, "remove", &nodes),
                false => target.change_set(&change, &[], &nodes),
            },
        }
    }
}

impl NodeTarget {
    fn list_set(&self) -> Result<Value, Failure> {
        let client = self.client()?;
        Ok(client.get("/v1/members", &[], Duration::ZERO)?.ok()?.json()?)
    }

    /// Prints what a change would be.
    fn plan(&self, change: &Change, what: &str, nodes: &[Id]) -> Outcome {
        let set = self.list_set()?;
        let mode = change.mode.clone().map_or_else(|| set["mode"].clone(), Value::from);
        let ids: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        say(format_args!("plan: {what} {}, mode {mode}", ids.join(", ")));
        output::line(json!({ "set": set, what: ids, "mode": mode, "done": false }))?;
        Err(Failure::no("nothing was changed; without --dry-run it is"))
    }

    fn change_set(&self, change: &Change, add: &[Id], remove: &[Id]) -> Outcome {
        let client = self.client()?;
        let ids = |ids: &[Id]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        let body = json!({ "mode": change.mode, "add": ids(add), "remove": ids(remove) });
        let path = format!("/v1/members?timeout={}ms", change.timeout.as_millis());
        let headers = [("content-type", "application/json")];
        let reply = client.post(&path, &headers, body.to_string().as_bytes(), change.timeout)?;
        let pending = reply.status == 202;
        let set: Value = reply.ok()?.json()?;
        output::line(set)?;
        match pending {
            false => Ok(()),
            true => Err(Failure::no("both sets rule until the members hold the new one")),
        }
    }
}
