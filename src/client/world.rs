//! What a client has of the world: nodes that answer, a clock, sleep, randomness.
//!
//! [`Http`] is the real one; a script stands in for it in tests. Answers are bounded, and told apart from
//! requests that certainly did not arrive.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::fs::{Fs, Os};
use crate::ship::{Client, Credentials, Unanswered};

/// Beyond what a node was asked to wait, it answers within this.
const SILENCE: Duration = Duration::from_secs(2);
/// An answer is at most this large.
const MOST_ANSWER_BYTES: usize = 64 << 20;
/// Who is asked to stop hears it after this long at most.
const LOOK: Duration = Duration::from_millis(50);

/// A request; with a body it is a POST.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) path: &'a str,
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: Option<&'a [u8]>,
    /// What the node is asked to wait.
    pub(super) wait: Duration,
}

impl<'a> Question<'a> {
    pub(super) fn get(path: &'a str, wait: Duration) -> Self {
        Question { path, headers: &[], body: None, wait }
    }
}

/// What came back, whole.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    /// The address that was asked.
    pub(super) place: String,
    pub(super) status: u16,
    pub(super) location: Option<String>,
    /// What a read shows.
    pub(super) token: Option<String>,
    pub(super) body: Vec<u8>,
}

pub(super) trait World: fmt::Debug + Send {
    fn ask(&mut self, url: &str, question: &Question<'_>) -> Result<Answer, Unanswered>;

    /// Time since some moment.
    fn now(&self) -> Duration;

    fn rest(&mut self, time: Duration);

    /// Whether it is to be given up.
    fn stops(&self) -> bool;

    /// Random bytes.
    fn draw(&mut self) -> Result<[u8; 16]>;
}

/// HTTP.
pub(super) struct Http {
    credentials: Credentials,
    clients: BTreeMap<String, Client>,
    started: Instant,
    stop: Option<Box<dyn Fn() -> bool + Send>>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

impl Http {
    pub(super) fn new(
        credentials: Credentials,
        stop: Option<Box<dyn Fn() -> bool + Send>>,
    ) -> Self {
        Http { credentials, clients: BTreeMap::new(), started: Instant::now(), stop }
    }

    fn client(&mut self, url: &str) -> Result<&Client> {
        if !self.clients.contains_key(url) {
            let client = Client::new(url, self.credentials.clone())?.silence(SILENCE);
            self.clients.insert(url.to_owned(), client);
        }
        Ok(&self.clients[url])
    }
}

impl World for Http {
    fn ask(&mut self, url: &str, question: &Question<'_>) -> Result<Answer, Unanswered> {
        let Question { path, headers, body, wait } = *question;
        let client = self.client(url).map_err(|why| Unanswered { arrived: false, why })?;
        let reply = client.ask(path, headers, body, wait)?;
        let header = |name: &str| reply.header(name).map(str::to_owned);
        let (location, token) = (header("location"), header("x-tidelog-token"));
        let (place, status) = (reply.place().to_owned(), reply.status);
        let body = reply.bytes(MOST_ANSWER_BYTES);
        let body = body.map_err(|why| Unanswered { arrived: true, why })?;
        Ok(Answer { place, status, location, token, body })
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn rest(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while !self.stops() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    fn stops(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop())
    }

    fn draw(&mut self) -> Result<[u8; 16]> {
        let mut bytes = [0; 16];
        Os.random(&mut bytes)
            .map_err(|e| Error::new(Kind::Io, format!("cannot draw a random number: {e}")))?;
        Ok(bytes)
    }
}
