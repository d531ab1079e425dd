//! HTTP as the wire to a node: pulling from a leader, or from a follower that serves.
//!
//! Called through [`Remote`], which decides what to ask and checks what comes; speaks through the
//! [`Client`]. Invariants:
//! - memory is bounded: a body is read up to its limit, packed or not;
//! - no more is taken per second than allowed.

mod client;
mod throttle;

pub use client::{Client, Credentials, Reply};
pub(crate) use client::{Unanswered, answered};

use std::io::Read;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::error::{Error, Kind, Result};
use crate::position::LogByte;
use crate::table::{RunId, SnapshotName};

use super::SnapshotOffer;
use super::remote::{Range, Remote, Wire};
use throttle::Throttle;

/// A node may write a checkpoint before it says which snapshots it has.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(60);
/// A body of so many bytes comes in memory that is used again.
const LARGE_BYTES: usize = 256 << 10;
/// No manifest is larger.
const MAX_MANIFEST_BYTES: usize = 4 << 20;

/// Pulls from a node that serves over HTTP.
///
/// ```no_run
/// use tidelog::{Follower, Log, ship};
/// # fn main() -> tidelog::Result<()> {
/// let source = ship::Http::open("http://127.0.0.1:7400", ship::Credentials::default())?;
/// let mut follower = Follower::open(Log::options(), "copy", source)?;
/// follower.catch_up()?;
/// # follower.close()
/// # }
/// ```
pub type Http = Remote<HttpWire>;

/// Requests and answers over HTTP.
#[derive(Debug)]
pub struct HttpWire {
    client: Client,
    packed: bool,
    throttle: Throttle,
    /// What a block came in before: memory that was used is faster.
    spare: Vec<u8>,
}

impl Http {
    /// The node at `url`, such as `http://127.0.0.1:7400`. Nothing is asked yet.
    pub fn open(url: &str, credentials: Credentials) -> Result<Self> {
        let client = Client::new(url, credentials)?;
        Ok(Remote::over(HttpWire {
            // On one machine bytes are cheaper than the work of packing them.
            packed: !client.is_loopback(),
            client,
            throttle: Throttle::default(),
            spare: Vec::new(),
        }))
    }

    /// Takes at most so many bytes per second. Default: no limit.
    #[must_use]
    pub fn limit_bytes_per_s(mut self, limit: Option<u64>) -> Self {
        self.wire.throttle.limit(limit);
        self
    }

    /// Waits no longer once `stop` says so, and breaks off the answer that it is reading, with an
    /// error that may pass: with a small limit that answer takes long. It is asked every 50 ms while
    /// something is waited for.
    #[must_use]
    pub fn stop_when(mut self, stop: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.wire.throttle.stop_when(stop);
        self
    }

    /// An answer begins after this long at most, beyond what the node was asked to wait; and none stands still for
    /// longer before it is whole. Default: 20 s.
    #[must_use]
    pub fn silence(mut self, silence: Duration) -> Self {
        self.wire.client = self.wire.client.silence(silence);
        self
    }

    /// Whether frames are compressed on their way. Default: unless the node is on this machine.
    #[must_use]
    pub fn packed(mut self, packed: bool) -> Self {
        self.wire.packed = packed;
        self
    }
}

impl HttpWire {
    /// Snapshots that a node has.
    fn ask_snapshots(&mut self, path: &str) -> Result<Vec<SnapshotOffer>> {
        #[derive(Deserialize)]
        struct Listed {
            name: String,
            log: String,
            log_byte: u64,
            bytes: u64,
        }
        #[derive(Deserialize)]
        struct Page {
            snapshots: Vec<Listed>,
        }
        let reply = self.client.get(path, &[], SNAPSHOT_WAIT)?;
        if reply.status == 404 {
            // A node of a version that lends none.
            return Ok(Vec::new());
        }
        let page: Page = reply.ok()?.json()?;
        let read = |listed: Listed| {
            Some(SnapshotOffer {
                name: listed.name.parse().ok()?,
                log: listed.log.parse().ok()?,
                log_byte: LogByte(listed.log_byte),
                bytes: listed.bytes,
                link: 0,
            })
        };
        page.snapshots.into_iter().map(read).collect::<Option<Vec<_>>>().ok_or_else(|| {
            Error::new(
                Kind::Io,
                format!("expected snapshots from {}, found something else", self.client.url()),
            )
        })
    }

    /// A body, unpacked, at most `limit` bytes of it; never faster than allowed.
    fn body(&mut self, reply: Reply, packed: bool, limit: usize) -> Result<Vec<u8>> {
        let place = self.client.url().to_owned();
        let step = self.throttle.step();
        let paced = Paced { reader: reply.reader(), throttle: &mut self.throttle, step };
        let broke = |e: std::io::Error| client::cut(&place, &e);
        let mut bytes = Vec::new();
        let read = match packed {
            false => paced.take(limit as u64 + 1).read_to_end(&mut bytes),
            true => {
                let mut decoder = zstd::stream::read::Decoder::new(paced).map_err(broke)?;
                decoder.window_log_max(23).map_err(broke)?;
                decoder.take(limit as u64 + 1).read_to_end(&mut bytes)
            }
        };
        read.map_err(broke)?;
        match bytes.len() > limit {
            true => Err(too_many(&place, limit)),
            false => Ok(bytes),
        }
    }

    /// A body of about `limit` bytes that came as it is, in memory that was used before.
    fn whole_body(&mut self, reply: Reply, limit: usize) -> Result<Vec<u8>> {
        let place = self.client.url().to_owned();
        let mut bytes = match limit < LARGE_BYTES {
            true => Vec::new(),
            false => std::mem::take(&mut self.spare),
        };
        if bytes.len() < limit {
            bytes.resize(limit, 0);
        }
        let step = self.throttle.step();
        let mut paced = Paced { reader: reply.reader(), throttle: &mut self.throttle, step };
        let mut len = 0;
        loop {
            // To the end, also behind the last byte expected: only then is the connection used again.
            let mut beyond = [0];
            let read = match len < limit {
                true => paced.read(&mut bytes[len..limit]),
                false => paced.read(&mut beyond),
            };
            match read {
                Ok(0) => break,
                Ok(_) if len == limit => return Err(too_many(&place, limit)),
                Ok(read) => len += read,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(client::cut(&place, &e)),
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Bytes of a file that is served by ranges.
    fn range_of(&mut self, path: &str, byte: u64, bytes: u64) -> Result<Option<Range>> {
        let reply = match self.packed {
            true => {
                let path = format!("{path}?from={byte}&bytes={bytes}&packed=zstd");
                self.client.get(&path, &[], Duration::ZERO)?
            }
            false => {
                let range = format!("bytes={byte}-{}", byte.saturating_add(bytes) - 1);
                self.client.get(path, &[("range", &range)], Duration::ZERO)?
            }
        };
        if reply.status == 416 {
            return Ok(None);
        }
        let reply = reply.ok()?;
        let number = |name: &str| reply.header(name).and_then(|text| text.parse::<u64>().ok());
        let crc =
            reply.header("x-tidelog-crc32c").and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let (Some(crc), Some(total)) = (crc, number("x-tidelog-file-bytes")) else {
            return Err(Error::new(
                Kind::Io,
                format!("expected {bytes} bytes from byte {byte}, found an answer without checksum and length"),
            )
            .in_file(std::path::Path::new(&format!("{}{path}", self.client.url())))
            .help("it is asked for again; if this stays, look at what is between the two nodes"));
        };
        let sealed = reply.header("x-tidelog-sealed") == Some("true");
        let expected = bytes.min(total.saturating_sub(byte));
        let limit = usize::try_from(expected).unwrap_or(usize::MAX);
        let bytes = match self.packed {
            true => self.body(reply, true, limit)?,
            false => self.whole_body(reply, limit)?,
        };
        Ok(Some(Range { bytes, crc, total, sealed }))
    }
}

impl Wire for HttpWire {
    fn place(&self) -> &str {
        self.client.url()
    }

    fn fetch(
        &mut self,
        request: &[u8],
        wait: Duration,
        limit: usize,
    ) -> Result<(Vec<u8>, Instant)> {
        let mut headers = vec![("content-type", "application/json")];
        if self.packed {
            headers.push(("accept-encoding", "zstd"));
        }
        let reply = self.client.post("/v1/fetch", &headers, request, wait)?;
        let answered = Instant::now();
        // A peer that speaks a later version may be replaced by one that does not.
        let reply = reply.ok().map_err(|e| match e.kind() {
            Kind::NewerVersion => e.with_kind(Kind::Io),
            _ => e,
        })?;
        let packed = reply.header("content-encoding") == Some("zstd");
        Ok((self.body(reply, packed, limit)?, answered))
    }

    fn range(&mut self, segment: LogByte, byte: u64, bytes: u64) -> Result<Option<Range>> {
        self.range_of(&format!("/v1/segments/{segment}"), byte, bytes)
    }

    fn list(&mut self, from: LogByte) -> Result<(Vec<u64>, bool)> {
        #[derive(Deserialize)]
        struct Listed {
            log_byte: u64,
        }
        #[derive(Deserialize)]
        struct Page {
            segments: Vec<Listed>,
            more: bool,
        }
        let path = format!("/v1/segments?from={from}&limit=10000");
        let page: Page = self.client.get(&path, &[], Duration::ZERO)?.ok()?.json()?;
        Ok((page.segments.iter().map(|listed| listed.log_byte).collect(), page.more))
    }

    fn snapshots(&mut self) -> Result<Vec<SnapshotOffer>> {
        self.ask_snapshots("/v1/snapshots?fresh=true")
    }

    fn snapshots_within(&mut self, bytes: u64) -> Result<Vec<SnapshotOffer>> {
        self.ask_snapshots(&format!("/v1/snapshots?fresh=true&within={bytes}"))
    }

    fn manifest(&mut self, snapshot: SnapshotName) -> Result<Vec<u8>> {
        let path = format!("/v1/snapshots/{snapshot}");
        self.client.get(&path, &[], Duration::ZERO)?.ok()?.bytes(MAX_MANIFEST_BYTES)
    }

    fn run(
        &mut self,
        snapshot: SnapshotName,
        run: RunId,
        byte: u64,
        bytes: u64,
    ) -> Result<Option<Range>> {
        self.range_of(&format!("/v1/snapshots/{snapshot}/{run}"), byte, bytes)
    }

    fn done_with(&mut self, bytes: Vec<u8>) {
        if bytes.len() >= LARGE_BYTES {
            self.spare = bytes;
        }
    }

    fn block(&self, least: u64, most: u64) -> u64 {
        self.throttle.block(least, most)
    }

    fn wait(&self, time: Duration) {
        self.throttle.wait(time);
    }
}

fn too_many(place: &str, limit: usize) -> Error {
    Error::new(Kind::Io, format!("expected at most {limit} bytes from {place}, found more"))
}

/// A reader that waits until what it has read is paid for.
struct Paced<'a, R> {
    reader: R,
    throttle: &'a mut Throttle,
    step: usize,
}

impl<R: Read> Read for Paced<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let take = buf.len().min(self.step);
        let read = self.reader.read(&mut buf[..take])?;
        self.throttle.take(read)?;
        Ok(read)
    }
}
