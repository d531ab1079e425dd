//! Security rules of a node and of those who ask it: redirects, secrets, files, bombs, slow crowds.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tidelog::Kind;
use tidelog::ship::{Http, Report, Source};

use super::*;

const SECRET: &str = "0123456789-a-secret-nobody-may-see";

/// A server that gives everybody this answer, and counts who came.
fn fake(answer: Vec<u8>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let came = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&came);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            count.fetch_add(1, SeqCst);
            let mut asked = [0; 64 << 10];
            let _ = stream.read(&mut asked);
            let _ = stream.write_all(&answer);
        }
    });
    (address, came)
}

#[test]
fn no_redirect_is_followed_and_no_token_goes_elsewhere() {
    let (elsewhere, came) = fake(Vec::new());
    for status in ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let (node, asked) = fake(
            format!(
                "HTTP/1.1 {status}\r\nlocation: http://{elsewhere}/v1/records\r\n\
                 content-length: 0\r\nconnection: close\r\n\r\n"
            )
            .into_bytes(),
        );
        let url = format!("http://{node}");
        let credentials = || Credentials::default().token(SECRET);
        let client = Client::new(&url, credentials()).unwrap();
        let got = client.get("/v1/records", &[], NOW).unwrap();
        let posted = client.post("/v1/records", &[], b"{}", NOW).unwrap();
        assert!(got.status / 100 == 3 && posted.status / 100 == 3);
        // It is said where the other is; going there is for whoever asked to decide.
        let error = got.ok().unwrap_err();
        assert_eq!(error.kind(), Kind::NotLeader, "{error}");
        assert!(error.advice().unwrap().contains(&elsewhere.to_string()), "{error}");
        assert!(Http::open(&url, credentials()).unwrap().look(&Report::default()).is_err());
        assert!(asked.load(SeqCst) >= 3);
    }
    assert_eq!(came.load(SeqCst), 0, "somebody followed a redirect");
}

#[test]
fn what_unpacks_to_more_than_was_asked_for_is_refused() {
    // Two GiB of zeros in some hundred kilobytes.
    let mut packer = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..2048 {
        packer.write_all(&zeros).unwrap();
    }
    let bomb = packer.finish().unwrap();
    assert!(bomb.len() < 1 << 20, "{}", bomb.len());
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-encoding: zstd\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        bomb.len()
    )
    .into_bytes();
    answer.extend_from_slice(&bomb);
    let (node, _) = fake(answer);
    let mut source = Http::open(&format!("http://{node}"), Credentials::default()).unwrap();
    let error = source.look(&Report::default()).unwrap_err();
    assert!(error.to_string().contains("at most"), "{error}");
}

#[test]
fn a_token_is_shown_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("tokens", &format!("admin {SECRET}\n"));
    write("token", &format!("{SECRET}\n"));
    write("bad tokens", &format!("emperor {SECRET}\n"));
    write("wrong", &format!("{SECRET}-wrong\n"));
    let tidelog = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidelog"));
        command.args(args).current_dir(dir.path()).env("XDG_CONFIG_HOME", dir.path());
        command.env("TIDELOG_TOKEN", SECRET).env("RUST_LOG", "trace").env("RUST_BACKTRACE", "1");
        command
    };
    let mut said = String::new();
    let mut hear = |out: std::process::Output| {
        said.push_str(&String::from_utf8_lossy(&out.stdout));
        said.push_str(&String::from_utf8_lossy(&out.stderr));
        out.status.code()
    };
    let args = ["serve", "log", "--create", "--listen", "127.0.0.1:0", "--token-file", "tokens"];
    let mut node = tidelog(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(node.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let url = serde_json::from_str::<Value>(&line).unwrap()["listening"].clone();
    let url = url.as_str().unwrap().to_owned();
    for (code, args) in [
        (0, &["status", &url, "--token-file", "token"][..]),
        (0, &["count", &url]),
        (3, &["status", "http://127.0.0.1:1"]),
        (
            2,
            &[
                "serve",
                "other",
                "--create",
                "--listen",
                "127.0.0.1:0",
                "--token-file",
                "bad tokens",
            ],
        ),
    ] {
        let found = hear(tidelog(args).stdin(Stdio::null()).output().unwrap());
        assert_eq!(found, Some(code), "{args:?}");
    }
    let refused = hear(tidelog(&["status", &url, "--token-file", "wrong"]).output().unwrap());
    assert_ne!(refused, Some(0));
    let client = Client::new(&url, Credentials::default().token(SECRET)).unwrap();
    for path in ["/v1/status", "/metrics", "/v1/records", "/", "/v1/nothing"] {
        let body = client.get(path, &[], NOW).unwrap().bytes(1 << 20).unwrap();
        said.push_str(&String::from_utf8_lossy(&body));
    }
    let pid = node.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    node.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
    assert!(node.wait().unwrap().success());
    said.push_str(&rest);
    assert!(said.len() > 500, "{said}");
    assert!(!said.contains(SECRET), "a token was shown: {said}");
    // Nor does anything of it lie in the log's directory.
    for (path, _) in modes(&dir.path().join("log")) {
        let bytes = std::fs::read(&path).unwrap_or_default();
        let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        assert!(!found, "{}", path.display());
    }
}

/// Everything below a directory, itself included, with its permissions.
fn modes(path: &Path) -> Vec<(PathBuf, u32)> {
    let mode = std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    let mut found = vec![(path.to_owned(), mode)];
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            found.extend(modes(&entry.unwrap().path()));
        }
    }
    found
}

#[test]
fn files_are_their_owners_alone_whatever_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    let line = "a line of some length to fill segments with\n".repeat(4000);
    std::fs::write(dir.path().join("lines"), line).unwrap();
    for args in [
        "init log --segment-bytes 64KiB",
        "ingest log lines --input lines --batch 100",
        "append log k v",
        "tail log -n 1 --cursor reader",
        "archive push log --to shelf",
        "snapshot create log --to snapshots",
        "follow copy --from log --once",
        "restore again --from snapshots",
    ] {
        let binary = env!("CARGO_BIN_EXE_tidelog");
        let script = format!("umask 0; exec {binary} {args}");
        let out =
            Command::new("sh").args(["-c", &script]).current_dir(dir.path()).output().unwrap();
        assert!(out.status.success(), "{args}: {}", String::from_utf8_lossy(&out.stderr));
    }
    let mut seen = 0;
    for made in ["log", "shelf", "snapshots", "copy", "again"] {
        for (path, mode) in modes(&dir.path().join(made)) {
            let expected = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode, expected, "{} is {mode:o}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen} files");
}

/// Room for a thousand connections, both ends of which are in this process.
fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[test]
fn a_thousand_slow_clients_leave_appends_going() {
    raise_descriptors();
    let mut leader = Leader::new();
    leader.append(100, 20_000);
    let slow: Vec<TcpStream> = (0..1000)
        .map(|i| {
            let mut stream = TcpStream::connect(leader.server().address()).unwrap();
            // Some do not read what they asked for, some never end their request.
            let request: &[u8] = match i % 3 {
                0 => b"GET /v1/records?limit=100000 HTTP/1.1\r\nhost: x\r\n\r\n",
                1 => b"GET /v1/records HTTP/1.1\r\nhost: x\r\nx-slow",
                _ => b"POST /v1/records HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{",
            };
            stream.write_all(request).unwrap();
            stream
        })
        .collect();
    let client = leader.client();
    for i in 0..100 {
        let body = format!("{{\"op\":\"put\",\"key\":\"k\",\"value\":\"{i}\"}}\n");
        let (status, answer) = post(&client, "/v1/records?timeout=20s", &body);
        assert_eq!(status, 200, "append {i}: {answer}");
    }
    drop(slow);
    assert_eq!(get(&client, "/v1/table/k").0, 200);
}

#[test]
fn connections_beyond_the_limit_wait_until_others_end() {
    let mut leader = Leader::new();
    leader.stop();
    leader.start(options().connections(20));
    let ask = |stream: &mut TcpStream| {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    };
    let connect = || TcpStream::connect(leader.server().address()).unwrap();
    let mut answer = [0; 12];
    let mut holders: Vec<TcpStream> = (0..20).map(|_| connect()).collect();
    for holder in &mut holders {
        ask(holder);
        holder.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
    let mut late = connect();
    ask(&mut late);
    late.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(late.read(&mut answer).is_err(), "a connection beyond the limit was served");
    holders.pop();
    late.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    late.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}
