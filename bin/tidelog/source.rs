//! Where a log is pulled from, and where an archive lies: the one choice by URL scheme.
//!
//! A path, or `file://` with one, is a log's directory if there is a log in it, otherwise an
//! archive. Endpoints and credentials of object stores come from the environment, as their
//! providers' own tools read them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidelog::ship::archive::{Archive, Store, open_store};
use tidelog::ship::{Directory, Source};

/// Where a log comes from, as the user named it.
#[derive(Clone, Debug)]
pub(crate) enum SourceArg {
    /// A log's directory, or an archive in one.
    Local(PathBuf),
    /// An archive in an object store.
    Remote(String),
}

impl SourceArg {
    /// Reads it; refuses schemes that nobody knows.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            None if text.is_empty() => Err("expected a directory or a URL, found nothing".into()),
            None => Ok(SourceArg::Local(PathBuf::from(text))),
            Some(("file", path)) if path.starts_with('/') => Ok(SourceArg::Local(path.into())),
            Some(("s3" | "gs" | "az", _)) => Ok(SourceArg::Remote(text.to_owned())),
            Some(_) => Err(format!(
                "expected a directory, file:///path, s3://bucket/prefix, gs://… or az://…, found {text}"
            )),
        }
    }

    /// Opens it.
    pub(crate) fn open(&self) -> tidelog::Result<Box<dyn Source>> {
        match self {
            SourceArg::Local(path) if is_archive(path) => {
                Ok(Box::new(Archive::open(self.store()?)?))
            }
            SourceArg::Local(path) => Ok(Box::new(Directory::open(path)?)),
            SourceArg::Remote(_) => Ok(Box::new(Archive::open(self.store()?)?)),
        }
    }

    /// The store of an archive that is there, or is to be.
    pub(crate) fn store(&self) -> tidelog::Result<Arc<dyn Store>> {
        match self {
            SourceArg::Local(path) => {
                let path = std::path::absolute(path)
                    .map_err(|e| tidelog::Error::io("resolve", path, e))?;
                open_store(&format!("file://{}", path.display()), &[])
            }
            SourceArg::Remote(url) => open_store(url, &settings()),
        }
    }
}

impl std::fmt::Display for SourceArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SourceArg::Local(path) => path.display().fmt(f),
            SourceArg::Remote(url) => f.write_str(url),
        }
    }
}

fn is_archive(path: &Path) -> bool {
    !path.join("LOG").exists() && path.join("log").is_dir()
}

/// What the environment says of object stores.
fn settings() -> Vec<(String, String)> {
    let text = |s: std::ffi::OsString| s.into_string().ok();
    let known = |key: &str| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|p| key.starts_with(p));
    std::env::vars_os()
        .filter_map(|(key, value)| Some((text(key)?, text(value)?)))
        .filter(|(key, _)| known(key))
        .collect()
}
