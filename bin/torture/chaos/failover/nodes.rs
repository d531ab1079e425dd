//! Three nodes that elect, the ways to them, and what happens to whoever leads.
//!
//! ```text
//! clients ── door ──► node ◄── gate ── other nodes        each node has a door, a gate, and a way
//!                      └── way ──► coordinator
//! ```
//!
//! All of these are proxies: a leader can be cut off from the nodes and the coordinator and go on hearing
//! clients, or be cut off from everybody.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidelog::ship::{Client, Credentials};

use super::seat::{Kind, Seats};
use crate::chaos::cluster::Disk;
use crate::chaos::node::Node;
use crate::dice::Dice;
use crate::proxy::{Faults, Proxy};

/// Nodes of a cluster.
pub const NODES: usize = 3;
/// Whoever does not answer a question of the schedule by then is asked again.
const SILENCE: Duration = Duration::from_secs(2);
/// What people ask for may take a lease and the time to ask around.
const ORDER: Duration = Duration::from_secs(15);

/// What happens to whoever leads, so that somebody else has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// The process is killed; in the end it is started again.
    Kill,
    /// It stands still until after it was replaced, and then goes on: a zombie.
    Stop,
    /// Nobody reaches it, and it reaches no coordinator.
    Isolate,
    /// The same, but clients go on being heard.
    Minority,
    /// Its disk is full; it is killed.
    Fill,
    /// It is killed, and an operator promotes one of the others at once.
    Promote,
    /// An operator asks it to hand over.
    Switchover,
}

impl Turn {
    const ALL: [Turn; 10] = [
        Turn::Kill,
        Turn::Kill,
        Turn::Stop,
        Turn::Stop,
        Turn::Isolate,
        Turn::Minority,
        Turn::Minority,
        Turn::Fill,
        Turn::Promote,
        Turn::Switchover,
    ];

    /// One of them.
    pub fn choose(dice: &mut Dice) -> Self {
        dice.pick(&Turn::ALL)
    }

    /// What it is counted as.
    pub fn counted(self) -> &'static str {
        match self {
            Turn::Kill => "killed",
            Turn::Stop => "stopped",
            Turn::Isolate => "isolated",
            Turn::Minority => "in_minority",
            Turn::Fill => "disk_full",
            Turn::Promote => "promotions",
            Turn::Switchover => "switchovers",
        }
    }
}

/// Who leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leads {
    pub node: usize,
    pub epoch: u64,
}

/// The cluster.
pub struct Elected {
    pub nodes: Vec<Node>,
    doors: Vec<Proxy>,
    gates: Vec<Proxy>,
    ways: Vec<Option<Proxy>>,
    disks: Vec<Disk>,
}

impl Elected {
    /// Makes a log in the first node's directory, starts all, waits until one leads.
    pub fn start(place: &Path, binary: &Path, seats: &Seats, kind: Kind) -> Result<Self, String> {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let number = seats.number();
        let mut cluster = Elected {
            nodes: Vec::new(),
            doors: (0..NODES).map(|_| Proxy::new(nowhere)).collect(),
            gates: (0..NODES).map(|_| Proxy::new(nowhere)).collect(),
            ways: (0..NODES).map(|_| seats.server(kind).map(Proxy::new)).collect(),
            disks: Vec::new(),
        };
        for which in 0..NODES {
            let at = place.join(format!("disk-{which}"));
            std::fs::create_dir_all(&at).map_err(|e| format!("{}: {e}", at.display()))?;
            cluster.disks.push(Disk::mount(at));
            let dir = cluster.disks[which].at.join(format!("node{which}"));
            let way = cluster.ways[which].as_ref().map(Proxy::address);
            let told = seats.place(kind, number, way, place);
            let gate = cluster.gates[which].url();
            // A store takes longer than etcd, and this machine has other things to do.
            let (lease, request) = if kind == Kind::S3 { ("4s", "1s") } else { ("2s", "500ms") };
            let args = [
                ("--advertise", gate.as_str()),
                ("--coordinator", &told.coordinator),
                ("--archive", &told.archive),
                ("--archive-interval", "200ms"),
                ("--lease", lease),
                ("--coordinator-timeout", request),
                ("--failover-gap", "0s"),
                ("--max-loss", "1000000"),
            ];
            let args =
                args.iter().flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()]);
            let mut node = Node::new(binary, &format!("node{which}"), dir, args.collect());
            node.set_env(told.env);
            // Not on its small disk: what it says is held against what it does.
            node.stderr = place.join(format!("node{which}.stderr"));
            cluster.nodes.push(node);
        }
        let mut init = Command::new(binary);
        init.arg("init").arg(&cluster.nodes[0].dir).args(["--segment-bytes", "256KiB"]);
        let out = init.output().map_err(|e| format!("{}: {e}", binary.display()))?;
        if !out.status.success() {
            return Err(format!("init: {}", String::from_utf8_lossy(&out.stderr)));
        }
        for node in &mut cluster.nodes {
            node.start()?;
        }
        Ok(cluster)
    }

    /// Where clients find the nodes, and whose each address is.
    pub fn addresses(&self) -> (Vec<String>, BTreeMap<String, usize>) {
        let listed: Vec<String> = self.doors.iter().map(Proxy::url).collect();
        let gates = self.gates.iter().map(Proxy::url).enumerate();
        let doors = listed.iter().cloned().enumerate();
        let whose = gates.chain(doors).map(|(node, url)| (url, node)).collect();
        (listed, whose)
    }

    /// Why no disk can be filled here, if so.
    pub fn no_small_disks(&self) -> Option<&str> {
        self.disks.iter().find_map(|disk| disk.missing.as_deref())
    }

    /// Leads ways to where nodes listen now.
    pub fn tend(&mut self) {
        for (node, (door, gate)) in self.nodes.iter().zip(self.doors.iter().zip(&self.gates)) {
            let Some(said) = node.said() else { continue };
            for way in [door, gate] {
                if way.target() != said.address {
                    way.lead_to(said.address);
                }
            }
        }
    }

    /// Nodes that ended though nobody ended them; they are started again.
    pub fn ended(&mut self) -> Result<Vec<String>, String> {
        let mut ended = Vec::new();
        for node in &mut self.nodes {
            if let Some(how) = node.ended() {
                ended.push(how);
                node.start()?;
            }
        }
        Ok(ended)
    }

    /// What a node that acts says of itself, asked directly.
    pub fn status(&self, node: usize) -> Option<Value> {
        if !self.nodes[node].acts() {
            return None;
        }
        let client = self.client(node).ok()?;
        client.get("/v1/status", &[], Duration::ZERO).ok()?.ok().ok()?.json().ok()
    }

    /// Whoever leads by the newest epoch.
    pub fn leads(&self) -> Option<Leads> {
        let led = |node: usize| {
            let status = self.status(node)?;
            let epoch = status["epoch"].as_u64()?;
            (status["role"] == "leader").then_some(Leads { node, epoch })
        };
        (0..NODES).filter_map(led).max_by_key(|leads| leads.epoch)
    }

    fn client(&self, node: usize) -> Result<Client, String> {
        let name = &self.nodes[node].name;
        let said = self.nodes[node].said().ok_or_else(|| format!("{name} does not listen"))?;
        let client = Client::new(&format!("http://{}", said.address), Credentials::default());
        client.map(|client| client.silence(SILENCE)).map_err(|e| e.to_string())
    }

    /// Asks a node to do something; what it said.
    pub fn order(&self, node: usize, path: &str, body: &Value) -> Result<(u16, Value), String> {
        let client = self.client(node)?;
        let headers = [("content-type", "application/json")];
        let text = body.to_string();
        let reply =
            client.post(path, &headers, text.as_bytes(), ORDER).map_err(|e| e.to_string())?;
        let status = reply.status;
        let said = reply.bytes(1 << 20).map_err(|e| e.to_string())?;
        Ok((status, serde_json::from_slice(&said).unwrap_or_default()))
    }

    /// Lets whoever leads by this mode, with all nodes as members.
    pub fn set_mode(&mut self, mode: &str, longest: Duration) -> Result<(), String> {
        let deadline = Instant::now() + longest;
        let mut last = "nobody leads".to_owned();
        loop {
            self.tend();
            let members: Vec<String> =
                self.nodes.iter().filter_map(|node| Some(node.said()?.node)).collect();
            if members.len() == NODES
                && let Some(leads) = self.leads()
            {
                let body = json!({ "mode": mode, "add": members });
                match self.order(leads.node, "/v1/members?timeout=5s", &body) {
                    Ok((200, _)) => return Ok(()),
                    Ok((status, said)) => last = format!("{status} {said}"),
                    Err(e) => last = e,
                }
            }
            if Instant::now() > deadline {
                return Err(format!("the mode {mode} is not taken: {last}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Does it to the leader; whether somebody else has to lead now.
    pub fn act(&mut self, turn: Turn, leads: Leads, dice: &mut Dice) -> bool {
        let node = leads.node;
        let closed = Faults { closed: true, ..Faults::default() };
        match turn {
            Turn::Kill => self.nodes[node].kill(),
            Turn::Stop => self.nodes[node].pause(),
            Turn::Isolate | Turn::Minority => {
                self.gates[node].set(closed.clone());
                if turn == Turn::Isolate {
                    self.doors[node].set(closed.clone());
                }
                match &self.ways[node] {
                    Some(way) => way.set(closed),
                    // A directory cannot be cut off: who leads would go on for ever, hearing nobody.
                    None => {
                        std::thread::sleep(Duration::from_millis(dice.below(700)));
                        self.nodes[node].pause();
                    }
                }
            }
            Turn::Fill => {
                self.disks[node].fill();
                std::thread::sleep(Duration::from_millis(200 + dice.below(500)));
                self.nodes[node].kill();
            }
            Turn::Promote => {
                self.nodes[node].kill();
                let to = (node + 1 + usize::from(dice.chance(1, 2))) % NODES;
                let _ = self.order(to, "/v1/promote", &json!({ "accept_loss": true }));
            }
            Turn::Switchover => {
                let said = self.order(node, "/v1/switchover", &json!({}));
                return match said {
                    Ok((202, said)) => !self.was_refused(node, &said),
                    said => matches!(said, Ok((200, _))),
                };
            }
        }
        true
    }

    /// Whether a node that was still at it when it answered has refused in the end: it says so once it knows.
    fn was_refused(&self, node: usize, answer: &Value) -> bool {
        let until = Instant::now() + ORDER;
        while Instant::now() < until {
            let reply = self
                .client(node)
                .and_then(|client| {
                    client.get("/v1/failover", &[], Duration::ZERO).map_err(|e| e.to_string())
                })
                .and_then(|reply| reply.json::<Value>().map_err(|e| e.to_string()));
            // Who follows does not say any more how it came to that.
            match reply.map(|said| said["order"].clone()) {
                Ok(order) if order["number"] != answer["order"] => return false,
                Ok(order) if order["done"] == true => return false,
                Ok(order) if order["done"] == false => return true,
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        false
    }

    /// Undoes what was done to a node.
    pub fn heal(&mut self, node: usize) -> Result<(), String> {
        for way in [&self.doors[node], &self.gates[node]].into_iter().chain(&self.ways[node]) {
            way.set(Faults::default());
        }
        self.disks[node].empty();
        self.nodes[node].go_on();
        if !self.nodes[node].runs() {
            self.nodes[node].start()?;
        }
        self.tend();
        Ok(())
    }

    /// A way to a node is bad for a while: late, or losing answers.
    pub fn slow(&self, node: usize, dice: &mut Dice) {
        if dice.chance(1, 2) {
            let delay = Duration::from_millis(1 + dice.below(60));
            self.gates[node].set(Faults { delay, ..Faults::default() });
        } else {
            self.doors[node].lose(1 + dice.below(3));
        }
    }

    /// Why not everybody has what the leader has, and shows it; `None` when they do.
    pub fn behind(&self) -> Option<String> {
        let Some(leads) = self.leads() else { return Some("nobody leads".into()) };
        let Some(leader) = self.status(leads.node) else { return Some("no status".into()) };
        let end = leader["durable"].as_u64();
        (0..NODES).find_map(|node| {
            let name = &self.nodes[node].name;
            let Some(status) = self.status(node) else { return Some(format!("{name} is silent")) };
            let there = ["durable", "committed", "applied"].map(|what| status[what].as_u64());
            let follows = node == leads.node || status["role"] == "follower";
            (there != [end; 3] || !follows).then(|| {
                format!(
                    "{} leads in epoch {} and ends at {end:?}, {name} is at {there:?} ({}, {}, trouble {}, {})",
                    self.nodes[leads.node].name,
                    leads.epoch,
                    status["role"],
                    status["state"],
                    status["trouble"],
                    status["failover"]["why"]
                )
            })
        })
    }

    /// The directories, and what their nodes said, by node.
    pub fn dirs(&self) -> Vec<(PathBuf, PathBuf)> {
        self.nodes.iter().map(|node| (node.dir.clone(), node.stderr.clone())).collect()
    }
}
