//! Followers that begin with a snapshot of a node that runs: over HTTP, through a bad link, when the
//! leader dies, when it has dropped what they need.

use tidelog::log::Retention;
use tidelog::ship::{Http, Source};
use tidelog::table::Beginning;
use tidelog::{Follower, Kind, Log, Offset};

use super::*;
use crate::proxy::{Faults, Proxy};

/// Drops all but the newest segment.
fn drop_old(leader: &Leader) {
    leader.server().table().checkpoint().unwrap();
    let policy =
        Retention { keep_bytes: Some(1), table_is_only_copy: true, ..Retention::default() };
    assert!(leader.server().log().retain(&policy).unwrap().start > Offset(0));
}

fn applied(leader: &Leader) {
    let end = leader.server().log().durable_end();
    until("the leader has applied it", || {
        leader.server().table().applied().is_some_and(|position| position.offset >= end)
    });
}

fn pull(url: &str, copy: &Path, begin: Beginning) -> tidelog::Result<Follower> {
    let source = Http::open(url, Credentials::default()).unwrap();
    Follower::open_with(Log::options(), Table::options().begin(begin), copy, source)
}

/// The same rows at the same offset.
fn agree(leader: &Leader, follower: &mut Follower) {
    follower.catch_up().unwrap();
    applied(leader);
    assert_eq!(follower.end(), leader.server().log().durable_end());
    let theirs = leader.server().table().digest().unwrap();
    assert_eq!(follower.table().digest().unwrap(), theirs);
}

#[test]
fn a_follower_begins_with_a_snapshot_of_a_running_leader_and_follows_on() {
    let mut leader = Leader::new();
    leader.append(120, 2000);
    applied(&leader);
    drop_old(&leader);
    let copy = leader.path("copy");
    let url = leader.server().url().to_owned();
    let error = pull(&url, &copy, Beginning::Log).unwrap_err();
    assert_eq!(error.kind(), Kind::Gone, "{error}");
    let mut follower = pull(&url, &copy, Beginning::Cheaper).unwrap();
    assert!(follower.report().snapshot.is_some());
    assert!(follower.log().start() > Offset(0));
    agree(&leader, &mut follower);
    for _ in 0..3 {
        leader.append(60, 2000);
        agree(&leader, &mut follower);
    }
    let node = follower.node();
    // While it was on its way the leader kept the log for it.
    assert!(leader.server().log().slots().unwrap().iter().any(|slot| slot.claim.node == node));
    follower.close().unwrap();
    let mut follower = pull(&url, &copy, Beginning::Cheaper).unwrap();
    assert_eq!((follower.node(), follower.report().snapshot), (node, None));
    agree(&leader, &mut follower);
    follower.close().unwrap();

    // Another one begins with what this follower's directory holds.
    let source = tidelog::ship::Directory::open(&copy).unwrap();
    let mut third = Follower::open(Log::options(), leader.path("third"), source).unwrap();
    assert!(third.report().snapshot.is_some());
    agree(&leader, &mut third);
}

#[test]
fn snapshots_are_listed_and_served_by_ranges_and_strange_names_are_refused() {
    let mut leader = Leader::new();
    let client = leader.client();
    assert_eq!(get(&client, "/v1/snapshots").1["snapshots"], serde_json::json!([]));
    assert_eq!(get(&client, "/v1/snapshots?fresh=true").1["snapshots"], serde_json::json!([]));
    leader.append(60, 2000);
    applied(&leader);
    let (_, listed) = get(&client, "/v1/snapshots?fresh=true");
    let listed = listed["snapshots"].as_array().unwrap().clone();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["offset"], leader.server().log().durable_end().0);
    let name = listed[0]["name"].as_str().unwrap();
    // A minute long the same one does for everybody.
    leader.append(5, 200);
    applied(&leader);
    let (_, again) = get(&client, "/v1/snapshots?fresh=true");
    assert_eq!(again["snapshots"].as_array().unwrap(), &listed);

    let manifest = client.get(&format!("/v1/snapshots/{name}"), &[], NOW).unwrap();
    assert_eq!(manifest.status, 200);
    let manifest = String::from_utf8(manifest.bytes(1 << 20).unwrap()).unwrap();
    let run = manifest.lines().find_map(|line| line.strip_prefix("run ")).unwrap();
    let mut words = run.split(' ');
    let (id, bytes) = (words.next().unwrap(), words.next().unwrap().parse::<usize>().unwrap());
    let path = format!("/v1/snapshots/{name}/{id}");
    let whole = client.get(&path, &[], NOW).unwrap();
    assert_eq!(whole.status, 200);
    let whole = whole.bytes(1 << 26).unwrap();
    assert_eq!(whole.len(), bytes);
    let part = client.get(&path, &[("range", "bytes=10-99")], NOW).unwrap();
    assert_eq!((part.status, part.bytes(1000).unwrap()), (206, whole[10..100].to_vec()));
    let beyond = client.get(&path, &[("range", "bytes=999999999-")], NOW).unwrap();
    assert_eq!(beyond.status, 416);
    let known = client.get(&path, &[("if-none-match", &format!("\"{id}\""))], NOW).unwrap();
    assert_eq!(known.status, 304);

    let zeros = "0".repeat(64);
    let gone = "00000000000000000001-1-0000000000000000";
    for (path, status) in [
        (format!("/v1/snapshots/{gone}"), 404),
        (format!("/v1/snapshots/{gone}/{zeros}"), 404),
        (format!("/v1/snapshots/{name}/{zeros}"), 404),
        (format!("/v1/snapshots/{name}/x"), 400),
        ("/v1/snapshots/..%2f..%2fLOG".into(), 400),
        (format!("/v1/snapshots/{name}/..%2f..%2f..%2fLOG"), 400),
        ("/v1/snapshots?fresh=perhaps".into(), 400),
    ] {
        assert_eq!(get(&client, &path).0, status, "{path}");
    }
}

#[test]
fn a_snapshot_over_a_bad_link_arrives_whole_or_is_gone_on_with() {
    let mut leader = Leader::new();
    leader.append(400, 4000);
    applied(&leader);
    drop_old(&leader);
    let proxy = Proxy::new(leader.server().address());
    let url = proxy.url();
    let copy = leader.path("copy");
    let (mut failed, mut seed) = (0, 2u64);
    let mut follower = loop {
        // Each try meets another fault; what came before it is kept.
        proxy.set(match seed % 3 {
            0 => Faults { cut_after: Some(20_000 * seed), ..Faults::default() },
            1 => Faults { flip_at: Some(9000 * seed), ..Faults::default() },
            _ => Faults { cut_after: Some(3000), ..Faults::default() },
        });
        if seed > 5 {
            proxy.set(Faults::default());
        }
        match pull(&url, &copy, Beginning::Cheaper) {
            Ok(follower) => break follower,
            Err(e) => assert!(matches!(e.kind(), Kind::Io | Kind::Gone), "{e}"),
        }
        failed += 1;
        seed += 1;
    };
    proxy.set(Faults::default());
    assert!(failed > 0, "no fault was met");
    agree(&leader, &mut follower);
}

#[test]
fn a_leader_that_dies_while_it_lends_is_gone_on_with_when_it_is_back() {
    let mut leader = Leader::new();
    leader.append(400, 4000);
    applied(&leader);
    drop_old(&leader);
    let address = leader.server().address();
    let mut source = Http::open(leader.server().url(), Credentials::default()).unwrap();
    let offers = source.snapshots().unwrap();
    assert_eq!(offers.len(), 1);
    source.manifest(&offers[0]).unwrap();
    leader.stop();
    leader.start(options().listen(address));
    // Another process: what was lent ended with the one before.
    let error = source.manifest(&offers[0]).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    let url = leader.server().url().to_owned();
    let mut follower = pull(&url, &leader.path("copy"), Beginning::Cheaper).unwrap();
    agree(&leader, &mut follower);
}
