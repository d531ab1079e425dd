//! The bytes that carry no meaning: damage to these alone may go unreported.
//!
//! The list is short on purpose. Every record must be right all the same, and each reason is
//! counted under its own name.

use std::path::Path;

use super::damage::Damage;
use super::fixture::{Fixture, is_segment};

/// Why damage that nobody reported took nothing away.
pub fn reason(fixture: &Fixture, damage: &Damage) -> Option<&'static str> {
    let file = damage.file();
    let name = file.file_name()?.to_str()?;
    match damage {
        // `LOCK` is empty, and made again where it is missing.
        _ if name == "LOCK" && !matches!(damage, Damage::Swap { .. }) => Some("lock_is_empty"),
        // A file under a name that the format does not know is not looked at.
        Damage::Copy { to, .. } if !is_segment(to) => Some("unknown_name"),
        // Behind the checksum of a small file there is white space only: other white space says
        // the same, and so does less of it.
        Damage::Flip { bit, .. } if behind_checksum(fixture, file, bit / 8) => {
            Some("white_space_behind_checksum")
        }
        Damage::Truncate { len, .. } if behind_checksum(fixture, file, *len) => {
            Some("white_space_behind_checksum")
        }
        // `STATE` is a hint, may be torn by every power cut, and says nothing while it is missing.
        Damage::Remove { .. } | Damage::Rename { .. } if name == "STATE" => Some("hint_missing"),
        Damage::Truncate { len: 0, .. } if name == "STATE" => Some("hint_missing"),
        Damage::Swap { a, b } if a.ends_with("LOCK") && b.ends_with("STATE") => {
            Some("hint_missing")
        }
        // A hint of another log names an epoch that this log's history has not: it is ignored.
        Damage::Foreign { .. } if name == "STATE" => Some("hint_of_another_log"),
        // Nobody need ever have claimed anything: followers that fetch claim anew.
        Damage::Remove { .. } | Damage::Rename { .. } if name == "SLOTS" => Some("slots_missing"),
        // These files hold together with their own checksum, and nothing in them names the log.
        Damage::Foreign { .. } if ["NODE", "EPOCHS", "PROMISE"].contains(&name) => {
            Some("small_file_of_another_log")
        }
        // What lies behind the end was never acknowledged, and is reported as a torn tail with and
        // without this damage.
        Damage::Flip { .. } | Damage::Zero { .. } | Damage::Truncate { .. }
            if in_torn_tail(fixture, damage) =>
        {
            Some("never_acknowledged")
        }
        // An active segment ends in zeros, or nowhere: its length says nothing.
        Damage::Truncate { len, .. } => fixture
            .segments
            .iter()
            .any(|segment| segment.path == file && !segment.sealed && *len >= segment.end)
            .then_some("zeros_ahead"),
        _ => None,
    }
}

fn in_torn_tail(fixture: &Fixture, damage: &Damage) -> bool {
    let touched = damage.touches(damage.file());
    fixture.segments.iter().any(|segment| {
        segment.path == damage.file()
            && !segment.sealed
            && touched.start >= segment.end
            && fixture.torn
    })
}

fn behind_checksum(fixture: &Fixture, file: &Path, byte: u64) -> bool {
    if is_segment(file) {
        return false;
    }
    let bytes = fixture.disk.read(file);
    let end = bytes.iter().rposition(|b| !b.is_ascii_whitespace()).map_or(0, |last| last + 1);
    byte >= end as u64
}
