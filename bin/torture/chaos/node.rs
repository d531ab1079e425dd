//! A node as a process: the real binary, started, killed, stopped for a while, started again.
//!
//! It listens wherever it may, so whoever asks looks up where that is. Invariant: nothing waits for a
//! node but [`Node::wait_up`], which gives up.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tidelog::ship::{Client, Credentials};

use crate::child;

/// How long a node may take to start.
const LONGEST: Duration = Duration::from_secs(30);

/// What a node said when it began to listen.
#[derive(Clone, Debug)]
pub struct Said {
    pub address: SocketAddr,
    pub node: String,
}

/// One node.
pub struct Node {
    pub name: String,
    pub dir: PathBuf,
    /// Where it says what happens.
    pub stderr: PathBuf,
    binary: PathBuf,
    /// Behind `serve DIR`.
    args: Vec<String>,
    /// In its environment.
    env: Vec<(String, String)>,
    child: Option<Child>,
    said: Arc<Mutex<Option<Said>>>,
    paused: bool,
}

impl Node {
    /// A node that does not run yet.
    pub fn new(binary: &Path, name: &str, dir: PathBuf, args: Vec<String>) -> Self {
        Node {
            name: name.to_owned(),
            stderr: dir.with_extension("stderr"),
            dir,
            binary: binary.to_owned(),
            args,
            env: Vec::new(),
            child: None,
            said: Arc::default(),
            paused: false,
        }
    }

    /// What it is started with from now on.
    pub fn set_args(&mut self, args: Vec<String>) {
        self.args = args;
    }

    /// What stands in its environment from now on.
    pub fn set_env(&mut self, env: Vec<(String, String)>) {
        self.env = env;
    }

    /// Starts it; does not wait until it listens.
    pub fn start(&mut self) -> Result<(), String> {
        let failed = |e| format!("{} does not start: {e}", self.name);
        let stderr = File::options().create(true).append(true).open(&self.stderr);
        let mut child = child::dies_with_us(&self.binary)
            .arg("serve")
            .arg(&self.dir)
            .args(["--listen", "127.0.0.1:0", "--name", &self.name])
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr.map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let stdout = child.stdout.take().expect("piped above");
        // Each life has its own: what a reader of the one before says late is of no meaning.
        let said = Arc::new(Mutex::new(None));
        self.said = Arc::clone(&said);
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            let address = line["listening"].as_str().and_then(|url| url.strip_prefix("http://"));
            let address = address.and_then(|address| address.parse().ok());
            if let (Some(address), Some(node)) = (address, line["node"].as_str()) {
                let node = node.to_owned();
                *said.lock().unwrap_or_else(PoisonError::into_inner) = Some(Said { address, node });
            }
        });
        self.child = Some(child);
        Ok(())
    }

    /// What it said, once it listens.
    pub fn said(&self) -> Option<Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it listens.
    pub fn wait_up(&mut self) -> Result<Said, String> {
        let deadline = Instant::now() + LONGEST;
        loop {
            if let Some(said) = self.said() {
                return Ok(said);
            }
            if let Some(ended) = self.ended() {
                return Err(ended);
            }
            if Instant::now() > deadline {
                return Err(format!("{} does not listen after {LONGEST:?}", self.name));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it was started, and neither killed nor stopped for a while.
    pub fn acts(&self) -> bool {
        self.child.is_some() && !self.paused
    }

    /// Whether it was started and not killed.
    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// What it said last, if it ended though nobody ended it.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        let said = std::fs::read_to_string(&self.stderr).unwrap_or_default();
        let said: Vec<&str> = said.lines().rev().take(4).collect();
        Some(format!("{} ended by itself ({status}): {said:?}", self.name))
    }

    /// Kills it as the kernel does: nothing is closed.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.paused = false;
    }

    /// Stops it in the midst of whatever it does.
    pub fn pause(&mut self) {
        self.paused = self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn go_on(&mut self) {
        if self.paused {
            self.signal(Signal::CONT);
            self.paused = false;
        }
    }

    /// Asks it to end, and waits.
    pub fn stop(&mut self) -> Result<(), String> {
        self.go_on();
        self.signal(Signal::TERM);
        let deadline = Instant::now() + LONGEST;
        while let Some(child) = &mut self.child {
            match child.try_wait().map_err(|e| e.to_string())? {
                Some(status) if status.success() => self.child = None,
                Some(_) => return Err(self.ended().unwrap_or_default()),
                None if Instant::now() > deadline => {
                    return Err(format!("{} does not end when it is asked to", self.name));
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) -> bool {
        self.child
            .as_ref()
            .is_some_and(|child| kill_process(Pid::from_child(child), signal).is_ok())
    }

    /// What it answers to a question.
    pub fn ask(&self, path: &str) -> Result<(u16, Vec<u8>), String> {
        let said = self.said().ok_or_else(|| format!("{} does not listen", self.name))?;
        let client = client(&format!("http://{}", said.address))?;
        let reply = client.get(path, &[], Duration::ZERO).map_err(|e| e.to_string())?;
        let status = reply.status;
        Ok((status, reply.bytes(256 << 20).map_err(|e| e.to_string())?))
    }

    /// Its status.
    pub fn status(&self) -> Result<Value, String> {
        let (_, body) = self.ask("/v1/status")?;
        serde_json::from_slice(&body).map_err(|e| format!("the status of {}: {e}", self.name))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A client of a node.
pub fn client(url: &str) -> Result<Client, String> {
    Client::new(url, Credentials::default()).map_err(|e| e.to_string())
}
