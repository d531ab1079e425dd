//! Reads that say how old their data may be: refused rather than served from the past.

use tidelog::ship::{Directory, Http, Report, Source};
use tidelog::{Follower, Kind, Log, Table};

use super::*;

const LONG: Duration = Duration::from_secs(3600);

fn follow(copy: &Path, url: &str) -> Follower {
    let source = Http::open(url, Credentials::default()).unwrap();
    Follower::open(Log::options(), copy, source).unwrap()
}

fn serve(follower: Follower) -> Server {
    options().name("copy".into()).bind().unwrap().follow(follower).unwrap()
}

/// What a read that allows `most` comes to.
fn count(node: &Server, most: &str) -> (u16, Value) {
    get(&client(node.url()), &format!("/v1/count?max_staleness={most}"))
}

#[test]
fn a_follower_refuses_reads_that_ask_for_fresher_data_than_it_can_vouch_for() {
    let mut leader = Leader::new();
    leader.append(5, 100);
    let near = serve(follow(&leader.path("near"), leader.server().url()));
    let far = serve(follow(&leader.path("far"), near.url()));
    for node in [&near, &far] {
        until("it has caught up", || count(node, "10s").0 == 200);
        let (_, status) = get(&client(node.url()), "/v1/status");
        let age = status["nodes"][0]["staleness_seconds"].as_f64().unwrap();
        assert!(age < 10.0, "{status}");
    }
    // A leader's data is what there is, and nobody is held to what was not asked.
    assert_eq!(count(leader.server(), "0s").0, 200);
    assert_eq!(get(&leader.client(), "/v1/count?max_staleness=soon").0, 400);

    // With the leader away its follower grows old, and so does the one that pulls from that: the
    // node it pulls from answers, and says how old it is itself.
    leader.stop();
    for node in [&near, &far] {
        // Longer than an answer of the node itself is old at most.
        until("it is older than three seconds", || count(node, "3s").0 == 503);
        let (_, refused) = count(node, "500ms");
        assert_eq!(refused["error"]["kind"], "stale", "{refused}");
        assert!(refused["error"]["staleness_seconds"].as_f64().unwrap() > 0.5, "{refused}");
        assert!(refused["error"]["help"].as_str().unwrap().contains("leader"), "{refused}");
        let client = client(node.url());
        for path in [
            "/v1/table/key%200?",
            "/v1/table?limit=1&",
            "/v1/count?",
            "/v1/hash?",
            "/v1/history/key%200?",
            "/v1/records?",
        ] {
            assert_eq!(get(&client, &format!("{path}max_staleness=500ms")).0, 503, "{path}");
            assert_eq!(get(&client, &format!("{path}max_staleness=1h")).0, 200, "{path}");
            assert_eq!(get(&client, path.trim_end_matches(['?', '&'])).0, 200, "{path}");
        }
        let sql = |path: &str| post(&client, path, "SELECT count(*) AS n FROM kv").0;
        assert_eq!((sql("/v1/sql?max_staleness=500ms"), sql("/v1/sql")), (503, 200));
    }
    far.stop().unwrap();

    // Opened without its source it cannot know how old it is.
    let node = near.log().node();
    near.stop().unwrap();
    let alone = follow(&leader.path("near"), "http://127.0.0.1:1");
    assert_eq!(alone.node(), node);
    assert_eq!(alone.gauge().staleness(), None);
    let error = alone.table_within(LONG).unwrap_err();
    assert_eq!(error.kind(), Kind::Stale);
    assert!(error.to_string().contains("not answered yet"), "{error}");
    assert!(!alone.table().view().is_empty().unwrap(), "what it has can be read all the same");
}

#[test]
fn what_is_not_applied_counts_as_old_and_a_copys_directory_as_of_unknown_age() {
    let mut leader = Leader::new();
    leader.append(5, 100);
    let dir = |name: &str| Directory::open(leader.path(name)).unwrap();
    // A directory says what is durable a little later than the leader.
    let end = leader.server().log().end();
    until("its directory says so", || {
        dir("leader").look(&Report::default()).unwrap().durable_offset == end
    });
    let table = Table::options().apply_delay(LONG);
    let delayed = leader.path("delayed");
    let mut held = Follower::open_with(Log::options(), table, &delayed, dir("leader")).unwrap();
    held.catch_up().unwrap();
    let error = held.table_within(LONG).unwrap_err();
    assert!(error.to_string().contains("not applied yet"), "{error}");

    let mut copy = Follower::open(Log::options(), leader.path("copy"), dir("leader")).unwrap();
    copy.catch_up().unwrap();
    assert!(copy.table_within(LONG).unwrap().applied().is_some());
    let mut second = Follower::open(Log::options(), leader.path("second"), dir("copy")).unwrap();
    second.catch_up().unwrap();
    let error = second.table_within(LONG).unwrap_err();
    assert!(error.to_string().contains("does not say how old"), "{error}");
    // It is measured anew once more is there: not by what was applied, but by when that was all.
    let before = copy.gauge().staleness().unwrap();
    until("it is older", || copy.gauge().staleness().unwrap() > before);
    let since = Instant::now();
    copy.catch_up().unwrap();
    let tick = Duration::from_millis(20);
    assert!(copy.gauge().staleness().unwrap() < since.elapsed() + tick);
}

#[cfg(feature = "cli")]
#[test]
fn the_command_line_refuses_with_exit_1() {
    let place = crate::cli::Place::new();
    place.ok("init log");
    place.ok("append log gate open");
    place.ok("follow copy --from log --once");
    for verb in ["get DIR gate", "scan DIR", "count DIR", "history DIR gate"] {
        let line = |dir: &str| format!("{} --max-staleness 1h", verb.replace("DIR", dir));
        place.ok(&line("log"));
        let out = place.run(&line("copy"));
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{verb}: {said}");
        assert!(said.contains("unknown age"), "{verb}: {said}");
    }
    let copy = serve(
        Follower::open(
            Log::options(),
            place.path("copy"),
            Directory::open(place.path("log")).unwrap(),
        )
        .unwrap(),
    );
    let url = copy.url();
    until("it has looked", || count(&copy, "10s").0 == 200);
    assert_eq!(place.ok(&format!("get {url} gate -o raw --max-staleness 10s")), "open\n");
    let verbs = ["get URL gate", "scan URL", "count URL", "history URL gate"];
    for verb in verbs {
        place.ok(&format!("{} --max-staleness 10s", verb.replace("URL", url)));
    }
    std::fs::rename(place.path("log"), place.path("away")).unwrap();
    until("it grows old", || count(&copy, "100ms").0 == 503);
    for verb in verbs {
        place.expect(1, &format!("{} --max-staleness 100ms", verb.replace("URL", url)));
    }
    copy.stop().unwrap();
}
