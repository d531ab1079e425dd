//! What the oracle knows of an archive: its own walk of the sequence, from the first entry on.
//!
//! Asked after every push. What it has walked it does not walk again, as long as nothing of that has changed; what
//! it comes to is what a walk from the newest rollup comes to, and each rollup is held against that. While an entry
//! is under way to the store each call there counts, for it arrives by their number: then everything is walked.

use tidelog::Result;
use tidelog::ship::archive::fake::Fake;
use tidelog::ship::archive::{State, advance, load};

/// The archive, as far as it was walked.
#[derive(Debug, Default)]
pub struct Walk {
    state: State,
    /// What there was to be walked had been changed so often.
    rewritten: u64,
}

impl Walk {
    /// The archive as it is now. What is wrong with it, in words.
    pub fn go_on(&mut self, fake: &Fake) -> Result<&State, String> {
        let walked = |e: tidelog::Error| format!("the archive cannot be walked: {e}");
        let (quiet, rewritten) = fake.is_quiet();
        let rollup = self.state.rollup;
        let same = quiet && rewritten == self.rewritten;
        if !same || !advance(&fake.client(), &mut self.state).map_err(walked)? {
            self.state = load(&fake.client()).map_err(walked)?;
            self.rewritten = rewritten;
        } else if self.state.rollup != rollup {
            // Who comes now begins there.
            let anew = load(&fake.client()).map_err(walked)?;
            if anew != self.state {
                return Err(format!(
                    "the archive's rollup {} comes to another state than the entries before it",
                    self.state.rollup
                ));
            }
        }
        Ok(&self.state)
    }
}

/// The archive's entries have their numbers without a gap.
pub fn check_names(fake: &Fake) -> Result<(), String> {
    match fake.sequence() {
        (_, true) => Ok(()),
        (last, false) => Err(format!("the archive's entries up to {last} are not all there")),
    }
}
