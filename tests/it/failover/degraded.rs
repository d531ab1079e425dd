//! Degraded spells with a coordinator: registered before the first lesser acknowledgement, and what elections and
//! promotions make of them; real processes, killed.

use super::*;

/// The level of an append that is acknowledged.
fn level(nodes: &Nodes, node: usize, key: &str) -> Value {
    let mut answer = None;
    waits_for("an append is acknowledged", || {
        answer = nodes.append(node, key, "3s");
        answer.is_some()
    });
    answer.unwrap()["level"].clone()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Three nodes of a semi-synchronous set: a spell begins, and its leader dies.
fn a_spell_is_weighed(args: &[&str]) {
    let mut nodes = Nodes::new(3, args);
    for node in 0..3 {
        nodes.start(node, &["--create"]);
    }
    let leader = nodes.until_led();
    waits_for("all serve", || (0..3).all(|node| nodes.status(node).is_some()));
    nodes.set(leader, "semi:k=1,timeout=700ms");
    assert_eq!(level(&nodes, leader, "held by two"), "replicated");
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    waits_for("both have it", || {
        others.iter().all(|node| nodes.status(*node).is_some_and(|status| status["end"] == 1))
    });
    assert_eq!(nodes.stands(leader)["degraded"], Value::Null);

    others.iter().for_each(|node| nodes.kill(*node));
    assert_eq!(level(&nodes, leader, "held by one"), "durable");
    let stands = nodes.stands(leader);
    assert!(stands["degraded"]["from"].as_u64() > Some(0), "{stands}");
    assert_eq!(nodes.status(leader).unwrap()["state"], "degraded");

    // Its leader dies. The others see the spell: none of them leads by itself, nor by an operator's slip.
    nodes.kill(leader);
    others.iter().for_each(|node| nodes.start(*node, &[]));
    waits_for("they say why they do not lead", || {
        others.iter().all(|node| {
            let stands = nodes.stands(*node);
            let why = stands["why"].as_str().unwrap_or_default();
            why.contains("--max-loss") && stands["degraded"]["from"].is_u64()
        })
    });
    let url = nodes.url(others[0]);
    let output = tidelog(&["promote", &url, "--yes"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("degraded spell"), "{}", stderr(&output));
    assert!(stderr(&output).contains("--accept-loss"), "{}", stderr(&output));

    // The old leader has all of it, and may lead: the spell is over once a member has all of it, too.
    nodes.start(leader, &[]);
    waits_for("it leads again", || nodes.leader() == Some(leader));
    waits_for("the spell is over", || {
        nodes.stands(leader)["degraded"].is_null()
            && nodes.status(leader).is_some_and(|status| status["state"] == "leading")
    });
    assert_eq!(level(&nodes, leader, "held by two again"), "replicated");
    waits_for("all have it", || {
        (0..3).all(|node| nodes.status(node).is_some_and(|status| status["end"] == 3))
    });
    nodes.same();
}

#[test]
fn a_spell_is_registered_at_etcd_and_weighed_by_elections_and_promotions() {
    if !is_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&dir.path().join("etcd"));
    let url = format!("etcd://127.0.0.1:{}/cluster", etcd.port);
    a_spell_is_weighed(&["--coordinator", &url, "--lease", "3s", "--coordinator-timeout", "500ms"]);
}

#[test]
fn a_spell_is_registered_in_a_store_and_weighed_by_elections_and_promotions() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().join("shelf").display());
    a_spell_is_weighed(&["--coordinator", &url, "--lease", "3s", "--coordinator-timeout", "500ms"]);
}

/// Without a coordinator nobody but the old leader knows of a spell: that is said before a promotion.
#[test]
fn without_a_coordinator_a_promotion_says_that_it_cannot_see_spells() {
    let mut nodes = two();
    nodes.set(0, "semi:k=1,timeout=500ms");
    nodes.append_somewhere("a");
    waits_for("the follower has it", || nodes.status(1).unwrap()["applied"] == 1);
    nodes.kill(0);
    let output = tidelog(&["promote", &nodes.url(1)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot see"), "{}", stderr(&output));
    let promote = ["promote", &nodes.url(1), "--yes", "--old-leader-is-stopped"];
    let output = tidelog(&promote);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("cannot see"), "{}", stderr(&output));
}

/// What an operator has set holds against operators, too.
#[test]
fn a_node_that_never_leads_is_not_promoted() {
    let mut nodes = Nodes::new(2, &[]);
    nodes.start(0, &["--create"]);
    nodes.until_led();
    nodes.append_somewhere("a");
    let leader = nodes.url(0);
    nodes.start_with_peers(1, &["--follow", &leader, "--never-lead"]);
    waits_for("the follower has it", || {
        nodes.status(1).is_some_and(|status| status["applied"] == 1)
    });
    let output = tidelog(&["switchover", &leader, "--to", &nodes.url(1), "--yes"]);
    assert!(!output.status.success());
    nodes.kill(0);
    let url = nodes.url(1);
    let promote = ["promote", &url, "--yes", "--old-leader-is-stopped", "--accept-loss"];
    let output = tidelog(&promote);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("--never-lead"), "{}", stderr(&output));
    assert_eq!(nodes.status(1).unwrap()["role"], "follower");
    // Without it the same is done.
    nodes.kill(1);
    nodes.start_with_peers(1, &["--follow", &leader]);
    waits_for("it serves", || nodes.status(1).is_some());
    let output = tidelog(&promote);
    assert!(output.status.success(), "{}", stderr(&output));
    // And it does not begin a log either.
    let (lone, listen) = (nodes.path(0), format!("127.0.0.1:{}", nodes.ports[0]));
    let output = tidelog(&["serve", lone.to_str().unwrap(), "--listen", &listen, "--never-lead"]);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("--never-lead"), "{}", stderr(&output));
}

/// What was acknowledged while degraded is given up by an operator. What is told to be lost is what is missing; the old
/// leader, and a follower that is no member and had copied it from there, come back by themselves and keep it aside. The
/// follower halted with `committed data loss`.
#[test]
fn a_spell_that_is_given_up_is_lost_as_reported_and_all_who_had_it_come_back_by_themselves() {
    let mut nodes = three();
    let leader = nodes.url(0);
    // The third one is no member.
    let ids = ids(&nodes);
    let mode = "semi:k=1,timeout=500ms";
    let members = ["members", "add", &leader, &ids[1], "--mode", mode, "--timeout", "20s"];
    let output = tidelog(&members);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(level(&nodes, 0, "kept"), "replicated");
    waits_for("all have it", || {
        (1..3).all(|node| nodes.status(node).is_some_and(|status| status["applied"] == 1))
    });
    nodes.signal(1, rustix::process::Signal::STOP);
    let alone: Vec<String> = (0..5).map(|i| format!("alone {i}")).collect();
    for key in &alone {
        assert_eq!(level(&nodes, 0, key), "durable");
    }
    waits_for("the other one shows it", || {
        nodes.status(2).is_some_and(|status| status["applied"] == 6)
    });
    nodes.kill(0);
    // Asked for its promise it would hand over what it has, and nothing would be lost.
    nodes.kill(2);
    nodes.signal(1, rustix::process::Signal::CONT);
    let url = nodes.url(1);
    let promote =
        ["promote", &url, "--yes", "--old-leader-is-stopped", "--accept-loss", "--timeout", "40s"];
    let output = tidelog(&promote);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("cannot see"), "{}", stderr(&output));
    // An answer may have been on its way to the member before it was stopped.
    let mut after = None;
    waits_for("the new leader acknowledges", || {
        after = nodes.append(1, "after", "3s");
        after.is_some()
    });
    let lost_from = after.unwrap()["first_offset"].as_u64().unwrap();
    assert!((1..=2).contains(&lost_from), "{lost_from}");

    for (node, args) in [(0, &[][..]), (2, &["--follow", &url][..])] {
        nodes.start_with_peers(node, args);
        waits_for("it follows the new leader", || {
            nodes.status(node).is_some_and(|status| {
                status["role"] == "follower" && status["end"] == lost_from + 1
            })
        });
    }
    nodes.same();
    let found = keys(&nodes.log(1));
    let missing: Vec<&String> = alone.iter().filter(|key| !found.contains_key(*key)).collect();
    assert_eq!(missing.len() as u64, 6 - lost_from);
    for node in [0, 2] {
        let path = nodes.path(node);
        let path = path.to_str().unwrap();
        let listed = tidelog(&["diverged", "list", path, "-o", "ndjson"]);
        assert_eq!(told(&listed)["records"], missing.len(), "{}", stderr(&listed));
        let name = told(&listed)["name"].as_str().unwrap().to_owned();
        let dumped = tidelog(&["diverged", "dump", path, &name]);
        let text = String::from_utf8(dumped.stdout).unwrap();
        let kept: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(kept.iter().map(|row| row["key"].as_str().unwrap()).eq(missing.iter().copied()));
        let reported = format!("rejoined: cut {} records", missing.len());
        assert!(nodes.said().contains(&reported), "it says so");
    }
}
