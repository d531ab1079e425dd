//! The modes of replication with real nodes over HTTP: what an acknowledgement means, what is shown,
//! and what a set change, a time-out and a crash leave behind.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidelog::replica::leader::Standing;
use tidelog::server::{Server, ServerOptions};
use tidelog::ship::{Client, Credentials, Http};
use tidelog::{Follower, Id, Log, Table};

const NOW: Duration = Duration::ZERO;

/// A leader, and followers that are served, in one process.
struct Nodes {
    dir: tempfile::TempDir,
    leader: Option<Server>,
}

fn bind(name: &str) -> tidelog::server::Bound {
    let options = ServerOptions::default().listen("127.0.0.1:0".parse().unwrap());
    options.name(name.into()).bind().unwrap()
}

impl Nodes {
    fn new() -> Self {
        let mut nodes = Nodes { dir: tempfile::tempdir().unwrap(), leader: None };
        nodes.start();
        nodes
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&mut self) {
        let log = Log::options().create(true).open(self.path("leader")).unwrap();
        let table = Table::options().open(&log).unwrap();
        self.leader = Some(bind("leader").lead(log, table).unwrap());
    }

    fn leader(&self) -> &Server {
        self.leader.as_ref().unwrap()
    }

    fn client(&self) -> Client {
        client(self.leader())
    }

    /// A follower that runs and is served.
    fn follow(&self, name: &str) -> Server {
        let source = Http::open(self.leader().url(), Credentials::default()).unwrap().name(name);
        let follower = Follower::open(Log::options(), self.path(name), source).unwrap();
        bind(name).follow(follower).unwrap()
    }

    /// Rules by this mode with these members beside the leader; waits until it is committed.
    fn set(&self, mode: &str, members: &[Id]) {
        let add: Vec<String> = members.iter().map(ToString::to_string).collect();
        let body = json!({ "mode": mode, "add": add }).to_string();
        let (status, set) = post(&self.client(), "/v1/members?timeout=20s", &body);
        assert_eq!(status, 200, "{set}");
        assert_eq!(set["changing"], false, "{set}");
    }

    fn append(&self, query: &str, value: &str) -> (u16, Value) {
        let body = json!({ "op": "put", "key": "k", "value": value }).to_string();
        post(&self.client(), &format!("/v1/records?{query}"), &body)
    }

    fn standing(&self) -> Standing {
        self.leader().leader().unwrap().standing()
    }

    /// What the leader shows of the key, in its table.
    fn shown(&self) -> Option<String> {
        let (status, row) = get(&self.client(), "/v1/table/k");
        (status == 200).then(|| row["value"].as_str().unwrap().to_owned())
    }
}

fn client(server: &Server) -> Client {
    Client::new(server.url(), Credentials::default()).unwrap()
}

fn parsed(reply: tidelog::ship::Reply) -> (u16, Value) {
    let status = reply.status;
    let body = reply.bytes(1 << 20).unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn get(client: &Client, path: &str) -> (u16, Value) {
    parsed(client.get(path, &[], NOW).unwrap())
}

fn post(client: &Client, path: &str, body: &str) -> (u16, Value) {
    parsed(client.post(path, &[], body.as_bytes(), Duration::from_secs(30)).unwrap())
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Behind what is proven durable in a follower's directory, read as after a power cut would: from
/// what its own STATE says, which is written behind each sync.
fn synced(dir: &Path) -> u64 {
    Log::options().read_only(true).open(dir).unwrap().durable_end().0
}

#[test]
fn sync_acks_once_the_member_has_synced_it_and_shows_nothing_before() {
    let nodes = Nodes::new();
    assert_eq!(nodes.append("", "old").0, 200);
    let follower = nodes.follow("copy");
    nodes.set("sync:k=1", &[follower.log().node()]);
    for i in 0..20u64 {
        let (status, reply) = nodes.append("timeout=20s", &format!("new {i}"));
        assert_eq!(status, 200, "{reply}");
        assert_eq!((&reply["level"], &reply["copies"]), (&json!("replicated"), &json!(2)));
        let offset = reply["last_offset"].as_u64().unwrap();
        assert!(synced(&nodes.path("copy")) > offset, "acked before the member had it");
        // It acknowledges first, and then tells its own readers.
        until("the member's readers know", || follower.log().durable_end().0 > offset);
    }
    // The member learns what is committed, and shows it.
    until("the member shows it", || follower.log().end().0 == 21);
    let (status, reply) = nodes.append("level=applied&timeout=20s", "applied");
    assert_eq!((status, &reply["level"]), (200, &json!("applied")), "{reply}");
    let (_, row) = get(&client(&follower), "/v1/table/k");
    assert_eq!(row["value"], "applied", "acked before the member's table had it");
    follower.stop().unwrap();
}

#[test]
fn sync_blocks_while_its_member_is_gone_and_a_timed_out_append_is_unknown_and_there_afterwards() {
    let nodes = Nodes::new();
    let follower = nodes.follow("copy");
    let member = follower.log().node();
    nodes.set("sync:k=1", &[member]);
    assert_eq!(nodes.append("timeout=20s", "first").0, 200);
    until("the leader's table has it", || nodes.shown().as_deref() == Some("first"));
    follower.stop().unwrap();
    let body = json!({ "op": "put", "key": "k", "value": "second" }).to_string();
    let keyed = |timeout: &str| {
        let path = format!("/v1/records?timeout={timeout}");
        let headers = [("idempotency-key", "second")];
        let wait = Duration::from_secs(30);
        parsed(nodes.client().post(&path, &headers, body.as_bytes(), wait).unwrap())
    };
    let (status, reply) = keyed("300ms");
    assert_eq!((status, &reply["error"]["kind"]), (503, &json!("unknown")), "{reply}");
    let place = reply["error"]["first_offset"].clone();
    assert_eq!(place, 1);
    // Neither records nor rows show it: it is not promised yet.
    assert_eq!(nodes.shown().as_deref(), Some("first"));
    assert_eq!(get(&nodes.client(), "/v1/records?from=1").1, Value::Null);
    let (_, status) = get(&nodes.client(), "/v1/status");
    assert_eq!((&status["committed"], &status["durable"]), (&json!(1), &json!(2)), "{status}");
    assert_eq!(status["replication"]["mode"], "sync:k=1");
    // The member is back: an append that waits goes on, and so does the one that timed out.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| nodes.append("timeout=20s", "third"));
        std::thread::park_timeout(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        let follower = nodes.follow("copy");
        let (status, reply) = waiting.join().unwrap();
        assert_eq!((status, &reply["copies"]), (200, &json!(2)), "{reply}");
        let (status, reply) = keyed("20s");
        assert_eq!((status, &reply["duplicate"]), (200, &json!(true)), "{reply}");
        assert_eq!(reply["first_offset"], place, "a retry has the same place");
        until("it is shown", || nodes.leader().log().end().0 == 3);
        follower.stop().unwrap();
    });
}

#[test]
fn under_async_replicated_counts_copies_and_says_when_there_are_too_few() {
    let nodes = Nodes::new();
    let (status, reply) = nodes.append("", "alone");
    assert_eq!((status, &reply["level"], &reply["copies"]), (200, &json!("durable"), &json!(1)));
    let (status, reply) = nodes.append("level=replicated&timeout=200ms", "alone still");
    assert_eq!((status, &reply["error"]["kind"]), (503, &json!("unknown")), "{reply}");
    assert_eq!(nodes.leader().log().end().0, 2, "async: durable is shown");
    let (one, two) = (nodes.follow("one"), nodes.follow("two"));
    let (status, reply) = nodes.append("level=replicated&copies=3&timeout=20s", "thrice");
    assert_eq!((status, &reply["copies"]), (200, &json!(3)), "{reply}");
    for (query, expected) in [("level=replicated&copies=1", 400), ("copies=2", 400)] {
        assert_eq!(nodes.append(query, "x").0, expected, "{query}");
    }
    one.stop().unwrap();
    two.stop().unwrap();
}

#[test]
fn semi_degrades_with_the_mark_in_control_and_recovers() {
    let nodes = Nodes::new();
    let follower = nodes.follow("copy");
    nodes.set("semi:k=1,timeout=1s", &[follower.log().node()]);
    let (_, reply) = nodes.append("timeout=20s", "held by two");
    assert_eq!(reply["level"], "replicated", "{reply}");
    let control = || std::fs::read_to_string(nodes.path("leader").join("CONTROL")).unwrap();
    assert!(!control().contains("\ndegraded "));
    follower.stop().unwrap();
    let (status, reply) = nodes.append("timeout=20s", "held by one");
    assert_eq!((status, &reply["level"], &reply["copies"]), (200, &json!("durable"), &json!(1)));
    assert!(control().contains("\ndegraded "), "{}", control());
    let (_, status) = get(&nodes.client(), "/v1/status");
    assert_eq!(status["state"], "degraded");
    let follower = nodes.follow("copy");
    until("the mark is gone", || nodes.standing().degraded.is_none());
    assert!(!control().contains("\ndegraded "));
    let (_, reply) = nodes.append("timeout=20s", "held by two again");
    assert_eq!(reply["level"], "replicated", "{reply}");
    follower.stop().unwrap();
}

#[test]
fn bounded_refuses_at_the_bound_and_goes_on_when_the_member_has_caught_up() {
    let nodes = Nodes::new();
    let follower = nodes.follow("copy");
    nodes.set("bounded:k=1,bytes=4KiB,secs=1000", &[follower.log().node()]);
    until("the member was heard", || nodes.append("", "first").0 == 200);
    follower.stop().unwrap();
    let value = "x".repeat(1000);
    let mut acked = 0;
    let reply = loop {
        match nodes.append("", &value) {
            (200, _) => acked += 1,
            (status, reply) => {
                assert_eq!(status, 503, "{reply}");
                break reply;
            }
        }
    };
    assert_eq!(reply["error"]["kind"], "rejected", "{reply}");
    assert!(acked <= 4, "{acked} records of 1000 bytes were acked beyond a bound of 4 KiB");
    let end = nodes.leader().log().end();
    assert_eq!(nodes.append("", &value).0, 503);
    assert_eq!(nodes.leader().log().end(), end, "nothing was appended");
    let follower = nodes.follow("copy");
    until("there is room again", || nodes.append("", "again").0 == 200);
    follower.stop().unwrap();
}

#[test]
fn a_set_change_goes_through_a_restart_in_its_midst() {
    let mut nodes = Nodes::new();
    let (one, two) = (nodes.follow("one"), nodes.follow("two"));
    let (first, second) = (one.log().node(), two.log().node());
    nodes.set("sync:k=1", &[first]);
    assert_eq!(nodes.append("timeout=20s", "before").0, 200);
    one.stop().unwrap();
    // From the first member to the second, while the first is away: the old set must agree.
    let body = json!({ "add": [second.to_string()], "remove": [first.to_string()] }).to_string();
    let (status, set) = post(&nodes.client(), "/v1/members?timeout=300ms", &body);
    assert_eq!((status, &set["changing"]), (202, &json!(true)), "{set}");
    assert_eq!(nodes.append("timeout=300ms", "during").0, 503);
    let committed = nodes.standing().committed;
    two.stop().unwrap();
    nodes.leader.take().unwrap().stop().unwrap();
    nodes.start();
    let standing = nodes.standing();
    assert!(standing.changing, "both sets rule still");
    assert!(standing.members.contains(&second) && !standing.members.contains(&first));
    assert_eq!(standing.committed, committed);
    let two = nodes.follow("two");
    assert_eq!(nodes.append("timeout=300ms", "still").0, 503, "the new set alone is not enough");
    let one = nodes.follow("one");
    until("the change is through", || !nodes.standing().changing);
    one.stop().unwrap();
    let (status, reply) = nodes.append("timeout=20s", "after");
    assert_eq!(status, 200, "the new set rules alone: {reply}");
    two.stop().unwrap();
}

#[test]
fn a_follower_opens_without_its_leader_and_shows_no_more_than_was_committed() {
    let nodes = Nodes::new();
    let (member, other) = (nodes.follow("member"), nodes.follow("other"));
    nodes.set("sync:k=1", &[member.log().node()]);
    assert_eq!(nodes.append("timeout=20s", "committed").0, 200);
    until("both show it", || member.log().end().0 == 1 && other.log().end().0 == 1);
    member.stop().unwrap();
    assert_eq!(nodes.append("timeout=200ms", "not committed").0, 503);
    until("the other has it", || other.log().durable_end().0 == 2);
    assert_eq!(other.log().end().0, 1, "it is no member: nothing is committed by it");
    other.stop().unwrap();
    let log = Log::options().read_only(true).open(nodes.path("other")).unwrap();
    assert_eq!((log.end().0, log.durable_end().0), (1, 2));
    let table = Table::from_log(&log).unwrap();
    assert_eq!(table.get(b"k").unwrap().unwrap().value, b"committed");
}

#[test]
fn the_archive_gets_at_most_what_is_committed() {
    use tidelog::ship::Directory;
    use tidelog::ship::archive::{LocalStore, PublishOptions, Publisher};

    let nodes = Nodes::new();
    let follower = nodes.follow("copy");
    nodes.set("sync:k=1", &[follower.log().node()]);
    assert_eq!(nodes.append("timeout=20s", "committed").0, 200);
    follower.stop().unwrap();
    assert_eq!(nodes.append("timeout=200ms", "not committed").0, 503);
    let push = || {
        let store = std::sync::Arc::new(LocalStore::at(nodes.path("archive")));
        let from = Directory::open(nodes.path("leader")).unwrap();
        let mut publisher = Publisher::open(store, from, PublishOptions::default()).unwrap();
        publisher.push().unwrap().end.0
    };
    // STATE, which a publisher in another process reads, is rewritten within milliseconds.
    until("the committed record is published", || push() == 1);
    let follower = nodes.follow("copy");
    until("the other is, once it is committed", || push() == 2);
    follower.stop().unwrap();
}

#[cfg(feature = "cli")]
mod command_line {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A node as a process; killed at the end.
    struct Process(Child, Value);

    impl Drop for Process {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn tidelog(dir: &Path, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidelog"));
        command.args(args.split_whitespace()).current_dir(dir).stderr(Stdio::null());
        command
    }

    fn serve(dir: &Path, args: &str) -> Process {
        let mut command = tidelog(dir, &format!("serve --listen 127.0.0.1:0 {args}"));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said = serde_json::from_str(&line).unwrap();
        Process(child, said)
    }

    fn lines(dir: &Path, args: &str) -> (Option<i32>, Vec<Value>) {
        let out = tidelog(dir, args).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        (out.status.code(), text.lines().map(|l| serde_json::from_str(l).unwrap()).collect())
    }

    #[test]
    fn modes_and_members_are_set_listed_and_survive_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let leader = serve(dir, "log --create");
        let url = leader.1["listening"].as_str().unwrap().to_owned();
        let follower = serve(dir, &format!("copy --follow {url}"));
        let member = follower.1["node"].as_str().unwrap().to_owned();
        let own = leader.1["node"].as_str().unwrap().to_owned();
        let add = format!("members add {url} {member} --mode sync:k=1 --timeout 20s");
        let (code, said) = lines(dir, &add);
        assert_eq!(code, Some(0), "{said:?}");
        let (_, said) = lines(dir, &format!("members list {url}"));
        assert_eq!(said[0]["mode"], "sync:k=1", "{said:?}");
        assert_eq!(said[0]["members"].as_array().unwrap().len(), 2);
        let append = |url: &str| {
            let client = Client::new(url, Credentials::default()).unwrap();
            let body = json!({ "op": "put", "key": "k", "value": "v" }).to_string();
            post(&client, "/v1/records?timeout=20s", &body)
        };
        let (status, reply) = append(&url);
        assert_eq!((status, &reply["level"]), (200, &json!("replicated")), "{reply}");
        let (_, rows) = lines(dir, &format!("status {url}"));
        assert_eq!((&rows[0]["mode"], &rows[1]["mode"]), (&json!("sync:k=1"), &json!("member")));
        assert_eq!((&rows[0]["committed"], &rows[0]["node"]), (&json!(1), &json!(own)));
        // Removing can be planned first.
        let remove = format!("members remove {url} {member} --mode async --dry-run");
        let (code, said) = lines(dir, &remove);
        assert_eq!((code, &said[0]["done"]), (Some(1), &json!(false)));
        assert_eq!(lines(dir, &format!("members remove {url} {member}")).0, Some(2));
        // Killed, not closed: the mode is in the log, and the next leader keeps it.
        drop(leader);
        drop(follower);
        let leader = serve(dir, "log");
        let url = leader.1["listening"].as_str().unwrap().to_owned();
        let (_, said) = lines(dir, &format!("members list {url}"));
        assert_eq!((&said[0]["mode"], &said[0]["started"]), (&json!("sync:k=1"), &json!(false)));
        let follower = serve(dir, &format!("copy --follow {url}"));
        assert_eq!(append(&url).0, 200);
        let remove = format!("members remove {url} {member} --mode async --yes --timeout 20s");
        assert_eq!(lines(dir, &remove).0, Some(0));
        drop(leader);
        // And by a flag of serve.
        let leader =
            serve(dir, &format!("log --mode bounded:k=1,bytes=1MiB,secs=60 --member {member}"));
        let url = leader.1["listening"].as_str().unwrap().to_owned();
        // Its member has to know the first set.
        drop(follower);
        let _follower = serve(dir, &format!("copy --follow {url}"));
        until("the mode is set", || {
            lines(dir, &format!("members list {url}")).1[0]["mode"] != "async"
        });
    }
}
