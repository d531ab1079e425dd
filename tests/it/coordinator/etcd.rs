//! etcd itself: started on free ports where it is installed, killed, put back from a backup.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tidelog::fs::Os;
use tidelog::replica::coordinator::{Coordinator, CoordinatorOptions, open};
use tidelog::{Epoch, Kind, LogByte};

use super::{Cluster, World, claim, conforms, held, is_lost, wait_out, won};

const TTL: Duration = Duration::from_secs(2);

/// The server; SIGKILL is what stops it.
pub(crate) struct Etcd {
    child: Child,
    pub(crate) port: u16,
    dir: PathBuf,
    next: AtomicU64,
}

/// Whether etcd is here; otherwise it is said that the test is skipped.
pub(crate) fn is_here() -> bool {
    let runs = |program: &str, asked: &str| {
        Command::new(program).arg(asked).output().is_ok_and(|out| out.status.success())
    };
    let here = runs("etcd", "--version") && runs("etcdctl", "version");
    if !here {
        eprintln!("skipped: no etcd here; `apt-get install -y etcd-server etcd-client` brings it");
    }
    here
}

fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Etcd {
    pub(crate) fn start(dir: &Path) -> Self {
        loop {
            let (port, peer) = (port(), port());
            let url = |port| format!("http://127.0.0.1:{port}");
            let log = std::fs::File::create(dir.with_extension("log")).unwrap();
            let child = Command::new("etcd")
                .arg("--data-dir")
                .arg(dir)
                .args(["--listen-client-urls", &url(port), "--advertise-client-urls", &url(port)])
                .args(["--listen-peer-urls", &url(peer)])
                .args(["--initial-advertise-peer-urls", &url(peer)])
                .args(["--initial-cluster", &format!("default={}", url(peer))])
                .args(["--heartbeat-interval", "20", "--election-timeout", "200"])
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap();
            let mut etcd = Etcd { child, port, dir: dir.to_owned(), next: AtomicU64::new(0) };
            let started = Instant::now();
            loop {
                if etcd.node("up", |_| {}).look().is_ok() {
                    return etcd;
                }
                // Somebody was quicker with one of the ports.
                if etcd.child.try_wait().unwrap().is_some() {
                    break;
                }
                assert!(started.elapsed() < Duration::from_secs(60), "etcd does not come up");
                std::thread::park_timeout(Duration::from_millis(50));
            }
        }
    }

    fn node(
        &self,
        prefix: &str,
        how: impl FnOnce(&mut CoordinatorOptions),
    ) -> Box<dyn Coordinator> {
        at(&format!("127.0.0.1:{}", self.port), prefix, how)
    }

    fn ctl(&self, args: &[&str]) {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint]).args(args);
        let out = command.stdin(Stdio::null()).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn at(
    endpoints: &str,
    prefix: &str,
    how: impl FnOnce(&mut CoordinatorOptions),
) -> Box<dyn Coordinator> {
    let mut options = CoordinatorOptions {
        ttl: TTL,
        request: Duration::from_millis(500),
        ..CoordinatorOptions::default()
    };
    how(&mut options);
    open(&format!("etcd://{endpoints}/{prefix}"), options, Os::shared()).unwrap()
}

struct One {
    port: u16,
    prefix: String,
}

impl World for Etcd {
    fn cluster(&self) -> Box<dyn Cluster> {
        let prefix = format!("tests/{}", self.next.fetch_add(1, SeqCst));
        Box::new(One { port: self.port, prefix })
    }
}

impl Cluster for One {
    fn node(&self, _: u8) -> Box<dyn Coordinator> {
        // A machine with little to spare is given time: what is tested here is no time-out.
        at(&format!("127.0.0.1:{}", self.port), &self.prefix, |_| {})
    }

    /// etcd ends leases by its own clock, which takes a moment longer.
    fn pass(&self, time: Duration) {
        std::thread::sleep(match time < TTL {
            true => time,
            false => time + Duration::from_millis(1500),
        });
    }
}

#[test]
fn etcd_conforms() {
    if !is_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    conforms(&Etcd::start(&dir.path().join("data")));
}

/// Stands between a node and etcd, and loses the answer of one request, counted from now.
struct Lossy {
    port: u16,
    countdown: Arc<AtomicI64>,
    requests: Arc<AtomicU64>,
}

impl Lossy {
    fn before(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (countdown, requests) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicU64::new(0)));
        let (lose, count) = (countdown.clone(), requests.clone());
        // It ends with the process: nothing of it is left behind but idle threads.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (lose, count) = (lose.clone(), count.clone());
                std::thread::spawn(move || {
                    let server = TcpStream::connect(("127.0.0.1", target)).unwrap();
                    let mut from = BufReader::new(client.try_clone().unwrap());
                    let mut back = BufReader::new(server.try_clone().unwrap());
                    while let Some(request) = message(&mut from) {
                        count.fetch_add(1, SeqCst);
                        (&server).write_all(&request).unwrap();
                        let Some(reply) = message(&mut back) else { return };
                        if lose.fetch_sub(1, SeqCst) == 1 || (&client).write_all(&reply).is_err() {
                            let _ = client.shutdown(std::net::Shutdown::Both);
                            return;
                        }
                    }
                });
            }
        });
        Lossy { port, countdown, requests }
    }

    /// The answer of the `nth` request from now on, from 1, is lost.
    fn lose(&self, nth: i64) {
        self.countdown.store(nth, SeqCst);
    }
}

/// A request or an answer with its length.
fn message(from: &mut impl BufRead) -> Option<Vec<u8>> {
    let (mut head, mut length, mut chunked) = (Vec::new(), 0, false);
    loop {
        let at = head.len();
        if from.read_until(b'\n', &mut head).ok()? == 0 {
            return None;
        }
        let line = String::from_utf8_lossy(&head[at..]).to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        chunked |= line.starts_with("transfer-encoding:");
        if line.trim().is_empty() {
            break;
        }
    }
    if chunked {
        // Up to the empty line behind the last chunk and its trailers.
        let mut last = false;
        loop {
            let at = head.len();
            from.read_until(b'\n', &mut head).ok()?;
            let line = String::from_utf8_lossy(&head[at..]).trim().to_owned();
            last |= line == "0";
            if last && line.is_empty() {
                return Some(head);
            }
        }
    }
    let at = head.len();
    head.resize(at + length, 0);
    from.read_exact(&mut head[at..]).ok()?;
    Some(head)
}

#[test]
fn a_lost_answer_of_etcd_is_found_out_by_asking_again_or_at_another_endpoint() {
    if !is_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&dir.path().join("data"));
    let lossy = Lossy::before(etcd.port);
    let through = format!("127.0.0.1:{}", lossy.port);
    let mut seen = (0, 0);
    for nth in 1..=4 {
        let prefix = format!("lost/{nth}");
        let mut a = at(&through, &prefix, |_| {});
        let mine = claim(1, 10, 0);
        lossy.lose(nth);
        let first = a.take(&mine);
        seen.0 += usize::from(first.is_err());
        match first {
            Err(error) => {
                assert_eq!(error.kind(), Kind::Io, "{error}");
                assert!(error.advice().is_some_and(|help| help.contains("Ask again")), "{error}");
                lossy.lose(0);
                assert_eq!(won(a.take(&mine).unwrap()), Epoch { number: 1, nonce: 10 });
            }
            Ok(take) => assert_eq!(won(take).number, 1),
        }
        for nth in 1..=2 {
            lossy.lose(nth);
            assert_eq!(a.renew().unwrap_err().kind(), Kind::Io, "nothing is known of the seat");
            lossy.lose(0);
            assert!(!is_lost(&a.renew().unwrap()));
        }
        lossy.lose(1);
        assert_eq!(a.degrade(Some(LogByte(3))).unwrap_err().kind(), Kind::Io);
        a.degrade(Some(LogByte(3))).unwrap();
        let to = claim(2, 20, 0);
        lossy.lose(nth);
        if let Err(error) = a.hand_over(&to) {
            seen.1 += 1;
            assert_eq!(error.kind(), Kind::Io);
            lossy.lose(0);
            assert_eq!(won(a.hand_over(&to).unwrap()).number, 2);
        }
        lossy.lose(0);
        let seat = etcd.node(&prefix, |_| {}).look().unwrap();
        assert_eq!((seat.number, seat.holder.unwrap().epoch.nonce), (2, 20));
        let mut b = etcd.node(&prefix, |_| {});
        won(b.take(&to).unwrap());

        // Another endpoint is asked at once.
        let both = format!("{through},127.0.0.1:{}", etcd.port);
        let prefix = format!("both/{nth}");
        let mut c = at(&both, &prefix, |_| {});
        lossy.lose(nth);
        assert_eq!(won(c.take(&mine).unwrap()).number, 1, "the {nth}th answer lost");
        lossy.lose(0);
        assert!(!is_lost(&c.renew().unwrap()));
        assert_eq!(etcd.node(&prefix, |_| {}).look().unwrap().number, 1);
    }
    assert_eq!(seen, (3, 3), "every request of a take and of a hand-over was lost once");
}

#[test]
fn at_rest_a_look_at_etcd_is_one_request_and_a_renewal_two() {
    if !is_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&dir.path().join("data"));
    let lossy = Lossy::before(etcd.port);
    let mut a = at(&format!("127.0.0.1:{}", lossy.port), "rest", |_| {});
    a.look().unwrap();
    won(a.take(&claim(1, 10, 0)).unwrap());
    let before = lossy.requests.load(SeqCst);
    for _ in 0..5 {
        a.look().unwrap();
        a.renew().unwrap();
    }
    assert_eq!(lossy.requests.load(SeqCst) - before, 15);
}

#[test]
fn an_etcd_restored_from_yesterday_hands_out_nothing_old() {
    if !is_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&dir.path().join("data"));
    let mut a = etcd.node("old", |_| {});
    won(a.take(&claim(1, 10, 0)).unwrap());
    let backup = dir.path().join("backup").display().to_string();
    etcd.ctl(&["snapshot", "save", &backup]);
    for nonce in 11..15 {
        a.resign().unwrap();
        won(a.take(&claim(1, nonce, 0)).unwrap());
    }
    let restored = dir.path().join("restored");
    etcd.ctl(&["snapshot", "restore", &backup, "--data-dir", &restored.display().to_string()]);
    // The same address would be the usual thing; a new connection comes to the same.
    let port = etcd.port;
    drop(etcd);
    let etcd = Etcd::start(&restored);
    assert_ne!(etcd.port, port);
    let cluster = One { port: etcd.port, prefix: "old".into() };
    let mut b = cluster.node(2);
    assert_eq!(b.look().unwrap().number, 1, "yesterday's");
    assert_eq!(wait_out(&cluster, &mut *b).holder, None);
    assert_eq!(won(b.take(&claim(2, 20, 5)).unwrap()).number, 6);
    assert!(etcd.dir.exists());
}

#[test]
fn an_etcd_that_is_gone_is_an_error_in_time_and_one_of_several_is_enough() {
    if !is_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&dir.path().join("data"));
    // One that refuses, one that takes requests and never answers, and the right one.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = silent.local_addr().unwrap().port();
    let dead = port();
    let several = format!("127.0.0.1:{dead},127.0.0.1:{mute},127.0.0.1:{}", etcd.port);
    let mut a = at(&several, "gone", |_| {});
    won(a.take(&claim(1, 10, 0)).unwrap());
    // Once found, it is asked first.
    let started = Instant::now();
    assert!(!is_lost(&a.renew().unwrap()));
    assert!(started.elapsed() < Duration::from_millis(400), "{:?}", started.elapsed());
    held(etcd.node("gone", |_| {}).take(&claim(2, 20, 0)).unwrap());
    drop(etcd);
    let started = Instant::now();
    let error = a.renew().unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.to_string().contains("is etcd running there"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[test]
fn etcd_asks_who_it_is_and_what_is_no_etcd_is_told() {
    if !is_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&dir.path().join("data"));
    for args in [
        &["user", "add", "root:secret"][..],
        &["user", "add", "tide:wave"],
        &["user", "add", "other:wave"],
        &["role", "add", "tide"],
        &["role", "grant-permission", "tide", "readwrite", "mine/", "mine0"],
        &["user", "grant-role", "tide", "tide"],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        etcd.ctl(args);
    }
    let user = |name: &str, password: &str| {
        let user = Some((name.to_owned(), password.to_owned()));
        move |options: &mut CoordinatorOptions| options.user = user
    };
    let mut a = etcd.node("mine", user("tide", "wave"));
    won(a.take(&claim(1, 10, 0)).unwrap());
    assert!(!is_lost(&a.renew().unwrap()));
    a.degrade(Some(LogByte(1))).unwrap();
    for (mut refused, expected) in [
        (etcd.node("mine", |_| {}), "user"),
        (etcd.node("mine", user("tide", "storm")), "log in"),
        (etcd.node("mine", user("other", "wave")), "permission"),
        (etcd.node("yours", user("tide", "wave")), "permission"),
    ] {
        let error = refused.look().unwrap_err();
        assert!(matches!(error.kind(), Kind::Rejected | Kind::InvalidInput), "{error}");
        assert!(error.to_string().contains(expected) && error.advice().is_some(), "{error}");
        assert!(!error.to_string().contains("storm"), "{error}");
    }

    // Something else that speaks HTTP.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for answer in ["200 OK", "404 Not Found", "200 OK"] {
            let (mut client, _) = other.accept().unwrap();
            message(&mut BufReader::new(client.try_clone().unwrap())).unwrap();
            write!(client, "HTTP/1.1 {answer}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")
                .unwrap();
        }
    });
    let mut nobody = at(&format!("127.0.0.1:{port}"), "x", |_| {});
    for _ in 0..3 {
        let error = nobody.look().unwrap_err();
        assert!(error.to_string().contains("JSON gateway"), "{error}");
    }
    // A value that something else wrote under the prefix.
    etcd.ctl(&["--user", "root:secret", "put", "mine/sync", "what is this"]);
    let error = a.look().unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("mine/sync"), "{error}");
}
