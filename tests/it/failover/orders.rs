//! What operators ask for while another node hangs: done in time, or refused with the reason.

use rustix::process::Signal;

use super::*;

/// Taking the follower over waited for what the leader that hung was asked last, for more than 20 seconds.
#[test]
fn a_promotion_does_not_wait_for_a_leader_that_hangs() {
    let mut nodes = two();
    nodes.append_somewhere("a");
    waits_for("the follower has it", || nodes.status(1).unwrap()["applied"] == 1);
    nodes.signal(0, Signal::STOP);
    let began = Instant::now();
    let promote =
        ["promote", &nodes.url(1), "--yes", "--old-leader-is-stopped", "--timeout", "40s"];
    let output = tidelog(&promote);
    let took = began.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("promoted after {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    nodes.kill(0);
    assert_eq!(nodes.append_somewhere("b")["first_offset"], 1);
}

/// Whoever had been answered that it was under way never heard that it had been refused; and a leader showed the seat
/// as it had found it when it followed.
#[test]
fn a_switchover_that_is_refused_in_the_end_says_so_and_the_leader_shows_its_seat() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().join("shelf").display());
    let lease = ["--coordinator", &url, "--lease", "3s", "--coordinator-timeout", "500ms"];
    let mut nodes = Nodes::new(2, &lease);
    for node in 0..2 {
        nodes.start(node, &["--create"]);
    }
    let leader = nodes.until_led();
    waits_for("all serve", || (0..2).all(|node| nodes.status(node).is_some()));
    nodes.append_somewhere("a");
    let other = 1 - leader;
    waits_for("it has that", || nodes.status(other).is_some_and(|status| status["end"] == 1));
    nodes.signal(other, Signal::STOP);
    let (here, there) = (nodes.url(leader), nodes.url(other));
    let output = tidelog(&["switchover", &here, "--to", &there, "--yes", "--timeout", "40s"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(!stderr.contains("has not handed over"), "{stderr}");
    waits_for("it says what came of it", || {
        let order = nodes.stands(leader)["order"].clone();
        order["order"] == "switchover" && order["done"] == false && order["why"].is_string()
    });
    waits_for("it shows its own seat", || {
        let seat = nodes.stands(leader)["seat"].clone();
        seat.as_str().is_some_and(|seat| seat.starts_with(&format!("held by {here} for epoch")))
    });
    nodes.signal(other, Signal::CONT);
    nodes.append_somewhere("b");
    assert_eq!(nodes.leader(), Some(leader));
    nodes.same();
}
