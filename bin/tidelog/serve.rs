//! `serve`: runs a node, a leader or a follower, with its HTTP interface.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tidelog::frame::{Mode, SyncSet};
use tidelog::log::SlotLimits;
use tidelog::replica::coordinator::{self, Coordinator, CoordinatorOptions, CoordinatorUrl};
use tidelog::replica::failover::Policy;
use tidelog::server::run::{self, Moment, OpenGiven, RunOptions};
use tidelog::server::{ArchiveOptions, Keep, Server, ServerOptions, Tls, Tokens};
use tidelog::{Id, Kind};

use crate::access;
use crate::args::{LogDir, NodeArgs};
use crate::config::Config;
use crate::exit::{Failure, Outcome};
use crate::members;
use crate::output::{self, say};
use crate::progress;
use crate::source::{self, Place, SourceArgs};

/// A mode whose members do not hold it yet is asked for again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// Run a node: appends, reads, queries and followers over HTTP
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog serve mylog
  tidelog serve mylog --listen 127.0.0.1:0
  tidelog serve mylog --mode async
  tidelog serve mylog --archive shelf --archive-interval 1s
  tidelog serve mylog --archive shelf --mode archive
  tidelog serve mylog --keep-bytes 10GiB --slot-bytes 50GiB --slot-age 3d
  tidelog serve copy --follow http://127.0.0.1:7400 --listen 127.0.0.1:7401
  tidelog serve mylog --listen 127.0.0.1:7401 --peer http://127.0.0.1:7402
  tidelog serve mylog --create --listen 127.0.0.1:7401 --coordinator etcd://127.0.0.1:2379/mylog
  tidelog serve copy --follow http://127.0.0.1:7400 --follow mylog --listen 127.0.0.1:7401
  tidelog serve mylog --listen 0.0.0.0:7400 --token-file tokens --tls-cert c.pem --tls-key k.pem

It leads unless --follow names a source, or a coordinator or other nodes say otherwise: with --coordinator it \
leads once it has won an epoch there, with --peer once all of them answered and none knows a later one. Once it listens it prints one JSON line with its address on \
stdout. Ctrl-C ends it cleanly. The mode and the members stand in the log; `tidelog members` changes \
them while it runs. A leader drops nothing unless told to keep less; then followers hold what they \
need (`tidelog slots list`). A token file has a role (read, replicate, write, admin) and a token on \
each line.")]
pub(crate) struct Serve {
    /// The log's directory
    #[command(flatten)]
    at: LogDir,
    /// Where to listen; port 0 takes any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7400", value_parser = address)]
    listen: SocketAddr,
    /// What the node is called; its directory's name unless given
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The address that others are told, if it is not where it listens
    #[arg(long, value_name = "URL")]
    advertise: Option<String>,
    /// Follow this source: a directory, a node's address, or an archive. Given several times: in
    /// this order, the next when one fails or lacks what the copy needs
    #[arg(long, value_name = "SOURCE", value_parser = Place::parse)]
    follow: Vec<Place>,
    #[command(flatten)]
    source: SourceArgs,
    /// The token to show to the source; TIDELOG_TOKEN holds one, too
    #[arg(long, value_name = "FILE", requires = "follow")]
    source_token_file: Option<PathBuf>,
    /// Create the log if there is none
    #[arg(long, conflicts_with = "follow")]
    create: bool,
    /// What an acknowledgement means: async, bounded:k=1,bytes=1MiB,secs=5, semi:k=1,timeout=500ms,
    /// sync:k=1 or archive; as it was unless given
    #[arg(long, value_name = "MODE", conflicts_with = "follow", value_parser = mode)]
    mode: Option<Mode>,
    /// A member of the mode's set beside this node, by node id; those it has unless given
    #[arg(long, value_name = "NODE", conflicts_with = "follow", value_parser = members::node)]
    member: Vec<Id>,
    /// Publish the log there all the while: a directory, file:///path, s3://bucket/prefix, gs://… or
    /// az://…
    #[arg(long, value_name = "URL", value_parser = Place::parse_archive)]
    archive: Option<Place>,
    /// What is new waits at most so long before it is published; in the mode archive not at all
    #[arg(long, value_name = "DURATION", default_value = "10s", requires = "archive",
          value_parser = tidelog::text::parse_duration)]
    archive_interval: Duration,
    /// Publish a snapshot of the table there, too, each time that the log behind the newest one has grown by
    /// so much, and by as much as that one is large; none for never [default: 256MiB]
    #[arg(long, value_name = "SIZE", requires = "archive", value_parser = snapshot_bytes)]
    archive_snapshots: Option<SnapshotBytes>,
    #[command(flatten)]
    keep: KeepArgs,
    #[command(flatten)]
    failover: FailoverArgs,
    /// Demand tokens: a file with a role and a token on each line
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Serve https with this certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Demand client certificates that these vouch for (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Serve other machines without tokens and client certificates
    #[arg(long)]
    insecure: bool,
    /// Connections at a time
    #[arg(long, value_name = "N", default_value_t = tidelog::server::DEFAULT_CONNECTIONS)]
    max_connections: usize,
    #[command(flatten)]
    node: NodeArgs,
}

/// Who else there is, and what this node does when nobody leads.
#[derive(Args)]
struct FailoverArgs {
    /// Who says when to try to lead: etcd://host:port[,host:port]/prefix, etcds://… by TLS, or an archive's URL; an
    /// operator unless given. TIDELOG_COORDINATOR_USER and …_PASSWORD are shown to an etcd that asks
    #[arg(long, value_name = "URL", conflicts_with = "follow", value_parser = coordinator)]
    coordinator: Option<String>,
    /// How long a leader that is silent keeps its seat at the coordinator
    #[arg(long, value_name = "DURATION", default_value = "10s", requires = "coordinator",
          value_parser = tidelog::text::parse_duration)]
    lease: Duration,
    /// A request to the coordinator is given up after so long
    #[arg(long, value_name = "DURATION", default_value = "2s", requires = "coordinator",
          value_parser = tidelog::text::parse_duration)]
    coordinator_timeout: Duration,
    /// Another node of the cluster; given for each. With others named, a log is not led just because it was
    /// led here before: they are asked first
    #[arg(long, value_name = "URL")]
    peer: Vec<String>,
    /// Never lead by itself
    #[arg(long)]
    never_lead: bool,
    /// Of several that are as far, the one of the highest priority leads
    #[arg(long, value_name = "N", default_value_t = 0)]
    priority: u32,
    /// Under modes that may lose records: lead by itself when at most so many are known to be lost
    #[arg(long, value_name = "RECORDS")]
    max_loss: Option<u64>,
    /// Two changes of the leader by themselves lie at least so far apart, unless the leader's process is gone
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = tidelog::text::parse_duration)]
    failover_gap: Duration,
}

/// How much log makes another snapshot due, if anything does.
#[derive(Clone, Copy)]
struct SnapshotBytes(Option<u64>);

fn snapshot_bytes(text: &str) -> Result<SnapshotBytes, String> {
    match text {
        "none" => Ok(SnapshotBytes(None)),
        size => tidelog::text::parse_bytes(size).map(|bytes| SnapshotBytes(Some(bytes))),
    }
}

/// What a leader keeps of its log, and for whom.
#[derive(Args)]
struct KeepArgs {
    /// Drop old segments, but keep at least so much of the newest; everything unless given
    #[arg(long, value_name = "SIZE", conflicts_with = "follow", value_parser = tidelog::text::parse_bytes)]
    keep_bytes: Option<u64>,
    /// Drop old segments, but keep records younger than this; everything unless given
    #[arg(long, value_name = "DURATION", conflicts_with = "follow", value_parser = tidelog::text::parse_duration)]
    keep_age: Option<Duration>,
    /// Let records go that only the table holds, as rows
    #[arg(long, conflicts_with = "follow")]
    table_is_only_copy: bool,
    /// A follower that is away holds at most so much of the log
    #[arg(long, value_name = "SIZE", conflicts_with = "follow", value_parser = tidelog::text::parse_bytes)]
    slot_bytes: Option<u64>,
    /// It holds nothing once it was silent for so long [default: 7d]
    #[arg(long, value_name = "DURATION", conflicts_with = "follow", value_parser = tidelog::text::parse_duration)]
    slot_age: Option<Duration>,
    /// It holds at most this share of the disk, in percent [default: 20]
    #[arg(long, value_name = "PERCENT", conflicts_with = "follow", value_parser = clap::value_parser!(u8).range(0..=100))]
    slot_disk: Option<u8>,
}

impl FailoverArgs {
    fn coordinator(&self, source: &SourceArgs) -> Result<Option<Box<dyn Coordinator>>, Failure> {
        let named = self.coordinator.as_ref().filter(|url| *url != "manual");
        let Some(url) = named else { return Ok(None) };
        let word = |name: &str| std::env::var(name).ok();
        let user = word("TIDELOG_COORDINATOR_USER").zip(word("TIDELOG_COORDINATOR_PASSWORD"));
        let options = CoordinatorOptions {
            ttl: self.lease,
            request: self.coordinator_timeout,
            settings: source::settings(),
            // A node's token is none of the coordinator's business.
            credentials: source.access.certificates()?,
            user,
        };
        Ok(Some(coordinator::open(url, options, tidelog::fs::Os::shared())?))
    }
}

impl KeepArgs {
    fn keep(&self) -> Keep {
        Keep {
            bytes: self.keep_bytes,
            age: self.keep_age,
            table_is_only_copy: self.table_is_only_copy,
        }
    }

    fn slots(&self) -> SlotLimits {
        let usual = SlotLimits::default();
        SlotLimits {
            bytes: self.slot_bytes,
            age: self.slot_age.unwrap_or(usual.age),
            disk_percent: self.slot_disk.unwrap_or(usual.disk_percent),
        }
    }
}

fn coordinator(text: &str) -> Result<String, String> {
    CoordinatorUrl::parse(text).map(|_| text.to_owned()).map_err(|e| e.to_string())
}

fn mode(text: &str) -> Result<Mode, String> {
    text.parse().map_err(|e: tidelog::Error| e.message().to_owned())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let wrong = || format!("expected an address such as 127.0.0.1:7400, found {text:?}");
    text.to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or_else(wrong)
}

impl Serve {
    pub(crate) fn run(self) -> Outcome {
        if self.follow.is_empty() {
            self.source.check_leader()?;
        }
        if self.mode == Some(Mode::Archive) && self.archive.is_none() {
            return Err(Failure::usage("expected --archive with --mode archive: it is waited for"));
        }
        let name = source::name(self.name.as_deref(), &self.at.dir);
        let bound = self.options(&name)?.bind()?;
        let options = Config::load(Some(&self.at.dir))?.options(None, None)?;
        let options = options.identity(self.node.identity()).create(self.create);
        let log = self.source.options(options);
        let token = self.source_token_file.as_deref();
        let url = bound.url();
        let open = self.source.opener(token, &name, Some(url.clone()))?;
        let given: Option<OpenGiven> = match self.follow.is_empty() {
            true => None,
            false => {
                let (source, places) = (self.source.clone(), self.follow.clone());
                let (token, name) = (self.source_token_file.clone(), name.clone());
                Some(Box::new(move || {
                    let opened = source.open(&places, token.as_deref(), &name, Some(url.clone()));
                    opened.map_err(Failure::into_error)
                }))
            }
        };
        let coordinator = self.failover.coordinator(&self.source)?;
        let peers =
            self.failover.peer.iter().map(|peer| peer.trim_end_matches('/').to_owned()).collect();
        let run = RunOptions {
            dir: self.at.dir.clone(),
            log,
            table: self.source.table(),
            server: bound,
            given,
            peers,
            credentials: self.source.access.credentials(token)?,
            open,
            coordinator,
            policy: self.policy(),
        };
        let mut printed = false;
        let mut asked = self.mode.is_some() || !self.member.is_empty();
        let (mut said, mut again, mut failed) = (None, Instant::now(), None);
        let tell = &mut |moment: Moment<'_>| match moment {
            Moment::Said(what) => say(what),
            Moment::Serving(server) => {
                let shown = self.serving(server, &mut printed);
                failed = failed.take().or(shown.err());
            }
            Moment::Serves(server) => {
                if asked && server.leader().is_some() && Instant::now() >= again {
                    again = Instant::now() + AGAIN;
                    match self.set(server, &mut said) {
                        Ok(done) => asked = !done,
                        Err(e) => failed = Some(e),
                    }
                }
            }
        };
        let result = run::run(run, &progress::interrupted, tell);
        match failed {
            Some(failure) => Err(failure),
            None => {
                result?;
                say("closed");
                Ok(())
            }
        }
    }

    /// Says where it serves: on stdout once, for programs.
    fn serving(&self, server: &Server, printed: &mut bool) -> Outcome {
        let role = if server.leader().is_some() { "leader" } else { "follower" };
        say(format_args!("{role} at {}; Ctrl-C ends it", server.url()));
        if std::mem::replace(printed, true) {
            return Ok(());
        }
        let scheme = if self.tls_cert.is_some() { "https" } else { "http" };
        output::line(json!({
            "listening": format!("{scheme}://{}", server.address()),
            "node": server.log().node().to_string(),
            "log": server.log().id().to_string(),
            "role": role,
        }))
    }

    fn policy(&self) -> Policy {
        Policy {
            priority: self.failover.priority,
            never_lead: self.failover.never_lead,
            max_loss: self.failover.max_loss,
            gap: self.failover.failover_gap,
            ..Policy::default()
        }
    }

    fn options(&self, name: &str) -> Result<ServerOptions, Failure> {
        let mut options = ServerOptions::default()
            .listen(self.listen)
            .name(name.to_owned())
            .advertise(self.advertise.clone())
            .insecure(self.insecure)
            .keep(self.keep.keep())
            .slots(self.keep.slots())
            .connections(self.max_connections.max(1));
        if let Some(place) = &self.archive {
            let mut archive = ArchiveOptions::new(place.store()?).interval(self.archive_interval);
            if let Some(SnapshotBytes(every)) = self.archive_snapshots {
                archive = archive.snapshots(every);
            }
            options = options.archive(Some(archive));
        }
        if let Some(path) = &self.token_file {
            let text = access::read(path)?;
            let text = String::from_utf8_lossy(&text);
            options = options.tokens(Tokens::parse(&text).map_err(|e| e.in_file(path))?);
        }
        if let (Some(chain), Some(key)) = (&self.tls_cert, &self.tls_key) {
            let clients = self.tls_client_ca.as_deref().map(access::read).transpose()?;
            let tls = Tls::new(&access::read(chain)?, &access::read(key)?, clients.as_deref())?;
            options = options.tls(Some(tls));
        }
        Ok(options)
    }

    /// Rules by the set that was asked for; whether that is done. It waits for the members of the
    /// set before.
    fn set(&self, server: &Server, said: &mut Option<String>) -> Result<bool, Failure> {
        let Some(leader) = server.leader() else { return Ok(true) };
        let standing = leader.standing();
        let mode = self.mode.unwrap_or(standing.mode);
        let own = [server.log().node()];
        let members = match self.member.is_empty() {
            true => standing.members,
            false => self.member.clone(),
        };
        let set = SyncSet::new(mode, members.into_iter().chain(own))?;
        let why = match leader.change(&set, Duration::ZERO) {
            Ok(true) => {
                say(format_args!("mode {set}"));
                return Ok(true);
            }
            Ok(false) => format!("mode {set}, once its members hold it"),
            Err(e) if e.kind() == Kind::Rejected => e.message().to_owned(),
            Err(e) => return Err(e.into()),
        };
        if said.as_ref() != Some(&why) {
            say(&why);
            *said = Some(why);
        }
        Ok(false)
    }
}
