//! A leader that is demoted, and a coordinator: who leads next, who does not, and what operators are told.

use super::*;

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn demote(nodes: &Nodes, node: usize) -> Output {
    tidelog(&["demote", &nodes.url(node)])
}

/// It took the seat again within a second: it had led last, so nothing spoke against it, while the others waited for
/// the failover gap.
#[test]
fn a_leader_that_is_demoted_lets_another_one_be_elected_and_follows_it() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().join("shelf").display());
    // The gap is ten minutes: an operator's word is no failover that came by itself.
    let args = ["--coordinator", &url, "--lease", "3s", "--coordinator-timeout", "500ms"];
    let mut nodes = Nodes::new(3, &args);
    for node in 0..3 {
        nodes.start(node, &["--create"]);
    }
    let first = nodes.until_led();
    waits_for("all serve", || (0..3).all(|node| nodes.status(node).is_some()));
    nodes.set(first, "sync:k=1");
    nodes.append_somewhere("a");
    let output = tidelog(&["demote", &nodes.url(first), "--dry-run"]);
    assert_eq!((output.status.code(), &told(&output)["done"]), (Some(1), &Value::from(false)));
    assert_eq!(nodes.leader(), Some(first), "a plan changes nothing");
    let epoch = nodes.status(first).unwrap()["epoch"].as_u64();

    let output = demote(&nodes, first);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(told(&output)["done"], true);
    waits_for("another one leads", || nodes.leader().is_some_and(|leader| leader != first));
    let second = nodes.until_led();
    assert!(nodes.status(second).unwrap()["epoch"].as_u64() > epoch);
    assert_eq!(nodes.append_somewhere("b")["level"], "replicated");
    waits_for("it follows", || {
        nodes.status(first).is_some_and(|status| status["role"] == "follower" && status["end"] == 2)
    });
    waits_for("it may lead again, as another one has led", || {
        nodes.stands(first)["may_lead"] == true
    });
    let output = demote(&nodes, first);
    assert!(!output.status.success(), "it does not lead");

    // With nobody else who could lead it is refused, and leads on.
    let third = 3 - first - second;
    nodes.kill(first);
    nodes.kill(third);
    let output = demote(&nodes, second);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("nobody would lead"), "{}", stderr(&output));
    assert!(stderr(&output).contains("failover pause"), "{}", stderr(&output));
    assert_eq!(nodes.leader(), Some(second));
    nodes.start(first, &[]);
    waits_for("a member is back", || {
        nodes.status(first).is_some_and(|status| status["leader"] == nodes.url(second).as_str())
    });
    nodes.append_somewhere("c");

    // An operator who paused failover wants nobody to lead.
    assert!(tidelog(&["failover", "pause", &nodes.url(second)]).status.success());
    let output = demote(&nodes, second);
    assert!(output.status.success(), "{}", stderr(&output));
    waits_for("both say why they do not lead", || {
        let why = |node| nodes.stands(node)["why"].as_str().unwrap_or_default().to_owned();
        why(first).contains("paused") && why(second).contains("demoted")
    });
    assert_eq!(nodes.stands(second)["may_lead"], false);
    assert_eq!(nodes.leader(), None);
    // Whatever else may lead, it stays out of it; an operator's word lets it lead again.
    assert!(tidelog(&["failover", "resume", &nodes.url(first)]).status.success());
    waits_for("the other one leads", || nodes.leader() == Some(first));
    nodes.append_somewhere("d");
    assert!(tidelog(&["failover", "pause", &nodes.url(first)]).status.success());
    assert!(demote(&nodes, first).status.success());
    let promote = ["promote", &nodes.url(first), "--yes", "--timeout", "30s"];
    let output = tidelog(&promote);
    assert!(output.status.success(), "{}", stderr(&output));
    waits_for("it leads again", || nodes.leader() == Some(first));
    nodes.append_somewhere("e");
    nodes.same();
    let acked: Vec<String> = ["a", "b", "c", "d", "e"].map(String::from).to_vec();
    nothing_is_lost_or_twice(&nodes.log(first), &acked);
}

/// Without a coordinator there is nobody who could be elected: that is what was asked for.
#[test]
fn without_a_coordinator_nobody_leads_after_a_demotion_until_one_is_promoted() {
    let nodes = two();
    nodes.append_somewhere("a");
    waits_for("the follower has it", || nodes.status(1).unwrap()["applied"] == 1);
    let output = demote(&nodes, 0);
    assert!(output.status.success(), "{}", stderr(&output));
    waits_for("it follows", || nodes.status(0).is_some_and(|status| status["role"] == "follower"));
    assert_eq!(nodes.leader(), None);
    let output = tidelog(&["promote", &nodes.url(1), "--yes", "--old-leader-is-stopped"]);
    assert!(output.status.success(), "{}", stderr(&output));
    nodes.append_somewhere("b");
    assert_eq!(nodes.leader(), Some(1));
}
