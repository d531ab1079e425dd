//! Apply stopped at a point: everything arrives, nothing at or behind the point is in the table.

use tidelog::ship::Http;
use tidelog::table::PauseAt;
use tidelog::{Follower, Log, Offset, Table};

use super::*;

fn follow(copy: &Path, url: &str, at: Option<PauseAt>) -> Follower {
    let source = Http::open(url, Credentials::default()).unwrap();
    let table = Table::options().pause_at(at);
    Follower::open_with(Log::options(), table, copy, source).unwrap()
}

fn put(leader: &Leader, values: &[&str]) {
    let mut batch = Batch::new();
    for value in values {
        batch.push(&Record::put(b"gate", value.as_bytes())).unwrap();
    }
    leader.server().log().append_batch(&batch).unwrap();
}

fn gate(table: &Table) -> String {
    String::from_utf8(table.get(b"gate").unwrap().unwrap().value.to_vec()).unwrap()
}

#[test]
fn a_paused_copy_holds_everything_and_applies_to_the_point_over_restarts() {
    let mut leader = Leader::new();
    put(&leader, &["a"]);
    put(&leader, &["b", "c"]);
    put(&leader, &["d"]);
    let (url, copy) = (leader.server().url().to_owned(), leader.path("copy"));
    let at = Some(PauseAt::Offset(Offset(2)));
    for round in 0..3 {
        let mut follower = follow(&copy, &url, at);
        let progress = follower.catch_up().unwrap();
        let end = leader.server().log().end();
        // The batch that reaches over the point is left out whole.
        assert_eq!((progress.to, progress.applied), (end, Offset(1)), "round {round}");
        assert_eq!(gate(follower.table()), "a");
        let shown = follower.gauge().read();
        assert_eq!((shown.pause_at, shown.paused), (at, true));
        assert_eq!(shown.report.durable.offset, end, "it acknowledges what it holds");
        follower.close().unwrap();
        put(&leader, &["e"]);
    }
    // Without its source it goes no further either.
    leader.stop();
    let follower = follow(&copy, &url, at);
    assert_eq!(gate(follower.table()), "a");
    follower.close().unwrap();
    leader.start(options().listen(url["http://".len()..].parse().unwrap()));
    // Further, then to the end, while it is open.
    let mut follower = follow(&copy, &url, at);
    let pause = follower.pause();
    pause.set(PauseAt::Offset(Offset(3)));
    follower.catch_up().unwrap();
    assert_eq!((gate(follower.table()), follower.gauge().read().paused), ("c".into(), true));
    pause.resume();
    let progress = follower.catch_up().unwrap();
    assert_eq!((progress.applied, pause.at()), (progress.to, None));
    assert_eq!(gate(follower.table()), "e");
    follower.close().unwrap();
    same(&leader, &copy);
    // What has been passed holds nothing up, and is told.
    let mut follower = follow(&copy, &url, at);
    assert!(follower.report().findings[0].contains("has passed it"), "{:?}", follower.report());
    put(&leader, &["f"]);
    follower.catch_up().unwrap();
    assert_eq!((gate(follower.table()), follower.gauge().read().paused), ("f".into(), false));
}

#[test]
fn a_time_stops_apply_before_the_first_record_that_is_as_new() {
    let leader = Leader::new();
    let at = |time: i64, value: &str| {
        let record = Record::put(b"gate", value.as_bytes()).at(time);
        leader.server().log().append(&record).unwrap();
    };
    at(100, "a");
    let url = leader.server().url().to_owned();
    let mut follower = follow(&leader.path("copy"), &url, Some(PauseAt::Time(250)));
    assert_eq!(follower.catch_up().unwrap().applied, Offset(1));
    assert!(!follower.gauge().read().paused, "the next record may be older");
    at(200, "b");
    at(300, "c");
    at(210, "d");
    assert_eq!(follower.catch_up().unwrap().applied, Offset(2));
    assert!(follower.gauge().read().paused);
    assert_eq!(gate(follower.table()), "b");
    // A delay beside it still holds.
    let source = Http::open(&url, Credentials::default()).unwrap();
    let table = Table::options().pause_at(Some(PauseAt::Time(250))).apply_delay(LONG);
    let dir = leader.path("delayed");
    let mut delayed = Follower::open_with(Log::options(), table, dir, source).unwrap();
    assert_eq!(delayed.catch_up().unwrap().applied, Offset(0));
}

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn a_running_node_is_paused_and_resumed_and_shows_it() {
    let leader = Leader::new();
    put(&leader, &["a"]);
    let follower = follow(&leader.path("copy"), leader.server().url(), None);
    let node = options().name("copy".into()).bind().unwrap().follow(follower).unwrap();
    let asks = client(node.url());
    let status = || get(&asks, "/v1/status").1;
    until("it has caught up", || status()["applied"] == 1);
    let (code, answer) = post(&asks, "/v1/apply", r#"{"pause_at":"2"}"#);
    assert_eq!((code, &answer["pause_at"], &answer["was"]), (200, &"2".into(), &Value::Null));
    put(&leader, &["b"]);
    put(&leader, &["c"]);
    until("everything is there", || status()["durable"] == 3);
    until("it stands at the point", || status()["state"] == "paused");
    let shown = status();
    assert_eq!((&shown["applied"], &shown["pause_at"]), (&2.into(), &"2".into()), "{shown}");
    assert_eq!(shown["nodes"][0]["pause_at"], "2", "{shown}");
    assert_eq!(get(&asks, "/v1/table/gate").1["value"], "b");
    for wrong in ["{}", "x", r#"{"pause_at":"soon"}"#, r#"{"pause_at":"3","resume":true}"#] {
        assert_eq!(post(&asks, "/v1/apply", wrong).0, 400, "{wrong}");
    }
    assert_eq!(post(&asks, "/v1/apply", r#"{"pause_at":"1"}"#).0, 409, "passed already");
    assert_eq!(post(&leader.client(), "/v1/apply", r#"{"resume":true}"#).0, 409, "a leader");
    let (code, answer) = post(&asks, "/v1/apply", r#"{"resume":true}"#);
    assert_eq!((code, &answer["was"], &answer["pause_at"]), (200, &"2".into(), &Value::Null));
    until("it has gone on", || status()["applied"] == 3);
    assert_eq!(status()["state"], "following");
    assert!(status()["events"].to_string().contains("apply goes on"));
    node.stop().unwrap();
}

#[cfg(feature = "cli")]
#[test]
fn the_command_line_pauses_and_resumes() {
    use std::io::{BufRead, BufReader};
    let place = crate::cli::Place::new();
    place.ok("init log");
    place.expect(2, "serve log --pause-at 1 --listen 127.0.0.1:0");
    place.ok("append log gate open");
    place.ok("append log gate shut");
    let step = place.ok("follow copy --from log --pause-at 1 --once");
    let step: Value = serde_json::from_str(&step).unwrap();
    assert_eq!((&step["applied_offset"], &step["paused"]), (&1.into(), &true.into()), "{step}");
    let serve = "serve copy --follow log --pause-at 1 --listen 127.0.0.1:0";
    let mut child = place.command(serve).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    let url = line["listening"].as_str().unwrap();
    assert_eq!(place.ok(&format!("get {url} gate -o raw")), "open\n");
    let row: Value = serde_json::from_str(&place.ok(&format!("status {url}"))).unwrap();
    assert_eq!((&row["pause_at"], &row["applied"]), (&"1".into(), &1.into()), "{row}");
    place.ok(&format!("resume {url}"));
    until("it has gone on", || place.ok(&format!("get {url} gate -o raw")) == "shut\n");
    place.ok(&format!("pause {url} --at 2"));
    child.kill().unwrap();
    child.wait().unwrap();
}
