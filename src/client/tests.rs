//! The client against nodes of a script: who is asked, and what becomes of the append.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use super::*;
use crate::position::Epoch;
use crate::record::Record;
use crate::ship::Unanswered;

const A: &str = "http://a:1";
const B: &str = "http://b:1";
const C: &str = "http://c:1";

type Reply = Result<Answer, Unanswered>;
/// The first reply, and whether the append is unknown then.
type Case = (fn(bool) -> Reply, bool);
type Nodes = dyn FnMut(&str, &Question<'_>) -> Reply + Send;

/// Nodes that answer by a script, and a clock that only rests and answers move.
struct Script {
    nodes: Box<Nodes>,
    now: Duration,
    asked: Arc<Mutex<Vec<String>>>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}

impl World for Script {
    fn ask(&mut self, url: &str, question: &Question<'_>) -> Reply {
        self.now += Duration::from_millis(1);
        if question.path != "/v1/status" {
            self.asked.lock().unwrap().push(url.to_owned());
        }
        let reply = (self.nodes)(url, question);
        reply.map(|answer| Answer { place: format!("{url}{}", question.path), ..answer })
    }

    fn now(&self) -> Duration {
        self.now
    }

    fn rest(&mut self, time: Duration) {
        self.now += time;
    }

    fn stops(&self) -> bool {
        false
    }

    fn draw(&mut self) -> Result<[u8; 16]> {
        Ok([7; 16])
    }
}

/// A cluster, and whom it asked (but for their status).
fn cluster(
    list: &[&str],
    secret: bool,
    nodes: impl FnMut(&str, &Question<'_>) -> Reply + Send + 'static,
) -> (Cluster, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let script = Script { nodes: Box::new(nodes), now: Duration::ZERO, asked: Arc::clone(&asked) };
    let trust = Trust::new(list.iter().copied(), secret).unwrap();
    (Cluster::over(Box::new(script), trust), asked)
}

fn answer(status: u16, body: &str) -> Reply {
    Ok(Answer { status, body: body.as_bytes().to_vec(), ..Answer::default() })
}

fn error(status: u16, kind: &str) -> Reply {
    answer(status, &format!(r#"{{"error":{{"kind":"{kind}","message":"as the script says"}}}}"#))
}

fn redirect(to: &str) -> Reply {
    let body = r#"{"error":{"kind":"not_leader","message":"it follows","leader":"TO"}}"#;
    answer(307, &body.replace("TO", to))
}

fn gone(arrived: bool) -> Reply {
    Err(Unanswered { arrived, why: Error::new(Kind::Io, "the script hung up") })
}

fn token(epoch: u64, offset: u64) -> Token {
    let epoch = Epoch { number: epoch, nonce: epoch };
    Token { log: Id([1; 16]), epoch, offset: Offset(offset) }
}

/// An acknowledgement by `epoch` of what `at` stands for.
fn acks(epoch: u64, at: Token, duplicate: bool) -> Reply {
    let offset = at.offset;
    answer(
        200,
        &format!(
            r#"{{"first_offset":{offset},"last_offset":{offset},"token":"{at}","level":"durable","copies":1,
               "duplicate":{duplicate},"epoch":{epoch},"epoch_nonce":"{epoch:016x}"}}"#
        ),
    )
}

/// A read that shows everything up to a token.
fn shows(at: Token, line: &str) -> Reply {
    answer(200, line).map(|answer| Answer { token: Some(at.to_string()), ..answer })
}

fn row(offset: u64) -> String {
    format!(
        "{{\"offset\":{offset},\"epoch\":1,\"ts\":\"2026-01-01T00:00:00Z\",\"op\":\"put\",\"key\":\"k\",\
         \"value\":\"v\"}}\n"
    )
}

fn batch() -> Batch {
    let mut batch = Batch::new();
    batch.push(&Record::put(b"k", b"v")).unwrap();
    batch
}

fn append(cluster: &mut Cluster) -> Outcome {
    cluster.append(&batch(), &AppendOptions::default())
}

fn key<'a>(question: &Question<'a>) -> &'a str {
    let found = question.headers.iter().find(|(name, _)| *name == "idempotency-key");
    found.expect("an append has a key").1
}

#[test]
fn redirects_in_a_circle_end_at_the_deadline_and_nothing_was_appended() {
    let (mut cluster, asked) = cluster(&[A, B], false, |url, _| match url {
        A => redirect(B),
        _ => redirect(A),
    });
    let Outcome::Rejected { why } = append(&mut cluster) else { panic!() };
    assert_eq!(why.kind(), Kind::NotLeader, "{why}");
    let asked = asked.lock().unwrap().len();
    assert!((4..=60).contains(&asked), "asked {asked} times in 10 s");
}

#[test]
fn when_all_are_dead_nothing_was_appended_and_it_ends_at_the_deadline() {
    let (mut cluster, asked) = cluster(&[A, B, C], false, |_, _| gone(false));
    let Outcome::Rejected { why } = append(&mut cluster) else { panic!() };
    assert_eq!(why.kind(), Kind::Io, "{why}");
    assert!(why.to_string().contains("among 3 known nodes"), "{why}");
    assert!(asked.lock().unwrap().iter().any(|url| url == C));
}

#[test]
fn an_old_leader_that_acknowledges_by_a_lower_epoch_is_not_believed() {
    let turn = Arc::new(Mutex::new(0));
    let at = Arc::clone(&turn);
    let (mut cluster, _) = cluster(&[A, B], false, move |url, question| {
        if question.body.is_none() {
            return error(404, "not_found");
        }
        match (url, *at.lock().unwrap()) {
            (B, 0) => acks(5, token(5, 10), false),
            // Its own leader does not answer for a while; the one before it does, and means it.
            (A, 1) => acks(4, token(4, 9), false),
            (B, 2) => acks(6, token(6, 11), false),
            (A, 2) => acks(4, token(4, 9), true),
            // Of the same number, by somebody else.
            (A, 3) => acks(6, token(6, 12), false).map(|answer| Answer {
                body: String::from_utf8(answer.body)
                    .unwrap()
                    .replace("\"epoch_nonce\":\"0000000000000006\"", "\"epoch_nonce\":\"f\"")
                    .into_bytes(),
                ..answer
            }),
            _ => gone(false),
        }
    });
    assert_eq!(append(&mut cluster).acked().unwrap().first, Offset(10));
    *turn.lock().unwrap() = 1;
    let Outcome::Unknown { why, .. } = append(&mut cluster) else { panic!() };
    assert!(why.to_string().contains("or a later one"), "{why}");
    *turn.lock().unwrap() = 2;
    assert_eq!(append(&mut cluster).acked().unwrap().first, Offset(11));
    *turn.lock().unwrap() = 3;
    assert!(matches!(append(&mut cluster), Outcome::Unknown { .. }));
}

#[test]
fn an_answer_that_breaks_off_after_the_append_is_retried_with_the_same_key() {
    // What every node holds, by key; A dies with the first append on its way to B.
    let log = Arc::new(Mutex::new(BTreeMap::<String, u64>::new()));
    let held = Arc::clone(&log);
    let (mut cluster, asked) = cluster(&[A, B], false, move |url, question| {
        if question.body.is_none() {
            return gone(false);
        }
        let mut held = held.lock().unwrap();
        let next = held.len() as u64;
        let duplicate = held.contains_key(key(question));
        let offset = *held.entry(key(question).to_owned()).or_insert(next);
        match (url, duplicate) {
            (A, false) if offset == 0 => gone(true),
            (A, _) => gone(false),
            // A retry's token is of the epoch that appended it.
            (_, true) => acks(2, token(1, offset), true),
            _ => acks(2, token(2, offset), false),
        }
    });
    let first = append(&mut cluster).acked().unwrap();
    assert_eq!((first.first, first.duplicate), (Offset(0), true));
    let second = append(&mut cluster).acked().unwrap();
    assert_eq!((second.first, second.duplicate), (Offset(1), false));
    assert_eq!(log.lock().unwrap().len(), 2, "each batch is there once");
    assert_eq!(*asked.lock().unwrap(), [A, B, B, B], "whoever answered as leader is asked first");
}

#[test]
fn what_may_have_been_appended_is_unknown_whatever_is_said_of_the_retry() {
    let cases: [Case; 6] = [
        (gone, true),
        (|_| error(503, "unknown"), true),
        (|_| error(500, "io"), true),
        (|_| answer(200, "{}"), true),
        (|_| error(503, "fenced"), false),
        (|_| gone(false), false),
    ];
    for (first, unknown) in cases {
        let mut once = Some(move || first(true));
        let nodes = move |_: &str, question: &Question<'_>| match question.body {
            None => gone(false),
            Some(_) => once.take().map_or_else(|| error(412, "rejected"), |first| first()),
        };
        let (mut cluster, _) = cluster(&[A, B], false, nodes);
        let outcome = append(&mut cluster);
        assert_eq!(matches!(outcome, Outcome::Unknown { .. }), unknown, "{outcome:?}");
        assert_eq!(matches!(outcome, Outcome::Rejected { .. }), !unknown, "{outcome:?}");
    }
    let (mut cluster, asked) = cluster(&[A, B], false, |_, _| error(412, "rejected"));
    let Outcome::Rejected { why } = append(&mut cluster) else { panic!() };
    assert_eq!(why.kind(), Kind::Rejected);
    assert_eq!(asked.lock().unwrap().len(), 1, "a condition that does not hold ends it at once");
}

#[test]
fn an_unknown_outcome_names_the_place_that_a_node_gave_it() {
    let at = token(1, 42);
    let body = format!(r#"{{"error":{{"kind":"unknown","message":"late","token":"{at}"}}}}"#);
    let (mut cluster, _) = cluster(&[A], false, move |_, _| answer(503, &body));
    let Outcome::Unknown { token, why, key } = append(&mut cluster) else { panic!() };
    assert_eq!((token, why.kind()), (Some(at), Kind::Unknown));
    assert!(key.ends_with("-1"));
}

#[test]
fn nodes_that_the_leader_names_are_asked_when_it_dies() {
    let dead = Arc::new(Mutex::new(false));
    let is_dead = Arc::clone(&dead);
    let (mut cluster, _) = cluster(&[A], false, move |url, question| match (url, question.path) {
        (A, _) if *is_dead.lock().unwrap() => gone(false),
        (A, "/v1/status") => answer(
            200,
            r#"{"leader":"http://a:1","nodes":[{"address":"http://a:1"},{},{"address":"http://c:1"}]}"#,
        ),
        (A, _) => acks(1, token(1, 0), false),
        (C, "/v1/status") => answer(200, r#"{"leader":null,"nodes":[]}"#),
        (C, path) if path.starts_with("/v1/records?timeout") => acks(2, token(2, 3), false),
        (C, _) => answer(200, ""),
        _ => panic!("{url} is nobody's"),
    });
    for _ in 0..2 {
        assert_eq!(append(&mut cluster).acked().unwrap().first, Offset(0));
    }
    *dead.lock().unwrap() = true;
    assert_eq!(append(&mut cluster).acked().unwrap().first, Offset(3));
    assert_eq!(cluster.leader(), Some(C));
}

#[test]
fn a_stranger_that_plain_http_names_gets_no_credentials() {
    let (mut cluster, asked) = cluster(&[A, B], true, |url, question| match (url, question.path) {
        (A | B, "/v1/status") => {
            answer(200, r#"{"leader":"http://z:9","nodes":[{"address":"http://z:9"}]}"#)
        }
        (A | B, _) => redirect("http://z:9"),
        _ => panic!("{url} was asked"),
    });
    let Outcome::Rejected { why } = append(&mut cluster) else { panic!() };
    assert!(why.to_string().contains("http://z:9") && why.to_string().contains("list it"), "{why}");
    assert!(asked.lock().unwrap().iter().all(|url| url == A || url == B));
}

#[test]
fn a_switchover_is_waited_out_in_short_rests() {
    let mut refusals = 0;
    let (mut cluster, _) = cluster(&[A, B], false, move |url, question| {
        if question.body.is_none() {
            return error(503, "busy");
        }
        refusals += 1;
        match (url, refusals) {
            (A, ..6) => error(503, "rejected"),
            (A, _) => redirect(B),
            (B, ..9) => error(503, "not_leader"),
            _ => acks(2, token(2, 8), false),
        }
    });
    assert_eq!(append(&mut cluster).acked().unwrap().first, Offset(8));
    assert!(cluster.world.now() < Duration::from_secs(1), "{:?}", cluster.world.now());
}

#[test]
fn reads_pass_over_who_lags_and_who_is_of_another_history() {
    let (mut cluster, asked) = cluster(&[A, B, C], false, |url, question| {
        let at_least = question.path.contains(&format!("at_least={}", token(2, 8)));
        match (url, question.body) {
            (A, Some(_)) => acks(2, token(2, 8), false),
            (_, Some(_)) => gone(false),
            _ if question.path == "/v1/status" => gone(false),
            _ if !at_least => panic!("{} shows anything", question.path),
            (A, _) => error(504, "timed_out"),
            (B, _) => error(409, "not_in_history"),
            _ => shows(token(2, 9), &row(9)),
        }
    });
    append(&mut cluster).acked().unwrap();
    let entry = cluster.get(b"k").unwrap().unwrap();
    assert_eq!(entry.offset, Offset(9));
    assert_eq!(cluster.token(), Some(token(2, 9)), "what was read is seen again");
    assert_eq!(*asked.lock().unwrap(), [A, A, B, C]);
}

#[test]
fn a_read_that_steps_back_is_not_shown() {
    let (mut cluster, _) = cluster(&[A, B], false, |url, question| match (url, question.path) {
        (_, "/v1/status") => gone(false),
        (A, _) if question.path.contains("at_least") => shows(token(1, 3), &row(3)),
        (A, _) => shows(token(1, 5), &row(5)),
        _ => shows(token(1, 6), &row(6)),
    });
    assert_eq!(cluster.get(b"k").unwrap().unwrap().offset, Offset(5));
    assert_eq!(cluster.get(b"k").unwrap().unwrap().offset, Offset(6));
}

#[test]
fn a_linearizable_read_goes_to_whoever_leads_and_ends_where_nobody_can_give_it() {
    let nodes = |url: &str, question: &Question<'_>| match (url, question.path) {
        (_, "/v1/status") => gone(false),
        (_, path) if !path.contains("consistency=linearizable") => panic!("{path}"),
        (A, _) => redirect(C),
        (B, _) => error(503, "not_leader"),
        _ => shows(token(2, 9), &row(9)),
    };
    let (mut one, asked) = cluster(&[A, B], false, nodes);
    one.consistency(Consistency::Linearizable);
    assert_eq!(one.get(b"k").unwrap().unwrap().offset, Offset(9));
    assert_eq!(one.leader(), Some(C));
    asked.lock().unwrap().clear();
    assert_eq!(one.get(b"k").unwrap().unwrap().offset, Offset(9));
    assert_eq!(*asked.lock().unwrap(), [C], "whoever led is asked first");
    let (mut two, asked) = cluster(&[A, B], false, |_, _| error(400, "invalid_input"));
    two.consistency(Consistency::Linearizable);
    assert_eq!(two.get(b"k").unwrap_err().kind(), Kind::InvalidInput);
    assert_eq!(asked.lock().unwrap().len(), 1, "at once");
}

#[test]
fn a_write_that_a_failover_lost_is_told_until_it_is_forgotten() {
    let mut appends = 0;
    let (mut cluster, _) = cluster(&[A], false, move |_, question| {
        match question.body {
            Some(_) => {
                appends += 1;
                // The second is by another epoch, further on in the log.
                acks(appends, token(appends, 10 * appends), false)
            }
            None if question.path == "/v1/status" => gone(false),
            None if question.path.contains(&format!("at_least={}", token(1, 10))) => {
                error(409, "not_in_history")
            }
            None => shows(token(2, 20), &row(20)),
        }
    });
    append(&mut cluster).acked().unwrap();
    append(&mut cluster).acked().unwrap();
    for _ in 0..2 {
        let lost = cluster.get(b"k").unwrap_err();
        assert_eq!((lost.kind(), lost.offset()), (Kind::NotInHistory, Some(10)), "{lost}");
    }
    cluster.forget();
    assert_eq!(cluster.get(b"k").unwrap().unwrap().offset, Offset(20));
}

#[test]
fn what_every_node_denies_is_not_in_history() {
    let (mut cluster, asked) = cluster(&[A, B], false, |url, question| match question.body {
        Some(_) => acks(1, token(1, 10), false),
        None if url == A => gone(false),
        None => error(409, "not_in_history"),
    });
    append(&mut cluster).acked().unwrap();
    assert_eq!(cluster.get(b"k").unwrap_err().kind(), Kind::NotInHistory);
    assert_eq!(asked.lock().unwrap().len(), 3, "at once");
}

#[test]
fn a_wrong_call_asks_nobody() {
    let (mut cluster, asked) = cluster(&[A], false, |_, _| gone(true));
    let empty = cluster.append(&Batch::new(), &AppendOptions::default());
    let blank = cluster.append(&batch(), &AppendOptions::default().key("a b"));
    for outcome in [empty, blank] {
        let Outcome::Rejected { why } = outcome else { panic!() };
        assert_eq!(why.kind(), Kind::InvalidInput);
    }
    assert!(asked.lock().unwrap().is_empty());
    assert!(Cluster::new(["mylog"], Credentials::default()).is_err());
}
