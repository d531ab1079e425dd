//! Where a log is pulled from, and where an archive lies: the one choice by URL scheme.
//!
//! A path, or `file://` with one, is a log's directory if there is a log in it, otherwise an
//! archive. Endpoints and credentials of object stores come from the environment, as their
//! providers' own tools read them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tidelog::server::run::OpenNode;
use tidelog::ship::archive::{Archive, Store, open_store};
use tidelog::ship::{Chain, Credentials, Directory, Http, Source};
use tidelog::table::{Beginning, PauseAt, TableOptions};
use tidelog::text::Bound;
use tidelog::{Kind, Offset, Options, Table};

use crate::access::NodeAccess;
use crate::exit::{Failure, Outcome};
use crate::output::say;
use crate::pause;
use crate::progress;

/// A leader that says nothing for so long is looked for anew.
const SILENCE: Duration = Duration::from_secs(1);
/// The same of one that was named, by a node that may be promoted: it cannot lead before it has let go of who hangs.
const NAMED_SILENCE: Duration = Duration::from_secs(2);
/// A copy that went on for so long is counted from the beginning again.
const SPELL: Duration = Duration::from_secs(60);
/// How often a copy whose log is gone is begun anew before that is an error.
const ANEW: u32 = 3;

/// Follows, and again when what the copy needs was dropped meanwhile, or its history and the source's part:
/// opened again it begins with a snapshot, or keeps aside what the source does not have.
pub(crate) fn begin_anew(mut follow: impl FnMut() -> Outcome) -> Outcome {
    let mut again = ANEW;
    loop {
        let began = Instant::now();
        let outcome = follow();
        if began.elapsed() > SPELL {
            again = ANEW;
        }
        match outcome {
            Err(failure)
                if again > 0 && matches!(failure.kind, Some(Kind::Gone | Kind::Diverged)) =>
            {
                let next = match failure.kind {
                    Some(Kind::Gone) => "looking for a snapshot",
                    _ => "rejoining",
                };
                say(format_args!("{}; {next}", failure.message.unwrap_or_default()));
                again -= 1;
            }
            outcome => return outcome,
        }
    }
}

/// Where a log comes from, as the user named it.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A log's directory, or an archive in one.
    Local(PathBuf),
    /// An archive in an object store.
    Store(String),
    /// A node.
    Node(String),
}

/// How to pull from a source.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SourceArgs {
    #[command(flatten)]
    pub(crate) access: NodeAccess,
    /// Pull at most so many bytes per second, such as 1MiB
    #[arg(long, value_name = "BYTES", value_parser = tidelog::text::parse_bytes)]
    limit_bytes_per_s: Option<u64>,
    /// Keep what arrives so long before it is applied, such as 1h: time to stop a mistake
    #[arg(long, value_name = "DURATION", value_parser = tidelog::text::parse_duration)]
    apply_delay: Option<Duration>,
    /// Stop applying before this offset or time, and go on copying: `tidelog resume` lets a node apply
    /// again, and so does a start without it
    #[arg(long, value_name = "OFFSET,TIME", value_parser = pause::point)]
    pause_at: Option<Bound>,
    /// What a new copy begins with: log (the first record, or not at all), needed (a snapshot where that is
    /// gone), cheaper (and where it costs much less; what lies before is not copied), snapshot (wherever
    /// there is one)
    #[arg(long, value_name = "WHAT", default_value = "needed", value_parser = beginning)]
    begin: Beginning,
    /// Let a directory that led follow from now on: what the source does not have is kept in diverged/
    #[arg(long)]
    rejoin: bool,
    /// Give up what was committed here and the source does not have: it is kept aside, and no longer
    /// part of the log
    #[arg(long)]
    accept_loss: bool,
}

fn beginning(text: &str) -> Result<Beginning, String> {
    Ok(match text {
        "log" => Beginning::Log,
        "needed" => Beginning::Needed,
        "cheaper" => Beginning::Cheaper,
        "snapshot" => Beginning::Snapshot,
        _ => return Err(format!("expected log, needed, cheaper or snapshot, found {text}")),
    })
}

impl Place {
    /// Reads it; refuses schemes that nobody knows.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            None if text.is_empty() => Err("expected a directory or a URL, found nothing".into()),
            None => Ok(Place::Local(PathBuf::from(text))),
            Some(("file", path)) if path.starts_with('/') => Ok(Place::Local(path.into())),
            Some(("s3" | "gs" | "az", _)) => Ok(Place::Store(text.to_owned())),
            Some(("http" | "https", _)) => Ok(Place::Node(text.to_owned())),
            Some(_) => Err(format!(
                "expected a directory, http://host:port, https://…, file:///path, \
                 s3://bucket/prefix, gs://… or az://…, found {text}"
            )),
        }
    }

    /// An archive's place: anything but a node.
    pub(crate) fn parse_archive(text: &str) -> Result<Self, String> {
        match Place::parse(text)? {
            Place::Node(url) => Err(format!(
                "expected an archive, a directory, file:///path or s3://bucket/prefix, found {url}"
            )),
            place => Ok(place),
        }
    }

    fn open(&self, how: &How) -> tidelog::Result<Box<dyn Source>> {
        Ok(match self {
            Place::Node(url) => {
                let node = Http::open(url, how.credentials.clone())?
                    .name(&how.name)
                    .address(how.address.clone())
                    .limit_bytes_per_s(how.limit_bytes_per_s)
                    .stop_when(progress::interrupted);
                // Who serves others has an address, and may be promoted.
                match how.address {
                    Some(_) => Box::new(node.silence(NAMED_SILENCE)),
                    None => Box::new(node),
                }
            }
            Place::Local(path) if !is_archive(path) => {
                Box::new(Directory::open(path)?.name(&how.name))
            }
            Place::Local(_) | Place::Store(_) => Box::new(Archive::open(self.store()?)?),
        })
    }

    /// The store of an archive that is there, or is to be.
    pub(crate) fn store(&self) -> tidelog::Result<Arc<dyn Store>> {
        match self {
            Place::Local(path) => {
                let path = std::path::absolute(path)
                    .map_err(|e| tidelog::Error::io("resolve", path, e))?;
                open_store(&format!("file://{}", path.display()), &[])
            }
            Place::Store(url) => open_store(url, &settings()),
            Place::Node(url) => Err(tidelog::Error::new(
                tidelog::Kind::InvalidInput,
                format!("expected an archive, found {url}"),
            )),
        }
    }

    /// Whether it is an archive, or can be nothing else.
    pub(crate) fn is_archive(&self) -> bool {
        match self {
            Place::Local(path) => is_archive(path),
            Place::Store(_) => true,
            Place::Node(_) => false,
        }
    }

    /// Whether a log's directory or snapshots lie there, rather than an archive.
    pub(crate) fn directory(&self) -> Option<&Path> {
        match self {
            Place::Local(path) if !is_archive(path) => Some(path),
            _ => None,
        }
    }

    /// Whether looking costs a request to a store, which somebody may pay for.
    pub(crate) fn is_store(&self) -> bool {
        matches!(self, Place::Store(_))
    }

    /// Whether it is a node's address.
    pub(crate) fn is_node(&self) -> bool {
        matches!(self, Place::Node(_))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Local(path) => path.display().fmt(f),
            Place::Store(url) | Place::Node(url) => f.write_str(url),
        }
    }
}

/// What a follower says to its sources, and how fast it takes.
#[derive(Clone)]
struct How {
    credentials: Credentials,
    limit_bytes_per_s: Option<u64>,
    name: String,
    address: Option<String>,
}

impl SourceArgs {
    /// Refuses what a leader cannot do.
    pub(crate) fn check_leader(&self) -> Result<(), Failure> {
        let wrong = |option: &str| {
            Err(Failure::usage(format!(
                "expected --follow with {option}: a leader applies what it appends"
            )))
        };
        if self.rejoin || self.accept_loss {
            return Err(Failure::usage(
                "expected --follow with --rejoin and --accept-loss: a leader has its own log",
            ));
        }
        match (self.apply_delay, self.pause_at) {
            (None, None) => Ok(()),
            (Some(_), _) => wrong("--apply-delay"),
            (None, Some(_)) => wrong("--pause-at"),
        }
    }

    /// How the follower's directory is opened.
    pub(crate) fn options(&self, options: Options) -> Options {
        options.rejoin(self.rejoin).accept_loss(self.accept_loss)
    }

    /// How the follower's table is opened.
    pub(crate) fn table(&self) -> TableOptions {
        let pause_at = match self.pause_at {
            Some(Bound::Offset(offset)) => Some(PauseAt::Offset(Offset(offset))),
            Some(Bound::Time(time)) => Some(PauseAt::Time(time)),
            _ => None,
        };
        Table::options()
            .apply_delay(self.apply_delay.unwrap_or_default())
            .pause_at(pause_at)
            .begin(self.begin)
    }

    /// Opens a node as a source, whichever leads: one that does not answer is given up sooner than one that was
    /// named.
    pub(crate) fn opener(
        &self,
        token_file: Option<&Path>,
        name: &str,
        address: Option<String>,
    ) -> Result<OpenNode, Failure> {
        let credentials = self.access.credentials(token_file)?;
        let (limit, name) = (self.limit_bytes_per_s, name.to_owned());
        Ok(Arc::new(move |url: &str| {
            let node = Http::open(url, credentials.clone())?
                .name(&name)
                .address(address.clone())
                .limit_bytes_per_s(limit)
                .silence(SILENCE)
                .stop_when(progress::interrupted);
            Ok(Box::new(node) as Box<dyn Source>)
        }))
    }

    /// Opens what a follower pulls from: of several places each when it is needed, in their order.
    /// `name` is what it calls the follower, `address` where that serves others.
    pub(crate) fn open(
        &self,
        places: &[Place],
        token_file: Option<&Path>,
        name: &str,
        address: Option<String>,
    ) -> Result<Box<dyn Source>, Failure> {
        let how = How {
            credentials: match places.iter().any(Place::is_node) {
                true => self.access.credentials(token_file)?,
                false => Credentials::default(),
            },
            limit_bytes_per_s: self.limit_bytes_per_s,
            name: name.to_owned(),
            address,
        };
        if let [place] = places {
            return Ok(place.open(&how)?);
        }
        let mut chain = Chain::default();
        for place in places {
            let (at, how) = (place.clone(), how.clone());
            chain = chain.link(place.to_string(), move || at.open(&how));
        }
        Ok(Box::new(chain))
    }
}

fn is_archive(path: &Path) -> bool {
    !path.join("LOG").exists() && path.join("log").is_dir()
}

/// What the environment says of object stores.
pub(crate) fn settings() -> Vec<(String, String)> {
    let text = |s: std::ffi::OsString| s.into_string().ok();
    let known = |key: &str| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|p| key.starts_with(p));
    std::env::vars_os()
        .filter_map(|(key, value)| Some((text(key)?, text(value)?)))
        .filter(|(key, _)| known(key))
        .collect()
}

/// Whether a place is a node's address.
pub(crate) fn is_url(place: &str) -> bool {
    place.starts_with("http://") || place.starts_with("https://")
}

/// What a node is called: as asked, or by its directory.
pub(crate) fn name(asked: Option<&str>, dir: &Path) -> String {
    let named = || dir.file_name().map(|name| name.to_string_lossy().into_owned());
    asked.map(str::to_owned).or_else(named).unwrap_or_else(|| "tidelog".to_owned())
}
