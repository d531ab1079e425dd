//! What cargo-fuzz does to manifests (feature `fuzz`): any bytes, also behind a checksum that holds.

use super::manifest::Manifest;
use crate::log::files::CHECKPOINT;

/// Any bytes as a manifest of this kind: what decodes encodes to the same again.
fn manifest(data: &[u8], name: &'static str) {
    // A checksum keeps random bytes out; adding one lets the fuzzer behind it.
    let mut fixed = data.to_vec();
    fixed.extend_from_slice(format!("crc {:08x}\n", crate::crc::crc32c(data)).as_bytes());
    for bytes in [data, &fixed] {
        if let Ok(manifest) = Manifest::parse(bytes, name) {
            let again = Manifest::parse(&manifest.meta(name).encode(), name);
            assert_eq!(again.expect("what was written is read"), manifest);
        }
    }
}

/// Any bytes as a checkpoint's manifest.
pub(crate) fn checkpoint_manifest(data: &[u8]) {
    manifest(data, CHECKPOINT);
}

/// Any bytes as a snapshot's manifest.
pub(crate) fn snapshot_manifest(data: &[u8]) {
    manifest(data, super::snapshot::SNAPSHOT);
}
