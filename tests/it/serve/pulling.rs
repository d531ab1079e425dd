//! Followers over HTTP: byte-identical through restarts, kills, and a network that lies.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use tidelog::replica::Progress;
use tidelog::ship::{Http, LeaderAt, Led, Report, Source};
use tidelog::{Follower, Id, Kind};

use super::*;
use crate::proxy::{Faults, Proxy};

fn follower(url: &str, dir: &Path) -> tidelog::Result<Follower> {
    let source = Http::open(url, Credentials::default()).unwrap().name("copy");
    Follower::open(Log::options(), dir, source)
}

/// Opens and catches up, again and again, until it holds everything.
fn heal(url: &str, dir: &Path) -> Progress {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let caught = follower(url, dir).and_then(|mut follower| {
            let progress = follower.catch_up()?;
            follower.close()?;
            Ok(progress)
        });
        match caught {
            Ok(progress) => return progress,
            Err(e) => {
                assert!(matches!(e.kind(), Kind::Io | Kind::NotFound), "{e}");
                assert!(Instant::now() < deadline, "{e}");
            }
        }
    }
}

#[test]
fn a_copy_over_http_is_byte_identical_at_every_stage_of_a_leaders_life() {
    let mut leader = Leader::new();
    let proxy = Proxy::new(leader.server().address());
    let steady = leader.path("steady");
    for round in 0..6 {
        match round {
            0 => {}
            1 => leader.append(1, 10),
            2 => leader.append(60, 3000),
            3 => leader.append(3, 300_000),
            _ => leader.append(20, 500),
        }
        if round % 2 == 1 {
            leader.stop();
            leader.start(options());
            proxy.lead_to(leader.server().address());
        }
        let mut follower = follower(&proxy.url(), &steady).unwrap();
        follower.catch_up().unwrap();
        assert_eq!(follower.lag(), tidelog::replica::Lag::default());
        follower.close().unwrap();
        same(&leader, &steady);
        heal(&proxy.url(), &leader.path(&format!("new {round}")));
        same(&leader, &leader.path(&format!("new {round}")));
    }
    // The leader knows what each has, without having been told otherwise than by fetches.
    let (_, status) = get(&leader.client(), "/v1/status");
    let rows = status["nodes"].as_array().unwrap()[1..].iter();
    // Not of those that it knows by their slots alone.
    let copies: Vec<&Value> = rows.filter(|row| row["state"] != "away").collect();
    assert!(copies.len() >= 2, "{status}");
    for copy in copies {
        assert_eq!(copy["durable"], leader.server().log().end().0, "{copy}");
        assert_eq!(copy["applied"], leader.server().log().end().0, "{copy}");
        assert_eq!((&copy["lag_records"], &copy["lag_bytes"]), (&0.into(), &0.into()));
    }
}

#[test]
fn a_running_follower_sees_appends_at_once_and_through_a_restart_of_its_leader() {
    let mut leader = Leader::new();
    let proxy = Proxy::new(leader.server().address());
    leader.append(5, 100);
    let stop = AtomicBool::new(false);
    let copy = leader.path("copy");
    let mut following = follower(&proxy.url(), &copy).unwrap();
    let (log, gauge) = (following.log(), following.gauge());
    std::thread::scope(|scope| {
        scope.spawn(|| following.run(&stop, |_| {}).unwrap());
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            leader.append(1, 100);
            let appended = Instant::now();
            until("the copy has it", || log.end() == leader.server().log().end());
            slowest = slowest.max(appended.elapsed());
        }
        // Woken, not polled: a poll would take a second.
        assert!(slowest < Duration::from_millis(900), "{slowest:?}");
        leader.stop();
        until("the follower notices", || gauge.read().trouble.is_some());
        leader.start(options());
        proxy.lead_to(leader.server().address());
        leader.append(3, 100);
        until("the copy has it", || log.end() == leader.server().log().end());
        until("all is well again", || gauge.read().trouble.is_none());
        stop.store(true, Ordering::Relaxed);
    });
    following.close().unwrap();
    same(&leader, &copy);
}

#[test]
fn a_connection_cut_at_any_byte_heals_and_nothing_is_fetched_twice_for_ever() {
    let mut leader = Leader::new();
    leader.append(40, 6000);
    let proxy = Proxy::new(leader.server().address());
    heal(&proxy.url(), &leader.path("whole"));
    let whole = proxy.passed();
    // In the head of an answer, in its parts, in blocks of segments.
    for cut in [1, 100, 400, 1500, 5000, whole / 3, whole / 2, whole - 1] {
        let copy = leader.path(&format!("cut at {cut}"));
        proxy.set(Faults { cut_after: Some(cut), ..Faults::default() });
        let broken = follower(&proxy.url(), &copy).and_then(|mut follower| follower.catch_up());
        assert!(broken.is_err() || cut >= whole / 3, "cut at {cut}");
        proxy.set(Faults::default());
        heal(&proxy.url(), &copy);
        same(&leader, &copy);
    }
}

#[test]
fn a_byte_altered_anywhere_is_refused_and_healed_by_trying_again() {
    let mut leader = Leader::new();
    leader.append(30, 4000);
    let proxy = Proxy::new(leader.server().address());
    heal(&proxy.url(), &leader.path("whole"));
    let whole = proxy.passed();
    let mut refused = 0;
    for i in 0..40 {
        let flip = whole * i / 40;
        let copy = leader.path(&format!("flip {i}"));
        proxy.set(Faults { flip_at: Some(flip), ..Faults::default() });
        if let Err(e) = follower(&proxy.url(), &copy).and_then(|mut f| f.catch_up()) {
            assert!(
                matches!(e.kind(), Kind::Io | Kind::NotFound | Kind::InvalidInput),
                "{flip}: {e}"
            );
            refused += 1;
        }
        // Whatever was kept, none of it is wrong.
        if let Ok(kept) = Log::options().read_only(true).open(&copy) {
            assert!(kept.end() <= leader.server().log().end());
            let report = tidelog::log::verify(&copy, tidelog::log::Level::Full).unwrap();
            assert!(report.problems.is_empty(), "flip at {flip}: {:?}", report.problems);
        }
        proxy.set(Faults::default());
        heal(&proxy.url(), &copy);
        same(&leader, &copy);
    }
    assert!(refused >= 10, "{refused} of 40 flips were noticed; most bytes carry frames");
}

#[test]
fn a_slow_and_a_silent_network_end_in_errors_that_pass() {
    let mut leader = Leader::new();
    leader.append(5, 100);
    let proxy = Proxy::new(leader.server().address());
    let copy = leader.path("copy");
    proxy.set(Faults { delay: Duration::from_millis(20), ..Faults::default() });
    heal(&proxy.url(), &copy);
    same(&leader, &copy);
    // Nobody listens there any more.
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let error = follower(&gone, &leader.path("none")).unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.advice().unwrap().contains("serve"), "{error}");
}

#[test]
fn a_killed_follower_goes_on_where_it_was() {
    let mut leader = Leader::new();
    leader.append(200, 6000);
    let copy = leader.path("copy");
    let url = leader.server().url().to_owned();
    let mut kills = 0;
    for i in 0..200 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidelog"))
            .args(["follow", copy.to_str().unwrap(), "--from", &url, "--once"])
            .args(["--limit-bytes-per-s", "20MB"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Each life is a little longer.
        let deadline = Instant::now() + Duration::from_millis(8 * (i + 1));
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() > deadline {
                break None;
            }
            std::thread::yield_now();
        };
        match ended {
            Some(status) => {
                assert!(status.success(), "{status}");
                break;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
            }
        }
    }
    assert!(kills > 0, "it was never killed");
    same(&leader, &copy);
}

#[test]
fn a_follower_that_serves_is_a_source_and_a_circle_is_refused() {
    let mut leader = Leader::new();
    leader.append(30, 3000);
    let serve = |source: &str, name: &str, dir: &Path| {
        let bound = options().name(name.into()).bind().unwrap();
        let source = Http::open(source, Credentials::default()).unwrap().name(name);
        let follower =
            Follower::open(Log::options(), dir, source.address(Some(bound.url()))).unwrap();
        bound.follow(follower).unwrap()
    };
    let first = serve(leader.server().url(), "first", &leader.path("first"));
    let second = serve(first.url(), "second", &leader.path("second"));
    leader.append(30, 3000);
    let end = leader.server().log().end();
    until("it comes through", || {
        second.log().end() == end && second.table().applied().is_some_and(|p| p.offset == end)
    });
    // Writes go to the leader, over two hops.
    let reply = client(second.url()).post("/v1/records?level=durable", &[], b"{}", NOW).unwrap();
    assert_eq!(reply.status, 307);
    let leads = format!("{}/v1/records?level=durable", leader.server().url());
    assert_eq!(reply.header("location"), Some(leads.as_str()));
    // The first may not pull from the second: that would be a circle.
    let (first_url, second_url) = (first.url().to_owned(), second.url().to_owned());
    first.stop().unwrap();
    let source = Http::open(&second_url, Credentials::default()).unwrap();
    let mut circle = Follower::open(Log::options(), leader.path("first"), source).unwrap();
    let error = circle.catch_up().unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidInput);
    assert!(error.to_string().contains("circles"), "{error}");
    assert_ne!(first_url, second_url);
    drop(circle);
    // Where a cluster says whom to follow this passes: the other one is about to lead, and to follow nobody.
    let at = LeaderAt::default();
    at.set(Some(second_url));
    let led = Led::new(at, |url| Ok(Box::new(Http::open(url, Credentials::default())?)));
    let mut circle = Follower::open(Log::options(), leader.path("first"), led).unwrap();
    let error = circle.catch_up().unwrap_err();
    assert_eq!(error.kind(), Kind::NotLeader, "{error}");
    drop(circle);
    second.stop().unwrap();
    same(&leader, &leader.path("second"));
}

#[test]
fn another_log_a_later_epoch_and_a_node_itself_are_refused_in_words() {
    let mut leader = Leader::new();
    leader.append(3, 100);
    let copy = leader.path("copy");
    heal(leader.server().url(), &copy);
    let other = Leader::new();
    let error = follower(other.server().url(), &copy).and_then(|mut f| f.catch_up()).unwrap_err();
    assert_eq!(error.kind(), Kind::WrongLog, "{error}");
    let mut source = Http::open(leader.server().url(), Credentials::default()).unwrap();
    let node = Some(leader.server().log().node());
    let mut report = Report { node, ..Report::default() };
    assert_eq!(source.look(&report).unwrap_err().kind(), Kind::InvalidInput);
    let epoch = leader.server().log().durable_position().epoch;
    report.node = Some(Id([9; 16]));
    report.log = Some(leader.server().log().id());
    report.promise = Some(tidelog::Epoch { number: epoch.number + 1, nonce: 5 });
    assert_eq!(source.look(&report).unwrap_err().kind(), Kind::NotLeader);
    // What a stranger claims to have is only compared, never trusted.
    report.promise = None;
    report.durable.log_byte = tidelog::LogByte(u64::MAX);
    report.last = Some(tidelog::ship::LastFrame {
        growing: Some(tidelog::LogByte(0)),
        start: tidelog::LogByte(u64::MAX),
        fingerprint: tidelog::Fingerprint { head_crc: 1, body_crc: 2 },
    });
    source.look(&report).unwrap();
    report.last = Some(tidelog::ship::LastFrame {
        growing: Some(tidelog::LogByte(0)),
        start: tidelog::LogByte(0),
        fingerprint: tidelog::Fingerprint { head_crc: 1, body_crc: 2 },
    });
    let error = source.look(&report).unwrap_err();
    assert_eq!(error.kind(), Kind::Diverged);
    assert!(error.to_string().contains("nothing was changed"), "{error}");
}

/// Fetches that the leader has answered.
fn fetches(leader: &Leader) -> u64 {
    let text = leader.client().get("/metrics", &[], NOW).unwrap().bytes(1 << 20).unwrap();
    let text = String::from_utf8(text).unwrap();
    let count = text.lines().find_map(|line| line.strip_prefix("tidelog_fetch_seconds_count "));
    count.unwrap().parse().unwrap()
}

#[test]
fn who_is_told_to_stop_does_not_wait_for_the_answer_it_is_reading() {
    let mut leader = Leader::new();
    leader.append(40, 8000);
    let told = std::sync::Arc::new(AtomicBool::new(false));
    let stop = std::sync::Arc::clone(&told);
    // Even the least that is asked for at a time takes more than a minute.
    let source = Http::open(leader.server().url(), Credentials::default())
        .unwrap()
        .limit_bytes_per_s(Some(1000))
        .stop_when(move || stop.load(Ordering::Relaxed));
    let copy = leader.path("copy");
    let slow = std::thread::spawn(move || Follower::open(Log::options(), &copy, source));
    until("it is asked", || fetches(&leader) > 0);
    std::thread::park_timeout(Duration::from_millis(200));
    assert!(!slow.is_finished(), "the first answer is still being read");
    let since = Instant::now();
    told.store(true, Ordering::Relaxed);
    let error = slow.join().unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Io, "{error}");
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[cfg(feature = "cli")]
#[test]
fn a_throttled_follower_ends_soon_after_a_polite_kill() {
    let place = crate::cli::Place::new();
    let mut leader = Leader::new();
    let url = leader.server().url().to_owned();
    place.ok(&format!("follow copy --from {url} --once"));
    leader.append(40, 8000);
    for verb in [
        "follow copy --once --from",
        "follow copy --from",
        "serve copy --listen 127.0.0.1:0 --follow",
    ] {
        let line = format!("{verb} {url} --limit-bytes-per-s 1000");
        let before = fetches(&leader);
        let mut child = place.command(&line).stdout(Stdio::null()).spawn().unwrap();
        // The answer is on its way, and will not be whole for a minute.
        until("it pulls", || fetches(&leader) > before);
        std::thread::park_timeout(Duration::from_millis(300));
        assert!(child.try_wait().unwrap().is_none(), "{verb}");
        let told = Instant::now();
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        until("it has ended", || child.try_wait().unwrap().is_some());
        assert!(told.elapsed() < Duration::from_secs(5), "{verb}: {:?}", told.elapsed());
        let code = child.wait().unwrap().code();
        assert_eq!(code, Some(if verb.starts_with("serve") { 0 } else { 130 }), "{verb}");
    }
}
