//! A client: appends one record after the other, each until it is acknowledged, and reads its own.
//!
//! Each append has a key of its own that makes retries safe, and a value that nobody else writes. What a
//! session is told it keeps: that, and nothing else, is what histories are held against. Invariants
//! that it checks itself:
//! - a read that was asked to be at least as new as a token is: it shows this write or a later one;
//! - a key never goes back to an older value, whichever node is asked;
//! - no token of this history is ever said to be of another.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::node::client;
use crate::dice::Dice;

/// Keys of one session.
const KEYS: usize = 7;
/// A moment between two tries.
const PAUSE: Duration = Duration::from_millis(15);

/// An acknowledged append.
#[derive(Clone, Debug)]
pub struct Ack {
    pub offset: u64,
    pub value: String,
    /// The copies that the acknowledgement counted, the leader's among them.
    pub copies: u64,
}

/// A row that somebody was shown.
#[derive(Clone, Debug)]
pub struct Shown {
    pub offset: u64,
    pub value: String,
    pub by: String,
}

/// What all sessions were told.
#[derive(Default)]
pub struct Told {
    pub appends: u64,
    pub acks: Vec<Ack>,
    pub unknown: u64,
    pub refused: u64,
    pub duplicates: u64,
    pub reads: u64,
    pub reads_refused: u64,
    pub shown: Vec<Shown>,
    pub found: Vec<String>,
}

/// Where sessions find nodes, and what they were told.
pub struct Board {
    /// Where appends go.
    pub leader: String,
    /// Name and address of each node that listens.
    pub nodes: Mutex<Vec<(String, String)>>,
    pub told: Mutex<Told>,
    /// No new appends; the one under way is seen through.
    pub finish: AtomicBool,
    /// Whatever is under way is given up.
    pub give_up: AtomicBool,
}

impl Board {
    /// What was told so far.
    pub fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One session, over all spells.
pub struct Session {
    id: u64,
    dice: Dice,
    counter: u64,
    token: Option<String>,
    /// The newest value of each key that it wrote or saw.
    newest: [u64; KEYS],
}

impl Session {
    /// One that has done nothing yet.
    pub fn new(id: u64, seed: u64) -> Self {
        Session { id, dice: Dice::new(seed ^ id << 40), counter: 0, token: None, newest: [0; KEYS] }
    }

    /// Appends and reads until it is told to finish; whether its last append was acknowledged.
    pub fn run(&mut self, board: &Board) -> bool {
        while !board.finish.load(SeqCst) {
            if !self.append(board) {
                return false;
            }
            if self.dice.chance(1, 2) {
                self.read(board);
            }
        }
        true
    }

    fn key(&self, counter: u64) -> String {
        format!("session {} key {}", self.id, counter % KEYS as u64)
    }

    fn append(&mut self, board: &Board) -> bool {
        self.counter += 1;
        let filling = "x".repeat(usize::try_from(self.dice.below(1500)).expect("short"));
        let value = format!("{} {} {filling}", self.id, self.counter);
        let body =
            json!({ "op": "put", "key": self.key(self.counter), "value": value }).to_string();
        let idempotency = format!("session {} append {}", self.id, self.counter);
        let headers = [("idempotency-key", idempotency.as_str())];
        board.told().appends += 1;
        let mut asked = client(&board.leader);
        while !board.give_up.load(SeqCst) {
            let Ok(client) = &asked else { return false };
            let path = "/v1/records?timeout=2s";
            let reply = client.post(path, &headers, body.as_bytes(), Duration::from_secs(2));
            let reply = reply.and_then(|reply| Ok((reply.status, reply.bytes(1 << 20)?)));
            match reply {
                Ok((200, body)) => {
                    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                    self.acked(board, &body, value);
                    return true;
                }
                Ok((503, body)) if String::from_utf8_lossy(&body).contains("\"unknown\"") => {
                    board.told().unknown += 1;
                }
                Ok((status, body)) => {
                    board.told().refused += 1;
                    if matches!(status, 400..=499) && status != 429 && status != 408 {
                        let body = String::from_utf8_lossy(&body).into_owned();
                        board.told().found.push(format!("an append was answered {status}: {body}"));
                        return false;
                    }
                }
                Err(_) => {
                    board.told().unknown += 1;
                    // A connection that broke is not used again.
                    asked = self::client(&board.leader);
                }
            }
            std::thread::sleep(PAUSE);
        }
        false
    }

    fn acked(&mut self, board: &Board, body: &Value, value: String) {
        let (Some(first), Some(last)) =
            (body["first_offset"].as_u64(), body["last_offset"].as_u64())
        else {
            board.told().found.push(format!("an acknowledgement names no offset: {body}"));
            return;
        };
        let mut told = board.told();
        if first != last {
            told.found.push(format!("one record was acknowledged as several: {body}"));
        }
        told.duplicates += u64::from(body["duplicate"] == true);
        let copies = body["copies"].as_u64().unwrap_or(0);
        told.acks.push(Ack { offset: first, value, copies });
        drop(told);
        self.token = body["token"].as_str().map(str::to_owned).or(self.token.take());
        let at = usize::try_from(self.counter % KEYS as u64).expect("a key");
        self.newest[at] = self.counter;
    }

    /// Reads the key that it wrote last, at any node.
    fn read(&mut self, board: &Board) {
        let nodes = board.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(token) = self.token.clone().filter(|_| !nodes.is_empty()) else { return };
        let which = usize::try_from(self.dice.below(nodes.len() as u64)).expect("an index");
        let (name, url) = &nodes[which];
        let path = format!(
            "/v1/table/{}?at_least={token}&timeout=300ms",
            self.key(self.counter).replace(' ', "%20")
        );
        let wait = Duration::from_millis(300);
        let reply = client(url).and_then(|client| {
            let reply = client.get(&path, &[], wait).map_err(|e| e.to_string())?;
            let newer = reply.header("x-tidelog-token").map(str::to_owned);
            let status = reply.status;
            Ok((status, newer, reply.bytes(1 << 20).map_err(|e| e.to_string())?))
        });
        let mut told = board.told();
        match reply {
            Ok((200, newer, body)) => {
                let row: Value = serde_json::from_slice(&body).unwrap_or_default();
                let value = row["value"].as_str().unwrap_or_default();
                let counter =
                    value.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
                let at = usize::try_from(self.counter % KEYS as u64).expect("a key");
                if counter < self.newest[at] {
                    let newest = self.newest[at];
                    told.found.push(format!(
                        "I5: {name} shows append {counter} of session {} under a token, after \
                         {newest} was acknowledged or shown",
                        self.id
                    ));
                }
                self.newest[at] = self.newest[at].max(counter);
                told.reads += 1;
                let offset = row["offset"].as_u64().unwrap_or(u64::MAX);
                told.shown.push(Shown { offset, value: value.to_owned(), by: name.clone() });
                // A session keeps the highest of what it wrote and read.
                self.token = newer.or(Some(token));
            }
            Ok((status @ (404 | 409), _, body)) => {
                let body = String::from_utf8_lossy(&body).into_owned();
                told.found.push(format!("I5: {name} answers {status} to {token}: {body}"));
            }
            Ok(_) | Err(_) => told.reads_refused += 1,
        }
    }
}
