//! From an epoch that was won to a node that may begin it: promises, positions, the longest tail.
//!
//! A state machine that takes one step at a time: it asks one node, or fetches from one, and says what is
//! next. Production and simulation drive the same. In the order in which safety needs it: the candidate
//! promises the epoch to itself; the others promise it, and say how far they are *then*; enough of them must
//! have; what the furthest has is fetched; a newer set in it is counted anew; then the node may begin.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::frame::Mode;
use crate::log::files::Promise;
use crate::mutant::{self, Mutant};
use crate::position::{Epoch, Id, Position};
use crate::replica::Follower;
use crate::ship::archive::{self, Archive, Owner, Store};

use super::ask::{Ask, Peer, Peers, Standing};
use super::quorum::{Lacking, lacking_by_all, ruling};

/// An old leader that publishes on is quicker so often at most, where the archive does not decide.
const FENCES: usize = 8;

/// How far a promotion is.
#[derive(Clone, Debug)]
pub enum Stage {
    /// There are nodes that were not asked yet, or a tail to be fetched: step again.
    Going,
    /// Too few have promised, or none that is far enough can be read; who may still come can be asked
    /// [`again`](Promotion::again).
    Short(Error),
    /// The node may begin its epoch.
    Ready,
}

/// A candidate on its way.
#[derive(Debug)]
pub struct Promotion {
    epoch: Epoch,
    ask: Ask,
    /// Those that have promised, with what they said then.
    granted: BTreeMap<Id, (Peer, Standing)>,
    /// What everybody said last, by address: also those that do not count know sets.
    told: BTreeMap<String, Standing>,
    /// Who was asked since the last [`again`](Promotion::again), and did not promise: why.
    failed: BTreeMap<String, String>,
    /// Whose tail could not be fetched.
    unread: BTreeSet<Id>,
    /// Whether it has what the archive holds, as far as that is needed.
    replayed: bool,
    /// What the archive holds and cannot be had may be given up.
    accepts: bool,
    /// Whether the archive's history is another than the candidate's.
    astray: bool,
    /// Who is further, by a history that the candidate's tail is not part of.
    better: Option<Peer>,
}

impl Promotion {
    /// Binds the candidate to the epoch that it has won. An error means that it must not lead by it.
    pub fn begin(follower: &Follower, epoch: Epoch, ask: &Ask) -> Result<Self> {
        let report = follower.report_now();
        if report.unclean {
            return Err(unclean(follower.node()));
        }
        let mine = Promise { epoch, owner: follower.node() };
        let promised = follower.promises().raise(mine)?;
        if promised != mine {
            return Err(bound(follower.node(), promised.epoch));
        }
        Ok(Promotion {
            epoch,
            ask: Ask { epoch: Some(epoch), ..ask.clone() },
            granted: BTreeMap::new(),
            told: BTreeMap::new(),
            failed: BTreeMap::new(),
            unread: BTreeSet::new(),
            replayed: false,
            accepts: false,
            astray: false,
            better: None,
        })
    }

    /// The epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// An operator gives up what only the archive holds, if it cannot be had: it leads without that, and the archive
    /// takes nothing of it before its history is cut there (`tidelog archive push --accept-loss`).
    #[must_use]
    pub fn accept_loss(mut self, accept: bool) -> Self {
        self.accepts = accept;
        self
    }

    /// Those that have promised.
    pub fn granted(&self) -> impl Iterator<Item = &Standing> {
        self.granted.values().map(|(_, standing)| standing)
    }

    /// Whether the archive's history is another than the candidate's: it has to follow the archive before it can lead.
    pub fn is_astray(&self) -> bool {
        self.astray
    }

    /// Who is to lead instead: it is further, and the candidate's own tail is not part of its history. The candidate
    /// can rejoin behind it.
    pub fn better(&self) -> Option<&Peer> {
        self.better.as_ref()
    }

    /// Asks once more those that did not promise.
    pub fn again(&mut self) {
        self.failed.clear();
        self.unread.clear();
    }

    /// Takes one step. An error ends it: somebody has promised a later epoch, or the candidate has.
    pub fn step(&mut self, follower: &mut Follower, peers: &mut dyn Peers) -> Result<Stage> {
        let me = follower.node();
        let own = follower.promises().get();
        if own != Some(Promise { epoch: self.epoch, owner: me }) {
            return Err(bound(me, own.map_or_else(Epoch::default, |promise| promise.epoch)));
        }
        if let Some(peer) = self.next(peers) {
            self.ask(&peer, peers, me)?;
            return Ok(Stage::Going);
        }
        let sets = follower.sets();
        let committed = follower.committed().0;
        let promised = |id: Id| id == me || self.granted.contains_key(&id);
        let told = self.told.values();
        if let Some(lacking) = lacking_by_all(&sets, committed, told, promised) {
            return Ok(Stage::Short(self.short(&lacking)));
        }
        if let Some(newest) = sets.last().filter(|line| !line.set.lets_lead(me)) {
            return Err(Error::new(
                Kind::Rejected,
                format!(
                    "expected a member of the set {} to lead, found {me}, which is none",
                    newest.set
                ),
            )
            .help("promote a member; or change the set while there is a leader"));
        }
        let end = follower.position();
        let Some((peer, there)) = self.furthest(end) else { return self.replay(follower, peers) };
        let (node, position) = (there.node(), there.report.durable);
        let fetched = peers.source(&peer).and_then(|source| follower.inherit(source));
        match fetched {
            Ok(()) if furthest(position) <= furthest(follower.position()) => {}
            Ok(()) => {
                self.unread.insert(node);
                let message = format!("its tail up to log byte {} did not come", position.log_byte);
                self.failed.insert(peer.address, message);
            }
            Err(e) if matches!(e.kind(), Kind::NotInHistory | Kind::Diverged) => {
                self.better = self.instead(end);
                return Err(Error::new(
                    Kind::Rejected,
                    format!(
                        "expected the candidate's log to be part of that of {}, which goes further \
                         (epoch {}, log byte {}); found that they differ",
                        peer.address, position.epoch, position.log_byte
                    ),
                )
                .help("promote that node; this one can rejoin behind it"));
            }
            Err(e) => {
                self.unread.insert(node);
                self.failed.insert(peer.address, e.to_string());
            }
        }
        if self.unread.contains(&node) {
            let why = self.failed.values().cloned().collect::<Vec<_>>().join("; ");
            return Ok(Stage::Short(
                Error::new(
                    Kind::Io,
                    format!("expected the tail of {node}, which goes furthest, found that it cannot be had: {why}"),
                )
                .help("it is tried again; what it holds may have been acknowledged"),
            ));
        }
        Ok(Stage::Going)
    }

    /// What the archive holds and this log does not is fetched. Under the mode `archive` nothing else says what
    /// was acknowledged, and under `async` it may have all that is left: the archive is fenced first, and all below
    /// the fence must be here. Under `bounded` and `semi` it is only the better for it, and is fenced where it ends as
    /// soon as all of it is here: what the old leader published behind that would close it to the new one. Under `sync`
    /// it has no more than this log.
    fn replay(&mut self, follower: &mut Follower, peers: &mut dyn Peers) -> Result<Stage> {
        let (sets, committed) = (follower.sets(), follower.committed().0);
        let archived = ruling(&sets, committed).iter().any(|line| line.set.mode == Mode::Archive);
        let mode = sets.last().map(|line| line.set.mode).unwrap_or_default();
        let decides = !self.accepts && (archived || mode == Mode::Async);
        let kept = matches!(mode, Mode::Sync { .. });
        if self.replayed || kept && !archived || mutant::on(Mutant::SkipReplay) {
            return Ok(Stage::Ready);
        }
        let Some(store) = peers.archive() else {
            return match archived && !self.accepts {
                true => Err(no_archive()),
                false => Ok(Stage::Ready),
            };
        };
        let owner = Owner { log: self.ask.log, epoch: self.epoch, node: follower.node() };
        let replayed = match decides {
            true => {
                archive::take_over(&*store, &owner, &Arc::clone(follower.fs()), follower.floor())
                    .and_then(|state| fetch(follower, &store, &state))
            }
            false => join(follower, &store, &owner),
        };
        match replayed {
            Err(e) if e.kind() == Kind::Fenced => Err(e),
            Err(e)
                if decides
                    && matches!(
                        e.kind(),
                        Kind::Diverged | Kind::NotInHistory | Kind::CommittedDataLoss
                    ) =>
            {
                self.astray = e.kind() != Kind::CommittedDataLoss;
                Err(not_in_archive(&e))
            }
            Err(e) if decides => Ok(Stage::Short(
                Error::new(
                    Kind::Io,
                    format!(
                        "expected all that the archive holds, found that it cannot be had: {e}"
                    ),
                )
                .help("it is tried again; what it holds was acknowledged"),
            )),
            _ => {
                self.replayed = true;
                // Newer sets may have come along.
                Ok(Stage::Going)
            }
        }
    }

    /// Who is to be asked next.
    fn next(&self, peers: &dyn Peers) -> Option<Peer> {
        let asked = |peer: &Peer| {
            self.failed.contains_key(&peer.address)
                || self.granted.values().any(|(known, _)| known.address == peer.address)
        };
        peers.known().into_iter().find(|peer| !asked(peer))
    }

    fn ask(&mut self, peer: &Peer, peers: &mut dyn Peers, me: Id) -> Result<()> {
        let ask = match mutant::on(Mutant::CountAnswers) {
            true => &Ask { epoch: None, ..self.ask.clone() },
            false => &self.ask,
        };
        let standing = match peers.ask(peer, ask) {
            Ok(standing) => standing,
            Err(e) => {
                self.failed.insert(peer.address.clone(), e.to_string());
                return Ok(());
            }
        };
        let mut refuse = |why: String| {
            self.failed.insert(peer.address.clone(), why);
            Ok(())
        };
        if standing.report.log != Some(self.ask.log) {
            return refuse("it is of another log".into());
        }
        if standing.node() == me {
            return refuse("it is this node".into());
        }
        self.told.insert(peer.address.clone(), standing.clone());
        if !standing.grants(self.epoch, me) && !mutant::on(Mutant::CountAnswers) {
            let seen = standing.seen();
            if seen >= self.epoch.number {
                return Err(Error::new(
                    Kind::Fenced,
                    format!(
                        "expected {} to promise epoch {}, found that it knows epoch {seen}",
                        peer.address, self.epoch
                    ),
                )
                .help("another node leads, or is about to; or try again, by a higher number"));
            }
            return refuse("it did not promise".into());
        }
        if standing.report.unclean {
            return refuse("it lost what it had acknowledged, and does not count".into());
        }
        self.granted.insert(standing.node(), (peer.clone(), standing));
        Ok(())
    }

    /// Who of those that promised is further than `end`, most of all.
    fn furthest(&self, end: Position) -> Option<(Peer, Standing)> {
        if mutant::on(Mutant::SkipTail) {
            return None;
        }
        let ahead = self
            .granted
            .values()
            .filter(|(_, there)| furthest(there.report.durable) > furthest(end));
        ahead.max_by_key(|(_, there)| furthest(there.report.durable)).cloned()
    }

    /// Of those that are further and may lead, the furthest: not always the one that is furthest of all.
    fn instead(&self, end: Position) -> Option<Peer> {
        let further = self.granted.values().filter(|(_, there)| {
            furthest(there.report.durable) > furthest(end) && there.can_lead()
        });
        further
            .max_by_key(|(_, there)| furthest(there.report.durable))
            .map(|(peer, _)| peer.clone())
    }

    fn short(&self, lacking: &Lacking) -> Error {
        let why: Vec<String> =
            self.failed.iter().map(|(address, why)| format!("{address}: {why}")).collect();
        let missing: Vec<String> = lacking.missing.iter().map(ToString::to_string).collect();
        let why = if why.is_empty() { "no other node is known".into() } else { why.join("; ") };
        Error::new(
            Kind::Rejected,
            format!(
                "expected enough promises to know all that was acknowledged, found {lacking}; missing {} ({why})",
                missing.join(", ")
            ),
        )
        .help("start those members, or name their addresses with --peer")
    }
}

/// Fences the archive where it ends as soon as the candidate holds all of it. An old leader that publishes on, and is
/// quicker each time, is let be.
fn join(follower: &mut Follower, store: &Arc<dyn Store>, owner: &Owner) -> Result<()> {
    let fs = Arc::clone(follower.fs());
    for _ in 0..FENCES {
        let state = archive::load(&**store)?;
        fetch(follower, store, &state)?;
        if archive::fence_behind(&**store, owner, &fs, follower.floor(), state)?.is_some() {
            break;
        }
    }
    Ok(())
}

/// Fetches what the archive holds as of `state` and the candidate does not.
fn fetch(follower: &mut Follower, store: &Arc<dyn Store>, state: &archive::State) -> Result<()> {
    let within = |follower: &Follower| -> Result<bool> {
        let segments = follower.segments()?;
        Ok(state.is_within(&follower.history(&segments)))
    };
    if !within(follower)? {
        follower.inherit(Box::new(Archive::open(Arc::clone(store))?))?;
    }
    match within(follower)? {
        true => Ok(()),
        false => Err(Error::new(Kind::Diverged, "what the archive holds is not all here")),
    }
}

/// What "further" means: the epoch of the last frame first.
fn furthest(at: Position) -> (Epoch, crate::position::LogByte) {
    if mutant::on(Mutant::FurthestByBytes) {
        return (Epoch::default(), at.log_byte);
    }
    (at.epoch, at.log_byte)
}

fn bound(me: Id, to: Epoch) -> Error {
    Error::new(Kind::Fenced, format!("expected node {me} to be free, found it bound to epoch {to}"))
        .help("another node leads, or is about to; or try again, by a higher number")
}

fn no_archive() -> Error {
    Error::new(
        Kind::Rejected,
        "expected the archive that says what was acknowledged, found that this node has none",
    )
    .help("run the node with the cluster's archive: `tidelog serve DIR --archive URL`")
}

fn not_in_archive(why: &Error) -> Error {
    Error::new(
        Kind::Rejected,
        format!("expected the candidate's log to be part of what the archive holds, found that they differ: {why}"),
    )
    .help(
        "promote another node, or follow the archive with this one first: what it has besides is kept. Only if what          the archive holds is to be given up: `tidelog promote --accept-loss`, then `tidelog archive push --accept-loss`",
    )
}

/// A node that may not lead.
pub(super) fn unclean(me: Id) -> Error {
    Error::new(
        Kind::Unclean,
        format!(
            "expected node {me} to hold all that it has acknowledged, found that it lost some of it"
        ),
    )
    .help("it can lead once it has fetched that again: let it follow a node that holds it")
}

/// The epoch by which the archive was published last, as far as that can be learned: whoever is to lead needs a
/// higher number.
pub fn archived_epoch(peers: &mut dyn Peers) -> u64 {
    let newest = peers.archive().and_then(|store| archive::newest_epoch(&*store).ok().flatten());
    newest.map_or(0, |epoch| epoch.number)
}

/// How everybody is, without asking for a promise: what a promotion would find.
pub fn survey(ask: &Ask, peers: &mut dyn Peers) -> Vec<(Peer, Result<Standing>)> {
    let ask = Ask { epoch: None, ..ask.clone() };
    let known = peers.known();
    known
        .into_iter()
        .map(|peer| {
            let standing = peers.ask(&peer, &ask);
            (peer, standing)
        })
        .collect()
}
