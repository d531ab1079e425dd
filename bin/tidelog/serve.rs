//! `serve`: runs a node, a leader or a follower, with its HTTP interface.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tidelog::frame::{Mode, SyncSet};
use tidelog::log::SlotLimits;
use tidelog::server::{ArchiveOptions, Keep, Server, ServerOptions, Tls, Tokens};
use tidelog::{Follower, Id, Kind, Log, Table};

use crate::access;
use crate::args::{LogDir, NodeArgs};
use crate::config::Config;
use crate::exit::{Failure, Outcome};
use crate::members;
use crate::output::{self, say};
use crate::progress;
use crate::source::{self, Place, SourceArgs};

/// How often it looks whether to stop.
const LOOK: Duration = Duration::from_millis(50);
/// A source that was not there at the start is tried again after this.
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
  tidelog serve copy --follow http://127.0.0.1:7400 --follow mylog --listen 127.0.0.1:7401
  tidelog serve mylog --listen 0.0.0.0:7400 --token-file tokens --tls-cert c.pem --tls-key k.pem

It leads unless --follow names a source. Once it listens it prints one JSON line with its address on \
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
    #[arg(long, value_name = "URL", conflicts_with = "follow", value_parser = Place::parse_archive)]
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
        let mut listen = self.listen;
        source::begin_anew(|| self.serve(&mut listen))
    }

    /// Serves until it is told to end, or cannot go on; `listen` is where, from the first time on.
    fn serve(&self, listen: &mut SocketAddr) -> Outcome {
        let name = source::name(self.name.as_deref(), &self.at.dir);
        let bound = self.options(&name)?.listen(*listen).bind()?;
        let url = bound.url();
        let server = match self.follow.is_empty() {
            true => {
                let options = Config::load(Some(&self.at.dir))?.options(None, None)?;
                let options = options.identity(self.node.identity()).create(self.create);
                let log = options.open(&self.at.dir)?;
                let spinner = progress::spinner("applying");
                let table = Table::options().open(&log);
                spinner.finish_and_clear();
                bound.lead(log, table?)?
            }
            false => {
                let Some(follower) = self.follower(&name, &url)? else {
                    return Err(Failure::interrupted());
                };
                for finding in &follower.report().findings {
                    say(format_args!("note: {finding}"));
                }
                bound.follow(follower)?
            }
        };
        *listen = server.address();
        self.until_told(server)
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

    /// Opens the copy; while there is none and the source is away, it tries again. `None` when it
    /// was told to stop meanwhile.
    fn follower(&self, name: &str, url: &str) -> Result<Option<Follower>, Failure> {
        let mut said = false;
        loop {
            let token = self.source_token_file.as_deref();
            let source = self.source.open(&self.follow, token, name, Some(url.to_owned()))?;
            let options = self.source.options(Log::options().identity(self.node.identity()));
            let table = self.source.table();
            match Follower::open_from(options, table, &self.at.dir, source) {
                Ok(follower) => return Ok(Some(follower)),
                Err(e) if e.kind() == Kind::Io && self.follow.iter().any(Place::is_node) => {
                    if !said {
                        say(format_args!("{e}; trying again"));
                        said = true;
                    }
                }
                Err(e) => return Err(e.into()),
            }
            for _ in 0..AGAIN.as_millis() / LOOK.as_millis() {
                if progress::interrupted() {
                    return Ok(None);
                }
                std::thread::sleep(LOOK);
            }
        }
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

    fn until_told(&self, server: Server) -> Outcome {
        let role = if self.follow.is_empty() { "leader" } else { "follower" };
        say(format_args!("{role} at {}; Ctrl-C ends it", server.url()));
        let listening = format!(
            "{}://{}",
            if self.tls_cert.is_some() { "https" } else { "http" },
            server.address()
        );
        output::line(json!({
            "listening": listening,
            "node": server.log().node().to_string(),
            "log": server.log().id().to_string(),
            "role": role,
        }))?;
        let mut asked = self.mode.is_some() || !self.member.is_empty();
        let mut said = None;
        let mut again = Instant::now();
        while !progress::interrupted() && !server.has_stopped_following() {
            if asked && Instant::now() >= again {
                asked = !self.set(&server, &mut said)?;
                again = Instant::now() + AGAIN;
            }
            std::thread::sleep(LOOK);
        }
        if server.has_stopped_following() && !progress::interrupted() {
            return Err(server.stop().err().map_or_else(Failure::silent_no, Failure::from));
        }
        server.stop()?;
        say("closed");
        Ok(())
    }
}
