//! The demo, as a newcomer runs it: its story holds, and what it leaves verifies.

use std::path::Path;

use crate::cli::Place;

#[test]
fn the_demo_tells_its_story_and_leaves_logs_that_verify() {
    let place = Place::new();
    let story = place.ok("demo");
    assert!(story.contains("all four tables hold the same 1,708 keys"), "{story}");
    for log in ["demo/leader", "demo/near", "demo/far", "demo/late"] {
        place.ok(&format!("verify {log}"));
    }
    place.ok("archive verify demo/archive");
    place.ok("snapshot verify demo/near");
    place.expect(2, "demo");
    assert!(Path::new(&place.path("demo/leader/LOG")).exists());
}

#[test]
fn the_demo_of_failover_loses_nothing_and_leaves_logs_that_verify() {
    let place = Place::new();
    let story = place.ok("demo --failover");
    assert!(story.contains("0 are lost, 0 there twice"), "{story}");
    for log in ["demo/node1", "demo/node2", "demo/node3"] {
        place.ok(&format!("verify {log}"));
    }
    place.ok("archive verify demo/shelf");
}
