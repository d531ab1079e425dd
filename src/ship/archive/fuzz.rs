//! Entry points for fuzzing: any bytes as entries, chains of entries, rollups and names.

#[cfg(feature = "fuzz")]
use std::path::Path;

use super::entry::{EntryHead, HEAD_BYTES};
#[cfg(feature = "fuzz")]
use super::name::ObjectName;
use super::rollup;
use super::state::State;

/// Any bytes as an entry, as a rollup, and as a chain of entries whose links and checksums are
/// mended, so that what lies behind them is reached. Whatever the chain comes to holds together.
pub(crate) fn archive_entry(data: &[u8]) {
    let _ = EntryHead::decode(data);
    if let Ok(state) = rollup::decode(data) {
        assert_eq!(rollup::encode(&state), data);
    }
    let mut state = State::default();
    for chunk in data.chunks(HEAD_BYTES) {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..chunk.len()].copy_from_slice(chunk);
        bytes[..8].copy_from_slice(b"TIDENTRY");
        bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
        bytes[32..40].copy_from_slice(&(state.n + 1).to_le_bytes());
        bytes[40..48].copy_from_slice(&state.rollup.to_le_bytes());
        bytes[48..80].copy_from_slice(&state.hash.0);
        if state.n > 0 {
            bytes[16..32].copy_from_slice(&state.log.0);
            if bytes[12] != 1 {
                bytes[80..88].copy_from_slice(&state.epoch.number.to_le_bytes());
                bytes[88..96].copy_from_slice(&state.epoch.nonce.to_le_bytes());
                bytes[96..112].copy_from_slice(&state.node.0);
            }
        }
        let crc = crate::crc::crc32c(&bytes[..HEAD_BYTES - 4]);
        bytes[HEAD_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        let Ok(head) = EntryHead::decode(&bytes) else { continue };
        assert_eq!(head.encode(), bytes, "a head has one way to be written");
        assert_eq!(head.tombstone().hash(), head.hash());
        let before = state.clone();
        if state.apply(&head).is_err() {
            state = before;
            continue;
        }
        let back = rollup::decode(&rollup::encode(&state)).expect("what a walk comes to");
        assert_eq!((back.end, &back.pieces), (state.end, &state.pieces));
    }
}

/// Any text as an object's name: what is read is what would be written, below the archive.
#[cfg(feature = "fuzz")]
pub(crate) fn object_names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(name) = ObjectName::parse(text) else { return };
    assert_eq!(name.to_string(), text);
    let path = name.path(Path::new("/archive"));
    let below = path.strip_prefix("/archive").expect("below the archive");
    assert!(below.components().all(|part| matches!(part, std::path::Component::Normal(_))));
}
