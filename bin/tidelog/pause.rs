//! `pause`, `resume`: where a follower that runs stops applying.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tidelog::text::{Bound, parse_at};

use crate::access::NodeTarget;
use crate::exit::Outcome;
use crate::output;

/// Let a follower stop applying at a point; it goes on copying
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog pause http://127.0.0.1:7401 --at 2

Nothing at or behind the point is applied, and a batch that reaches over it is left out whole, until \
`tidelog resume`. A restart of the node forgets it: `serve --pause-at` sets it from the start. A point that apply has passed \
already holds nothing up: `pause_at` in `tidelog status` is gone then.")]
pub(crate) struct Pause {
    #[command(flatten)]
    target: NodeTarget,
    /// An offset, or a time such as @2026-11-23T04:00:00Z: only what lies before it is applied
    #[arg(long, value_name = "OFFSET,TIME", value_parser = point)]
    at: Bound,
}

/// Let a follower that was stopped by `pause` or --pause-at apply again
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog resume http://127.0.0.1:7401")]
pub(crate) struct Resume {
    #[command(flatten)]
    target: NodeTarget,
}

/// Reads a point of a log.
pub(crate) fn point(text: &str) -> Result<Bound, String> {
    let now = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
    parse_at(text, now)
}

impl NodeTarget {
    fn tell_apply(&self, body: &Value) -> Outcome {
        let client = self.client()?;
        let headers = [("content-type", "application/json")];
        let reply =
            client.post("/v1/apply", &headers, body.to_string().as_bytes(), Duration::ZERO)?;
        output::line(reply.ok()?.json::<Value>()?)
    }
}

impl Pause {
    pub(crate) fn run(self) -> Outcome {
        self.target.tell_apply(&json!({ "pause_at": self.at.to_string() }))
    }
}

impl Resume {
    pub(crate) fn run(self) -> Outcome {
        self.target.tell_apply(&json!({ "resume": true }))
    }
}
