//! A client of nodes that change roles: appends through [`Cluster`], each record until it is acknowledged, and
//! reads its own. What it is told it keeps; what it checks itself:
//! - I4: an epoch that was replaced acknowledges nothing new: not once anybody was acknowledged by a later one;
//! - I5: a key never goes back, whichever node is asked, until the client was told that something was lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidelog::client::{Acked, AppendOptions, Cluster, Outcome};
use tidelog::ship::Credentials;
use tidelog::{Batch, Kind, Record, Token};

use crate::dice::Dice;

/// Clients at a time.
pub const WRITERS: u64 = 4;
/// Keys of one client.
const KEYS: usize = 7;
/// A moment between two appends: there are other things to find than how fast it is.
const PAUSE: Duration = Duration::from_millis(4);
/// How long one append or read is tried before it is counted and tried again.
const TRIED: Duration = Duration::from_secs(3);

/// What the mode that rules promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// A failover loses nothing that was acknowledged, and nothing that was shown.
    All,
    /// Nothing that was acknowledged as `replicated`.
    Replicated,
    /// Nothing; what is lost is kept and told.
    Nothing,
}

/// A record, by who wrote it and as which.
pub type Name = (u64, u64);

/// An acknowledged append.
#[derive(Clone, Debug)]
pub struct Ack {
    pub name: Name,
    pub token: Token,
    /// Whether it must be there whatever happens to one node.
    pub promised: bool,
}

/// What all clients were told.
#[derive(Default)]
pub struct Told {
    pub acks: Vec<Ack>,
    /// Who acknowledged in each epoch: its nonce and the node.
    pub led: BTreeMap<u64, (u64, usize)>,
    /// Appends that were given up after every node had said that nothing was appended.
    pub refused_for_good: Vec<Name>,
    /// Shown under a mode that shows only what stays: at which offset.
    pub shown: Vec<(u64, Name)>,
    /// A client was told that something was lost: these are all that it could mean.
    pub disowned: Vec<Vec<Token>>,
    pub unknown: u64,
    pub refused: u64,
    pub duplicates: u64,
    pub reads: u64,
    pub reads_refused: u64,
    pub found: Vec<String>,
}

/// What clients and the schedule share.
pub struct Board {
    /// Where clients find the nodes; two addresses of each, one after the other.
    pub listed: Vec<String>,
    /// Which node an address is of.
    pub whose: BTreeMap<String, usize>,
    /// How many appends each client has begun, over all times.
    pub begun: Vec<AtomicU64>,
    /// The newest epoch that anybody was acknowledged by.
    pub newest: AtomicU64,
    pub promise: Mutex<Promise>,
    pub told: Mutex<Told>,
    /// No new appends; the one under way is seen through.
    pub finish: AtomicBool,
    /// Whatever is under way is given up.
    pub give_up: AtomicBool,
}

impl Board {
    /// What was told so far.
    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn promise(&self) -> Promise {
        *self.promise.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client writes as its n-th value: nobody else writes that, and whoever reads it can tell.
pub fn value((writer, count): Name) -> String {
    let length = (writer * 131 + count * 7919) % 700;
    let filling = "x".repeat(usize::try_from(length).expect("short"));
    format!("{writer} {count} {filling}")
}

/// Whose value that is; `None` when no client would write it.
pub fn name(text: &[u8]) -> Option<Name> {
    let text = std::str::from_utf8(text).ok()?;
    let mut words = text.split(' ').map(str::parse);
    let name = (words.next()?.ok()?, words.next()?.ok()?);
    (value(name) == text).then_some(name)
}

/// One client, over all spells.
pub struct Writer {
    id: u64,
    dice: Dice,
    count: u64,
    cluster: Cluster,
    /// The newest value of each key that it wrote or saw, since it last was told of a loss.
    newest: [u64; KEYS],
    /// What it was acknowledged since then.
    tokens: Vec<Token>,
}

impl Writer {
    /// One that has done nothing yet.
    pub fn new(id: u64, seed: u64, board: &Board) -> Result<Self, String> {
        let listed = board.listed.iter().map(String::as_str);
        let cluster = Cluster::new(listed, Credentials::default()).map_err(|e| e.to_string())?;
        Ok(Writer {
            id,
            dice: Dice::new(seed ^ (id + 1) << 40),
            count: 0,
            cluster: cluster.timeout(TRIED),
            newest: [0; KEYS],
            tokens: Vec::new(),
        })
    }

    /// Appends and reads until it is told to finish.
    pub fn run(&mut self, board: &Board) {
        while !board.finish.load(SeqCst) && !board.give_up.load(SeqCst) {
            self.append(board);
            if self.dice.chance(1, 4) {
                self.read(board);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn key(&self, count: u64) -> String {
        format!("writer {} key {}", self.id, count % KEYS as u64)
    }

    fn append(&mut self, board: &Board) {
        self.count += 1;
        let name = (self.id, self.count);
        let me = usize::try_from(self.id).expect("few");
        board.begun[me].store(self.count, SeqCst);
        let before = board.newest.load(SeqCst);
        let (key, value) = (self.key(self.count), value(name));
        let mut batch = Batch::new();
        if let Err(e) = batch.push(&Record::put(key.as_bytes(), value.as_bytes())) {
            board.told().found.push(format!("a record cannot be made: {e}"));
            return;
        }
        let how =
            AppendOptions::default().timeout(TRIED).key(format!("{}-{}", self.id, self.count));
        let mut open = false;
        while !board.give_up.load(SeqCst) {
            match self.cluster.append(&batch, &how) {
                Outcome::Acked(acked) => return self.acked(board, name, &acked, before),
                Outcome::Unknown { .. } => {
                    board.told().unknown += 1;
                    open = true;
                }
                Outcome::Rejected { why } => {
                    let mut told = board.told();
                    told.refused += 1;
                    let never = matches!(
                        why.kind(),
                        Kind::InvalidInput | Kind::Corrupt | Kind::WrongLog | Kind::Diverged
                    );
                    if never {
                        told.found.push(format!("an append was answered: {why}"));
                    }
                    // Nobody has appended it: it is nowhere, and stays so.
                    if !open && self.dice.chance(1, 4) {
                        told.refused_for_good.push(name);
                        return;
                    }
                }
            }
        }
    }

    fn acked(&mut self, board: &Board, name: Name, acked: &Acked, before: u64) {
        let (promise, token) = (board.promise(), acked.token);
        let node = self.cluster.leader().and_then(|url| board.whose.get(url)).copied();
        let mut told = board.told();
        told.duplicates += u64::from(acked.duplicate);
        if acked.first != acked.last || acked.first != token.offset {
            told.found.push(format!("one record was acknowledged as several: {acked:?}"));
        }
        let promised = match promise {
            Promise::All => true,
            Promise::Replicated => acked.level == "replicated",
            Promise::Nothing => false,
        };
        if !acked.duplicate {
            let epoch = token.epoch.number;
            if epoch < before {
                told.found.push(format!(
                    "I4: {name:?} was appended and acknowledged by epoch {epoch}, after somebody had been \
                     acknowledged by epoch {before}"
                ));
            }
            let by = (token.epoch.nonce, node.unwrap_or(usize::MAX));
            let known = *told.led.entry(epoch).or_insert(by);
            if known != by {
                told.found.push(format!(
                    "I4: two leaders of epoch {epoch} acknowledged: {known:?} and {by:?}"
                ));
            }
            board.newest.fetch_max(epoch, SeqCst);
        }
        told.acks.push(Ack { name, token, promised });
        drop(told);
        let at = usize::try_from(self.count % KEYS as u64).expect("a key");
        self.newest[at] = self.count;
        self.tokens.push(token);
    }

    /// Reads one of its keys, at whichever node shows what it has seen.
    fn read(&mut self, board: &Board) {
        let key = self.dice.below((KEYS as u64).min(self.count));
        let key = self.count - key;
        let at = usize::try_from(key % KEYS as u64).expect("a key");
        let promise = board.promise();
        let read = self.cluster.get(self.key(key).as_bytes());
        let mut told = board.told();
        match read {
            Ok(entry) => {
                told.reads += 1;
                let shown =
                    entry.as_ref().map(|entry| (entry.offset.0, name(entry.record().value)));
                let count = match shown {
                    None => 0,
                    Some((offset, Some(name))) if name.0 == self.id => {
                        if promise == Promise::All {
                            told.shown.push((offset, name));
                        }
                        name.1
                    }
                    Some(other) => {
                        told.found.push(format!("I3: client {} was shown {other:?}", self.id));
                        return;
                    }
                };
                if count < self.newest[at] {
                    let (id, newest) = (self.id, self.newest[at]);
                    told.found.push(format!(
                        "I5: client {id} is shown its append {count} after {newest} was acknowledged or shown"
                    ));
                }
                self.newest[at] = self.newest[at].max(count);
            }
            Err(e) if e.kind() == Kind::NotInHistory => {
                self.tokens.extend(self.cluster.token());
                told.disowned.push(std::mem::take(&mut self.tokens));
                self.cluster.forget();
                self.newest = [0; KEYS];
            }
            Err(_) => told.reads_refused += 1,
        }
    }
}
