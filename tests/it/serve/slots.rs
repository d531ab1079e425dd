//! Retention slots with real nodes: who is away holds its segments, up to the cap.

use tidelog::log::{Claim, MIN_SEGMENT_BYTES, Retained, Retention, SlotLimits, SlotState};
use tidelog::server::Keep;
use tidelog::ship::Http;
use tidelog::table::Beginning;
use tidelog::{Follower, Id, Kind, Log};

use super::*;
use crate::cli::Place;

const CAP: u64 = 8 * MIN_SEGMENT_BYTES;

fn limits() -> SlotLimits {
    SlotLimits { bytes: Some(CAP), disk_percent: 100, ..SlotLimits::default() }
}

fn drop_old(leader: &Leader) -> Retained {
    let log = leader.server().log();
    let policy =
        Retention { keep_bytes: Some(1), table_is_only_copy: true, ..Retention::default() };
    leader.server().table().checkpoint().unwrap();
    log.retain(&policy).unwrap()
}

fn slot(leader: &Leader) -> SlotState {
    leader.server().log().slots().unwrap()[0].state
}

#[test]
fn a_follower_that_is_away_holds_its_segments_to_the_cap_and_comes_back_through_an_archive() {
    let place = Place::new();
    let mut leader = Leader::new();
    leader.stop();
    leader.start(options().slots(limits()));
    let copy = leader.path("copy");
    let pull = |leader: &Leader| {
        let source = Http::open(leader.server().url(), Credentials::default()).unwrap();
        let log_alone = Table::options().begin(Beginning::Log);
        Follower::open_with(Log::options(), log_alone, &copy, source)
    };
    leader.append(40, 1000);
    let mut follower = pull(&leader).unwrap();
    follower.catch_up().unwrap();
    assert_eq!(slot(&leader), SlotState::Reserved);
    let node = follower.log().node();
    follower.close().unwrap();

    // It is away while more and more is written, and dropped: what it needs stays.
    let at = leader.server().log().slots().unwrap()[0].claim.needs;
    let mut held = 0;
    while leader.server().log().slots().unwrap()[0].held_bytes <= CAP - 2 * MIN_SEGMENT_BYTES {
        leader.append(20, 2000);
        drop_old(&leader);
        let first = leader.server().log().segments()[0].base;
        assert!(first <= at, "{first} {at}");
        held += 1;
    }
    assert!(held > 2);
    until("the slot is what holds the log", || {
        drop_old(&leader).held_by.is_some_and(|holder| holder.slot == Some(node))
    });
    assert_eq!(slot(&leader), SlotState::Extended);
    let (_, status) = get(&leader.client(), "/v1/status");
    assert_eq!(status["nodes"][1]["slot"], "extended", "{status}");
    assert!(status["nodes"][1]["slot_bytes_left"].as_u64().unwrap() < CAP);

    // The leader's restart forgets nobody, and the command line shows the same.
    leader.stop();
    let row = |out: String| serde_json::from_str::<Value>(&out).unwrap();
    let dir = leader.path("leader").display().to_string();
    let listed = row(place.ok(&format!("slots list {dir}")));
    assert_eq!((&listed["node"], &listed["state"]), (&node.to_string().into(), &"extended".into()));
    place.ok(&format!("archive push {dir} --to shelf"));
    leader.start(options().slots(limits()));
    let (_, status) = get(&leader.client(), "/v1/status");
    assert_eq!(status["slots"][0]["node"], node.to_string(), "{status}");
    // Nor does it show nothing: whoever has not come back yet is told, with how far it is.
    let away = &status["nodes"][1];
    assert_eq!((&away["state"], &away["slot"]), (&"away".into(), &"extended".into()), "{status}");
    assert_eq!((&away["node"], &away["applied"]), (&node.to_string().into(), &Value::Null));
    let durable = leader.server().log().durable_end().0;
    assert_eq!(away["lag_records"], durable - away["durable"].as_u64().unwrap(), "{status}");
    assert!(away["lag_records"].as_u64().unwrap() > 0, "{status}");
    until("its lag grows", || {
        let (_, status) = get(&leader.client(), "/v1/status");
        status["nodes"][1]["lag_seconds"].as_f64().unwrap() > 0.0
    });
    assert!(away["last_contact_seconds"].as_f64().unwrap() > 0.0, "{status}");
    let text = leader.client().get("/metrics", &[], NOW).unwrap().bytes(1 << 20).unwrap();
    let metric = format!("tidelog_lag_records{{node=\"{node}\"");
    assert!(String::from_utf8(text).unwrap().contains(&metric), "{metric}");

    // Beyond the cap nothing is held for it.
    leader.append(200, 2000);
    assert_eq!(slot(&leader), SlotState::Unreserved);
    let dropped = drop_old(&leader);
    assert!(dropped.held_by.is_none_or(|holder| holder.slot.is_none()));
    assert!(leader.server().log().segments()[0].base > at);
    assert_eq!(slot(&leader), SlotState::Lost);

    // From the leader alone it cannot go on; nothing is thrown away.
    let mut follower = pull(&leader).unwrap();
    let error = follower.catch_up().unwrap_err();
    assert_eq!(error.kind(), Kind::Gone, "{error}");
    follower.close().unwrap();
    assert_eq!(slot(&leader), SlotState::Lost);

    // The archive has it, and then the leader is followed again.
    let url = leader.server().url().to_owned();
    leader.stop();
    place.ok(&format!("archive push {dir} --to shelf"));
    leader.start(options().slots(limits()).listen(url["http://".len()..].parse().unwrap()));
    let follow = format!("follow {} --from {url} --from shelf --once", copy.display());
    place.ok(&follow);
    same_end(&leader, &copy);
    assert_eq!(slot(&leader), SlotState::Reserved);
    let (_, status) = get(&leader.client(), "/v1/status");
    assert_eq!(status["nodes"][1]["state"], "following", "{status}");
    assert_eq!(status["nodes"].as_array().unwrap().len(), 2, "{status}");
    assert!(drop_old(&leader).held_by.is_none_or(|holder| holder.slot.is_none()));
}

fn same_end(leader: &Leader, copy: &Path) {
    let log = Log::options().read_only(true).open(copy).unwrap();
    assert_eq!(log.end(), leader.server().log().end());
}

#[test]
fn a_node_drops_what_it_is_not_told_to_keep_and_slots_are_dropped_by_name() {
    let place = Place::new();
    let mut leader = Leader::new();
    leader.append(20, 1000);
    let copy = leader.path("copy");
    let url = leader.server().url().to_owned();
    let source = Http::open(&url, Credentials::default()).unwrap();
    let mut follower = Follower::open(Log::options(), &copy, source).unwrap();
    follower.catch_up().unwrap();
    let node = follower.log().node().to_string();
    follower.close().unwrap();
    leader.append(200, 2000);
    leader.server().log().cursor("mailer").unwrap().save(3.into()).unwrap();
    leader.stop();
    let keep = Keep { bytes: Some(1), table_is_only_copy: true, ..Keep::default() };
    leader.start(options().keep(keep));
    let url = leader.server().url().to_owned();

    let listed = place.ok(&format!("slots list {url}"));
    let rows: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&rows[0]["kind"], &rows[0]["node"]), (&"follower".into(), &node.clone().into()));
    assert_eq!((&rows[1]["kind"], &rows[1]["name"]), (&"cursor".into(), &"mailer".into()));
    assert_eq!(rows.len(), 2);

    // A plan first; then one after the other lets go.
    place.expect(1, &format!("slots drop {url} nobody --yes"));
    place.expect(1, &format!("slots drop {url} mailer --dry-run"));
    place.ok(&format!("slots drop {url} mailer --yes"));
    place.expect(1, &format!("slots drop {url} mailer --yes"));
    leader.server().table().checkpoint().unwrap();
    let base = || leader.server().log().segments()[0].base;
    let before = leader.server().log().slots().unwrap()[0].claim.needs;
    until("the slot alone holds the log", || slot(&leader) == SlotState::Extended);
    assert!(base() <= before);
    let plan = place.expect(1, &format!("slots drop {url} {node} --dry-run"));
    assert_eq!(serde_json::from_str::<Value>(&plan).unwrap()["done"], false);
    place.ok(&format!("slots drop {url} {node}"));
    until("the node drops it", || base() > before);
    assert_eq!(place.ok(&format!("slots list {url}")), "");

    // In a directory the same; a node that serves it has the slots, cursors have their own lock.
    leader.server().log().cursor("other").unwrap().save(3.into()).unwrap();
    let dir = leader.path("leader").display().to_string();
    let reader = leader.server().log().cursor("other").unwrap();
    place.expect(5, &format!("slots drop {dir} other --yes"));
    drop(reader);
    place.ok(&format!("slots drop {dir} other --yes"));
    let position = leader.server().log().durable_position();
    let needs = position.log_byte;
    let node = Id([7; 16]);
    let claim = Claim { node, name: "edge".into(), position, needs };
    leader.server().log().claim(claim).unwrap();
    place.expect(5, &format!("slots drop {dir} edge --yes"));
    leader.stop();
    place.expect(1, &format!("slots drop {dir} {node} --dry-run"));
    place.ok(&format!("slots drop {dir} {node} --yes"));
    assert_eq!(place.ok(&format!("slots list {dir}")), "");
}
