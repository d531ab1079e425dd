//! What `status` says of a directory that nobody serves.

use std::fs;

use serde_json::Value;
use tidelog::log::MIN_SEGMENT_BYTES;
use tidelog::{Log, Record, Table};

use crate::cli::Place;

fn rows(place: &Place, dir: &str) -> Vec<Value> {
    let out = place.ok(&format!("status {dir}"));
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_directory_shows_who_followed_it_by_what_they_left_there() {
    let place = Place::new();
    place.ok("init log");
    place.ok("append log gate open");
    assert_eq!(rows(&place, "log").len(), 1);
    place.ok("follow copy --from log --once");
    place.ok("append log gate shut");
    let shown = rows(&place, "log");
    assert_eq!(shown.len(), 2, "{shown:?}");
    let known = &shown[1];
    assert_eq!((&known["name"], &known["state"]), (&"copy".into(), &"known".into()), "{known}");
    let node = rows(&place, "copy")[0]["node"].clone();
    assert_eq!((&known["node"], &known["role"]), (&node, &"follower".into()), "{known}");
    for (name, value) in [("received", 1), ("durable", 1), ("applied", 1), ("lag_records", 1)] {
        assert_eq!(known[name], value, "{name}: {known}");
    }
    assert!(known["lag_bytes"].as_u64().unwrap() > 0, "{known}");
    assert!(known["lag_seconds"].as_f64().unwrap() > 0.0, "{known}");
    assert!(known["last_contact_seconds"].as_f64().unwrap() > 0.0, "{known}");
    // It is a hint: what others were like is not held against the directory.
    place.ok("check log --max-lag 0s,0");
    // Who catches up says so; who reads alone leaves nothing.
    place.ok("follow copy --from log --once");
    assert_eq!(rows(&place, "log")[1]["lag_records"], 0);
    place.ok("restore other --from log");
    assert_eq!(rows(&place, "log").len(), 2);
    // Slots that cannot be read are no reason to say nothing.
    fs::write(place.path("log/SLOTS"), "nonsense").unwrap();
    let out = place.run("status log");
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success() && said.contains("SLOTS"), "{said}");
    fs::remove_file(place.path("log/SLOTS")).unwrap();
    // A torn one is passed over, and so is the directory that takes no writes.
    let file = place.path("log/followers").join(format!("{}.json", node.as_str().unwrap()));
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(rows(&place, "log").len(), 1);
    fs::remove_dir_all(place.path("log/followers")).unwrap();
    fs::write(place.path("log/followers"), "not a directory").unwrap();
    place.ok("append log gate open");
    place.ok("follow copy --from log --once");
    assert_eq!(rows(&place, "log").len(), 1);
}

#[test]
fn retention_names_the_followers_that_are_known_to_need_what_goes() {
    let place = Place::new();
    let options = Log::options().create(true).segment_bytes(MIN_SEGMENT_BYTES).worker(false);
    let log = options.open(place.path("log")).unwrap();
    log.append(&Record::put(b"gate", b"open")).unwrap();
    place.ok("follow copy --from log --once");
    for _ in 0..60 {
        log.append(&Record::put(b"gate", &[7; 8 << 10])).unwrap();
    }
    let table = Table::options().open(&log).unwrap();
    assert!(table.checkpoint().unwrap());
    drop(table);
    log.close().unwrap();
    let retain = "retain log --keep-bytes 1 --table-is-only-copy";
    let plan = place.run(retain);
    let said = String::from_utf8(plan.stderr).unwrap();
    assert_eq!(plan.status.code(), Some(1), "{said}");
    assert!(said.contains("the follower copy of this directory was at offset 1"), "{said}");
    // Named, and not waited for.
    place.ok(&format!("{retain} --yes"));
    place.ok("follow new --from copy --once");
}
