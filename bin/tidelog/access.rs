//! How the command line reaches a node: certificates, and the token of who asks.

use std::path::{Path, PathBuf};

use clap::Args;
use tidelog::ship::{Client, Credentials};

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

/// A node that runs, and who asks it.
#[derive(Args)]
pub(crate) struct NodeTarget {
    /// The node's address
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) access: NodeAccess,
    #[command(flatten)]
    pub(crate) token: TokenArgs,
}

impl NodeTarget {
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        self.access.client(&self.url, &self.token)
    }
}

impl NodeAccess {
    pub(crate) fn credentials(&self, token_file: Option<&Path>) -> Result<Credentials, Failure> {
        let credentials = self.certificates()?;
        Ok(match token(token_file)? {
            Some(token) => credentials.token(token),
            None => credentials,
        })
    }

    /// The same without a token.
    pub(crate) fn certificates(&self) -> Result<Credentials, Failure> {
        let mut credentials = Credentials::default();
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
