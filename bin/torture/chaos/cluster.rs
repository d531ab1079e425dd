//! The nodes, the network between them, and what may happen to both.
//!
//! ```text
//! sessions ── proxy ──► leader ◄── proxy ── one       (member)
//!                          ▲  └─── proxy ── two       (member)
//!                          └ directory or archive ── three
//! ```
//!
//! Followers and sessions reach the leader through a proxy each. Who leads is a number, and everything
//! asks it: a promotion would be one more [`Action`], that changes it and leads the proxies there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;

use super::node::{Node, client};
use super::session::Board;
use crate::dice::Dice;
use crate::proxy::{Faults, Proxy};

/// What a small disk holds.
const DISK_BYTES: u64 = 96 << 20;
/// How long everybody may take to be where the leader is, once everything is healed.
const LONGEST: Duration = Duration::from_secs(40);

/// Something that happens to a node, a link or a disk, until it is healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The process is killed, and started again when it is healed.
    Kill(usize),
    /// The process stands still.
    Pause(usize),
    /// Connections end.
    Cut(usize),
    /// Connections of every member end: nobody can count as a copy.
    Isolate,
    /// Questions arrive and answers do not.
    OneWay(usize),
    /// Answers are late.
    Delay(usize),
    /// Answers break off.
    Truncate(usize),
    /// A bit of each answer is turned over. Followers' links alone: their protocol has checksums.
    Alter(usize),
    /// The answers to a few requests are lost.
    Lose(usize),
    /// The node's disk is full.
    Fill(usize),
}

/// How often each kind was done.
#[derive(Default)]
pub struct Done {
    pub kills: u64,
    pub pauses: u64,
    pub cuts: u64,
    pub one_way: u64,
    pub delays: u64,
    pub altered: u64,
    pub answers_lost: u64,
    pub disks_filled: u64,
    pub restarts: u64,
}

/// Everything that runs.
pub struct Cluster {
    pub nodes: Vec<Node>,
    /// Which of them leads.
    pub leads: usize,
    /// To the leader: of the sessions, and of each member.
    links: Vec<Proxy>,
    archive: PathBuf,
    disks: Vec<Disk>,
    pub done: Done,
}

impl Cluster {
    /// Makes a log, starts a leader of it and three followers.
    pub fn start(place: &Path, binary: &Path) -> Result<Self, String> {
        let archive = place.join("archive");
        let mut disks = Vec::new();
        for which in 0..2 {
            let at = place.join(format!("disk-{which}"));
            std::fs::create_dir_all(&at).map_err(|e| format!("{}: {e}", at.display()))?;
            disks.push(Disk::mount(at));
        }
        let leader = disks[0].at.join("leader");
        let mut init = Command::new(binary);
        init.arg("init").arg(&leader).args(["--segment-bytes", "256KiB"]);
        let out = init.output().map_err(|e| format!("{}: {e}", binary.display()))?;
        if !out.status.success() {
            return Err(format!("init: {}", String::from_utf8_lossy(&out.stderr)));
        }
        let of_archive = archive.display().to_string();
        let args = ["--archive", &of_archive, "--archive-interval", "200ms"];
        let mut leader = Node::new(binary, "leader", leader, args.map(str::to_owned).to_vec());
        leader.start()?;
        let address = leader.wait_up()?.address;
        let links: Vec<Proxy> = (0..3).map(|_| Proxy::new(address)).collect();
        let dirs = [disks[1].at.join("one"), place.join("two"), place.join("three")];
        let mut nodes = vec![leader];
        for (name, (dir, link)) in ["one", "two"].into_iter().zip(dirs.iter().zip(&links[1..])) {
            let args = vec!["--follow".to_owned(), link.url()];
            nodes.push(Node::new(binary, name, dir.clone(), args));
        }
        nodes.push(Node::new(binary, "three", dirs[2].clone(), Vec::new()));
        let mut cluster = Cluster { nodes, leads: 0, links, archive, disks, done: Done::default() };
        cluster.third_follows(false);
        for node in &mut cluster.nodes[1..] {
            node.start()?;
            node.wait_up()?;
        }
        Ok(cluster)
    }

    /// Where sessions send appends.
    pub fn sessions(&self) -> String {
        self.links[0].url()
    }

    /// The leader.
    pub fn leader(&self) -> &Node {
        &self.nodes[self.leads]
    }

    /// Why no disk can be filled here, if so.
    pub fn no_small_disks(&self) -> Option<&str> {
        self.disks.iter().find_map(|disk| disk.missing.as_deref())
    }

    /// Answered bytes, over all proxies.
    pub fn passed(&self) -> u64 {
        self.links.iter().map(Proxy::passed).sum()
    }

    /// What the third follower follows when it is started next: the archive, or the directory.
    pub fn third_follows(&mut self, archive: bool) {
        let from = if archive { self.archive.clone() } else { self.leader().dir.clone() };
        self.nodes[3].set_args(vec!["--follow".to_owned(), from.display().to_string()]);
    }

    /// Something to do.
    pub fn choose(&self, dice: &mut Dice) -> Action {
        let node = usize::try_from(dice.below(self.nodes.len() as u64)).expect("an index");
        // The leader's and the members' links are where most can go wrong.
        let link = usize::try_from(dice.below(self.links.len() as u64)).expect("an index");
        let follower = 1 + usize::try_from(dice.below(2)).expect("an index");
        match dice.below(16) {
            0..=2 => Action::Kill(node),
            3 => Action::Kill(self.leads),
            4 | 5 => Action::Pause(node),
            6 => Action::Cut(link),
            7 => Action::Isolate,
            8 => Action::OneWay(link),
            9 => Action::Delay(link),
            10 => Action::Truncate(link),
            11 => Action::Alter(follower),
            12 | 13 => Action::Lose(0),
            _ if self.no_small_disks().is_some() => Action::Kill(node),
            _ => Action::Fill(usize::try_from(dice.below(2)).expect("an index")),
        }
    }

    /// Does it.
    pub fn act(&mut self, action: Action, dice: &mut Dice) {
        let done = &mut self.done;
        let fault = |link: &Proxy, faults: Faults| link.set(faults);
        match action {
            Action::Kill(node) => {
                done.kills += u64::from(self.nodes[node].runs());
                self.nodes[node].kill();
            }
            Action::Pause(node) => {
                done.pauses += 1;
                self.nodes[node].pause();
            }
            Action::Cut(link) => {
                done.cuts += 1;
                fault(&self.links[link], Faults { cut_after: Some(0), ..Faults::default() });
            }
            Action::Isolate => {
                done.cuts += 2;
                for link in &self.links[1..] {
                    fault(link, Faults { cut_after: Some(0), ..Faults::default() });
                }
            }
            Action::OneWay(link) => {
                done.one_way += 1;
                fault(&self.links[link], Faults { one_way: true, ..Faults::default() });
            }
            Action::Delay(link) => {
                done.delays += 1;
                let delay = Duration::from_millis(1 + dice.below(150));
                fault(&self.links[link], Faults { delay, ..Faults::default() });
            }
            Action::Truncate(link) => {
                done.cuts += 1;
                let cut_after = Some(1 + dice.below(4000));
                fault(&self.links[link], Faults { cut_after, ..Faults::default() });
            }
            Action::Alter(link) => {
                done.altered += 1;
                let flip_at = Some(dice.below(4000));
                fault(&self.links[link], Faults { flip_at, ..Faults::default() });
            }
            Action::Lose(link) => {
                let answers = 1 + dice.below(4);
                done.answers_lost += answers;
                self.links[link].lose(answers);
            }
            Action::Fill(disk) => done.disks_filled += u64::from(self.disks[disk].fill()),
        }
    }

    /// Undoes it.
    pub fn heal(&mut self, action: Action, board: &Board) -> Result<(), String> {
        match action {
            Action::Kill(node) if !self.nodes[node].runs() => {
                self.done.restarts += 1;
                self.nodes[node].start()?;
                if node == self.leads {
                    self.nodes[node].wait_up()?;
                }
            }
            Action::Kill(_) => {}
            Action::Pause(node) => self.nodes[node].go_on(),
            Action::Lose(link) => self.links[link].lose(0),
            Action::Fill(disk) => self.disks[disk].empty(),
            Action::Isolate => self.links[1..].iter().for_each(|link| link.set(Faults::default())),
            Action::Cut(link)
            | Action::OneWay(link)
            | Action::Delay(link)
            | Action::Truncate(link)
            | Action::Alter(link) => self.links[link].set(Faults::default()),
        }
        self.show(board);
        Ok(())
    }

    /// Leads everybody to where nodes listen now.
    pub fn show(&self, board: &Board) {
        let mut nodes = board.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.clear();
        for node in &self.nodes {
            if let Some(said) = node.said() {
                nodes.push((node.name.clone(), format!("http://{}", said.address)));
            }
        }
        drop(nodes);
        if let Some(said) = self.leader().said() {
            for link in &self.links {
                if link.target() != said.address {
                    link.lead_to(said.address);
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

    /// Waits until every node listens.
    pub fn wait_up(&mut self) -> Result<(), String> {
        self.nodes.iter_mut().try_for_each(|node| node.wait_up().map(drop))
    }

    /// Rules by this mode, with both followers that have links as members.
    pub fn set_mode(&self, mode: &str) -> Result<(), String> {
        let members: Vec<String> =
            self.nodes[1..3].iter().filter_map(|node| Some(node.said()?.node)).collect();
        let body = json!({ "mode": mode, "add": members }).to_string();
        let said = self.leader().said().ok_or("the leader does not listen")?;
        let client = client(&format!("http://{}", said.address))?;
        let deadline = Instant::now() + LONGEST;
        loop {
            let wait = Duration::from_secs(5);
            let reply = client.post("/v1/members?timeout=5s", &[], body.as_bytes(), wait);
            let found = match reply {
                Ok(reply) if reply.status == 200 => return Ok(()),
                Ok(reply) => reply.error().to_string(),
                Err(e) => e.to_string(),
            };
            if Instant::now() > deadline {
                return Err(format!("the mode {mode} is not taken: {found}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until every follower has what the leader has, and shows it.
    pub fn level(&self) -> Result<(), String> {
        let deadline = Instant::now() + LONGEST;
        loop {
            let behind = self.behind();
            match behind {
                None => return Ok(()),
                Some(what) if Instant::now() > deadline => {
                    return Err(format!("{LONGEST:?} after everything was healed: {what}"));
                }
                Some(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn behind(&self) -> Option<String> {
        let leader = match self.leader().status() {
            Ok(status) => status,
            Err(e) => return Some(e),
        };
        let end = leader["durable"].as_u64();
        self.nodes.iter().find_map(|node| {
            let status = match node.status() {
                Ok(status) => status,
                Err(e) => return Some(e),
            };
            let there = ["durable", "committed", "applied"].map(|what| status[what].as_u64());
            (there != [end; 3]).then(|| {
                let (state, trouble) = (&status["state"], &status["trouble"]);
                format!(
                    "the leader ends at {end:?}, {} at {there:?} ({state}, {trouble})",
                    node.name
                )
            })
        })
    }
}

/// A small file system of its own for a node, that can be filled; where none may be mounted, an
/// ordinary directory that cannot.
pub struct Disk {
    pub at: PathBuf,
    pub missing: Option<String>,
}

impl Disk {
    pub fn mount(at: PathBuf) -> Self {
        let size = std::ffi::CString::new(format!("size={DISK_BYTES}")).expect("no zeros");
        let mounted = mount("tmpfs", &at, "tmpfs", MountFlags::empty(), Some(size.as_c_str()));
        let missing =
            mounted.err().map(|e| format!("no small disk to fill: cannot mount a tmpfs: {e}"));
        Disk { at, missing }
    }

    /// Fills it to the last byte; whether it is full.
    pub fn fill(&self) -> bool {
        use std::io::Write;
        if self.missing.is_some() {
            return false;
        }
        let Ok(mut ballast) = std::fs::File::create(self.at.join("ballast")) else { return false };
        let block = vec![0xAA; 64 << 10];
        while ballast.write_all(&block).is_ok() {}
        while ballast.write_all(&block[..512]).is_ok() {}
        true
    }

    pub fn empty(&self) {
        let _ = std::fs::remove_file(self.at.join("ballast"));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.missing.is_none() {
            let _ = unmount(&self.at, UnmountFlags::DETACH);
        }
    }
}
