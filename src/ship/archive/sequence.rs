//! The contested sequence: what becomes of one entry that somebody wants to append.
//!
//! [`Contest`] decides and does no I/O: it says what to ask the store next, and is told what came
//! of it. [`run`] is the thin driver. The rules, for `create(n)`:
//!
//! | found at n | appending | fencing |
//! |---|---|---|
//! | created, or there with my put id | mine | mine |
//! | there, of a lower epoch | halt | passed: try n + 1 |
//! | there, same number and nonce, other put id | halt | halt |
//! | there, same number, other nonce | fenced, halt | fenced, halt |
//! | there, of a higher epoch | fenced, halt | fenced, halt |
//! | conflict, time-out, 5xx | read n back | read n back |
//! | nothing, on reading back | create n again, same bytes | the same |
//!
//! Invariant: nobody goes on to n + 1 while it is unknown whose n is: a create that "fails" may be
//! one's own success, and one that is given up on may still come.

use crate::error::{Error, Kind, Result};
use crate::mutant::{self, Mutant};

use super::entry::{EntryHead, What};
use super::name::ObjectName;
use super::store::{Create, Store};
use super::walk;

/// Questions without an answer before a contest is put off.
pub const ATTEMPTS: u32 = 8;

/// One entry on its way into the sequence.
#[derive(Clone, Debug)]
pub struct Contest {
    head: EntryHead,
    bytes: Vec<u8>,
    step: Step,
    /// Steps that brought no answer, one behind the other.
    fruitless: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Read,
    Over(Verdict),
}

/// What is to be asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Create the entry under its name, with exactly its bytes.
    Create,
    /// Read the head that stands there.
    Read,
}

/// What the store said.
#[derive(Clone, Debug)]
pub enum Reply {
    /// It was created.
    Created,
    /// Something was there.
    Exists,
    /// Nobody knows.
    Unknown,
    /// This stands there.
    Found(Box<EntryHead>),
    /// Nothing stands there.
    Absent,
}

/// How a contest ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is in the sequence.
    Mine,
    /// A fence met an entry of an older epoch: it comes behind that one.
    Passed,
    /// A newer epoch, or another owner of this one's number, has taken over.
    Fenced(Box<EntryHead>),
    /// Another process appends as this very leader.
    Twin,
    /// An older epoch appended behind this one's fence: against the rules.
    Stray,
}

impl Contest {
    /// A contest for the entry with this head and these bytes.
    pub fn new(head: EntryHead, bytes: Vec<u8>) -> Self {
        Contest { head, bytes, step: Step::Create, fruitless: 0 }
    }

    /// The entry.
    pub fn head(&self) -> &EntryHead {
        &self.head
    }

    /// What to ask next; the verdict when there is nothing more to ask. `None`: too many questions
    /// in a row went unanswered, and it is still open.
    pub fn next(&self) -> Option<Result<Ask, Verdict>> {
        match &self.step {
            Step::Over(verdict) => Some(Err(verdict.clone())),
            _ if self.fruitless >= ATTEMPTS => None,
            Step::Create => Some(Ok(Ask::Create)),
            Step::Read => Some(Ok(Ask::Read)),
        }
    }

    /// Whether the store has said whose n is.
    pub fn is_decided(&self) -> bool {
        matches!(self.step, Step::Over(_))
    }

    /// Takes up a contest that was put off. Whether its last create counted is unknown, so it
    /// reads first.
    pub fn resume(&mut self) {
        self.fruitless = 0;
        if self.step == Step::Create {
            self.step = Step::Read;
        }
    }

    /// Takes the store's answer to what was asked.
    pub fn take(&mut self, reply: Reply) {
        let fruitless = self.fruitless + 1;
        self.fruitless = 0;
        self.step = match reply {
            Reply::Created => Step::Over(Verdict::Mine),
            Reply::Unknown if self.step == Step::Create && mutant::on(Mutant::UnknownIsMine) => {
                Step::Over(Verdict::Mine)
            }
            // A failed read is asked again; a failed create is looked for.
            Reply::Exists | Reply::Unknown => {
                self.fruitless = fruitless;
                Step::Read
            }
            // The same n, the same bytes: whichever of the two arrives first, it is this entry.
            Reply::Absent => {
                self.fruitless = fruitless;
                Step::Create
            }
            Reply::Found(there) => Step::Over(self.judge(there)),
        };
    }

    fn judge(&self, there: Box<EntryHead>) -> Verdict {
        let (mine, theirs) = (self.head.epoch, there.epoch);
        if there.put_id == self.head.put_id && !mutant::on(Mutant::ForgetPutId) {
            return Verdict::Mine;
        }
        if theirs == mine {
            return Verdict::Twin;
        }
        if theirs.number >= mine.number && !mutant::on(Mutant::IgnoreFence) {
            return Verdict::Fenced(there);
        }
        match self.head.what {
            What::Fence { .. } => Verdict::Passed,
            _ => Verdict::Stray,
        }
    }
}

/// What a driven contest comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Won {
    /// It is in the sequence.
    Mine,
    /// It is a fence, and comes behind what is there.
    Passed,
}

/// Drives a contest against the store. An error may leave it open ([`Contest::is_decided`]): then it
/// must be taken up again before anything else is appended.
pub fn run(store: &dyn Store, contest: &mut Contest) -> Result<Won> {
    let name = ObjectName::Log(contest.head.n);
    let mut trouble: Option<Error> = None;
    loop {
        let ask = match contest.next() {
            Some(Ok(ask)) => ask,
            Some(Err(verdict)) => return decide(store, &name, contest, verdict),
            None => {
                let why = trouble.map_or_else(String::new, |e| format!(": {}", e.message()));
                return Err(Error::new(
                    Kind::Unknown,
                    format!(
                        "the store did not say whether entry {} was written{why}",
                        contest.head.n
                    ),
                )
                .in_file(&store.file(&name))
                .help("try again: the same entry is tried first, and nothing is written twice"));
            }
        };
        if contest.fruitless > 1 {
            store.back_off(contest.fruitless - 1);
        }
        let reply = match ask {
            Ask::Create => match store.create(&name, &contest.bytes) {
                Create::Created => Reply::Created,
                Create::Exists => Reply::Exists,
                Create::Unknown(error) => {
                    trouble = Some(error);
                    Reply::Unknown
                }
            },
            Ask::Read => match walk::head(store, contest.head.n) {
                Ok(Some(head)) => Reply::Found(Box::new(head)),
                Ok(None) => Reply::Absent,
                Err(error) if error.kind() == Kind::Corrupt => return Err(error),
                Err(error) => {
                    trouble = Some(error);
                    Reply::Unknown
                }
            },
        };
        contest.take(reply);
    }
}

fn decide(
    store: &dyn Store,
    name: &ObjectName,
    contest: &Contest,
    verdict: Verdict,
) -> Result<Won> {
    let mine = contest.head.epoch;
    let error = match verdict {
        Verdict::Mine => return Ok(Won::Mine),
        Verdict::Passed => return Ok(Won::Passed),
        Verdict::Fenced(there) => fenced(mine.number, &there),
        Verdict::Twin => Error::new(
            Kind::Locked,
            format!("expected entry {} to be free, found one by another process that publishes this log", contest.head.n),
        )
        .help("one process publishes at a time: stop the other, or leave it to it"),
        Verdict::Stray => Error::new(
            Kind::Corrupt,
            format!("expected nothing of an epoch before {} behind its fence, found entry {}", mine.number, contest.head.n),
        )
        .help("something other than tidelog wrote there"),
    };
    Err(error.in_file(&store.file(name)))
}

/// The error of a leader that has been replaced.
pub fn fenced(mine: u64, there: &EntryHead) -> Error {
    Error::new(
        Kind::Fenced,
        format!(
            "expected to publish as epoch {mine}, found that epoch {} of node {} has taken over",
            there.epoch, there.node
        ),
    )
    .help("this node leads no more: nothing of it was published behind that; follow the new leader")
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, StoreFault};
    use super::super::name::Hash;
    use super::*;
    use crate::position::{Epoch, Id, LogByte, Offset};

    fn fence(number: u64, nonce: u64, put_id: u8) -> (EntryHead, Vec<u8>) {
        let head = EntryHead {
            log: Id([1; 16]),
            n: 1,
            rollup: 0,
            previous: Hash([0; 32]),
            epoch: Epoch { number, nonce },
            node: Id([2; 16]),
            put_id: Id([put_id; 16]),
            time: 5,
            payload_bytes: 0,
            payload_hash: Hash([0; 32]),
            what: What::Fence {
                parent: Epoch::default(),
                fork: LogByte(0),
                fork_offset: Offset(0),
            },
        };
        head.with_payload(&[])
    }

    fn append(number: u64, nonce: u64, put_id: u8) -> (EntryHead, Vec<u8>) {
        let (head, _) = fence(number, nonce, put_id);
        EntryHead { what: What::Rollup, ..head }.with_payload(b"something")
    }

    fn contest(of: (EntryHead, Vec<u8>)) -> Contest {
        Contest::new(of.0, of.1)
    }

    #[test]
    fn every_line_of_the_table_of_outcomes() {
        let cases = [
            (fence(3, 1, 7), append(3, 1, 7), Ok(Won::Mine)),
            (append(2, 1, 8), append(3, 1, 7), Err(Kind::Corrupt)),
            (append(2, 1, 8), fence(3, 1, 7), Ok(Won::Passed)),
            (append(3, 1, 8), append(3, 1, 7), Err(Kind::Locked)),
            (append(3, 1, 8), fence(3, 1, 7), Err(Kind::Locked)),
            (append(3, 2, 8), append(3, 1, 7), Err(Kind::Fenced)),
            (append(3, 2, 8), fence(3, 1, 7), Err(Kind::Fenced)),
            (append(4, 2, 8), append(3, 1, 7), Err(Kind::Fenced)),
            (append(4, 2, 8), fence(3, 1, 7), Err(Kind::Fenced)),
        ];
        for (i, (there, mine, expected)) in cases.into_iter().enumerate() {
            for pruned in [false, true] {
                let fake = Fake::new();
                let bytes = match pruned {
                    true => there.0.tombstone().encode().to_vec(),
                    false => there.1.clone(),
                };
                fake.plant(ObjectName::Log(1), Some(bytes.clone()));
                let outcome = run(&fake.client(), &mut contest(mine.clone()));
                assert_eq!(outcome.map_err(|e| e.kind()), expected, "case {i}, pruned {pruned}");
                assert_eq!(fake.object(&ObjectName::Log(1)), Some(bytes), "what exists stays");
            }
        }
    }

    #[test]
    fn a_create_that_seems_to_fail_is_looked_for_and_never_written_twice() {
        for fault in StoreFault::ALL {
            let killed = matches!(fault, StoreFault::KilledBefore | StoreFault::KilledAfter);
            let fake = Fake::new();
            let mine = append(3, 1, 7);
            let mut contest = contest(mine.clone());
            let outcome = run(&fake.failing(1, fault), &mut contest);
            if killed {
                assert_eq!(outcome.unwrap_err().kind(), Kind::Unknown, "{fault:?}");
                contest.resume();
                assert_eq!(run(&fake.client(), &mut contest).unwrap(), Won::Mine);
            } else {
                assert_eq!(outcome.unwrap(), Won::Mine, "{fault:?}");
            }
            fake.settle();
            assert_eq!(fake.created(), [(ObjectName::Log(1), mine.1)], "{fault:?}");
        }
    }

    #[test]
    fn a_contest_that_is_put_off_stays_with_its_n_and_its_bytes() {
        let mut contest = contest(append(3, 1, 7));
        let mut asked = 0;
        while let Some(ask) = contest.next() {
            assert!(matches!(ask, Ok(Ask::Create | Ask::Read)));
            contest.take(Reply::Unknown);
            asked += 1;
        }
        assert_eq!(asked, ATTEMPTS);
        contest.resume();
        assert_eq!(contest.next().unwrap().unwrap(), Ask::Read, "it may have been written");
        contest.take(Reply::Absent);
        assert_eq!(contest.next().unwrap().unwrap(), Ask::Create);
        contest.take(Reply::Created);
        assert_eq!(contest.next().unwrap().unwrap_err(), Verdict::Mine);
    }

    #[test]
    fn an_answer_resets_the_patience() {
        let mut contest = contest(append(3, 1, 7));
        for _ in 0..ATTEMPTS - 1 {
            contest.take(Reply::Unknown);
        }
        assert!(contest.next().is_some());
        contest.take(Reply::Found(Box::new(append(3, 1, 7).0)));
        assert_eq!(contest.next().unwrap().unwrap_err(), Verdict::Mine);
    }
}
