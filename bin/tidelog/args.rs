//! Arguments that several verbs share.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PathBufValueParser, TypedValueParser};
use tidelog::Identity;

/// The directory that a verb works on.
#[derive(Args, Clone, Debug)]
pub(crate) struct LogDir {
    /// The log's directory
    #[arg(value_name = "DIR", value_parser = directory())]
    pub(crate) dir: PathBuf,
}

/// A directory on this machine; a URL is refused in words.
pub(crate) fn directory() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(local)
}

/// The same, of one that was named.
pub(crate) fn local(path: impl Into<PathBuf>) -> Result<PathBuf, String> {
    let path = path.into();
    let text = path.to_string_lossy();
    match text.split_once("://") {
        None => Ok(path),
        Some(("file", rest)) if rest.starts_with('/') => Ok(PathBuf::from(rest)),
        Some(_) => Err(format!("expected a directory, found {text}: this works on directories")),
    }
}

/// What a directory that was copied or moved is now.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct NodeArgs {
    /// The directory was copied here: it is a new node
    #[arg(long, conflicts_with = "same_node")]
    new_node: bool,
    /// The directory was moved here: it is the same node
    #[arg(long)]
    same_node: bool,
}

impl NodeArgs {
    pub(crate) fn is_given(self) -> bool {
        self.new_node || self.same_node
    }

    pub(crate) fn identity(self) -> Identity {
        match (self.new_node, self.same_node) {
            (true, _) => Identity::NewNode,
            (_, true) => Identity::SameNode,
            _ => Identity::Expect,
        }
    }
}

/// Of verbs that do what they say and can be undone or asked first: `--dry-run`.
// Those that destroy, `repair`, `retain`, `archive prune`, `promote` and `diverged replay`, ask the other way round: they
// change nothing without `--yes`. That is taken here, too, so that a script need not know which is which.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Trial {
    /// Print what would be done, and change nothing
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,
    /// It is done without, too
    #[arg(long, hide = true)]
    yes: bool,
}
