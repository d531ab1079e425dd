//! `demo --failover`: three nodes, each a process of its own, of which the leader is killed while records come in.
//!
//! Who leads is decided by a store in a directory, which is their archive, too; what is acknowledged is on two disks.
//! Everything it says is measured or checked.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidelog::Batch;
use tidelog::client::{AppendOptions, Cluster};
use tidelog::ship::{Client, Credentials};
use tidelog::text::OwnedRecord;

use super::{BATCH, PATIENCE, Story, absolute, hold, millis, rate, sample};
use crate::exit::{Failure, Outcome};
use crate::output::count;

/// A dead leader keeps its seat so long.
const LEASE: &str = "2s";
const NODES: usize = 3;
const LOOK: Duration = Duration::from_millis(20);

/// A node in a process of its own; dropping it kills that.
struct Node {
    dir: PathBuf,
    child: Child,
    url: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    fn start(dir: &Path, name: &str, shelf: &str) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(|e| Failure::io("find this program", &e))?;
        let log = dir.join(format!("{name}.log"));
        let said = File::options().create(true).append(true).open(&log);
        let said = said.map_err(|e| Failure::io(&format!("open {}", log.display()), &e))?;
        let dir = dir.join(name);
        let mut command = Command::new(program);
        command.arg("serve").arg(&dir).args(["--create", "--listen", "127.0.0.1:0"]);
        command.args(["--coordinator", shelf, "--archive", shelf, "--archive-interval", "1s"]);
        command.args(["--lease", LEASE, "--coordinator-timeout", "500ms"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said);
        let child = command.spawn().map_err(|e| Failure::io("start a node", &e))?;
        Ok(Node { dir, child, url: String::new() })
    }

    /// Waits until it serves, and learns where.
    fn listens(&mut self) -> Outcome {
        let stdout = self.child.stdout.take().expect("it was piped");
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        read.map_err(|e| Failure::io("hear of a node", &e))?;
        let said: Value = serde_json::from_str(&line).unwrap_or_default();
        let Some(url) = said["listening"].as_str() else {
            let log = self.dir.with_extension("log");
            return Err(Failure::no(format!("a node did not start: see {}", log.display())));
        };
        self.url = url.to_owned();
        Ok(())
    }

    fn ask(&self, path: &str) -> tidelog::Result<Value> {
        client(&self.url)?.get(path, &[], Duration::ZERO)?.ok()?.json()
    }

    fn stop(mut self) -> Outcome {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let ended = self.child.wait().map_err(|e| Failure::io("wait for a node", &e))?;
        hold(ended.success(), || format!("the node in {} ended with {ended}", self.dir.display()))
    }
}

fn client(url: &str) -> tidelog::Result<Client> {
    Ok(Client::new(url, Credentials::default())?.silence(Duration::from_secs(2)))
}

/// Which of them leads, once one does.
fn leader(nodes: &[Node]) -> Result<usize, Failure> {
    let started = Instant::now();
    loop {
        let leads = |node: &Node| node.ask("/v1/status").is_ok_and(|is| is["role"] == "leader");
        if let Some(found) = nodes.iter().position(leads) {
            return Ok(found);
        }
        hold(started.elapsed() < PATIENCE, || "nobody leads".into())?;
        std::thread::sleep(LOOK);
    }
}

/// Appends, and waits for each batch's acknowledgement, whoever gives it.
fn append(cluster: &mut Cluster, records: &[OwnedRecord]) -> Result<String, Failure> {
    let started = Instant::now();
    let how = AppendOptions::default().timeout(PATIENCE);
    let mut batch = Batch::new();
    for chunk in records.chunks(BATCH) {
        batch.clear();
        for record in chunk {
            batch.push(&record.as_record())?;
        }
        cluster.append(&batch, &how).acked()?;
    }
    Ok(rate(records.len() as u64, started))
}

/// Tells the story in `dir`, which is empty.
pub(super) fn run(dir: &Path) -> Outcome {
    let dir = absolute(dir)?;
    let shelf = format!("file://{}", dir.join("shelf").display());
    let records = sample()?;
    let (first, second) = records.split_at(records.len() / 2);
    let mut story = Story { started: Instant::now() };

    story.part("Three nodes, and nobody says who leads")?;
    let start = |n| Node::start(&dir, &format!("node{n}"), &shelf);
    let mut nodes = (1..=NODES).map(start).collect::<Result<Vec<Node>, Failure>>()?;
    for node in &mut nodes {
        node.listens()?;
    }
    let led = leader(&nodes)?;
    story.tell(&format!("node{} leads; the store in {shelf} decided", led + 1))?;
    let ids = nodes.iter().map(|node| Ok(node.ask("/v1/status")?["node"].clone()));
    let ids = ids.collect::<tidelog::Result<Vec<Value>>>()?;
    let body = json!({ "mode": "sync:k=1", "add": ids }).to_string();
    let headers = [("content-type", "application/json")];
    let path = format!("/v1/members?timeout={}s", PATIENCE.as_secs());
    client(&nodes[led].url)?.post(&path, &headers, body.as_bytes(), PATIENCE)?.ok()?;
    story.tell("sync(1): nothing counts as done on one disk alone")?;

    story.part("Records come in, and the leader is killed")?;
    let urls: Vec<String> = nodes.iter().map(|node| node.url.clone()).collect();
    let mut cluster = Cluster::new(urls.iter().map(String::as_str), Credentials::default())?;
    let rate = append(&mut cluster, first)?;
    story.tell(&format!("{} acknowledged: {rate}", count(first.len(), "report")))?;
    let killed = Instant::now();
    nodes[led].child.kill().map_err(|e| Failure::io("kill the leader", &e))?;
    story.tell(&format!("node{}: killed, without a word to anybody", led + 1))?;
    let (one, rest) = second.split_at(1);
    append(&mut cluster, one)?;
    story.tell(&format!("the next record is acknowledged {} later", millis(killed)))?;
    drop(nodes.remove(led));
    let next = leader(&nodes)?;
    let epoch = nodes[next].ask("/v1/status")?["epoch"].clone();
    story.tell(&format!("{} leads, by epoch {epoch}", name(&nodes[next])))?;
    let rate = append(&mut cluster, rest)?;
    story.tell(&format!("{} more: {rate}", count(rest.len(), "report")))?;

    story.part("The old leader comes back")?;
    let mut back = Node::start(&dir, &format!("node{}", led + 1), &shelf)?;
    back.listens()?;
    nodes.push(back);
    let started = Instant::now();
    let all = records.len() as u64;
    loop {
        let there = nodes.iter().filter(|node| {
            node.ask("/v1/hash").is_ok_and(|hash| hash["offset"].as_u64() >= Some(all))
        });
        if there.count() == NODES {
            break;
        }
        hold(started.elapsed() < PATIENCE, || "not all of them came to the end".into())?;
        std::thread::sleep(LOOK);
    }
    let role = nodes[NODES - 1].ask("/v1/status")?["role"].clone();
    hold(role == "follower", || format!("expected the old leader to follow, found it is {role}"))?;
    story.tell(&format!("node{}: follows, and has everything", led + 1))?;
    let hashes = nodes.iter().map(|node| node.ask("/v1/hash"));
    let hashes = hashes.collect::<tidelog::Result<Vec<Value>>>()?;
    let same = hashes.iter().all(|hash| hash["digest"] == hashes[0]["digest"]);
    hold(same, || format!("the tables differ: {hashes:?}"))?;
    let end = hashes[0]["offset"].as_u64().unwrap_or(0);
    hold(end == all, || format!("{all} records were acknowledged, the log has {end}"))?;
    story.tell(&format!(
        "of {} acknowledged 0 are lost, 0 there twice; all three tables have the digest {:.16}…",
        count(records.len(), "record"),
        hashes[0]["digest"].as_str().unwrap_or_default()
    ))?;
    for node in nodes {
        node.stop()?;
    }
    next_steps(&dir, &shelf)
}

fn name(node: &Node) -> String {
    node.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn next_steps(dir: &Path, shelf: &str) -> Outcome {
    let dir = dir.display();
    let tidelog = std::env::args().next().unwrap_or_else(|| "tidelog".to_owned());
    writeln!(
        anstream::stdout(),
        "\n\x1b[1mGo on from here\x1b[0m
  {tidelog} info {dir}/node1
  {tidelog} diverged list {dir}/node1
  {tidelog} verify {dir}/node2
  {tidelog} archive list {dir}/shelf
  {tidelog} serve {dir}/node1 --listen 127.0.0.1:7401 --coordinator {shelf}"
    )?;
    Ok(())
}
