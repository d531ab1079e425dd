//! Which coordinator a URL names.
//!
//! ```text
//! manual                                        nobody: people decide
//! etcd://host:port[,host:port…]/prefix          etcd; etcds:// by TLS; port 2379 unless it is said
//! s3://… gs://… az://… file:///…                the store of an archive
//! ```
//!
//! Called by the command line and by programs. Invariant: a URL is refused as a whole or understood as
//! a whole; it never holds a secret.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::ship::archive::open_store;

use super::{Coordinator, Manual, StoreCoordinator, Timing};

/// No prefix is longer, no list of endpoints either.
const MAX_PREFIX_BYTES: usize = 256;
const MAX_ENDPOINTS: usize = 16;

/// Where a coordinator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoordinatorUrl {
    /// Nobody: people decide.
    Manual,
    /// etcd.
    Etcd {
        /// `host:port` of each endpoint.
        endpoints: Vec<String>,
        /// Whether they are reached by TLS.
        tls: bool,
        /// Before each key, without a slash at its end.
        prefix: String,
    },
    /// An archive's store.
    Store(String),
}

/// How a coordinator is reached.
#[derive(Clone, Debug)]
pub struct CoordinatorOptions {
    /// How long a seat is held without being renewed.
    pub ttl: Duration,
    /// A request is given up after so long.
    pub request: Duration,
    /// Endpoints and credentials of object stores, named as for
    /// [`open_store`](crate::ship::archive::open_store).
    pub settings: Vec<(String, String)>,
    /// Certificates for etcd by TLS.
    #[cfg(feature = "client")]
    pub credentials: crate::ship::Credentials,
    /// Name and password, where etcd asks for them.
    pub user: Option<(String, String)>,
}

impl Default for CoordinatorOptions {
    fn default() -> Self {
        CoordinatorOptions {
            ttl: Duration::from_secs(10),
            request: Duration::from_secs(2),
            settings: Vec::new(),
            #[cfg(feature = "client")]
            credentials: crate::ship::Credentials::default(),
            user: None,
        }
    }
}

impl CoordinatorUrl {
    /// Reads it; refuses what nobody knows.
    pub fn parse(url: &str) -> Result<Self> {
        let bad = |expected: &str| {
            Error::new(Kind::InvalidInput, format!("expected {expected}, found {url}")).help(
                "name it as etcd://host:port[,host:port…]/prefix, etcds://… by TLS, an archive's URL \
                 (s3://bucket/prefix, file:///path), or manual",
            )
        };
        if url == "manual" {
            return Ok(CoordinatorUrl::Manual);
        }
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("a coordinator's URL"))?;
        let tls = match scheme {
            "etcd" => false,
            "etcds" => true,
            "s3" | "gs" | "az" | "file" => return Ok(CoordinatorUrl::Store(url.to_owned())),
            _ => return Err(bad("one of the schemes etcd, etcds, s3, gs, az, file")),
        };
        let (hosts, prefix) = rest
            .split_once('/')
            .ok_or_else(|| bad("a prefix behind the endpoints, the cluster's own"))?;
        if hosts.contains('@') {
            // Whoever lists processes sees URLs.
            return Err(Error::new(
                Kind::InvalidInput,
                "expected a coordinator's URL without user and password, found one with them",
            )
            .help("give them apart"));
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let plain = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.=+~".contains(&b))
        };
        if prefix.len() > MAX_PREFIX_BYTES || !prefix.split('/').all(plain) {
            return Err(bad("a prefix of plain names"));
        }
        let endpoints: Vec<String> = hosts
            .split(',')
            .map(|host| endpoint(host).ok_or_else(|| bad("endpoints such as host:2379")))
            .collect::<Result<_>>()?;
        if endpoints.len() > MAX_ENDPOINTS {
            return Err(bad("at most 16 endpoints"));
        }
        Ok(CoordinatorUrl::Etcd { endpoints, tls, prefix: prefix.to_owned() })
    }
}

/// A host with its port.
fn endpoint(text: &str) -> Option<String> {
    let (host, port) = match text.strip_prefix('[') {
        // Without a port it is etcd's own.
        Some(rest) => {
            let (ip, port) = rest.split_once(']')?;
            ip.parse::<std::net::Ipv6Addr>().ok()?;
            (format!("[{ip}]"), port.strip_prefix(':').or(port.is_empty().then_some("2379"))?)
        }
        None => {
            let (host, port) = text.split_once(':').unwrap_or((text, "2379"));
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            (!host.is_empty() && host.bytes().all(plain)).then_some(())?;
            (host.to_owned(), port)
        }
    };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port = digits.then(|| port.parse::<u16>().ok()).flatten().filter(|port| *port > 0)?;
    Some(format!("{host}:{port}"))
}

impl fmt::Display for CoordinatorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CoordinatorUrl::Manual => f.write_str("manual"),
            CoordinatorUrl::Etcd { endpoints, tls, prefix } => {
                let scheme = if *tls { "etcds" } else { "etcd" };
                write!(f, "{scheme}://{}/{prefix}", endpoints.join(","))
            }
            CoordinatorUrl::Store(url) => f.write_str(url),
        }
    }
}

/// The coordinator that a URL names. Nothing is asked of it yet.
///
/// ```
/// use tidelog::replica::coordinator::{CoordinatorOptions, Seat, open};
/// # fn main() -> tidelog::Result<()> {
/// let mut manual = open("manual", CoordinatorOptions::default(), tidelog::fs::Os::shared())?;
/// assert!(!manual.elects());
/// assert_eq!(manual.look()?, Seat::default());
/// # Ok(())
/// # }
/// ```
pub fn open(
    url: &str,
    options: CoordinatorOptions,
    fs: Arc<dyn Fs>,
) -> Result<Box<dyn Coordinator>> {
    let url = CoordinatorUrl::parse(url)?;
    if url != CoordinatorUrl::Manual {
        Timing::of(options.ttl, options.request).check()?;
    }
    Ok(match url {
        CoordinatorUrl::Manual => Box::new(Manual),
        CoordinatorUrl::Store(url) => {
            let store = open_store(&url, &options.settings)?;
            Box::new(StoreCoordinator::new(store, fs, options.ttl))
        }
        CoordinatorUrl::Etcd { endpoints, tls, prefix } => {
            open_etcd(&endpoints, tls, &prefix, options, fs)?
        }
    })
}

#[cfg(feature = "client")]
fn open_etcd(
    endpoints: &[String],
    tls: bool,
    prefix: &str,
    options: CoordinatorOptions,
    fs: Arc<dyn Fs>,
) -> Result<Box<dyn Coordinator>> {
    let scheme = if tls { "https" } else { "http" };
    let endpoints: Vec<String> = endpoints.iter().map(|e| format!("{scheme}://{e}")).collect();
    let CoordinatorOptions { ttl, request, credentials, user, .. } = options;
    let options = super::EtcdOptions { ttl, request, credentials, user };
    Ok(Box::new(super::EtcdCoordinator::new(&endpoints, prefix, fs, options)?))
}

#[cfg(not(feature = "client"))]
fn open_etcd(
    endpoints: &[String],
    _: bool,
    _: &str,
    _: CoordinatorOptions,
    _: Arc<dyn Fs>,
) -> Result<Box<dyn Coordinator>> {
    Err(Error::new(
        Kind::InvalidInput,
        format!(
            "expected a store or manual as coordinator, found etcd at {}",
            endpoints.join(", ")
        ),
    )
    .help("this tidelog was built without etcd: build it with `--features client`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Os;

    #[test]
    fn urls_read_back_and_those_that_nearly_fit_are_refused_with_a_word_on_what_is_wrong() {
        for (url, shown) in [
            ("manual", "manual"),
            ("etcd://localhost/one", "etcd://localhost:2379/one"),
            (
                "etcd://10.0.0.1:1,b.example:65535/a/b-c_d.e/",
                "etcd://10.0.0.1:1,b.example:65535/a/b-c_d.e",
            ),
            ("etcds://[::1],[fe80::1]:5/x", "etcds://[::1]:2379,[fe80::1]:5/x"),
            ("s3://bucket/x", "s3://bucket/x"),
            ("file:///tmp/x", "file:///tmp/x"),
        ] {
            let parsed = CoordinatorUrl::parse(url).unwrap();
            assert_eq!(parsed.to_string(), shown);
            assert_eq!(CoordinatorUrl::parse(shown).unwrap(), parsed);
        }
        let long = format!("etcd://a/{}", "x".repeat(257));
        let many = format!("etcd://{}/x", vec!["a"; 17].join(","));
        for (url, expected) in [
            ("", "a coordinator's URL"),
            ("none", "a coordinator's URL"),
            ("http://localhost:2379", "one of the schemes"),
            ("ETCD://a/x", "one of the schemes"),
            ("etcd://localhost:2379", "a prefix behind the endpoints"),
            ("etcd://localhost:2379/", "a prefix of plain names"),
            ("etcd://a//x", "a prefix of plain names"),
            ("etcd://a/x/../y", "a prefix of plain names"),
            ("etcd://a/x?y", "a prefix of plain names"),
            ("etcd://a/x\ny", "a prefix of plain names"),
            (&*long, "a prefix of plain names"),
            ("etcd:///x", "endpoints such as"),
            ("etcd://a,,b/x", "endpoints such as"),
            ("etcd://a:0/x", "endpoints such as"),
            ("etcd://a:+1/x", "endpoints such as"),
            ("etcd://a:65536/x", "endpoints such as"),
            ("etcd://a:/x", "endpoints such as"),
            ("etcd://[::1/x", "endpoints such as"),
            ("etcd://[a]:1/x", "endpoints such as"),
            ("etcd://[::1]1/x", "endpoints such as"),
            ("etcd://a b/x", "endpoints such as"),
            (&*many, "at most 16"),
            ("etcd://root:secret@a/x", "without user and password"),
        ] {
            let error = CoordinatorUrl::parse(url).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput, "{url}");
            assert!(error.to_string().contains(expected), "{url}: {error}");
            assert!(error.advice().is_some(), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn times_that_do_not_fit_together_are_refused_before_anything_is_asked() {
        let open = |url: &str, ttl| {
            let ttl = Duration::from_secs(ttl);
            open(url, CoordinatorOptions { ttl, ..Default::default() }, Os::shared())
        };
        for url in ["file:///tmp/none", "etcd://127.0.0.1:1/x"] {
            let error = open(url, 7).unwrap_err();
            assert!(error.to_string().contains("renew + 2 * request"), "{error}");
        }
        assert_eq!(open("file:///tmp/none", 8).unwrap().ttl(), Duration::from_secs(8));
        open("manual", 0).unwrap();
        #[cfg(feature = "client")]
        assert!(open("etcds://[::1]:1/x", 10).unwrap().place().contains("https://[::1]:1"));
        #[cfg(not(feature = "client"))]
        assert!(open("etcd://a/x", 10).unwrap_err().to_string().contains("--features client"));
    }
}
