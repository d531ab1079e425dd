//! `promote`, `switchover`, `demote`, `failover`: who leads, by an operator's word.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::access::NodeTarget;
use crate::args::Trial;
use crate::exit::{Failure, Outcome};
use crate::output::{self, say};
use crate::progress;

/// How often it looks whether the node leads by now.
const LOOK: Duration = Duration::from_millis(50);

/// Let a follower lead: print what that means, or with --yes do it
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog promote http://127.0.0.1:7401 --dry-run

It asks the other nodes for their promise to follow nobody older, fetches the longest tail among them, begins an \
epoch and opens for writes. Without a coordinator nobody here can know whether the old leader is stopped: \
make sure, and say so with --old-leader-is-stopped; to change a leader that runs, use `tidelog switchover`. \
The old one becomes a follower by itself when it comes back with --peer or --coordinator.")]
pub(crate) struct Promote {
    #[command(flatten)]
    target: NodeTarget,
    /// The leader until now is stopped and does not come back by itself
    #[arg(long)]
    old_leader_is_stopped: bool,
    /// Though records are known to be lost
    #[arg(long)]
    accept_loss: bool,
    /// How long to wait until it leads
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = tidelog::text::parse_duration)]
    timeout: Duration,
    /// Print what would be done, and change nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do it
    #[arg(long)]
    yes: bool,
}

/// Hand the leadership to a follower without losing a record
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog switchover http://127.0.0.1:7400 --dry-run

Appends wait while the follower fetches the rest and takes over; the leader then follows it.")]
pub(crate) struct Switchover {
    #[command(flatten)]
    target: NodeTarget,
    /// The follower, by address or node id; the furthest that may lead unless given
    #[arg(long, value_name = "URL,NODE")]
    to: Option<String>,
    /// How long to wait until it leads
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = tidelog::text::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    trial: Trial,
}

/// Let a leader lead no more
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog demote http://127.0.0.1:7400 --dry-run

With a coordinator another node is elected then, and this one stays out of it until one leads, or until it is \
promoted; refused where no other node could lead, unless failover is paused. Without a coordinator nobody leads until \
`tidelog promote`.")]
pub(crate) struct Demote {
    #[command(flatten)]
    target: NodeTarget,
    /// How long to wait until it leads no more
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = tidelog::text::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    trial: Trial,
}

/// Show how a node stands in its cluster; keep nodes from becoming leader by themselves
#[derive(Args)]
pub(crate) struct Failover {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Print how a node stands: who holds the seat, and why nobody leads
    Status(Look),
    /// Keep all nodes from becoming leader by themselves, until `failover resume`
    Pause(Look),
    /// Let them again
    Resume(Look),
}

#[derive(Args)]
#[command(after_help = "Examples:
  tidelog failover status http://127.0.0.1:7400

What is paused stands at the coordinator and holds for all nodes.")]
struct Look {
    #[command(flatten)]
    target: NodeTarget,
}

impl NodeTarget {
    fn status(&self) -> Result<Value, Failure> {
        Ok(self.client()?.get("/v1/status", &[], Duration::ZERO)?.ok()?.json()?)
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let headers = [("content-type", "application/json")];
        let text = body.to_string();
        let reply = self.client()?.post(path, &headers, text.as_bytes(), Duration::from_secs(5))?;
        Ok(reply.ok()?.json()?)
    }

    /// Why a node did not do what it was asked by this answer, once it says so.
    fn refusal(&self, answer: &Value) -> Option<Failure> {
        let number = answer["order"].as_u64()?;
        let reply = self.client().ok()?.get("/v1/failover", &[], Duration::ZERO).ok()?;
        let order = &reply.ok().ok()?.json::<Value>().ok()?["order"];
        let refused = order["number"] == number && order["done"] == false;
        let help = order["help"].as_str().map(|help| format!("; {help}")).unwrap_or_default();
        let why = order["why"].as_str().unwrap_or_default();
        refused.then(|| Failure::no(format!("{} refused: {why}{help}", self.url)))
    }

    /// Waits until a node leads by a later epoch than `epoch`, as far as this one knows; `asked` is what this node
    /// answered to what it was asked to do for that.
    fn until_led(
        &self,
        at: &str,
        epoch: u64,
        timeout: Duration,
        asked: &Value,
    ) -> Result<Value, Failure> {
        let client = self.access.client(at, &self.token)?;
        let until = Instant::now() + timeout;
        loop {
            let status =
                client.get("/v1/status", &[], Duration::ZERO).and_then(|reply| reply.ok()?.json());
            if let Ok(status) = status {
                let status: Value = status;
                let newer = status["epoch"].as_u64().is_some_and(|now| now > epoch);
                if status["role"] == "leader" && newer {
                    return Ok(status);
                }
            }
            if let Some(refused) = self.refusal(asked) {
                return Err(refused);
            }
            if Instant::now() >= until {
                return Err(Failure::no(format!(
                    "{at} does not lead after {timeout:?}; `tidelog failover status {at}` says why"
                )));
            }
            if progress::interrupted() {
                return Err(Failure::interrupted());
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// What a node says of itself, in short.
fn brief(status: &Value) -> Value {
    json!({
        "name": status["name"],
        "node": status["node"],
        "role": status["role"],
        "state": status["state"],
        "epoch": status["epoch"],
        "durable": status["durable"],
        "leader": status["leader"],
    })
}

fn not_done(plan: Value) -> Outcome {
    output::line(plan)?;
    Err(Failure::no("nothing was changed; --yes does it"))
}

fn planned(plan: Value) -> Outcome {
    output::line(plan)?;
    Err(Failure::no("nothing was changed; without --dry-run it is"))
}

impl Promote {
    pub(crate) fn run(self) -> Outcome {
        let before = self.target.status()?;
        let epoch = before["epoch"].as_u64().unwrap_or(0);
        let failover: Value =
            self.target.client()?.get("/v1/failover", &[], Duration::ZERO)?.ok()?.json()?;
        if let Some(unseen) = failover["unseen"].as_str() {
            say(format_args!("note: {unseen}"));
        }
        if let Some(from) = failover["degraded"]["from"].as_u64() {
            say(format_args!(
                "note: a degraded spell is registered, from log byte {from} on; what was acknowledged as durable \
                 since then may be lost, which takes --accept-loss"
            ));
        }
        if !self.yes {
            say(format_args!("plan: {} leads from epoch {} on", self.target.url, epoch + 1));
            return not_done(
                json!({ "promote": brief(&before), "failover": failover, "done": false }),
            );
        }
        let body = json!({
            "old_leader_is_stopped": self.old_leader_is_stopped,
            "accept_loss": self.accept_loss,
        });
        let asked = self.target.post("/v1/promote", &body)?;
        let after = self.target.until_led(&self.target.url, epoch, self.timeout, &asked)?;
        output::line(json!({ "promote": brief(&after), "done": true }))
    }
}

impl Switchover {
    pub(crate) fn run(self) -> Outcome {
        let before = self.target.status()?;
        let epoch = before["epoch"].as_u64().unwrap_or(0);
        if self.trial.dry_run {
            say(format_args!("plan: {} hands over", self.target.url));
            return planned(json!({ "switchover": brief(&before), "to": self.to, "done": false }));
        }
        let began = Instant::now();
        let answer = self.target.post("/v1/switchover", &json!({ "to": self.to }))?;
        let what = answer["what"].as_str().unwrap_or_default();
        // The node itself says who leads once it follows.
        let until = Instant::now() + self.timeout;
        let next = match what.strip_prefix("handed over to ") {
            Some(next) => next.to_owned(),
            None => loop {
                let known = self.target.status().ok().and_then(|now| {
                    let leader = now["leader"].as_str()?.to_owned();
                    (now["role"] == "follower").then_some(leader)
                });
                if let Some(refused) = self.target.refusal(&answer) {
                    return Err(refused);
                }
                match known {
                    Some(leader) => break leader,
                    None if Instant::now() >= until => {
                        return Err(Failure::no(format!(
                            "{} has not handed over: {what}",
                            self.target.url
                        )));
                    }
                    None => std::thread::sleep(LOOK),
                }
            },
        };
        let left = until.saturating_duration_since(Instant::now());
        let after = self.target.until_led(&next, epoch, left, &answer)?;
        let seconds = progress::rounded(began.elapsed());
        output::line(json!({ "switchover": brief(&after), "seconds": seconds, "done": true }))
    }
}

impl Demote {
    pub(crate) fn run(self) -> Outcome {
        if self.trial.dry_run {
            let before = self.target.status()?;
            say(format_args!(
                "plan: {} leads no more, and nobody does until one is elected or promoted",
                self.target.url
            ));
            return planned(json!({ "demote": brief(&before), "done": false }));
        }
        let answer = self.target.post("/v1/demote", &json!({}))?;
        let until = Instant::now() + self.timeout;
        // It may be at it still when it answers.
        loop {
            if let Some(refused) = self.target.refusal(&answer) {
                return Err(refused);
            }
            if self.target.status().is_ok_and(|now| now["role"] == "follower") {
                return output::line(json!({ "done": true, "what": "it leads no more" }));
            }
            if Instant::now() >= until {
                let url = &self.target.url;
                return Err(Failure::no(format!(
                    "{url} still leads after {:?}; `tidelog failover status {url}` says why",
                    self.timeout
                )));
            }
            if progress::interrupted() {
                return Err(Failure::interrupted());
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Failover {
    pub(crate) fn run(self) -> Outcome {
        let (target, paused) = match &self.verb {
            Verb::Status(look) => {
                let reply = look.target.client()?.get("/v1/failover", &[], Duration::ZERO)?;
                return output::line(reply.ok()?.json::<Value>()?);
            }
            Verb::Pause(look) => (&look.target, true),
            Verb::Resume(look) => (&look.target, false),
        };
        output::line(target.post("/v1/failover", &json!({ "paused": paused }))?)
    }
}
