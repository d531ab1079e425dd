//! Rejoining from outside: a leader's directory follows another, over HTTP and from a directory; what
//! it alone had is listed, printed and replayed.

use serde_json::Value;

use crate::cli::Place;

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// An old leader, `mylog`, that went on alone, and `new`, which leads since.
fn parted() -> Place {
    let place = Place::new();
    place.ok("init mylog --segment-bytes 64KiB");
    for n in 0..3 {
        place.ok(&format!("append mylog key{n} shared"));
    }
    // The same log, led from here on by another node.
    place.ok("restore new --from mylog");
    place.ok("append mylog mine alone");
    place.ok("append mylog mine --delete");
    place.ok("append new theirs later");
    place
}

#[test]
fn an_old_leader_rejoins_over_http_and_its_tail_is_replayed_once() {
    let place = parted();
    let (mut node, url) = place.serve("serve new --listen 127.0.0.1:0");
    let refused = place.run(&format!("follow mylog --from {url} --once"));
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--rejoin"));
    let out = place.run(&format!("follow mylog --from {url} --rejoin --once"));
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(0), "{told}");
    assert!(told.contains("rejoined: cut 2 records"), "{told}");
    let tail = |dir: &str| place.ok(&format!("tail {dir} -o ndjson"));
    assert_eq!(tail("mylog"), tail("new"));
    // From here on it follows like any other.
    place.ok(&format!("follow mylog --from {url} --once"));

    let listed = rows(&place.ok("diverged list mylog -o ndjson"));
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0]["records"], &listed[0]["first_offset"]), (&2.into(), &3.into()));
    let name = listed[0]["name"].as_str().unwrap();
    assert!(name.starts_with("1-"), "{name}");
    let dumped = rows(&place.ok(&format!("diverged dump mylog {name} -o ndjson")));
    assert_eq!((&dumped[0]["value"], &dumped[1]["op"]), (&"alone".into(), &"delete".into()));
    place.expect(3, "diverged dump mylog nothing");
    let info: Value = serde_json::from_str(&place.ok("info mylog -o ndjson")).unwrap();
    assert_eq!((&info["diverged"], &info["diverged_records"]), (&1.into(), &2.into()));
    let verified = place.run("verify mylog");
    assert_eq!(verified.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&verified.stderr).contains("a rejoin kept 2 records"));

    let replay = format!("diverged replay mylog {name} --to");
    let plan = rows(&place.expect(1, &format!("{replay} {url}")));
    assert_eq!((&plan[0]["records"], &plan[0]["done"]), (&2.into(), &false.into()));
    let before = rows(&tail("new")).len();
    for duplicates in [0, 2] {
        let done = rows(&place.ok(&format!("{replay} {url} --yes")));
        assert_eq!(done[0]["duplicates"], duplicates, "{done:?}");
    }
    node.kill().unwrap();
    node.wait().unwrap();
    // Nor does another way append it twice.
    let done = rows(&place.ok(&format!("{replay} new --yes")));
    assert_eq!(done[0]["duplicates"], 2);
    let after = rows(&tail("new"));
    assert_eq!(after.len(), before + 2);
    assert_eq!(after[before]["ts"], dumped[0]["ts"]);
    place.ok("follow mylog --from new --once");
    assert_eq!(tail("mylog"), tail("new"));
}

#[test]
fn a_node_that_served_as_leader_serves_as_follower_of_the_next() {
    let place = parted();
    let (mut new, url) = place.serve("serve new --listen 127.0.0.1:0");
    let refused = place.run("serve mylog --rejoin --listen 127.0.0.1:0");
    assert_eq!(refused.status.code(), Some(2));
    let (mut old, old_url) =
        place.serve(&format!("serve mylog --follow {url} --rejoin --listen 127.0.0.1:0"));
    place.ok(&format!("wait {old_url} --offset 3 --timeout 20s"));
    assert_eq!(place.ok(&format!("get {old_url} theirs")), place.ok(&format!("get {url} theirs")));
    for node in [&mut new, &mut old] {
        node.kill().unwrap();
        node.wait().unwrap();
    }
    assert_eq!(rows(&place.ok("diverged list mylog -o ndjson"))[0]["records"], 2);
}
