//! tidelog: a leader and a follower, the follower always a process of its own.
//!
//! The leader is this process, which appends through the library and serves, as an embedding program
//! does; or a node of its own that is written to over HTTP. What was shown is asked of the follower: by
//! the acknowledgement `applied`, or by what it prints.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tidelog::log::Append;
use tidelog::replica::{Level as Ack, Outcome};
use tidelog::server::{Server as Node, ServerOptions};
use tidelog::ship::{Client, Credentials};
use tidelog::{Batch, Log, Offset, Record, Table};

use super::process::Server;
use super::{Contestant, Level, Pair};
use crate::peers::TIDELOG;
use crate::tables::{Key, Load, VALUE_BYTES};

/// An append waits at most so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program that nodes are run with.
pub struct Binary(pub PathBuf);

/// How the leader is run, and how its log travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lead {
    /// In this process; the follower pulls over HTTP.
    Embedded,
    /// As a node that takes appends over HTTP; so does the follower pull.
    Served,
    /// In this process, without a server; the follower reads its directory.
    Files,
}

pub(super) struct Tidelog {
    pub(super) lead: Lead,
    pub(super) binary: Binary,
}

impl Contestant for Tidelog {
    fn name(&self) -> &'static str {
        match self.lead {
            Lead::Embedded => TIDELOG,
            Lead::Served => "tidelog-served",
            Lead::Files => "tidelog-files",
        }
    }

    fn missing(&self) -> Option<String> {
        let path = &self.binary.0;
        let why =
            || format!("{} is not there: cargo build --release, or --tidelog", path.display());
        (!path.is_file()).then(why)
    }

    fn start(&self, dir: &Path) -> Result<Box<dyn Pair>> {
        let (leader, copy) = (dir.join("leader"), dir.join("copy"));
        match self.lead {
            Lead::Embedded => {
                let node = lead(&leader, ServerOptions::default())?;
                let follower = self.binary.follow(dir, &copy, node.url())?;
                Ok(Box::new(Embedded { node, _follower: follower, batch: Batch::new() }))
            }
            Lead::Served => {
                let served = ["serve", &text(&leader), "--create", "--listen", "127.0.0.1:0"];
                let (server, url) = self.binary.serve(dir, "leader", &served)?;
                let follower = self.binary.follow(dir, &copy, &url)?;
                let client = Client::new(&url, Credentials::default())?;
                Ok(Box::new(Served { client, body: Vec::new(), _servers: [follower, server] }))
            }
            Lead::Files => {
                let log = Log::options().create(true).open(&leader)?;
                // Nothing is followed before there is an epoch.
                log.append(&Record::event(b"begin"))?;
                let command =
                    [&text(&self.binary.0), "follow", &text(&copy), "--from", &text(&leader)];
                let mut follower = Server::start(dir, "copy", &command, Signal::TERM, true)?;
                let shown = tell_applied(&mut follower)?;
                let mut files = Files { log, shown, _follower: follower, batch: Batch::new() };
                files.wait_for(Offset(1))?;
                Ok(Box::new(files))
            }
        }
    }
}

impl Binary {
    /// Runs a node and waits until it tells its address.
    pub fn serve(&self, dir: &Path, name: &str, arguments: &[&str]) -> Result<(Server, String)> {
        let program = text(&self.0);
        let command: Vec<_> = [&*program].into_iter().chain(arguments.iter().copied()).collect();
        let mut server = Server::start(dir, name, &command, Signal::TERM, true)?;
        let mut line = String::new();
        BufReader::new(server.stdout().context("its output")?).read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line)
            .with_context(|| format!("expected an address from {name}, found {line:?}"))?;
        let url = said["listening"].as_str().with_context(|| format!("no address in {line}"))?;
        Ok((server, url.into()))
    }

    /// Runs a follower of the node at `url` that serves its own table.
    pub fn follow(&self, dir: &Path, copy: &Path, url: &str) -> Result<Server> {
        let arguments = ["serve", &text(copy), "--follow", url, "--listen", "127.0.0.1:0"];
        Ok(self.serve(dir, "copy", &arguments)?.0)
    }
}

/// Leads a new log in `dir`, in this process, and serves it at any free port.
pub fn lead(dir: &Path, options: ServerOptions) -> Result<Node> {
    let log = Log::options().create(true).open(dir)?;
    let table = Table::options().open(&log)?;
    Ok(options.listen(SocketAddr::from(([127, 0, 0, 1], 0))).bind()?.lead(log, table)?)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn fill(batch: &mut Batch, load: &Load, numbers: Range<u64>) -> Result<()> {
    batch.clear();
    for n in numbers {
        let (key, value) = load.upsert(n);
        batch.push(&Record::put(&key, &value))?;
    }
    Ok(())
}

struct Embedded {
    node: Node,
    _follower: Server,
    batch: Batch,
}

impl Embedded {
    fn append_batch(&mut self, level: Ack) -> Result<()> {
        let leader = self.node.leader().context("a leader")?;
        let how = Append::default();
        match leader.append(&self.batch, &how, Some(level), PATIENCE, |_| {})? {
            Outcome::Acked { .. } => Ok(()),
            other => bail!("expected an acknowledgement, found {other:?}"),
        }
    }
}

impl Pair for Embedded {
    fn stream(&mut self, load: &Load, next: &mut dyn FnMut() -> Option<Range<u64>>) -> Result<()> {
        let mut ahead = next();
        while let Some(numbers) = ahead {
            fill(&mut self.batch, load, numbers)?;
            ahead = next();
            let last = ahead.is_none();
            self.append_batch(if last { Ack::Applied(1) } else { Ack::Durable })?;
        }
        Ok(())
    }

    fn append(&mut self, key: &Key, value: &[u8; VALUE_BYTES], level: Level) -> Result<()> {
        self.batch.clear();
        self.batch.push(&Record::put(key, value))?;
        self.append_batch(match level {
            Level::Alone => Ack::Durable,
            Level::Copied => Ack::Replicated(1),
            Level::Shown => Ack::Applied(1),
        })
    }
}

struct Served {
    client: Client,
    body: Vec<u8>,
    _servers: [Server; 2],
}

impl Served {
    fn push(&mut self, key: &Key, value: &[u8; VALUE_BYTES]) {
        self.body.extend_from_slice(b"{\"op\":\"put\",\"key_b64\":\"");
        base64(key, &mut self.body);
        self.body.extend_from_slice(b"\",\"value_b64\":\"");
        base64(value, &mut self.body);
        self.body.extend_from_slice(b"\"}\n");
    }

    fn post(&mut self, level: &str) -> Result<()> {
        let path = format!("/v1/records?level={level}&timeout=60s");
        let reply = self.client.post(&path, &[], &self.body, PATIENCE)?.ok()?;
        let said: Value = reply.json()?;
        ensure!(said["level"] == level, "expected level {level}, found {said}");
        self.body.clear();
        Ok(())
    }
}

impl Pair for Served {
    fn stream(&mut self, load: &Load, next: &mut dyn FnMut() -> Option<Range<u64>>) -> Result<()> {
        let mut ahead = next();
        while let Some(numbers) = ahead {
            for n in numbers {
                let (key, value) = load.upsert(n);
                self.push(&key, &value);
            }
            ahead = next();
            self.post(if ahead.is_none() { "applied" } else { "durable" })?;
        }
        Ok(())
    }

    fn append(&mut self, key: &Key, value: &[u8; VALUE_BYTES], level: Level) -> Result<()> {
        self.push(key, value);
        self.post(match level {
            Level::Alone => "durable",
            Level::Copied => "replicated",
            Level::Shown => "applied",
        })
    }
}

struct Files {
    log: Log,
    shown: Receiver<Offset>,
    _follower: Server,
    batch: Batch,
}

impl Files {
    fn wait_for(&mut self, end: Offset) -> Result<()> {
        while self.shown.recv_timeout(PATIENCE).context("wait for the follower")? < end {}
        Ok(())
    }
}

/// What a follower has applied and durable, as it prints it.
pub fn tell_applied(follower: &mut Server) -> Result<Receiver<Offset>> {
    let (tell, told) = channel();
    let lines = BufReader::new(follower.stdout().context("its output")?).lines();
    let hear = move || {
        for line in lines.map_while(Result::ok) {
            let said = serde_json::from_str::<Value>(&line).unwrap_or_default();
            let applied = said["applied_offset"].as_u64();
            // Nobody listens once the pair is dropped.
            if applied.is_none_or(|applied| tell.send(Offset(applied)).is_err()) {
                break;
            }
        }
    };
    std::thread::Builder::new().name("shown".into()).spawn(hear)?;
    Ok(told)
}

impl Pair for Files {
    fn stream(&mut self, load: &Load, next: &mut dyn FnMut() -> Option<Range<u64>>) -> Result<()> {
        while let Some(numbers) = next() {
            fill(&mut self.batch, load, numbers)?;
            self.log.append_batch(&self.batch)?;
        }
        self.wait_for(self.log.durable_end())
    }

    /// A directory acknowledges nothing: what is copied is known once it is shown.
    fn append(&mut self, key: &Key, value: &[u8; VALUE_BYTES], level: Level) -> Result<()> {
        let appended = self.log.append(&Record::put(key, value))?;
        match level {
            Level::Alone => Ok(()),
            Level::Copied | Level::Shown => self.wait_for(Offset(appended.last.0 + 1)),
        }
    }
}

/// Standard base64, of what the envelopes of a node hold.
fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for three in bytes.chunks(3) {
        let at = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize];
            out.push(if i > three.len() { b'=' } else { digit });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded_to_four_digits() {
        let of = |bytes: &[u8]| {
            let mut out = Vec::new();
            base64(bytes, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            [of(b"f"), of(b"fo"), of(b"foo"), of(b"foob")],
            ["Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]
        );
    }
}
