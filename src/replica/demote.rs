//! A leader's directory becomes a follower's.

use std::path::Path;

use crate::error::Result;
use crate::fs::Fs;
use crate::log::files::{Control, Layout};
use crate::log::open::take_lock;

/// Makes the directory that of a follower of `place`; nothing if it is one. What it holds stays as it is.
pub fn demote(fs: &dyn Fs, dir: &Path, place: &str) -> Result<()> {
    let layout = Layout::new(dir);
    let _lock = take_lock(fs, &layout)?;
    let mut control = Control::need(fs, &layout)?;
    if control.follows.is_none() {
        control.follows = Some(place.to_owned());
        control.clean = None;
        control.write(fs, &layout)?;
    }
    Ok(())
}
