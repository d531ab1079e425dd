//! Requests to a node: where it is, who asks, what comes back, and every limit on that.
//!
//! Called by the HTTP source and by the command line. No redirect is followed, no proxy is asked,
//! nothing is read beyond what the caller allows, and nothing takes for ever.

use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::http::{HeaderMap, Uri};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use crate::error::{Error, Kind, Result};

/// Connecting takes at most this long.
const CONNECT: Duration = Duration::from_secs(5);
/// Between two reads, and beyond what a request asks to wait, at most this long.
const SILENCE: Duration = Duration::from_secs(20);
/// Answers in JSON that are not records are at most this large.
pub(super) const MAX_JSON_BYTES: u64 = 16 << 20;

/// What proves who asks, and who answers.
#[derive(Clone, Default)]
pub struct Credentials {
    token: Option<String>,
    roots: Option<Vec<Certificate<'static>>>,
    identity: Option<ClientCert>,
}

impl Credentials {
    /// Sends this bearer token.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Trusts the certificates in this PEM text instead of those that the public web trusts.
    pub fn roots(mut self, pem: &[u8]) -> Result<Self> {
        let mut roots = Vec::new();
        for item in parse_pem(pem) {
            if let PemItem::Certificate(certificate) = item.map_err(|e| bad_pem(&e))? {
                roots.push(certificate);
            }
        }
        if roots.is_empty() {
            return Err(Error::new(Kind::InvalidInput, "expected certificates in PEM, found none"));
        }
        self.roots = Some(roots);
        Ok(self)
    }

    /// Shows this certificate, with its key, to a node that asks for one.
    pub fn identity(mut self, certificates: &[u8], key: &[u8]) -> Result<Self> {
        let mut chain = Vec::new();
        for item in parse_pem(certificates) {
            if let PemItem::Certificate(certificate) = item.map_err(|e| bad_pem(&e))? {
                chain.push(certificate);
            }
        }
        if chain.is_empty() {
            return Err(Error::new(
                Kind::InvalidInput,
                "expected a certificate in PEM, found none",
            ));
        }
        let key = PrivateKey::from_pem(key).map_err(|e| bad_pem(&e))?;
        self.identity = Some(ClientCert::new_with_certs(&chain, key));
        Ok(self)
    }
}

impl Credentials {
    /// Whether there is anything in them that a stranger must not get.
    pub(crate) fn are_secret(&self) -> bool {
        self.token.is_some() || self.identity.is_some()
    }
}

impl fmt::Debug for Credentials {
    /// Secrets stay out of every log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("identity", &self.identity.is_some())
            .finish_non_exhaustive()
    }
}

fn bad_pem(error: &ureq::Error) -> Error {
    Error::new(Kind::InvalidInput, format!("expected PEM: {error}"))
}

/// Asks one node.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    base: String,
    credentials: Credentials,
    /// How long an answer may take, beyond what the other side was asked to wait.
    silence: Duration,
}

impl Client {
    /// The node at `url`: `http://host:port` or `https://host:port`, nothing behind it.
    pub fn new(url: &str, credentials: Credentials) -> Result<Self> {
        Client::build(url, credentials, None)
    }

    /// The same, for requests that are given up as a whole after `limit`, whatever was under way.
    pub fn within(url: &str, credentials: Credentials, limit: Duration) -> Result<Self> {
        Client::build(url, credentials, Some(limit))
    }

    fn build(url: &str, credentials: Credentials, limit: Option<Duration>) -> Result<Self> {
        let base = url.trim_end_matches('/').to_owned();
        let wrong = || {
            Error::new(
                Kind::InvalidInput,
                format!("expected a node's address such as http://127.0.0.1:7400, found {url}"),
            )
        };
        let uri: Uri = base.parse().map_err(|_| wrong())?;
        let plain = uri.path_and_query().is_none_or(|path| path.as_str() == "/");
        let user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if !matches!(uri.scheme_str(), Some("http" | "https")) || !plain || user {
            return Err(wrong());
        }
        let mut tls = TlsConfig::builder();
        if let Some(roots) = &credentials.roots {
            tls = tls.root_certs(RootCerts::new_with_certs(roots));
        }
        if credentials.identity.is_some() {
            tls = tls.client_cert(credentials.identity.clone());
        }
        let agent = Agent::config_builder()
            .tls_config(tls.build())
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_global(limit)
            .timeout_connect(Some(CONNECT))
            // Who waits for a name with a limit has a thread look it up, for each request anew; a
            // number is its own answer.
            .timeout_resolve(number(&uri).is_none().then_some(CONNECT))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            .max_response_header_size(64 << 10)
            .max_idle_age(Duration::from_secs(30))
            .user_agent(concat!("tidelog/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Client { agent, base, credentials, silence: SILENCE })
    }

    /// Answers begin after this long at most, beyond what the other side was asked to wait; and none stands still for
    /// longer before it is whole. Default: 20 s.
    #[must_use]
    pub fn silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    /// Where the node is.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Whether it is on this machine.
    pub fn is_loopback(&self) -> bool {
        let Ok(uri) = self.base.parse::<Uri>() else { return false };
        uri.host() == Some("localhost") || number(&uri).is_some_and(|ip| ip.is_loopback())
    }

    /// Asks for `path`, which begins with a slash and holds its query; `wait` is what the other
    /// side was asked to wait.
    pub fn get(&self, path: &str, headers: &[(&str, &str)], wait: Duration) -> Result<Reply> {
        self.ask(path, headers, None, wait).map_err(|unanswered| unanswered.why)
    }

    /// Sends `body` to `path`.
    pub fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        wait: Duration,
    ) -> Result<Reply> {
        self.ask(path, headers, Some(body), wait).map_err(|unanswered| unanswered.why)
    }

    /// Asks for `path`, or sends `body` to it; without an answer it is told whether the request may have
    /// arrived.
    pub(crate) fn ask(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
        wait: Duration,
    ) -> Result<Reply, Unanswered> {
        let place = format!("{}{path}", self.base);
        let token = self.credentials.token.as_ref().map(|token| format!("Bearer {token}"));
        let token = token.as_deref().map(|token| ("authorization", token));
        let headers = headers.iter().copied().chain(token);
        let patience = Some(wait + self.silence);
        let reply = match body {
            None => {
                let request = headers.fold(self.agent.get(&place), |request, (name, value)| {
                    request.header(name, value)
                });
                request
                    .config()
                    .timeout_recv_response(patience)
                    .timeout_per_read(patience)
                    .build()
                    .call()
            }
            Some(body) => {
                let request = headers.fold(self.agent.post(&place), |request, (name, value)| {
                    request.header(name, value)
                });
                request
                    .config()
                    .timeout_recv_response(patience)
                    .timeout_per_read(patience)
                    .build()
                    .send(body)
            }
        };
        let reply = reply.map_err(|e| Unanswered {
            arrived: may_have_arrived(&e),
            why: unreachable(&self.base, &e),
        })?;
        let (parts, body) = reply.into_parts();
        Ok(Reply { place, status: parts.status.as_u16(), headers: parts.headers, body })
    }
}

/// A request without an answer.
#[derive(Debug)]
pub(crate) struct Unanswered {
    /// Whether the node may have got it, and done what it asks for.
    pub(crate) arrived: bool,
    pub(crate) why: Error,
}

/// Whether a request may have arrived that failed so: certain is it only of one that found no connection.
fn may_have_arrived(error: &ureq::Error) -> bool {
    use std::io::ErrorKind::*;
    match error {
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Tls(_)
        | ureq::Error::BadUri(_)
        | ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => false,
        ureq::Error::Io(e) => {
            !matches!(e.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
        }
        _ => true,
    }
}

/// The address that a host stands for by itself, without anybody being asked.
fn number(uri: &Uri) -> Option<IpAddr> {
    uri.host()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    place: String,
    /// The status code.
    pub status: u16,
    headers: HeaderMap,
    body: Body,
}

impl Reply {
    /// The address that was asked.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// A header, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The reply itself when the status says that all went well; otherwise the error in it.
    pub fn ok(self) -> Result<Self> {
        if (200..300).contains(&self.status) { Ok(self) } else { Err(self.error()) }
    }

    /// The error that a node answers with.
    pub fn error(self) -> Error {
        let (status, place) = (self.status, self.place.clone());
        let location = self.header("location").map(str::to_owned);
        let body = self.bytes(64 << 10).unwrap_or_default();
        answered(&place, status, location.as_deref(), &body)
    }

    /// The body, which is at most `limit` bytes.
    pub fn bytes(self, limit: usize) -> Result<Vec<u8>> {
        let place = self.place.clone();
        let mut bytes = Vec::new();
        let read = self.reader().take(limit as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|e| cut(&place, &e))?;
        if bytes.len() > limit {
            return Err(Error::new(
                Kind::Io,
                format!("expected at most {limit} bytes from {place}, found more"),
            ));
        }
        Ok(bytes)
    }

    /// The body as it comes.
    pub fn reader(self) -> impl Read + Send {
        self.body.into_with_config().limit(u64::MAX).reader()
    }

    /// The body as JSON.
    pub fn json<T: DeserializeOwned>(self) -> Result<T> {
        let place = self.place.clone();
        let bytes = self.bytes(usize::try_from(MAX_JSON_BYTES).unwrap_or(usize::MAX))?;
        serde_json::from_slice(&bytes).map_err(|e| {
            Error::new(Kind::Io, format!("expected JSON from {place}, found something else: {e}"))
                .help("is that a tidelog node?")
        })
    }
}

/// The error that an answer stands for.
pub(crate) fn answered(place: &str, status: u16, location: Option<&str>, body: &[u8]) -> Error {
    #[derive(serde::Deserialize)]
    struct Wrapped {
        error: Said,
    }
    #[derive(serde::Deserialize)]
    struct Said {
        kind: String,
        message: String,
        #[serde(default)]
        help: Option<String>,
    }
    let said: Option<Wrapped> = serde_json::from_slice(body).ok();
    let kind = said.as_ref().and_then(|said| Kind::from_word(&said.error.kind));
    let kind = match (status, kind) {
        // What another machine's disk or files are like is no word about this one's.
        (500.., None | Some(Kind::DiskFull | Kind::ReadOnly | Kind::Corrupt)) => Kind::Io,
        (_, Some(kind)) => kind,
        (300..400 | 421, None) => Kind::NotLeader,
        (404, None) => Kind::NotFound,
        (409, None) => Kind::NotInHistory,
        (400..500, None) if status != 429 && status != 408 => Kind::InvalidInput,
        _ => Kind::Io,
    };
    let text = match &said {
        Some(said) => format!("{place} answered {status}: {}", said.error.message),
        None => format!("{place} answered {status}"),
    };
    let help = said
        .and_then(|said| said.error.help)
        .or_else(|| location.map(|leader| format!("the leader is at {leader}")));
    let error = Error::new(kind, text);
    help.map_or_else(|| error.clone(), |help| error.clone().help(help))
}

fn unreachable(base: &str, error: &ureq::Error) -> Error {
    Error::new(Kind::Io, format!("cannot reach {base}: {error}"))
        .help("is `tidelog serve` running there, and is the address right?")
}

/// A body that broke off.
pub(super) fn cut(place: &str, error: &std::io::Error) -> Error {
    Error::new(Kind::Io, format!("the reply of {place} broke off: {error}"))
        .in_file(Path::new(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A follower asked its leader by number, and each fetch started a thread that looked the number
    /// up.
    #[test]
    fn a_request_that_found_no_connection_has_not_arrived() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let client = Client::new(&format!("http://{closed}"), Credentials::default()).unwrap();
        let refused = client.ask("/v1/records", &[], Some(b"x"), Duration::ZERO).unwrap_err();
        assert!(!refused.arrived, "{}", refused.why);
        let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = deaf.local_addr().unwrap();
        let hangs_up = std::thread::spawn(move || drop(deaf.accept()));
        let client = Client::new(&format!("http://{at}"), Credentials::default()).unwrap();
        let broke = client.ask("/v1/records", &[], Some(b"x"), Duration::ZERO).unwrap_err();
        assert!(broke.arrived, "{}", broke.why);
        hangs_up.join().unwrap();
    }

    #[test]
    fn only_names_are_looked_up_with_a_limit_which_takes_a_thread() {
        let limit = |url: &str| {
            let client = Client::new(url, Credentials::default()).unwrap();
            client.agent.config().timeouts().resolve
        };
        assert_eq!(limit("http://127.0.0.1:7400"), None);
        assert_eq!(limit("https://[::1]:7400"), None);
        assert_eq!(limit("http://leader.example:7400"), Some(CONNECT));
    }
}
