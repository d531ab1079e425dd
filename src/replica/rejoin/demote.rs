//! Demotion: a leader's directory becomes a follower's.
//!
//! Called by whoever gives up leading, with the log closed: an operator's `--rejoin`, and failover. One
//! replacement of CONTROL does it, so a crash leaves a leader's directory or a follower's, and doing it
//! again changes nothing. What the leader had is not touched: the follower that opens the directory
//! settles it, and cuts what its source does not have (`rejoin`).
//!
//! The clean mark stays, as evidence of what is durable, until something changes that. PROMISE stays, too:
//! a node that led an epoch follows only a later one. So do SLOTS and cursors: they say what others need.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::log::files::{Control, Layout, LogFile};
use crate::log::open;

/// Makes the log in `dir` follow `place`, whoever it followed, or that it led, before; whether it led. The
/// directory's lock is taken meanwhile: [`Kind::Locked`] when somebody has it open for writing.
pub fn demote(fs: &Arc<dyn Fs>, dir: &Path, place: &str) -> Result<bool> {
    if place.is_empty() {
        return Err(Error::new(Kind::InvalidInput, "expected a place to follow, found nothing"));
    }
    let layout = Layout::new(dir);
    let log = LogFile::read(&**fs, &layout)?;
    let _lock = open::take_lock(&**fs, &layout)?;
    let mut control = Control::need(&**fs, &layout)?;
    if !control.belongs_to(log.id) {
        return Err(Error::new(
            Kind::WrongLog,
            format!("expected the CONTROL file of log {}, found another log's", log.id),
        )
        .in_file(&layout.control())
        .help("run `tidelog repair` first"));
    }
    turn(&**fs, &layout, &mut control, place)
}

/// The same for who holds the lock.
pub(in crate::replica) fn turn(
    fs: &dyn Fs,
    layout: &Layout,
    control: &mut Control,
    place: &str,
) -> Result<bool> {
    let led = control.follows.is_none();
    // As it will read back.
    let place = place.replace('\n', "?");
    if control.follows.as_ref() == Some(&place) {
        return Ok(false);
    }
    let mut changed = Control { follows: Some(place), ..control.clone() };
    changed.write(fs, layout)?;
    *control = changed;
    Ok(led)
}
