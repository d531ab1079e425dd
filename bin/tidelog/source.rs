//! Where a follower pulls from, by how the place is written: a directory, or a node's address.
//! Beside it, how the command line proves to a node who asks.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::TypedValueParser;
use tidelog::ship::{Client, Credentials, Directory, Http, Source};

use crate::args::directory;
use crate::exit::Failure;

/// How to reach a node.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct NodeAccess {
    /// Certificates (PEM) that vouch for an https node, instead of the public ones
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A certificate (PEM) to show to a node that asks for one
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// The key of that certificate
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
}

/// The token of who asks.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct TokenArgs {
    /// A file with the token to show to the node; TIDELOG_TOKEN holds one, too
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// How to pull from a source.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SourceArgs {
    #[command(flatten)]
    pub(crate) access: NodeAccess,
    /// Pull at most so many bytes per second, such as 1MiB
    #[arg(long, value_name = "BYTES", value_parser = tidelog::text::parse_bytes)]
    limit_bytes_per_s: Option<u64>,
}

/// Whether a place is a node's address.
pub(crate) fn is_url(place: &str) -> bool {
    place.starts_with("http://") || place.starts_with("https://")
}

/// Opens a source. `name` is what it calls the follower, `address` where that serves others.
pub(crate) fn open(
    from: &str,
    args: &SourceArgs,
    token_file: Option<&Path>,
    name: &str,
    address: Option<String>,
) -> Result<Box<dyn Source>, Failure> {
    if is_url(from) {
        let source = Http::open(from, args.access.credentials(token_file)?)?
            .name(name)
            .address(address)
            .limit_bytes_per_s(args.limit_bytes_per_s);
        return Ok(Box::new(source));
    }
    let parser = directory();
    let command = clap::Command::new("tidelog");
    let path = parser.parse_ref(&command, None, std::ffi::OsStr::new(from)).map_err(|_| {
        Failure::usage(format!(
            "expected a directory, http://host:port or https://host:port, found {from}"
        ))
    })?;
    Ok(Box::new(Directory::open(path)?))
}

/// What a node is called: as asked, or by its directory.
pub(crate) fn name(asked: Option<&str>, dir: &Path) -> String {
    let named = || dir.file_name().map(|name| name.to_string_lossy().into_owned());
    asked.map(str::to_owned).or_else(named).unwrap_or_else(|| "tidelog".to_owned())
}

impl NodeAccess {
    pub(crate) fn credentials(&self, token_file: Option<&Path>) -> Result<Credentials, Failure> {
        let mut credentials = Credentials::default();
        if let Some(token) = token(token_file)? {
            credentials = credentials.token(token);
        }
        if let Some(ca) = &self.ca {
            credentials = credentials.roots(&read(ca)?)?;
        }
        if let (Some(certificate), Some(key)) = (&self.client_cert, &self.client_key) {
            credentials = credentials.identity(&read(certificate)?, &read(key)?)?;
        }
        Ok(credentials)
    }

    /// A client of the node at `url`.
    pub(crate) fn client(&self, url: &str, token: &TokenArgs) -> Result<Client, Failure> {
        Ok(Client::new(url, self.credentials(token.token_file.as_deref())?)?)
    }
}

/// The last word of the file's first line that is no comment: a token file of a node will do.
fn token(file: Option<&Path>) -> Result<Option<String>, Failure> {
    let Some(path) = file else { return Ok(std::env::var("TIDELOG_TOKEN").ok()) };
    let text = read(path)?;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let token = lines.find_map(|line| line.split_whitespace().last().map(str::to_owned));
    let nothing = || Failure::usage(format!("expected a token in {}", path.display()));
    token.map(Some).ok_or_else(nothing)
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|e| Failure::io(&format!("read {}", path.display()), &e))
}
