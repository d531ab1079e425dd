//! Who says when to try to lead: a real etcd, a real S3 server alone, a directory alone.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tidelog::fs::Os;
use tidelog::replica::coordinator::{CoordinatorOptions, open};

use crate::child;
use crate::fence::weed::{self, Weed};

/// How long etcd may take to start.
const LONGEST: Duration = Duration::from_secs(60);

/// A kind of coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// etcd, with an archive in a directory beside it.
    Etcd,
    /// An S3 bucket, which is the archive, too.
    S3,
    /// A directory, which is the archive, too.
    Directory,
}

/// What nodes of one cluster are told.
pub struct Place {
    /// The coordinator, when it is asked at this address; and what stands in the environment then.
    pub coordinator: String,
    pub archive: String,
    pub env: Vec<(String, String)>,
}

/// The servers of a run, shared by its clusters.
pub struct Seats {
    etcd: Option<Etcd>,
    weed: Option<Weed>,
    /// Clusters so far: each has a place of its own.
    next: AtomicU64,
}

impl Seats {
    /// Starts what there is here; what is missing, and why.
    pub fn start(place: &Path) -> (Self, Vec<String>) {
        let mut missing = Vec::new();
        let etcd = Etcd::start(&place.join("etcd")).map_err(|why| missing.push(why)).ok();
        let weed = weed::start(place).map_err(|why| missing.push(why)).ok();
        (Seats { etcd, weed, next: AtomicU64::new(1) }, missing)
    }

    /// The kinds that can be had.
    pub fn kinds(&self) -> Vec<Kind> {
        let etcd = self.etcd.as_ref().map(|_| Kind::Etcd);
        let store = if self.weed.is_some() { Kind::S3 } else { Kind::Directory };
        etcd.into_iter().chain([store, Kind::Directory]).collect()
    }

    /// A number that no other cluster of this run has.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Relaxed)
    }

    /// Where the server of that kind listens, where there is one.
    pub fn server(&self, kind: Kind) -> Option<SocketAddr> {
        match kind {
            Kind::Etcd => Some(SocketAddr::from(([127, 0, 0, 1], self.etcd.as_ref()?.port))),
            Kind::S3 => Some(self.weed.as_ref()?.address()),
            Kind::Directory => None,
        }
    }

    /// What a node of the cluster of this number is told that reaches the server through `by`.
    pub fn place(&self, kind: Kind, number: u64, by: Option<SocketAddr>, dir: &Path) -> Place {
        let shelf = format!("file://{}", dir.join("shelf").display());
        let by = by.map(|by| by.to_string()).unwrap_or_default();
        match kind {
            Kind::Etcd => Place {
                coordinator: format!("etcd://{by}/cluster{number}"),
                archive: shelf,
                env: Vec::new(),
            },
            Kind::S3 => {
                let url = format!("s3://tide/cluster{number}");
                let endpoint = format!("http://{by}");
                let env = self.weed.as_ref().map(|weed| weed.settings(Some(&endpoint)));
                Place { coordinator: url.clone(), archive: url, env: env.unwrap_or_default() }
            }
            Kind::Directory => {
                Place { coordinator: shelf.clone(), archive: shelf, env: Vec::new() }
            }
        }
    }
}

/// The server; dropping it kills it.
struct Etcd {
    child: Child,
    port: u16,
}

impl Etcd {
    fn start(dir: &Path) -> Result<Self, String> {
        let binary = installed("etcd")
            .ok_or("etcd: none here; `apt-get install -y etcd-server` brings it")?;
        let (port, peer) = (free_port()?, free_port()?);
        let url = |port| format!("http://127.0.0.1:{port}");
        let child = child::dies_with_us(&binary)
            .arg("--data-dir")
            .arg(dir)
            .args(["--listen-client-urls", &url(port), "--advertise-client-urls", &url(port)])
            .args(["--listen-peer-urls", &url(peer)])
            .args(["--initial-advertise-peer-urls", &url(peer)])
            .args(["--initial-cluster", &format!("default={}", url(peer))])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("etcd: {} does not start: {e}", binary.display()))?;
        let mut etcd = Etcd { child, port };
        let started = Instant::now();
        loop {
            let url = format!("etcd://127.0.0.1:{port}/up");
            let looked = open(&url, CoordinatorOptions::default(), Os::shared())
                .and_then(|mut coordinator| coordinator.look());
            if looked.is_ok() {
                return Ok(etcd);
            }
            if let Ok(Some(status)) = etcd.child.try_wait() {
                return Err(format!("etcd ended at once: {status}"));
            }
            if started.elapsed() > LONGEST {
                return Err(format!("etcd did not answer within {LONGEST:?}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
}

fn free_port() -> Result<u16, String> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    free.map(|address| address.port()).map_err(|e| format!("etcd: no port: {e}"))
}
