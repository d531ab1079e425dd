//! An archive in an object store: S3 and what speaks like it, Google Cloud Storage, Azure.
//!
//! The one place that knows of tokio: a runtime of one thread, owned by the store and driven by
//! whoever calls. So a call from inside another runtime must come from a blocking thread of it.
//! What a request did when no answer came is unknown, and said so; whoever asked reads it back.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode,
    PutPayload, RetryConfig,
};
use tokio::runtime::{Builder, Runtime};

use crate::error::{Error, Kind, Result};
use crate::mutant::{self, Mutant};

use super::name::{ObjectName, Prefix};
use super::store::{Create, ReadPart, Store};

/// Above this an object is sent in parts.
const WHOLE_BYTES: usize = 96 << 20;
/// Small requests at a time: their answers are long in coming, and no work.
const WIDTH: usize = 16;
/// Bytes of a part.
const PART_BYTES: usize = 16 << 20;

/// An object store as an archive's store.
#[derive(Debug)]
pub struct RemoteStore {
    store: Arc<dyn ObjectStore>,
    /// Before each name; empty, or without a slash at its end.
    prefix: String,
    place: String,
    runtime: Runtime,
}

impl RemoteStore {
    /// The store at `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.
    ///
    /// `settings` are named as the environment variables of the provider's own tools
    /// (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `GOOGLE_SERVICE_ACCOUNT`,
    /// `AZURE_STORAGE_ACCOUNT_NAME`, …); those of no meaning are passed over.
    pub fn open(url: &str, settings: &[(String, String)]) -> Result<Self> {
        let bad = |what: &str| {
            Error::new(Kind::InvalidInput, format!("expected {what}, found {url}"))
                .help("name it as s3://bucket/prefix, gs://bucket/prefix or az://container/prefix")
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("a URL"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let plain = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.=+~".contains(&b))
        };
        if !plain(bucket) || !prefix.is_empty() && !prefix.split('/').all(plain) {
            return Err(bad("a bucket, and a prefix of plain names"));
        }
        let store = connect(scheme, bucket, settings).map_err(|e| {
            Error::new(Kind::InvalidInput, format!("cannot use {url}: {e}"))
                .help("look at the provider's variables in the environment")
        })?;
        let store = store.ok_or_else(|| bad("one of the schemes s3, gs, az"))?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime
            .map_err(|e| Error::new(Kind::Io, format!("cannot start the store's runtime: {e}")))?;
        Ok(RemoteStore { store, prefix: prefix.to_owned(), place: url.to_owned(), runtime })
    }

    fn path(&self, name: impl std::fmt::Display) -> Path {
        match self.prefix.is_empty() {
            true => Path::from(name.to_string()),
            false => Path::from(format!("{}/{name}", self.prefix)),
        }
    }

    fn failed(&self, what: &str, name: &dyn std::fmt::Display, e: object_store::Error) -> Error {
        use object_store::Error as E;
        let kind = match &e {
            E::NotFound { .. } => Kind::NotFound,
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Kind::ReadOnly,
            _ => Kind::Io,
        };
        let mut text = e.to_string();
        // What the store answered, without the pages of markup around it.
        if let Some((at, _)) = text.char_indices().nth(500) {
            text.truncate(at);
        }
        Error::new(kind, format!("cannot {what}: {text}"))
            .in_file(std::path::Path::new(&format!("{}/{name}", self.place)))
    }

    async fn send_in_parts(&self, path: &Path, bytes: &[u8]) -> object_store::Result<()> {
        let mut upload = self.store.put_multipart(path).await?;
        for part in bytes.chunks(PART_BYTES) {
            if let Err(e) = upload.put_part(PutPayload::from(part.to_vec())).await {
                let _ = upload.abort().await;
                return Err(e);
            }
        }
        upload.complete().await.map(drop)
    }
}

/// `None` for a scheme that is none of these.
fn connect(
    scheme: &str,
    bucket: &str,
    settings: &[(String, String)],
) -> object_store::Result<Option<Arc<dyn ObjectStore>>> {
    // The client takes the process's TLS provider. One that is installed stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let of = |prefix: &'static str| {
        let mine = settings.iter().filter(move |(key, _)| key.starts_with(prefix));
        mine.map(|(key, value)| (key.to_ascii_lowercase(), value.clone()))
    };
    // An endpoint without TLS is one that somebody wrote down as such.
    let plain = settings
        .iter()
        .any(|(key, value)| key.starts_with("AWS_ENDPOINT_URL") && value.starts_with("http://"));
    let client = ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(5))
        .with_timeout(Duration::from_secs(120))
        .with_allow_http(plain);
    // Short: whoever asked knows better what to try again, and what to look at first.
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(2),
        base: 2.,
    };
    let retry = RetryConfig { backoff, max_retries: 3, retry_timeout: Duration::from_secs(60) };
    Ok(Some(match scheme {
        "s3" => {
            let mut builder = AmazonS3Builder::new();
            for (key, value) in of("AWS_") {
                if let Ok(key) = key.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            let builder = builder.with_bucket_name(bucket).with_client_options(client);
            Arc::new(builder.with_retry(retry).build()?)
        }
        "gs" => {
            let mut builder = GoogleCloudStorageBuilder::new();
            for (key, value) in of("GOOGLE_") {
                if let Ok(key) = key.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            let builder = builder.with_bucket_name(bucket).with_client_options(client);
            Arc::new(builder.with_retry(retry).build()?)
        }
        "az" => {
            let mut builder = MicrosoftAzureBuilder::new();
            for (key, value) in of("AZURE_") {
                if let Ok(key) = key.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            let builder = builder.with_container_name(bucket).with_client_options(client);
            Arc::new(builder.with_retry(retry).build()?)
        }
        _ => return Ok(None),
    }))
}

impl Store for RemoteStore {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn get_range(&self, name: &ObjectName, from: u64, len: usize) -> Result<Option<Vec<u8>>> {
        let path = self.path(name);
        let range = GetRange::Bounded(from..from.saturating_add(len as u64));
        let options = GetOptions { range: Some(range), ..GetOptions::default() };
        let read = self.runtime.block_on(async {
            let result = match self.store.get_opts(&path, options).await {
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                other => other?,
            };
            result.bytes().await.map(Some)
        });
        match read {
            // A server may send more than it was asked for.
            Ok(bytes) => Ok(bytes.map(|bytes| bytes[..bytes.len().min(len)].to_vec())),
            Err(e) => {
                // A range behind the end is an error there, and nothing here.
                let there = self.runtime.block_on(self.store.head(&path));
                match there {
                    Ok(meta) if meta.size <= from => Ok(Some(Vec::new())),
                    Err(object_store::Error::NotFound { .. }) => Ok(None),
                    _ => Err(self.failed("read", name, e)),
                }
            }
        }
    }

    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        let path = self.path(name);
        let put = self.runtime.block_on(async {
            match bytes.len() > WHOLE_BYTES {
                true => self.send_in_parts(&path, bytes).await,
                false => {
                    let payload = PutPayload::from(bytes.to_vec());
                    self.store.put(&path, payload).await.map(drop)
                }
            }
        });
        put.map_err(|e| self.failed("write", name, e))
    }

    fn put_from(&self, name: &ObjectName, len: u64, read: &mut ReadPart<'_>) -> Result<()> {
        if let Some(whole) = usize::try_from(len).ok().filter(|len| *len <= PART_BYTES) {
            let mut bytes = vec![0; whole];
            read(0, &mut bytes)?;
            return self.put(name, &bytes);
        }
        let path = self.path(name);
        let failed = |e| self.failed("write", name, e);
        let mut upload = self.runtime.block_on(self.store.put_multipart(&path)).map_err(failed)?;
        // Stores allow some 10,000 parts.
        let part = (PART_BYTES as u64).max(len.div_ceil(9000));
        let part = usize::try_from(part).unwrap_or(PART_BYTES);
        let mut at = 0;
        while at < len {
            let want = usize::try_from(len - at).map_or(part, |left| left.min(part));
            let mut bytes = vec![0; want];
            let sent = read(at, &mut bytes).and_then(|()| {
                let put = upload.put_part(PutPayload::from(bytes));
                self.runtime.block_on(put).map_err(failed)
            });
            if let Err(error) = sent {
                let _ = self.runtime.block_on(upload.abort());
                return Err(error);
            }
            at += want as u64;
        }
        self.runtime.block_on(upload.complete()).map(drop).map_err(failed)
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Create {
        let payload = PutPayload::from(bytes.to_vec());
        let path = self.path(name);
        let mode = match mutant::on(Mutant::CreateOverwrites) {
            true => PutMode::Overwrite,
            false => PutMode::Create,
        };
        let put = self.store.put_opts(&path, payload, mode.into());
        match self.runtime.block_on(put) {
            Ok(_) => Create::Created,
            Err(object_store::Error::AlreadyExists { .. }) => Create::Exists,
            Err(e) => Create::Unknown(self.failed("create", name, e)),
        }
    }

    fn list(&self, prefix: Prefix) -> Result<Vec<(ObjectName, u64)>> {
        let path = self.path(prefix);
        let listed = self.runtime.block_on(self.store.list_with_delimiter(Some(&path)));
        let listed = listed.map_err(|e| self.failed("list", &prefix, e))?;
        let before = match self.prefix.is_empty() {
            true => String::new(),
            false => format!("{}/", self.prefix),
        };
        let named = |object: &object_store::ObjectMeta| {
            let name = object.location.as_ref().strip_prefix(&before)?;
            let name = ObjectName::parse(name).filter(|name| prefix.holds(name))?;
            Some((name, object.size))
        };
        Ok(listed.objects.iter().filter_map(named).collect())
    }

    fn width(&self) -> usize {
        WIDTH
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        match self.runtime.block_on(self.store.delete(&self.path(name))) {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            other => other.map_err(|e| self.failed("delete", name, e)),
        }
    }
}
